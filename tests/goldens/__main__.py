"""Write the golden files anew: ``python -m tests.goldens [signatures] [verbs] [kinds]``."""

import sys

from tests.goldens.compare import DATA


def main(names: list[str]) -> None:
    """Write the named goldens, or all but the folders."""
    from tests.goldens import folders, kinds, signatures, verbs

    texts = {
        "signatures": signatures.text,
        "verbs": verbs.text,
        "kinds": lambda: kinds.text(kinds.made()),
    }
    DATA.mkdir(exist_ok=True)
    for name in names or texts:
        if name == "folders":
            folders.write()
        else:
            (DATA / f"{name}.txt").write_text(texts[name](), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])

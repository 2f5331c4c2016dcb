"""What a verb asks of its figure: each option that only the figure knows, given another value than its default, reaches it."""

from pathlib import Path
from typing import Any

import pytest

from patchclamp.cli.app import main
from patchclamp.core.result import Result

PROMPT, OTHER = "the big dog", "the big cat"
PAIR = ("--answer", " cat", "--answer", " dog")
VERBS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "attribute": ((PROMPT, OTHER, *PAIR, "--site", "mlp_out", "--check", "0", "--layers", "down"), {"layers": "down"}),
    "heads": (("--length", "6", "--samples", "1", "--draws", "2", "--layers", "down"), {"layers": "down"}),
    "lens": ((PROMPT, "--metric", "kl", "--layers", "down"), {"metric": "kl", "layers": "down"}),
    "patch": ((PROMPT, OTHER, *PAIR, "--site", "mlp_out", "--at", "last", "--layers", "down"), {"layers": "down"}),
    "patchscope": ((PROMPT, "--site", "resid_post.1", "--metric", "kl", "--layers", "down"), {"metric": "kl", "layers": "down"}),
    "path": ((PROMPT, OTHER, *PAIR, "--sender", "mlp_out.0", "--layers", "down"), {"layers": "down"}),
    "sweep": ((PROMPT, "--op", "zero", "--site", "mlp_out", "--read", "kl", "--layers", "down"), {"layers": "down"}),
    "trace": ((PROMPT, "--subject", "big", "--samples", "1", "--layers", "down"), {"layers": "down"}),
}  # fmt: skip


@pytest.mark.assets
@pytest.mark.parametrize("verb", VERBS)
def test_options_of_the_figure_reach_it(
    verb: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, wanted = VERBS[verb]
    drawn: list[dict[str, Any]] = []

    def save(_: Result, path: Path, **figure: Any) -> Path:
        path.mkdir(parents=True)
        drawn.append(figure)
        return path

    monkeypatch.setattr(Result, "save", save)
    main([verb, folder, *arguments, "--dtype", "float32", "--out", str(tmp_path / "out")])
    assert drawn == [wanted]

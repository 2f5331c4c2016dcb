"""Every verb of the command line: its help, an ordinary call as text and as JSON, and a call that is refused."""

import io
import json
import os
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

import patchclamp as pc
import patchclamp.model
import patchclamp.repeating
from patchclamp.cli.app import app, main
from patchclamp.metrics import classifiers
from tests.cli.conftest import Opened
from tests.goldens import compare, models
from tests.pictures import draw_nothing

SPAIN, ITALY = "'The capital of Spain is'", "'The capital of Italy is'"
ANSWERS = "--answer ' Madrid' --answer ' Rome'"
TEXTS = "--negative boys.txt --positive girls.txt"
QUICK = "--subject Spain --target ' Rome' --covariance identity --prefixes 0 --steps 1 --layer 1"
TUNED = "--corpus corpus.txt --length 8 --batch 16 --tokens 96"

ORDINARY = {
    "sites": "MODEL",
    "top": f"MODEL {SPAIN} -k 3",
    "run": f"MODEL {SPAIN} --op add --token ' Rome' --scale 5 --site mlp_out --at -1 --out made/run",
    "sweep": f"MODEL {SPAIN} --op add --token ' Rome' --site mlp_out --at each {ANSWERS} --read probability --read kl --over scale=1,2.5",
    "patch": f"MODEL {SPAIN} {ITALY} {ANSWERS} --site 'z.*.h*' --at last",
    "path": f"MODEL {SPAIN} {ITALY} {ANSWERS} --sender mlp_out --receiver q.2 --freeze attention",
    "lens": f"MODEL {SPAIN} -k 2 --at last",
    "curves": "MODEL corpus.txt --tokens 64 --length 16",
    "patchscope": f"MODEL {SPAIN} --target 'The king sees a dog' --at 0:2 --into resid_post.0 -n 2",
    "weights": "MODEL --matrix ov.1.h3 --matrix mlp_out.2 --directions 2 -k 3 --draws 2",
    "tune-lens": f"MODEL {TUNED} --out made/lens",
    "trace": f"MODEL {SPAIN} --subject Spain --answer ' Madrid' --samples 2 --site mlp_out --window 2",
    "attribute": f"MODEL {SPAIN} {ITALY} {ANSWERS} --site mlp_out --check 3",
    "heads": "MODEL --length 5 --samples 2 --draws 3 -k 3",
    "generate": f"MODEL {SPAIN} --op add --token ' dog' --scale 40 --site resid_post.2 --at all -n 3",
    "repeat": "made/run",
    "assets list": "",
    "assets verify": "",
    "dictionary toy": "zipf --features 6 --width 4 --active 1.5 --out made/toy",
    "dictionary train": "made/toy --fit pca --width 3 --steps 4 --batch 20 --out made/dictionary",
    "dictionary eval": "made/dictionary made/toy --batch 20 --batches 2",
    "direction fit": f"MODEL {TEXTS} --site resid_post.1 --method leace --option shrinkage=0.1 --out made/fitted",
    "direction apply": f"made/fitted {SPAIN} --edit add --scale 5 -20 -k 2",
    "direction eval": f"made/fitted {TEXTS}",
    "direction export": "made/fitted made/vector.gguf --gguf --edit add --scale 2",
    "steer": f"{SPAIN} --direction made/fitted --scale 60 -60 -n 3",
    "edit fact": f"MODEL {SPAIN} {QUICK} --try {ITALY}",
    "polytope segment": "net.py:make '[-1, 0.5]' '[1.5, -1]'",
    "polytope codes": "net.py:make rows.npy --labels labels.txt --neighbours 2",
    "polytope cluster": "net.py:make rows.npy --layer 1 --labels labels.txt --k 2 --pca 2 --algorithm ward",
    "polytope plane": "net.py:make --box 2",
    "polytope scale": "net.py:make rows.npy --site 1:out --factor 0.5 2 --labels labels.txt",
}
"""What people do with each verb."""

REFUSED = {
    "sites": "MODEL --dtype float23",
    "top": "smolm2-135m x",
    "run": "MODEL dog --op zero --site mlpout",
    "sweep": f"MODEL dog --op zero --site mlp_out --over scale {ANSWERS}",
    "patch": "MODEL dog dog --answer ' a'",
    "path": f"MODEL {SPAIN} {ITALY} {ANSWERS} --sender mlp_out.2 --receiver q.0",
    "lens": "MODEL dog --metric ranks",
    "curves": "MODEL gutenburg --length 32",
    "patchscope": "MODEL dog --target 'cat cat' --into-at token:cat",
    "weights": "MODEL --matrix mlp_in.1",
    "tune-lens": "MODEL --corpus gutenburg --out made/none",
    "trace": "MODEL dog",
    "attribute": "MODEL dog 'dog sees' --answer ' a' --answer ' dog'",
    "heads": "MODEL --length 5 --samples 2 --draws 3 --score copyin",
    "generate": "MODEL dog --op zero --site z.9",
    "repeat": "nowhere",
    "assets fetch": "mnits",
    "assets where": "mnist",
    "dictionary toy": "zipf --features 6 --width 4 --active 9 --out made/none",
    "dictionary train": "made/toy --fit pca --width 3 --encoder relu --out made/none",
    "dictionary eval": "made/dictionary made/toy --encoder omp",
    "direction fit": f"MODEL {TEXTS} --site resid_post.1 --method meen --out made/none",
    "direction apply": "made/fitted dog --edit erase --scale 2",
    "direction eval": "nowhere --negative boys.txt --positive girls.txt",
    "direction export": "made/fitted x --edit add",
    "steer": "dog --direction made/fitted --edit clamp",
    "edit fact": "MODEL dog --subject cat --target ' Rome' --covariance identity",
    "polytope segment": "mnist-mlq '[0, 0]' '[1, 1]'",
    "polytope codes": "net.py:made rows.npy",
    "polytope cluster": "net.py:make rows.npy --layer 1",
    "polytope plane": "net.py:make --box 1 2",
    "polytope scale": "net.py:make nothing.npy --site 1:out",
    "study dropout": "--model MODEL --out made/none",
}
"""What each verb refuses."""

FITTED = ("tune-lens", "direction eval", "edit fact")
"""Verbs that train: the digits of what they find hang on libraries, so only the words are kept."""


def text() -> str:
    """The golden file."""
    with prepared():
        parts = {f"{verb} --help": called(verb, "--help") for verb in verbs()}
        for verb, arguments in ORDINARY.items():
            for more in ("", " --json"):
                parts[f"{verb} {arguments}{more}"] = called(verb, arguments + more, numbers=verb not in FITTED)
        parts |= {f"{verb} {arguments}": called(verb, arguments) for verb, arguments in REFUSED.items()}
    return compare.joined(parts)


def verbs() -> list[str]:
    """Every verb, those of a group behind its name."""
    names = []
    for name in _commands(app):
        inner = _commands(app[name])
        names += [name, *(f"{name} {one}" for one in inner)]
    return names


def called(verb: str, arguments: str, *, numbers: bool = True) -> str:
    """Exit code and output of a call, in the folder that :func:`prepared` made."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([*verb.split(), *shlex.split(arguments)])
    said = out.getvalue() if code == 0 else out.getvalue() + err.getvalue()
    said = _json(said) if arguments.endswith("--json") else _bare(said)
    said = said.replace(str(Path.cwd()), "HERE")
    return f"exit code {code}\n{said if numbers else _wordless(said)}"


@contextmanager
def prepared() -> Iterator[None]:
    """A folder with everything that the calls name, as the place where they run; models are opened once, and nothing is drawn."""
    before = Path.cwd()
    with TemporaryDirectory() as root, pytest.MonkeyPatch.context() as patch:
        folder, opened = Path(root), Opened(pc.load)
        opened.folders.add("MODEL")
        for module in (pc, patchclamp.model, patchclamp.repeating):
            patch.setattr(module, "load", opened)
        draw_nothing(patch)
        for name in classifiers.ITERATIONS:  # probes trained for a few steps only
            patch.setitem(classifiers.ITERATIONS, name, 5)
        patch.setenv("COLUMNS", "400")  # nothing is broken into lines
        patch.setenv("PATCHCLAMP_CACHE", str(folder / "cache"))
        os.chdir(folder)
        try:
            _write_files()
            yield
        finally:
            os.chdir(before)


def _write_files() -> None:
    import numpy as np

    models.save_llama(Path("MODEL"))
    Path("net.py").write_text(models.NETWORK)
    np.save(
        "rows.npy", np.array([[(3 * i * i + i) % 7 / 2 - 1.25, (5 * i + 2) % 9 / 4 - 1] for i in range(10)], np.float32)
    )
    Path("labels.txt").write_text("\n".join("0112010212") + "\n")
    sights = ("a dog", "the cat", "a city", "the king")
    boys = [f"The boy {verb} {sight}" for verb in ("sees", "says") for sight in sights]
    Path("boys.txt").write_text("\n".join(boys))
    Path("girls.txt").write_text("\n".join(boys).replace("boy", "girl"))
    Path("corpus.txt").write_text(" and ".join([*boys, "The capital of Spain is Madrid"]) * 2)


def _commands(home: Any) -> list[str]:
    return [name for name in home if not name.startswith("-")] if hasattr(home, "__iter__") else []


def _bare(said: str) -> str:
    """Words without the frames and the columns that they stand in."""
    return "\n".join(re.sub(r"(?<=\S) {3,}", "  ", line.strip("│╭╮╰╯─ ")) for line in said.splitlines())


def _json(said: str) -> str:
    """JSON with six digits a number, an innermost object or list on a line."""
    whole = json.dumps(_rounded(json.loads(said)), indent=1, ensure_ascii=False)
    return re.sub(r"([\[{])\s+([^][{}]*?)\s+([\]}])", lambda m: m[1] + " ".join(m[2].split()) + m[3], whole)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: "measured" if name == "seconds" else _rounded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _wordless(said: str) -> str:
    """A text without its fractions."""
    return re.sub(r"[-+]?\d+\.\d+(e[-+]?\d+)?", "#", said)

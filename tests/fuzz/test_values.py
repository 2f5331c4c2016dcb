"""Any value of any parameter of any public function is refused by name, or gives a result that can be right."""

import inspect
import os
import secrets
import types
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

import patchclamp as pc
from tests.effort import FULL
from tests.fuzz.table import table
from tests.fuzz.values import CLASSES
from tests.fuzz.verdict import judged
from tests.pictures import draw_nothing

SEED = os.environ.get("PATCHCLAMP_FUZZ_SEED") or (secrets.token_hex(4) if FULL else "0")
DRAWS = int(os.environ.get("PATCHCLAMP_FUZZ_DRAWS", "1"))
"""Of each class in the full form."""
FEW = 4
"""Classes that the short form draws for one parameter of each function."""
FINDINGS = ("raw", "broken", "endless")
"""What must not happen: an error of Python's or of another library, silent NaN, work without end."""
PLAIN_FORMULAS = ("metrics.ratio", "metrics.confusion", "polytopes.swish", "polytopes.beta_code")
"""Functions of numbers, which give NaN for NaN."""
SLOW = (
    "Model.evaluate_direction",
    "Model.tune_lens",
    "Model.head_scores",
    "Model.layer_effects",
    "Model.affine_map",
    "load",
    "Model.export",
    "export",
)
"""Functions that the short form leaves out: an ordinary call takes long."""
MADE_BY_FUNCTIONS = {
    "Agreement", "AffineMap", "Asset", "FirstNames", "Labelled", "Review", "Speech", "WinoBiasSentence", "WinogenderSentence", "CodeDirection",
    "ActivationBatch", "ActivationStream", "Codes", "Covariance", "Dictionary", "DictionaryFit", "Direction", "Edit", "Encoder", "RowScaling", "ToyData", "Gate", "Pieces", "Plan", "Read", "TunedLens", "Model", "Activation", "Function",
}  # fmt: skip
"""Classes whose objects users get from functions, or that are bases."""
WITHOUT_A_MODEL = {
    "cache_root", "capitals", "fashion_mnist", "first_names", "gendered_words", "gutenberg", "imdb", "is_fetched", "mnist", "models", "probing_set",
    "probing_sets", "state_of_the_union", "winobias", "winogender",
}  # fmt: skip
"""Data sets of the catalogue, which take no parameter or a name, and are fetched whole."""


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a path that is no path names is written elsewhere, without pictures."""
    monkeypatch.chdir(tmp_path)
    draw_nothing(monkeypatch)


def public() -> Iterator[str]:
    """Every public function and class that a user calls, and every method of a model."""
    for name in pc.__all__:
        found = getattr(pc, name)
        if isinstance(found, types.ModuleType):
            for inner in getattr(found, "__all__", ()):
                if (
                    callable(getattr(found, inner))
                    and not _is_result(getattr(found, inner))
                    and inner not in MADE_BY_FUNCTIONS | WITHOUT_A_MODEL
                ):
                    yield f"{name}.{inner}"
        elif callable(found) and not _is_result(found) and (name not in MADE_BY_FUNCTIONS or name in table()):
            yield name
    yield from (
        f"Model.{name}" for name, _ in inspect.getmembers(pc.Model, inspect.isfunction) if not name.startswith("_")
    )


def _is_result(found: object) -> bool:
    return inspect.isclass(found) and issubclass(found, pc.Result | Exception)


def test_every_public_function_has_an_ordinary_call() -> None:
    missing = set(public()) - set(table())
    assert not missing, "each needs a line in a table of tests/fuzz"


def test_every_parameter_has_a_second_value() -> None:
    """The parameters are those of the signature, so a new one needs a value, too."""
    for name, line in table().items():
        without = set(line.parameters) - set(line.given) - set(line.other) - set(line.inert)
        assert not without, f"{name}: {sorted(without)}"


LINES = sorted(table())
SHORT = [name for name in LINES if name not in SLOW][::4]


@pytest.mark.parametrize("name", LINES if FULL else SHORT)
def test_any_value_is_refused_by_name_or_gives_a_result(name: str, tmp_path: Path) -> None:
    line, wrong = table()[name], []
    usual = line(tmp_path)
    classes = list(CLASSES)
    few = Random(f"{SEED} {name}").sample(line.parameters, min(1, len(line.parameters)))
    for parameter in line.parameters if FULL else few:
        rng = Random(f"{SEED} {name} {parameter}")
        for kind in classes if FULL else rng.sample(classes, FEW):
            for _ in range(DRAWS if FULL else 1):
                value = CLASSES[kind](rng, line.given.get(parameter, line.other.get(parameter)))
                verdict, said = judged(line, parameter, value, tmp_path, usual, name)
                if verdict in FINDINGS and not (verdict == "broken" and name in PLAIN_FORMULAS):
                    wrong.append(
                        f"{verdict}: {name}({parameter}={type(value).__name__} {str(value)[:60]!r}) of class {kind!r}: {said}"
                    )
    assert not wrong, f"PATCHCLAMP_FUZZ_SEED={SEED}\n" + "\n".join(wrong[:20])


def test_the_full_form_makes_thousands_of_calls() -> None:
    assert sum(len(line.parameters) for line in table().values()) * len(CLASSES) >= 3000

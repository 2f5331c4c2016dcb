"""Folders of earlier versions open, hold their numbers, and can be made again."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import patchclamp as pc
from tests.core.test_result import ARRAYS
from tests.goldens import compare, folders, kinds, models, objects

pytestmark = [
    pytest.mark.filterwarnings("ignore::patchclamp.core.errors.PatchclampWarning"),
]
NEWER = ("agreement", "evaluation", "frontier", "recovery", "superposition")
"""Kinds that came after the folders were packed."""
_TEXTS = compare.sections((compare.DATA / "kinds.txt").read_text(encoding="utf-8"))
KINDS = {kind: text for kind, text in _TEXTS.items() if kind not in NEWER}
EVERY = [
    pytest.param(version, kind, marks=[] if version == "0.1.0" else [pytest.mark.slow])
    for version in folders.PACKED
    for kind in KINDS
]
"""In the short form the oldest format alone: that of the present one is repeated by ``tests/core/test_result.py``."""


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("folders")
    for version, packed in folders.PACKED.items():
        assert folders.unpack(packed, root / version) == {*KINDS, objects.HOME}
    return {version: root / version for version in folders.PACKED}


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_holds_what_was_saved(unpacked: dict[str, Path], kind: str) -> None:
    """A folder of the version that has the goldens of kinds; that of 0.1.0 was made with fewer settings."""
    assert not compare.differences(KINDS[kind], kinds.described(pc.open(unpacked["0.2"] / kind)))


@pytest.mark.parametrize(("version", "kind"), EVERY)
def test_a_folder_is_made_again_with_the_same_numbers(unpacked: dict[str, Path], version: str, kind: str) -> None:
    folder = unpacked[version] / kind
    saved = pc.open(folder)
    assert type(saved).kind == kind
    if kind in ARRAYS:
        with pytest.raises(pc.InputError, match="made of arrays"):
            pc.repeat(folder)
        return
    again = pc.repeat(folder, kinds.model_of(kind))
    assert not differing(saved, again)
    assert list(again.frame().columns) == list(saved.frame().columns)


@pytest.mark.parametrize("version", folders.PACKED)
@pytest.mark.parametrize("name", objects.OPENERS)
def test_edits_directions_and_covariances_do_what_they_did(unpacked: dict[str, Path], name: str, version: str) -> None:
    model = models.llama()
    kept = objects.OPENERS[name](unpacked[version] / objects.HOME / name)
    numbers = [objects.numbers(model, name, value) for value in (kept, objects.made(model)[name])]
    assert np.allclose(*numbers, rtol=compare.RELATIVE, atol=1e-7)


def differing(saved: pc.Result, again: pc.Result) -> list[str]:
    """What two results do not have in common, beyond the last digits of their numbers."""
    before, after = saved._dataset(), again._dataset()
    found = list(before.variables.keys() ^ after.variables.keys())
    found += [name for name in before.variables.keys() & after.variables.keys() if not _near(before[name], after[name])]
    for name in before.attrs.keys() | after.attrs.keys():
        found += [name] * (not compare.same(repr(before.attrs.get(name)), repr(after.attrs.get(name))))
    parts = saved._parts(), again._parts()
    found += list(parts[0].keys() ^ parts[1].keys())
    for name in parts[0].keys() & parts[1].keys():
        found += [f"{name}: {one}" for one in differing(parts[0][name], parts[1][name])]
    return sorted(map(str, found))


def _near(before: Any, after: Any) -> bool:
    x, y = before.values, after.values
    if before.dims != after.dims or x.shape != y.shape or x.dtype.kind != y.dtype.kind:
        return False
    if x.dtype.kind != "f":
        return bool((x == y).all())
    return np.allclose(x, y, rtol=compare.RELATIVE, atol=compare.ABSOLUTE, equal_nan=True)


def test_another_value_coordinate_or_variable_is_seen(unpacked: dict[str, Path]) -> None:
    """The negative control."""
    saved, other = (pc.open(unpacked["0.2"] / "lens") for _ in range(2))
    assert isinstance(other, pc.Lens)
    assert not differing(saved, other)
    data = other.dataset
    for changed in (
        data.assign(kl=data["kl"] * 1.01),
        data.drop_vars("kl"),
        data.assign_attrs(note=1),
        data.expand_dims("new"),
        data.assign_coords(layer=data["layer"] + 1),
    ):
        other.dataset = changed
        assert differing(saved, other)

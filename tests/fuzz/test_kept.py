"""What was saved, opened and repeated holds the numbers of the plain hooks, not only those of the first call."""

from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings

import patchclamp as pc
from tests import tiny
from tests.effort import examples
from tests.fuzz import check, draws, sweeping
from tests.fuzz.test_calls import FAMILY, MODELS, PHASES, SEED
from tests.pictures import draw_nothing


@pytest.fixture(scope="module", autouse=True)
def _undrawn() -> object:
    with pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch)
        yield


def again(result: pc.Result, model: pc.Model) -> list[pc.Result]:
    """The result opened from its folder, and made again from it; only the first where the record says it cannot be repeated."""
    with TemporaryDirectory() as folder:
        result.save(Path(folder) / "kept")
        found = [pc.open(Path(folder) / "kept")]
        if "not_repeatable" not in result.record:
            found.append(pc.repeat(Path(folder) / "kept", model))
    return found


@given(seed=SEED, family=FAMILY)
@settings(max_examples=examples(3, 60), phases=PHASES)
def test_a_saved_sweep_is_what_hooks_give(seed: int, family: str) -> None:
    swept = sweeping.sweep(Random(seed), family)
    grid = MODELS[family].sweep(**swept.arguments())
    for one in again(grid, MODELS[family]):
        assert isinstance(one, pc.Grid)
        assert not sweeping.differing(swept, one)[:3]


@given(seed=SEED, family=FAMILY)
@settings(max_examples=examples(3, 60), phases=PHASES)
def test_a_saved_run_is_what_hooks_give(seed: int, family: str) -> None:
    rng = Random(seed)
    inputs, rows = draws.prompts(rng)
    edits = draws.edits(rng, family, rows)
    run = MODELS[family].run(inputs, [one.edit for one in edits])
    wanted = check.by_hand(tiny.shared(family), family, rows, edits)
    for one in again(run, MODELS[family]):
        assert isinstance(one, pc.Run)
        assert one.fired == run.fired
        for found, ids, seen in zip(one.logits, rows, wanted, strict=True):
            assert check.close(found[: len(ids)], seen.logits), [each.operation.name for each in edits]

"""Finished parts of a sweep are taken only where they are the same numbers; failures say what they are."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

import patchclamp as pc
from patchclamp.core.tolerances import EXACT
from patchclamp.interventions.execute import _is_memory, execute
from patchclamp.interventions.options import RunOptions
from tests import tiny
from tests.interventions.planning import scheduled

IDS = tiny.ids(1, 6)
V = torch.arange(32, dtype=torch.float64) / 16 - 1
PLAIN = {"sites": "mlp_out", "at": -1, "read": pc.Logits([3])}


def swept(model: pc.Model, folder: Path, edit: pc.Edit | None = None, ids: object = IDS, **changes: object) -> set[str]:
    """Names of the parts that a sweep with a checkpoint has added to a folder, or found there."""
    model.sweep(ids, edit or pc.Add(V), checkpoint=folder, **{**PLAIN, **changes})
    return {file.name for file in folder.iterdir()}


def test_a_part_is_named_by_everything_that_decides_its_numbers(llama: pc.Model, tmp_path: Path) -> None:
    known = swept(llama, tmp_path)
    assert len(known) == 1
    assert swept(llama, tmp_path) == known, "the same again: nothing new"
    other = pc.wrap(tiny.build("llama"))
    assert swept(other, tmp_path) == known, "equal weights"
    assert swept(llama, tmp_path, read=pc.Logits(pc.per_prompt([3]))) == known, "the same token, said otherwise"
    with torch.no_grad():
        other.module.lm_head.weight.mul_(1.5)
    single = pc.wrap(tiny.shared("llama", torch.float32))
    changes = [
        lambda: swept(other, tmp_path),
        lambda: swept(single, tmp_path),
        lambda: swept(llama, tmp_path, pc.Add(V, 2.0)),
        lambda: swept(llama, tmp_path, ids=tiny.ids(1, 6, seed=1)),
        lambda: swept(llama, tmp_path, at=-2),
        lambda: swept(llama, tmp_path, sites="attn_out"),
        lambda: swept(llama, tmp_path, base=[pc.Scale(2.0, site="embed")]),
        lambda: swept(llama, tmp_path, read=pc.Logits([4])),
        lambda: swept(llama, tmp_path, read=pc.Logits([3], at=[-2, -1])),
        lambda: swept(llama, tmp_path, read=pc.Logits(pc.per_prompt([5]))),
        lambda: swept(llama, tmp_path, read=pc.Logits(pc.per_prompt([6]))),
        lambda: swept(llama, tmp_path, read=pc.LogitDifference(3, 4)),
        lambda: swept(llama, tmp_path, read=pc.LogitDifference(3, 5)),
        lambda: swept(llama, tmp_path, read=pc.Loss(3)),
        lambda: swept(llama, tmp_path, read=pc.Loss(4)),
    ]
    for number, change in enumerate(changes):
        found = change()
        assert len(found) == len(known) + 1, f"change {number} takes the parts of another sweep"
        known = found


def test_new_weights_and_other_tokens_give_their_own_numbers_behind_a_checkpoint(
    llama: pc.Model, tmp_path: Path
) -> None:
    model = pc.wrap(tiny.build("llama"))
    swept(model, tmp_path)
    with torch.no_grad():
        model.module.lm_head.weight.mul_(1.5)
    for read in (pc.Logits([3]), pc.LogitDifference(3, 4), pc.LogitDifference(3, 5)):
        options = {**PLAIN, "read": read}
        found = model.sweep(IDS, pc.Add(V), checkpoint=tmp_path, **options)
        assert found.dataset.identical(model.sweep(IDS, pc.Add(V), **options).dataset)


def test_cells_are_verified_behind_a_finished_checkpoint_too(llama: pc.Model, tmp_path: Path) -> None:
    swept(llama, tmp_path)
    grid = llama.sweep(IDS, pc.Add(V), checkpoint=tmp_path, verify=99, **PLAIN)
    assert grid.plan.verified == 3
    assert grid.plan.difference < EXACT.float64


def test_the_seed_chooses_which_cells_are_verified(llama: pc.Model) -> None:
    work = scheduled(llama, IDS, pc.Add(V), **{**PLAIN, "at": "each"})
    chosen = [execute(work, RunOptions(verify=3), seed=seed)[0].evidence.keys() for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]
    assert [len(c) for c in chosen] == [3, 3, 3]


def test_activations_are_verified_where_nothing_else_is_read(llama: pc.Model) -> None:
    read = pc.Activation("resid_post.1", at=[2, -1])
    for sites in ("mlp_out.0-1", "embed"):
        grid = llama.sweep(IDS, pc.Add(V), sites=sites, at=1, read=read, verify=9)
        assert grid.plan.strategy == "wavefront"
        assert grid.plan.verified == grid.plan.runs
        assert grid.plan.difference < EXACT.float64
        wanted = llama.run(IDS, pc.Add(V, site=sites.split("-")[0], at=1), record="resid_post.1", at=[2, -1])
        found = torch.from_numpy(grid.data.values[0, 0] if sites == "embed" else grid.data.values[0, 0, 0])
        assert torch.allclose(found, wanted.activations["resid_post.1"][0], rtol=1e-12)


def test_a_base_in_the_head_is_in_every_number(llama: pc.Model) -> None:
    """Positions that no read wants cannot be left out of a head that is edited."""
    base = [pc.Scale(1.5, site="final_norm"), pc.Add(torch.ones(97, dtype=torch.float64), 0.5, site="logits", at=-1)]
    grid = llama.sweep(IDS, pc.Add(V), sites="mlp_out.1", at=2, base=base, read=pc.Logits())
    both = llama.run(IDS, [pc.Add(V, site="mlp_out.1", at=2), *base]).logits[0, -1]
    assert np.allclose(grid.data.values.squeeze(), both, rtol=1e-12)
    assert np.allclose(grid.baseline.values.squeeze(), llama.run(IDS, base).logits[0, -1], rtol=1e-12)
    assert not np.allclose(grid.baseline.values.squeeze(), llama.run(IDS).logits[0, -1])


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (RuntimeError("CUDA error: Out of memory"), True),
        (RuntimeError("[enforce fail] not enough memory: you tried"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("Cannot allocate memory"), True),
        (torch.OutOfMemoryError("no"), True),
        (MemoryError(), True),
        (RuntimeError("shapes cannot be multiplied"), False),
    ],
)
def test_running_out_of_memory_is_recognised(error: BaseException, is_memory: bool) -> None:
    assert _is_memory(error) == is_memory


def test_other_errors_of_the_users_stay_what_they_are(llama: pc.Model) -> None:
    def explode(_: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="^mine$"):
        llama.sweep(IDS, pc.Call(explode), **PLAIN)


def test_a_difference_above_what_is_promised_is_an_error(llama: pc.Model) -> None:
    """One cell's evidence is moved: relative to its largest logit, by more than the promise or by less."""
    from patchclamp.interventions.execute import _verify

    work = scheduled(llama, IDS, pc.Add(V), **{**PLAIN, "read": pc.Logits()})
    outcome, plan = execute(work, RunOptions(verify=3))
    assert plan.difference < 1e-12
    largest = max(float(value.abs().max()) for value in outcome.evidence.values())
    moved = dataclasses.replace(outcome, evidence={run: value.clone() for run, value in outcome.evidence.items()})
    run = max(moved.evidence, key=lambda run: float(moved.evidence[run].abs().max()))
    moved.evidence[run].flatten()[7] += 0.5e-8 * largest
    assert _verify(moved, sorted(moved.evidence)) == pytest.approx(0.5e-8, rel=1e-3)
    moved.evidence[run].flatten()[7] += 1e-8 * largest
    with pytest.raises(pc.ExactnessError, match=r"of 3 cells .* by 1\.5e-08 of the largest logit; 1e-08 is promised"):
        _verify(moved, sorted(moved.evidence))

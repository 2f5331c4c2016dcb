"""Sweeps: what the axes mean, what is shared, what falls back, what is refused."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import patchclamp as pc
from patchclamp.core.progress import Progress
from tests import tiny
from tests.effort import examples
from tests.interventions import by_hand
from tests.traces import no_trace

IDS = tiny.ids(1, 6)
READ = pc.Logits()


def draw(seed: int, width: int = 32) -> torch.Tensor:
    return torch.randn(width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def agree(one: pc.Grid, two: pc.Grid, tolerance: float = 1e-12) -> bool:
    """Equal relative to the largest number; a KL relative to the logits it is made of, which are about 1.

    (Where no gate opens, every KL is 0 up to rounding, and 1e-16 is no small share of that.)
    """
    for name in one.reads:
        a, b = one.dataset[name].values, two.dataset[name].values
        if not np.array_equal(np.isnan(a), np.isnan(b)):
            return False
        size = max(np.nanmax(abs(b)), 1.0 if name == "kl" else 0.0)
        if np.nanmax(abs(a - b)) > tolerance * size:
            return False
    return True


def test_each_cell_is_the_hook_written_by_hand(llama: pc.Model) -> None:
    v = draw(0)
    grid = llama.sweep(IDS, pc.Add(v), sites=["mlp_out", "attn_out"], at="each", read=READ)
    assert grid.data.dims == ("prompt", "site", "layer", "position", "token_id")
    for site, path in (("mlp_out", "mlp"), ("attn_out", "self_attn")):
        for layer in range(3):
            for position in range(6):
                wanted = by_hand.run(
                    llama.module,
                    IDS[0],
                    [(f"model.layers.{layer}.{path}", "out", by_hand.at(position, lambda x: x + v))],
                )
                found = grid.data.sel(site=site, layer=layer, position=position, prompt=grid.data["prompt"].values[0])
                assert torch.allclose(torch.from_numpy(found.values), wanted[-1], rtol=1e-12), (site, layer, position)


def test_cumulative_means_every_swept_layer_up_to_this_one(llama: pc.Model) -> None:
    v = draw(1)
    grid = llama.sweep(IDS, pc.Add(v), sites="mlp_out.1-2", at="each", cumulative=True, read=READ)
    for top in (1, 2):
        for position in (0, 5):
            changes = [
                (f"model.layers.{i}.mlp", "out", by_hand.at(position, lambda x: x + v)) for i in range(1, top + 1)
            ]
            wanted = by_hand.run(llama.module, IDS[0], changes)[-1]
            found = torch.from_numpy(grid.data.sel(layer=top, position=position).values.squeeze())
            assert torch.allclose(found, wanted, rtol=1e-12)


def test_parameters_are_axes(llama: pc.Model) -> None:
    v = draw(2)
    grid = llama.sweep(
        IDS, pc.Add(v), sites="mlp_out", at=-1, over={"scale": [0.0, 1.0, 4.0], "vector": [v, -v]}, read=READ
    )
    assert grid.data.sizes["scale"] == 3
    assert grid.data.sizes["vector"] == 2
    assert np.allclose(grid.data.sel(scale=0.0).values, grid.baseline.values[:, None, None, None])
    single = llama.run(IDS, pc.Add(-v, 4.0, site="mlp_out.1", at=-1)).logits[0, -1]
    assert np.allclose(grid.data.sel(scale=4.0, layer=1).isel(vector=1).values.squeeze(), single)
    places = llama.sweep(IDS, pc.Add(v), sites="mlp_out", over={"at": [0, -1, "all"]}, read=READ)
    assert list(places.data["at"].values) == ["0", "-1", "all"]
    gates = {"where": [pc.Norm(), pc.Norm(above=1e9)]}
    gated = llama.sweep(IDS, pc.Add(v), sites="mlp_out.1", at=-1, over=gates, read=READ)
    assert gated.plan.repeated == 0, "another gate makes another cell"
    assert np.allclose(
        gated.data.isel(where=0).values.squeeze(), llama.run(IDS, pc.Add(v, site="mlp_out.1", at=-1)).logits[0, -1]
    )
    assert np.allclose(gated.data.isel(where=1).values.squeeze(), gated.baseline.values.squeeze())
    everywhere = llama.run(IDS, pc.Add(v, site="mlp_out.2")).logits[0, -1]
    assert np.allclose(places.data.sel(at="all", layer=2).values.squeeze(), everywhere)


def test_heads_are_an_axis(llama: pc.Model) -> None:
    grid = llama.sweep(IDS, pc.Zero(), sites="z.*.h*", at="each", read=READ)
    assert grid.data.dims == ("prompt", "site", "layer", "head", "position", "token_id")
    assert grid.data.sizes["head"] == 4
    single = llama.run(IDS, pc.Zero(site="z.2.h3", at=-1)).logits[0, -1]
    assert np.allclose(grid.data.sel(layer=2, head=3, position=5).values.squeeze(), single)
    neurons = llama.sweep(IDS, pc.Zero(), sites="mlp_act.1.n0-9", at=-1, read=READ)
    assert neurons.data.sizes["neuron"] == 10


def test_prompts_of_different_lengths_leave_ragged_cells_empty(llama: pc.Model) -> None:
    prompts = [*tiny.ids(2, 6), *tiny.ids(1, 3, seed=4)]
    grid = llama.sweep(prompts, pc.Add(draw(3)), sites="mlp_out", at="each", read=pc.Probability([5]))
    assert bool(grid.data.isel(prompt=2, position=slice(3, None)).isnull().all())
    assert not bool(grid.data.isel(prompt=2, position=slice(0, 3)).isnull().any())
    assert list(grid.data["token"].values[2]) == [*map(str, prompts[2]), "", "", ""]
    for i, prompt in enumerate(prompts):
        alone = llama.sweep([prompt], pc.Add(draw(3)), sites="mlp_out", at="each", read=pc.Probability([5]))
        both = grid.data.isel(prompt=i, position=slice(0, len(prompt))).values
        assert np.allclose(both, alone.data.isel(prompt=0).values, rtol=1e-12)


def test_an_edited_base_is_shared_by_every_cell(llama: pc.Model) -> None:
    """base= edits act in every cell and in the baseline: before, between and after the swept ones."""
    base = [
        pc.Noise(0.5, site="embed", at=[1, 2]),
        pc.Scale(1.5, site="mlp_out.1", at=3),
        pc.Add(draw(4), site="resid_post.2", at=-1),
    ]
    swept = pc.Add(draw(5))
    sites = ["mlp_out", "resid_post", "resid_pre", "attn_out"]
    fast, slow = (
        llama.sweep(IDS, swept, sites=sites, at="each", base=base, read=[READ, pc.KL(at=[0, -1])], strategy=r)
        for r in (None, "cell")
    )
    assert fast.plan.strategy == "wavefront"
    assert agree(fast, slow)
    assert np.allclose(fast.dataset["baseline:logits"].values[0], llama.run(IDS, base).logits[0, -1])
    single = llama.run(IDS, [*base, swept.on("resid_post.2", at=5)]).logits[0, -1]
    assert np.allclose(fast.dataset["logits"].sel(site="resid_post", layer=2, position=5).values.squeeze(), single)


EDITS = {
    "add": pc.Add(draw(6)),
    "scale": pc.Scale(2.0),
    "project": pc.ProjectOut(draw(7)),
    "noise": pc.Noise(0.3, seed=1),
    "patch": pc.Patch(tiny.ids(1, 6, seed=8)),
    "mean": pc.MeanAblate(tiny.ids(2, 5, seed=9)),
    "gated": pc.Add(draw(6), where=pc.Along(draw(8), above=0.0)),
    "module": pc.Edit(torch.nn.Tanh()),
    "rotate": pc.Rotate(tiny.ids(1, 6, seed=8), rank=3, d=32),
}
SITES = ["embed", "resid_pre", "attn_in", "attn_out", "resid_mid", "mlp_in", "mlp_out", "resid_post", "final_norm"]
READS = [
    READ,
    pc.KL(at="all"),
    pc.Activation("resid_post.1", at="all"),
    pc.Activation("resid_mid.2", at=[1, -1]),
    pc.Loss(),
]


def test_a_gate_that_never_opens_changes_nothing(llama: pc.Model) -> None:
    options = {"sites": ["embed", "resid_pre"], "at": -1, "read": [READ, pc.KL(at="all")]}
    fast, slow = (
        llama.sweep(tiny.ids(1, 6, seed=1), EDITS["gated"], strategy=strategy, **options) for strategy in (None, "cell")
    )
    assert agree(fast, slow)
    rounding = 97 * np.finfo(float).eps * 10  # 97 terms p (log p - log q), whose logarithms are below 10
    assert np.nanmax(fast.dataset["kl"].values) < rounding


@pytest.mark.parametrize("sites", ["embed", "mlp_out.0"])
def test_activations_behind_an_edit_are_read_where_no_logits_are(llama: pc.Model, sites: str) -> None:
    """A loss of the tokens of the prompt needs no logits of the last position, so that nothing of the cell passes the head."""
    options = {"sites": sites, "at": -1, "read": [pc.Loss(), pc.Activation("resid_post.1", at="all")]}
    fast, slow = (llama.sweep(IDS, pc.Add(draw(0)), strategy=s, **options) for s in ("wavefront", "cell"))
    assert agree(fast, slow, 1e-11)
    lost, behind = (abs(fast.dataset[name] - fast.dataset[f"baseline:{name}"]) for name in fast.reads)
    assert float(lost.max()) < 1e-11
    assert float(behind.max()) > 0.1


@given(st.data())
@settings(max_examples=examples(7, 60), suppress_health_check=[HealthCheck.too_slow])
def test_any_sweep_equals_one_forward_a_cell(llama: pc.Model, data: st.DataObject) -> None:
    """Random edits, sites, positions, prompts, bases and reads: sharing never changes a number."""
    name = data.draw(st.sampled_from(list(EDITS)))
    sites = data.draw(st.lists(st.sampled_from(SITES), min_size=1, max_size=3, unique=True))
    at = data.draw(st.sampled_from(["each", -1, 0, [1, 3], "all", slice(2, 5)]))
    prompts = tiny.ids(data.draw(st.integers(1, 2)), 6, seed=data.draw(st.integers(0, 3)))
    read = data.draw(st.lists(st.sampled_from(READS), min_size=1, max_size=3, unique_by=repr))
    base = data.draw(
        st.lists(
            st.sampled_from([pc.Scale(1.2, site="mlp_out.1", at=2), pc.Noise(0.2, site="embed", at=1)]), max_size=2
        )
    )
    cumulative = data.draw(st.booleans()) and any(s not in ("embed", "final_norm") for s in sites)
    budget = data.draw(st.sampled_from([None, 7, 30]))
    options = {"sites": sites, "at": at, "cumulative": cumulative, "base": base, "read": read}
    fast = llama.sweep(prompts, EDITS[name], max_tokens=budget, **options)
    assert agree(fast, llama.sweep(prompts, EDITS[name], strategy="cell", **options), 1e-11), fast.plan
    if fast.plan.strategy == "wavefront":
        for strategy in ("layers", "rows"):
            assert agree(fast, llama.sweep(prompts, EDITS[name], strategy=strategy, **options), 1e-11)


def test_a_small_budget_splits_the_work_and_changes_nothing(llama: pc.Model) -> None:
    options = {"sites": ["mlp_out", "attn_out"], "at": "each", "cumulative": True, "read": READ}
    whole = llama.sweep(IDS, pc.Add(draw(0)), **options)
    for tokens in (6, 20):
        part = llama.sweep(IDS, pc.Add(draw(0)), max_tokens=tokens, **options)
        assert part.plan.rows >= whole.plan.rows
        assert agree(part, whole, 1e-13)


def test_a_budget_below_one_cell_says_what_would_fit(llama: pc.Model) -> None:
    with pytest.raises(
        pc.BudgetError, match=r"one cell needs about .*B beyond the model and the budget is 1 kB; pass budget='\d+MB'"
    ):
        llama.sweep(IDS, pc.Zero(), sites="mlp_out", read=READ, budget=1000)
    for bad in ("many", "-1GB", 0, "3 parsecs"):
        with pytest.raises(pc.InputError, match=r"no amount of memory|must be positive"):
            llama.sweep(IDS, pc.Zero(), sites="mlp_out", read=READ, budget=bad)


def test_running_out_of_memory_says_what_to_try(llama: pc.Model) -> None:
    def explode(_: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    with (
        pytest.raises(
            pc.BudgetError, match="ran out of memory under a budget of 1000000000 bytes; try budget=500000000"
        ),
        no_trace(llama.module),
    ):
        llama.sweep(IDS, pc.Call(explode), sites="mlp_out", read=READ)


def test_cells_that_cannot_matter_are_not_run(llama: pc.Model) -> None:
    """Edits in the last layer before the read position, behind it, or twice the same: known without running them."""
    plan = llama.plan(IDS, pc.Add(draw(0)), sites=["mlp_out", "resid_post"], at="each", read=READ)
    assert (plan.cells, plan.dead, plan.repeated) == (36, 10, 0)
    early = llama.plan(IDS, pc.Add(draw(0)), sites="mlp_out.0", at="each", read=pc.Logits(at=2))
    assert (early.cells, early.dead) == (6, 3)
    twice = llama.plan(IDS, pc.Add(draw(0)), sites="mlp_out", at=-1, over={"scale": [2.0, 2.0]}, read=READ)
    assert (twice.cells, twice.repeated) == (6, 3)
    keys = llama.plan(IDS, pc.Add(draw(0, 16)), sites="k.2", at="each", read=READ)
    assert keys.dead == 0, "a key of the last layer is read by later positions"


def test_what_is_shared_is_counted(llama: pc.Model) -> None:
    """Row-layers of the tree: a single-layer sweep runs each cell from its layer on, a cumulative one shares its trunk."""
    at_last = llama.plan(IDS, pc.Add(draw(0)), sites="mlp_out", at=-1, read=READ)
    assert at_last.rows == 1 + 2 + 3
    stream = llama.plan(IDS, pc.Add(draw(0)), sites="resid_post", at=-1, read=READ)
    assert stream.rows == 0 + 1 + 2
    trunk = llama.plan(IDS, pc.Add(draw(0)), sites="mlp_out", at=-1, cumulative=True, read=READ)
    assert trunk.rows == 1 + 2 + 3
    assert trunk.naive_rows == 9


def test_the_ladder_falls_back_and_says_why(llama: pc.Model) -> None:
    def strategy(edit: pc.Edit, **options: object) -> tuple[str, str]:
        plan = llama.plan(IDS, edit, **{"sites": "mlp_out", "at": "each", "read": READ, **options})
        return plan.strategy, plan.reason

    assert strategy(pc.Zero()) == ("wavefront", "")
    assert strategy(pc.Call(lambda x: x))[1].startswith("pc.Call is opaque")
    assert strategy(pc.Zero(), sites="model.norm:out")[1] == "the site model.norm:out lies outside the layers"
    assert strategy(pc.Zero(), sites="model.layers.1.mlp:out") == ("wavefront", "")
    assert (
        strategy(pc.Zero(), read=pc.Activation("final_norm"))[1] == "the read site final_norm lies outside the layers"
    )
    printed = str(llama.plan(IDS, pc.Call(lambda x: x), sites="mlp_out", at="each", read=READ))
    assert "because    pc.Call is opaque" in printed


def test_opaque_functions_run_for_every_cell(llama: pc.Model) -> None:
    calls: list[int] = []

    def count(x: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        return x * 2

    grid = llama.sweep(IDS, pc.Call(count), sites="mlp_out", at="each", read=READ)
    assert len(calls) == 18
    assert agree(grid, llama.sweep(IDS, pc.Scale(2.0), sites="mlp_out", at="each", read=READ))


def test_verification_accepts_what_is_exact_and_catches_what_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    llama = pc.wrap(tiny.shared("llama"))
    llama.capabilities.ladder = dataclasses.replace(
        llama.ladder, packs=False
    )  # a packed call never leaves its mask to the model
    grid = llama.sweep(IDS, pc.Add(draw(0)), sites="mlp_out", at="each", read=READ, verify=6)
    assert (grid.plan.verified, grid.plan.difference < 1e-12) == (6, True)  # type: ignore[operator]
    assert "verified   6 cells" in str(grid.plan)
    from patchclamp.interventions import wavefront

    original = wavefront.capture_calls

    def without_mask(*args: object) -> object:
        calls, cache = original(*args)
        return [(a, {**k, "attention_mask": None}) for a, k in calls], cache

    monkeypatch.setattr(wavefront, "capture_calls", without_mask)
    with pytest.raises(
        pc.ExactnessError, match=r"the worst differs by .* of the largest logit; 1e-08 is promised for torch.float64"
    ):
        llama.sweep(IDS, pc.Add(draw(0)), sites="mlp_out", at="each", read=READ, verify=18)


def test_a_killed_sweep_goes_on_and_ends_with_the_same_numbers(llama: pc.Model, tmp_path: Path) -> None:
    options = {"sites": ["mlp_out", "attn_out"], "at": "each", "read": [READ, pc.KL()], "max_tokens": 20}
    wanted = llama.sweep(IDS, pc.Add(draw(0)), **options)

    class Stop(Exception):
        pass

    def stop_after(event: Progress) -> None:
        if event.done > wanted.plan.rows / 2:
            raise Stop

    with pytest.raises(Stop), no_trace(llama.module):
        llama.sweep(IDS, pc.Add(draw(0)), checkpoint=tmp_path, progress=stop_after, **options)
    finished = set(tmp_path.iterdir())
    assert finished
    assert all(file.suffix == ".safetensors" for file in finished), "no half-written file"
    events: list[Progress] = []
    resumed = llama.sweep(IDS, pc.Add(draw(0)), checkpoint=tmp_path, progress=events.append, **options)
    assert resumed.dataset.identical(wanted.dataset)
    assert events[-1].done < wanted.plan.rows, "finished parts were not run again"
    other = llama.sweep(IDS, pc.Add(draw(1)), checkpoint=tmp_path, **options)
    assert not other.dataset.identical(wanted.dataset), "another edit does not take this one's parts"


@pytest.mark.parametrize("strategy", ["wavefront", "layers", "rows", "cell"])
def test_a_finished_checkpoint_gives_the_same_bytes_for_many_prompts(
    llama: pc.Model, tmp_path: Path, strategy: str
) -> None:
    """Baselines too: run again with other lines beside them, their last bits would differ."""
    prompts = [*tiny.ids(2, 5), *tiny.ids(1, 3)]
    options = {"sites": "mlp_out.1-2", "at": "each", "read": [READ, pc.KL()], "strategy": strategy, "max_tokens": 20}
    wanted = llama.sweep(prompts, pc.Add(draw(0)), **options)
    for _ in ("made", "loaded"):
        found = llama.sweep(prompts, pc.Add(draw(0)), checkpoint=tmp_path, **options)
        assert found.dataset.identical(wanted.dataset)
    for file in sorted(tmp_path.iterdir())[::2]:
        file.unlink()
    assert llama.sweep(prompts, pc.Add(draw(0)), checkpoint=tmp_path, **options).dataset.identical(wanted.dataset)


def test_progress_counts_to_the_planned_total(llama: pc.Model) -> None:
    events: list[Progress] = []
    for strategy in ("wavefront", "layers", "rows", "cell"):
        events.clear()
        llama.sweep(
            IDS, pc.Add(draw(0)), sites="mlp_out", at="each", read=READ, strategy=strategy, progress=events.append
        )
        assert events[-1].done == events[-1].total, strategy


def test_relative_numbers(llama: pc.Model) -> None:
    grid = llama.sweep(
        IDS, pc.Add(draw(0)), sites="mlp_out", at=-1, over={"scale": [0.0, 1.0]}, read=pc.Probability([5])
    )
    assert float(abs(grid.relative().sel(scale=0.0)).max()) < 97 * np.finfo(float).eps
    assert np.allclose(grid.relative("ratio").sel(scale=0.0), 1.0)
    with pytest.raises(pc.InputError, match="unknown how 'ratios'; did you mean 'ratio'"):
        grid.relative("ratios")  # type: ignore[arg-type]
    with pytest.raises(pc.InputError, match="only the result of model.patch has a reference"):
        grid.relative("recovery")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sites": None}, "a sweep needs sites"),
        ({"sites": "mlpout"}, "did you mean 'mlp_out'"),
        ({"sites": ["mlp_out", "z.*.h*"]}, "cannot share one sweep"),
        ({"over": {"scal": [1]}}, "unknown parameter of Add 'scal'; did you mean 'scale'"),
        ({"over": {"scale": []}}, "has no values"),
        ({"sites": "embed", "cumulative": True}, "these sites have no layers"),
        ({"verify": -1}, "0 or more"),
        ({"at": 6}, "position 6 is outside the prompt"),
    ],
)
def test_bad_sweeps_are_refused_before_any_work(llama: pc.Model, options: dict[str, object], message: str) -> None:
    llama.run(IDS)
    calls: list[int] = []
    handle = llama.module.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        with pytest.raises(pc.InputError, match=message):
            llama.sweep(IDS, pc.Add(draw(0)), **{"sites": "mlp_out", "at": "each", "read": READ, **options})
    finally:
        handle.remove()
    assert not calls


def test_a_vector_of_the_wrong_width_names_the_site(llama: pc.Model) -> None:
    with pytest.raises(pc.EditError, match="vector has width 32, but z.0.h0 has width 8"):
        llama.sweep(IDS, pc.Add(draw(0)), sites="z.*.h*", read=READ)


@pytest.mark.sensitive
def test_moe_and_bfloat16_report_their_difference() -> None:
    for name, dtype in (("mixtral", torch.float32), ("llama", torch.bfloat16)):
        model = pc.wrap(tiny.build(name, dtype))
        grid = model.sweep(IDS, pc.Add(draw(0)), sites="mlp_out", at="each", read=READ, verify=99)
        assert grid.plan.verified == grid.plan.runs == 13
        assert grid.plan.difference is not None
        assert grid.plan.difference < (1e-5 if dtype == torch.float32 else 5e-2)


@pytest.mark.assets
@pytest.mark.slow
def test_smollm2_in_float64_is_exact_up_to_the_order_of_sums() -> None:
    model = pc.load("smollm2-135m", dtype="float64")
    options = {"sites": ["mlp_out", "attn_out"], "at": "each", "read": pc.Probability([" Madrid", " Rome"])}
    rome = pc.Add(model.embedding(" Rome"))
    # sums of 576 terms in another order, whose roundings add up as a random walk, through 30 layers of two blocks
    rounding = 576**0.5 * (2 * 30 + 1) * np.finfo(float).eps
    for cumulative in (True, False):
        grid = model.sweep("The capital of Spain is", rome, cumulative=cumulative, verify=12, **options)
        assert grid.plan.difference < rounding
    patched = model.patch("The capital of Italy is", "The capital of Spain is", read=options["read"], verify=12)
    assert patched.plan.difference < rounding


@pytest.mark.assets
@pytest.mark.slow
def test_smollm2_in_float32(smollm2: pc.Model) -> None:
    rome = pc.Add(smollm2.embedding(" Rome"))
    read = [pc.Probability([" Madrid", " Rome"]), pc.Logits([" Madrid", " Rome"])]
    options = {"sites": "mlp_out.0,9,19,29", "at": "each", "read": read}
    fast, slow = (smollm2.sweep("The capital of Spain is", rome, strategy=r, **options) for r in (None, "cell"))
    assert float(abs(fast.dataset["logits"] - slow.dataset["logits"]).max()) < 1e-4
    assert float(abs(fast.dataset["probability"] - slow.dataset["probability"]).max()) < 1e-5

"""Nothing in a list is lost: reads of one name, edits with places of their own, several sources, forced strategies."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import patchclamp as pc
from patchclamp.interventions.reads import Function, distinct
from patchclamp.interventions.saving import load_edits, save_edits
from tests import tiny
from tests.effort import examples
from tests.interventions import by_hand

IDS = [5, 6, 7, 8, 9]
OTHERS = [[3, 4], [20, 21, 22, 23, 24, 25]]
DOWN = "model.layers.1.mlp.down_proj:out"
V = torch.randn(32, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
W = torch.randn(32, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def first(logits: torch.Tensor) -> torch.Tensor:
    return logits[:, 0]


def layer(logits: torch.Tensor) -> torch.Tensor:
    return logits[:, 1]


READS: list[tuple[Any, int]] = [
    (pc.Probability(5), 1), (pc.Probability([6, 7]), 1), (pc.Probability([6, 7], at=[2, 0, 2]), 1), (pc.TopK(2), 2),
    (pc.TopK(4), 2), (pc.Loss(at=[0, 1]), 1), (pc.Loss(at=2), 1), (first, 1), (layer, 1), (lambda x: x[:, 2], 1),
    (lambda x: x[:, 3:5], 1), (Function(lambda x: x[:, 4], "probability"), 1), (Function(lambda x: x[:, 5], "loss:2"), 1),
    (Function(lambda x: x[:, 6], "baseline:probability"), 1), (Function(lambda x: x[:, 7], "answer"), 1), (pc.Logits(5), 1),
    (pc.Activation("mlp_out.1"), 1), (pc.Activation("mlp_out.1", at=[4, 0]), 1), (pc.Activation(DOWN), 1),
    (pc.Activation(DOWN, at=1), 1), (pc.KL(), 1), (pc.KL(at="all"), 1), (pc.Rank([3]), 1), (pc.LogOdds([8, 8]), 1),
]  # fmt: skip


@given(st.lists(st.integers(0, len(READS) - 1), min_size=1, max_size=6))
@settings(max_examples=examples(8, 80), suppress_health_check=[HealthCheck.too_slow])
def test_every_read_of_a_list_is_there_in_its_order(llama: pc.Model, chosen: list[int]) -> None:
    """Each read gives what it gives alone, whatever stands beside it: also itself, and reads of the same name."""
    options = {"sites": "mlp_out.0-1", "at": 2}
    grid = llama.sweep(IDS, pc.Add(V), read=[READS[i][0] for i in chosen], **options)
    assert len(grid.reads) == sum(READS[i][1] for i in chosen)
    names = iter(grid.reads)
    for i in chosen:
        alone = llama.sweep(IDS, pc.Add(V), read=READS[i][0], **options)
        for own in alone.reads:
            name = next(names)
            for found, wanted in ((grid.dataset[name], alone.dataset[own]), _baselines(grid, name, alone, own)):
                assert found.shape == wanted.shape
                assert np.allclose(found.values, wanted.values, rtol=1e-12, atol=1e-15)


def _baselines(grid: pc.Grid, name: str, alone: pc.Grid, own: str) -> tuple[Any, Any]:
    return grid.dataset[f"baseline:{name}"], alone.dataset[f"baseline:{own}"]


def test_names_are_numbered_in_the_order_of_the_reads() -> None:
    assert distinct(["loss", "kl", "loss", "loss"]) == ["loss", "kl", "loss:2", "loss:3"]
    assert distinct(["top_probability", "top_token"] * 2)[2:] == ["top_probability:2", "top_token:2"]
    assert distinct(["loss:2", "loss", "loss"]) == ["loss:2", "loss", "loss:3"]
    assert distinct(["prompt", "scale"], ["scale"]) == ["prompt:2", "scale:2"]
    assert distinct(["kl", "baseline:kl"]) == ["kl", "baseline:kl:2"]
    assert distinct([DOWN, DOWN]) == [DOWN, f"{DOWN}:2"]


@pytest.mark.usefixtures("without_pictures")
def test_reads_of_one_name_are_saved_drawn_and_repeated(llama: pc.Model, tmp_path: Path) -> None:
    reads = [pc.Probability([5, 6]), pc.Probability([7, 8, 9]), pc.Activation(DOWN)]
    for number, make in enumerate(
        (
            lambda: llama.sweep([IDS, IDS], pc.Add(V), sites="mlp_out", at=1, read=reads),
            lambda: llama.patch(IDS[::-1], IDS, sites="mlp_out", at=1, read=reads[:2]),
            lambda: llama.path_patch(IDS[::-1], IDS, sender="mlp_out.0-1", read=reads[:2]),
        )
    ):
        grid = make()
        assert grid.reads == ("probability", "probability:2", DOWN)[: len(grid.reads)]
        assert set(grid.reads) <= set(grid.frame().columns)
        assert set(grid.relative().data_vars) == set(grid.reads)
        titles = [axis.get_title() for axis in grid.figure(read="probability:2").axes]
        assert any("9" in title for title in titles), "the second read's own answers are panels"
        opened = pc.open(grid.save(tmp_path / str(number)))
        assert isinstance(opened, pc.Grid)
        assert opened == grid
        assert opened.reads == grid.reads
        assert pc.repeat(tmp_path / str(number), llama).data.identical(grid.data)


@pytest.mark.usefixtures("without_pictures")
def test_traces_keep_every_read(llama: pc.Model, tmp_path: Path) -> None:
    options = {"samples": 2, "std": 0.3, "sites": "resid_post.1", "read": [pc.Probability(5), pc.Probability(6)]}
    trace = llama.causal_trace(IDS, [0, 1], **options)
    both = llama.trace_facts([(IDS, [0, 1]), (IDS[::-1], [1])], **options)
    estimate = llama.attribution_patch(IDS[::-1], IDS, sites="mlp_out", read=options["read"], check=0)
    for found in (trace, both, estimate):
        assert found.reads == ("probability", "probability:2")
        assert not np.allclose(found.dataset["probability"].values, found.dataset["probability:2"].values)
        assert pc.open(found.save(tmp_path / found.kind)) == found
    alone = llama.causal_trace(IDS, [0, 1], **{**options, "read": pc.Probability(6)})
    assert np.allclose(trace.dataset["probability:2"].values, alone.dataset["probability"].values, rtol=1e-12)
    assert np.allclose(trace.dataset["clean:probability:2"].values, alone.dataset["clean:probability"].values)


@pytest.mark.usefixtures("without_pictures")
def test_plain_modules_sites_are_reads_sweeps_sources_and_records(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3)).double().eval()
    model, x = pc.wrap(net), torch.randn(2, 4, dtype=torch.float64)
    edits = [pc.Scale(2.0), pc.Zero(site="2:out")]
    grid = model.sweep(x, edits, sites=["0:out", "1:out"], read=[pc.Activation("2:in"), pc.Activation("0:out")])
    with torch.no_grad():
        hidden = net[0](x)
        assert np.allclose(grid.data["2:in"].sel(site="0:out").values, torch.tanh(2 * hidden))
        assert np.allclose(grid.data["2:in"].sel(site="1:out").values, 2 * torch.tanh(hidden))
        assert np.allclose(grid.data["0:out"].sel(site="0:out").values, 2 * hidden)
    opened = pc.open(grid.save(tmp_path / "grid"))
    assert opened == grid
    assert isinstance(opened, pc.Grid)
    assert opened.reads == ("2:in", "0:out")
    acts = model.record(x, ["0:out", "2:in", "0:out.n1"])
    assert pc.open(acts.save(tmp_path / "acts")) == acts
    assert torch.equal(acts["0:out.n1"].flatten(), hidden[:, 1])


def test_edits_of_a_list_stay_where_they_say(llama: pc.Model) -> None:
    """By plain hooks: two edits with places of their own, alone in a cell and beside one that is swept."""
    own = [pc.Add(V, site="mlp_out.1", at=1), pc.Add(W, site="attn_out.2", at=3)]
    changes = [
        ("model.layers.1.mlp", "out", by_hand.at(1, lambda x: x + V)),
        ("model.layers.2.self_attn", "out", by_hand.at(3, lambda x: x + W)),
    ]
    grid = llama.sweep(IDS, own, read=pc.Logits(at="all"))
    assert grid.data["site"].values.tolist() == ["mlp_out.1, attn_out.2"]
    assert torch.allclose(torch.from_numpy(grid.data.values).squeeze(), by_hand.run(llama.module, IDS, changes))
    for cumulative in (False, True):
        grid = llama.sweep(
            IDS, [own[0], pc.Scale(3.0), own[1]], sites="mlp_out", at="each", cumulative=cumulative, read=pc.Logits()
        )
        for top in range(3):
            swept = [
                (f"model.layers.{i}.mlp", "out", by_hand.at(2, lambda x: 3 * x))
                for i in range(0 if cumulative else top, top + 1)
            ]
            wanted = by_hand.run(llama.module, IDS, [changes[0], *swept, changes[1]])[-1]
            found = torch.from_numpy(grid.data.sel(layer=top, position=2).values).squeeze()
            assert torch.allclose(found, wanted, rtol=1e-12), (cumulative, top)
    same = llama.sweep(IDS, [e.on("mlp_out.1") for e in own], read=pc.Logits())
    assert same.data.sizes["layer"] == 1, "edits that name the same sites are swept over them"


@given(st.data())
@settings(max_examples=examples(8, 80), suppress_health_check=[HealthCheck.too_slow])
def test_any_list_of_edits_is_that_run(llama: pc.Model, data: st.DataObject) -> None:
    """Sites and positions said or left open in any mixture: each cell is the run of the placed edits, or all is refused."""
    sites = data.draw(st.sampled_from([None, "mlp_out.1", "resid_post.0"]))
    at = data.draw(st.sampled_from([None, 2, "each", "last"]))
    places = data.draw(
        st.lists(
            st.tuples(
                st.sampled_from([None, "mlp_out.1", "attn_out.2", "resid_post.0"]),
                st.sampled_from([None, 0, 2, "all", -1]),
            ),
            min_size=1,
            max_size=3,
        )
    )
    edits = [pc.Add(V if i % 2 else W, float(i + 1)).on(site) for i, (site, _) in enumerate(places)]
    edits = [edit if where is None else edit.on(at=where) for edit, (_, where) in zip(edits, places, strict=True)]
    named = {site for site, _ in places if site}
    swept = sites or (next(iter(named)) if len(named) == 1 else None)
    told = any(where is None or where == at or (at == "last" and where == -1) for _, where in places)
    open_site = any(site is None for site, _ in places)
    contradicts = (sites is not None and not (open_site or sites in named)) or (at is not None and not told)
    if contradicts or (swept is None and open_site):
        with pytest.raises((pc.EditError, pc.InputError)):
            llama.sweep(IDS, edits, sites=sites, at=at, read=pc.Logits())
        return
    grid = llama.sweep(IDS, edits, sites=sites, at=at, read=pc.Logits())
    here = 2 if at == "each" else at
    placed = [
        edit.on(edit.site or swept, at=("all" if here is None else here) if where is None else where)
        for edit, (_, where) in zip(edits, places, strict=True)
    ]
    cell = grid.data.isel(position=2) if at == "each" else grid.data
    assert np.allclose(cell.values.squeeze(), llama.run(IDS, placed).logits[0, -1], rtol=1e-11)


def test_what_contradicts_or_has_no_effect_is_refused(llama: pc.Model) -> None:
    add = pc.Add(V)
    for edit, options, said in (
        (add.on("mlp_out.1"), {"sites": "attn_out"}, r"sites=\['attn_out'\] contradicts .*site=\['mlp_out.1'\]"),
        (add.on(at=1), {"sites": "mlp_out", "at": 2}, "at=2 contradicts .* at=1"),
        (add.on(at="all"), {"sites": "mlp_out", "at": "each"}, "at='each' contradicts .* at='all'"),
        ([add, add.on("mlp_out.1"), add.on("z.1")], {}, "say what is swept"),
        (add, {"sites": "mlp_out", "at": "each", "over": {"at": [0, 1]}}, "both say where"),
        (add, {"sites": "mlp_out", "at": 1, "over": {"at": [0, 1]}}, "both say where"),
        (add.on(at="each"), {"sites": "mlp_out", "over": {"at": [0, 1]}}, "both say where"),
        ([add.on(at=1), add.on(at=2)], {"sites": "mlp_out", "over": {"at": [0, 1]}}, "would change every edit"),
        (add, {"sites": "mlp_out", "over": {"site": ["z.1"]}}, "sites are swept by sites="),
        (add, {"sites": "mlp_out", "over": {"at": "last"}}, "'at' is 'last'; valid: a list"),
        (add, {"sites": "mlp_out", "over": {"factor": [1.0]}}, "unknown parameter"),
        (pc.Scale(2.0), {"sites": "mlp_out", "over": {"about": [V, W]}}, "no edit has directions"),
    ):
        with pytest.raises((pc.EditError, pc.InputError), match=said):
            llama.sweep(IDS, edit, read=pc.Logits(), **options)
    grid = llama.sweep(
        IDS,
        [pc.Zero(site="mlp_out.2", at=0), add],
        sites="mlp_out.1",
        over={"scale": [1.0, 2.0], "at": [1, 1]},
        read=pc.Logits(),
    )
    wanted = llama.run(IDS, [pc.Zero(site="mlp_out.2", at=0), pc.Add(V, 2.0, site="mlp_out.1", at=1)]).logits[0, -1]
    assert np.allclose(grid.data.sel(scale=2.0).values.squeeze(), wanted.expand(2, -1)), (
        "over changes edits that have it"
    )


@pytest.mark.usefixtures("without_pictures")
def test_an_unsaid_place_stays_unsaid_when_saved(tmp_path: Path, llama: pc.Model) -> None:
    edits = [pc.Add(V), pc.Add(V, at="all")]
    assert edits[0] == edits[1], "they do the same"
    again = load_edits(save_edits(edits, tmp_path / "edits"))
    assert llama.sweep(IDS, again[0], sites="mlp_out", at="each", read=pc.KL()).data.sizes["position"] == 5
    with pytest.raises(pc.EditError, match="contradicts"):
        llama.sweep(IDS, again[1], sites="mlp_out", at="each", read=pc.KL())
    grid = llama.sweep(IDS, [pc.Zero(site="z.1", at=1), *edits[:1]], sites="mlp_out", at="each", read=pc.KL())
    assert pc.repeat(grid.save(tmp_path / "grid"), llama) == grid


def test_each_prompt_takes_its_own_source_position(llama: pc.Model) -> None:
    both = [IDS, IDS[::-1]]
    for at in (-1, pc.per_prompt([0, 4]), [1, 0], [1, 1], slice(-2, None)):
        where = [0, 3] if isinstance(at, list | slice) else 2
        one_by_one = [[at.each[i]] if isinstance(at, pc.per_prompt([0]).__class__) else at for i in range(2)]
        for make in (pc.Patch, lambda s: pc.Rotate(s, rank=3, d=32, seed=1)):
            found = llama.run(both, make(pc.source(OTHERS, at=at)).on("mlp_out.1", at=where)).logits
            for i in range(2):
                own = make(pc.source(OTHERS[i], at=one_by_one[i])).on("mlp_out.1", at=where)
                assert torch.allclose(found[i], llama.run(both[i], own).logits[0], rtol=1e-11)
    mean = pc.MeanAblate(pc.source(OTHERS, at=-1), site="mlp_out.1", at=1)
    acts = llama.record(OTHERS, "mlp_out.1", at="last")["mlp_out.1"].mean(0)
    by_vector = llama.run(IDS, pc.Patch(acts, site="mlp_out.1", at=1)).logits
    assert torch.allclose(llama.run(IDS, mean).logits, by_vector, rtol=1e-11)


@pytest.mark.parametrize("count", [2, 4])
def test_surplus_and_missing_sources_are_refused(llama: pc.Model, count: int) -> None:
    sources = tiny.ids(count, 5)
    for given_ in (sources, pc.source(sources, at=-1), llama.record(sources, "mlp_out")):
        for edit in (pc.Patch(given_, site="mlp_out.1", at=1), pc.Rotate(given_, rank=2, d=32, site="mlp_out.1", at=1)):
            missing = f"has {count} prompts and there are 3|prompt number 2 is not among them"
            with pytest.raises(pc.InputError, match=missing):
                llama.run([IDS] * 3, edit)
    llama.run([IDS] * count, pc.Patch(sources, site="mlp_out.1", at=1))


OUTSIDE = ("embed", "final_norm", "logits", "model.norm:out", "lm_head:out")
RAW = ["model.layers.1:in", "model.layers.1:out", "model.layers.0:out", DOWN, "model.norm:out", "lm_head:out"]


@pytest.mark.parametrize("strategy", ["wavefront", "layers", "rows"])
def test_a_forced_strategy_is_exact_or_refused(llama: pc.Model, strategy: str) -> None:
    """Edits against reads, component and module paths: equal to one forward a cell, or refused with the one that shares most."""
    edits = ["resid_post.0", "resid_pre.1", "mlp_out.1", "model.layers.1:out", "model.layers.1:in"]
    reads = [*RAW, "embed", "resid_pre.1", "resid_post.1", "final_norm", "logits"]
    for site in edits:
        for name in reads:
            options = {"sites": site, "at": [1, 4], "read": pc.Activation(name, at=[0, 1, 4])}
            if name in OUTSIDE and strategy != "rows":
                with pytest.raises(pc.InputError, match="the one that does and shares most is strategy='rows'"):
                    llama.sweep(IDS, pc.Scale(1.7), strategy=strategy, **options)
                continue
            fast = llama.sweep(IDS, pc.Scale(1.7), strategy=strategy, **options)
            slow = llama.sweep(IDS, pc.Scale(1.7), strategy="cell", **options)
            assert np.allclose(fast.data.values, slow.data.values, rtol=1e-10), (site, name)


def test_vetoes_hold_for_forced_strategies(llama: pc.Model) -> None:
    options = {"sites": "mlp_out", "at": 1, "read": pc.Logits()}
    for edit, changes, said in (
        (pc.Call(lambda x: 2 * x), {}, "opaque"),
        (pc.Zero(), {"sites": "model.norm:out"}, "lies outside the layers"),
        (pc.Zero(), {"base": [pc.Zero(site="model.norm:out")]}, "lies outside the layers"),
        (pc.Zero(), {"read": [pc.Activation(DOWN), pc.Activation("final_norm")]}, "final_norm lies outside"),
        (pc.Zero(), {"strategy": "wavfront"}, "did you mean 'wavefront'"),
    ):
        with pytest.raises(pc.InputError, match=said):
            llama.sweep(IDS, edit, **{"strategy": "wavefront", **options, **changes})
    handle = llama.module.register_forward_hook(lambda *_: None)
    try:
        with pytest.raises(pc.InputError, match="the one that does and shares most is strategy='cell'"):
            llama.sweep(IDS, pc.Zero(), strategy="rows", **options)
    finally:
        handle.remove()


def test_the_old_name_of_the_strategy_is_accepted(llama: pc.Model, tmp_path: Path) -> None:
    options: dict[str, Any] = {"sites": "mlp_out", "at": 1, "read": pc.Logits()}
    now = llama.sweep(IDS, pc.Zero(), strategy="rows", **options)
    before = llama.sweep(IDS, pc.Zero(), rung="rows", **options)
    assert now.plan.strategy == before.plan.strategy == before.plan.rung == "rows" != llama.ladder.rung
    assert before.record["parameters"]["strategy"] == "rows"
    assert "rung" not in before.record["parameters"]
    old = {"rung" if name == "strategy" else name: value for name, value in before.plan.as_record().items()}
    assert pc.Plan.from_record(old) == before.plan
    parameters = {("rung" if n == "strategy" else n): value for n, value in before.record["parameters"].items()}
    before.record["parameters"] = parameters
    before.save(tmp_path)
    again = pc.repeat(tmp_path, model=llama)
    assert again.plan.strategy == "rows"
    assert np.array_equal(again.data, now.data)
    with pytest.raises(pc.InputError, match="got strategy twice, also by its old name rung"):
        llama.sweep(IDS, pc.Zero(), strategy="rows", rung="cell", **options)
    with pytest.raises(pc.InputError, match="rung"):
        llama.run(IDS, [pc.Zero(site="mlp_out.1")], rung="rows")  # which has no such parameter by either name


def test_positions_are_read_in_the_order_of_the_list(llama: pc.Model) -> None:
    everything = llama.record(IDS, "resid_post.1")["resid_post.1"][0]
    for at in ([3, 1], [1, 1, -1], [slice(2, 4), 0, 2]):
        wanted = [p for item in at for p in (range(5)[item] if isinstance(item, slice) else [item])]
        assert torch.equal(llama.record(IDS, "resid_post.1", at=at)["resid_post.1"][0], everything[wanted])
        assert torch.equal(
            llama.run(IDS, record="resid_post.1", at=at).activations["resid_post.1"][0], everything[wanted]
        )
        grid = llama.sweep(IDS, pc.Scale(1.0), sites="embed", read=pc.Activation("resid_post.1", at=at))
        assert np.allclose(grid.baseline.values[0], everything[wanted])
    once = llama.run(IDS, pc.Add(V, site="mlp_out.1", at=[2, 2])).logits
    assert torch.equal(once, llama.run(IDS, pc.Add(V, site="mlp_out.1", at=2)).logits), (
        "an edit acts once at a position"
    )


def test_prompts_read_at_unequal_numbers_of_positions(llama: pc.Model) -> None:
    """A prompt that is read at one position fills the first place alone."""
    at = pc.per_prompt([[2], [0, 3]])
    grid = llama.sweep([IDS, IDS], pc.Zero(), sites="mlp_out.1", at=0, read=pc.Probability(5, at=at))
    found = grid.data.values.reshape(2, 2)
    assert np.isnan(found[0]).tolist() == [False, True]
    for row, place, position in ((0, 0, 2), (1, 0, 0), (1, 1, 3)):
        alone = llama.sweep(IDS, pc.Zero(), sites="mlp_out.1", at=0, read=pc.Probability(5, at=position))
        assert np.isclose(found[row, place], alone.data.values.item(), rtol=1e-12)
    with pytest.raises(pc.InputError, match="read as many positions in both"):
        llama.patch(OTHERS[0], IDS, align="left", sites="mlp_out", read=pc.KL(at="all"))
    with pytest.raises(pc.InputError, match="names the last position"):
        llama.sweep(IDS, pc.Zero(), sites="mlp_out.1", read=pc.Loss(at=[0, -1]))


def test_a_sweep_of_positions_is_repeated(llama: pc.Model, tmp_path: Path) -> None:
    """The position that an edit does not say is no second say on where it acts."""
    over = {"at": [0, (0, 1), "last", pc.per_prompt([2, 4])]}
    grid = llama.sweep([*OTHERS[1:], IDS], pc.Add(V), sites="mlp_out", over=over, read=pc.Logits())
    assert pc.repeat(grid.save(tmp_path / "grid"), llama).data.identical(grid.data)
    assert len({row.tobytes() for row in grid.data.transpose("at", ...).values}) == 4

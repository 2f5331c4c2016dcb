"""What is drawn is what was found: values, places, limits and labels of the figures that other files leave out."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

import patchclamp as pc
from patchclamp.figures import average as averages
from patchclamp.figures import (
    contributions,
    generation,
    heads,
    lens_curves,
    neurons,
    probes,
    rewrite,
    trace,
    weights,
)
from patchclamp.figures.grid import Panel, heat
from patchclamp.figures.heat_maps import draw_map
from patchclamp.figures.lens import Picture, _range
from patchclamp.figures.strip import interval, strip
from patchclamp.figures.style import limits, thin
from tests import tiny

IDS = tiny.ids(1, 6)


def axis() -> Any:
    return Figure().subplots()


def lines(axis: Any) -> dict[str, Any]:
    return {line.get_label(): line for line in axis.lines}


def same(found: Any, wanted: Any) -> None:
    np.testing.assert_allclose(np.asarray(found, dtype=float), np.asarray(wanted, dtype=float))


# what several figures share


@pytest.mark.parametrize(
    ("values", "baseline", "wanted"),
    [
        ([1.0, 4.0], 2.0, ("cividis", 0.0, 4.0)),
        ([0.0, 0.0], None, ("cividis", 0.0, 1.0)),
        ([-1.0, 4.0], None, ("RdBu_r", -4.0, 4.0)),
        ([-1.0, 4.0], 3.0, ("RdBu_r", -1.0, 7.0)),
        ([-6.0, 4.0], 1.0, ("RdBu_r", -6.0, 8.0)),
        ([-6.0, np.nan], np.nan, ("RdBu_r", -6.0, 6.0)),
        ([-2.0, np.inf], -2.0, ("RdBu_r", -3.0, -1.0)),
    ],
)
def test_colours_are_centred_on_the_baseline(values: list[float], baseline: float | None, wanted: Any) -> None:
    assert limits(np.array(values), baseline) == wanted


def test_thinning_takes_every_nth() -> None:
    assert thin(list("abcdefg"), 3) == [(0, "a"), (3, "d"), (6, "g")]
    assert thin(list("abc"), 3) == [(0, "a"), (1, "b"), (2, "c")]
    assert thin([], 3) == []


def test_a_heat_map_has_its_panels_range_unless_told() -> None:
    panel = Panel(
        "t", np.arange(6.0).reshape(2, 3), ("0", "1"), ("a", "b", "c"), None, "layer", "token", ("RdBu_r", -5.0, 5.0)
    )
    image = heat(axis(), panel, "down", None, None)
    assert (image.get_clim(), image.get_cmap().name) == ((-5, 5), "RdBu_r")
    assert heat(axis(), panel, "down", -1.0, 2.0).get_clim() == (-1, 2)
    turned = axis()
    same(heat(turned, panel, "right", None, None).get_array(), panel.values.T)
    assert [t.get_text() for t in turned.get_xticklabels()] == ["0", "1"]


def test_a_map_of_a_range_from_zero_on_has_no_middle_though_a_number_lies_below() -> None:
    values = np.array([[-0.1, 0.5]])
    told = draw_map(axis(), values, ["a"], ["b", "c"], low=0.0, high=1.0)
    assert (told.get_clim(), told.get_cmap().name) == ((0, 1), "cividis")
    assert draw_map(axis(), values, ["a"], ["b", "c"]).get_cmap().name == "RdBu_r"


def test_a_strip_has_a_line_a_name_from_the_top() -> None:
    mean: list[dict[str, float]] = [
        {"mean": 1.0, "low": 0.5, "high": 2.0},
        {"mean": 3.0, "low": np.nan, "high": np.nan},
    ]
    drawn = axis()
    strip(drawn, ["a", "b"], [[1.0, 2.0], [3.0]], mean)
    assert [len(dots.get_offsets()) for dots in drawn.collections] == [2, 1]
    assert all(abs(y - row + 0.12) <= 0.16 for row, dots in enumerate(drawn.collections) for _, y in dots.get_offsets())
    assert drawn.get_ylim() == (1.5, -0.5)
    spans = [line.get_xdata().tolist() for line in drawn.lines if line.get_marker() == "None"]
    assert spans == [[0.5, 2.0]], "no interval where there is none"
    again, other = axis(), axis()
    strip(again, ["a", "b"], [[1.0, 2.0], [3.0]], mean)
    strip(other, ["a", "b"], [[1.0, 2.0], [3.0]], mean, seed=1)
    assert np.array_equal(again.collections[0].get_offsets(), drawn.collections[0].get_offsets())
    assert not np.array_equal(other.collections[0].get_offsets(), drawn.collections[0].get_offsets())
    alone = axis()
    interval(alone, mean[0], 4.0)
    assert [line.get_ydata().tolist() for line in alone.lines] == [[4, 4], [4]]


def test_colours_of_a_lens_end_where_they_say() -> None:
    assert _range("probability", np.array([0.2])) == (0.0, 1.0, "")
    assert _range("rank", np.array([1.0, 7.0])) == (1.0, 7.0, ", from 1")
    assert _range("rank", np.array([1.0])) == (1.0, 2.0, ", from 1")
    assert _range("entropy", np.array([1.0, np.nan, 3.0])) == (0.0, 3.0, "")
    assert _range("kl", np.array([1.0, 20.0])) == (0.0, 20.0, "")
    assert _range("kl", np.array([1.0, 20.5])) == (0.0, 20.0, ", colours end at 20")
    assert _range("log_probability", np.array([-21.0])) == (-20.0, 0.0, ", colours end at 20")
    assert _range("log_probability", np.array([-19.0])) == (-20.0, 0.0, "")
    shown = Picture(np.array([1.0, 10.0, 100.0, 1000.0]), None, None, (), (), (), 1.0, 100.0, "cividis", True, "")
    same(shown.shade(), [0, 0.5, 1, 1])


# runs, generations, recordings


def test_a_run_is_a_bar_a_token(llama: pc.Model) -> None:
    run = llama.run(tiny.ids(2, 4))
    drawn = run.figure(k=3)
    table = run.top(3)
    for number, one in enumerate(drawn.axes[:2]):
        same([bar.get_width() for bar in one.patches], table["probability"][number * 3 : number * 3 + 3])
        assert one.yaxis_inverted()


def test_norms_of_a_recording(llama: pc.Model) -> None:
    acts = llama.record(tiny.ids(2, 4), ["resid_post", "z"])
    drawn = [one for one in acts.figure(prompt=1).axes if one.images]
    same(drawn[0].images[0].get_array(), acts["resid_post"][:, 1].norm(dim=-1))
    same(drawn[1].images[0].get_array(), acts["z"][:, 1].flatten(-2).norm(dim=-1))
    assert isinstance(drawn[0].images[0].norm, LogNorm)
    assert [one.get_title() for one in drawn] == ["‖resid_post‖", "‖z‖"]


def test_generated_tokens_alternate_and_wrap() -> None:
    found: Any = SimpleNamespace(prompts=["one", "two"], tokens=[["a" * 20] * 6, [" b"]])
    texts = generation.figure(found).axes[0].texts
    assert [text.get_text() for text in texts] == ["one", *["a" * 20] * 6, "two", "·b"]
    colours = [text.get_color() for text in texts[1:7]]
    assert colours == [colours[0], colours[1]] * 3
    assert colours[0] != colours[1]
    places = [text.get_position() for text in texts]
    assert places[5] == (0.0, places[5][1]), "four of twenty letters fit in a line of 96"
    same([x for x, _ in places[1:5]], [20 * i / 98 for i in range(4)])
    same([y for _, y in (places[0], places[1], places[5], places[7], places[8])], [1 - (n + 0.6) / 5 for n in range(5)])


# traces, heads, neurons, contributions


def test_a_trace_stands_beside_the_means_of_its_layers(llama: pc.Model) -> None:
    found = llama.causal_trace(IDS, [1, 2], 9, sites=["mlp_out", "resid_post"], samples=2, window={"mlp_out": 2})
    cut = trace.panels(found)
    assert [one.title for one in cut] == ["mlp_out, 2 layers restored", "resid_post restored"]
    assert [label.endswith("*") for label in cut[0].x] == [False, True, True, False, False, False]
    assert cut[0].scale == cut[1].scale == limits(found.mean()["effect"].values, 0.0)
    drawn = found.figure()
    sides = [one for one in drawn.axes if one.patches and not one.images and one.get_xlabel() == "layer mean"]
    for one, site in zip(sides, ("mlp_out", "resid_post"), strict=True):
        same([bar.get_width() for bar in one.patches], found.layer_means().sel(site=site))
        assert one.get_ylim() == (2.5, -0.5)
    turned = [one for one in found.figure(layers="right").axes if one.get_ylabel() == "mean"]
    same([bar.get_height() for bar in turned[0].patches], found.layer_means().sel(site="mlp_out"))


def test_neurons_are_drawn_without_their_sign(llama: pc.Model) -> None:
    found = llama.neuron_importances(IDS, [1, 2], 9, samples=1, verify=0)
    strongest, mean = neurons.panels(found)
    same(strongest.values, abs(found.dataset["effect"].isel(rank=0)))
    same(mean.values, found.dataset["importance"] / 48)
    sides = [one for one in found.figure().axes if one.get_xlabel() == "layer mean"]
    same([bar.get_width() for bar in sides[0].patches], abs(found.dataset["effect"].isel(rank=0)).values[:, 1:].mean(1))
    same([bar.get_width() for bar in sides[1].patches], found.layer_means())


def test_averages_leave_out_roles_without_facts() -> None:
    dims, roles = ("site", "layer", "role"), ["last subject token", "first subsequent token", "last token"]
    effect = np.array([[[0.1, np.nan, 0.3], [0.4, np.nan, -0.6]]])
    mean = xr.Dataset(
        {
            "effect": (dims, effect),
            "low": (dims, effect - 0.1),
            "high": (dims, effect + 0.2),
            "count": ("role", [3, 0, 2]),
        },
        coords={"site": ["mlp_out"], "layer": [0, 1], "role": roles},
    )
    found: Any = SimpleNamespace(
        mean=lambda _: mean, named=lambda _: "probability", dataset=SimpleNamespace(sizes={"fact": 3}),
        total_effect=lambda _: xr.DataArray([0.25, 0.5, 0.75], dims="fact"),
    )  # fmt: skip
    (panel,) = averages.panels(found)
    assert panel.x == ("last subject (3)", "last (2)")
    same(panel.values, effect[0][:, [0, 2]])
    assert panel.scale == ("RdBu_r", -0.6, 0.6)
    drawn = averages.figure(found)
    curves = next(one for one in drawn.axes if "last token" in lines(one))
    assert set(lines(curves)) & set(roles) == {"last subject token", "last token"}
    same(lines(curves)["last token"].get_ydata(), [0.3, -0.6])
    same(curves.collections[1].get_paths()[0].get_extents().intervaly, [-0.7, 0.5])
    assert drawn.get_suptitle() == "3 facts, average total effect 0.500"


def test_the_strongest_heads_are_named() -> None:
    values = np.array([[0.1, 0.9, 0.2], [0.8, -0.3, 0.7], [np.nan, 0.6, 0.5]])
    panel = Panel("", values, ("0", "1", "2"), ("0", "1", "2"), None, "layer", "head", limits(values, 0.0))
    for layers, swap in (("down", False), ("right", True)):
        drawn = axis()
        heads._name(drawn, panel, layers)  # type: ignore[arg-type]
        named = {text.get_text(): tuple(int(x) for x in text.get_position()) for text in drawn.texts}
        wanted = {"0.1": (1, 0), "1.0": (0, 1), "1.2": (2, 1), "2.1": (1, 2)}
        assert named == {name: place[::-1] if swap else place for name, place in wanted.items()}
    null = xr.DataArray(
        [[[0.1, 0.4], [0.2, np.nan]]], dims=("score", "layer", "head"), coords={"score": ["copying"]}
    ).expand_dims(control=["shuffled"])
    assert heads.shuffled_level(SimpleNamespace(dataset={"null_high": null}), "copying") == 0.4  # type: ignore[arg-type]
    assert heads.shuffled_level(SimpleNamespace(dataset={"null_high": null * np.nan}), "copying") is None  # type: ignore[arg-type]


def test_head_scores_are_the_results(llama: pc.Model) -> None:
    found = llama.head_scores(length=4, samples=1, draws=2)
    drawn = [one for one in found.figure(scores="induction").axes if one.images]
    same(drawn[0].images[0].get_array(), found.dataset["value"].sel(score="induction").transpose("layer", "head"))


def test_contributions_are_summed_over_heads_by_layer(llama: pc.Model) -> None:
    found = llama.contributions(tiny.ids(1, 4), [5, 9], heads=True)
    one = found.data.isel(position=0, answer=1)
    names, layers = [str(n) for n in one["component"].values], one["layer"].values
    bars = [patch for patch in found.figure().axes[1].patches]
    for start, kind in ((0, "attn_out"), (3, "mlp_out")):
        wanted = [
            sum(
                float(v)
                for v, n, at in zip(one.values, names, layers, strict=True)
                if n.split(".")[0] == kind and at == k
            )
            for k in range(3)
        ]
        same([bar.get_height() for bar in bars[start : start + 3]], wanted)
    rest = [bar.get_height() for bar in bars[6:]]
    same(sorted(rest), sorted(float(v) for v, n in zip(one.values, names, strict=True) if n in ("embed", "bias")))
    table = contributions.by_head(one)
    assert table.shape == (3, 4)
    for layer, head in ((0, 0), (2, 3)):
        (index,) = [i for i, n in enumerate(names) if n.endswith(f".{layer}.h{head}")]
        assert table[layer, head] == float(one.values[index])
    images = [a.images[0] for a in found.figure().axes if a.images]
    same(images[1].get_array(), table.T)
    assert images[1].get_clim()[0] == -images[1].get_clim()[1]
    assert found.figure().axes[1].get_title().endswith(f"logit {float(found.logit.isel(position=0)[1]):.2f}")


def test_curves_of_a_corpus_are_means_or_medians(llama: pc.Model) -> None:
    found = llama.lens_curves(tiny.ids(3, 8), length=8)
    drawn = found.figure(beside={"other": found})
    summary = found.summary()
    for one, metric in zip(drawn.axes, lens_curves.SHOWN, strict=True):
        middle, low, high = (
            ("median", "median_low", "median_high") if metric in ("rank", "kl") else ("mean", "low", "high")
        )
        row = summary.sel(metric=metric)
        assert list(lines(one)) == ["logit lens", "other"]
        same(lines(one)["logit lens"].get_ydata(), row[middle])
        band = one.collections[0].get_paths()[0].get_extents().intervaly
        same(band, [np.maximum(row[low], 0).min(), row[high].max()])
    with pytest.raises(pc.InputError, match="1..4 curves"):
        found.figure(beside={str(i): found for i in range(4)})


def test_a_spectrum_stands_beside_random_ones(llama: pc.Model) -> None:
    found = llama.weight_lens(["ov.1.h0", "mlp_out.1"], directions=3, k=2, draws=3)
    name = found.matrices[1]
    drawn = found.figure(matrix=name, directions=2)
    one = found.data.sel(matrix=name)
    kept = np.isfinite(one["singular_value"].values)
    same(lines(drawn.axes[0])[name].get_ydata(), one["singular_value"].values[kept])
    same(lines(drawn.axes[0])["random, same norm"].get_ydata(), one["control"].values[:, kept].mean(0))
    side = found.sides(name)[0]
    texts = [t for t in drawn.axes[1].texts if t.get_text()[0] in "+-"]
    assert len(texts) == 2 * 2
    bold = [t.get_fontweight() == "bold" for t in texts]
    assert bold == [bool(v) for v in found.passes(name, side)[:2].ravel()]
    with pytest.raises(pc.InputError, match="at least one direction"):
        weights.figure(found, directions=0)
    assert found.matrices[0] in lines(found.figure().axes[0])


def test_a_rewrite_shows_its_search_and_its_answers() -> None:
    curve = pd.DataFrame({"step": [0, 1], "nll": [3.0, 1.0], "kl": [0.5, 1.5], "decay": [2.0, 4.0]})
    table = xr.DataArray(
        np.arange(8.0).reshape(2, 2, 2) / 10, dims=("context", "answer", "moment"), coords={"answer": [" a", " b"]}
    )
    found: Any = SimpleNamespace(
        curve=lambda: curve, record={"parameters": {"kl": 0.5, "decay": 0.25}}, probability=table
    )
    left, right = rewrite.figure(found).axes
    same([line.get_ydata() for line in left.lines], [[3, 1], [0.25, 0.75], [0.5, 1]])
    assert [line.get_label() for line in left.lines] == ["surprisal of the target", "0.5 x divergence", "0.25 x decay"]
    before, after = right.lines[0], right.lines[1]
    same((before.get_xdata(), after.get_xdata(), after.get_ydata()), ([0.0, 0.4], [0.1, 0.5], [-0.15, 0.85]))
    assert lines(right)["·b"].get_xdata().tolist() == [0.3, 0.7]


# probes


def test_probes_have_concepts_controls_and_intervals() -> None:
    dims = ("data", "probe", "task")
    values = np.arange(8.0).reshape(2, 2, 2) / 10
    data = xr.Dataset(
        {"accuracy": (dims, values), "loss": (dims, 1 + values), "low": (dims, values - 0.05), "high": (dims, values + 0.1),
         "chance_accuracy": 0.5, "chance_loss": 0.7},
        coords={"data": ["before", "random"], "probe": ["linear", "mlp"], "task": ["concept", "control"]},
    )  # fmt: skip
    left, right = probes.figure(SimpleNamespace(data=data, record={"parameters": {"rank": 3}})).axes  # type: ignore[arg-type]
    assert [t.get_text() for t in left.get_yticklabels()] == ["before", "after a random projection (rank 3)"]
    dots = [(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in left.lines if line.get_marker() == "o"]
    same(
        dots, [(0.0, -0.14), (0.1, -0.14), (0.2, 0.14), (0.3, 0.14), (0.4, 0.86), (0.5, 0.86), (0.6, 1.14), (0.7, 1.14)]
    )
    spans = [line.get_xdata() for line in left.lines[1:] if line.get_marker() == "None"]
    same(spans, [[v - 0.05, v + 0.1] for v in (0.0, 0.2, 0.4, 0.6)])
    assert all(len(line.get_xdata()) == 1 or line is right.lines[0] for line in right.lines), "the loss has no interval"

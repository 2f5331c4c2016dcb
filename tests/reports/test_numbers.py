"""The numbers on the pages are those of the results: which rows are shown, in what order, with what sign, and how they are written."""

import base64
import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from markupsafe import Markup

import patchclamp as pc
from patchclamp.figures.grid import Panel, panels
from patchclamp.reports import (
    activations,
    average,
    contributions,
    generation,
    grid,
    lens,
    neurons,
    page,
    trace,
    weights,
)
from patchclamp.reports.cells import Cells, Shade, aligned, scale, svg
from patchclamp.reports.heatmap import picture
from patchclamp.reports.page import embed_figure, render, result_page, table
from tests import tiny

IDS = tiny.ids(1, 6)


@pytest.fixture(autouse=True)
def _without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes long, and is tested where the figures are."""
    monkeypatch.setattr(page, "embed_figure", lambda figure: Markup("[{}]").format(type(figure).__name__))


def cells(drawn: Any) -> list[list[str]]:
    """The rows of a page's table."""
    return [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", str(drawn))][1:]


def body(parts: list[Any], title: str) -> str:
    (found,) = [str(part.body) for part in parts if part.title == title]
    return found


@pytest.fixture(scope="module")
def swept(llama: pc.Model) -> pc.Grid:
    found = llama.sweep(IDS, pc.Scale(2.0), sites="mlp_out", at="each", read=pc.LogitDifference(5, 9))
    values = np.arange(18.0).reshape(found.data.shape) / 100 - 0.06
    values.flat[3], values.flat[4], values.flat[7] = -5.0, 4.0, np.nan
    found.dataset["logit_difference"].values[:] = values
    found.dataset["baseline:logit_difference"].values[:] = 0.5
    return found


def test_the_strongest_cells_are_the_furthest_from_the_baseline_on_either_side(swept: pc.Grid) -> None:
    found = grid.strongest(swept)
    own = swept.data.values.ravel()
    order = sorted((i for i in range(18) if np.isfinite(own[i])), key=lambda i: -abs(own[i] - 0.5))
    assert found["logit_difference"].tolist()[:2] == [-5.0, 4.0], "a fall of 5.5 comes before a rise of 3.5"
    assert found["difference"].tolist()[:2] == [-5.5, 3.5]
    np.testing.assert_allclose(found["difference"], [own[i] - 0.5 for i in order])
    assert len(found) == 17, "the cell without a number is left out"
    assert len(grid.strongest(swept, 3)) == 3
    assert "prompt" not in found
    assert cells(body(grid.parts(swept), "Largest differences from the baseline"))[0][-2:] == ["-5.5", "-5"]


def test_a_sweep_of_several_prompts_names_them(llama: pc.Model) -> None:
    several = llama.sweep(tiny.ids(2, 3), pc.Scale(2.0), sites="mlp_out", at=-1, read=pc.KL())
    assert "prompt" in grid.strongest(several)


def test_a_picture_says_each_cells_place_and_number(swept: pc.Grid) -> None:
    (panel,) = panels(swept)
    drawn = picture(panel)
    assert drawn.tips[0][3] == f"layer 0\ntoken {panel.x[3]}\n-5\nbaseline 0.5"
    assert drawn.tips[1][1] == "", "a cell without a number"
    _, low, high = panel.scale
    assert (low, high) == (-5.0, 6.0), "as far above the baseline as the furthest below it"
    np.testing.assert_allclose(drawn.shades[0].places, (panel.values + 5) / 11)
    assert drawn.shades[0].mark == (0.5, "no edit: 0.5")
    assert (drawn.shades[0].low, drawn.shades[0].high) == ("-5", "6")
    assert drawn.turns
    curve = picture(Panel("c", np.array([0.25, 0.5]), (), ("a", "$b"), None, "", "dose", ("cividis", 0.25, 0.75)))
    assert curve.tips == [["dose a\n0.25", "dose $b\n0.5"]]
    assert (curve.shades[0].mark, curve.turns, curve.rows) == (None, False, ("",))
    np.testing.assert_allclose(curve.shades[0].places, [[0, 0.5]])
    outside = picture(Panel("c", np.array([1.0]), (), ("a",), 9.0, "", "dose", ("cividis", 0.0, 2.0)))
    assert outside.shades[0].mark == (1.0, "no edit: 9"), "a baseline beyond the colours lies at their end"


def test_a_scale_without_width_divides_by_one() -> None:
    np.testing.assert_allclose(scale([2.0, 4.0], 2, 4), [0, 1])
    np.testing.assert_allclose(scale([2.0, 2.5], 2, 2), [0, 0.5])


def test_cells_are_written_with_their_row_and_column() -> None:
    picture = Cells(
        "t", (Shade("x", np.zeros((1, 2)), "cividis", "0", "1", (0.5, "here")),), ("r",), ("a", "b"), [["one", ""]],
        above=("A", "B"), hits=np.array([[True, True]]), link="me", wide=30,
    )  # fmt: skip
    drawn = str(svg(picture))
    assert '<g data-r="0" data-c="0" data-tip="one" class="hit"><rect/></g>' in drawn
    assert drawn.count("<g ") == 1
    assert [re.search(rf'data-{name}="(\w+)"', drawn)[1] for name in ("wide", "high", "turns", "link")] == [
        "30",
        "13",
        "1",
        "me",
    ]
    assert re.findall(r'<text class="(\w+)" data-(\w)="(\d)">(\w)', drawn) == [
        ("row", "r", "0", "r"), ("column", "c", "0", "a"), ("column", "c", "1", "b"), ("above", "c", "0", "A"), ("above", "c", "1", "B"),
    ]  # fmt: skip
    assert "&#34;mark&#34;:[0.5,&#34;here&#34;]" in drawn
    assert 'class="aligned stacked"' in aligned([], stacked=True)
    assert 'class="aligned"' in aligned([])


@pytest.mark.parametrize(("columns", "wide"), [(1, 46), (20, 28), (100, 12)])
def test_cells_without_text_fit_the_page(columns: int, wide: int) -> None:
    one = Cells(
        "", (Shade("x", np.zeros((1, columns)), "cividis", "", ""),), ("r",), ("c",) * columns, [[""] * columns]
    )
    assert f'data-wide="{wide}"' in svg(one)


def traced(values: list[float]) -> Any:
    """A trace of one site, two layers and so many positions, whose mean effects are given."""
    count = len(values) // 2
    dims = ("site", "layer", "position")
    data = xr.Dataset(
        {"effect": (dims, np.reshape(values, (1, 2, count))), "standard_error": (dims, np.full((1, 2, count), 0.5))},
        coords={
            "site": ["mlp_out"],
            "layer": [0, 1],
            "position": range(count),
            "token": ("position", list("abc")[:count]),
        },
    )
    return SimpleNamespace(mean=lambda: data)


def test_the_largest_effects_of_a_trace_are_largest_without_their_sign() -> None:
    found = trace.strongest(traced([0.1, -0.9, 0.3, 0.2, 0.8, -0.05]), 3)
    assert found["effect"].tolist() == [-0.9, 0.8, 0.3]
    assert found["layer"].tolist() == [0, 1, 0]
    assert found["token"].tolist() == ["b", "b", "c"]
    assert len(trace.strongest(traced([0.0] * 6))) == 6


def test_the_average_shows_the_best_layer_of_each_role_and_every_fact() -> None:
    dims = ("site", "role", "layer")
    effect = np.array([[[0.1, 0.4, -0.9], [0.7, np.nan, 0.2], [np.nan] * 3]])
    data = xr.Dataset(
        {"effect": (dims, effect), "low": (dims, effect - 1), "high": (dims, effect + 2), "count": ("role", [3, 2, 0])},
        coords={"site": ["mlp_out"], "role": ["last", "first", "none"], "layer": [0, 1, 2]},
    )
    total = xr.DataArray(
        [0.2, -0.3, 0.9], dims="fact",
        coords={"fact": [0, 1, 2], "subject": ("fact", ["a", "b", "c"]), "answer": ("fact", ["x", "y", "z"])},
    )  # fmt: skip
    found: Any = SimpleNamespace(mean=lambda _: data, total_effect=lambda _: total)
    best = average.strongest(found)
    assert best[["role", "layer", "effect"]].values.tolist() == [["first", 0, 0.7], ["last", 1, 0.4]]
    np.testing.assert_allclose(best[["low", "high"]], [[-0.3, 2.7], [-0.6, 2.4]])
    assert average.facts(found)["subject"].tolist() == ["c", "a", "b"]


def test_contributions_are_ordered_without_their_sign(llama: pc.Model) -> None:
    found = llama.contributions(IDS, [5, 9])
    rows = cells(body(contributions.parts(found), "Largest"))
    added = [float(row[-1]) for row in rows]
    wanted = sorted(found.data.values.ravel(), key=lambda value: -abs(value))
    np.testing.assert_allclose(added, wanted[: len(added)], rtol=1e-3)
    assert min(added) < 0 < max(added)
    assert not any(part.title == "Before the cap" for part in contributions.parts(found))
    found.record["capped"] = True
    assert "the logit before the cap" in body(contributions.parts(found), "Before the cap")


def test_means_by_layer_are_those_of_the_lens(llama: pc.Model) -> None:
    found = llama.lens(tiny.ids(2, 4))
    table = lens.means(found)
    assert list(table["site"]) == ["resid_post.0", "resid_post.1", "resid_post.2"]
    for metric in ("entropy", "surprisal", "rank"):
        np.testing.assert_allclose(table[metric], np.nanmean(found.data[metric].values, axis=(0, 2)))
    shown = lens.cells(found, 1)
    one = found.data.isel(prompt=1)
    said = shown.tips[2][1].split("\n")
    assert said[0] == "resid_post.2, position 1"
    assert said[1].split() == [f"{one['top_probability'].values[2, 1, 0]:.4f}", str(one["top_token"].values[2, 1, 0])]
    assert said[-2:] == [f"{name} {one[name].values[2, 1]:.4g}" for name in ("entropy", "kl")]
    assert len(said) == 1 + one.sizes["top"] + 5


def test_a_page_of_many_cells_stops_at_the_first_prompts(llama: pc.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    found = llama.lens(tiny.ids(3, 4))
    assert [part.title for part in lens.parts(found)][-1] == "Means by layer"
    assert len(lens.parts(found)) == 3 + 1
    monkeypatch.setattr(lens, "MOST_CELLS", 24)
    titles = [part.title for part in lens.parts(found)]
    assert titles[2:] == ["More", "Means by layer"], "two prompts of 12 cells fit"
    assert "Prompts from number 2 on" in body(lens.parts(found), "More")
    swept = llama.sweep(IDS, pc.Scale(2.0), sites="mlp_out", at="each", read=pc.KL())
    assert '<svg class="cells"' in body(grid.parts(swept), "kl")
    monkeypatch.setattr(grid, "MOST_CELLS", 17)
    assert body(grid.parts(swept), "kl") == "[Figure]"


def test_the_strongest_neurons_stand_under_the_mouse(llama: pc.Model) -> None:
    found = llama.neuron_importances(IDS, [1, 2], 9, samples=1, verify=0)
    for drawn in neurons.cells(found):
        cell = found.dataset.isel(layer=2, position=3)
        lines = drawn.tips[2][3].split("\n")[-5:]
        assert lines == [
            f"neuron {int(n):>5}  {e:+.4g}"
            for n, e in zip(cell["neuron"].values[:5], cell["effect"].values[:5], strict=True)
        ]


def test_recordings_say_their_shapes(llama: pc.Model) -> None:
    rows = cells(activations.parts(llama.record(IDS, ["resid_post", "z.1"]))[0].body)
    assert rows[0][:3] == ["resid_post", "layer, prompt, position, d", "3 x 1 x 6 x 32"]
    assert rows[0][3] == "torch.float64"


def test_generated_tokens_have_borders(llama: pc.Model) -> None:
    made = llama.generate(IDS, max_new_tokens=3)
    (part,) = generation.parts(made)
    assert [token for token in re.findall(r"<span>(.*?)</span>", str(part.body))] == [str(t) for t in made.tokens[0]]


def test_weights_show_each_matrix_and_say_what_is_left_out(llama: pc.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    found = llama.weight_lens(["ov.1.h0", "mlp_out.1"], directions=1, k=2, draws=2)
    parts = weights.parts(found)
    assert [part.title for part in parts[1:]] == list(found.matrices)
    assert len(cells(parts[1].body)) == (found.frame()["matrix"] == found.matrices[0]).sum()
    monkeypatch.setattr(weights, "MOST", 1)
    assert "1 more matrices" in body(weights.parts(found), "More")


def test_tables_show_the_first_rows_and_four_digits() -> None:
    frame = pd.DataFrame({"a": [0.123456, 2.0, 12345.6], "<b>": ["<i>", "x", "y"]})
    drawn = str(table(frame, 2))
    assert "<th>&lt;b&gt;</th>" in drawn
    assert cells(drawn) == [["0.1235", "&lt;i&gt;"], ["2", "x"]]
    assert "<p>1 more rows in data.csv</p>" in drawn
    assert "more rows" not in table(frame, 3)
    assert len(cells(table(pd.DataFrame({"a": range(60)})))) == 50


def test_a_page_holds_its_evidence_and_title(llama: pc.Model) -> None:
    run = llama.run(IDS)
    run.record["command"] = "patchclamp run <x>"
    drawn = result_page(run)
    assert "<h1>Run: tokens</h1>" in drawn
    assert "patchclamp run &lt;x&gt;" in drawn
    assert re.search(r"^    &#34;weights_sha256&#34;", drawn, re.M), "indented, to be read"
    assert "<h1>&amp;</h1>" in render("&", [], {})
    saved: dict[str, Any] = {}

    def savefig(buffer: Any, **options: Any) -> None:
        saved.update(options)
        buffer.write(b"picture")

    figure = embed_figure(SimpleNamespace(savefig=savefig))
    assert base64.b64decode(str(figure).split("base64,")[1].split('"')[0]) == b"picture"
    assert saved == {"format": "png", "dpi": 160, "bbox_inches": "tight"}

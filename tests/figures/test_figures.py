"""Figures: the right picture for each shape of result, labelled, readable, deterministic."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import patchclamp as pc
from patchclamp.figures.grid import panels
from patchclamp.figures.style import limits, thin, visible
from patchclamp.reports.heatmap import heatmap
from tests import tiny

IDS = tiny.ids(1, 6)


@pytest.fixture(scope="module")
def grids(llama: pc.Model) -> dict[str, pc.Grid]:
    scale, read = pc.Scale(2.0), pc.Probability([5, 9])
    return {
        "layer by token": llama.sweep(IDS, scale, sites=["mlp_out", "attn_out"], at="each", read=read),
        "layer by head": llama.sweep(IDS, scale, sites="z.*.h*", at=-1, read=read),
        "layer by dose": llama.sweep(IDS, scale, sites="mlp_out", at=-1, over={"factor": [0.0, 1.0, 2.0]}, read=read),
        "layers": llama.sweep(IDS, scale, sites="mlp_out", at=-1, read=read),
        "doses": llama.sweep(
            IDS, scale, sites="mlp_out.1", at=-1, over={"factor": [0.0, 1.0, 2.0]}, read=pc.LogitDifference(5, 9)
        ),
        "tokens": llama.sweep(IDS, scale, sites="embed", at="each", read=read),
        "prompts": llama.sweep(tiny.ids(2, 4), scale, sites="mlp_out", at="each", read=pc.KL()),
    }


@pytest.mark.parametrize(
    ("name", "count", "y", "x"),
    [
        ("layer by token", 4, "layer", "token"),
        ("layer by head", 2, "layer", "head"),
        ("layer by dose", 2, "layer", "factor"),
        ("layers", 2, "", "layer"),
        ("doses", 1, "", "factor"),
        ("tokens", 2, "", "token"),
        ("prompts", 2, "layer", "token"),
    ],
)
def test_each_shape_gets_its_picture(grids: dict[str, pc.Grid], name: str, count: int, y: str, x: str) -> None:
    cut = panels(grids[name])
    assert len(cut) == count
    assert all((panel.y_name, panel.x_name) == (y, x) for panel in cut)
    drawn = grids[name].figure()
    assert sum(axis.get_visible() and bool(axis.get_title()) for axis in drawn.axes) == count


def test_panels_hold_the_results_numbers(grids: dict[str, pc.Grid]) -> None:
    grid = grids["layer by token"]
    for panel, (site, answer) in zip(
        panels(grid), [(s, a) for s in ("mlp_out", "attn_out") for a in range(2)], strict=True
    ):
        wanted = grid.data.sel(site=site).isel(prompt=0, answer=answer).transpose("layer", "position")
        assert np.array_equal(panel.values, wanted.values)
        assert panel.title.startswith(site)
        assert panel.baseline == float(grid.baseline.isel(prompt=0, answer=answer))


def test_layers_run_down_unless_turned(grids: dict[str, pc.Grid]) -> None:
    grid = grids["layer by token"]
    down, up, right = (grid.figure(layers=way).axes[:4] for way in ("down", "up", "right"))
    assert [axis.get_ylabel() for axis in down] == ["layer", "", "layer", ""], "labels at the left"
    assert [axis.get_xlabel() for axis in right] == ["", "", "layer", "layer"], "and at the bottom"
    assert down[0].yaxis_inverted()
    assert not up[0].yaxis_inverted()
    with pytest.raises(pc.InputError, match="unknown layers 'sideways'"):
        grid.figure(layers="sideways")


def test_one_answer_has_one_scale_of_colours(grids: dict[str, pc.Grid]) -> None:
    """Panels of the same answer can be compared by eye: MLP and attention share their colours."""
    drawn = grids["layer by token"].figure()
    assert len(drawn.axes) == 4 + 2, "one colour bar an answer"
    images = [axis.images[0] for axis in drawn.axes if axis.images]
    assert images[0].get_clim() == images[2].get_clim()
    assert images[1].get_clim() == images[3].get_clim()


def test_panels_of_different_prompts_keep_their_own_tokens(llama: pc.Model) -> None:
    two = [*tiny.ids(1, 4), *tiny.ids(1, 6, seed=5)]
    drawn = llama.sweep(two, pc.Scale(2.0), sites="mlp_out", at="each", read=[pc.KL()]).figure()
    assert [bool(axis.get_ylabel()) for axis in drawn.axes[:2]] == [True, False]
    tall = llama.sweep(two, pc.Scale(2.0), sites="mlp_out", at="each", read=pc.Probability([5, 9])).figure()
    assert all(axis.get_xlabel() for axis in tall.axes[:4]), "no panel stands below another with its tokens"


def test_an_unknown_read_and_too_many_panels_are_refused(grids: dict[str, pc.Grid], llama: pc.Model) -> None:
    with pytest.raises(pc.InputError, match="unknown read 'probabilty'; did you mean 'probability'"):
        grids["layers"].figure(read="probabilty")
    many = llama.sweep(tiny.ids(30, 3), pc.Scale(2.0), sites=["mlp_out", "attn_out"], at="each", read=pc.KL())
    with pytest.raises(pc.InputError, match="makes 60 panels"):
        many.figure()


def test_a_grid_of_too_many_panels_is_saved_without_a_picture(llama: pc.Model, tmp_path: Path) -> None:
    """A result can always be kept; a picture that was asked for is refused before anything is written."""
    grid = llama.sweep(tiny.ids(1, 3), pc.Scale(2.0), sites="mlp_out", at="each", read=[pc.Logits(), pc.KL()])
    with pytest.raises(pc.InputError, match="makes 97 panels"):
        grid.save(tmp_path / "refused", read="logits")
    assert not (tmp_path / "refused").exists()
    with pytest.warns(UserWarning, match="saved without a picture: this grid makes 97 panels"):
        grid.save(tmp_path / "kept")
    assert not [path for path in (tmp_path / "kept").iterdir() if path.stem == "figure"]
    assert pc.open(tmp_path / "kept") == grid
    grid.save(tmp_path / "kept", read="kl")
    assert (tmp_path / "kept" / "figure.svg").exists()


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=9), st.floats(-5, 5))
def test_colour_limits_cover_the_values(values: list[float], baseline: float) -> None:
    name, low, high = limits(np.array(values), baseline)
    assert low <= min(values) + 1e-9
    assert high >= max(values) - 1e-9
    if min(values) < 0:
        assert name == "RdBu_r"
        assert (low + high) / 2 == pytest.approx(baseline, abs=1e-9)
    else:
        assert (name, low) == ("cividis", 0.0)


def test_limits_of_nothing_and_of_nan() -> None:
    assert limits(np.array([np.nan]), None) == ("cividis", 0.0, 1.0)


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (" Spain", "·Spain"),
        ("\n", "⏎"),
        ("a$b", "a$b"),
        ("  x", "··x"),
        ("internationalisation", "international…"),
        ("", ""),
    ],
)
def test_tokens_show_their_whitespace(token: str, shown: str) -> None:
    assert visible(token) == shown


@given(st.lists(st.text(max_size=3), min_size=1, max_size=200), st.integers(1, 50))
def test_thinning_keeps_the_first_and_at_most_so_many(labels: list[str], most: int) -> None:
    kept = thin(labels, most)
    assert kept[0] == (0, labels[0])
    assert len(kept) <= most


def test_odd_tokens_do_not_break_the_picture_or_the_page(llama: pc.Model) -> None:
    grid = llama.sweep(IDS, pc.Scale(2.0), sites="mlp_out", at="each", read=pc.Probability([5]))
    grid.dataset["token"] = (
        ("prompt", "position"),
        np.array([["$", "<b>", "\n", "&amp;", "  ", "日本"]], dtype=object),
    )
    grid.figure().savefig(io.BytesIO(), format="png")
    page = str(heatmap(panels(grid)[0]))
    assert "<b>" not in page
    assert "&lt;b&gt;" in page
    assert page.count("<rect/>") == 18


def test_empty_cells_are_left_out_of_the_svg(llama: pc.Model) -> None:
    grid = llama.sweep(
        [*tiny.ids(1, 5), *tiny.ids(1, 2, seed=3)], pc.Scale(2.0), sites="mlp_out", at="each", read=pc.KL()
    )
    full, ragged = (str(heatmap(panel)) for panel in panels(grid))
    assert full.count("<rect/>") == 15
    assert ragged.count("<rect/>") == 6

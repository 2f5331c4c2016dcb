"""Figures of directions hold the results' own numbers."""

import numpy as np
import pytest
from matplotlib.colors import to_rgba

import patchclamp as pc
from tests import tiny

PROMPTS = [tiny.ids(1, n, seed=n + 40)[0] for n in (5, 7, 6, 5, 8, 6, 7, 5)]
LABELS = [0, 1] * 4
PAIRS = list(zip(PROMPTS[::2], PROMPTS[1::2], strict=True))
TEXTS = tiny.ids(3, 6, seed=9)

pytestmark = pytest.mark.filterwarnings("ignore::patchclamp.core.errors.PatchclampWarning")


@pytest.fixture(scope="module")
def found(llama: pc.Model) -> dict[str, list[pc.Direction]]:
    return {name: llama.fit_directions(name, PROMPTS, LABELS, holdout=0) for name in ("mean", "random")}


@pytest.mark.parametrize("metric", ["bias", "across", "lean", "accuracy"])
@pytest.mark.parametrize("texts", [TEXTS, ()])
def test_a_line_a_method_against_layer(
    llama: pc.Model, found: dict[str, list[pc.Direction]], metric: str, texts: list[list[int]]
) -> None:
    kinds = ("erase", "to second")
    effects = llama.layer_effects(found, PAIRS, (5, 9), texts, edits=kinds)
    drawn = effects.figure(metric=metric)
    shown = [metric, "kl"] if texts else [metric]
    axes = np.array(drawn.axes).reshape(len(shown), len(kinds))
    for row, name in enumerate(shown):
        for column, kind in enumerate(kinds):
            lines = {line.get_label(): line for line in axes[row, column].lines}
            for method in found:
                values = effects.data[name].sel(direction=method, edit=kind).values
                assert list(lines[method].get_xdata()) == [0, 1, 2]
                assert np.allclose(lines[method].get_ydata(), values)
            assert lines["random"].get_linestyle() == "--"
            if name == metric:
                assert list(lines["before"].get_ydata()) == [float(effects.data[f"{metric}_before"])] * 2
    assert [axis.get_title() for axis in axes[0]] == list(kinds)
    assert all(axis.get_yscale() == "log" for axis in (axes[1] if texts else ()))
    assert all(tick == round(tick) for axis in axes[-1] for tick in axis.get_xticks()), "no layer lies between two"
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == ["mean", "random", "before"]


def test_effect_and_cost_against_the_dose_and_each_other(llama: pc.Model, found: dict[str, list[pc.Direction]]) -> None:
    doses = llama.dose_response({n: d[1] for n, d in found.items()}, PROMPTS, (5, 9), [-2, 0, 2], TEXTS)
    effect, cost, front = doses.figure().axes
    for axis, x, y in ((effect, "amount", "effect"), (cost, "amount", "kl"), (front, "kl", "effect")):
        for line, method in zip(axis.lines[:2], ("mean", "random"), strict=True):
            one = doses.data.sel(direction=method)
            assert np.allclose(line.get_xdata(), one[x])
            assert np.allclose(line.get_ydata(), one[y])
    for axis, name in ((effect, "effect"), (cost, "kl")):
        for line, band, method in zip(axis.lines[:2], axis.collections, ("mean", "random"), strict=True):
            one, edge = doses.data.sel(direction=method), band.get_paths()[0].vertices
            assert to_rgba(band.get_facecolor()[0], 1) == to_rgba(line.get_color()), "a band has its line's colour"
            assert [edge[:, 1].min(), edge[:, 1].max()] == [one[f"{name}_low"].min(), one[f"{name}_high"].max()]


def test_histograms_hold_every_row_and_the_class_means(llama: pc.Model, found: dict[str, list[pc.Direction]]) -> None:
    seen = llama.projections(found["mean"][1], PROMPTS, LABELS)
    (axis,) = seen.figure().axes
    values, labels = seen.data["coordinate"].values, seen.data["label"].values
    assert [line.get_xdata()[0] for line in axis.lines] == [values[labels == c].mean() for c in ("0", "1")]
    said = [text.get_text() for text in axis.get_legend().get_texts()]
    assert said == [f"{c} ({(labels == c).sum()})" for c in ("0", "1")]
    assert f"AUC {seen.auc():.3f}" == axis.get_title()

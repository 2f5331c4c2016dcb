import matplotlib.figure
import numpy as np
import pytest
from scipy import stats

import patchclamp as pc
from patchclamp.figures.lens import curves, picture
from patchclamp.lenses.metrics import METRICS
from tests import tiny


@pytest.fixture(scope="module")
def lens(llama: pc.Model) -> pc.Lens:
    return llama.lens([row[:length] for row, length in zip(tiny.ids(3, 6), (6, 4, 5), strict=True)])


def texts(figure: matplotlib.figure.Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


@pytest.mark.parametrize("metric", METRICS)
def test_cells_hold_the_layers_own_top_token(lens: pc.Lens, metric: str) -> None:
    figure = lens.figure(prompt=1, metric=metric)
    assert texts(figure) == [str(t) for t in lens.data["top_token"].values[1, :, :4, 0].ravel()]
    image = figure.axes[0].images[0].get_array()
    wanted = lens.data[metric].values[1, :, :4] + (metric == "rank")
    assert np.allclose(image.filled(np.nan), wanted, equal_nan=True)


def test_the_target_is_marked(llama: pc.Model) -> None:
    ids = tiny.ids(1, 4)
    top = int(llama.run(ids).logits[0, 1].argmax())
    marked = [t for t in llama.lens(ids, targets=top).figure().axes[0].texts if t.get_fontweight() == "bold"]
    assert {t.get_text() for t in marked} == {str(top)}
    assert all(t.get_bbox_patch() for t in marked)


def test_layers_turn(lens: pc.Lens) -> None:
    down, up, right = (lens.figure(prompt=0, layers=layers).axes[0] for layers in ("down", "up", "right"))
    assert down.images[0].origin == right.images[0].origin == "upper"
    assert up.images[0].origin == "lower"
    assert np.array_equal(right.images[0].get_array(), down.images[0].get_array().T)
    assert (down.get_ylabel(), right.get_xlabel()) == ("layer", "layer")


def test_ink_differs_from_its_cell(lens: pc.Lens) -> None:
    axis = lens.figure(prompt=0).axes[0]
    dark = {text.get_color() for text in axis.texts if picture(lens).shade()[text.get_position()[::-1]] < 0.3}
    assert dark == {"white"}


def test_curves_are_means_of_prompts_with_an_interval(lens: pc.Lens) -> None:
    mean, half = curves(lens, "surprisal")
    by_prompt = np.array([np.nanmean(lens.data["surprisal"].values[i], axis=1) for i in range(3)])
    assert np.allclose(mean, by_prompt.mean(0))
    assert np.allclose(half, stats.t.ppf(0.975, 2) * by_prompt.std(0, ddof=1) / np.sqrt(3))
    assert lens.figure(metric="surprisal").axes[0].lines


def test_bad_options(lens: pc.Lens) -> None:
    with pytest.raises(pc.InputError, match="unknown metric 'ranks'; did you mean 'rank'"):
        lens.figure(metric="ranks")
    with pytest.raises(pc.InputError, match="unknown layers 'left'"):
        lens.figure(layers="left")
    with pytest.raises(pc.InputError, match="unknown style"):
        lens.figure(style="cell")
    with pytest.raises(pc.InputError, match="prompt number 3 is outside"):
        lens.figure(prompt=3)


def test_contributions_are_drawn(llama: pc.Model) -> None:
    found = llama.contributions(tiny.ids(1, 4), [5, 9], heads=True)
    figure = found.figure()
    assert len([axis for axis in figure.axes if axis.images]) == 2
    with pytest.raises(pc.InputError, match="position 1 is outside"):
        found.figure(position=1)

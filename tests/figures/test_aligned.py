"""Several results on shared axes."""

import numpy as np
import pytest

import patchclamp as pc
from tests import tiny

IDS = tiny.ids(1, 6)


@pytest.fixture(scope="module")
def results(llama: pc.Model) -> list[pc.Result]:
    return [
        llama.lens(IDS), llama.causal_trace(IDS, [1, 2], 9, samples=1),
        llama.neuron_importances(IDS, [1, 2], 9, samples=1, verify=0),
    ]  # fmt: skip


def images(figure: object) -> list[np.ndarray]:
    return [np.asarray(axis.images[0].get_array()) for axis in figure.axes if axis.images]


def test_each_picture_is_the_results_own(results: list[pc.Result]) -> None:
    lens, trace, neurons = results
    drawn = images(pc.aligned(results))
    assert len(drawn) == 4
    assert np.allclose(drawn[0], lens.data["final_probability"].isel(prompt=0))
    assert np.allclose(drawn[1], trace.mean()["effect"].isel(site=0))
    assert np.allclose(drawn[2], abs(neurons.data["effect"].isel(rank=0)))
    assert np.allclose(drawn[3], neurons.data["importance"] / neurons.record["neurons"])


@pytest.mark.parametrize(("share", "layers", "axis"), [
    ("layers", "down", "y"), ("layers", "up", "y"), ("layers", "right", "x"), ("tokens", "down", "x"), ("tokens", "right", "y"),
])  # fmt: skip
def test_the_shared_axis_is_one(results: list[pc.Result], share: str, layers: str, axis: str) -> None:
    figure = pc.aligned(results, share=share, layers=layers)
    main = [a for a in figure.axes if a.images]
    limits = {tuple(getattr(a, f"get_{axis}lim")()) for a in main}
    assert len(limits) == 1
    figure.draw_without_rendering()
    boxes = [a.get_position() for a in main]
    ends = {(round(getattr(b, f"{axis}0"), 4), round(getattr(b, f"{axis}1"), 4)) for b in boxes}
    assert len(ends) == 1, "the same line lies at the same height (or place) in every picture"
    for a in main:
        origin = a.images[0].origin
        assert origin == ("lower" if layers == "up" else "upper")


def test_a_patchscope_lies_beside_its_lens(llama: pc.Model) -> None:
    scope = llama.patchscope(IDS, at="all", target=[[5, 9, 7]])
    drawn = images(pc.aligned([llama.lens(IDS), scope]))
    assert [image.shape for image in drawn] == [(3, 6), (3, 6)]


def test_what_cannot_be_aligned_is_refused(results: list[pc.Result], llama: pc.Model) -> None:
    with pytest.raises(pc.InputError, match="nothing to align"):
        pc.aligned([])
    for other in (tiny.ids(1, 4), tiny.ids(1, 6, seed=5)):
        with pytest.raises(pc.InputError, match="a trace and a lens are not of the same tokens.*the prompts differ"):
            pc.aligned([results[1], llama.lens(other)])
    with pytest.raises(pc.InputError, match=r"positions \[0, 1, 2\] of 6 tokens and \[1, 2, 3\] of 6$"):
        pc.aligned([llama.lens(IDS, at=[0, 1, 2]), llama.lens(IDS, at=[1, 2, 3])])
    with pytest.raises(pc.InputError, match="this lens has 2"):
        pc.aligned([llama.lens(tiny.ids(2, 6))])
    with pytest.raises(pc.InputError, match="different layers"):
        pc.aligned([results[1], llama.lens(IDS, "resid_post.1")])
    assert len(images(pc.aligned([results[1], llama.lens(IDS, "resid_post.1")], share="tokens"))) == 2
    with pytest.raises(pc.InputError, match="no picture of layers by tokens"):
        pc.aligned([llama.run(IDS)])
    with pytest.raises(pc.InputError, match="unknown layers 'left'"):
        pc.aligned(results, layers="left")
    with pytest.raises(pc.InputError, match="unknown share 'rows'"):
        pc.aligned(results, share="rows")

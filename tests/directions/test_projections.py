"""Coordinates by class equal a loop over prompts; the area under the curve equals the share of ordered pairs."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
import xarray as xr

import patchclamp as pc
from tests import tiny

PROMPTS = [tiny.ids(1, n, seed=n + 40)[0] for n in (5, 7, 6, 5, 8, 6, 7, 5)]
LABELS = [9, 10] * 4
"""As text, 10 stands before 9."""

pytestmark = pytest.mark.filterwarnings("ignore::patchclamp.core.errors.PatchclampWarning")


@pytest.mark.parametrize("method", ["mean", "leace"])
def test_coordinates_are_those_of_a_loop(llama: pc.Model, method: str) -> None:
    maker = pc.directions.LEACE(shrinkage=0.2) if method == "leace" else method
    direction = llama.fit_direction(maker, PROMPTS, LABELS, "resid_post.1", holdout=0)
    data = llama.projections(direction, PROMPTS, LABELS).data
    reads = direction.directions if direction.read_vectors is None else direction.read_vectors
    number = 0
    for index, prompt in enumerate(PROMPTS):
        states = llama.record([prompt], "resid_post.1")["resid_post.1"].reshape(-1, 32)
        for position in range(1, len(prompt)):
            row = data.isel(row=number)
            assert (int(row["prompt"]), int(row["position"])) == (index, position)
            assert str(row["label"].item()) == str(LABELS[index])
            assert float(row["coordinate"]) == pytest.approx(float(states[position].double() @ reads[0]))
            number += 1
    assert number == data.sizes["row"]


def test_the_area_is_the_share_of_ordered_pairs_in_the_classes_own_order(llama: pc.Model) -> None:
    direction = llama.fit_direction("mean", PROMPTS, LABELS, "resid_post.1", holdout=0)
    found = llama.projections(direction, PROMPTS, LABELS)
    assert found.classes() == ["9", "10"], "in the order of the direction, not of the text"
    values, labels = found.data["coordinate"].values, found.data["label"].values
    pairs = list(product(values[labels == "10"], values[labels == "9"]))
    assert found.auc() == pytest.approx(np.mean([(a > b) + 0.5 * (a == b) for a, b in pairs]))
    assert found.auc() > 0.6, "on the rows of the fit the second class lies further along"
    turned = replace(direction, directions=-direction.directions)
    assert llama.projections(turned, PROMPTS, LABELS).auc() == pytest.approx(1 - found.auc())
    erased = llama.projections(direction, PROMPTS, LABELS, edits=[direction.erase()])
    rounding = 64 * np.finfo(np.float32).eps * np.abs(values).max()  # norms are taken in float32
    assert np.ptp(erased.data["coordinate"].values) < rounding < 1e-3 * np.ptp(values), "only rounding tells rows apart"
    assert float(erased.data["coordinate"].std()) < 1e-5 < float(found.data["coordinate"].std())
    said = [f"{c!r}: mean {values[labels == c].mean():.3g}, sd {values[labels == c].std():.3g}" for c in ("9", "10")]
    assert repr(found) == f"Projections of {len(values)} rows; {said[0]}; {said[1]}; AUC {found.auc():.3f}"


def test_the_area_of_known_coordinates_counts_ties_by_half() -> None:
    for first, second, area in (
        ([0.0, 1.0, 2.0], [1.0, 3.0], (1.5 + 3) / 6), ([5.0, 5.0], [5.0, 5.0, 5.0], 0.5), ([1.0], [0.0, -1.0], 0.0), ([0.0], [1.0, 2.0, 3.0], 1.0)
    ):  # fmt: skip
        data = xr.Dataset(
            {"coordinate": ("row", [*second, *first])},
            {"label": ("row", ["y"] * len(second) + ["x"] * len(first)), "class": ["x", "y"]},
        )
        assert pc.Projections(data, {}).auc() == pytest.approx(area)


def test_the_first_of_several_directions_is_the_axis(llama: pc.Model) -> None:
    direction = llama.fit_direction("mean", PROMPTS, [0, 1, 2, 3] * 2, "resid_post.1", holdout=0)
    assert direction.rank > 1
    found = llama.projections(direction, PROMPTS[:2], [0, 1], at="last").data["coordinate"].values
    states = llama.record(PROMPTS[:2], "resid_post.1", at="last")["resid_post.1"].double()
    assert found == pytest.approx((states @ direction.directions[0]).numpy().ravel())


def test_at_chooses_the_tokens(llama: pc.Model) -> None:
    direction = llama.fit_direction("mean", PROMPTS, LABELS, "resid_post.1", at="last", holdout=0)
    assert llama.projections(direction, PROMPTS, LABELS).data.sizes["row"] == len(PROMPTS)
    two = llama.projections(direction, PROMPTS, LABELS, at=[1, 2])
    assert two.data["position"].values.tolist() == [1, 2] * len(PROMPTS)
    assert two.record["parameters"]["labels"] == LABELS


def test_bad_requests_are_refused(llama: pc.Model) -> None:
    direction = llama.fit_direction("mean", PROMPTS, LABELS, "resid_post.1", holdout=0)
    other = tiny.build("llama")
    with torch.no_grad():
        other.lm_head.weight.mul_(3)
    for call, message in (
        (lambda: llama.projections(replace(direction, fitted=None), PROMPTS, LABELS), "was fitted on arrays"),
        (lambda: pc.wrap(other).projections(direction, PROMPTS, LABELS), "another live model, not on this model"),
        (lambda: llama.projections(direction, PROMPTS, LABELS[1:]), "8 prompts and 7 labels"),
        (lambda: llama.projections(direction, PROMPTS, [1] * 8), r"one class only \('1'\)"),
    ):
        with pytest.raises(pc.InputError, match=message):
            call()

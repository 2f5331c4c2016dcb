"""Figures of measurements hold the results' own numbers."""

import numpy as np
import pytest
import torch

import patchclamp as pc
from tests import tiny

PAIRS = [tuple(tiny.ids(2, n, seed=n)) for n in (4, 7, 5)]
EDITS = {"twice": pc.Scale(2.0, site="resid_post.1"), "none": []}


def dots(axis: object, row: int) -> list[float]:
    return sorted(axis.collections[row].get_offsets()[:, 0].tolist())


@pytest.mark.parametrize("metric", ["within", "across", "logit_difference", "mass", "accuracy"])
def test_every_sample_is_a_dot_with_its_mean_below(llama: pc.Model, metric: str) -> None:
    found = pc.metrics.bias(llama, PAIRS, (5, 9), EDITS)
    (axis,) = found.figure(metric=metric).axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["unedited", "twice", "none"]
    means = [line.get_xdata()[0] for line in axis.lines if line.get_marker() == "D"]
    for row, values in enumerate(found.values(metric).values):
        assert np.allclose(dots(axis, row), sorted(values))
        assert means[row] == pytest.approx(values.mean())


def test_a_metric_that_was_not_measured_is_refused(llama: pc.Model) -> None:
    single = pc.metrics.bias(llama, PAIRS[0], (5, 9), labels=[0, 1])
    with pytest.raises(pc.InputError, match="unknown metric 'across'"):
        single.figure(metric="across")


def test_damage_shows_both_costs_of_every_edit(llama: pc.Model) -> None:
    found = pc.metrics.damage(llama, EDITS, tiny.ids(3, 6))
    left, right = found.figure().axes
    assert np.allclose(dots(left, 0), sorted(found.data["kl"].sel(edit="twice").values))
    change = found.data["loss"].sel(edit="twice").values - found.data["loss"].sel(edit="unedited").values
    assert np.allclose(dots(right, 0), sorted(change))
    assert dots(left, 1) == [0, 0, 0]


def test_agreement_curves_are_the_results(llama: pc.Model) -> None:
    found = pc.metrics.divergence(llama, EDITS, tiny.ids(3, 6), tiny.ids(2, 4), max_new_tokens=5)
    curves = found.curves()
    axes = [axis for axis in found.figure().axes if axis.lines]
    assert [axis.get_title() for axis in axes] == ["twice", "none"]
    for axis in axes:
        for line, topic in zip(axis.lines, ("on", "off"), strict=True):
            assert np.allclose(line.get_ydata(), curves["share"].sel(edit=axis.get_title(), topic=topic))


def test_probes_stand_beside_the_line_of_guessing() -> None:
    rows = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    report = pc.metrics.probe(rows, [0, 1] * 100, lambda x: 0 * x, probes=["linear"])
    for axis, part in zip(report.figure().axes, ("accuracy", "loss"), strict=True):
        assert axis.lines[0].get_xdata()[0] == pytest.approx(float(report.data[f"chance_{part}"]))
        full = [
            float(line.get_xdata()[0]) for line in axis.lines if line.get_marker() == "o" and line.get_markersize() > 4
        ]
        assert np.allclose(full, report.data[part].sel(probe="linear", task="concept"))


def test_confusion_has_a_dot_a_pair(llama: pc.Model) -> None:
    found = pc.metrics.interchange(llama, PAIRS, torch.eye(32)[:4], "resid_post.0", (5, 9), at="all")
    (axis,) = found.figure().axes
    assert np.allclose(dots(axis, 0), sorted(found.values()))

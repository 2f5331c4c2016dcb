"""Where training begins: unit atoms that are what their names say."""

from dataclasses import replace
from itertools import pairwise
from typing import get_args

import pytest
import torch

from patchclamp.core.errors import InputError
from patchclamp.dictionaries.gated import Gated
from patchclamp.dictionaries.initial import Initialisation, initial_atoms
from patchclamp.dictionaries.jumprelu import JumpReLU
from patchclamp.dictionaries.linear import TrainingBatch
from patchclamp.dictionaries.matryoshka import MatryoshkaBatchTopK
from patchclamp.dictionaries.member import Member
from patchclamp.dictionaries.relu import ReLU
from patchclamp.dictionaries.scaling import RowScaling
from patchclamp.dictionaries.schedule import RateSchedule, default_learning_rate
from patchclamp.dictionaries.sgd import SGD
from patchclamp.dictionaries.topk import BatchTopK, TopKEncoder

D = 6


def sample(count=200):
    spread = torch.tensor([5.0, 3, 1, 1, 1, 1], dtype=torch.float64)
    return torch.randn(count, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * spread


def atoms(name, width=30, rows=None, seed=0, **options):
    rows = sample() if rows is None else rows
    scaling = options.pop("scaling", RowScaling.identity(D, torch.float64))
    return initial_atoms(
        name, rows, width, scaling=scaling, generator=torch.Generator().manual_seed(seed),
        layer_weight=torch.diag(torch.arange(6.0, 0, -1)), **options,
    )  # fmt: skip


@pytest.mark.parametrize("name", get_args(Initialisation))
@pytest.mark.parametrize("width", [3, 6, 30])
def test_all_are_unit_distinct_and_drawn_from_the_seed(name, width):
    made = atoms(name, width)
    assert made.shape == (width, D)
    torch.testing.assert_close(made.norm(dim=1), torch.ones(width, dtype=torch.float64))
    assert made.is_contiguous(), "the fused Adam reads memory in order"
    assert torch.equal(made, atoms(name, width))
    assert not torch.allclose(made, atoms(name, width, seed=1))
    cosines = made @ made.T - 2 * torch.eye(width, dtype=torch.float64)
    assert cosines.max() < 1 - 1e-6


def test_each_is_what_its_name_says():
    rows = sample()
    data = atoms("data")
    assert (data @ torch.nn.functional.normalize(rows, dim=1).T).max(1).values.min() > 1 - 1e-9
    square = atoms("orthogonal", D)
    torch.testing.assert_close(square @ square.T, torch.eye(D, dtype=torch.float64))
    basis = atoms("unit", 12, noise=0.0)
    torch.testing.assert_close(basis, torch.cat([torch.eye(D), -torch.eye(D)]).double())
    torch.testing.assert_close(atoms("svd", 12, noise=0.0).abs(), basis.abs())
    principal = atoms("pca", noise=0.0)
    covariance = torch.cov(rows.T)
    image = principal[0] @ covariance
    torch.testing.assert_close(image / image.norm(), principal[0])
    torch.testing.assert_close(principal[:D], -principal[D : 2 * D])


def test_directions_of_the_model_are_turned_where_rows_are_whitened():
    rows = sample()
    scaling = RowScaling.of(rows, whiten="pca")
    turned = atoms("unit", D, rows=scaling(rows), scaling=scaling, noise=0.0)
    back = torch.nn.functional.normalize(scaling.undo_linear(turned), dim=1)
    torch.testing.assert_close(back, torch.eye(D, dtype=torch.float64))


def test_svd_needs_a_weight_that_fits():
    with pytest.raises(InputError, match="layer_weight"):
        initial_atoms(
            "svd", sample(), 3, scaling=RowScaling.identity(D), generator=torch.Generator(), layer_weight=None
        )
    with pytest.raises(InputError, match=r"\(4, 6\).*transpose"):
        initial_atoms(
            "svd",
            sample(),
            3,
            scaling=RowScaling.identity(D),
            generator=torch.Generator(),
            layer_weight=torch.ones(4, 6),
        )


def started(encoder, start, rows):
    fit = SGD(encoder, width=40, steps=10, encoder_start=start, dtype="float64", centre=False, scale=False)
    member = Member(fit.settings(D), fit, rows, RowScaling.identity(D, torch.float64), 10)
    batch = TrainingBatch(rows, torch.empty(0), member.parameters, penalty_factor=0.0)
    scores = batch.centred @ member.parameters["weight"].T
    return batch.centred, encoder.step(replace(batch, scores=scores)).residual, member


@pytest.mark.parametrize(
    "encoder", [TopKEncoder(5), BatchTopK(5), MatryoshkaBatchTopK(5), JumpReLU(5.0), Gated(), ReLU()], ids=lambda e: type(e).__name__
)  # fmt: skip
def test_the_encoder_begins_with_the_scale_that_reconstructs_best(encoder):
    rows = sample()
    rows[:, 0] += 30 * torch.rand(len(rows), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    centred, residual, member = started(encoder, "scaled", rows)
    assert abs(((centred - residual) * residual).sum()) < 1e-9 * centred.square().sum(), (
        "least squares leaves no projection"
    )
    assert residual.square().sum() < centred.square().sum()
    _, overshot, plain = started(encoder, "transpose", rows)
    assert overshot.square().sum() > 2 * centred.square().sum(), "atoms that share a direction add up"
    assert torch.equal(plain.parameters["weight"], plain.parameters["atoms"])
    ratio = member.parameters["weight"] / plain.parameters["weight"]
    torch.testing.assert_close(ratio, ratio[0, 0].expand_as(ratio))


def test_rates_rise_stay_and_fall():
    schedule = RateSchedule(0.1, 100, warmup=0.1, decay=0.5)
    rates = [schedule.learning_rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[9:51] == pytest.approx([0.1] * 42)
    assert all(a > b for a, b in pairwise(rates[51:99]))
    assert rates[-1] == pytest.approx(0.002)
    endless = RateSchedule(0.1, None, warmup=0.1, decay=0.5)
    assert endless.learning_rate(10**6) == 0.1
    assert default_learning_rate(4096) == default_learning_rate(1024) / 2 == default_learning_rate(64) / 2

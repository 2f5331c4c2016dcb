"""The distribution of activations: one pass equals scipy on all rows at once."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import patchclamp as pc
from patchclamp.activations.distribution import STATISTICS, StreamMoments, toy_rows
from tests import tiny
from tests.fuzz.ordinary import method
from tests.lenses.families import opened


def ordinary() -> dict[str, Any]:
    ids = [*tiny.ids(3, 9), *tiny.ids(2, 5, seed=1)]
    return {
        "Model.activation_distribution": method(
            "activation_distribution",
            {"corpus": ids, "site": "mlp_act.1", "length": 6},
            {
                "corpus": tiny.ids(3, 9, seed=5),
                "site": "mlp_act.2",
                "tokens": 14,
                "length": 9,
                "pack": False,
                "skip_special": False,
                "features": 7,
                "active": 2.0,
                "seed": 3,
                "progress": False,
            },
            inert={"progress": "how the work is shown"},
        )
    }


def test_moments_in_parts_equal_scipys_of_the_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = 1000 + torch.randn(300, 4, generator=generator, dtype=torch.float64).exp().relu()
    moments = StreamMoments(4)
    for part in rows.split([1, 7, 150, 142]):
        moments.update(part)
    values = dict(zip(STATISTICS, moments.statistics().numpy(), strict=True))
    assert np.allclose(values["mean"], rows.mean(0), rtol=1e-13)
    assert np.allclose(values["deviation"], rows.std(0, correction=0), rtol=1e-10)
    assert np.allclose(values["skewness"], stats.skew(rows.numpy()), rtol=1e-9)
    assert np.allclose(values["kurtosis"], stats.kurtosis(rows.numpy()), rtol=1e-9)


def test_known_distributions_have_their_values() -> None:
    x = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moments = StreamMoments(1)
    moments.update(torch.cat([x, x.relu()], 1)[:, 1:])
    assert float(moments.statistics()[STATISTICS.index("zeros")]) == pytest.approx(0.5, abs=0.02)
    assert float(moments.statistics()[STATISTICS.index("density")]) == pytest.approx(1 / math.pi, rel=0.05)
    rows = toy_rows(4000, 16, 32, 5.0, 0)
    assert float(rows.square().sum(1).mean()) == pytest.approx(5 / 3, rel=0.2), "five on, each of mean square 1/3"


def test_it_is_that_of_what_is_recorded() -> None:
    model, ids = opened("llama"), tiny.ids(3, 9)
    result = model.activation_distribution(ids, "mlp_act.1", pack=False)
    rows = model.record(ids, "mlp_act.1")["mlp_act.1"][:, 1:].flatten(0, 1).numpy()
    values = result.data["value"].sel(of="model")
    assert np.allclose(values.sel(statistic="kurtosis"), stats.kurtosis(rows), rtol=1e-8)
    assert np.allclose(values.sel(statistic="positive"), (rows > 0).mean(0))


def test_a_plain_module_has_one_too() -> None:
    torch.manual_seed(0)
    model, inputs = pc.wrap(nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2)).eval()), torch.randn(40, 3)
    result = model.activation_distribution(inputs, "1:out")
    rows = model.record(inputs, "1:out")["1:out"].numpy()
    assert np.allclose(result.data["value"].sel(of="model", statistic="zeros"), (rows == 0).mean(0))


def test_toy_settings_that_cannot_be() -> None:
    model = opened("llama")
    for settings in ({"features": 0}, {"active": 0.0}, {"features": 3, "active": 4.0}):
        with pytest.raises(pc.InputError, match="active"):
            model.activation_distribution(tiny.ids(3, 9), "mlp_act.1", **settings)

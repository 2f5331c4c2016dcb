"""What must hold on a real model's residuals, attention sink included: no distance between class means is left."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import patchclamp as pc
from patchclamp.directions import LEACE, RLACE, MeanDifference
from patchclamp.directions.direction import SINK
from patchclamp.studies import gender
from tests.directions.made import gap

pytestmark = [
    pytest.mark.slow,
    pytest.mark.assets,
    pytest.mark.filterwarnings("ignore::patchclamp.core.errors.PatchclampWarning"),
]
LEFT = 1e-4
LAYERS = (8, 16)
RARE = 1e-3


@pytest.fixture(scope="module")
def residuals(smollm2: pc.Model) -> dict[int, tuple[Tensor, Any, Any]]:
    """Every token of gendered prompts, the first too, in float32; whose it is, and of which template."""
    prompts, labels, _ = gender.labelled("train")
    found = {}
    for layer in LAYERS:
        rows = smollm2.rows(prompts, f"resid_post.{layer}", at="all", sinks="keep")
        assert rows.x.dtype == torch.float32
        lengths = rows.x.norm(dim=1)
        assert lengths[torch.from_numpy(rows.position == 0)].min() > SINK * lengths.median(), "the sinks are there"
        templates = (np.arange(len(prompts)) // 2) % len(gender.TRAIN_TEMPLATES)
        found[layer] = (rows.x, (np.array(labels) == labels[1]).astype(int)[rows.prompt], templates[rows.prompt])
    return found


def erasers(classes: int = 2) -> list[Any]:
    return [LEACE(), RLACE(rank=classes - 1), MeanDifference()]


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_no_class_distance_is_left_at_any_scale(residuals: Any, layer: int, scale: float) -> None:
    x, y, _ = residuals[layer]
    x = x * scale
    for eraser in erasers():
        erased = eraser.fit(x, y).transform(x)
        assert erased.dtype == torch.float32
        assert gap(erased, y) < LEFT * gap(x, y), type(eraser).__name__


@pytest.mark.parametrize("layer", LAYERS)
def test_nor_of_a_class_of_one_row_in_a_thousand(residuals: Any, layer: int) -> None:
    x, _, _ = residuals[layer]
    every = torch.cat([x] * (4000 // len(x) + 1))
    y = np.zeros(len(every), dtype=int)
    y[np.random.default_rng(0).permutation(len(every))[: int(RARE * len(every))]] = 1
    assert 3 <= y.sum() <= 1.1 * RARE * len(y)
    every[torch.from_numpy(y == 1)] += x.std(0)
    for eraser in erasers():
        assert gap(eraser.fit(every, y).transform(every), y) < LEFT * gap(every, y), type(eraser).__name__


@pytest.mark.parametrize("layer", LAYERS)
def test_nor_of_whole_numbers_for_several_classes(residuals: Any, layer: int) -> None:
    x, _, templates = residuals[layer]
    classes = len(np.unique(templates))
    assert classes == 5
    for eraser in erasers(classes):
        found = eraser.fit(x, templates)
        assert len(found.directions_) == classes - 1
        assert gap(found.transform(x), templates) < LEFT * gap(x, templates), type(eraser).__name__


def test_the_peer_leaves_it_all_on_the_same_rows_and_none_in_float64(residuals: Any) -> None:
    from concept_erasure import LeaceFitter

    x, y, _ = residuals[16]
    z = torch.from_numpy(y)
    left = {
        dtype: gap(LeaceFitter.fit(x.to(dtype), z).eraser(x.to(dtype)), y) / gap(x, y)
        for dtype in (torch.float32, torch.float64)
    }
    assert left[torch.float32] > 0.9
    assert left[torch.float64] < LEFT


def test_without_the_direction_the_distance_stays(residuals: Any) -> None:
    """The control: an eraser of another concept, or a random one, leaves the gap."""
    x, y, templates = residuals[16]
    for other in (pc.directions.RandomDirection().fit(x, y), LEACE().fit(x, templates)):
        assert gap(other.transform(x), y) > 0.5 * gap(x, y)

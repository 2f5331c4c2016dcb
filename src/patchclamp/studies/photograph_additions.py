"""Additions to photographs in a ResNet: which class appears. A look at five photographs, not a measurement."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

import patchclamp as pc
from patchclamp.core.errors import missing_dependency

MEAN, SIDE = (123.68, 116.779, 103.939), 224
"""The catalogue's ResNet-50 was trained on pictures of this mean byte for each colour and this many pixels a side."""
PAIR = ("cat", "coffee")
STAGES = ("resnet.encoder.stages.2:out", "resnet.encoder.stages.3:out")
COEFFICIENTS = (0.5, 1.0, 2.0)


def photographs() -> dict[str, Tensor]:
    """Five photographs that scikit-image and scikit-learn bring, the middle square of each, ``[3, 224, 224]``.

    Raises:
        MissingDependencyError: One of the two is not installed.
    """
    try:
        from skimage import data
        from sklearn.datasets import load_sample_images
    except ImportError as error:
        raise missing_dependency("a look at photographs", "scikit-image and scikit-learn", "test") from error
    temple, flower = load_sample_images().images
    sample_images: Any = data
    raw = {
        "cat": sample_images.chelsea(),
        "coffee": sample_images.coffee(),
        "rocket": sample_images.rocket(),
        "temple": temple,
        "flower": flower,
    }
    return {name: prepare(picture) for name, picture in raw.items()}


def prepare(picture: np.ndarray) -> Tensor:
    """The middle square of a picture ``[height, width, 3]`` of bytes, as the ResNet reads it: bytes less their mean."""
    height, width, _ = picture.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = torch.tensor(picture[top : top + side, left : left + side].copy()).permute(2, 0, 1).unsqueeze(0).float()
    small = torch.nn.functional.interpolate(square, size=(SIDE, SIDE), mode="bilinear", antialias=True)[0]
    return small - torch.tensor(MEAN)[:, None, None]


def photograph_additions(
    model: pc.Model, stages: Sequence[str] = STAGES, coefficients: Sequence[float] = COEFFICIENTS, seed: int = 0
) -> pd.DataFrame:
    """The most likely class of every photograph while ``cat - coffee`` is added after a stage.

    Added are the differences of the channels' means over places, the same everywhere: of whole maps, ``b + (a - b)`` is a to the
    last number, which says nothing. A random vector of the same length is the control.

    Args:
        model: A ResNet of ImageNet.
        stages: Sites after which is added.
        coefficients: The vector is added once with each of these factors.
        seed: The random vector is drawn with this seed.
    """
    pictures = photographs()
    inputs = torch.stack(list(pictures.values()))
    names = list(pictures)
    maps = model.record(inputs, list(stages))
    rows = []
    for stage in stages:
        channels = maps[stage].mean(1)
        real = channels[names.index(PAIR[0])] - channels[names.index(PAIR[1])]
        noise = torch.randn(real.shape, generator=torch.Generator().manual_seed(seed))
        kinds = {" - ".join(PAIR): real, "random": noise * real.norm() / noise.norm()}
        plan = [("nothing", 0.0, real), *((kind, c, v) for kind, v in kinds.items() for c in coefficients)]
        for vector, coefficient, values in plan:
            edit = pc.Add(values, coefficient, site=stage)
            best = model.run(inputs, edit).logits.softmax(-1).max(-1)
            labels = [f"{model.output_label(i)} {p:.2f}" for p, i in zip(*map(torch.Tensor.tolist, best), strict=True)]
            columns = dict(zip(names, labels, strict=True))
            rows.append({"stage": stage, "vector": vector, "coefficient": coefficient, **columns})
    return pd.DataFrame(rows)

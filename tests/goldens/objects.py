"""What is saved besides results: edits, a direction and a covariance, each with the numbers that it must give back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import patchclamp as pc
from tests import tiny

HOME = "objects"
"""The folder in an archive that holds their folders."""


def made(model: pc.Model) -> dict[str, Any]:
    """One of each."""
    texts = tiny.ids(12, 6)
    ramp = torch.arange(32, dtype=torch.float64) / 32
    return {
        "edits": [pc.Add(ramp, 2.0, site="resid_post.1", at=-1), pc.ProjectOut(ramp, site="mlp_out", at=[0, 2])],
        "direction": model.fit_direction("leace", texts, [0, 1] * 6, "resid_post.1", holdout=0),
        "covariance": pc.rewriting.covariance(model, 1, texts * 4, tokens=200, context=12, cache=False),
    }


def save(objects: dict[str, Any], folder: Path) -> None:
    """Each in the folder of its name."""
    for name, value in objects.items():
        pc.save_edits(value, folder / name) if name == "edits" else value.save(folder / name)


OPENERS: dict[str, Callable[[Path], Any]] = {
    "edits": lambda folder: pc.load_edits(folder),
    "direction": lambda folder: pc.Direction.open(folder),
    "covariance": lambda folder: pc.rewriting.Covariance.open(folder),
}


def numbers(model: pc.Model, name: str, value: Any) -> Tensor:
    """What an object does, in numbers."""
    if name == "covariance":
        return value.matrix
    edits = value.erase() if name == "direction" else value
    return model.run(tiny.ids(2, 6, seed=9), edits, logits="last").logits

"""A plain linear encoder, so that what holds for every encoder can be tested on one that is obvious."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from patchclamp.core.plain import savable
from patchclamp.dictionaries import Codes, Encoder


@savable
@dataclass(frozen=True)
class Positive(Encoder):
    """What is positive of ``x @ weight.T + offset``; without weights along the atoms."""

    weight_names: ClassVar[tuple[str, ...]] = ("weight", "offset")

    def codes(self, x: Tensor, atoms: Tensor, weights: Mapping[str, Tensor]) -> Codes:
        read = x @ weights.get("weight", atoms).T
        return Codes.of_dense((read + weights["offset"] if "offset" in weights else read).relu())

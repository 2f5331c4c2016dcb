"""Encoders that tests of metrics need: codes that are known beforehand, and a threshold."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from patchclamp.core.plain import savable
from patchclamp.dictionaries import Codes, Encoder


@savable
@dataclass(frozen=True)
class StandInThreshold(Encoder):
    """What a row has along each atom, where that is above a threshold."""

    threshold: float = 0.3

    def codes(self, x: Tensor, atoms: Tensor, weights: Mapping[str, Tensor]) -> Codes:
        along = x @ atoms.T
        return Codes.of_dense(torch.where(along > self.threshold, along, 0.0))


@dataclass(frozen=True, eq=False)
class StandInLeastSquares(Encoder):
    """The codes of atoms that are as many as dimensions: exact."""

    factor: float = 1.0

    def codes(self, x: Tensor, atoms: Tensor, weights: Mapping[str, Tensor]) -> Codes:
        codes = self.factor * torch.linalg.solve(atoms.T.double(), x.T.double()).T
        return Codes.of_dense(torch.where(codes.abs() > 1e-4, codes, 0.0).to(x))


@dataclass(frozen=True, eq=False)
class StandInCodes(Encoder):
    """Codes as they are in a table; the row is found by its number in the first coordinate's order."""

    table: Tensor
    rows: Tensor

    def codes(self, x: Tensor, atoms: Tensor, weights: Mapping[str, Tensor]) -> Codes:
        return Codes.of_dense(self.table[torch.cdist(x, self.rows).argmin(1)])

"""Atoms beside atoms: directions of length 1, their best one-to-one matching, and how coherent they are."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patchclamp.core.arguments import checked
from patchclamp.core.errors import InputError
from patchclamp.core.kinds import Array
from patchclamp.core.readers import UnfitError, tensor
from patchclamp.dictionaries.dictionary import Dictionary

ANTIPODAL = -0.9
"""Two directions whose cosine is below this are an antipodal pair."""


def atoms_of(dictionary: Any, name: str) -> Float[Tensor, "width d"]:
    """The atoms of a dictionary in the coordinates of the model; or an array of directions, checked.

    Raises:
        InputError: An array that is no matrix of finite numbers.
    """
    if isinstance(dictionary, Dictionary):
        return dictionary.scaling.undo_linear(dictionary.atoms).detach()
    atoms = as_tensor(dictionary, name).detach()
    atoms = atoms if atoms.dtype == torch.float64 else atoms.float()
    if atoms.ndim != 2 or not atoms.numel():
        raise InputError(f"{name} is directions [count, d]; got an array of shape {tuple(atoms.shape)}")
    if not bool(torch.isfinite(atoms).all()):
        raise InputError(f"{name} holds NaN or infinite values")
    return atoms


def as_tensor(value: Any, name: str) -> Tensor:
    """An array, or rows of numbers or tensors, as one tensor.

    Raises:
        InputError: It is none.
    """
    try:
        read: Tensor = tensor(value)
    except UnfitError as unfit:
        raise InputError(f"{name} must be {unfit.valid}{unfit.reason}") from None
    return read


def unit_rows(atoms: Float[Tensor, "width d"]) -> Float[Tensor, "width d"]:
    """Atoms of length 1; those without length stay 0."""
    return torch.nn.functional.normalize(atoms, dim=1, eps=1e-8)


def match_atoms(cosines: Float[Tensor, "G width"]) -> tuple[Int[Tensor, " pair"], Int[Tensor, " pair"]]:
    """The one-to-one matching of the largest sum of absolute cosines (Hungarian algorithm): rows, and their columns."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(1 - cosines.abs().cpu().numpy())
    return torch.from_numpy(rows).to(cosines.device), torch.from_numpy(columns).to(cosines.device)


@checked
def coherence(directions: Dictionary | Array) -> dict[str, float]:
    """How much directions interfere with each other.

    ``rms`` is the root of the mean squared cosine of two different directions; ``welch``, the least that it can be for so many
    directions of this width (Welch 1974), which a tight frame has; ``random``, its value for directions drawn evenly from the
    sphere; ``largest``, the largest absolute cosine; ``antipodal``, the share of directions that have another one almost
    opposite (a cosine below -0.9).

    Args:
        directions: A dictionary, toy data's ``features``, or any ``[count, d]``.

    Raises:
        InputError: No two directions, or numbers that are not finite.
    """
    unit = unit_rows(atoms_of(directions, "directions"))
    count, d = unit.shape
    if count < 2:
        raise InputError("one direction interferes with no other: give two or more")
    squares, largest, antipodal = 0.0, 0.0, 0
    for start in range(0, count, 4096):
        cosines = unit[start : start + 4096] @ unit.T
        cosines[torch.arange(len(cosines)), torch.arange(start, start + len(cosines))] = 0
        squares += float(cosines.double().square().sum())
        largest = max(largest, float(cosines.abs().max()))
        antipodal += int((cosines.min(1).values < ANTIPODAL).sum())
    return {
        "rms": (squares / (count * (count - 1))) ** 0.5,
        "welch": (max(count - d, 0) / (d * (count - 1))) ** 0.5,
        "random": d**-0.5,
        "largest": largest,
        "antipodal": antipodal / count,
    }

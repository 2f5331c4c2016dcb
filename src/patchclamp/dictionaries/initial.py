"""Where training begins: the atoms, side by side, and the encoder made of them."""

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from patchclamp.core.errors import InputError, unknown
from patchclamp.dictionaries.scaling import RowScaling

Initialisation = Literal["data", "orthogonal", "svd", "unit", "pca", "random"]
EncoderStart = Literal["scaled", "transpose", "separate"]


def initial_atoms(
    name: Initialisation,
    rows: Float[Tensor, "row d"],
    width: int,
    *,
    scaling: RowScaling,
    generator: Generator,
    layer_weight: Tensor | None = None,
    noise: float = 0.1,
) -> Float[Tensor, "width d"]:
    """Unit atoms to begin with.

    Args:
        name: ``"data"`` (rows of the sample), ``"orthogonal"`` (a random matrix with orthonormal rows or columns, as the first
            report), ``"svd"`` (left singular vectors of the layer's weight, with noise), ``"unit"`` (the neurons' basis, with
            noise), ``"pca"`` (principal axes, then random vectors of the sample's covariance) or ``"random"``.
        rows: A sample of rows in the coordinates of the dictionary.
        width: The number of atoms.
        scaling: Turns directions of the model into those of the dictionary.
        generator: Where random numbers come from, on the CPU.
        layer_weight: The weight ``[d, input]`` whose outputs the rows are, for ``"svd"``.
        noise: The length of the noise that is added to unit vectors, which come again, with other signs, where there are more
            atoms than vectors.

    Raises:
        InputError: An unknown name, or no fitting weight for ``"svd"``.
    """
    d = rows.shape[1]

    def normal(*shape: int) -> Tensor:
        values: Tensor = torch.randn(*shape, generator=generator, dtype=rows.dtype)
        return values.to(rows.device)

    def noised(directions: Tensor) -> Tensor:
        turns = torch.arange(width, device=rows.device)
        signs = 1 - 2 * (turns.div(len(directions), rounding_mode="floor") % 2)
        repeated: Tensor = directions[turns % len(directions)] * signs.unsqueeze(1)
        result: Tensor = repeated + noise / d**0.5 * normal(width, d)
        return result

    match name:
        case "data":
            order = torch.randperm(len(rows), generator=generator).to(rows.device)
            atoms = rows[order[torch.arange(width, device=rows.device) % len(rows)]]
            if width > len(rows):
                atoms = atoms + noise / d**0.5 * normal(width, d) * atoms.norm(dim=1, keepdim=True)
        case "orthogonal":
            weight = torch.empty(d, width, dtype=rows.dtype)
            atoms = nn.init.orthogonal_(weight, generator=generator).T.to(rows.device)
        case "svd":
            singular = torch.linalg.svd(_layer_weight(layer_weight, d).to(rows), full_matrices=False).U.T
            atoms = noised(_in_dictionary(singular, scaling))
        case "unit":
            atoms = noised(_in_dictionary(torch.eye(d, dtype=rows.dtype, device=rows.device), scaling))
        case "pca":
            centred = rows - rows.mean(0)
            axes = torch.linalg.svd(centred, full_matrices=False).Vh
            beyond = normal(max(width - 2 * len(axes), 0), len(centred)) @ centred
            atoms = torch.cat([axes, -axes, beyond])[:width] + noise / d**0.5 * unit_rows(normal(width, d))
        case "random":
            atoms = normal(width, d)
        case _:
            raise InputError(unknown("initialisation", name, get_args(Initialisation)))
    lengths = atoms.norm(dim=1, keepdim=True)
    # Adam's fused kernel reads memory in order, whatever the strides.
    return unit_rows(torch.where(lengths > 1e-12, atoms, normal(width, d))).contiguous()


def separate_weight(atoms: Float[Tensor, "width d"], generator: Generator) -> Float[Tensor, "width d"]:
    """An encoder that begins apart from the atoms, as ``torch.nn.Linear`` does."""
    bound = atoms.shape[1] ** -0.5
    values = torch.rand(atoms.shape, generator=generator, dtype=atoms.dtype)
    weight: Tensor = (values * 2 * bound - bound).to(atoms.device)
    return weight


def unit_rows(matrix: Float[Tensor, "width d"]) -> Float[Tensor, "width d"]:
    """Each row divided by its length."""
    unit: Tensor = matrix / matrix.norm(dim=1, keepdim=True).clamp_min(torch.finfo(matrix.dtype).tiny)
    return unit


def _in_dictionary(directions: Float[Tensor, "n d"], scaling: RowScaling) -> Float[Tensor, "n d"]:
    return unit_rows(directions if scaling.whitening is None else directions @ scaling.whitening)


def _layer_weight(weight: Tensor | None, d: int) -> Tensor:
    if weight is None:
        raise InputError('initialisation="svd" needs layer_weight: the weight [d, input] whose outputs the rows are')
    if weight.ndim != 2 or weight.shape[0] != d or not bool(torch.isfinite(weight).all()):
        raise InputError(
            f"layer_weight has the shape {tuple(weight.shape)}; rows of width {d} need finite numbers [{d}, input] (transpose it?)"
        )
    return weight.detach()

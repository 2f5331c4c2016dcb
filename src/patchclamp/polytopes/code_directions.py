"""Directions in the space of spline codes: from the mean code of one class to that of another, along a pathway of layers."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, prod
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from patchclamp.core.arguments import checked
from patchclamp.core.errors import InputError, check_choice
from patchclamp.core.readers import UnfitError, shown, tensor
from patchclamp.interventions import Add, At, Edit
from patchclamp.models.components import COMPONENTS


@runtime_checkable
class PackedCodes(Protocol):
    """Hard codes, a layer at a time."""

    @property
    def layers(self) -> tuple[Any, ...]:
        """Each with its ``name``."""

    def dense(self, name: str | None = None) -> Tensor:
        """``[row, *shape]`` of one layer."""


Codes = PackedCodes | Mapping[Any, Any]
"""Codes by layer in the order of the forward pass, ``[row, *shape]`` each: booleans, or soft codes between 0 and 1."""


@dataclass(frozen=True, eq=False)
class CodeDirection:
    """From the mean code of one class of rows to that of another.

    An entry is the difference of the shares of rows whose gate is open: between -1 and 1, and blind to how far a
    pre-activation lies from its boundary.

    Source: "directions in spline-code space", which Sharkey proposed after Black et al. 2022 (arXiv 2211.12312).
    """

    vectors: Mapping[str, Tensor]
    """The direction in each layer, ``[*shape]`` in float64, in the order of the forward pass."""
    middle: Mapping[str, Tensor]
    """Halfway between the two mean codes, from where scores are measured."""

    def __repr__(self) -> str:
        return f"<CodeDirection in {sum(v.numel() for v in self.vectors.values())} gates of {', '.join(self.vectors)}>"

    @checked
    def since(self, name: str) -> "CodeDirection":
        """The direction of the pathway from a layer to the end.

        Raises:
            InputError: There is no such layer.
        """
        return self._select(list(self.vectors)[self._index(name) :])

    @checked
    def layer(self, name: str) -> "CodeDirection":
        """The direction in one layer.

        Raises:
            InputError: There is no such layer.
        """
        return self._select([list(self.vectors)[self._index(name)]])

    @checked
    def score(self, codes: Codes) -> Float[Tensor, " row"]:
        """Where codes lie along the direction: -1/2 at the first mean code, 1/2 at the second; float64.

        Raises:
            InputError: A layer is missing, or has another shape.
        """
        layer_codes = by_layer(codes)
        for name, vector in self.vectors.items():
            check_choice("layer of the direction in the codes given", name, layer_codes)
            if layer_codes[name].shape[1:] != vector.shape:
                raise InputError(
                    f"the direction has shape {list(vector.shape)} at {name!r}; the codes {list(layer_codes[name].shape[1:])}"
                )
        total = sum(
            (layer_codes[name] - self.middle[name]).flatten(1) @ vector.flatten()
            for name, vector in self.vectors.items()
        )
        assert isinstance(total, Tensor)
        return total / sum(float(vector.square().sum()) for vector in self.vectors.values())

    def edits(self, lengths: float | Mapping[str, float], *, at: At = "all", **place: Any) -> list[Edit]:
        """Push the pre-activations of every gate along the direction: one ``Add`` a layer, which opens and closes gates.

        A code has no unit of a pre-activation, so the length must be given, as that of the difference of mean pre-activations.

        Args:
            lengths: Norm of what is added, for each layer or the same for all; negative goes the other way.
            at: Positions.
            **place: ``where``, as for ``pc.Add``.

        Raises:
            InputError: A length is missing or not finite, a layer has several dimensions, or the classes do not differ there.
        """
        edits = []
        for name, vector in self.vectors.items():
            length = lengths.get(name) if isinstance(lengths, Mapping) else lengths
            if length is None or not isfinite(length):
                raise InputError(f"the push at {name!r} needs a finite length; got {length!r}")
            if vector.ndim != 1:
                raise InputError(f"{name!r} has gates of shape {list(vector.shape)}; an edit adds a vector [d]")
            norm = float(vector.norm())
            if norm == 0:
                raise InputError(f"the mean codes do not differ at {name!r}, so there is no direction to push along")
            edits.append(Add(vector * (length / norm), site=site_of(name), at=at, **place))
        return edits

    def _index(self, name: str) -> int:
        check_choice("layer", name, self.vectors)
        return list(self.vectors).index(name)

    def _select(self, names: list[str]) -> "CodeDirection":
        return CodeDirection({n: self.vectors[n] for n in names}, {n: self.middle[n] for n in names})


@checked
def code_direction(codes_a: Codes, codes_b: Codes) -> CodeDirection:
    """The direction from the mean code of ``a`` to that of ``b``.

    Args:
        codes_a: Codes of the rows of one class: :class:`SplineCodes`, or by layer.
        codes_b: Codes of the rows of another class, at the same layers.

    Raises:
        InputError: No rows, NaN, values outside 0..1, or layers that differ.
    """
    a, b = by_layer(codes_a), by_layer(codes_b)
    shapes = [{name: tuple(value.shape[1:]) for name, value in codes.items()} for codes in (a, b)]
    if shapes[0] != shapes[1] or not a:
        raise InputError(f"both codes must have the same layers, one at least; got {shapes[0]} and {shapes[1]}")
    means = [{name: value.mean(0) for name, value in codes.items()} for codes in (a, b)]
    return CodeDirection(
        {name: means[1][name] - means[0][name] for name in a},
        {name: (means[0][name] + means[1][name]) / 2 for name in a},
    )


def by_layer(codes: Codes) -> dict[str, Tensor]:
    """Codes as float64 by layer.

    Raises:
        InputError: No rows, NaN, or values that are no codes.
    """
    if isinstance(codes, PackedCodes):
        layer_codes = {str(layer.name): codes.dense(layer.name) for layer in codes.layers}
    else:
        layer_codes = {str(name): _dense_tensor(str(name), value) for name, value in codes.items()}
    for name, value in layer_codes.items():
        if value.ndim < 2 or not prod(value.shape):
            raise InputError(f"codes are [row, ...] with a row at least; {name!r} has shape {list(value.shape)}")
        if value.is_floating_point() and not bool(((value >= 0) & (value <= 1)).all()):
            raise InputError(f"codes lie between 0 and 1; those of {name!r} do not (pre-activations? take z > 0)")
    return {name: value.detach().to(torch.float64) for name, value in layer_codes.items()}


def _dense_tensor(name: str, value: Any) -> Tensor:
    try:
        dense: Tensor = tensor(value if isinstance(value, Tensor | Mapping) else getattr(value, "values", value))
    except UnfitError as unfit:
        raise InputError(f"the codes of {name!r} are {shown(value)}; valid: {unfit.valid}{unfit.reason}") from None
    if dense.is_complex():
        raise InputError(f"the codes of {name!r} hold {dense.dtype}; codes lie between 0 and 1")
    return dense


def site_of(name: str) -> str:
    """The site of the pre-activations of a gate: itself if it names one, else what goes into the module of this path."""
    return name if ":" in name or name.split(".")[0] in COMPONENTS else f"{name}:in"

"""The affine map of a region: what a network is while its gates stay as they are."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import forward_ad

from patchclamp.core.arguments import checked
from patchclamp.core.errors import InputError, check_choice
from patchclamp.core.interrupts import guarded
from patchclamp.core.kinds import Point
from patchclamp.core.plain import from_plain
from patchclamp.models.opened import OpenModel
from patchclamp.polytopes.gates import by_row
from patchclamp.polytopes.network import Network
from patchclamp.polytopes.points import as_points, check_fit, precision

if TYPE_CHECKING:
    import pandas as pd

    from patchclamp.polytopes.segment import Segment

Kind = Literal["exact", "frozen", "jacobian"]


@dataclass(frozen=True, eq=False)
class AffineMap:
    """``A x + c`` in flat coordinates.

    Attributes:
        A: ``[out, in]``.
        c: ``[out]``.
        kind: ``"exact"``: the network itself, within the region of the point. ``"frozen"``: a smooth network whose soft gates are
            held at their values at the point; equal to it there, but not its derivative. ``"jacobian"``: the derivative at the
            point, with the ``c`` that makes it equal there.
    """

    A: Float[Tensor, "out in"]
    c: Float[Tensor, " out"]
    kind: Kind

    def __call__(self, x: Tensor) -> Tensor:
        """The map of points ``[..., *shape]`` or flat ``[..., in]``."""
        flat = x.to(self.A.dtype).reshape(-1, self.A.shape[1])
        return flat @ self.A.T + self.c


@checked
def affine_map(
    model: OpenModel,
    x: Point,
    *,
    start: str | None = None,
    soft: Literal["frozen", "jacobian"] = "frozen",
    dtype: str | None = None,
) -> AffineMap:
    """The affine map of the region in which a point lies.

    A piecewise-linear network is this map in the whole region. For smooth gates ``code(z) z`` (SiLU, GELU) the code takes the place
    of 0 and 1 (Balestriero & Baraniuk 2018, soft vector quantisation); for a product with such a gate, as in gated MLPs, the gate's
    value is held too.

    Args:
        model: Any open module that torch.fx can follow.
        x: One point ``[*shape]``.
        start: Where it lies; as for :meth:`patchclamp.Model.segment`.
        soft: What to give for a smooth network: the map of frozen soft gates, or the Jacobian.
        dtype: ``"float32"``, ``"float64"``, or None for the weights' own.

    Raises:
        InputError: The point does not fit.
        ModelError: An operation is not affine even for frozen gates.
    """
    check_choice("soft map", soft, ("frozen", "jacobian"))
    point = as_points(model, [x], dtype)
    network = Network.of(model).cast(precision(model, dtype))
    exact = network.is_exact(start)
    if soft == "frozen" or exact:
        network.require_frozen(start)
    check_fit(network, point, start)
    if exact or soft == "frozen":
        with guarded(torch.no_grad()):
            states = network.states(point, start)
        A, c = frozen_map(network, point, states, start)
        return AffineMap(A, c, "exact" if exact else "frozen")
    A = _derivative_by_outputs(lambda rows: network.run(rows, start), point)
    with guarded(torch.no_grad()):
        c = network.run(point, start).flatten() - A @ point.flatten()
    return AffineMap(A, c, "jacobian")


def frozen_map(network: Network, point: Tensor, states: dict[str, Tensor], start: str | None) -> tuple[Tensor, Tensor]:
    """``A, c`` of a network whose gates are frozen; pushes the smaller of inputs and outputs through."""
    return affine_parts(lambda rows: network.frozen(rows, states, start), point)


def affine_parts(function: Callable[[Tensor], Tensor], point: Tensor) -> tuple[Tensor, Tensor]:
    """``A, c`` of an affine function of rows ``[row, *shape]``; pushes the smaller of inputs and outputs through.

    Args:
        function: Works on each row alone.
        point: ``[1, *shape]``, for its shape, precision and device.
    """
    with guarded(torch.no_grad()):
        c = function(torch.zeros_like(point)).flatten()
    return (_derivative_by_inputs if point.numel() <= len(c) else _derivative_by_outputs)(function, point), c


def _derivative_by_inputs(function: Any, point: Tensor) -> Tensor:
    """The derivative ``[out, in]``, one row of a batch for each input; not a difference, which a large ``c`` would swallow."""
    basis = torch.eye(point.numel(), dtype=point.dtype, device=point.device).reshape(-1, *point.shape[1:])
    with guarded(torch.no_grad(), forward_ad.dual_level()):
        values, slopes = forward_ad.unpack_dual(function(forward_ad.make_dual(point.expand_as(basis).clone(), basis)))
    return torch.zeros_like(by_row(values).T) if slopes is None else by_row(slopes).T.contiguous()


def _derivative_by_outputs(function: Any, point: Tensor) -> Tensor:
    """The derivative ``[out, in]``, one row of a batch for each output."""
    with guarded(torch.enable_grad()):
        units = function(point.detach()).numel()
        rows = point.detach().expand(units, *point.shape[1:]).clone().requires_grad_()
        outputs = by_row(function(rows)).diagonal().sum()
        (gradient,) = torch.autograd.grad(outputs, rows)
    return gradient.flatten(1)


@checked
def map_distance(first: AffineMap | Tensor, second: AffineMap | Tensor) -> dict[str, float]:
    """How far two maps ``[out, in]`` are apart.

    Returns:
        ``frobenius`` of the difference, which one row of large weights can make as large as it likes; ``relative``: divided by
        the root mean square of the two norms; ``cosine`` of the two as vectors; ``top``: the difference's largest singular value
        over the first map's.
    """
    a, b = (item.A if isinstance(item, AffineMap) else item for item in (first, second))
    if a.shape != b.shape:
        raise InputError(f"maps have the shapes {tuple(a.shape)} and {tuple(b.shape)}")
    a, b = a.double(), b.double()
    norms = a.norm(), b.norm()
    difference = (a - b).norm()
    spectral = torch.linalg.matrix_norm(a, 2)
    return {
        "frobenius": float(difference),
        "relative": float(difference / ((norms[0] ** 2 + norms[1] ** 2) / 2).sqrt()),
        "cosine": float((a * b).sum() / (norms[0] * norms[1])),
        "top": float(torch.linalg.matrix_norm(a - b, 2) / spectral),
    }


@checked
def region_maps(model: OpenModel, line: "Segment") -> list[AffineMap]:
    """The map of every region along an exact segment, in order; from the recorded codes, however short the region.

    Raises:
        InputError: The segment was sampled.
    """
    if not line.exact:
        raise InputError("a sampled segment does not know its regions; make it with method='exact'")
    if line.plain_record()["model"]["weights_sha256"] != model.weights_digest():
        raise InputError("the segment was walked on another network than this one, or on other weights")
    parameters = from_plain(line.record["parameters"], line.tensors)
    start, dtype = parameters["start"], parameters["dtype"]
    point = as_points(model, [parameters["a"]], dtype)
    network = Network.of(model).cast(precision(model, dtype))
    codes = line.codes()
    maps = []
    for region in range(len(line.edges) - 1):
        states = {name: torch.from_numpy(code[region]).long().to(point.device)[None] for name, code in codes.items()}
        maps.append(AffineMap(*frozen_map(network, point, states, start), "exact"))
    return maps


@checked
def neighbour_distances(model: OpenModel, line: "Segment") -> "pd.DataFrame":
    """How far the maps of neighbouring regions along a segment are apart.

    Returns:
        One row a boundary: its place ``t`` and the distances of :func:`map_distance`.
    """
    import pandas as pd

    maps = region_maps(model, line)
    rows = [map_distance(before, after) for before, after in pairwise(maps)]
    return pd.DataFrame(rows, columns=["frobenius", "relative", "cosine", "top"]).assign(t=line.edges[1:-1])

"""Coordinates on a plane through input space."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from patchclamp.core.errors import InputError
from patchclamp.models.opened import OpenModel
from patchclamp.polytopes.network import Network
from patchclamp.polytopes.points import as_points, prepare_network
from patchclamp.polytopes.subdivision import Floats

Box = tuple[tuple[float, float], tuple[float, float]]
"""Lowest and highest of the first coordinate, and of the second."""

MARGIN = 0.25
"""Part of the points' extent that a box of ours has beyond them, on each side."""
_COLLINEAR = 1e-9
_FAR = 1e140
"""Coordinates beyond this have products that are infinite in float64."""


@dataclass(frozen=True, eq=False)
class Chart:
    """The plane ``origin + x u + y v``.

    Attributes:
        origin: ``[*shape]`` float64.
        u: The first axis, of the shape and type of ``origin``.
        v: The second axis, likewise.
        marked: Coordinates of the points that it was made through, ``[point, 2]``.
    """

    origin: Tensor
    u: Tensor
    v: Tensor
    marked: Floats

    @classmethod
    def of(cls, model: OpenModel, points: Any, axes: Any) -> "Chart":
        """The plane through three points, of two axes, or of a network's own two inputs.

        Through points, the first axis runs from the first to the second one and coordinates are distances; axes are taken as
        they are.

        Raises:
            InputError: Points and axes are both given, there are not three, they lie on a line, or are no points.
        """
        if points is not None and axes is not None:
            raise InputError("give points or axes, not both")
        if points is not None:
            return cls._through(as_points(model, _check_three(points, "points", "three points"), "float64"))
        if axes is None:
            first, second = torch.eye(2, dtype=torch.float64, device=model.device)
            return cls(torch.zeros_like(first), first, second, np.zeros((0, 2)))
        origin, u, v = as_points(model, _check_three(axes, "axes", "an origin and two directions"), "float64")
        _check_independent(u, v, "the two directions")
        return cls(origin, u, v, np.zeros((0, 2)))

    @classmethod
    def _through(cls, points: Tensor) -> "Chart":
        first, to_second, to_third = points[0], points[1] - points[0], points[2] - points[0]
        _check_independent(to_second, to_third, "the three points")
        length = to_second.norm()
        u = to_second / length
        along = (to_third * u).sum()
        across = to_third - along * u
        height = across.norm()
        marked = np.array([[0.0, 0.0], [float(length), 0.0], [float(along), float(height)]])
        return cls(first, u, across / height, marked)

    def at(self, coordinates: Any) -> Tensor:
        """Points ``[row, *shape]`` of coordinates ``[row, 2]``."""
        values = torch.as_tensor(np.asarray(coordinates, np.float64), device=self.origin.device)
        x, y = (values[:, axis].reshape(-1, *[1] * self.origin.dim()) for axis in (0, 1))
        return self.origin + x * self.u + y * self.v

    def box(self, bounds: Any) -> Box:
        """A box of coordinates, checked; around the marked points by default.

        Raises:
            InputError: It is empty, not finite, no box, or missing where nothing is marked.
        """
        if bounds is None:
            if not len(self.marked):
                raise InputError(
                    "without points there is no box around them: pass box=((low, high), (low, high)), or a number r for "
                    "-r to r (--box)"
                )
            low, high = self.marked.min(0), self.marked.max(0)
            reach = MARGIN * (high - low).max()
            edges = np.stack([low - reach, high + reach], axis=1)
        else:
            try:
                edges = np.asarray(bounds, np.float64)
            except (TypeError, ValueError):
                edges = np.zeros(0)
        if edges.ndim == 0:
            edges = np.array([[-edges, edges]] * 2)
        if edges.shape != (2, 2):
            raise InputError(
                f"a box is ((low, high), (low, high)) in coordinates of the plane, or one number; not {bounds!r}"
            )
        what = "the box around the points" if bounds is None else f"the box {bounds!r}"
        if not np.isfinite(edges).all():
            raise InputError(f"{what} is not finite")
        size, reach = edges[:, 1] - edges[:, 0], np.abs(edges).max()
        if reach > _FAR:
            raise InputError(f"{what} is too large for areas in float64; coordinates go to {_FAR:g}")
        if (size > 0).all() and not (size > 1e-12 * max(reach, 1e-140)).all():
            raise InputError(f"{what} is too small for numbers in float64 to tell its points apart")
        if not (edges[:, 0] < edges[:, 1]).all():
            raise InputError(f"{what} is empty: low must be below high")
        (left, right), (bottom, top) = edges.tolist()
        return (left, right), (bottom, top)


def corners(box: Box) -> Floats:
    """The corners of a box, counterclockwise, ``[4, 2]``."""
    (left, right), (bottom, top) = box
    return np.array([[left, bottom], [right, bottom], [right, top], [left, top]])


def prepare_plane(
    model: OpenModel, points: Any, axes: Any, box: Any, start: str | None, what: str
) -> tuple[Network, Chart, Box]:
    """The network in float64, the plane and the box, all checked before any work."""
    chart = Chart.of(model, points, axes)
    window = chart.box(box)
    return prepare_network(model, chart.at(corners(window)), what, start, "float64"), chart, window


def point_labels(names: Any, chart: Chart) -> list[str]:
    """A name for each marked point.

    Raises:
        InputError: There are more or fewer names than points.
    """
    if names is not None and len(names) != len(chart.marked):
        raise InputError(f"names must be one a point: got {len(names)} for {len(chart.marked)} points")
    return [str(name) for name in (range(len(chart.marked)) if names is None else names)]


def stack_points(points: Any) -> Tensor | None:
    """Points as one tensor, for a record."""
    return None if points is None else torch.stack([torch.as_tensor(np.asarray(p)).detach().cpu() for p in points])


def _check_three(values: Any, name: str, what: str) -> Sequence[Any]:
    triple = list(values)
    if len(triple) != 3:
        raise InputError(f"{name} must be {what}; got {len(triple)}")
    return triple


def _check_independent(u: Tensor, v: Tensor, what: str) -> None:
    vectors = torch.stack([u.flatten(), v.flatten()])
    singular_values = torch.linalg.svdvals(vectors)
    if float(singular_values[1]) <= _COLLINEAR * float(singular_values[0]):
        raise InputError(f"{what} lie on one line; they must span a plane")

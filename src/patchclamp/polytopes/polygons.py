"""A subdivision as labelled arrays: polygons, maps, neighbours, and the decision boundary inside them."""

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from patchclamp.polytopes.gate_cuts import cut_windows
from patchclamp.polytopes.subdivision import BOX, OUTSIDE, Column, Floats, Ints, Subdivision

if TYPE_CHECKING:
    import xarray as xr


def plane_dataset(
    subdivision: Subdivision, codes: Ints, outputs: Tensor, complete: bool, marked: Floats, names: list[str]
) -> "xr.Dataset":
    """The dataset of a :class:`~patchclamp.polytopes.plane.Plane`.

    Args:
        subdivision: The regions.
        codes: ``[region, layer]``.
        outputs: Outputs of the network at the vertices, ``[vertex, *shape]``; at the centres of regions if not complete.
        complete: Whether the network is affine on each region.
        marked: Coordinates of chosen points, ``[point, 2]``.
        names: Names of these points.
    """
    import xarray as xr

    corners, begin = subdivision.corners()
    positions = subdivision.points.rows[corners]
    arrays: dict[str, Any] = {
        "area": ("region", polygon_areas(positions, begin)),
        "perimeter": ("region", _perimeters(positions, begin)),
        "sides": ("region", np.diff(begin)),
        "neighbours": ("region", _neighbours(subdivision)),
        "code": (("region", "layer"), codes),
        "begin": ("bound", begin),
        "marked": (("point", "axis"), marked),
    }
    values, class_outputs = outputs.double().cpu().numpy(), with_zero(outputs.double())
    logits = None if class_outputs is None else class_outputs.cpu().numpy()
    cut_cells, cells = subdivision, _no_cells()
    if complete and values.ndim == 2:
        arrays["map"], arrays["offset"] = _maps(positions, values[corners], begin)
    if complete and logits is not None:
        cut_cells, cells = _cut_by_class(subdivision, logits)
    centre_logits = subdivision.averages() @ logits if complete and logits is not None else logits
    classes = np.full(subdivision.faces, -1) if centre_logits is None else centre_logits.argmax(axis=1)
    vertices = {
        "corners": ("corner", corners),
        "ends": (("edge", "end"), np.stack([subdivision.tails.rows, subdivision.heads.rows], axis=1)),
        "cell_corners": ("cell_corner", cells.pop("cell_corners")),
        "boundary": (("segment", "end"), cells.pop("boundary")),
    }
    vertex_numbers, arrays_of_vertices = _renumber(vertices)
    labels = subdivision.labels.rows
    arrays |= {
        "class": ("region", classes.astype(np.int64)),
        "vertices": (("vertex", "axis"), cut_cells.points.rows[vertex_numbers]),
        "layer": ("edge", labels[:, 0]),
        "neuron": ("edge", labels[:, 1]),
        "above": ("edge", subdivision.left.rows),
        "below": ("edge", subdivision.right.rows),
        **arrays_of_vertices,
        **cells,
    }
    return xr.Dataset(
        {name: (dims, np.array(array)) for name, (dims, array) in arrays.items()},
        coords={"axis": np.array(["x", "y"], dtype=object), "point": np.array(names, dtype=object)},
    )


def polygon_areas(places: Floats, begin: Ints) -> Floats:
    """The areas of polygons with the corners ``[corner, 2]``, those of polygon ``i`` from ``begin[i]`` to ``begin[i + 1]``."""
    # from the first corner of each: small polygons far from 0 keep their digits
    relative = places - np.repeat(places[begin[:-1]], np.diff(begin), axis=0)
    successors = relative[_next_corners(begin)]
    cross_products = relative[:, 0] * successors[:, 1] - relative[:, 1] * successors[:, 0]
    areas: Floats = np.add.reduceat(cross_products, begin[:-1]) / 2
    return areas


def _perimeters(places: Floats, begin: Ints) -> Floats:
    lengths = np.linalg.norm(places[_next_corners(begin)] - places, axis=1)
    return np.asarray(np.add.reduceat(lengths, begin[:-1]))


def _next_corners(begin: Ints) -> Ints:
    """The number of the corner that follows each."""
    successors = np.arange(1, begin[-1] + 1)
    successors[begin[1:] - 1] = begin[:-1]
    return successors


def _neighbours(subdivision: Subdivision) -> Ints:
    pairs = np.sort(np.stack([subdivision.left.rows, subdivision.right.rows], axis=1), axis=1)
    pairs = np.unique(pairs[(pairs[:, 0] != OUTSIDE) & (subdivision.labels.rows[:, 0] != BOX)], axis=0)
    return np.bincount(pairs.ravel(), minlength=subdivision.faces)


def with_zero(outputs: Tensor) -> Tensor | None:
    """One column a class: a single output stands for "above 0" against "not"; None if there are no classes."""
    if outputs.dim() != 2:
        return None
    return outputs if outputs.shape[1] > 1 else torch.cat([torch.zeros_like(outputs), outputs], dim=1)


def _maps(places: Floats, values: Floats, begin: Ints) -> tuple[Any, Any]:
    """The affine map of each region, from the corners of a large triangle in it.

    Args:
        places: The coordinates of the corners, ``[corner, 2]``.
        values: The outputs at the corners, ``[corner, output]``.
        begin: The first corner of each region.
    """
    lengths = np.diff(begin)
    triangle_corners = begin[:-1, None] + np.minimum(np.arange(lengths.max()), lengths[:, None] - 1)
    from_first = places[triangle_corners] - places[triangle_corners[:, :1]]
    rows = np.arange(len(triangle_corners))
    farthest = np.square(from_first).sum(-1).argmax(axis=1)
    base = from_first[rows, farthest]
    across = base[:, :1] * from_first[..., 1] - base[:, 1:] * from_first[..., 0]
    widest = np.abs(across).argmax(axis=1)
    side, double_area = from_first[rows, widest], across[rows, widest]
    first = values[triangle_corners[:, 0]]
    rise_base, rise_side = (
        values[triangle_corners[rows, farthest]] - first,
        values[triangle_corners[rows, widest]] - first,
    )
    slope_x = (rise_base * side[:, 1:] - rise_side * base[:, 1:]) / double_area[:, None]
    slope_y = (rise_side * base[:, :1] - rise_base * side[:, :1]) / double_area[:, None]
    maps = np.stack([slope_x, slope_y], axis=-1)
    offsets = first - np.einsum("roa,ra->ro", maps, places[triangle_corners[:, 0]])
    return (("region", "output", "axis"), maps), (("region", "output"), offsets)


def _no_cells() -> dict[str, Any]:
    empty = np.zeros(0, np.int64)
    return {
        "cell_region": ("cell", empty), "cell_class": ("cell", empty), "cell_begin": ("cell_bound", empty),
        "cell_corners": empty, "boundary": np.zeros((0, 2), np.int64),
        "boundary_class": (("segment", "side"), np.zeros((0, 2), np.int64)),
    }  # fmt: skip


def _cut_by_class(subdivision: Subdivision, logits: Floats) -> tuple[Subdivision, dict[str, Any]]:
    """The regions cut where the two largest outputs are equal: like a maximum over one window."""
    cut_cells = copy.deepcopy(subdivision)
    cut_cells.begin()
    number = int(subdivision.labels.rows[:, 0].max()) + 1
    logit_column = Column(logits)
    for _ in cut_windows(cut_cells, number, logit_column, [range(logits.shape[1])]):
        pass
    classes = (cut_cells.averages() @ logit_column.rows).argmax(axis=1)
    corners, begin = cut_cells.corners()
    edges = np.flatnonzero(cut_cells.labels.rows[:, 0] == number)
    sides = np.stack([cut_cells.left.rows[edges], cut_cells.right.rows[edges]], axis=1)
    return cut_cells, {
        "cell_region": ("cell", cut_cells.origin.rows), "cell_class": ("cell", classes), "cell_begin": ("cell_bound", begin),
        "cell_corners": corners, "boundary": np.stack([cut_cells.tails.rows[edges], cut_cells.heads.rows[edges]], axis=1),
        "boundary_class": (("segment", "side"), classes[sides]),
    }  # fmt: skip


def _renumber(arrays: dict[str, Any]) -> tuple[Ints, dict[str, Any]]:
    """The vertices that are used, and arrays of vertices as numbers among these."""
    vertices, numbers = np.unique(np.concatenate([array.ravel() for _, array in arrays.values()]), return_inverse=True)
    renumbered, begin = {}, 0
    for name, (dims, array) in arrays.items():
        renumbered[name] = (dims, numbers[begin : begin + array.size].reshape(array.shape))
        begin += array.size
    return vertices, renumbered

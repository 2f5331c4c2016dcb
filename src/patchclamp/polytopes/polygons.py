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


def assembled(
    found: Subdivision, codes: Ints, outputs: Tensor, complete: bool, marked: Floats, names: list[str]
) -> "xr.Dataset":
    """The dataset of a :class:`~patchclamp.polytopes.plane.Plane`.

    Args:
        found: The regions.
        codes: ``[region, layer]``.
        outputs: Of the network at the vertices, ``[vertex, *shape]``; at the centres of regions if not complete.
        complete: Whether the network is affine on each region.
        marked: Coordinates of chosen points, ``[point, 2]``.
        names: Of these.
    """
    import xarray as xr

    corners, begin = found.corners()
    places = found.points.rows[corners]
    arrays: dict[str, Any] = {
        "area": ("region", polygon_areas(places, begin)),
        "perimeter": ("region", _perimeters(places, begin)),
        "sides": ("region", np.diff(begin)),
        "neighbours": ("region", _neighbours(found)),
        "code": (("region", "layer"), codes),
        "begin": ("bound", begin),
        "marked": (("point", "axis"), marked),
    }
    values, classed = outputs.double().cpu().numpy(), with_zero(outputs.double())
    logits = None if classed is None else classed.cpu().numpy()
    finer, cells = found, _no_cells()
    if complete and values.ndim == 2:
        arrays["map"], arrays["offset"] = _maps(places, values[corners], begin)
    if complete and logits is not None:
        finer, cells = _decided(found, logits)
    inside = found.averages() @ logits if complete and logits is not None else logits
    classes = np.full(found.faces, -1) if inside is None else inside.argmax(axis=1)
    vertices = {
        "corners": ("corner", corners),
        "ends": (("edge", "end"), np.stack([found.tails.rows, found.heads.rows], axis=1)),
        "cell_corners": ("cell_corner", cells.pop("cell_corners")),
        "boundary": (("segment", "end"), cells.pop("boundary")),
    }
    used, arrays_of_vertices = _renumbered(vertices)
    labels = found.labels.rows
    arrays |= {
        "class": ("region", classes.astype(np.int64)),
        "vertices": (("vertex", "axis"), finer.points.rows[used]),
        "layer": ("edge", labels[:, 0]),
        "neuron": ("edge", labels[:, 1]),
        "above": ("edge", found.left.rows),
        "below": ("edge", found.right.rows),
        **arrays_of_vertices,
        **cells,
    }
    return xr.Dataset(
        {name: (dims, np.array(array)) for name, (dims, array) in arrays.items()},
        coords={"axis": np.array(["x", "y"], dtype=object), "point": np.array(names, dtype=object)},
    )


def polygon_areas(places: Floats, begin: Ints) -> Floats:
    """Of polygons with the corners ``[corner, 2]``, those of polygon ``i`` from ``begin[i]`` to ``begin[i + 1]``."""
    # from the first corner of each: small polygons far from 0 keep their digits
    own = places - np.repeat(places[begin[:-1]], np.diff(begin), axis=0)
    following = own[_following(begin)]
    crossed = own[:, 0] * following[:, 1] - own[:, 1] * following[:, 0]
    areas: Floats = np.add.reduceat(crossed, begin[:-1]) / 2
    return areas


def _perimeters(places: Floats, begin: Ints) -> Floats:
    lengths = np.linalg.norm(places[_following(begin)] - places, axis=1)
    return np.asarray(np.add.reduceat(lengths, begin[:-1]))


def _following(begin: Ints) -> Ints:
    """The corner after each."""
    after = np.arange(1, begin[-1] + 1)
    after[begin[1:] - 1] = begin[:-1]
    return after


def _neighbours(found: Subdivision) -> Ints:
    pairs = np.sort(np.stack([found.left.rows, found.right.rows], axis=1), axis=1)
    pairs = np.unique(pairs[(pairs[:, 0] != OUTSIDE) & (found.labels.rows[:, 0] != BOX)], axis=0)
    return np.bincount(pairs.ravel(), minlength=found.faces)


def with_zero(outputs: Tensor) -> Tensor | None:
    """One column a class: a single output stands for "above 0" against "not"; None if there are no classes."""
    if outputs.dim() != 2:
        return None
    return outputs if outputs.shape[1] > 1 else torch.cat([torch.zeros_like(outputs), outputs], dim=1)


def _maps(places: Floats, values: Floats, begin: Ints) -> tuple[Any, Any]:
    """The affine map of each region, from the corners of a large triangle in it.

    Args:
        places: Of the corners, ``[corner, 2]``.
        values: There, ``[corner, output]``.
        begin: Of the regions.
    """
    lengths = np.diff(begin)
    own = begin[:-1, None] + np.minimum(np.arange(lengths.max()), lengths[:, None] - 1)
    from_first = places[own] - places[own[:, :1]]
    rows = np.arange(len(own))
    far = np.square(from_first).sum(-1).argmax(axis=1)
    base = from_first[rows, far]
    across = base[:, :1] * from_first[..., 1] - base[:, 1:] * from_first[..., 0]
    wide = np.abs(across).argmax(axis=1)
    side, twice = from_first[rows, wide], across[rows, wide]
    first = values[own[:, 0]]
    along, aside = values[own[rows, far]] - first, values[own[rows, wide]] - first
    slope_x = (along * side[:, 1:] - aside * base[:, 1:]) / twice[:, None]
    slope_y = (aside * base[:, :1] - along * side[:, :1]) / twice[:, None]
    maps = np.stack([slope_x, slope_y], axis=-1)
    offsets = first - np.einsum("roa,ra->ro", maps, places[own[:, 0]])
    return (("region", "output", "axis"), maps), (("region", "output"), offsets)


def _no_cells() -> dict[str, Any]:
    nothing = np.zeros(0, np.int64)
    return {
        "cell_region": ("cell", nothing), "cell_class": ("cell", nothing), "cell_begin": ("cell_bound", nothing),
        "cell_corners": nothing, "boundary": np.zeros((0, 2), np.int64),
        "boundary_class": (("segment", "side"), np.zeros((0, 2), np.int64)),
    }  # fmt: skip


def _decided(found: Subdivision, logits: Floats) -> tuple[Subdivision, dict[str, Any]]:
    """The regions cut where the two largest outputs are equal: like a maximum over one window."""
    finer = copy.deepcopy(found)
    finer.begin()
    number = int(found.labels.rows[:, 0].max()) + 1
    everywhere = Column(logits)
    for _ in cut_windows(finer, number, everywhere, [range(logits.shape[1])]):
        pass
    classes = (finer.averages() @ everywhere.rows).argmax(axis=1)
    corners, begin = finer.corners()
    mine = np.flatnonzero(finer.labels.rows[:, 0] == number)
    sides = np.stack([finer.left.rows[mine], finer.right.rows[mine]], axis=1)
    return finer, {
        "cell_region": ("cell", finer.origin.rows), "cell_class": ("cell", classes), "cell_begin": ("cell_bound", begin),
        "cell_corners": corners, "boundary": np.stack([finer.tails.rows[mine], finer.heads.rows[mine]], axis=1),
        "boundary_class": (("segment", "side"), classes[sides]),
    }  # fmt: skip


def _renumbered(arrays: dict[str, Any]) -> tuple[Ints, dict[str, Any]]:
    """The vertices that are used, and arrays of vertices as numbers among these."""
    used, numbers = np.unique(np.concatenate([array.ravel() for _, array in arrays.values()]), return_inverse=True)
    found, begin = {}, 0
    for name, (dims, array) in arrays.items():
        found[name] = (dims, numbers[begin : begin + array.size].reshape(array.shape))
        begin += array.size
    return used, found

"""How far boundaries are from a point, and how many are near."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from patchclamp.core.call import recorded
from patchclamp.core.errors import BudgetError, InputError, ModelError
from patchclamp.core.interrupts import guarded
from patchclamp.core.kinds import Points
from patchclamp.core.progress import Listener, task
from patchclamp.core.result import DatasetResult
from patchclamp.interventions import provenance
from patchclamp.models.opened import OpenModel
from patchclamp.polytopes.affine import affine_parts
from patchclamp.polytopes.gates import Elementwise, MaxPool, NetworkGate, by_row
from patchclamp.polytopes.network import Network
from patchclamp.polytopes.points import as_points, prepare_network

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

MEMORY = 1 << 29
"""Numbers in the gradients of all pre-activations at one point, above which the method refuses."""


@dataclass(eq=False)
class Boundaries(DatasetResult):
    """Distances from points to the boundaries of their regions.

    ``data`` has dims ``point, layer, radius``: ``distance`` to the nearest hyperplane of each layer and the ``neuron`` that it
    belongs to (a flat index in the layer's pre-activation; for a max-pool the runner-up), and ``within``: how many hyperplanes lie
    within a radius, of ``hyperplanes`` in all. The smallest distance of a point is exact. What lies behind it is extrapolated: the
    hyperplanes of later layers are taken as they are in the point's own region, and bend where other boundaries are crossed.
    Distances are infinite where a layer's pre-activations do not depend on the input. ``tensors["step"]`` holds the shortest step
    onto the nearest boundary.
    """

    kind: ClassVar[str] = "boundaries"

    @property
    def nearest(self) -> np.ndarray[Any, Any]:
        """Exact distance of each point to the nearest boundary, ``[point]``."""
        distances: np.ndarray[Any, Any] = self.dataset["distance"].min("layer").values
        return distances

    @property
    def within(self) -> np.ndarray[Any, Any]:
        """Hyperplanes within each radius, over all layers: ``[point, radius]``."""
        counts: np.ndarray[Any, Any] = self.dataset["within"].sum("layer").values
        return counts

    def frame(self) -> "pd.DataFrame":
        """One row a point and layer: the distance, its neuron, and the hyperplanes within each radius."""
        table = self.dataset[["distance", "neuron"]].to_dataframe().reset_index()
        for radius in self.dataset["radius"].values:
            table[f"within {radius:g}"] = self.dataset["within"].sel(radius=radius).values.reshape(-1)
        return table

    def __repr__(self) -> str:
        gaps = self.nearest
        total = int(self.dataset["hyperplanes"].sum("layer").max())
        lines = [
            f"{len(gaps)} points, {total} hyperplanes: the nearest at {np.median(gaps):.3g} (median), {gaps.mean():.3g} (mean)"
        ]
        for radius, counts in zip(self.dataset["radius"].values, self.within.T, strict=True):
            lines.append(f"within {radius:g}: {counts.mean():.1f} hyperplanes (linear extrapolation)")
        return "\n".join(lines)


@recorded
def boundaries(
    model: OpenModel,
    points: Points,
    *,
    radii: Sequence[float] = (0.01, 0.1, 1.0),
    start: str | None = None,
    dtype: str | None = None,
    progress: bool | Listener | None = None,
) -> Boundaries:
    """How far points are from the boundaries of their regions: ``min |z - break| / ||grad z||`` over all neurons.

    A region is convex and its pre-activations are affine, so that the nearest of all hyperplanes is a face of it. A max-pool adds
    the hyperplanes on which the largest of a window equals another of its values.

    Args:
        model: A piecewise-linear network.
        points: ``[point, *shape]``.
        radii: Distances within which hyperplanes are counted.
        start: Where the points lie, as for :meth:`patchclamp.Model.segment`.
        dtype: ``"float32"``, ``"float64"`` or None for the weights' own.
        progress: True for a bar, a function for events.

    Raises:
        InputError: No point or radius, or a radius that is not positive.
        ModelError: The network is not piecewise linear, or has no gate after ``start``.
        BudgetError: The network is too large for the gradients of all its pre-activations.
    """
    if not len(points):
        raise InputError("no points were given")
    if not len(radii) or not all(0 < radius < np.inf for radius in radii):
        raise InputError(f"radii are positive numbers; got {list(radii)}")
    x = as_points(model, list(points), dtype)
    network = prepare_network(model, x[:2], "the distance to a boundary", start, dtype)
    gates = [step.gate for step in network.after(start)[0] if step.gate is not None]
    if not gates:
        raise ModelError("the network has no gates there, so that it is one affine map without boundaries")
    measurements = []
    with guarded(torch.no_grad()), task("boundaries", len(x), "points", show=progress) as bar:
        for point in x.split(1):
            measurements.append(_measure_point(network, point, gates, sorted(radii), start))
            bar.advance()
    record, tensors = provenance(model, (), points=x.cpu(), radii=[float(radius) for radius in radii])
    tensors["step"] = torch.stack([measurement[-1] for measurement in measurements]).reshape(x.shape).cpu()
    return Boundaries(_dataset(measurements, [gate.name for gate in gates], sorted(radii)), record, tensors)


def _dataset(measurements: list[Any], layers: list[str], radii: list[float]) -> "xr.Dataset":
    import xarray as xr

    distance, neuron, within, planes = (
        np.stack(values) for values in zip(*(measurement[:4] for measurement in measurements), strict=True)
    )
    dims = ("point", "layer")
    arrays: dict[str, Any] = {
        "distance": (dims, distance), "neuron": (dims, neuron), "within": ((*dims, "radius"), within),
        "hyperplanes": (dims, planes),
    }  # fmt: skip
    return xr.Dataset(arrays, {"layer": np.array(layers, dtype=object), "radius": np.array(radii, dtype=float)})


def _measure_point(
    network: Network, point: Tensor, gates: list[NetworkGate], radii: list[float], start: str | None
) -> tuple[Any, Any, Any, Any, Tensor]:
    """Measure one point: distance and neuron of each layer, counts, hyperplanes, and the step onto the nearest."""
    values = network.preactivations(point, start)
    sizes = [values[gate.name].numel() for gate in gates]
    if sum(sizes) * point.numel() > MEMORY:
        raise BudgetError(
            f"the gradients of {sum(sizes):,} pre-activations by {point.numel():,} coordinates are more than fit in memory; "
            "take a smaller network, or start= at a later place"
        )
    states = {gate.name: gate.state(values[gate.name]) for gate in gates}
    gradients, _ = affine_parts(lambda rows: _all_preactivations(network, rows, states, start), point)
    distances, neurons, within, planes = [], [], [], []
    step = torch.full_like(point.flatten(), torch.inf)
    for gate, gradient in zip(gates, gradients.split(sizes), strict=True):
        gap, normal, owners = hyperplanes(gate, values[gate.name], gradient)
        lengths = normal.norm(dim=1)
        plane_distances = torch.where(lengths > 0, gap.abs() / lengths, torch.inf)
        closest = int(plane_distances.argmin()) if len(plane_distances) else 0
        nearest = float(plane_distances[closest]) if len(plane_distances) else np.inf
        if nearest < float(step.norm()):
            step = -gap[closest] * normal[closest] / lengths[closest] ** 2
        distances.append(nearest)
        neurons.append(int(owners[closest]) if len(plane_distances) else -1)
        within.append([int((plane_distances <= radius).sum()) for radius in radii])
        planes.append(len(plane_distances))
    return np.array(distances), np.array(neurons), np.array(within), np.array(planes), step


def _all_preactivations(network: Network, rows: Tensor, states: dict[str, Tensor], start: str | None) -> Tensor:
    preactivations: list[Tensor] = []
    network.frozen(rows, states, start, lambda _, z: preactivations.append(by_row(z)))
    return torch.cat(preactivations, dim=1)


def hyperplanes(gate: NetworkGate, z: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Every hyperplane of a gate around a point, as the affine functions that are zero on them.

    Args:
        gate: Piecewise linear.
        z: Its pre-activation at the point, ``[1, *shape]``.
        gradient: The gradient of each pre-activation, ``[neuron, in]``.

    Returns:
        Values at the point ``[plane]``, gradients ``[plane, in]`` and the neurons ``[plane]``.
    """
    flat = z.flatten()
    neurons = torch.arange(len(flat), device=z.device)
    if isinstance(gate, MaxPool):
        # windows of the numbers of neurons say which neurons meet in a window; padding is below every number
        members = gate.windows(neurons.reshape(z.shape).double())[0]
        winner = members.gather(0, gate.state(z).reshape(1, -1)).expand_as(members)
        rivals = (members >= 0) & (members != winner)
        pairs = torch.stack([winner[rivals], members[rivals]]).long().unique(dim=1)
        return flat[pairs[0]] - flat[pairs[1]], gradient[pairs[0]] - gradient[pairs[1]], pairs[1]
    assert isinstance(gate, Elementwise)
    break_count = len(gate.breaks)
    gap = torch.cat([flat - edge for edge in gate.breaks])
    return gap, gradient.repeat(break_count, 1), neurons.repeat(break_count)

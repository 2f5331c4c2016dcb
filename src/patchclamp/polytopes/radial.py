"""How densely boundaries lie on rays from a centre: whether there is a shell that many of them pass through."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from patchclamp.core.call import recorded
from patchclamp.core.errors import InputError
from patchclamp.core.interrupts import guarded
from patchclamp.core.intervals import mean_row
from patchclamp.core.kinds import Point, Points, Seed
from patchclamp.core.progress import Listener, task
from patchclamp.core.result import DatasetResult
from patchclamp.interventions import provenance
from patchclamp.models.opened import OpenModel
from patchclamp.polytopes.lines import whole_line
from patchclamp.polytopes.points import as_points, prepare_network
from patchclamp.polytopes.segment import LIMIT

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

POINTS, SHUFFLED, RANDOM = "points", "shuffled", "random"
SHELLS = 30


@dataclass(eq=False)
class RadialDensity(DatasetResult):
    """Crossings on rays from a centre, shell by shell.

    ``data["crossings"]`` has dims ``rays, ray, layer, shell``: exact counts on the rays through the points, through the points with
    their coordinates shuffled (same length, same coordinates), and in random directions. ``low`` and ``high`` bound the shells, and
    ``norm`` is how far each point is from the centre.
    """

    kind: ClassVar[str] = "radial_density"

    @property
    def density(self) -> "xr.DataArray":
        """Crossings a unit of length in all layers together, ``[rays, ray, shell]``."""
        return self.dataset["crossings"].sum("layer") / (self.dataset["high"] - self.dataset["low"])

    def summary(self, seed: Seed = 0) -> "pd.DataFrame":
        """One row a kind of rays and shell: mean density and its 95 % bootstrap interval over rays."""
        import pandas as pd

        rows = []
        for kind, table in zip(self.dataset["rays"].values, self.density.values, strict=True):
            for shell, values in enumerate(table.T):
                ends = {end: float(self.dataset[end][shell]) for end in ("low", "high")}
                interval = mean_row(values, seed)
                rows.append({"rays": kind, "from": ends["low"], "to": ends["high"], "density": interval["mean"],
                             "least": interval["low"], "most": interval["high"]})  # fmt: skip
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        norm = self.dataset["norm"].values
        lines = [f"{len(norm)} points, {norm.mean():.3g} from the centre (mean): crossings a unit of length"]
        shells = self.dataset.sizes["shell"]
        indices = sorted({*range(0, shells, 1 if shells <= 8 else -(-shells // 6)), shells - 1})
        headings = [f"{self.dataset['low'].values[i]:.3g}-{self.dataset['high'].values[i]:.3g}" for i in indices]
        lines.append(f"{'radius':<10}" + "".join(f"{text:>12}" for text in headings))
        for kind, row in zip(self.dataset["rays"].values, self.density.mean("ray").values, strict=True):
            lines.append(f"{kind:<10}" + "".join(f"{row[i]:>12.4g}" for i in indices))
        return "\n".join(lines)


@recorded
def radial_density(
    model: OpenModel,
    points: Points,
    *,
    centre: Point = None,
    edges: Sequence[float] | None = None,
    start: str | None = None,
    seed: Seed = 0,
    dtype: str | None = None,
    limit: int = LIMIT,
    progress: bool | Listener | None = None,
) -> RadialDensity:
    """Count the boundaries that rays from a centre cross, exactly, by distance from it.

    Args:
        model: A piecewise-linear network.
        points: ``[point, *shape]``; a ray goes through each.
        centre: ``[*shape]``; the origin by default.
        edges: Distances from the centre that bound the shells, ascending; by default 30 equal ones up to one and a half times the
            points' mean distance.
        start: Where the points lie, as for :meth:`patchclamp.Model.segment`.
        seed: The seed of the shuffled and random directions.
        dtype: ``"float32"``, ``"float64"`` or None for the weights' own.
        limit: The most crossings that one ray may have.
        progress: True for a bar, a function for events.

    Raises:
        InputError: A point is the centre, or the edges do not ascend from 0 or more.
        ModelError: The network is not piecewise linear.
        BudgetError: A ray crosses more than ``limit`` boundaries.
    """
    if not len(points):
        raise InputError("no points were given")
    x = as_points(model, list(points), dtype)
    origin_point = torch.zeros_like(x[:1]) if centre is None else as_points(model, [centre], dtype)
    if origin_point.shape[1:] != x.shape[1:]:
        raise InputError(
            f"the centre has the shape {tuple(origin_point.shape[1:])} and the points {tuple(x.shape[1:])}"
        )
    norms = (x - origin_point).flatten(1).norm(dim=1)
    if not bool((norms > 0).all()):
        raise InputError(f"point {int((norms == 0).nonzero()[0])} is the centre; no ray goes through it")
    shells = _shell_bounds(edges, float(norms.mean()))
    network = prepare_network(model, torch.cat([origin_point, x[:1]]), "a radial density", start, dtype)
    directions = _directions(x - origin_point, seed)
    counts: dict[str, list[dict[str, Any]]] = {name: [] for name in directions}
    with guarded(torch.no_grad()), task("rays", sum(map(len, directions.values())), "rays", show=progress) as bar:
        for name, rays in directions.items():
            for ray in rays.split(1):
                ends = origin_point + shells[0] * ray, origin_point + shells[-1] * ray
                walk = whole_line(network, *ends, start, limit, "a ray", "a smaller radius")
                counts[name].append({layer: _count_by_shell(event[0], shells) for layer, event in walk.events.items()})
                bar.advance()
    origin = None if centre is None else origin_point[0].cpu()
    record = provenance(model, (), points=x.cpu(), centre=origin, edges=shells.tolist())
    return RadialDensity(_dataset(counts, shells, norms.cpu().numpy()), *record)


def _shell_bounds(edges: Sequence[float] | None, mean: float) -> np.ndarray[Any, Any]:
    bounds = np.linspace(0, 1.5 * mean, SHELLS + 1) if edges is None else np.asarray(edges, dtype=float)
    if (
        bounds.ndim != 1
        or len(bounds) < 2
        or not np.isfinite(bounds).all()
        or bounds[0] < 0
        or (np.diff(bounds) <= 0).any()
    ):
        raise InputError(f"edges are two or more distances that ascend from 0 or more; got {edges}")
    return bounds


def _directions(offsets: Tensor, seed: int) -> dict[str, Tensor]:
    """Unit vectors ``[ray, *shape]`` by kind."""
    generator = torch.Generator().manual_seed(seed)
    flat = offsets.flatten(1)
    order = torch.stack([torch.randperm(flat.shape[1], generator=generator) for _ in flat]).to(flat.device)
    random = torch.randn(flat.shape, generator=generator, dtype=torch.float64).to(flat)
    kinds = {POINTS: flat, SHUFFLED: flat.gather(1, order), RANDOM: random}
    return {name: (rows / rows.norm(dim=1, keepdim=True)).reshape(offsets.shape) for name, rows in kinds.items()}


def _count_by_shell(t: Tensor, shells: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Crossings in each shell, of places from 0 to 1 along the ray."""
    return np.histogram(shells[0] + t.cpu().numpy() * (shells[-1] - shells[0]), shells)[0]


def _dataset(counts: dict[str, list[dict[str, Any]]], shells: Any, norms: Any) -> "xr.Dataset":
    import xarray as xr

    layers = list(next(iter(counts.values()))[0])
    table = np.array([[[ray[layer] for layer in layers] for ray in rays] for rays in counts.values()])
    arrays: dict[str, Any] = {
        "crossings": (("rays", "ray", "layer", "shell"), table), "norm": ("ray", norms),
        "low": ("shell", shells[:-1]), "high": ("shell", shells[1:]),
    }  # fmt: skip
    labels = {"rays": np.array(list(counts), dtype=object), "layer": np.array(layers, dtype=object)}
    return xr.Dataset(arrays, labels)

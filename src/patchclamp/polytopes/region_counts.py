"""How many regions a network has on a plane, beside what theory expects and what a grid of samples sees."""

from math import comb, prod
from typing import TYPE_CHECKING

import numpy as np
import torch

from patchclamp.core.arguments import checked
from patchclamp.core.errors import InputError
from patchclamp.core.interrupts import guarded
from patchclamp.core.kinds import Repeats
from patchclamp.models.opened import OpenModel
from patchclamp.polytopes.cutting import digests
from patchclamp.polytopes.gates import Elementwise
from patchclamp.polytopes.network import Network
from patchclamp.polytopes.plane import Plane

if TYPE_CHECKING:
    import pandas as pd

_ROWS = 4096


@checked
def region_counts(model: OpenModel, plane: Plane, samples: Repeats = 400) -> "pd.DataFrame":
    """The regions of a plane, counted, bounded, expected and sampled.

    - ``exact``: what the plane has.
    - ``grid``: the different codes at the middles of ``samples x samples`` equal cells of the box.
    - ``expected``: ``N^2 / 2`` for ``N`` hyperplanes (neurons, times the breaks of each). Hanin & Rolnick 2019, "Deep ReLU networks
      have surprisingly few activation patterns" (arXiv 1906.00904), bound the mean number at initialisation by ``(T N)^2 / 2``,
      whatever the depth; their ``T`` hangs on the gradients and the biases, and is 1 here.
    - ``constructed``: what some weights reach on all of the plane: ``floor(n / 2)^2`` for each layer but the last, times
      ``1 + n + n (n - 1) / 2`` of the last (Montufar et al. 2014, arXiv 1402.1869).
    - ``most``: what no weights exceed: ``1 + n + n (n - 1) / 2`` of all layers, multiplied (Serra et al. 2018, arXiv 1711.02114).

    Args:
        model: The network of the plane.
        plane: A complete plane.
        samples: The number of samples on a side of the grid.

    Returns:
        One row a count; bounds are missing for networks with other gates than functions of one number.

    Raises:
        InputError: The plane is not complete, or there are no samples.
    """
    import pandas as pd

    if not plane.complete:
        until = plane.record["until"]
        raise InputError(f"the plane has the boundaries until {until} only; its regions are not those of the network")
    if samples < 1:
        raise InputError(f"samples must be 1 or more, not {samples}")
    counts: dict[str, float] = {
        "exact": plane.regions,
        f"grid of {samples} x {samples}": _count_on_grid(model, plane, samples),
    }
    gates = [gate for gate in Network.of(model).gates if gate.name in plane.record["layers"]]
    widths = plane.record["widths"]
    if gates and all(isinstance(gate, Elementwise) for gate in gates):
        hyperplanes = [
            width * len(gate.breaks) for gate, width in zip(gates, widths, strict=True) if isinstance(gate, Elementwise)
        ]
        most_regions = [1 + n + comb(n, 2) for n in hyperplanes]
        counts["expected"] = sum(hyperplanes) ** 2 / 2
        counts["constructed"] = prod((n // 2) ** 2 for n in hyperplanes[:-1]) * most_regions[-1]
        counts["most"] = prod(most_regions)
    table = pd.DataFrame({"count": list(counts), "regions": list(counts.values())})
    return table.assign(share_of_exact=table["regions"] / plane.regions)


def _count_on_grid(model: OpenModel, plane: Plane, samples: int) -> int:
    (left, right), (bottom, top) = plane.record["box"]
    fractions = (np.arange(samples) + 0.5) / samples
    x, y = np.meshgrid(left + fractions * (right - left), bottom + fractions * (top - bottom))
    grid = np.stack([x.ravel(), y.ravel()], axis=1)
    network = Network.of(model).cast(torch.float64)
    start = plane.record["parameters"]["start"]
    distinct = set()
    with guarded(torch.no_grad()):
        for first in range(0, len(grid), _ROWS):
            rows = plane.points(grid[first : first + _ROWS]).to(model.device)
            distinct.update(digests(network, rows, start).sum(axis=1).tolist())
    return len(distinct)

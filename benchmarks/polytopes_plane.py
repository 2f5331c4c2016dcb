"""The speed of exact planes: time against the number of regions, the products alone, grids of samples, and relucent.

The network is a random 2-64-64-64-2 one with torch's usual initialisation, cut on larger and larger boxes. The floor is its own
matrix products: the vertices of the regions after each layer through the next. relucent (if it is installed) finds the regions of
all of the plane by local search; it gets a random 2-16-16-2 network, and its count is compared.
"""

import itertools
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from common import Target, count_option, interleave, ratio, use_one_thread, write
from torch import nn

import patchclamp as pc
from patchclamp.polytopes.cutting import digests
from patchclamp.polytopes.network import Network

BOXES = (0.5, 1.0, 2.0, 4.0, 8.0)
GRID = 600
REGIONS = 17_504
"""Of the plane that must take no more than a second."""


def network(*widths: int, seed: int = 0) -> nn.Sequential:
    """Linear layers with ReLUs between them, in float64."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).double()


def products(net: nn.Sequential, found: Any) -> tuple[Callable[[], Any], float, float]:
    """The products of a plane, their FLOPs and the bytes that they read and write.

    A subdivision has about as many vertices as faces.
    """
    rows = [4, *found.layer_counts().values()]
    layers = [layer for layer in net if isinstance(layer, nn.Linear)]
    inputs = [torch.randn(n, layer.in_features).double() for n, layer in zip(rows, layers, strict=True)]
    flops = sum(2 * n * layer.weight.numel() for n, layer in zip(rows, layers, strict=True))
    moved = sum(8 * n * sum(layer.weight.shape) for n, layer in zip(rows, layers, strict=True))
    return lambda: [layer(x) for layer, x in zip(layers, inputs, strict=True)], flops, moved


@torch.no_grad()
def grid(net: nn.Sequential, box: float) -> int:
    """How many codes a grid of samples sees."""
    places = torch.linspace(-box, box, GRID, dtype=torch.float64)
    return len(set(digests(Network.of(net), torch.cartesian_prod(places, places)).sum(axis=1).tolist()))


@torch.no_grad()
def plane_case(rounds: int) -> tuple[dict[str, Any], list[Target]]:
    """Time every contender on every box."""
    net = network(2, 64, 64, 64, 2)
    model, rows = pc.wrap(net), []
    model.plane(box=0.1)
    for box in BOXES:
        found = model.plane(box=box, max_regions=None)
        floor, flops, moved = products(net, found)
        seconds = interleave(
            {
                "plane": lambda box=box: model.plane(box=box, max_regions=None),
                "products": floor,
                "grid": lambda box=box: grid(net, box),
            },
            rounds,
        )
        table = model.region_counts(found, GRID)
        rows.append({
            "box": box, "regions": found.regions, "estimate": found.record["estimate"],
            "seen by the grid": float(table["share_of_exact"][1]), "MFLOP": flops / 1e6, "MB": moved / 1e6,
            "microseconds a region": 1e6 * statistics.median(seconds["plane"]) / found.regions,
            "plane / products": ratio(seconds["plane"], seconds["products"]), "seconds": seconds,
        })  # fmt: skip
    large = rows[-1]
    scaled = statistics.median(large["seconds"]["plane"]) * REGIONS / large["regions"]
    targets = [
        Target(f"plane of a 2-64-64-64-2 network, {REGIONS:,} regions", scaled, 1, "s", True),
        Target(
            f"grid of {GRID} x {GRID} / plane of {large['regions']:,} regions",
            ratio(large["seconds"]["grid"], large["seconds"]["plane"]),
            1,
        ),
    ]
    return {"boxes": rows, "relucent": relucent_case()}, targets


def relucent_case() -> dict[str, Any]:
    """Regions of a small network on all of the plane, and the wall time of both."""
    net = network(2, 16, 16, 2)
    began = time.perf_counter()
    ours = pc.wrap(net).plane(box=1e5).regions
    found: dict[str, Any] = {"ours": ours, "ours, seconds": time.perf_counter() - began}
    if find_spec("relucent") is not None:
        import relucent

        began = time.perf_counter()
        complex_ = relucent.Complex(net)
        complex_.bfs(nworkers=1)
        found |= {"relucent": len(complex_), "relucent, seconds": time.perf_counter() - began}
    return found


def main() -> None:
    rounds = count_option(__doc__, "rounds", 5)
    use_one_thread()
    measured, targets = plane_case(rounds)
    for row in measured["boxes"]:
        print({name: value for name, value in row.items() if name != "seconds"})
        print({name: round(statistics.median(times), 4) for name, times in row["seconds"].items()})
    print(measured["relucent"])
    write("polytopes_plane", measured, targets)


if __name__ == "__main__":
    main()

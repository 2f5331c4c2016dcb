"""The speed of exact segments on the trained 784-512-512-10 network: against their own matrix products, and against sampling.

The floor is the products alone: two rows through the first layer, the rows that it was cut into through the second, all rows
through the head. Sampling is written as lean as it goes: the network's own layers on equally spaced points, and which signs change.
"""

import statistics
from typing import Any

import torch
from common import Target, count_option, interleave, ratio, use_one_thread, write
from torch import Tensor

import patchclamp as pc
from patchclamp.polytopes.lines import LineWalk, join_walks, walk_line
from patchclamp.polytopes.points import prepare_network
from patchclamp.studies import digits

PAIRS = 24
SAMPLES = (50, 200, 1000)


def floor(net: torch.nn.Sequential, found: LineWalk, dtype: torch.dtype) -> tuple[Any, float]:
    """The products of a segment, and their FLOPs."""
    cuts = [len(event[0]) for event in found.events.values()]
    rows = (2, 2 + cuts[0], len(found.t))
    layers = [layer for layer in net if isinstance(layer, torch.nn.Linear)]
    inputs = [torch.randn(n, layer.in_features, dtype=dtype) for n, layer in zip(rows, layers, strict=True)]
    flops = sum(2 * n * layer.in_features * layer.out_features for n, layer in zip(rows, layers, strict=True))
    return lambda: [layer(x) for x, layer in zip(inputs, layers, strict=True)], flops


def sampled(net: torch.nn.Sequential, a: Tensor, b: Tensor, samples: int) -> list[Tensor]:
    """Which signs change between equally spaced points."""
    x = torch.lerp(a, b, torch.linspace(0, 1, samples, dtype=a.dtype)[:, None])
    found = []
    for layer in net:
        x = layer(x)
        if isinstance(layer, torch.nn.Linear) and layer is not net[-1]:
            on = x > 0
            found.append((on[1:] != on[:-1]).nonzero())
    return found


@torch.no_grad()
def contest(dtype: torch.dtype, rounds: int) -> dict[str, Any]:
    """Time every contender on the same pairs of test images."""
    net = digits.trained("mlp").to(dtype)
    pictures = digits.images()
    pairs = pictures.test[: 2 * PAIRS].to(dtype).reshape(PAIRS, 2, 1, -1)
    network = prepare_network(pc.wrap(net), pairs[0, :, 0], "a segment")
    walked = [join_walks(walk_line(network, a, b, None, 10**6)) for a, b in pairs]
    floors = [floor(net, one, dtype) for one in walked]
    contenders: dict[str, Any] = {
        "exact": lambda: [walk_line(network, a, b, None, 10**6) for a, b in pairs],
        "products": lambda: [products() for products, _ in floors],
        **{f"{n} samples": lambda n=n: [sampled(net, a, b, n) for a, b in pairs] for n in SAMPLES},
    }
    interleave(contenders, 2)
    seconds = interleave(contenders, rounds)
    crossings = [sum(len(event[0]) for event in one.events.values()) for one in walked]
    flips = {n: [sum(map(len, sampled(net, a, b, n))) for a, b in pairs] for n in SAMPLES}
    return {
        "crossings": statistics.mean(crossings),
        "found by samples": {n: sum(seen) / sum(crossings) for n, seen in flips.items()},
        "milliseconds": {name: 1000 * statistics.median(times) / PAIRS for name, times in seconds.items()},
        "GFLOP/s of the products": statistics.mean(f for _, f in floors)
        * PAIRS
        / statistics.median(seconds["products"])
        / 1e9,
        "seconds": seconds,
    }


def main() -> None:
    rounds = count_option(__doc__, "rounds", 15)
    use_one_thread()
    measured = {name: contest(getattr(torch, name), rounds) for name in ("float32", "float64")}
    targets = []
    for name, one in measured.items():
        seconds = one["seconds"]
        targets += [
            Target(f"{name}: exact segment / its products", ratio(seconds["exact"], seconds["products"]), 5, "x", True),
            Target(f"{name}: 200 samples / exact segment", ratio(seconds["200 samples"], seconds["exact"]), 1),
        ]
    print({name: {k: v for k, v in one.items() if k != "seconds"} for name, one in measured.items()})
    write("segments", measured, targets)


if __name__ == "__main__":
    main()

"""How fast MOD recovers known features: the data of the post, and features that interfere strongly.

Two cases, each on several seeds (of the data and of the fit): the post's correlated recipe (512 features in 256 dimensions, 5
active; 768 atoms), and 2,048 features in 256 dimensions (Zipf 0.7, 8 active; 2,560 atoms). Reported are the mean over features of
the largest cosine with an atom (MMCS), the shares above .9 and .99, the mean weighted by how often a feature fires, and the
precision (the share of atoms with a feature above .9) before and after pruning. Time is CPU seconds of one thread, without the
drawing of rows.

The floor counts what the method itself must multiply: correlations, their updates, products of atoms, and the solution for the
atoms, at the rate of the machine's matrix products.
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch
from common import Target, cpu_seconds, matmul_rate, write

from patchclamp.activations.stream import ActivationStream
from patchclamp.dictionaries import MOD, ToyData, prune

CASES: dict[str, dict[str, Any]] = {
    "post": {"width": 768, "k": 8, "batch_size": 1024, "batches": 400, "limit": 60},
    "strong": {"width": 2560, "k": 10, "batch_size": 2048, "batches": 90, "limit": 120},
}
AIM = 0.99
PRUNING_ROWS = 65_536
"""The rarest feature of the post is active in about twenty of them."""


def data(case: str, seed: int) -> ToyData:
    """The rows of a case."""
    if case == "post":
        return ToyData.post(seed=seed)
    return ToyData.zipf(2048, 256, active=8, exponent=0.7, seed=seed)


def pruning_rows(toy: ToyData, seed: int) -> torch.Tensor:
    """Rows of many batches: the post's recipe draws anew which features fire for each."""
    return torch.cat([toy.sample(1024, seed, 10**6 + step)[0] for step in range(PRUNING_ROWS // 1024)])


def flops(width: int, k: int, batch_size: int, batches: int, d: int = 256) -> dict[str, float]:
    """FLOPs of a fit, by what they are for."""
    rows = batch_size * batches
    return {
        "correlations": 2.0 * rows * d * width,
        "updates of correlations": 2.0 * rows * width * k * (k - 1) / 2,
        "products of atoms": 2.0 * batches * width * width * d,
        "atoms": batches * (width**3 / 3 + 2.0 * width * width * d),
    }


def run(case: str, seed: int) -> dict[str, Any]:
    """One fit, and how much it recovers."""
    sizes, toy = CASES[case], data(case, seed)
    drawing = 0.0

    def make(seed: int, step: int, count: int) -> torch.Tensor:
        nonlocal drawing
        began = time.process_time()
        rows = toy.sample(count, seed, step)[0]
        drawing += time.process_time() - began
        return rows

    size, width, k = sizes["batch_size"], sizes["width"], sizes["k"]
    stream = ActivationStream.from_function(make, toy.d, count=size * sizes["batches"], batch_size=size, seed=seed)
    fit = MOD(width=width, k=k, batch_size=size, centre=False, random_state=seed)
    seconds = cpu_seconds(lambda: fit.fit(stream)) - drawing
    dictionary, rows = fit.dictionary_, pruning_rows(toy, seed)
    small = prune(dictionary, rows, firing=5e-5)
    recovery = dict(_recovery(toy, dictionary.atoms))
    return {
        "case": case, "seed": seed, "seconds": seconds, "drawing": drawing, "rows": size * sizes["batches"], **recovery,
        **{f"pruned {name}": value for name, value in _recovery(toy, small.atoms)}, "pruned width": small.width,
        "explained": dictionary.card["explained"], "active": dictionary.card["active"],
    }  # fmt: skip


def _recovery(toy: ToyData, atoms: torch.Tensor) -> Iterator[tuple[str, float]]:
    cosines = toy.features @ torch.nn.functional.normalize(atoms).T
    best, weights = cosines.amax(1), toy.probabilities / toy.probabilities.sum()
    yield "mmcs", float(best.mean())
    yield "recovered at .9", float((best > 0.9).float().mean())
    yield "recovered at .99", float((best > 0.99).float().mean())
    yield "weighted by frequency", float((best * weights).sum())
    yield "precision at .9", float((cosines.amax(0) > 0.9).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    record: dict[str, Any] = {}
    targets: list[Target] = []
    for case in options.cases:
        rows = []
        for seed in range(1, options.seeds + 1):
            rows.append(run(case, seed))
            print(rows[-1], flush=True)
        sizes = {name: value for name, value in CASES[case].items() if name != "limit"}
        counts, rate = flops(**sizes), matmul_rate()
        floor, seconds = sum(counts.values()) / rate, statistics.median(row["seconds"] for row in rows)
        record[case] = {
            "settings": sizes, "runs": rows, "flops": counts, "flops a second of matrix products": rate,
            "floor, seconds": floor, "seconds / floor": seconds / floor,
        }  # fmt: skip
        mmcs = statistics.median(row["mmcs"] for row in rows)
        targets += [
            Target(f"{case}: MMCS, median of {len(rows)} seeds", mmcs, AIM, ""),
            Target(f"{case}: CPU seconds, median", seconds, CASES[case]["limit"], "s", True),
        ]
        print({"floor, seconds": floor, "seconds / floor": seconds / floor}, flush=True)
    write("dictionary_recovery", record, targets)


if __name__ == "__main__":
    main()

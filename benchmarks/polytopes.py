"""The speed of the polytope lens: one case a function, its numbers and targets side by side.

Everything is timed in CPU seconds on one thread, contenders by turns.
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
from common import Target, interleave, ratio, use_one_thread, write

from patchclamp.polytopes import neighbours

Case = Callable[[int], tuple[dict[str, Any], list[Target]]]


def nearest_codes(rounds: int) -> tuple[dict[str, Any], list[Target]]:
    """The 10 nearest of 10,000 codes of 1,536 bits for each of 1,000, exact: ours and faiss (its index is made each time)."""
    import faiss

    faiss.omp_set_num_threads(1)
    draw = np.random.default_rng(0)
    queries, base = (np.packbits(draw.random((rows, 1536)) < 0.3, axis=1) for rows in (1_000, 10_000))

    def theirs() -> Any:
        index = faiss.IndexBinaryFlat(1536)
        index.add(base)
        return index.search(queries, 10)

    contenders = {
        "ours": lambda: neighbours.knn(base, queries, 10),
        "faiss": theirs,
        "ours, float32": lambda: neighbours.knn(base, queries, 10, kind="float32"),
        "ours, Jaccard": lambda: neighbours.knn(base, queries, 10, "jaccard"),
    }
    interleave(contenders, 1)
    seconds = interleave(contenders, rounds)
    equal = bool((neighbours.knn(base, queries, 10).distance.numpy() == theirs()[0]).all())
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    rows = [
        Target("kNN of codes, 1,000 x 10,000 x 1,536 bits", medians["ours"], 0.15, "s", True),
        Target("the same / faiss", ratio(seconds["ours"], seconds["faiss"]), 1.5, "x", True),
    ]
    return {"engine": neighbours.engine(), "distances equal": equal, "medians": medians, "seconds": seconds}, rows


CASES: tuple[Case, ...] = (nearest_codes,)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("only", nargs="*", help=f"some of: {', '.join(case.__name__ for case in CASES)}")
    options = parser.parse_args()
    use_one_thread()
    measured: dict[str, Any] = {}
    targets: list[Target] = []
    for case in CASES:
        if not options.only or case.__name__ in options.only:
            measured[case.__name__], rows = case(options.rounds)
            targets += rows
    print({name: {k: v for k, v in one.items() if k != "seconds"} for name, one in measured.items()})
    write("polytopes", measured, targets)


if __name__ == "__main__":
    main()

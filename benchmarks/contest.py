"""Comparing patchclamp's whole sweep with loops that run a sample of its cells."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from common import interleave, ratio
from experiment import Cell, Experiment, spread
from loops import HooksLastLogits, Loop

import patchclamp as pc

OURS = "patchclamp"
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Contest:
    """One sweep, and everyone who runs it."""

    experiment: Experiment
    act: Literal["add", "patch"]
    """What the loops do."""
    sweep: Callable[[], pc.Grid]
    """The same by patchclamp, all cells."""
    sites: Sequence[str]
    loops: Mapping[str, Loop]

    def run(self, sample: int, rounds: int) -> dict[str, Any]:
        """Check that everyone finds the same numbers, then time them in turn.

        Args:
            sample: Cells that a loop runs in a round (a batched one runs a full batch).
            rounds: How often.
        """
        cells = self.experiment.cells(self.sites)
        samples = {name: spread(cells, max(sample, loop.batch)) for name, loop in self.loops.items()}
        differences = self.agreement(samples)
        work: dict[str, Callable[[], object]] = {OURS: self.sweep}
        work |= {name: partial(getattr(loop, self.act), samples[name]) for name, loop in self.loops.items()}
        seconds = interleave(work, rounds)
        counts = {OURS: len(cells)} | {name: len(chosen) for name, chosen in samples.items()}
        per_cell = {name: [s / counts[name] for s in times] for name, times in seconds.items()}
        return {
            "cells": len(cells),
            "sampled": counts,
            "milliseconds_per_cell": {name: 1e3 * statistics.median(times) for name, times in per_cell.items()},
            "times_faster_than": {name: ratio(per_cell[name], per_cell[OURS]) for name in self.loops},
            "seconds_per_round": seconds,
            "largest_difference": differences,
        }

    def agreement(self, samples: Mapping[str, list[Cell]]) -> dict[str, float]:
        """Each loop's largest difference from patchclamp's numbers.

        Raises:
            AssertionError: One does another job.
        """
        values = torch.from_numpy(self.sweep().data.values)[0]
        found = {}
        for name, loop in self.loops.items():
            chosen = samples[name]
            ours = torch.stack([values[self.sites.index(cell.site), cell.layer, cell.position] for cell in chosen])
            found[name] = float((getattr(loop, self.act)(chosen) - ours).abs().max())
            if not found[name] <= TOLERANCE:
                raise AssertionError(f"{name} finds other numbers than patchclamp: they differ by {found[name]}")
        return found


def best_loop(results: Mapping[str, Any], loops: Mapping[str, Loop]) -> str:
    """The fastest of the loops that run one forward a cell as documented, with the logits of every position."""
    faster = results["times_faster_than"]
    plain = [name for name, loop in loops.items() if loop.batch == 1 and not isinstance(loop, HooksLastLogits)]
    return min(plain, key=faster.__getitem__)


def ceiling(results: Mapping[str, Any], best: str, flops: float, rate: float) -> dict[str, float]:
    """What the ratio to a loop could be if all the time went into ``flops`` operations at the rate of matrix products."""
    least = flops / rate
    return {
        "bound_gflop": flops / 1e9,
        "matmul_gflops": rate / 1e9,
        "share_of_matmul_rate": least / statistics.median(results["seconds_per_round"][OURS]),
        "ceiling_of_the_ratio": results["milliseconds_per_cell"][best] * results["cells"] / 1e3 / least,
    }


def table(results: Mapping[str, Any]) -> str:
    """What a cell costs each contender."""
    lines = [f"{results['cells']} cells; milliseconds of CPU a cell (patchclamp is so many times faster)"]
    for name, value in results["milliseconds_per_cell"].items():
        lines.append(f"  {name:<20} {value:8.2f}  ({results['times_faster_than'].get(name, 1.0):.1f}x)")
    lines.append(
        f"  at the rate of matrix products, {results['ceiling_of_the_ratio']:.1f}x over the best loop is the most"
    )
    return "\n".join(lines)

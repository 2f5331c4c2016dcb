"""The speed of a sweep against the other ways to do it: one forward a cell, and cells batched.

The seed's experiment on SmolLM2-135M: the embedding of " Rome" is added to the output of every MLP, or of attention, up
to each layer, at each position. patchclamp runs the whole sweep; the others run an evenly spread sample of its cells, and
must give patchclamp's probabilities there.
"""

import argparse
from typing import Any

from common import Target, matmul_rate, write
from contest import Contest, best_loop, ceiling, table
from experiment import PROMPTS, SITES, Experiment
from flops import bound
from loops import HooksLastLogits, HooksRows
from peers import BATCHED, LOOPS, NnsightInvokes, build

SAMPLE = {5: 16, 32: 8}
"""Cells of a one-forward-a-cell loop in a round."""
ROUNDS = {5: 7, 32: 3}
WANTED = {5: (18.0, 0.35), 32: (9.0, 0.55)}
"""Times faster than the best loop, and share of the matrix-product rate."""


def measure(tokens: int, rounds: int) -> dict[str, Any]:
    """All contenders on one prompt."""
    experiment = Experiment.load(tokens)
    contest = Contest(experiment, "add", experiment.sweep, SITES, build((*LOOPS, *BATCHED), experiment))
    found = contest.run(SAMPLE[tokens], rounds)
    best = best_loop(found, contest.loops)
    least = bound(experiment.config, tokens, cumulative=True)
    return found | {"best_loop": best} | ceiling(found, best, least, matmul_rate())


def targets(tokens: int, found: dict[str, Any]) -> list[Target]:
    """The promises of one prompt."""
    faster, (wanted, share) = found["times_faster_than"], WANTED[tokens]
    rows = [
        (f"over the best loop ({found['best_loop']})", faster[found["best_loop"]], wanted),
        ("over hooks with last logits only", faster[HooksLastLogits.name], wanted),
        ("over rows batched by hand", faster[HooksRows.name], 1.9),
    ]
    if NnsightInvokes.name in faster:
        rows.append(("over nnsight's batched invokes", faster[NnsightInvokes.name], 2.5))
    rows.append(("bound / (time x rate of matrix products)", found["share_of_matmul_rate"], share))
    return [Target(f"sweep, {tokens} tokens: {what}", *numbers) for what, *numbers in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, nargs="*", choices=list(PROMPTS), default=list(PROMPTS))
    parser.add_argument("--rounds", type=int, help="default: 7 for 5 tokens, 3 for 32")
    options = parser.parse_args()
    found = {}
    for tokens in options.tokens:
        found[tokens] = measure(tokens, options.rounds or ROUNDS[tokens])
        print(f"{tokens} tokens, {table(found[tokens])}")
    rows = [row for tokens, results in found.items() for row in targets(tokens, results)]
    write("sweep", {"sweeps": {str(tokens): results for tokens, results in found.items()}}, rows)


if __name__ == "__main__":
    main()

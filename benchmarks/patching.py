"""The speed of activation patching, layer by position, against one forward a cell.

The residual stream of "The capital of Italy is" is put into "The capital of Spain is" after each layer, at each position
(150 cells), and the logit difference of " Rome" and " Madrid" is read.
"""

from common import Target, count_option, matmul_rate, write
from contest import Contest, best_loop, ceiling, table
from experiment import Experiment
from flops import bound, full_pass
from loops import HooksLastLogits
from peers import LOOPS, build

SAMPLE = 16
"""Cells of a loop in a round."""


def main() -> None:
    rounds = count_option(__doc__, "rounds", 7)
    experiment = Experiment.load(5)
    contest = Contest(experiment, "patch", experiment.patch, ("resid_post",), build(LOOPS, experiment))
    found = contest.run(SAMPLE, rounds)
    best, faster = best_loop(found, contest.loops), found["times_faster_than"]
    least = bound(experiment.config, experiment.length, cumulative=False, sites=["resid_post"])
    least += full_pass(experiment.config, experiment.length)  # of the source
    found |= {"best_loop": best} | ceiling(found, best, least, matmul_rate())
    print(table(found))
    rows = [
        Target(f"patching, 5 tokens: over the best loop ({best})", faster[best], 15),
        Target("patching, 5 tokens: over hooks with last logits only", faster[HooksLastLogits.name], 15),
    ]
    write("patching", found, rows)


if __name__ == "__main__":
    main()

"""The speed and the memory of recording: the residual stream after every layer, 256 prompts of 128 tokens, 16 at a time.

Speed: tokens a CPU second against the bare forward of the same batches (``model.module(ids)``, head included, as a loop
over batches has it), taking turns. Memory: a process of its own for each, in which the peak of resident memory is set
back after the model has been loaded and run once; what the peak then adds is compared. The bare forward's peak is mostly
its logits, which recording never computes, so recording is charged only for what goes beyond that.
"""

import argparse
import json
import statistics
import subprocess
import sys
from typing import Any

import torch
from common import Target, forget_peak, interleave, peak_bytes, ratio, write
from experiment import Experiment
from torch import Tensor

PROMPTS, LENGTH, BATCH = 256, 128, 16


def prompts(vocabulary: int) -> Tensor:
    """Random token ids, ``[prompt, position]``."""
    return torch.randint(0, vocabulary, (PROMPTS, LENGTH), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def bare(experiment: Experiment, ids: Tensor) -> None:
    """The model's own forward, batch after batch; nothing is kept."""
    for batch in ids.split(BATCH):
        experiment.model.module(batch)


def recorded(experiment: Experiment, ids: Tensor) -> Any:
    """The recording."""
    return experiment.model.record(ids, "resid_post", batch_tokens=BATCH * LENGTH)


def memory_of(form: str) -> dict[str, int]:
    """In this process: bytes that the peak adds to what is resident before, and bytes of the result."""
    experiment = Experiment.load(5)
    ids = prompts(experiment.config.vocab_size)
    (bare if form == "bare" else recorded)(experiment, ids[:2])
    before = forget_peak()
    if form == "bare":
        bare(experiment, ids[: 4 * BATCH])  # more batches do not raise it
        return {"peak": peak_bytes() - before, "result": 0}
    result = recorded(experiment, ids)["resid_post"]
    return {"peak": peak_bytes() - before, "result": result.numel() * result.element_size()}


def apart(form: str) -> dict[str, int]:
    """``memory_of`` in a process of its own."""
    command = [sys.executable, __file__, "--memory", form]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--memory", choices=["bare", "recorded"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        print(json.dumps(memory_of(options.memory)))
        return
    memory = {form: apart(form) for form in ("bare", "recorded")}
    experiment = Experiment.load(5)
    ids = prompts(experiment.config.vocab_size)
    bare(experiment, ids[:BATCH]), recorded(experiment, ids[:BATCH])
    work = {"bare": lambda: bare(experiment, ids), "recorded": lambda: recorded(experiment, ids)}
    seconds = interleave(work, options.rounds)
    speed = {name: ids.numel() / statistics.median(times) for name, times in seconds.items()}
    share = 100 * ratio(seconds["bare"], seconds["recorded"])
    beyond = memory["recorded"]["peak"] - memory["bare"]["peak"]
    result = memory["recorded"]["result"]
    print("tokens a CPU second:", {name: round(value) for name, value in speed.items()})
    print(
        "MiB above the loaded model:", {form: {k: v >> 20 for k, v in found.items()} for form, found in memory.items()}
    )
    rows = [
        Target("recording: tokens/s against the bare forward's", share, 95, "%"),
        Target("recording: memory beyond the bare forward's / result", beyond / result, 1.0, "x", True),
    ]
    write("recording", {"tokens_per_second": speed, "seconds": seconds, "bytes": memory}, rows)


if __name__ == "__main__":
    main()

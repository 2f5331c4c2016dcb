"""The speed and the memory of the logit lens: SmolLM2, every layer, the full set of metrics, streaming against naive.

Naive is the usual way: all hidden states through final norm and head at once, then every metric of the whole
``[layer, position, vocabulary]`` logits. The floor is the bare product of the same states with the unembedding. Speed: CPU
seconds on one thread, taking turns. Memory: a process of its own for each, in which the peak of resident memory is set back
after the model has been loaded and run once. The naive way is measured at 128 tokens only: at 512 it needs about 16 GB.
"""

import argparse
import json
import os
import subprocess
import sys
from typing import Any

import torch
from common import Target, forget_peak, interleave, peak_bytes, ratio, write
from experiment import Experiment
from torch import Tensor

K = 5


def prompt(experiment: Experiment, length: int) -> Tensor:
    """Random token ids, ``[1, position]``."""
    return torch.randint(0, experiment.config.vocab_size, (1, length), generator=torch.Generator().manual_seed(0))


def streaming(experiment: Experiment, ids: Tensor) -> Any:
    """The lens."""
    return experiment.model.lens(ids, k=K)


@torch.no_grad()
def naive(experiment: Experiment, ids: Tensor) -> dict[str, Tensor]:
    """The same numbers from all logits at once."""
    module = experiment.model.module
    hidden = module(ids, output_hidden_states=True, use_cache=False).hidden_states
    states = torch.stack(
        [module.model.norm(h[0]) for h in hidden[1:-1]] + [hidden[-1][0]]
    )  # the last is normed already
    logits = module.lm_head(states)
    logs = logits.log_softmax(-1)
    probabilities = logs.exp()
    final, targets = logs[-1], ids[0, 1:].expand(len(logs), -1).unsqueeze(-1)
    own = logits[:, :-1].gather(-1, targets)
    best = logits.topk(K, dim=-1).indices
    return {
        "log_probability": logs[:, :-1].gather(-1, targets)[..., 0],
        "rank": (logits[:, :-1] > own).sum(-1),
        "entropy": -(probabilities * logs).sum(-1),
        "kl": (final.exp() * (final - logs)).sum(-1),
        "final_probability": probabilities.gather(-1, final.argmax(-1).expand(len(logs), -1).unsqueeze(-1))[..., 0],
        "top_id": best,
        "top_probability": probabilities.gather(-1, best),
    }


@torch.no_grad()
def products(experiment: Experiment, states: Tensor) -> None:
    """The bare unembedding of ``[layer, position, d]``, a layer at a time."""
    for layer in states:
        experiment.model.module.lm_head(layer)


def memory_of(form: str, length: int) -> int:
    """In this process: bytes that the peak adds to what is resident before."""
    experiment = Experiment.load(5)
    _ = experiment.model.run(prompt(experiment, 4)).data  # not the lens: memory it has had before would not be counted
    ids = prompt(experiment, length)
    before = forget_peak()
    (streaming if form == "streaming" else naive)(experiment, ids)
    return peak_bytes() - before


def apart(form: str, length: int) -> int:
    """``memory_of`` in a process of its own."""
    command = [sys.executable, __file__, "--memory", form, "--length", str(length)]
    giving_back = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"}  # glibc then keeps no large block that was freed
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=giving_back)
    return int(json.loads(done.stdout.splitlines()[-1]))


def differences(experiment: Experiment, ids: Tensor) -> dict[str, float]:
    """Largest difference of every metric between the two ways."""
    found, other = streaming(experiment, ids).data.isel(prompt=0), naive(experiment, ids)
    return {
        name: float((torch.from_numpy(found[name].values)[:, : value.shape[1]] - value).abs().max())
        for name, value in other.items()
        if name != "top_id"
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--memory", choices=["streaming", "naive"], help=argparse.SUPPRESS)
    parser.add_argument("--length", type=int, default=128, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        print(json.dumps(memory_of(options.memory, options.length)))
        return
    forms = [("streaming", 128), ("streaming", 512), ("naive", 128)]
    memory = {f"{form} {length}": apart(form, length) / 2**20 for form, length in forms}
    experiment = Experiment.load(5)
    ids = prompt(experiment, 128)
    states = experiment.model.record(ids, "resid_post")["resid_post"][:, 0]
    apart_by = differences(experiment, ids)
    work = {
        "streaming": lambda: streaming(experiment, ids),
        "naive": lambda: naive(experiment, ids),
        "products": lambda: products(experiment, states),
    }
    seconds = interleave(work, options.rounds)
    print("CPU seconds:", seconds)
    print("MiB above the loaded model:", {name: round(value, 1) for name, value in memory.items()})
    print("largest differences:", apart_by)
    rows = [
        Target("lens: peak memory, 128 tokens", memory["streaming 128"], 30, "MiB", True),
        Target("lens: peak memory, 512 tokens", memory["streaming 512"], 100, "MiB", True),
        Target(
            "lens: CPU time / bare unembedding products",
            ratio(seconds["streaming"], seconds["products"]),
            2.5,
            "x",
            True,
        ),
        Target("lens: CPU time / naive", ratio(seconds["streaming"], seconds["naive"]), 0.6, "x", True),
    ]
    write("lens", {"seconds": seconds, "mebibytes": memory, "differences": apart_by}, rows)


if __name__ == "__main__":
    main()

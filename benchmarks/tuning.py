"""The speed of training a tuned lens: stories15M, steps of 512 tokens, against the bare matrix products and against autograd.

The floor is the products that a step cannot do without: the unembedding of the final state once, and for each depth the
unembedding and its transpose. ``autograd`` is the same step the usual way: all positions of a depth through final norm and
head, ``log_softmax`` twice, ``backward``. ``tuned-lens`` is the step of that package's training loop (its own lens, in
float32 and without its bfloat16 autocast), if the package is installed. CPU seconds on one thread, taking turns.
"""

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from common import THREADS, Target, count_option, interleave, ratio, write
from torch import Tensor
from torch.nn.functional import linear

import patchclamp as pc
from patchclamp.activations.corpus import sequences
from patchclamp.lenses.training import Settings, Training

LENGTH, ROWS, CHUNK = 256, 2, 128


@dataclass(frozen=True)
class Step:
    """One step of the optimiser, in every way."""

    model: pc.Model
    rows: list[list[int]]

    def ours(self) -> Callable[[], None]:
        """The library's own step; the learning rate is 0 so that every round does the same work."""
        count = LENGTH * ROWS
        settings = Settings(count, LENGTH, 1, 0.1, "adam", 1e-30, 0.0, count, 0, CHUNK)
        training = Training(self.model, pc.TunedLens(self.model), settings, self.rows)
        return lambda: training._take(self.rows)

    def products(self) -> Callable[[], None]:
        """The bare products, at as many rows a call as the step's own."""
        weight = self.model.module.lm_head.weight.detach()
        states, slopes = torch.randn(CHUNK, weight.shape[1]), torch.randn(CHUNK, len(weight))

        def work() -> None:
            for _ in range(LENGTH * ROWS // CHUNK):
                linear(states, weight)
                for _ in range(self.model.sites.n_layers):
                    linear(states, weight)
                    slopes @ weight

        return work

    def autograd(self) -> Callable[[], None]:
        """Every position of a depth at once, differentiated through ``log_softmax``."""
        lens = pc.TunedLens(self.model)
        return self._usual(lens, lambda h, depth: self._head(lens(h, depth)))

    def tuned_lens(self) -> Callable[[], None]:
        """The package's own lens in the same loop."""
        lens = importlib.import_module("tuned_lens.nn.lenses").TunedLens.from_model(self.model.module)
        return self._usual(lens, lens)

    def _head(self, states: Tensor) -> Tensor:
        module: Any = self.model.module
        return module.lm_head(module.model.norm(states))

    def _usual(self, lens: torch.nn.Module, read: Callable[[Tensor, int], Tensor]) -> Callable[[], None]:
        own = [parameter for parameter in lens.parameters() if parameter.requires_grad]
        optimizer, ids = torch.optim.Adam(own, 1e-30), torch.tensor(self.rows)

        def work() -> None:
            with torch.no_grad():
                output = self.model.module(ids, output_hidden_states=True, use_cache=False)
                labels = output.logits.log_softmax(-1)
            for depth, hidden in enumerate(output.hidden_states[:-1]):
                loss = (labels.exp() * (labels - read(hidden, depth).log_softmax(-1))).sum(-1).mean()
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        return work


def main() -> None:
    rounds = count_option(__doc__, "rounds", 4)
    torch.set_num_threads(THREADS)
    model = pc.load("stories15m", dtype="float32")
    model.module.requires_grad_(False)  # else the usual way would also compute the gradients of the head
    step = Step(model, sequences(model, "gutenberg:bryant-stories", LENGTH, most=ROWS))
    work = {"patchclamp": step.ours(), "products": step.products(), "autograd": step.autograd()}
    try:
        work["tuned-lens"] = step.tuned_lens()
    except ImportError as error:
        print(f"tuned-lens: left out, {error}", file=sys.stderr)
    for first in work.values():
        first()
    seconds = interleave(work, rounds)
    rate = LENGTH * ROWS / min(seconds["patchclamp"])
    print("CPU seconds a step:", {name: [round(value, 2) for value in found] for name, found in seconds.items()})
    print(f"{rate:.0f} tokens a CPU second; 250,000 tokens: {250_000 / rate / 60:.1f} CPU minutes")
    share = ratio(seconds["products"], seconds["patchclamp"])
    rows = [
        Target("tuned lens: share of a step in matrix products", share, 0.7, "of 1"),
        Target("tuned lens: faster than autograd", ratio(seconds["autograd"], seconds["patchclamp"]), 1.0),
    ]
    if "tuned-lens" in seconds:
        gain = ratio(seconds["tuned-lens"], seconds["patchclamp"])
        rows.append(Target("tuned lens: faster than tuned-lens", gain, 1.0))
    write("tuning", {"seconds": seconds, "tokens_per_second": rate}, rows)


if __name__ == "__main__":
    main()

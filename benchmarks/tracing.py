"""The speed of a causal trace against ROME's loop, which runs each cell as one batch of its samples.

The residual stream of one prompt, every layer and token, after the noise of several samples. patchclamp runs the whole trace;
the loop runs an evenly spread sample of its cells, with the same noise, and must give the same numbers.
"""

import argparse
import statistics
from collections.abc import Sequence

import torch
from common import Target, cpu_seconds, matmul_rate, write
from flops import Costs, full_pass

import patchclamp as pc

PROMPTS = {
    5: ("The capital of France is", "France"),
    10: ("The Eiffel Tower is located in the city of", "The Eiffel Tower"),
}


class Loop:
    """ROME's ``trace_with_patch``: all samples of a cell in one forward, hooks for the noise and the restored state."""

    def __init__(self, model: pc.Model, trace: pc.Trace) -> None:
        said = trace.record["parameters"] | trace.record["resolved"]
        self.module, self.answer, self.subject = model.module, said["answer"], list(trace.subject)
        prompt = "".join(trace.tokens)
        self.ids = model.tokenizer(prompt, return_tensors="pt")["input_ids"]
        clean = model.record(prompt, ["embed", "resid_post"])
        self.clean = clean["resid_post"][:, 0]
        at = self.subject
        noisy = [
            model.record(prompt, "embed", at=at, edits=pc.Noise(said["noise"] * said["std"], s, site="embed", at=at))
            for s in said["seeds"]
        ]
        self.noise = torch.cat([one["embed"].reshape(1, len(at), -1) for one in noisy]) - clean["embed"][:, at]

    def cell(self, layer: int, position: int) -> torch.Tensor:
        """Probabilities of the answer, ``[sample]``."""

        def corrupt(_: object, __: object, output: torch.Tensor) -> torch.Tensor:
            new = output.clone()
            new[:, self.subject] += self.noise
            return new

        def restore(_: object, __: object, output: torch.Tensor) -> torch.Tensor:
            new = output.clone()
            new[:, position] = self.clean[layer, position]
            return new

        body = self.module.model
        handles = [body.embed_tokens.register_forward_hook(corrupt), body.layers[layer].register_forward_hook(restore)]
        try:
            with torch.no_grad():
                logits = self.module(self.ids.expand(len(self.noise), -1)).logits[:, -1]
        finally:
            for handle in handles:
                handle.remove()
        return logits.softmax(-1)[:, self.answer]

    def run(self, cells: Sequence[tuple[int, int]]) -> list[torch.Tensor]:
        """Several cells."""
        return [self.cell(*cell) for cell in cells]


def floor(trace: pc.Trace, config: object) -> float:
    """Fewest FLOPs of the residual stream's trace: positions before a restored one and layers below it are shared.

    The clean run; for each sample the corrupted run from the subject on, and one cell for each layer and each position from
    the subject on. A cell in the last layer is another one only at the last position.
    """
    tokens, first = len(trace.tokens), trace.subject[0]
    costs = Costs(config, tokens)
    last = costs.layers - 1
    corrupted = sum(costs.layer(first, last=layer == last) for layer in range(costs.layers)) + costs.head
    cells = sum(
        costs.head
        + sum(
            costs.layer(position, one_new=above == layer + 1, last=above == last)
            for above in range(layer + 1, last + 1)
        )
        for position in range(first, tokens)
        for layer in range(costs.layers)
        if layer < last or position == tokens - 1
    )
    return full_pass(config, tokens) + trace.dataset.sizes["sample"] * (corrupted + cells)


def measure(tokens: int, samples: int, sample: int, rounds: int) -> dict[str, float]:
    """Both ways in turns; the loop's time is that of its sampled cells, times all cells by theirs."""
    model = pc.load("smollm2-135m", dtype="float32")
    prompt, subject = PROMPTS[tokens]
    trace = model.causal_trace(prompt, subject, samples=samples)
    loop = Loop(model, trace)
    every = [(layer, position) for layer in range(30) for position in range(tokens)]
    cells = every[:: max(1, len(every) // sample)]
    found = loop.run(cells)
    wanted = [trace.data["probability"].sel(site="resid_post", layer=a, position=b).values for a, b in cells]
    worst = max(float((one - torch.from_numpy(two)).abs().max()) for one, two in zip(found, wanted, strict=True))
    ratios, ours, estimates = [], [], []
    for _ in range(rounds):
        ours.append(cpu_seconds(lambda: model.causal_trace(prompt, subject, samples=samples)))
        theirs = cpu_seconds(lambda: loop.run(cells)) * len(every) / len(cells)
        estimates.append(
            cpu_seconds(lambda: model.causal_trace(prompt, subject, samples=samples, method="gradient", check=0))
        )
        ratios.append(theirs / ours[-1])
    seconds, estimated = statistics.median(ours), statistics.median(estimates)
    return {
        "seconds": seconds, "over_loop": statistics.median(ratios), "difference": worst, "estimate_seconds": estimated,
        "estimate_over_trace": seconds / estimated,
        "share_of_floor": floor(trace, model.config) / matmul_rate() / seconds,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, nargs="*", choices=list(PROMPTS), default=list(PROMPTS))
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--cells", type=int, default=10, help="of the loop in a round")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = {tokens: measure(tokens, options.samples, options.cells, options.rounds) for tokens in options.tokens}
    rows = []
    for tokens, one in found.items():
        print(f"{tokens} tokens: {one}")
        rows.append(Target(f"causal trace, {tokens} tokens: over ROME's loop", one["over_loop"], 5.5))
        rows.append(Target(f"causal trace, {tokens} tokens: share of its floor", one["share_of_floor"], 0.6))
        rows.append(
            Target(f"causal trace, {tokens} tokens: difference from it", one["difference"], 1e-5, "", at_most=True)
        )
    write("tracing", {"traces": {str(tokens): one for tokens, one in found.items()}}, rows)


if __name__ == "__main__":
    main()

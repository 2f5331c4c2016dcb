"""Operations that a sweep executes, against the fewest that the causal structure allows."""

import argparse
from collections.abc import Sequence
from typing import Any

from common import Target, cpu_seconds, matmul_rate, write
from experiment import PROMPTS, SITES, Experiment
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def bound(config: Any, tokens: int, *, cumulative: bool, within: bool = False, sites: Sequence[str] = SITES) -> float:
    """Fewest FLOPs of a sweep over layers and positions of a Llama, by exact dense arithmetic.

    A cell edits position p at layer l, or at every layer up to l. What is shared, because nothing else can differ:

    - layers below the edit, and positions before p, are the clean run's;
    - in the first layer above a single edit only position p has new queries, keys and values (attention and what
      follows are new at every position from p on, which is counted by causal pairs of query and key);
    - the last layer needs keys and values from p on, and everything else at the last position alone;
    - an edit of attention redoes the MLP of its layer at p;
    - one row of logits a cell; cells that cannot differ from another one are not run;
    - cumulative cells of one site and position fork from one trunk, a row that carries the edits of every layer so far.

    Args:
        config: Of the model.
        tokens: Positions of the prompt.
        cumulative: Whether the cell at layer l edits every layer up to l.
        within: Let a cumulative cell share the layer above its last edit with the trunk, too, up to the trunk's own
            edit in it. (Without, trunk and cell are two rows of that layer, as in any method that forks between layers.)
        sites: ``attn_out``, ``mlp_out`` or ``resid_post`` (which costs what ``mlp_out`` does).
    """
    costs, total = Costs(config, tokens), full_pass(config, tokens)
    for site in sites:
        for position in range(tokens):
            for layer in range(costs.layers):
                if layer == costs.layers - 1 and position < tokens - 1:
                    continue
                total += costs.head + sum(
                    costs.layer(
                        position,
                        one_new=above == layer + 1 and not (cumulative and layer),
                        last=above == costs.layers - 1,
                    )
                    for above in range(layer + 1, costs.layers)
                )
                if not cumulative or within or layer == 0:
                    total += costs.mlp * (site == "attn_out")
                else:
                    total += costs.layer(position, one_new=layer == 1, last=layer == costs.layers - 1)
    return total


def full_pass(config: Any, tokens: int) -> float:
    """FLOPs of one prompt through the model, logits at the last position only."""
    costs = Costs(config, tokens)
    return sum(costs.layer(0, last=layer == costs.layers - 1) for layer in range(costs.layers)) + costs.head


class Costs:
    """FLOPs of a Llama's parts, a token, and of a whole layer at the positions from p on."""

    def __init__(self, config: Any, tokens: int) -> None:
        d, head = config.hidden_size, config.head_dim
        self.tokens, self.layers = tokens, config.num_hidden_layers
        self.query = self.out = 2 * d * head * config.num_attention_heads
        self.key_value = 4 * d * head * config.num_key_value_heads
        self.mlp = 6 * d * config.intermediate_size
        self.pair = 4 * head * config.num_attention_heads
        self.head = 2 * d * config.vocab_size

    def layer(self, position: int, *, one_new: bool = False, last: bool = False) -> float:
        """One row through one layer.

        Args:
            position: First position that differs from the clean run.
            one_new: The input differs at that position only.
            last: Nothing above needs any position but the last.
        """
        width = self.tokens - position
        new = 1 if one_new else width
        if last:
            query = self.query * (not one_new or width == 1)
            return self.key_value * new + query + self.pair * self.tokens + self.out + self.mlp
        pairs = sum(range(position + 1, self.tokens + 1))
        return (self.key_value + self.query) * new + self.pair * pairs + (self.out + self.mlp) * width


def count(experiment: Experiment, *, cumulative: bool) -> int:
    """Executed FLOPs; attention is decomposed, so that the counter sees it."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        experiment.sweep(cumulative)
    return counter.get_total_flops()


def measure(tokens: int, *, cumulative: bool) -> dict[str, float]:
    """Count and time one sweep."""
    experiment = Experiment.load(tokens)
    config = experiment.config
    least, executed = bound(config, tokens, cumulative=cumulative), count(experiment, cumulative=cumulative)
    seconds = min(cpu_seconds(lambda: experiment.sweep(cumulative)) for _ in range(5 if tokens < 10 else 2))
    rate = matmul_rate()
    return {
        "bound_gflop": least / 1e9,
        "bound_sharing_within_layers_gflop": bound(config, tokens, cumulative=cumulative, within=True) / 1e9,
        "executed_gflop": executed / 1e9,
        "executed_over_bound": executed / least,
        "seconds": seconds,
        "gflops_reached": executed / seconds / 1e9,
        "matmul_gflops": rate / 1e9,
        "share_of_matmul_rate": executed / seconds / rate,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, nargs="*", choices=list(PROMPTS), default=list(PROMPTS))
    options = parser.parse_args()
    found, rows = {}, []
    for tokens in options.tokens:
        for cumulative in (True, False):
            name = f"{'cumulative' if cumulative else 'single'}, {tokens} tokens"
            found[name] = measure(tokens, cumulative=cumulative)
            print(f"{name}: " + ", ".join(f"{key} {value:.4g}" for key, value in found[name].items()))
            rows.append(
                Target(f"executed FLOPs / bound, {name}", found[name]["executed_over_bound"], 1.1, at_most=True)
            )
    write("flops", {"sweeps": found}, rows)


if __name__ == "__main__":
    main()

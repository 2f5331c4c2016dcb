"""What is kept of logits as they stream by: a few numbers a row, never the row."""

from dataclasses import dataclass

import torch
from torch import Tensor

_CACHE_ROWS = 8  # vocabulary-wide temporaries of a block this high stay small


@dataclass(frozen=True, eq=False)
class Final:
    """The last layer's distribution at a chunk of positions."""

    probabilities: Tensor
    """``[position, vocabulary]``."""
    mean_log: Tensor
    """Its mean log-probability, ``[position]``: the negative entropy in nats."""
    top: Tensor
    """Its likeliest token, ``[position]``."""

    @classmethod
    def of(cls, logits: Tensor) -> "Final":
        """From logits ``[position, vocabulary]``."""
        probabilities = torch.empty_like(logits)
        mean_log = logits.new_empty(len(logits))
        for start in range(0, len(logits), _CACHE_ROWS):
            rows = slice(start, start + _CACHE_ROWS)
            logs = logits[rows].log_softmax(-1)
            torch.exp(logs, out=probabilities[rows])
            mean_log[rows] = (probabilities[rows] * logs).sum(-1)
        return cls(probabilities, mean_log, logits.argmax(-1))


def measure(logits: Tensor, final: Final, targets: Tensor, k: int) -> dict[str, Tensor]:
    """Every metric of the lens, for one layer at a chunk of positions.

    Args:
        logits: ``[position, vocabulary]``.
        final: The last layer's distribution at the same positions.
        targets: Token ids ``[position]``; -1 where there is none, which gives NaN.
        k: How many of the likeliest tokens to keep.

    Returns:
        ``[position]`` each: ``log_probability`` (nats) and ``rank`` of the target, ``entropy`` and ``kl`` (nats),
        ``final_probability``, ``agreement``; and ``top_id``, ``top_probability`` ``[position, k]``.
    """
    pieces = [
        _block(logits[start : start + _CACHE_ROWS], final, targets, k, slice(start, start + _CACHE_ROWS))
        for start in range(0, len(logits), _CACHE_ROWS)
    ]
    return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}


def _block(logits: Tensor, final: Final, targets: Tensor, k: int, rows: slice) -> dict[str, Tensor]:
    top_final, wanted = final.top[rows].unsqueeze(-1), targets[rows].unsqueeze(-1)
    index = wanted.clamp(min=0)
    best = logits.topk(k, dim=-1).indices
    logs = logits.log_softmax(-1)
    cross = (final.probabilities[rows] * logs).sum(-1)
    probabilities = logs.exp()
    found = {
        "log_probability": logs.gather(-1, index)[:, 0],
        "rank": torch.gt(logits, logits.gather(-1, index), out=torch.empty_like(logits)).sum(-1),
        "entropy": -(probabilities * logs).sum(-1),
        "kl": final.mean_log[rows] - cross,
        "final_probability": probabilities.gather(-1, top_final)[:, 0],
        "agreement": (logits.gather(-1, top_final)[:, 0] == logits.amax(-1)).to(logits.dtype),
        "top_id": best,
        "top_probability": probabilities.gather(-1, best),
    }
    absent = wanted[:, 0] < 0
    for name in ("log_probability", "rank"):
        found[name] = found[name].masked_fill(absent, torch.nan)
    return found

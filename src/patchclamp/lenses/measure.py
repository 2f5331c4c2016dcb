"""What is kept of logits as they stream by: a few numbers a row, never the row."""

from dataclasses import dataclass

import torch
from torch import Tensor

_BLOCK = 128  # tokens whose largest logit is found before the likeliest tokens are


@dataclass(frozen=True, eq=False)
class Final:
    """The last layer's distribution at a few positions."""

    probabilities: Tensor
    """The probabilities, ``[position, vocabulary]``."""
    mean_log: Tensor
    """Its mean log-probability, ``[position]``: the negative entropy in nats."""
    top: Tensor
    """Its likeliest token, ``[position]``."""
    scratch: tuple[Tensor, Tensor]
    """Two buffers ``[position, vocabulary]`` for whoever measures at these positions: new ones each time are slow."""

    @classmethod
    def of(cls, logits: Tensor) -> "Final":
        """Make the distribution of logits ``[position, vocabulary]``."""
        log_probabilities = logits.log_softmax(-1)
        probabilities = log_probabilities.exp()
        scratch = torch.empty_like(logits)
        mean_log = torch.mul(probabilities, log_probabilities, out=scratch).sum(-1)
        return cls(probabilities, mean_log, logits.argmax(-1), (log_probabilities, scratch))


def measure(logits: Tensor, final: Final, targets: Tensor, k: int) -> dict[str, Tensor]:
    """Every metric of the lens, for one layer at a few positions (so few that their logits stay in cache).

    Args:
        logits: The layer's logits, ``[position, vocabulary]``.
        final: The last layer's distribution at the same positions.
        targets: Token ids ``[position]``; -1 where there is none, which gives NaN.
        k: The number of the likeliest tokens to keep.

    Returns:
        ``[position]`` each: ``log_probability`` (nats) and ``rank`` of the target, ``entropy`` and ``kl`` (nats),
        ``final_probability``, ``agreement``; and ``top_id``, ``top_probability`` ``[position, k]``.
    """
    logs, scratch = final.scratch
    top_final, target = final.top.unsqueeze(-1), targets.clamp(min=0).unsqueeze(-1)
    top_ids = likeliest(logits, k)
    rank = torch.gt(logits, logits.gather(-1, target), out=scratch).sum(-1)
    torch.log_softmax(logits, -1, out=logs)
    negative_cross_entropy = torch.mul(final.probabilities, logs, out=scratch).sum(-1)
    probabilities = torch.exp(logs, out=scratch)
    metrics = {
        "log_probability": logs.gather(-1, target)[:, 0],
        "rank": rank,
        "kl": final.mean_log - negative_cross_entropy,
        "final_probability": probabilities.gather(-1, top_final)[:, 0],
        "agreement": (logits.gather(-1, top_final) == logits.gather(-1, top_ids[:, :1]))[:, 0].to(logits.dtype),
        "top_id": top_ids,
        "top_probability": probabilities.gather(-1, top_ids),
    }
    metrics["entropy"] = -probabilities.mul_(logs).sum(-1)
    for name in ("log_probability", "rank"):
        metrics[name] = metrics[name].masked_fill(targets < 0, torch.nan)
    return metrics


def likeliest(logits: Tensor, k: int) -> Tensor:
    """Ids of the ``k`` largest logits of each row, ``[row, k]``, the largest first.

    They lie in the ``k`` blocks with the largest maxima (and the tail), so only these are searched.
    """
    blocks = logits.shape[-1] // _BLOCK
    if k >= blocks:
        return logits.topk(k, dim=-1).indices
    block_offsets = torch.arange(_BLOCK, device=logits.device)
    tail = torch.arange(blocks * _BLOCK, logits.shape[-1], device=logits.device)
    maxima = logits[:, : blocks * _BLOCK].unflatten(-1, (blocks, _BLOCK)).amax(-1)
    block_ids = maxima.topk(k, dim=-1).indices.unsqueeze(-1) * _BLOCK + block_offsets
    candidates = torch.cat([block_ids.flatten(1), tail.expand(len(logits), -1)], -1)
    return candidates.gather(-1, logits.gather(-1, candidates).topk(k, dim=-1).indices)

"""What is kept of logits as they stream by: a few numbers a row, never the row."""

from dataclasses import dataclass

import torch
from torch import Tensor

_BLOCK = 128  # tokens whose largest logit is found before the likeliest tokens are


@dataclass(frozen=True, eq=False)
class Final:
    """The last layer's distribution at a few positions."""

    probabilities: Tensor
    """``[position, vocabulary]``."""
    mean_log: Tensor
    """Its mean log-probability, ``[position]``: the negative entropy in nats."""
    top: Tensor
    """Its likeliest token, ``[position]``."""
    scratch: tuple[Tensor, Tensor]
    """Two buffers ``[position, vocabulary]`` for whoever measures at these positions: new ones each time are slow."""

    @classmethod
    def of(cls, logits: Tensor) -> "Final":
        """From logits ``[position, vocabulary]``."""
        logs = logits.log_softmax(-1)
        probabilities = logs.exp()
        scratch = torch.empty_like(logits)
        mean_log = torch.mul(probabilities, logs, out=scratch).sum(-1)
        return cls(probabilities, mean_log, logits.argmax(-1), (logs, scratch))


def measure(logits: Tensor, final: Final, targets: Tensor, k: int) -> dict[str, Tensor]:
    """Every metric of the lens, for one layer at a few positions (so few that their logits stay in cache).

    Args:
        logits: ``[position, vocabulary]``.
        final: The last layer's distribution at the same positions.
        targets: Token ids ``[position]``; -1 where there is none, which gives NaN.
        k: How many of the likeliest tokens to keep.

    Returns:
        ``[position]`` each: ``log_probability`` (nats) and ``rank`` of the target, ``entropy`` and ``kl`` (nats),
        ``final_probability``, ``agreement``; and ``top_id``, ``top_probability`` ``[position, k]``.
    """
    logs, scratch = final.scratch
    top_final, target = final.top.unsqueeze(-1), targets.clamp(min=0).unsqueeze(-1)
    best = likeliest(logits, k)
    above = torch.gt(logits, logits.gather(-1, target), out=scratch).sum(-1)
    torch.log_softmax(logits, -1, out=logs)
    cross = torch.mul(final.probabilities, logs, out=scratch).sum(-1)
    probabilities = torch.exp(logs, out=scratch)
    found = {
        "log_probability": logs.gather(-1, target)[:, 0],
        "rank": above,
        "kl": final.mean_log - cross,
        "final_probability": probabilities.gather(-1, top_final)[:, 0],
        "agreement": (logits.gather(-1, top_final) == logits.gather(-1, best[:, :1]))[:, 0].to(logits.dtype),
        "top_id": best,
        "top_probability": probabilities.gather(-1, best),
    }
    found["entropy"] = -probabilities.mul_(logs).sum(-1)
    for name in ("log_probability", "rank"):
        found[name] = found[name].masked_fill(targets < 0, torch.nan)
    return found


def likeliest(logits: Tensor, k: int) -> Tensor:
    """Ids of the ``k`` largest logits of each row, ``[row, k]``, the largest first.

    They lie in the ``k`` blocks with the largest maxima (and the tail), so only these are searched.
    """
    blocks = logits.shape[-1] // _BLOCK
    if k >= blocks:
        return logits.topk(k, dim=-1).indices
    inside = torch.arange(_BLOCK, device=logits.device)
    tail = torch.arange(blocks * _BLOCK, logits.shape[-1], device=logits.device)
    maxima = logits[:, : blocks * _BLOCK].unflatten(-1, (blocks, _BLOCK)).amax(-1)
    chosen = maxima.topk(k, dim=-1).indices.unsqueeze(-1) * _BLOCK + inside
    candidates = torch.cat([chosen.flatten(1), tail.expand(len(logits), -1)], -1)
    return candidates.gather(-1, logits.gather(-1, candidates).topk(k, dim=-1).indices)

"""KL(final || lens) with its gradient, written out: a few passes over logits that are in the cache, and no autograd."""

from dataclasses import dataclass

import torch
from torch import Tensor

_CACHE_ROWS = 8  # vocabulary-wide temporaries of a block this high stay in the cache


@dataclass(frozen=True, eq=False)
class Aim:
    """The final layer's distribution, which a lens is to predict."""

    probabilities: Tensor
    """The probabilities, ``[row, vocabulary]``."""
    mean_log: Tensor
    """Its mean log-probability, ``[row]``: the negative entropy in nats."""

    @classmethod
    def of(cls, logits: Tensor) -> "Aim":
        """Make the distribution of the final logits ``[row, vocabulary]``."""
        probabilities, mean_log = torch.empty_like(logits), logits.new_empty(len(logits))
        for rows in _blocks(len(logits)):
            log_probabilities = logits[rows].log_softmax(-1)
            torch.exp(log_probabilities, out=probabilities[rows])
            mean_log[rows] = _dot(probabilities[rows], log_probabilities)
        return cls(probabilities, mean_log)


def divergence(logits: Tensor, aim: Aim, gradient: Tensor) -> Tensor:
    """KL(final || lens) in nats of each row, and its gradient with respect to the lens's logits.

    With p the lens's softmax and f the final distribution, the gradient is ``p - f``.

    Args:
        logits: The lens's logits, ``[row, vocabulary]``, which are left as they are.
        aim: The distribution that the lens is to predict.
        gradient: The tensor that is filled with the gradient, ``[row, vocabulary]``.
    """
    kl = logits.new_empty(len(logits))
    for rows in _blocks(len(logits)):
        lens_logits, final, p = logits[rows], aim.probabilities[rows], gradient[rows]
        torch.softmax(lens_logits, -1, out=p)
        # log p = logits - normaliser, taken at a token where p is not tiny
        normaliser = lens_logits.amax(-1) - p.amax(-1).log()
        kl[rows] = aim.mean_log[rows] - _dot(final, lens_logits) + normaliser
        p.sub_(final)
    return kl


def _blocks(count: int) -> list[slice]:
    return [slice(start, start + _CACHE_ROWS) for start in range(0, count, _CACHE_ROWS)]


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """The inner product of each row, ``[row]``."""
    return torch.bmm(a.unsqueeze(1), b.unsqueeze(2))[:, 0, 0]

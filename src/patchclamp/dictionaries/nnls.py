"""Non-negative least squares for many small problems at once."""

import torch
from jaxtyping import Float
from torch import Tensor


def nonnegative_least_squares(
    gram: Float[Tensor, "problem n n"], target: Float[Tensor, "problem n"], start: Float[Tensor, "problem n"]
) -> Float[Tensor, "problem n"]:
    """Solve ``min 1/2 c G c - b c`` over ``c >= 0`` for each problem by an active set, all of them side by side.

    Each problem goes the way of Lawson and Hanson (1974, "Solving least squares problems", chapter 23) from its own start: solve
    for the free coefficients; walk back to the first that turns negative and fix it at zero, or else free the fixed one that
    most wants to grow. Every step lowers the objective, so that no free set comes twice.

    Args:
        gram: Positive definite matrices.
        target: What each variable is multiplied by in the linear term.
        start: Coefficients of 0 or more. Those that are positive begin free, with those that have to grow.
    """
    n = target.shape[1]
    small = 64 * torch.finfo(target.dtype).eps * target.abs().amax(1, keepdim=True)
    result, free = start.clone(), (start > 0) | (target - (gram @ start.unsqueeze(2)).squeeze(2) > small)
    pending = torch.arange(len(target), device=target.device)
    for _ in range(10 * n + 10):
        if not len(pending):
            break
        part_gram, part_target, current, is_free = gram[pending], target[pending], result[pending], free[pending]
        solution = _solve(part_gram, part_target, is_free)
        negative = is_free & (solution <= 0)
        way = torch.where(
            current > 0, current - solution, 1
        )  # one that stands at 0 and would go below is fixed at once
        share = torch.where(negative, current / way, torch.inf)
        walked = current + share.amin(1, keepdim=True).clamp(max=1) * (solution - current)
        blocked = negative.any(1, keepdim=True)
        stays = is_free & ~(blocked & negative & (share <= share.amin(1, keepdim=True)))
        walked = torch.where(stays, walked.clamp_min(0), 0)
        pull = (part_target - (part_gram @ walked.unsqueeze(2)).squeeze(2)).masked_fill(stays, -torch.inf)
        grows = ~blocked & (pull > small[pending]) & (pull >= pull.amax(1, keepdim=True))
        result[pending], free[pending] = walked, stays | grows
        pending = pending[(blocked | grows.any(1, keepdim=True)).squeeze(1)]
    return result


def _solve(gram: Tensor, target: Tensor, is_free: Tensor) -> Tensor:
    """The least squares solution on the free variables, 0 on the others."""
    both = is_free.unsqueeze(1) & is_free.unsqueeze(2)
    system = torch.where(both, gram, torch.diag_embed((~is_free).to(gram.dtype)))
    solution: Tensor = torch.linalg.solve_ex(system, torch.where(is_free, target, 0).unsqueeze(2))[0]
    return solution.squeeze(2)

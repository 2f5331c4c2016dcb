"""The learning rate of each step, and the one to begin with for a width."""

import math
from dataclasses import dataclass

FINAL = 0.02
"""The share of the learning rate that is left at the end of the decay."""


def default_learning_rate(width: int) -> float:
    """5e-3 up to a width of 1,024, and less with its square root beyond.

    At these sizes the usable window was measured to be 3e-3..1e-2, ten times what is common for runs that are a thousand
    times longer; the square root is that of Gao et al. 2024 (arXiv 2406.04093, figure 3).
    """
    return 5e-3 * min(1.0, math.sqrt(1024 / width))


@dataclass(frozen=True)
class RateSchedule:
    """Linear warm-up, constant, linear decay to 2 %."""

    rate: float
    steps: int | None
    """The number of all steps, or None for training without end: then nothing decays."""
    warmup: float
    """The share of the steps (of 1,000 without an end) in which the rate rises."""
    decay: float
    """The share of the steps, at the end, in which it falls."""

    def factor(self, step: int) -> float:
        """What multiplies the rate in step 0, 1, ..."""
        rise = min((step + 1) / (self.warmup * (self.steps or 1000)), 1.0) if self.warmup else 1.0
        if self.steps is None or not self.decay:
            return rise
        left = (self.steps - step) / (self.decay * self.steps)
        return rise * max(min(left, 1.0), FINAL)

    def learning_rate(self, step: int) -> float:
        """The rate of step 0, 1, ..."""
        return self.rate * self.factor(step)

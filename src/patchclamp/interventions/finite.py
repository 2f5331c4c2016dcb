"""NaN and infinity: which numbers of a model may be read.

NaN is never right, and neither is plus infinity. Minus infinity in some columns of the logits is: a model masks what it can
never say, as the padding of its vocabulary, and the probability there is 0. Where every column is minus infinity there is
no distribution. At a named site of the model no infinity is right.

Asked by ``passes.py``, ``part_runner.py`` and ``overflow.py`` of everything that is shown or returned.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from patchclamp.models.sites import Site


def readable(values: Tensor, site: Site | None = None) -> Tensor:
    """Which vectors ``[..., d]`` of some logits, or of a site, hold nothing that may not be read: ``[...]``."""
    plain = values.detach()
    if plain.is_complex():
        plain = torch.view_as_real(plain).flatten(-2)
    if not plain.numel():
        return torch.ones(plain.shape[:-1], dtype=torch.bool, device=plain.device)
    if site is None or site.is_raw or site.component == "logits":
        return torch.isfinite(plain.amax(-1))
    low, high = torch.aminmax(plain, dim=-1)
    return torch.isfinite(low) & torch.isfinite(high)


class Watch:
    """Notes which values of a pass may not be read; they are looked at once, at the end."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths = lengths
        self.flags: list[Tensor] = []

    def look(self, values: Tensor, site: Site | None = None) -> None:
        """Note one tensor ``[row, position, ..., d]``; padding does not count."""
        wrong = ~readable(values, site)
        if wrong.ndim > 1 and len(wrong) == len(self.lengths) and min(self.lengths, default=0) > 0:
            ends = torch.tensor(self.lengths, device=wrong.device)
            real = torch.arange(wrong.shape[1], device=wrong.device) < ends.unsqueeze(1)
            wrong = wrong & real.reshape(*real.shape, *[1] * (wrong.ndim - 2))
        each = wrong.flatten(1).any(1) if wrong.ndim > 1 else wrong.flatten()
        self.flags.append(each if len(each) == len(self.lengths) else each.any().reshape(1))

    def sink(self, site: Site, sink: Callable[[Tensor], None]) -> Callable[[Tensor], None]:
        """A tap that also notes what it sees."""

        def both(value: Tensor) -> None:
            self.look(value, site)
            sink(value)

        return both

    def wrong_rows(self) -> list[int]:
        """Rows with something that may not be read."""
        if not self.flags or not bool(torch.cat(self.flags).any()):
            return []
        rows = len(self.lengths)
        spread = [flag if len(flag) == rows else flag.any().expand(rows) for flag in self.flags]
        return torch.stack(spread).any(0).nonzero().flatten().tolist()

"""The loops to compare with: what they have in common, and those written by hand with PyTorch hooks."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any

import torch
from experiment import Cell, Experiment
from torch import Tensor
from typing_extensions import override

Hook = Callable[[Any, Any, Any], None]


class Loop(ABC):
    """A way to run some cells of the experiment, on a copy of the model.

    ``add`` is the cumulative activation addition (every layer up to the cell's), ``patch`` the activation patching; both
    give what patchclamp's read gives.
    """

    name: str
    batch = 1
    """Cells a forward pass."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.module: Any = copy.deepcopy(experiment.model.module)

    def add(self, cells: Sequence[Cell]) -> Tensor:
        """Probabilities of the answers after the addition, ``[cell, answer]``."""
        return torch.stack([self.added(cell).softmax(-1)[self.experiment.answers] for cell in cells])

    def patch(self, cells: Sequence[Cell]) -> Tensor:
        """Logit difference of the answers after patching, ``[cell]``."""
        return torch.stack([self.difference(self.patched(cell)) for cell in cells])

    def difference(self, logits: Tensor) -> Tensor:
        """Logit of the second answer minus that of the first, of ``[vocabulary]``."""
        first, second = self.experiment.answers
        return logits[second] - logits[first]

    @cached_property
    def source(self) -> list[Tensor]:
        """The source prompt's residual stream after every layer, ``[1, position, d]`` each."""
        found: list[Tensor] = []
        hooks = [(layer, lambda _, __, output: found.append(output.clone())) for layer in self.module.model.layers]
        with torch.no_grad(), hooked(hooks):
            self.module(self.experiment.source_ids)
        return found

    @abstractmethod
    def added(self, cell: Cell) -> Tensor:
        """Logits of the last position, ``[vocabulary]``."""

    @abstractmethod
    def patched(self, cell: Cell) -> Tensor:
        """Logits of the last position, ``[vocabulary]``."""


@contextmanager
def hooked(hooks: Sequence[tuple[Any, Hook]]) -> Iterator[None]:
    """PyTorch forward hooks, for a while."""
    handles = [module.register_forward_hook(hook) for module, hook in hooks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def hidden(output: Any) -> Tensor:
    """The tensor in a module's output."""
    return output[0] if isinstance(output, tuple) else output


class Hooks(Loop):
    """PyTorch hooks, written by hand."""

    name = "hooks"
    options: dict[str, Any] = {}  # noqa: RUF012

    def modules(self, site: str) -> list[Any]:
        """The modules of all layers whose output is this site."""
        return [layer.mlp if site == "mlp_out" else layer.self_attn for layer in self.module.model.layers]

    def logits(self, hooks: Sequence[tuple[Any, Hook]]) -> Tensor:
        """Logits of the last position under some hooks, ``[vocabulary]``."""
        with torch.no_grad(), hooked(hooks):
            return self.module(self.experiment.ids, **self.options).logits[0, -1]

    @override
    def added(self, cell: Cell) -> Tensor:
        def hook(_: Any, __: Any, output: Any) -> None:
            hidden(output)[:, cell.position] += self.experiment.vector

        return self.logits([(module, hook) for module in self.modules(cell.site)[: cell.layer + 1]])

    @override
    def patched(self, cell: Cell) -> Tensor:
        source = self.source[cell.layer][:, cell.position]

        def hook(_: Any, __: Any, output: Any) -> None:
            hidden(output)[:, cell.position] = source

        return self.logits([(self.module.model.layers[cell.layer], hook)])


class HooksLastLogits(Hooks):
    """The same, and the head sees the last position only."""

    name = "hooks, last logits"
    options = {"logits_to_keep": 1, "use_cache": False}  # noqa: RUF012


class HooksRows(HooksLastLogits):
    """Hooks, with cells as rows of one batch."""

    name = "hooks, 64 rows"
    batch = 64

    @override
    def add(self, cells: Sequence[Cell]) -> Tensor:
        def hooks(part: Sequence[Cell]) -> Iterator[tuple[Any, Hook]]:
            for site in {cell.site for cell in part}:
                for depth, module in enumerate(self.modules(site)):
                    rows = [i for i, cell in enumerate(part) if cell.site == site and cell.layer >= depth]
                    yield module, partial(_add_at, rows, [part[i].position for i in rows], self.experiment.vector)

        parts = [cells[i : i + self.batch] for i in range(0, len(cells), self.batch)]
        return torch.cat([self._rows(len(part), list(hooks(part))) for part in parts])

    def _rows(self, rows: int, hooks: Sequence[tuple[Any, Hook]]) -> Tensor:
        ids = self.experiment.ids.expand(rows, -1)
        with torch.no_grad(), hooked(hooks):
            return self.module(ids, **self.options).logits[:, -1].softmax(-1)[:, self.experiment.answers]


def _add_at(rows: list[int], positions: list[int], vector: Tensor, _: Any, __: Any, output: Any) -> None:
    hidden(output)[rows, positions] += vector

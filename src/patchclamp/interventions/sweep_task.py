"""A sweep as data: lines (a prompt and what every cell of it shares), cells, reads; and which cells need not be run.

Made by every sweeping function when all values are known, and planned by ``planning.py``. The example of ``docs/engine.md`` has
one line and three cells, which are three runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from patchclamp.core.errors import PositionError
from patchclamp.interventions.actions import Action
from patchclamp.interventions.reads import Bound
from patchclamp.models.components import COMPONENTS
from patchclamp.models.inputs import Prompt
from patchclamp.models.opened import OpenModel
from patchclamp.models.sites import Site


@dataclass(frozen=True, eq=False)
class PromptRun:
    """One prompt under the edits that all its cells share (none: the clean prompt), and what is read of it."""

    prompt: Prompt
    base: tuple[Action, ...]
    reads: tuple[Bound, ...]

    @property
    def positions(self) -> tuple[int, ...]:
        """Every position whose logits some read needs, in order."""
        return tuple(sorted({p for read in self.reads if read.site is None for p in read.positions}))

    @property
    def compares(self) -> bool:
        """Whether some read compares with the line's own logits."""
        return any(read.needs_baseline for read in self.reads)

    @property
    def sites(self) -> tuple[Site, ...]:
        """Every site that some read wants."""
        return tuple(dict.fromkeys(read.site for read in self.reads if read.site is not None))

    def wanted(self, site: Site) -> tuple[int, ...]:
        """The positions of a site that some read wants, in order."""
        return tuple(sorted({p for read in self.reads if read.site == site for p in read.positions}))

    def states(self, site: Site, values: Tensor) -> Tensor:
        """Pick from a site's activations ``[cell, position, d]`` those that its reads want, at the positions ``wanted``."""
        return states_at(values, self.wanted(site), self.prompt.length)

    def measure(self, logits: Tensor, baseline: Tensor | None, activations: Mapping[Site, Tensor]) -> list[Tensor]:
        """Evaluate every read for some cells.

        Args:
            logits: ``[cell, position, vocabulary]`` at ``positions``.
            baseline: ``[position, vocabulary]`` of the line itself; None if no read compares with it.
            activations: ``[cell, position, d]`` for each of ``sites``, at the positions ``wanted`` of it.
        """
        results = []
        for read in self.reads:
            if read.site is not None:
                recorded_positions = self.wanted(read.site)
                values = activations[read.site][:, [recorded_positions.index(p) for p in read.positions]]
                results.append(read.compute(values, values[0]))
                continue
            index = [self.positions.index(p) for p in read.positions]
            read_logits = widen(logits if index == list(range(len(self.positions))) else logits[:, index])
            before = widen(baseline[index]) if read.needs_baseline and baseline is not None else read_logits[0]
            results.append(read.compute(read_logits, before))
        return [value.cpu() for value in results]


def states_at(values: Tensor, where: Sequence[int], length: int | None) -> Tensor:
    """Activations ``[cell, position, d]`` at some positions; of a site with one vector a prompt, that one.

    Raises:
        PositionError: The site has one vector a prompt, and something else than that is read.
    """
    if length is None or length == 1 or values.shape[1] != 1:
        return values[:, list(where)]
    if any(position != length - 1 for position in where):
        raise PositionError(
            f"the site has one vector for a whole prompt, so a read of it is at='last'; got position {where[0]}"
        )
    return values.expand(-1, len(where), -1)


def widen(logits: Tensor) -> Tensor:
    """Half-precision logits in float32, so that a softmax over them loses nothing more."""
    return logits if logits.dtype in (torch.float32, torch.float64) else logits.float()


@dataclass(frozen=True, eq=False)
class Cell:
    """One point of a sweep."""

    line: int
    actions: tuple[Action, ...]


@dataclass(eq=False)
class SweepTask:
    """All the cells of a sweep, and the fewer ones that have to be run for them."""

    model: OpenModel
    lines: list[PromptRun]
    cells: list[Cell]
    unique_cells: list[Cell] = field(default_factory=list)
    """Distinct cells that can differ from their line's baseline."""
    run_of: list[int | None] = field(default_factory=list)
    """For each cell its run, or None if it equals the baseline."""
    dead: int = 0
    """Cells whose edits cannot reach any read."""
    repeated: int = 0
    """Cells that do what an earlier one does."""

    def __post_init__(self) -> None:
        run_by_key: dict[tuple[object, ...], int] = {}
        for number, cell in enumerate(self.cells):
            opaque = any(action.operation.opaque for action in cell.actions)
            live = cell.actions if opaque else tuple(a for a in cell.actions if self._reaches(a, self.lines[cell.line]))
            if not live:
                self.run_of.append(None)
                self.dead += bool(cell.actions)
                continue
            key = (cell.line, number) if opaque else (cell.line, *(action.key for action in live))
            if key in run_by_key:
                self.repeated += 1
            else:
                run_by_key[key] = len(self.unique_cells)
                self.unique_cells.append(Cell(cell.line, live))
            self.run_of.append(run_by_key[key])

    @property
    def depth(self) -> int:
        """How many layers have to be walked: all of them if logits are read, else as many as the deepest read site needs."""
        layers = self.model.sites.layers
        if any(line.positions for line in self.lines):
            return len(layers)
        return 1 + max(layer_of(site, layers) for line in self.lines for site in line.sites)

    def _reaches(self, action: Action, line: PromptRun) -> bool:
        """Whether an edit can change what the line reads, by the causal structure alone."""
        if action.positions == ():
            return False
        if not self.model.causal or action.positions is None or line.sites or action.site.is_raw:
            return True
        if line.prompt.tensors:  # token types can open the mask to later positions
            return True
        if min(action.positions) > max(line.positions):
            return False
        last = self.model.sites.n_layers - 1
        row = COMPONENTS[action.site.component]
        beyond = action.site.component in ("final_norm", "logits") or (action.site.layer == last and row.local)
        return not beyond or any(position in line.positions for position in action.positions)


def layer_of(site: Site, layers: Sequence[str]) -> int:
    """The layer that a site lies in; the last one if it lies outside the layers."""
    if site.layer is not None:
        return site.layer
    inside = (i for i, path in enumerate(layers) if f"{site.module}.".startswith(f"{path}."))
    return next(inside, len(layers) - 1)


def index_like(values: Sequence[int], device: torch.device) -> Tensor:
    """An index tensor."""
    return torch.tensor(list(values), dtype=torch.long, device=device)

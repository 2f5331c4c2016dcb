"""Parts of a job as data: what to run, and what it gave.

``Schedule.parts`` (:mod:`patchclamp.interventions.planning`) cuts a planned job into them, ``run_part`` runs one on a model, and
``execute`` puts the results together. Both are plain data without the model: another process, or another machine, that holds
an equal model can run a part and send its result back.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from patchclamp.interventions.shared_rows import Group
from patchclamp.interventions.sweep_task import Cell, PromptRun

OVERFLOW, UNREAD = "overflow", "unread"


@dataclass(frozen=True, eq=False)
class Part:
    """Runs that are computed together, and how: all that decides their numbers but the model.

    ``pickle`` stores it as far as it stores the functions of the user's that are in it, if any.
    """

    strategy: str
    lines: Mapping[int, PromptRun]
    """By their numbers in the job: those that the runs belong to."""
    runs: Mapping[int, Cell]
    """By their numbers in the job."""
    depth: int
    """How many layers are walked."""
    groups: tuple[Group, ...] = ()
    """For the strategies that share layers: the runs by their first edited position, with the rows of every layer."""
    head_rows: int = 1
    """Positions that pass the head at once."""
    waste: float = 0.0
    """See :func:`patchclamp.interventions.packing.lay_out`; 0 packs nothing."""


@dataclass(eq=False)
class PartResult:
    """What some runs gave, by the numbers that lines and runs have in the job."""

    baseline: dict[int, list[Tensor]] = field(default_factory=dict)
    """Number of a prompt's run -> one tensor a read, without any cell's edits.

    Computed again with other lines beside them their last bits could differ, so they belong to the result.
    """
    values: dict[int, list[Tensor]] = field(default_factory=dict)
    """Run -> one tensor a read."""
    overflow: set[int] = field(default_factory=set)
    """Runs whose edits led to NaN or infinity."""
    unread: set[int] = field(default_factory=set)
    """Runs of which some read gave NaN, these and others."""
    evidence: dict[int, Tensor] = field(default_factory=dict)
    """What the reads of runs that will be verified were computed from."""

    def include(self, other: "PartResult") -> None:
        """Add the result of another part; of a line that both measured, the other's numbers stay."""
        self.baseline |= other.baseline
        self.values |= other.values
        self.overflow |= other.overflow
        self.unread |= other.unread
        self.evidence |= other.evidence

    def to_tensors(self, part: Part) -> dict[str, Tensor]:
        """The result as a safetensors file holds it, without evidence; lines and runs are named by their places in the part."""
        tensors = {
            f"{kind}.{place}.{read}": value
            for kind, place, values in self._places(part)
            for read, value in enumerate(values)
        }
        flags = {OVERFLOW: self.overflow, UNREAD: self.unread}
        return tensors | {name: torch.tensor([run in runs for run in part.runs]) for name, runs in flags.items()}

    @classmethod
    def from_tensors(cls, part: Part, tensors: Mapping[str, Tensor]) -> "PartResult":
        """The inverse of ``to_tensors``.

        Raises:
            KeyError: The tensors are not those of such a part.
        """
        result = cls({line: [] for line in part.lines}, {run: [] for run in part.runs})
        lines = [*part.lines, *(cell.line for cell in part.runs.values())]
        for line, (kind, place, values) in zip(lines, result._places(part), strict=True):
            values += [tensors[f"{kind}.{place}.{read}"] for read in range(len(part.lines[line].reads))]
        for runs, name in ((result.overflow, OVERFLOW), (result.unread, UNREAD)):
            runs.update(run for run, flag in zip(part.runs, tensors[name].tolist(), strict=True) if flag)
        return result

    def _places(self, part: Part) -> Iterator[tuple[str, int, list[Tensor]]]:
        yield from (("line", place, self.baseline[line]) for place, line in enumerate(part.lines))
        yield from (("run", place, self.values[run]) for place, run in enumerate(part.runs))

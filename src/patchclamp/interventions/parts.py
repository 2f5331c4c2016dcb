"""Finished parts of a job in a folder, each under a digest of everything that decides its numbers."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from patchclamp.core.content import Contents
from patchclamp.core.digest import digest
from patchclamp.core.files import check_place
from patchclamp.core.kinds import Folder
from patchclamp.interventions.edits import Edit, gate_content
from patchclamp.interventions.job import Job, Line
from patchclamp.interventions.operations import Call
from patchclamp.interventions.plan import Schedule
from patchclamp.interventions.reads import Bound, Read
from patchclamp.models.opened import OpenModel

FORMAT = "parts 3"
"""Of the files: those of another format are not looked at."""


class Parts:
    """Where a job's finished parts lie."""

    def __init__(self, folder: Folder, model: OpenModel) -> None:
        self.folder, self._model = Path(folder), model.identity()

    @classmethod
    def of(
        cls,
        folder: Folder | None,
        model: OpenModel,
        *,
        edits: Iterable[Edit] = (),
        reads: Iterable[Read] = (),
        over: Mapping[str, Sequence[Any]] | None = None,
    ) -> Self | None:
        """The parts in a folder, once it is known that everything they depend on can be told again in another process.

        Args:
            folder: None for no checkpoint.
            model: The model.
            edits: All that the user gave; their parameters in ``over`` take other values.
            reads: As the user gave them.
            over: Values of a sweep's axes.

        Raises:
            InputError: Something cannot be told, as a function; raised before any work.
        """
        if folder is None:
            return None
        check_place(folder, "a checkpoint")
        changed = {name: values for name, values in (over or {}).items() if name in ("function", "where")}
        for edit in edits:
            contents = Contents(f"the edit {type(edit.operation).__name__}")
            contents.of(() if isinstance(edit.operation, Call) and "function" in changed else edit.operation)
            contents.of(gate_content(edit.where))
        for name, values in changed.items():
            for value in values:
                Contents(f"over[{name!r}]").of(gate_content(value) if name == "where" else Call(value))
        for read in reads:
            Contents(f"the read {type(read).__name__}").of(read)
        return cls(folder, model)

    def files(self, job: Job, scheduled: Schedule, parts: Sequence[Sequence[int]]) -> list[Path]:
        """The file of each part.

        Raises:
            InputError: Something that decides its numbers has no content.
        """
        contents = Contents("the sweep")
        return [
            self.folder / f"{self._identity(job, scheduled, runs, contents)}-{number:04d}.safetensors"
            for number, runs in enumerate(parts)
        ]

    def _identity(self, job: Job, scheduled: Schedule, runs: Sequence[int], contents: Contents) -> str:
        cells = [(job.runs[run].line, [contents.of(action) for action in job.runs[run].actions]) for run in runs]
        numbers = list(dict.fromkeys(line for line, _ in cells))
        lines = [_line(job.lines[number], contents) for number in numbers]
        own = [(numbers.index(line), actions) for line, actions in cells]
        # how rows are put together decides last bits
        way = (
            scheduled.plan.rung,
            scheduled.rows,
            scheduled.head_rows,
            scheduled.waste,
            job.model.capabilities.narrows,
        )
        return digest(FORMAT, self._model, way, lines, own)


def _line(line: Line, contents: Contents) -> list[Any]:
    """A prompt, the edits that all its cells share, and what exactly is read of it."""
    return [
        line.prompt.key,
        [contents.of(action) for action in line.base],
        [_read(bound, contents) for bound in line.reads],
    ]


def _read(bound: Bound, contents: Contents) -> list[Any]:
    """What it computes, with the ids of the very tokens: the read's own words may mean others in another prompt."""
    return [bound.name, bound.positions, str(bound.site), bound.needs_baseline, contents.of(bound.compute)]

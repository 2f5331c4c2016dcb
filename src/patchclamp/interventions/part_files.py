"""Results of finished parts in a folder, each under a digest of everything that decides its numbers.

Made when a sweeping function is called with ``checkpoint=``, before any work; read and written by ``execute.py``, part by part.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from patchclamp.core.content import Contents
from patchclamp.core.digest import digest
from patchclamp.core.files import check_place, reading
from patchclamp.core.kinds import Folder
from patchclamp.core.tensors import read_sealed, write_sealed
from patchclamp.interventions.edit import Edit, gate_content
from patchclamp.interventions.operations import Call
from patchclamp.interventions.parts import Part, PartResult
from patchclamp.interventions.reads import Bound, Read
from patchclamp.interventions.sweep_task import PromptRun
from patchclamp.models.opened import OpenModel

FORMAT = "parts 4"
"""The files are written in this format, and those of another format are not looked at."""
_ADVICE = "delete it to start again"


class PartFiles:
    """Where the results of finished parts lie; what ``checkpoint=`` of a sweep makes."""

    def __init__(self, folder: Folder, model: OpenModel) -> None:
        self.folder = Path(folder)
        self._model = (model.identity(), model.capabilities.narrows)

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
        """The files in a folder, once it is known that everything they depend on can be told again in another process.

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

    def paths(self, parts: Iterable[Part]) -> list[Path]:
        """The file of each part.

        Raises:
            InputError: Something that decides its numbers has no content.
        """
        contents = Contents("the sweep")
        return [
            self.folder / f"{digest(FORMAT, self._model, _content(part, contents))}-{number:04d}.safetensors"
            for number, part in enumerate(parts)
        ]


def load_part(path: Path, part: Part) -> PartResult:
    """Read the result of a part.

    Raises:
        InputError: The file is not what was written.
    """
    tensors, _ = read_sealed(path, _ADVICE)
    with reading(path, _ADVICE):
        return PartResult.from_tensors(part, tensors)


def save_part(path: Path, part: Part, result: PartResult) -> None:
    """Write the result of a part, atomically."""
    write_sealed(path, result.to_tensors(part))


def _content(part: Part, contents: Contents) -> list[Any]:
    """What decides a part's numbers, whatever numbers its lines and runs have; how rows are put together decides last bits."""
    lines, runs = ({number: place for place, number in enumerate(numbers)} for numbers in (part.lines, part.runs))
    return [
        (part.strategy, part.depth, part.head_rows, part.waste),
        [(group.start, [runs[run] for run in group.runs]) for group in part.groups],
        [_line(line, contents) for line in part.lines.values()],
        [(lines[cell.line], [contents.of(action) for action in cell.actions]) for cell in part.runs.values()],
    ]


def _line(line: PromptRun, contents: Contents) -> list[Any]:
    """A prompt, the edits that all its cells share, and what exactly is read of it."""
    return [
        line.prompt.key,
        [contents.of(action) for action in line.base],
        [_read(bound, contents) for bound in line.reads],
    ]


def _read(bound: Bound, contents: Contents) -> list[Any]:
    """What it computes, with the ids of the very tokens: the read's own words may mean others in another prompt."""
    return [bound.name, bound.positions, str(bound.site), bound.needs_baseline, contents.of(bound.compute)]

"""How far a training job has come, in one sealed file."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor

from patchclamp.activations.stream import ActivationStream
from patchclamp.core.digest import digest
from patchclamp.core.errors import InputError
from patchclamp.core.files import check_place, reading
from patchclamp.core.plain import to_plain
from patchclamp.core.tensors import read_sealed, write_sealed
from patchclamp.dictionaries.sgd import SGD

if TYPE_CHECKING:
    from patchclamp.dictionaries.training import Job

FORMAT = 2
_FILE = "training.safetensors"
_ELSEWHERE = ("batch_size", "passes", "checkpoint", "progress")
"""Arguments of a fit that do not decide what a job computes: the stream has them, or they are shown only."""
_ADVICE = "name another folder, or delete it to start again"


class Checkpoints:
    """The checkpoint of one job, in a folder of the user's."""

    def __init__(self, file: Path, fits: list[dict[str, Any]], place: dict[str, Any]) -> None:
        self.file, self._fits, self._steps = file, fits, 0
        self._place = self._begin = place
        """Where the stream stood when it was passed, and where training began."""
        self._saved: tuple[dict[str, Tensor], dict[str, Any]] | None = None

    @classmethod
    def of(cls, folder: str | Path | None, fits: Sequence[SGD], stream: ActivationStream) -> Self | None:
        """The checkpoint in a folder, with the stream moved to where training began; None for no folder.

        Raises:
            InputError: There can be no folder; or the checkpoint is damaged, or of other fits or another stream: the message
                names what differs, and the stream stays where it is.
        """
        if folder is None:
            return None
        check_place(folder, "a checkpoint")
        files = cls(Path(folder) / _FILE, [_plain(fit) for fit in fits], stream.state())
        if files.file.exists():
            files._read(stream)
        return files

    def save(self, job: "Job", position: dict[str, Any]) -> None:
        """Write how far the job is; what was there before stays until all of it is on the disk."""
        values = {
            "format": FORMAT,
            "fits": self._fits,
            "steps": self._steps,
            "begin": self._begin,
            "stream": position,
            "selections": [group.selection for group in job.groups],
            "steps_done": job.steps_done,
            "rows_seen": job.rows_seen,
        }
        write_sealed(self.file, job.tensors(), values)

    def load(self, job: "Job", stream: ActivationStream, steps: int) -> None:
        """Put a job and its stream where they were, if there is a checkpoint.

        Args:
            job: The job as it begins.
            stream: Its rows.
            steps: The number of all its steps.

        Raises:
            InputError: The checkpoint is damaged, or of another number of steps.
        """
        self._steps = steps
        if self._saved is None:
            return
        tensors, values = self._saved
        with reading(self.file, "delete it to start again"):
            if values["steps"] != steps:
                raise InputError(
                    f"{str(self.file)!r} is a checkpoint of another job: it takes {values['steps']} steps, and this one "
                    f"{steps}; {_ADVICE}"
                )
            job.restore(tensors, values["selections"], values["steps_done"], values["rows_seen"])
            stream.restore(values["stream"])
        self._saved = None

    def put_back(self, stream: ActivationStream) -> None:
        """Move the stream to where it stood when it was passed."""
        stream.restore(self._place)

    def _read(self, stream: ActivationStream) -> None:
        tensors, values = read_sealed(self.file)
        if values.get("format") != FORMAT:
            raise InputError(
                f"{str(self.file)!r} is no checkpoint of this version of patchclamp; delete it to start again"
            )
        with reading(self.file, "delete it to start again"):
            self._check(values)
            try:
                stream.restore(values["begin"])
            except InputError as error:
                raise InputError(f"{str(self.file)!r} is a checkpoint of another stream: {error}") from None
        self._begin, self._saved = values["begin"], (tensors, values)

    def _check(self, values: dict[str, Any]) -> None:
        title = f"{str(self.file)!r} is a checkpoint of another job"
        before, now = values["fits"], self._fits
        if len(before) != len(now):
            raise InputError(f"{title}: it has {len(before)} fits, and this one {len(now)}; {_ADVICE}")
        for number, (old, new) in enumerate(zip(before, now, strict=True)):
            for name in new:
                if old.get(name) != new[name]:
                    raise InputError(
                        f"{title}: {name} of fit {number} was {old.get(name)!r} there, and is {new[name]!r}; {_ADVICE}"
                    )


def _plain(fit: SGD) -> dict[str, Any]:
    settings = {name: value for name, value in fit.get_params(deep=False).items() if name not in _ELSEWHERE}
    return {
        name: digest(value) if isinstance(value, Tensor) else to_plain(value, {}) for name, value in settings.items()
    }

"""How far a training job has come, in one sealed file."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor

from patchclamp.activations.stream import ActivationStream
from patchclamp.core.digest import digest
from patchclamp.core.errors import InputError
from patchclamp.core.files import check_place
from patchclamp.core.plain import to_plain
from patchclamp.core.tensors import read_sealed, write_sealed
from patchclamp.dictionaries.sgd import SGD

if TYPE_CHECKING:
    from patchclamp.dictionaries.training import Job

FORMAT = 1
_FILE = "training.safetensors"
_ELSEWHERE = ("batch_size", "passes", "checkpoint", "progress")
"""Arguments of a fit that do not decide what a job computes: the stream has them, or they are shown only."""


class Checkpoints:
    """The checkpoint of one job, in a folder of the user's."""

    def __init__(self, file: Path, fits: list[dict[str, Any]], steps: int) -> None:
        self.file, self._fits, self._steps = file, fits, steps

    @classmethod
    def of(cls, folder: str | Path | None, fits: Sequence[SGD], steps: int) -> Self | None:
        """The checkpoint in a folder; None for none.

        Raises:
            InputError: There can be no folder.
        """
        if folder is None:
            return None
        check_place(folder, "a checkpoint")
        return cls(Path(folder) / _FILE, [_plain(fit) for fit in fits], steps)

    def save(self, job: "Job", position: dict[str, Any]) -> None:
        """Write how far the job is; what was there before stays until all of it is on the disk."""
        values = {
            "format": FORMAT,
            "fits": self._fits,
            "steps": self._steps,
            "stream": position,
            "steps_done": job.steps_done,
            "rows_seen": job.rows_seen,
        }
        write_sealed(self.file, job.tensors(), values)

    def load(self, job: "Job", stream: ActivationStream) -> None:
        """Put a job and its stream where they were, if there is a checkpoint.

        Raises:
            InputError: It is damaged, or of other fits or another stream; the message names what differs.
        """
        if not self.file.exists():
            return
        tensors, values = read_sealed(self.file)
        if values.get("format") != FORMAT:
            raise InputError(
                f"{str(self.file)!r} is no checkpoint of this version of patchclamp; delete it to start again"
            )
        self._check(values)
        try:
            stream.restore(values["stream"])
        except InputError as error:
            raise InputError(f"{str(self.file)!r} is a checkpoint of another stream: {error}") from None
        job.restore(tensors, values["steps_done"], values["rows_seen"])

    def _check(self, values: dict[str, Any]) -> None:
        title = f"{str(self.file)!r} is a checkpoint of another job"
        advice = "name another folder, or delete it to start again"
        before, now = values["fits"], self._fits
        if len(before) != len(now):
            raise InputError(f"{title}: it has {len(before)} fits, and this one {len(now)}; {advice}")
        for number, (old, new) in enumerate(zip(before, now, strict=True)):
            for name in new:
                if old.get(name) != new[name]:
                    raise InputError(
                        f"{title}: {name} of fit {number} was {old.get(name)!r} there, and is {new[name]!r}; {advice}"
                    )
        if values["steps"] != self._steps:
            raise InputError(f"{title}: it takes {values['steps']} steps, and this one {self._steps}; {advice}")


def _plain(fit: SGD) -> dict[str, Any]:
    settings = {name: value for name, value in fit.get_params(deep=False).items() if name not in _ELSEWHERE}
    return {
        name: digest(value) if isinstance(value, Tensor) else to_plain(value, {}) for name, value in settings.items()
    }

"""What results of restored states have in common."""

from typing import TYPE_CHECKING

import numpy as np

from patchclamp.core.errors import InputError, unknown
from patchclamp.core.result import Result
from patchclamp.interventions import CLEAN

if TYPE_CHECKING:
    import xarray as xr


class RestoredReads(Result):
    """A result whose dataset holds reads of restored runs, and the same reads of the clean and the corrupted run."""

    dataset: "xr.Dataset"

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of what was measured."""
        return tuple(str(name) for name in self.dataset.data_vars if f"{CLEAN}{name}" in self.dataset)

    @property
    def data(self) -> "xr.Dataset":
        """The restored runs' numbers."""
        return self.dataset[list(self.reads)]

    def named(self, read: str | None) -> str:
        """The read asked for, or the first.

        Raises:
            InputError: It was not measured.
        """
        if read is not None and read not in self.reads:
            raise InputError(unknown("read", read, self.reads))
        return read or self.reads[0]


class OnePrompt(Result):
    """A result of one prompt with a subject."""

    dataset: "xr.Dataset"

    @property
    def tokens(self) -> tuple[str, ...]:
        """The prompt's tokens."""
        return tuple(str(token) for token in self.dataset["token"].values)

    @property
    def subject(self) -> tuple[int, ...]:
        """Positions of the subject."""
        return tuple(int(i) for i in np.flatnonzero(self.dataset["subject"].values))

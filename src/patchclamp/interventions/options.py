"""How the cells of a call are carried out: what every sweeping function takes and hands on unread.

Made where the arguments are read (``sweeping.py``, ``patching.py``, paths and traces); read by ``planning.py`` and ``execute.py``.
"""

from dataclasses import dataclass

from patchclamp.core.errors import InputError
from patchclamp.core.progress import Listener
from patchclamp.interventions.cost import DEFAULT_BUDGET
from patchclamp.interventions.part_files import PartFiles


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Limits of the work, and what is verified, kept and shown of it. None of these decides a number but in its last bits."""

    budget: float | str = DEFAULT_BUDGET
    """Bytes, or as ``"1GB"``: what may be alive beyond the model."""
    max_tokens: int | None = None
    """Rows times positions alive at once, instead of what follows from the budget."""
    strategy: str | None = None
    """The strategy that the user asks for; None for the one that shares most and is exact."""
    verify: int = 0
    """How many random runs are repeated with one forward each."""
    files: PartFiles | None = None
    """Where results of finished parts are kept; a later call of the same work goes on from there."""
    progress: bool | Listener | None = None
    """See :func:`patchclamp.core.progress.task`."""

    def __post_init__(self) -> None:
        if self.verify < 0:
            raise InputError(f"verify is the number of cells to run again, 0 or more; got {self.verify!r}")

    def on_the_way(self) -> "RunOptions":
        """For cells whose numbers the result is made from: the same limits; nothing is verified, kept or shown."""
        return RunOptions(budget=self.budget, max_tokens=self.max_tokens)

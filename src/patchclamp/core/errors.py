"""The errors a user can meet. Each message carries the user's value, the valid choices and the nearest name."""

import difflib
import inspect
import warnings
from collections.abc import Collection, Iterable

from patchclamp.core.text import for_terminal


class PatchclampError(Exception):
    """Base of every error that patchclamp raises on purpose."""

    def __str__(self) -> str:
        return for_terminal(super().__str__())


class InputError(PatchclampError, ValueError):
    """Something the user passed cannot be used; raised before any work is done."""


class SiteError(InputError):
    """No such site, or the model cannot offer it (the message says why)."""


class PositionError(InputError):
    """A position that is not in the prompt, or a token string that is absent or ambiguous."""


class EditError(InputError):
    """An edit that cannot be applied: wrong width, NaN, read-only site, unplaced."""


class ModelError(InputError):
    """A model that cannot be opened or used as it is (compiled, quantised, in training mode, ...)."""


class AssetError(PatchclampError):
    """An asset of the catalogue could not be fetched or is damaged."""


class StorageError(PatchclampError, OSError):
    """A file or folder could not be written: a full disk, no permission, another process that holds it."""


class NotFiredError(PatchclampError):
    """An edit never met its site during the forward pass: the run would have been a silent no-op."""


class ExactnessError(PatchclampError):
    """A fast path disagreed with one hooked forward pass a cell beyond the promised tolerance."""


class BudgetError(PatchclampError, MemoryError):
    """The work does not fit the memory budget; the message says what would."""


class MissingDependencyError(PatchclampError, ImportError):
    """An optional package is not installed; the message holds the pip line."""


class PatchclampWarning(UserWarning):
    """Something the user should know before trusting a number."""

    def __str__(self) -> str:
        return for_terminal(super().__str__())


_OURS = ("patchclamp", "contextlib", "jaxtyping")
"""Modules of our own functions, and of what may wrap them."""


def warn(text: str) -> None:
    """Warn, at the line of the user's that called patchclamp."""
    level, frame = 2, inspect.currentframe()
    caller = frame and frame.f_back
    while caller is not None and caller.f_globals.get("__name__", "").partition(".")[0] in _OURS:
        level, caller = level + 1, caller.f_back
    warnings.warn(text, PatchclampWarning, stacklevel=level)


def nearest(value: str, choices: Iterable[str]) -> str | None:
    """The choice most like ``value``, or None if nothing is close."""
    matches = difflib.get_close_matches(value, list(choices), n=1, cutoff=0.5)
    return matches[0] if matches else None


def unknown(kind: str, value: object, choices: Iterable[object], *, limit: int = 24) -> str:
    """Message for a name that is not among the valid ones.

    >>> unknown("model", "smolm2-135m", ["smollm2-135m", "stories15m"])
    "unknown model 'smolm2-135m'; did you mean 'smollm2-135m'? Valid: smollm2-135m, stories15m"
    """
    names = [str(choice) for choice in choices]
    close = nearest(str(value), names)
    hint = f"; did you mean {close!r}?" if close else "."
    listing = ", ".join(names[:limit]) + (f", ... ({len(names) - limit} more)" if len(names) > limit else "")
    return f"unknown {kind} {value!r}{hint} Valid: {listing or 'none'}"


def check_choice(kind: str, value: object, choices: Collection[object]) -> None:
    """Refuse a name that is not among the valid ones.

    Raises:
        InputError: It is not; the message says which are, and which of them is nearest.
    """
    if value not in choices:
        raise InputError(unknown(kind, value, choices))


def missing_dependency(feature: str, package: str, extra: str) -> MissingDependencyError:
    """The error for an optional package, with the pip line that installs it."""
    return MissingDependencyError(
        f"{feature} needs {package}, which is not installed: pip install 'patchclamp[{extra}]'"
    )

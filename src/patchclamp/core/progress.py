"""Progress as events. The library emits them; a terminal, a notebook or the user's own function shows them."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

from patchclamp.core.arguments import checked
from patchclamp.core.text import for_terminal


@dataclass(frozen=True)
class Progress:
    """How far a piece of long work has come."""

    task: str
    """What is being done."""
    done: float
    """Units finished."""
    total: float | None
    """Units in all, or None if unknown."""
    unit: str
    """What is counted: cells, prompts, bytes."""
    seconds: float
    """Time since the task began."""
    finished: bool = False
    """True for the last event of a task."""
    note: str = ""
    """How it goes, in words, where there is something to say."""


Listener = Callable[[Progress], None]
_listener: ContextVar[Listener | None] = ContextVar("patchclamp_progress", default=None)


@checked
@contextmanager
def listening(listener: Listener | None) -> Iterator[None]:
    """Send every progress event inside the block to ``listener`` (None: to nobody)."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@dataclass
class Task:
    """A running piece of work; ``advance`` emits an event."""

    event: Progress
    listener: Listener | None
    began: float = field(default_factory=time.monotonic)

    def advance(self, amount: float = 1, note: str | None = None) -> None:
        """Add ``amount`` finished units; a note stays until there is another."""
        event = self.event if note is None else replace(self.event, note=note)
        self.event = replace(event, done=event.done + amount, seconds=time.monotonic() - self.began)
        if self.listener is not None:
            self.listener(self.event)

    def finish(self) -> None:
        """Emit the last event."""
        self.event = replace(self.event, seconds=time.monotonic() - self.began, finished=True)
        if self.listener is not None:
            self.listener(self.event)


@contextmanager
def task(
    name: str, total: float | None = None, unit: str = "steps", *, show: bool | Listener | None = None
) -> Iterator[Task]:
    """Track a piece of long work.

    Args:
        name: What is being done, in words.
        total: How many units there are.
        unit: The unit that is counted, in the plural.
        show: True draws a bar on stderr, False is silent, a function receives every event, None draws a bar
            when stderr is a terminal or a listener is set.
    """
    start = Progress(name, 0, total, unit, 0.0)
    listener, close = _choose(show, start)
    current = Task(start, listener)
    try:
        yield current
    finally:
        current.finish()
        close()


def _choose(show: bool | Listener | None, start: Progress) -> tuple[Listener | None, Callable[[], None]]:
    if callable(show):
        return show, _nothing
    if show is None and (listener := _listener.get()) is not None:
        return listener, _nothing
    if show or (show is None and sys.stderr.isatty()):
        return _bar(start)
    return None, _nothing


def _nothing() -> None:
    return None


def _bar(start: Progress) -> tuple[Listener, Callable[[], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns: list[Any] = [TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn()]
    console = Console(stderr=True, emoji=False)
    bars = Bars(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True)
    identity = bars.add_task(for_terminal(f"{start.task} ({start.unit})"), total=start.total)
    bars.start()

    def show(event: Progress) -> None:
        title = f"{event.task} ({event.unit})" + (f": {event.note}" if event.note else "")
        bars.update(identity, completed=event.done, total=event.total, description=for_terminal(title))

    return show, bars.stop

"""Ctrl-C waits while something of the user's is changed, and while it is changed back.

Python raises ``KeyboardInterrupt`` between any two instructions of the main thread: also between a hook's registration and
the line that remembers it, or on the way into ``__exit__``. Here the signal is noted at such moments and passed on after
them; while the work itself runs it goes through at once. Other threads never receive it, and nothing happens there.
"""

import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, ParamSpec, TypeVar

from typing_extensions import override

P = ParamSpec("P")
T = TypeVar("T")
Handler = Callable[[int, FrameType | None], Any]


class _Gate:
    """The handler of the signal while something is changed: in front of the one that was there before."""

    def __init__(self, before: Handler) -> None:
        self.before = before
        self.open = False
        self.waits = False
        """Whether an interrupt came while the gate was shut."""

    def __call__(self, number: int, frame: FrameType | None) -> None:
        del number
        if self.open and not _leaving(frame):
            self._pass_on(frame)
        else:
            self.waits = True

    def set_open(self, is_open: bool) -> None:
        """Open or shut it; one that opens lets through what waits."""
        self.open = is_open
        if is_open and self.waits:
            self.waits = False
            self._pass_on(sys._getframe())

    def _pass_on(self, frame: FrameType | None) -> None:
        self.open = False
        try:
            self.before(signal.SIGINT, frame)
        finally:
            self.open = True  # also where the interrupt raises: who catches it in the block can be interrupted again


class Changes(ExitStack):
    """Context managers that change something of the user's, entered and left where no interrupt cuts in.

    Inside the block interrupts wait too, but for what :meth:`run` runs.
    """

    def __init__(self, *managers: AbstractContextManager[Any]) -> None:
        super().__init__()
        self._managers = managers
        self._gate: _Gate | None = None
        self._outer: bool | None = None
        """Whether the gate was open before; None for the changes that set it up."""

    @override
    def __enter__(self) -> Any:
        self._shut()
        try:
            for manager in self._managers:
                self.enter_context(manager)
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function that may be interrupted."""
        try:
            self._set_open(self._outer is not False)
            return function(*args, **kwargs)
        finally:
            self._set_open(False)

    @override
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        self._set_open(False)
        try:
            return super().__exit__(kind, error, trace)
        finally:
            self._restore()

    def _set_open(self, is_open: bool) -> None:
        if self._gate is not None:
            self._gate.set_open(is_open)

    def _shut(self) -> None:
        if threading.get_ident() != threading.main_thread().ident:
            return
        handler = signal.getsignal(signal.SIGINT)
        if isinstance(handler, _Gate):
            self._gate, self._outer, handler.open = handler, handler.open, False
        elif callable(handler):  # otherwise the signal is ignored, or ends the process
            self._gate = _Gate(handler)
            signal.signal(signal.SIGINT, self._gate)

    def _restore(self) -> None:
        gate = self._gate
        if gate is None:
            return
        if self._outer is None:
            if isinstance(signal.getsignal(signal.SIGINT), _Gate):  # the user may have set another meanwhile
                signal.signal(signal.SIGINT, gate.before)
            gate.set_open(True)
        else:
            gate.set_open(self._outer)


class Guarded(Changes):
    """Changes around a block that may be interrupted, for ``with guarded(torch.no_grad()):``; gives the last manager's value."""

    @override
    def __enter__(self) -> Any:
        self._shut()
        try:
            value = None
            for manager in self._managers:
                value = self.enter_context(manager)
            self._set_open(self._outer is not False)
            return value  # in here, since the gate is open: an interrupt at this line is caught as well
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise


def guarded(*managers: AbstractContextManager[Any]) -> Guarded:
    """Context managers that no interrupt can leave half entered or half left."""
    return Guarded(*managers)


def within(
    managers: Iterable[AbstractContextManager[Any]], function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> T:
    """Call a function inside context managers; interrupts reach the function, but neither their entry nor their exit.

    Returns:
        What the function returns, or None where a manager holds back its error.
    """
    changes = Changes(*managers)
    with changes:
        return changes.run(function, *args, **kwargs)


def under(make: Callable[[], AbstractContextManager[Any]]) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorate a function so that each call runs within a context manager of its own; see :func:`within`."""

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            return within((make(),), function, *args, **kwargs)

        return call

    return decorate


@contextmanager
def resumable(folder: str | Path | None) -> Iterator[None]:
    """Inside the block an interrupt says that what was finished is kept in the folder (None: nothing is).

    The outermost block has the last word: its folder is the one that the user named.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        if folder is not None:
            error.__notes__ = [f"what was finished is kept in {str(folder)!r}, and the same call goes on from there"]
        raise


def _leaving(frame: FrameType | None) -> bool:
    """Whether changes are about to be changed back: Python may call the handler on entry to ``__exit__`` itself."""
    while frame is not None:
        if frame.f_code is Changes.__exit__.__code__:
            return True
        frame = frame.f_back
    return False


__all__ = ["Changes", "Guarded", "guarded", "resumable", "under", "within"]

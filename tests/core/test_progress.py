import sys
import time
from itertools import count
from types import SimpleNamespace

import pytest

from patchclamp.core import progress
from patchclamp.core.progress import Progress, listening, task


def test_events_count_up_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[Progress] = []
    before = time.monotonic()
    with task("work", total=6, unit="cells", show=events.append) as bar:
        assert before <= bar.began <= time.monotonic()
        bar.began, clock = 64.0, count(65.0)
        monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
        for amount in (1, 0.5, 3):
            bar.advance(amount)
        bar.advance()
    assert events == [
        Progress("work", done, 6, "cells", float(seconds), finished)
        for done, seconds, finished in [
            (1, 1, False),
            (1.5, 2, False),
            (4.5, 3, False),
            (5.5, 4, False),
            (5.5, 5, True),
        ]
    ]


def test_what_is_not_said_is_unknown() -> None:
    events: list[Progress] = []
    with task("work", show=events.append):
        pass
    (last,) = events
    assert (last.done, last.total, last.unit, last.finished) == (0, None, "steps", True)


def test_a_listener_hears_what_runs_inside_and_nothing_else() -> None:
    events: list[Progress] = []
    other: list[Progress] = []
    with listening(events.append):
        with task("inside") as bar:
            bar.advance(2)
        with task("silent", show=False) as bar:
            bar.advance()
        with task("a function is asked for", show=other.append) as bar:
            bar.advance()
        with listening(None), task("nobody listens") as bar:
            bar.advance()
        with task("inside again") as bar:
            bar.advance()
    with task("outside") as bar:
        bar.advance()
    assert [(e.task, e.done, e.finished) for e in events] == [
        ("inside", 2, False), ("inside", 2, True), ("inside again", 1, False), ("inside again", 1, True),
    ]  # fmt: skip
    assert {e.task for e in other} == {"a function is asked for"}


def test_the_listener_is_forgotten_after_an_error() -> None:
    events: list[Progress] = []
    with pytest.raises(RuntimeError):
        with listening(events.append):
            raise RuntimeError
    with task("after"):
        pass
    assert events == []


def test_the_last_event_comes_also_after_an_error() -> None:
    events: list[Progress] = []

    def fail() -> None:
        with task("work", show=events.append):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert events[-1].finished


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """What rich takes for a terminal that draws."""
    for name, value in (("FORCE_COLOR", "1"), ("TERM", "xterm"), ("COLUMNS", "100")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)


@pytest.mark.usefixtures("terminal")
def test_a_bar_is_drawn_on_stderr_only_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    for show in (None, False):
        with task("silent", total=2, show=show) as bar:
            bar.advance()
    assert capsys.readouterr() == ("", "")
    with task("loud", total=3, unit="cells", show=True) as bar:
        out, err = capsys.readouterr()
        assert out == ""
        assert "loud (cells)" in err, "what is being done is said before any of it is done"
        assert "0/3" in err
        bar.advance(2)
    out, err = capsys.readouterr()
    assert out == ""
    assert "loud (cells)" in err
    assert "2/3" in err


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("show", [None, False])
def test_on_a_terminal_a_bar_is_drawn_unless_it_is_declined(
    show: bool | None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with task("here", total=2, show=show) as bar:
        bar.advance()
    assert ("here (steps)" in capsys.readouterr().err) == (show is None)


@pytest.mark.usefixtures("terminal")
def test_the_bar_is_taken_down_after_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError):
        with task("work", total=2, show=True):
            raise RuntimeError
    hidden, shown = "\x1b[?25l", "\x1b[?25h"
    err = capsys.readouterr().err
    assert hidden in err
    assert err.rindex(shown) > err.rindex(hidden), "the cursor is there again"

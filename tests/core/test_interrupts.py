"""An interrupt waits while something is changed or changed back, and goes through in between."""

import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

import pytest
import torch

from patchclamp.core.interrupts import guarded, resumable, under, within


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


@contextmanager
def noted(steps: list[str], *at: str, name: str = "") -> Iterator[str]:
    """Notes its entry and exit, and is interrupted at some of these moments."""
    if "entry" in at:
        interrupt()
    steps.append(f"{name}entered")
    try:
        yield "value"
    finally:
        if "exit" in at:
            interrupt()
            interrupt()
        steps.append(f"{name}left")


@pytest.fixture(autouse=True)
def _the_handler_stays() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler


@pytest.mark.parametrize(
    ("at", "worked"), [((), True), (("entry",), False), (("exit",), True), (("entry", "exit"), False)]
)
@pytest.mark.parametrize("block", [False, True])
def test_an_interrupt_on_the_way_in_or_out_waits(at: tuple[str, ...], worked: bool, block: bool) -> None:
    steps: list[str] = []
    with pytest.raises(KeyboardInterrupt) if at else guarded():
        if block:
            with guarded(noted([]), noted(steps, *at)) as value:
                assert value == "value"
                steps.append("worked")
        else:
            within([noted(steps, *at)], steps.append, "worked")
    assert steps == ["entered", *(["worked"] if worked else []), "left"]


def test_without_a_guard_the_way_out_is_cut_short() -> None:
    """The negative control."""
    steps: list[str] = []
    with pytest.raises(KeyboardInterrupt), noted(steps, "exit"):
        steps.append("worked")
    assert steps == ["entered", "worked"]


def test_the_work_itself_is_interrupted_at_once() -> None:
    steps: list[str] = []

    def work() -> None:
        interrupt()
        steps.append("went on")

    with pytest.raises(KeyboardInterrupt):
        within([noted(steps)], work)
    with pytest.raises(KeyboardInterrupt), guarded(noted(steps)):
        work()
    assert steps == ["entered", "left"] * 2


def test_who_catches_an_interrupt_inside_the_block_is_interrupted_again() -> None:
    caught = 0
    with guarded(noted([])), guarded(noted([])):
        for _ in range(3):
            with suppress(KeyboardInterrupt):
                interrupt()
                continue
            caught += 1
    assert caught == 3


def test_guards_nest_and_one_interrupt_ends_them_all() -> None:
    steps: list[str] = []

    def inner() -> None:
        with guarded(noted(steps, "exit", name="inner ")):
            steps.append("worked")
        steps.append("went on")

    with pytest.raises(KeyboardInterrupt):
        within([noted(steps, "exit", name="outer ")], inner)
    assert steps == ["outer entered", "inner entered", "worked", "inner left", "outer left"]


def test_what_is_entered_within_a_guard_is_part_of_it() -> None:
    steps: list[str] = []

    @contextmanager
    def manager() -> Iterator[None]:
        with guarded(noted(steps, "entry")):
            steps.append("still waiting")
            yield

    with pytest.raises(KeyboardInterrupt):
        within([manager()], steps.append, "worked")
    assert steps == ["entered", "still waiting", "left"]


def test_another_handler_gets_the_signal_and_may_let_the_work_go_on() -> None:
    got: list[int] = []
    steps: list[str] = []
    before = signal.signal(signal.SIGINT, lambda number, _: got.append(number))
    try:
        within([noted(steps, "entry", "exit")], interrupt)
    finally:
        signal.signal(signal.SIGINT, before)
    assert got == [signal.SIGINT] * 3
    assert steps == ["entered", "left"]


def test_a_handler_that_the_work_sets_stays() -> None:
    before = signal.getsignal(signal.SIGINT)
    within([], signal.signal, signal.SIGINT, signal.SIG_IGN)
    try:
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        within([noted([], "entry")], interrupt)
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_changes_nothing() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []
    thread = threading.Thread(target=within, args=([noted([])], lambda: seen.append(signal.getsignal(signal.SIGINT))))
    thread.start()
    thread.join()
    assert seen == [before]


def test_an_interrupt_says_what_is_kept_in_the_words_of_the_outermost_block() -> None:
    with pytest.raises(KeyboardInterrupt) as told, resumable("outer"), resumable("inner"), resumable(None):
        interrupt()
    assert told.value.__notes__ == ["what was finished is kept in 'outer', and the same call goes on from there"]
    with pytest.raises(KeyboardInterrupt) as told, resumable(None):
        interrupt()
    assert not hasattr(told.value, "__notes__")


@pytest.mark.parametrize("fail", [False, True])
def test_errors_and_values_pass(fail: bool) -> None:
    manager: AbstractContextManager[object] = suppress(ZeroDivisionError) if fail else torch.no_grad()
    assert within([manager], lambda: (1 / (1 - fail), torch.is_grad_enabled())[1]) is (None if fail else False)
    with pytest.raises(KeyError):
        within([manager], {}.__getitem__, "x")

    @under(torch.no_grad)
    def mode(x: int, y: int = 0) -> tuple[bool, int]:
        return torch.is_grad_enabled(), x + y

    assert mode(1, y=2) == (False, 3)
    assert torch.is_grad_enabled()

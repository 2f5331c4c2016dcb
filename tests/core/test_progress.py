import pytest

from patchclamp.core.progress import Progress, listening, task


def test_events_count_up_and_end() -> None:
    events: list[Progress] = []
    with task("work", total=3, unit="cells", show=events.append) as bar:
        for _ in range(3):
            bar.advance()
    assert [e.done for e in events] == [1, 2, 3, 3]
    assert [e.finished for e in events] == [False, False, False, True]
    assert {e.total for e in events} == {3}


def test_a_listener_hears_what_runs_inside_and_nothing_else() -> None:
    events: list[Progress] = []
    with listening(events.append), task("inside") as bar:
        bar.advance(2)
    with task("outside", show=False) as bar:
        bar.advance()
    assert {e.task for e in events} == {"inside"}
    assert events[-1].done == 2


def test_the_last_event_comes_also_after_an_error() -> None:
    events: list[Progress] = []

    def fail() -> None:
        with task("work", show=events.append):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert events[-1].finished


def test_a_bar_is_drawn_on_stderr_only_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    with task("silent", total=2) as bar:
        bar.advance()
    with task("loud", total=2, show=True) as bar:
        bar.advance()
    out, _ = capsys.readouterr()
    assert out == ""

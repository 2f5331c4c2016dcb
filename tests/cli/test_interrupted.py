"""After Ctrl-C the command line says what is kept, and how to go on."""

import json
import shlex

import pytest
from cyclopts import App

from patchclamp.cli.app import main
from patchclamp.core.interrupts import resumable
from tests.cli.test_cli import call


@pytest.mark.parametrize(
    ("line", "folder", "said"),
    [
        ("sweep M P --checkpoint out/parts", "out/parts", "interrupted; what was finished is kept in 'out/parts', and the same call "
         "goes on from there:\npatchclamp sweep M P --checkpoint out/parts"),
        ("sweep M 'a b'", None, "interrupted, and nothing is kept; with a checkpoint it could go on:\n"
         "patchclamp sweep M 'a b' --checkpoint FOLDER"),
        ("sweep M P --checkpoint=c", None, "interrupted before anything was finished; to begin again:\n"
         "patchclamp sweep M P --checkpoint=c"),
        ("top M P", None, "interrupted"),
    ],
)  # fmt: skip
def test_after_an_interrupt_it_says_how_to_go_on(
    line: str, folder: str | None, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        with resumable(folder):
            raise KeyboardInterrupt

    monkeypatch.setattr(App, "__call__", interrupted)
    assert call(capsys, *shlex.split(line), code=130) == f"patchclamp: {said}\n"
    assert main([*shlex.split(line), "--json"]) == 130
    assert json.loads(capsys.readouterr().out)["error"] == "KeyboardInterrupt"


def test_an_interrupt_within_a_verb_comes_as_far_as_that(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        with resumable("out/training"):
            raise KeyboardInterrupt

    monkeypatch.setattr("patchclamp.studies.phase_transition.study", interrupted)
    line = "study phase-transition --out out/transition"
    wanted = "what was finished is kept in 'out/training', and the same call goes on from there"
    assert call(capsys, *line.split(), code=130) == f"patchclamp: interrupted; {wanted}:\npatchclamp {line}\n"

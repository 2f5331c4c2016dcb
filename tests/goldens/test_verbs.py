"""Every verb says what it said."""

import pytest

from tests.goldens import compare, verbs

pytestmark = [
    pytest.mark.filterwarnings("ignore::patchclamp.core.errors.PatchclampWarning"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]
GOLDEN = compare.sections((compare.DATA / "verbs.txt").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def present() -> dict[str, str]:
    return compare.sections(verbs.text())


@pytest.mark.parametrize("call", GOLDEN)
def test_a_call_says_what_it_said(present: dict[str, str], call: str) -> None:
    assert not compare.differences(GOLDEN[call], present[call])


def test_every_verb_is_called_explained_and_refused(present: dict[str, str]) -> None:
    assert present.keys() == GOLDEN.keys()
    whole = {verb for verb in verbs.verbs() if verb.partition(" ")[0] != "study"}
    groups = {verb.partition(" ")[0] for verb in whole if " " in verb}
    fetching = {"assets fetch", "assets where"}
    assert set(verbs.ORDINARY) == whole - groups - fetching
    assert set(verbs.REFUSED) >= whole - groups - {"assets list", "assets verify"}


def test_another_word_number_or_exit_code_is_seen() -> None:
    """The negative control."""
    before = next(text for call, text in GOLDEN.items() if call.startswith("top MODEL") and not call.endswith("--json"))
    for old, new in (("exit code 0", "exit code 1"), ("probability", "p"), ("0.02", "0.03"), ("0 ", "1 ")):
        assert old in before
        assert compare.differences(before, before.replace(old, new, 1))

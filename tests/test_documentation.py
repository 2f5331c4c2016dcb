"""The documentation does what it says: its code runs, and prints what stands below it."""

from pathlib import Path

import pytest

from tests.documentation import OTHERS, ROOT, Tolerance, run_page, same, tolerance_of

PAGES = sorted(
    path
    for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    if "_generated" not in path.parts and ("```python" in path.read_text() or "```console" in path.read_text())
)


SAMPLE = ("code-directions", "edits")
"""The pages that `make test` runs; `make test-pages` runs them all."""


@pytest.mark.assets
@pytest.mark.parametrize(
    "path", [pytest.param(p, id=p.stem, marks=[] if p.stem in SAMPLE else pytest.mark.pages) for p in PAGES]
)
def test_the_page_prints_what_it_shows(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["patchclamp"])
    wrong = [f"{s.code}\n--- shown\n{s.expected}\n--- printed\n{s.printed}" for s in run_page(path) if not s.same]
    assert not wrong, "\n\n".join(wrong)


@pytest.mark.parametrize(
    ("expected", "printed", "equal"),
    [
        ("Rome 0.95", "Rome   0.951\n", True),
        ("Rome 0.95", "Rome 0.99", False),
        ("Rome 0.95", "Paris 0.95", False),
        ("300 cells", "301 cells", False),
        ("1,234 rows in … s", "1,234 rows in 12.5 s", True),
        ("1,234 rows in … s", "1,234 lines in 12.5 s", False),
        ("time about 2 s", "time about 9 s", True),
        ("a 1", "a 1 2", False),
        ("loss 0.0019", "loss 0.0004", False),
        ("loss 0.0019", "loss 0.0018", True),
        ("loss 0.0019", "loss 0.0017", False),
        ("loss 0.0019", "loss -0.0019", False),
        ("error 2.4e-04", "error 2.5e-04", True),
        ("error 2.4e-04", "error 2.6e-04", False),
        ("error 2.4e-06", "error 0.0", True),
        ("error 2.4e-06", "error 2.3e-05", True),
        ("error 2.4e-06", "error 2.5e-05", False),
        ("loss 1234.5678", "loss 1235.1", True),
        ("loss 1234.5678", "loss 1237.1", False),
        ("took … s, 0.250 left", "took 12.5 s, 0.250 left", True),
        ("took … s, 0.250 left", "took 12.5 s, 0.350 left", False),
        ("took … s, 25 left", "took 12.5 s, 26 left", False),
        ("0.25 and …", "0.75 and more", False),
        ("1…", "12", False),
        ("0.6…", "0.653", True),
        ("0.6…", "0.853", False),
    ],
)
def test_the_comparison_sees_what_matters(expected: str, printed: str, equal: bool) -> None:
    assert same(expected, printed) is equal


@pytest.mark.parametrize(
    ("expected", "printed", "equal"),
    [
        ("100 regions", "109 regions", True),
        ("100 regions", "111 regions", False),
        ("100 regions", "100 region", False),
        ("gap 0.010", "gap 0.029", True),
        ("gap 0.010", "gap 0.031", False),
    ],
)
def test_a_sentence_below_a_block_says_how_far_its_numbers_may_go(expected: str, printed: str, equal: bool) -> None:
    tolerance = tolerance_of("*Elsewhere these numbers differ by up to 10 % or 0.02: they come from training.*")
    assert tolerance == Tolerance(0.1, 0.02, whole=True)
    assert same(expected, printed, tolerance) is equal


def test_a_sentence_may_say_that_the_numbers_are_others_and_other_sentences_change_nothing() -> None:
    assert tolerance_of("*Elsewhere these numbers are others: they come from training.*") == OTHERS
    assert same("3 of 4", "700 of 0.5", OTHERS)
    assert not same("3 of 4", "3 of", OTHERS)
    assert tolerance_of("*Elsewhere is a word.*") == tolerance_of(None) == Tolerance()


def test_a_page_is_run_and_compared(tmp_path: Path) -> None:
    """The sentence belongs to the block above it alone."""
    page = tmp_path / "page.md"
    show = "```python\nprint(3.0)\n```\n\n```text\n3.2\n```\n"
    note = "\n*Elsewhere these numbers differ by up to 10 %: an example.*\n"
    page.write_text(f"{show}{note}\n{show}\nprose\n{note}")
    assert [shown.same for shown in run_page(page)] == [True, False]

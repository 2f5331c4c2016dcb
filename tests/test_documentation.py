"""The documentation does what it says: its code runs, and prints what stands below it."""

from pathlib import Path

import pytest

from tests.documentation import ROOT, run_page, same

PAGES = sorted(
    path
    for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    if "_generated" not in path.parts and ("```python" in path.read_text() or "```console" in path.read_text())
)


@pytest.mark.assets
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_the_page_prints_what_it_shows(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["patchclamp"])
    wrong = [
        f"{s.code}\n--- shown\n{s.expected}\n--- printed\n{s.printed}"
        for s in run_page(path)
        if not same(s.expected, s.printed)
    ]
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
    ],
)
def test_the_comparison_sees_what_matters(expected: str, printed: str, equal: bool) -> None:
    assert same(expected, printed) is equal

"""Seconds of processor time that the tests take, by package: ``make test-seconds`` writes the table of CONTRIBUTING.md.

Wall-clock time depends on what else a machine does. The processor time of a test, its own and that of the programs it starts,
depends on it far less, so it is what is added up here. A fixture counts for the test that asks for it first.
"""

import json
import os
import sys
from collections import defaultdict
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- seconds: made by `make test-seconds` -->\n", "<!-- end of seconds -->\n"


def _processor_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


class Meter:
    """A pytest plugin that adds each phase's processor seconds to its report, and writes all of them to a JSON file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds: dict[str, float] = defaultdict(float)
        self.last = _processor_seconds()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Called once after each phase, so that the difference to the phase before is this one's time."""
        report = yield
        now = _processor_seconds()
        report.processor_seconds = now - self.last  # type: ignore[attr-defined]  # a worker sends a report's attributes along
        self.last = now
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called where results are printed, also for reports that came from a worker."""
        self.seconds[report.nodeid] += getattr(report, "processor_seconds", 0.0)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Only the process that prints holds every report."""
        if not hasattr(session.config, "workerinput"):
            self.path.write_text(json.dumps(dict(sorted(self.seconds.items())), indent=0))


def table(seconds: dict[str, float], slowest: int = 0) -> str:
    """A Markdown table of packages, slowest first; with the slowest tests below it when asked."""
    packages: dict[str, list[float]] = defaultdict(list)
    for name, value in seconds.items():
        parts = name.split("::")[0].split("/")
        packages["/".join(parts[:2])].append(value)
    rows = sorted(((sum(values), len(values), name) for name, values in packages.items()), reverse=True)
    lines = ["| package | tests | processor seconds |", "|---|---:|---:|"]
    lines += [f"| {name} | {count} | {value:.0f} |" for value, count, name in rows]
    lines += [f"| **all** | {len(seconds)} | {sum(seconds.values()):.0f} |"]
    lines += [f"{value:8.2f}  {name}" for name, value in sorted(seconds.items(), key=lambda item: -item[1])[:slowest]]
    return "\n".join(lines) + "\n"


def main(arguments: Any) -> None:
    """``python -m tests.seconds FILE.json [N]`` prints the table and the N slowest tests; with ``--write``, into CONTRIBUTING.md."""
    seconds = json.loads(Path(arguments[0]).read_text())
    if "--write" in arguments:
        page = ROOT / "CONTRIBUTING.md"
        text = page.read_text(encoding="utf-8")
        before, rest = text.split(BEGIN)
        page.write_text(before + BEGIN + table(seconds) + END + rest.split(END)[1], encoding="utf-8")
    else:
        print(table(seconds, int(arguments[1]) if len(arguments) > 1 else 0))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])

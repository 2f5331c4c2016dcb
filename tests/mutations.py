"""Do the tests notice when something breaks? Break the source in random places, one at a time, and run the tests that reach them.

``make mutations`` draws mutations of every package, runs for each the tests that execute the changed line (as ``make coverage``
recorded them), and prints a table and what survived. Where a mutation changes nothing that a caller could see, it survives rightly.

The mutations are cosmic-ray's (numbers, comparisons, arithmetic, booleans, loops, exceptions, decorators) and those of
``tests.mutants`` (arguments not passed on, statements left out, errors not raised, the smallest for the largest).
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.mutants import Mutation, Place, lines_of_code, mutation, places

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "patchclamp"
SHORT = "not slow and not hub and not pages"
HEAVY = (
    "torch", "transformers", "scipy.stats", "sklearn.linear_model", "xarray", "hypothesis", "pytest", "jaxtyping", "beartype",
    "matplotlib.pyplot", "safetensors.torch",
)  # fmt: skip
"""Imported once, before a process is forked for each mutation; nothing of the package itself may be."""


@dataclass(frozen=True)
class Outcome:
    """What the tests said to one mutation."""

    mutation: Mutation
    verdict: str
    """``caught``, ``survived``, or ``unreached`` where no test runs the line."""
    by: str
    seconds: float


def draw(count: int, seed: int) -> list[Mutation]:
    """One mutation each of as many random lines of code."""
    texts = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))}
    lines = [(file, line) for file, text in texts.items() for line in sorted(lines_of_code(text))]
    source, found, chosen = random.Random(seed), dict[str, dict[int, list[Place]]](), list[Mutation]()
    for file, line in source.sample(lines, len(lines)):
        if len(chosen) == count:
            break
        if file not in found:
            found[file] = places(texts[file])
        candidates = found[file].get(line, [])
        made = (mutation(texts[file], file, place) for place in source.sample(candidates, len(candidates)))
        chosen += [one for one in made if one is not None][:1]
    return chosen


def drawn_once(count: int, seed: int, folder: Path) -> list[Mutation]:
    """Drawing reads all of the source and takes minutes, so what was drawn is kept beside the results."""
    file = folder / f"drawn-{count}-{seed}.json"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps([asdict(one) for one in draw(count, seed)], indent=1))
    return [Mutation(**fields) for fields in json.loads(file.read_text())]


class Reach:
    """Which tests run a line, the nearest and quickest first."""

    def __init__(self, coverage_file: Path, seconds_file: Path) -> None:
        from coverage import CoverageData

        self.data = CoverageData(str(coverage_file))
        self.data.read()
        self.seconds: dict[str, float] = json.loads(seconds_file.read_text()) if seconds_file.exists() else {}

    def tests(self, file: str, line: int, most: float) -> list[str]:
        """Tests of together at most so many seconds; a line that runs at import is left to the tests of its package."""
        near = f"tests/{Path(file).parts[2]}/"
        contexts = self.data.contexts_by_lineno(str(ROOT / file)).get(line, [])
        names = {context.split("|")[0] for context in contexts if "::" in context}
        if not names and contexts:
            names = {name for name in self.seconds if name.startswith(near)}
        chosen, left = [], most
        for name in sorted(names, key=lambda name: (not name.startswith(near), self.seconds.get(name, 1.0), name)):
            left -= self.seconds.get(name, 1.0)
            if left < 0:
                break
            chosen.append(name)
        return chosen


def attempt(broken: Mutation, tests: list[str], limit: float) -> tuple[str, str]:
    """Run tests against the mutated source in a process of its own; gives the verdict and who noticed."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "src", Path(folder, "src"), ignore=shutil.ignore_patterns("__pycache__"))
        Path(folder, broken.file).write_text(broken.source, encoding="utf-8")
        log = Path(folder, "log")
        child = os.fork()
        if child == 0:
            _run_and_leave(f"{folder}/src", tests, log)
        end, status = time.monotonic() + limit, None
        while status is None:
            done, code = os.waitpid(child, os.WNOHANG)
            if done:
                status = os.waitstatus_to_exitcode(code)
            elif time.monotonic() > end:
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return "caught", "it does not end"
            time.sleep(0.05)
        if status == 0:
            return "survived", ""
        failed = re.search(r"^(?:FAILED|ERROR) (\S+)", log.read_text(errors="replace"), re.M)
        return "caught", failed[1] if failed else f"exit status {status}"


def _run_and_leave(source: str, tests: list[str], log: Path) -> None:
    import pytest

    os.setsid()
    stream = os.open(log, os.O_CREAT | os.O_WRONLY)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    sys.path.insert(0, source)
    os.environ["PYTHONPATH"] = source
    try:
        code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", SHORT, *tests]))
    except BaseException:
        code = 99
    sys.stdout.flush()
    os._exit(code)


def outcomes(mutations: list[Mutation], reach: Reach, most: float, limit: float) -> Iterator[Outcome]:
    """Try every mutation."""
    for broken in mutations:
        start = time.monotonic()
        tests = reach.tests(broken.file, broken.line, most)
        verdict, by = attempt(broken, tests, limit) if tests else ("unreached", "")
        yield Outcome(broken, verdict, by, time.monotonic() - start)


def table(results: list[Outcome]) -> str:
    """A Markdown table by package."""
    counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for outcome in results:
        parts = Path(outcome.mutation.file).parts
        package = parts[2] if len(parts) > 3 else "top"
        counts[package][outcome.verdict] += 1
        counts["**all**"][outcome.verdict] += 1
    verdicts = ("caught", "survived", "unreached")
    lines = ["| package | mutations | " + " | ".join(verdicts) + " |", "|---|---:|---:|---:|---:|"]
    for package in sorted(counts, key=lambda name: (name == "**all**", name)):
        row = counts[package]
        lines.append(f"| {package} | {sum(row.values())} | " + " | ".join(str(row[v]) for v in verdicts) + " |")
    return "\n".join(lines)


def main() -> None:
    """Draw, try, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=80)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--coverage", type=Path, default=ROOT / ".coverage")
    parser.add_argument("--seconds", type=Path, default=ROOT / "out" / "seconds.json")
    parser.add_argument("--most", type=float, default=120, help="seconds of tests a mutation")
    parser.add_argument("--limit", type=float, default=900, help="seconds after which a run counts as endless")
    parser.add_argument("--part", default="1/1", help="2/3: the second third of the mutations, for several processes")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "mutations")
    asked = parser.parse_args()
    number, parts = (int(part) for part in asked.part.split("/"))
    drawn = drawn_once(asked.count, asked.seed, asked.out)[number - 1 :: parts]
    for name in HEAVY:
        __import__(name)
    results = []
    for outcome in outcomes(drawn, Reach(asked.coverage, asked.seconds), asked.most, asked.limit):
        results.append(outcome)
        print(f"{outcome.verdict:<9} {outcome.seconds:4.0f} s  {outcome.mutation} {outcome.by}", flush=True)  # noqa: T201
    print(table(results))  # noqa: T201
    kept = [{**asdict(outcome), "mutation": outcome.mutation.describe()} for outcome in results]
    (asked.out / f"{asked.seed}-{number}-of-{parts}.json").write_text(json.dumps(kept, indent=1))


if __name__ == "__main__":
    main()

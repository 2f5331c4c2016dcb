"""What the measurements share: CPU time, rounds, the machine's own speed, memory, and how results are written.

Everything runs on one thread and is timed in CPU seconds, because other work on the machine moves wall time much more.
Contenders take turns within one process, round after round, and are compared by the median of their ratios.
"""

import argparse
import ctypes
import gc
import json
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

THREADS = 1
"""Of torch; ``Experiment.load`` sets it."""
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

OUT = Path(__file__).parent / "out"
LIBRARIES = ("patchclamp", "torch", "transformers", "numpy", "pyvene", "nnsight", "transformer_lens", "tuned_lens")


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU time of one call."""
    began = time.process_time()
    work()
    return time.process_time() - began


def use_one_thread() -> None:
    """Let torch use one thread, and start it, so that the first measurement does not."""
    torch.set_num_threads(1)
    cpu_seconds(lambda: torch.randn(100, 100) @ torch.randn(100, 100))


def count_option(description: str | None, name: str, default: int) -> int:
    """The one number that a measurement takes on its command line, as how many rounds."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(f"--{name}", type=int, default=default)
    return int(getattr(parser.parse_args(), name))


def interleave(contenders: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of every contender in every round; every other round goes backwards."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name in list(contenders)[:: -1 if number % 2 else 1]:
            gc.collect()
            seconds[name].append(cpu_seconds(contenders[name]))
    return seconds


def ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """Median over rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def matmul_rate(repeats: int = 60) -> float:
    """FLOP/s of one thread on a float32 product of 2048 x 576 by 576 x 1536: the best of many, as a ceiling should be."""
    x, weight = torch.randn(2048, 576), torch.randn(1536, 576)
    best = min(cpu_seconds(lambda: torch.nn.functional.linear(x, weight)) for _ in range(repeats))
    return 2 * 2048 * 576 * 1536 / best


def peak_bytes() -> int:
    """Peak resident memory of this process (since ``forget_peak``, where the system can forget it)."""
    status = Path("/proc/self/status")
    if status.is_file():
        return _status(status, "VmHWM")
    scale = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def forget_peak() -> int:
    """Start a new peak, where the system can (Linux); the resident memory now, without what was freed but kept (glibc)."""
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return peak_bytes()
    return _status(Path("/proc/self/status"), "VmRSS")


def _status(file: Path, name: str) -> int:
    line = next(line for line in file.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


@dataclass(frozen=True)
class Target:
    """A measured number beside the one that was promised."""

    what: str
    measured: float
    target: float
    unit: str = "x"
    at_most: bool = False

    @property
    def holds(self) -> bool:
        """Whether the promise is kept."""
        return self.measured <= self.target if self.at_most else self.measured >= self.target

    def __str__(self) -> str:
        sign = "<=" if self.at_most else ">="
        return f"{self.what:<64} {self.measured:>8.3g} {self.unit:<9} {sign} {self.target:<6g} {'yes' if self.holds else 'no'}"


def write(name: str, measured: Mapping[str, Any], targets: Sequence[Target]) -> None:
    """Print the targets, and write everything to ``out/NAME.json``."""
    OUT.mkdir(exist_ok=True)
    rows = [asdict(target) | {"holds": target.holds} for target in targets]
    record = {"name": name, "environment": environment(), "targets": rows, **measured}
    (OUT / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    print(*targets, sep="\n")


def environment() -> dict[str, Any]:
    """Versions and machine."""
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "torch_threads": THREADS,
        "processor": platform.machine(),
    }
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found

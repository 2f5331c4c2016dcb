"""How long ``import patchclamp`` takes once torch is there, and how much memory the demonstration's sweep needs in all."""

import os
import statistics
import subprocess
import sys
import tempfile

from common import Target, count_option, write

IMPORT = (
    "import time, torch; wall, cpu = time.perf_counter(), time.process_time(); import patchclamp; "
    "print(time.perf_counter() - wall, time.process_time() - cpu)"
)
FIRST_USE = IMPORT.replace("import patchclamp;", "import patchclamp; patchclamp.load;")
SWEEP = "from experiment import Experiment; Experiment.load(5).sweep()"
STUDY = "from patchclamp.cli.app import run_process; run_process()"


def importing(code: str, repeats: int) -> tuple[float, float]:
    """Medians of wall and CPU seconds, each repeat in a fresh interpreter."""
    outputs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
        for _ in range(repeats + 1)
    ]
    walls, cpus = zip(
        *(map(float, output) for output in outputs[1:]), strict=True
    )  # the first one fills the disk cache
    return statistics.median(walls), statistics.median(cpus)


def peak_of(code: str, *arguments: str) -> int:
    """Peak resident bytes of a fresh interpreter that runs some code to its end."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"PYTHONPATH": os.path.dirname(os.path.abspath(__file__)), "OMP_NUM_THREADS": "1"}
        child = subprocess.Popen(
            [sys.executable, "-c", code, *arguments], stdout=subprocess.DEVNULL, env=environment, cwd=folder
        )
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{code!r} ended with {child.returncode}")
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    repeats = count_option(__doc__, "repeats", 9)
    wall, cpu = importing(IMPORT, repeats)
    first_wall, first_cpu = importing(FIRST_USE, repeats)
    sweep, study = peak_of(SWEEP), peak_of(STUDY, "study", "activation-addition", "--model", "smollm2-135m")
    print(f"import patchclamp after torch: {wall:.3f} s ({cpu:.3f} s CPU); with pc.load found: {first_wall:.3f} s")
    print(f"peak of a process: the sweep {sweep / 1e9:.2f} GB, the whole study with its report {study / 1e9:.2f} GB")
    rows = [
        Target("import patchclamp, beyond torch", wall, 0.3, "s", True),
        Target("peak memory of a process with the sweep", sweep / 1e9, 2.0, "GB", True),
        Target("peak memory of the whole study", study / 1e9, 2.0, "GB", True),
    ]
    record = {
        "import_seconds": {"wall": wall, "cpu": cpu, "wall_with_load": first_wall, "cpu_with_load": first_cpu},
        "peak_bytes": {"sweep": sweep, "study": study},
    }
    write("startup", record, rows)


if __name__ == "__main__":
    main()

"""Make ``benchmarks/.venv-peers``: patchclamp and the libraries that it is compared with, in versions that go together.

A library that cannot be installed or imported is reported and left out of the comparisons. Run it again to repair or
update; remove the folder to start anew.
"""

import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent
HOME = Path(__file__).parent / ".venv-peers"
BASE = ("torch==2.13.0", "transformers==5.23.0")
PEERS = {
    "pyvene": "pyvene==0.1.8",
    "nnsight": "nnsight==0.8.1",
    "transformer_lens": "transformer_lens==4.3.0",
    "tuned_lens": "tuned-lens==0.2.0",
}
"""Module -> what pip installs."""


def python() -> Path:
    """The environment's interpreter."""
    return HOME / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def pip(*arguments: str) -> bool:
    """Install something without moving torch or transformers; whether it worked."""
    command = [str(python()), "-m", "pip", "install", "--quiet", *arguments, "-c", str(ROOT / "constraints.txt")]
    return subprocess.run(command).returncode == 0


def version_of(module: str) -> str | None:
    """Version of a module's distribution, if it imports there."""
    code = f"import {module}, importlib.metadata as m; print(m.version('{module}'))"
    done = subprocess.run([str(python()), "-c", code], capture_output=True, text=True)
    if done.returncode:
        print(f"{module}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return None
    return done.stdout.split()[-1]


def main() -> int:
    if not python().exists():
        venv.create(HOME, with_pip=True)
    if not pip(*BASE) or not pip("--editable", f"{ROOT}[assets]"):
        print("torch, transformers or patchclamp could not be installed", file=sys.stderr)
        return 1
    for package in PEERS.values():
        if not pip(package):
            print(f"{package} could not be installed: left out", file=sys.stderr)
    for module in ("torch", "transformers", "patchclamp", *PEERS):
        print(f"{module:<18} {version_of(module) or 'does not import: left out'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

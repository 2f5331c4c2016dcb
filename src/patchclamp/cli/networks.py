"""Networks and points on the command line: those of the studies, those of a Python file, or a model by name."""

import json
import sys
from collections.abc import Sequence
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from patchclamp.cli.options import Opening
from patchclamp.core.errors import InputError, unknown
from patchclamp.core.files import read_text

if TYPE_CHECKING:
    import patchclamp as pc

DATA, KINDS = ("mnist", "fashion-mnist"), ("mlp", "residual", "cnn")
NETWORKS = tuple(f"{data}-{kind}" for data in DATA for kind in KINDS)
NETWORK_HELP = (
    f"A network of the studies, trained when it is first asked for ({', '.join(NETWORKS)}; another seed as mnist-mlp:1), a "
    "network of your own as FILE.py:NAME (a torch module, or a function that makes one), or a model by name or folder."
)
INPUTS_HELP = "Pictures by number (test:0-999), one FILE.npy of rows, text files (a text a line), or texts."
POINT_HELP = (
    "A point: test:7 or train:7 (a picture of 784 pixels, MNIST's for a network of your own), mean:3 (a class's mean), FILE.npy, "
    "or numbers as '[1, 0.5]'."
)

command_words: ContextVar[Sequence[str]] = ContextVar("patchclamp_typed", default=())
"""What the person typed on the command line of this run."""


def is_python(spec: str) -> bool:
    """Whether a specification is of a Python file, which would be executed."""
    return spec.rpartition(":")[0].endswith(".py")


def is_typed(spec: str) -> bool:
    """Whether a specification was typed, as an argument or as the value of an option; what a file names was not."""
    return any(
        spec == word or (word.startswith("-") and word.partition("=")[2] == spec) for word in command_words.get()
    )


def open_network(spec: str, opening: Opening) -> "pc.Model":
    """The open model that a specification names.

    Raises:
        InputError: There is no such network, the file does not give one, or only a configuration names the file: a Python
            file is executed when the person who runs the command names it, and not because a file that was received does.
    """
    import patchclamp as pc

    name, _, seed = spec.partition(":")
    if name in NETWORKS:
        from patchclamp.studies import digits

        data, _, kind = name.rpartition("-")
        if seed and not seed.isdecimal():
            raise InputError(f"{spec!r}: what follows the colon is the seed, a number")
        return pc.wrap(digits.trained(kind, data, seed=int(seed or 0), progress=True))  # type: ignore[arg-type]
    path, _, attribute = spec.rpartition(":")
    if is_python(spec):
        if not is_typed(spec):
            raise InputError(
                f"{spec!r} would be executed, and it was not typed: a configuration may have come from somebody else. "
                "Type it on the command line if you trust the file"
            )
        return pc.wrap(_load_from_file(Path(path), attribute).eval())
    if spec.endswith(".py"):
        raise InputError(f"{spec!r}: name the network in it, as {spec}:make")
    from patchclamp.catalogue.assets import ASSETS

    if spec not in ASSETS and not Path(spec).exists() and "/" not in spec:
        raise InputError(
            unknown("network", spec, [*NETWORKS, *(n for n, asset in ASSETS.items() if asset.kind == "model")])
        )
    return opening.load(spec)


def _load_from_file(path: Path, name: str) -> Any:
    from torch import nn

    if not path.is_file():
        raise InputError(f"there is no file {str(path)!r}")
    python_module = ModuleType(path.stem)
    python_module.__file__ = str(path)
    sys.path.insert(0, str(path.parent))
    try:
        # its own bytes, as they are now: a cache of bytecode may be of an earlier text, and would be left in the user's folder
        exec(compile(path.read_bytes(), str(path), "exec"), vars(python_module))
        factory = getattr(python_module, name, None)
        if factory is None:
            raise InputError(
                unknown(
                    f"name in {path}",
                    name,
                    [n for n, value in vars(python_module).items() if _is_network_or_factory(value, path)],
                )
            )
        module = factory() if callable(factory) and not isinstance(factory, nn.Module) else factory
    finally:
        sys.path.remove(str(path.parent))
    if not isinstance(module, nn.Module):
        raise InputError(f"{name} of {path} gives a {type(module).__name__}, not a torch module")
    return module


def _is_network_or_factory(value: Any, path: Path) -> bool:
    """Whether a name of a file is a network or what may make one, and of this file."""
    from torch import nn

    return isinstance(value, nn.Module) or (callable(value) and getattr(value, "__module__", None) == path.stem)


def _data(spec: str, network: str) -> Any:
    """The pictures that a network is for; those of a network of one's own are MNIST's.

    Raises:
        InputError: It is for none.
    """
    name = network.partition(":")[0]
    if name not in NETWORKS and not name.endswith(".py"):
        raise InputError(f"{spec!r} is a picture of {' or '.join(DATA)}, and {network!r} is no network of these")
    from patchclamp.studies import digits

    return digits.images(name.rpartition("-")[0] if name in NETWORKS else "mnist")  # type: ignore[arg-type]


def point(spec: str, network: str) -> Any:
    """A point as a tensor.

    Raises:
        InputError: It cannot be read, or the network has no pictures.
    """
    import torch

    if spec.startswith("["):
        try:
            return torch.tensor(json.loads(spec), dtype=torch.float64)
        except (ValueError, TypeError, RuntimeError) as error:
            raise InputError(f"{spec[:80]!r} is not a list of numbers") from error
    if spec.endswith(".npy"):
        return _array(spec)
    part, _, number = spec.partition(":")
    if part not in ("test", "train", "mean") or not number.isdecimal():
        raise InputError(f"{spec!r} is no point. {POINT_HELP}")
    pictures = _data(spec, network)
    rows, labels = (pictures.test, pictures.test_labels) if part == "test" else (pictures.train, pictures.train_labels)
    last = len(pictures.names) if part == "mean" else len(rows)
    if int(number) >= last:
        raise InputError(f"{spec!r}: the last one is {part}:{last - 1}")
    return rows[labels == int(number)].mean(0) if part == "mean" else rows[int(number)]


def inputs(specs: list[str], network: str) -> tuple[Any, Any]:
    """What a network is run on, and the labels if they are known.

    Args:
        specs: Pictures by number (``test:0-999``), one ``.npy`` file of rows, text files (a text a line), or texts.
        network: As for :func:`open_network`.

    Raises:
        InputError: A file is not there, or the network has no pictures.
    """
    first = specs[0]
    part, _, span = first.partition(":")
    if part in ("test", "train") and span.replace("-", "").isdecimal():
        return _pictures(specs, network)
    if first.endswith(".npy"):
        if len(specs) > 1:
            raise InputError(f"one .npy file of rows is read, not {', '.join(specs)}")
        return _array(first), None
    texts: list[str] = []
    for spec in specs:
        texts += [line for line in read_text(spec).splitlines() if line.strip()] if spec.endswith(".txt") else [spec]
    return texts, None


def _array(path: str) -> Any:
    import numpy as np
    import torch

    if not Path(path).is_file():
        raise InputError(f"there is no file {path!r}")
    try:
        # mapped first, so that a header which promises more than the file holds is refused before any memory is taken
        return torch.from_numpy(np.array(np.load(path, mmap_mode="r", allow_pickle=False)))
    except Exception as error:  # numpy reads headers as Python
        raise InputError(f"{path!r} holds no array of numbers: {error}") from error


def _pictures(specs: list[str], network: str) -> tuple[Any, Any]:
    import torch

    data = _data(specs[0], network)
    rows, labels = [], []
    for spec in specs:
        part, _, span = spec.partition(":")
        low, _, high = span.partition("-")
        if part not in ("test", "train") or not low.isdecimal() or not (high or low).isdecimal():
            raise InputError(f"{spec!r} is no range of pictures, as test:0-999")
        pixels, part_labels = (data.test, data.test_labels) if part == "test" else (data.train, data.train_labels)
        if not int(low) <= int(high or low) < len(pixels):
            raise InputError(f"{spec!r}: the pictures are {part}:0-{len(pixels) - 1}, the smaller number first")
        selection = slice(int(low), int(high or low) + 1)
        rows.append(pixels[selection])
        labels += [data.names[label] for label in part_labels[selection].tolist()]
    return torch.cat(rows), labels

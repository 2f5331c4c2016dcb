"""Small networks on pictures of 28 by 28: data, the networks of the studies, and training that a killed process goes on with.

Every weight is a function of the seed alone: the same call ends with the same bytes on the same machine, interrupted or not.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock
from torch import Tensor, nn

import patchclamp as pc
from patchclamp.core import folders
from patchclamp.core.content import content
from patchclamp.core.digest import digest
from patchclamp.core.errors import InputError, check_choice, unknown
from patchclamp.core.interrupts import guarded, resumable
from patchclamp.core.progress import Listener, task
from patchclamp.core.tensors import read_state, read_tensors, write_state, write_tensors

Data = Literal["mnist", "fashion-mnist"]
Kind = Literal["residual", "mlp", "cnn"]
SIDE, CLASSES, RECIPE = 28, 10, 1
"""Pixels of a side, classes, and the number that rises when training changes, so that kept networks are made anew."""


@dataclass(frozen=True, eq=False)
class Images:
    """A data set of pictures in ten classes."""

    train: Tensor
    """``[row, 784]`` float32, 0..1."""
    train_labels: Tensor
    """``[row]`` int64."""
    test: Tensor
    """``[row, 784]`` float32, 0..1."""
    test_labels: Tensor
    """``[row]`` int64."""
    names: tuple[str, ...]
    """The classes are named here in the order of their labels."""

    def head(self, train: int, test: int) -> "Images":
        """The first rows alone."""
        return Images(
            self.train[:train], self.train_labels[:train], self.test[:test], self.test_labels[:test], self.names
        )


def images(name: Data = "mnist") -> Images:
    """A data set of the catalogue.

    Raises:
        InputError: There is none of this name.
    """
    loaders: dict[str, Callable[[], Any]] = {"mnist": pc.catalogue.mnist, "fashion-mnist": pc.catalogue.fashion_mnist}
    check_choice("data set", name, loaders)
    raw = loaders[name]()
    names = pc.catalogue.FASHION if name == "fashion-mnist" else tuple(str(digit) for digit in range(CLASSES))
    train, test = (pixels.flatten(1).float() / 255 for pixels in (raw.train_images, raw.test_images))
    return Images(train, raw.train_labels, test, raw.test_labels, names)


class Block(nn.Module):
    """``relu(W x + b + x)``: the residual block of the seed."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear, self.relu = nn.Linear(width, width), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """``[row, width] -> [row, width]``."""
        out: Tensor = self.relu(self.linear(x) + x)
        return out


def network(kind: Kind = "residual", *, width: int = 512, depth: int = 1, seed: int = 0) -> nn.Sequential:
    """An untrained network from rows of 784 pixels to 10 logits, in evaluation mode.

    ``residual`` is Linear, ReLU, ``depth`` blocks ``relu(W x + b + x)``, Linear. ``mlp`` is the same without the skips:
    784-512-512-10, with ReLUs. ``cnn`` has a 5 by 5 convolution of 16 channels, max-pooling, ``depth`` convolutions of 32
    channels with stride 2, a dense layer and the head.

    Args:
        kind: Which.
        width: Neurons of a hidden layer (of the CNN: of the dense one).
        depth: Blocks, hidden layers after the first, or convolutions after the pooling.
        seed: The weights are drawn with this seed (torch's usual initialisation).

    Raises:
        InputError: No such kind, or a width or depth below 1.
    """
    if kind not in ("residual", "mlp", "cnn"):
        raise InputError(unknown("kind of network", kind, ["residual", "mlp", "cnn"]))
    if min(width, depth) < 1:
        raise InputError(f"width and depth are at least 1, not {width} and {depth}")
    with guarded(torch.random.fork_rng(devices=[])):
        torch.manual_seed(seed)
        return nn.Sequential(*_layers(kind, width, depth)).eval()


def _layers(kind: Kind, width: int, depth: int) -> list[nn.Module]:
    if kind == "cnn":
        convolutions: list[nn.Module] = []
        channels, side = 16, SIDE // 2
        for _ in range(depth):
            convolutions += [nn.Conv2d(channels, 32, 5, stride=2, padding=2), nn.ReLU()]
            channels, side = 32, (side + 1) // 2
        stem = [nn.Unflatten(1, (1, SIDE, SIDE)), nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
        dense = [nn.Flatten(), nn.Linear(channels * side**2, width), nn.ReLU()]
        return [*stem, *convolutions, *dense, nn.Linear(width, CLASSES)]
    hidden: list[nn.Module] = []
    for _ in range(depth):
        hidden += [Block(width)] if kind == "residual" else [nn.Linear(width, width), nn.ReLU()]
    return [nn.Linear(SIDE**2, width), nn.ReLU(), *hidden, nn.Linear(width, CLASSES)]


@dataclass(frozen=True)
class TrainingHistory:
    """How a network was trained; one number an epoch."""

    loss: tuple[float, ...]
    """Mean cross-entropy on the test images, in nats."""
    accuracy: tuple[float, ...]
    """On the test images."""
    seconds: tuple[float, ...]
    """Training took this many seconds, and the test is not counted."""


def train(
    module: nn.Module,
    data: Images,
    *,
    epochs: int = 10,
    batch: int = 100,
    rate: float = 1e-3,
    seed: int = 0,
    folder: str | Path | None = None,
    progress: bool | Listener | None = None,
) -> TrainingHistory:
    """Train a network in place, with Adam on the cross-entropy.

    The order of the images hangs on the seed and the epoch's number alone. With a folder, training that was interrupted goes on
    from its last epoch and ends with the same weights, and what is finished is read, not trained again; what was trained
    otherwise is trained anew. The module is left in evaluation mode, without gradients.

    Args:
        module: Rows of pixels to logits.
        data: To learn from and to test on.
        epochs: Passes over the training images.
        batch: Images a step.
        rate: Learning rate.
        seed: The order of the training images is drawn with this seed.
        folder: Gets ``model.safetensors`` and ``training.json``; the checkpoint is its neighbour ``NAME.pt``.
        progress: True for a bar.
    """
    home = Path(folder) if folder is not None else None
    parameters: dict[str, Any] = {"epochs": epochs, "batch": batch, "rate": rate, "seed": seed, "recipe": RECIPE}
    if home is not None:
        parameters |= {"begin": content(module, "the network"), "data": digest(data.train, data.train_labels)}
        if (home / "training.json").is_file() and (saved := _read(home)).get("asked") == parameters:
            module.load_state_dict(read_tensors(home / "model.safetensors"))
            return _history(saved["found"])
        folders.check(home, folders.TRAINED)
    optimizer = torch.optim.Adam(module.parameters(), lr=rate)
    checkpoint = home.with_name(f"{home.name}.pt") if home is not None else None
    history = _resume(checkpoint, parameters, module, optimizer)
    with resumable(checkpoint), task("training", epochs, "epochs", show=progress) as bar:
        bar.advance(len(history))
        for epoch in range(len(history), epochs):
            start = time.perf_counter()
            _epoch(module, optimizer, data, batch, seed * 1_000_003 + epoch)
            seconds = time.perf_counter() - start
            history.append([*evaluate(module, data.test, data.test_labels), seconds])
            if checkpoint is not None:
                state = {"model": module.state_dict(), "optimizer": optimizer.state_dict()}
                write_state(checkpoint, {"asked": parameters, "history": history, **state})
            bar.advance()
    result = TrainingHistory(*(tuple(column) for column in zip(*history, strict=True)))
    if home is not None and checkpoint is not None:
        record = {"format_version": folders.TRAINED.version, "asked": parameters, "found": asdict(result)}
        weights = module.state_dict()
        folders.save(home, folders.TRAINED, record, lambda into: write_tensors(into / "model.safetensors", weights))
        checkpoint.unlink(missing_ok=True)
    return result


def _read(folder: Path) -> dict[str, Any]:
    """How a network was trained, whose files are those that were saved; version 0.1.0 wrote no digests and no version."""
    with folders.opened(folder, folders.TRAINED) as record:
        return record


def _history(columns: dict[str, list[float]]) -> TrainingHistory:
    return TrainingHistory(**{name: tuple(values) for name, values in columns.items()})


def _resume(
    checkpoint: Path | None, parameters: dict[str, Any], module: nn.Module, optimizer: Any
) -> list[list[float]]:
    state = read_state(checkpoint) if checkpoint is not None and checkpoint.is_file() else None
    if state is None or state["asked"] != parameters:
        return []
    module.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    history: list[list[float]] = state["history"]
    return history


def _epoch(module: nn.Module, optimizer: torch.optim.Optimizer, data: Images, batch: int, seed: int) -> None:
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))
    module.train()
    for rows in order.split(batch):
        loss = nn.functional.cross_entropy(module(data.train[rows]), data.train_labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    optimizer.zero_grad()
    module.eval()


def evaluate(module: nn.Module, pixels: Tensor, labels: Tensor) -> tuple[float, float]:
    """Mean cross-entropy (nats) and accuracy on images."""
    with guarded(torch.no_grad()):
        logits = torch.cat([module(part) for part in pixels.split(1000)])
    return float(nn.functional.cross_entropy(logits, labels)), float((logits.argmax(1) == labels).float().mean())


def trained(
    kind: Kind = "residual", data: Data = "mnist", *, seed: int = 0, epochs: int = 10, width: int = 512, depth: int = 1,
    progress: bool | Listener | None = None,
) -> nn.Sequential:  # fmt: skip
    """A trained network, in evaluation mode: trained once, then read from the cache (``PATCHCLAMP_CACHE/trained``).

    Args:
        kind: The network is of this kind; see :func:`network`.
        data: The network learns this data set; see :func:`images`.
        seed: The initial weights and the order of the images are drawn with this seed.
        epochs: The network is trained for this many passes over the images, in batches of 100 at a rate of 1e-3.
        width: Each hidden layer (of the CNN: the dense one) has this many neurons; see :func:`network`.
        depth: There are this many blocks, further hidden layers or further convolutions; see :func:`network`.
        progress: True for a bar.
    """
    return _train_or_read(kind, data, seed, epochs, width, depth, progress)[0]


def training(
    kind: Kind = "residual", data: Data = "mnist", *, seed: int = 0, epochs: int = 10, width: int = 512, depth: int = 1,
    progress: bool | Listener | None = None,
) -> TrainingHistory:  # fmt: skip
    """How :func:`trained` trained the network that it gives for the same arguments."""
    return _train_or_read(kind, data, seed, epochs, width, depth, progress)[1]


def _train_or_read(
    kind: Kind, data: Data, seed: int, epochs: int, width: int, depth: int, progress: bool | Listener | None
) -> tuple[nn.Sequential, TrainingHistory]:
    module = network(kind, width=width, depth=depth, seed=seed)
    name = f"{data}-{kind}-w{width}-d{depth}-e{epochs}-s{seed}-v{RECIPE}"
    folder = pc.catalogue.cache_root() / "trained" / name
    if not (folder / "training.json").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f".{name}.lock"):
            train(module, images(data), epochs=epochs, seed=seed, folder=folder, progress=progress)
    record = _read(folder)
    module.load_state_dict(read_tensors(folder / "model.safetensors"))
    return module.eval(), _history(record["found"])

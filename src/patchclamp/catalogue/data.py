"""The catalogue's data sets, as plain Python and tensors."""

from dataclasses import dataclass

from safetensors.torch import load_file
from torch import Tensor

from patchclamp.catalogue.fetching import fetch
from patchclamp.core.arguments import checked
from patchclamp.core.errors import InputError, unknown
from patchclamp.core.files import read_json


@dataclass(frozen=True, eq=False)
class Digits:
    """MNIST, or a data set of its shape."""

    train_images: Tensor
    """``[60000, 28, 28]`` uint8."""
    train_labels: Tensor
    """``[60000]`` int64."""
    test_images: Tensor
    """``[10000, 28, 28]`` uint8."""
    test_labels: Tensor
    """``[10000]`` int64."""


@checked
def mnist() -> Digits:
    """Handwritten digits."""
    return Digits(**load_file(fetch("mnist") / "mnist.safetensors"))


FASHION = (
    "T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"
)  # fmt: skip
"""What the labels of Fashion-MNIST stand for."""


@checked
def fashion_mnist() -> Digits:
    """Pictures of clothes in MNIST's shape; :data:`FASHION` names the labels.

    Source: Xiao, Rasul and Vollgraf, Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms, 2017.
    """
    return Digits(**load_file(fetch("fashion-mnist") / "fashion-mnist.safetensors"))


@checked
def gutenberg(title: str | None = None) -> dict[str, str]:
    """Public-domain books by title, or one of them.

    Raises:
        InputError: There is no such book.
    """
    folder = fetch("gutenberg")
    titles = sorted(path.stem for path in folder.glob("*.txt"))
    if title is not None and title not in titles:
        raise InputError(unknown("book", title, titles))
    return {name: (folder / f"{name}.txt").read_text(encoding="utf-8") for name in titles if title in (None, name)}


@dataclass(frozen=True)
class Country:
    """A country and its capital."""

    name: str
    capital: str
    region: str
    population: int


@checked
def capitals() -> list[Country]:
    """Countries with their capitals, the most populous first."""
    return [Country(**row) for row in read_json(fetch("capitals") / "capitals.json")]

"""The contract of every result: labelled data, a frame, a figure, and a folder that gives the same object back."""

import platform
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from patchclamp.core import registry
from patchclamp.core.arguments import checked, checked_methods
from patchclamp.core.errors import InputError
from patchclamp.core.files import atomic_file, read_json, write_json, write_text
from patchclamp.core.kinds import Folder
from patchclamp.core.labelled import pack, unpack

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.figure import Figure

FORMAT_VERSION = 1
_RECORD = "result.json"
_TENSORS = "parameters.safetensors"


def library_versions() -> dict[str, str]:
    """Versions of everything that decides the numbers."""
    return dict(_library_versions())


@cache
def _library_versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("patchclamp", "torch", "transformers", "numpy", "xarray"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


@dataclass(eq=False)
class Deferred:
    """A part of a record that is costly to work out (the hash of a model's weights): done once, when first needed."""

    make: Callable[[], Any]
    _made: Any = None

    def value(self) -> Any:
        """The plain value."""
        if self._made is None:
            self._made = self.make()
        return self._made


@dataclass(frozen=True, eq=False)
class Saved:
    """What a folder holds of a result."""

    dataset: "xr.Dataset"
    record: dict[str, Any]
    tensors: dict[str, Tensor]
    parts: "dict[str, Result]"


class Result(ABC):
    """Base of every result.

    A subclass names its ``kind``, keeps its evidence in ``record`` (plain JSON: parameters, seeds, model, versions)
    and its numbers in one labelled dataset.
    """

    kind: ClassVar[str]
    record: dict[str, Any]
    tensors: "dict[str, Tensor]"
    """Tensors among the parameters (vectors of edits), to which ``record`` refers by name."""

    def __init_subclass__(cls) -> None:
        checked_methods(cls)

    @property
    @abstractmethod
    def data(self) -> "xr.DataArray | xr.Dataset":
        """The labelled numbers."""

    @abstractmethod
    def _dataset(self) -> "xr.Dataset":
        """Everything that must survive saving, as one dataset."""

    @classmethod
    @abstractmethod
    def _from_saved(cls, saved: Saved) -> Self:
        """The inverse of what ``save`` writes."""

    def _parts(self) -> "dict[str, Result]":
        """Results inside this one, saved in folders of their own."""
        return {}

    def plain_record(self) -> dict[str, Any]:
        """``record`` as plain JSON."""
        return {name: value.value() if isinstance(value, Deferred) else value for name, value in self.record.items()}

    def frame(self) -> "pd.DataFrame":
        """The data as a tidy pandas frame: one row a number, one column a dimension or coordinate."""
        import xarray as xr

        data = self.data
        table = (
            data if isinstance(data, xr.Dataset) else data.to_dataset(name="value" if data.name is None else data.name)
        )
        return table.to_dataframe().reset_index()

    def figure(self, **options: Any) -> "Figure":
        """Draw the result with matplotlib; the options are those of this kind's figure."""
        drawn: Figure = registry.figure_of(self.kind)(self, **options)
        return drawn

    def save(self, folder: Folder, **figure_options: Any) -> Path:
        """Write ``result.json``, arrays, a CSV, the figure (SVG and PNG) and ``report.html``.

        Files of an earlier result in the folder are replaced; others are left alone. ``result.json`` comes last, so a
        folder that holds it is complete.
        """
        from safetensors.torch import save_file

        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        (target / _RECORD).unlink(missing_ok=True)
        arrays, described = pack(self._dataset())
        with atomic_file(target / "arrays.safetensors") as temporary:
            save_file({name: tensor.contiguous() for name, tensor in arrays.items()}, temporary)
        (target / _TENSORS).unlink(missing_ok=True)
        if self.tensors:
            with atomic_file(target / _TENSORS) as temporary:
                save_file({name: tensor.detach().cpu().clone() for name, tensor in self.tensors.items()}, temporary)
        for name, part in self._parts().items():
            part.save(target / name)
        write_text(target / "data.csv", self.frame().to_csv(index=False))
        drawn = self.figure(**figure_options)
        for suffix in ("svg", "png"):
            with atomic_file(target / f"figure.{suffix}") as temporary:
                registry.find_name("figures.style:save")(drawn, temporary, suffix)
        write_text(target / "report.html", registry.page_of(self))
        write_json(
            target / _RECORD,
            {
                "format_version": FORMAT_VERSION,
                "kind": self.kind,
                **self.plain_record(),
                "labels": described,
                "parts": list(self._parts()),
            },
        )
        return target

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Result)
            and self.kind == other.kind
            and self.plain_record() == other.plain_record()
            and self.tensors.keys() == other.tensors.keys()
            and all(torch.equal(tensor, other.tensors[name]) for name, tensor in self.tensors.items())
            and self._dataset().identical(other._dataset())
            and self._parts() == other._parts()
        )

    __hash__ = None  # type: ignore[assignment]


checked_methods(Result)


@dataclass(eq=False)
class DatasetResult(Result):
    """A result that is one labelled dataset, saved and opened as it is."""

    dataset: "xr.Dataset"
    record: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)

    @property
    def data(self) -> "xr.DataArray | xr.Dataset":
        """The labelled numbers."""
        return self.dataset

    def _dataset(self) -> "xr.Dataset":
        return self.dataset

    @classmethod
    def _from_saved(cls, saved: Saved) -> Self:
        return cls(saved.dataset, saved.record, saved.tensors)


@checked
def open(folder: Folder) -> Result:
    """Open a saved result.

    Args:
        folder: What :meth:`Result.save` wrote.

    Raises:
        InputError: The folder holds no complete result, or one of a newer format.
    """
    from safetensors.torch import load_file

    path = Path(folder)
    if not (path / _RECORD).is_file():
        raise InputError(f"{str(path)!r} holds no complete result: {_RECORD} is missing")
    record = read_json(path / _RECORD)
    if record.get("format_version", 0) > FORMAT_VERSION:
        raise InputError(
            f"{str(path)!r} has format version {record['format_version']}; this patchclamp reads up to {FORMAT_VERSION}"
        )
    kind, described, names = record.pop("kind"), record.pop("labels"), record.pop("parts")
    record.pop("format_version")
    dataset = unpack(load_file(path / "arrays.safetensors"), described)
    tensors = load_file(path / _TENSORS) if (path / _TENSORS).is_file() else {}
    saved = Saved(dataset, record, tensors, {name: open(path / name) for name in names})
    opened: Result = registry.find(kind, "result")._from_saved(saved)
    return opened

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

from patchclamp.core import folders, registry
from patchclamp.core.arguments import checked, checked_methods
from patchclamp.core.errors import InputError, warn
from patchclamp.core.files import write_csv
from patchclamp.core.kinds import Folder
from patchclamp.core.labelled import pack, unpack
from patchclamp.core.tensors import read_tensors, write_tensors
from patchclamp.core.text import shown_literally

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.figure import Figure

FORMAT_VERSION = folders.RESULT.version
_RECORD, _ARRAYS, _TENSORS = folders.RESULT.record, "arrays.safetensors", "parameters.safetensors"
_DEEPEST = 4
"""How deep results lie in results."""


def library_versions() -> dict[str, str]:
    """Versions of everything that decides the numbers."""
    return dict(_library_versions())


@cache
def _library_versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in ("patchclamp", "torch", "transformers", "numpy", "xarray"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def record_of_arrays(parameters: dict[str, Any]) -> dict[str, Any]:
    """The record of a result that was made of the user's arrays: it says how, but the arrays are not in it."""
    return {
        "model": None,
        "prompts": [],
        "parameters": parameters,
        "resolved": {},
        "not_repeatable": "it was made of arrays, which are not in its record; only their digest is",
        "versions": library_versions(),
    }


@dataclass(eq=False)
class Deferred:
    """A part of a record that is costly to work out (the hash of a model's weights): done once, when first needed."""

    make: Callable[[], Any]
    _value: Any = None

    def value(self) -> Any:
        """The plain value."""
        if self._value is None:
            self._value = self.make()
        return self._value


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
    drawn_by: ClassVar[str] = ""
    """The module of ``figures`` that draws it, where that is not called like the kind."""
    shown_by: ClassVar[str] = ""
    """The module of ``reports`` that lays out its page, where that is not called like the kind."""
    record: dict[str, Any]
    tensors: "dict[str, Tensor]"
    """Tensors among the parameters (vectors of edits), to which ``record`` refers by name."""

    def __init_subclass__(cls) -> None:
        checked_methods(cls)
        if "kind" in vars(cls):
            registry.add(cls)
        for name in {"__repr__", "__str__"} & vars(cls).keys():
            setattr(cls, name, shown_literally(vars(cls)[name]))

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
        figure: Figure = registry.figure_of(self.kind)(self, **options)
        return figure

    def _picture(self, options: dict[str, Any]) -> "Figure | None":
        """The figure to save; None where nobody asked for a certain one and the kind's own cannot be drawn."""
        try:
            return self.figure(**options)
        except InputError as error:
            if options:
                raise
            warn(f"the result is saved without a picture: {error}")
            return None

    def save(self, folder: Folder, *, overwrite: bool = False, **figure_options: Any) -> Path:
        """Write ``result.json``, arrays, a CSV, the figure (SVG and PNG) and ``report.html``.

        The folder then holds this result, or, if anything fails, what it held before. ``result.json`` lists every file with its
        SHA-256, so a folder that is not complete is told from one that is. Files of an earlier result are replaced; others are
        left alone. Where the picture that is drawn by default would be far too large, the result is saved without, and a warning
        says so.

        Args:
            folder: The folder to write into.
            overwrite: Take the place of something else of patchclamp's too. A file in the way that is not of the earlier result,
                or was changed since, becomes ``NAME.bak``.
            **figure_options: The options of this kind's figure.

        Raises:
            InputError: Before anything is written: something else is in the way; without ``overwrite`` nothing of it is touched.
            StorageError: The disk is full, or the system refused; the folder is as it was.
        """
        folders.check(folder, folders.RESULT, overwrite=overwrite)
        arrays, description = pack(self._dataset())
        record = {
            "format_version": FORMAT_VERSION,
            "kind": self.kind,
            "module": type(self).__module__.partition(".")[2],
            **self.plain_record(),
            "labels": description,
            "parts": list(self._parts()),
        }

        figure = self._picture(figure_options)

        def write(into: Path) -> None:
            write_tensors(into / _ARRAYS, arrays)
            if self.tensors:
                write_tensors(into / _TENSORS, self.tensors)
            for name, part in self._parts().items():
                part.save(into / name)
            write_csv(into / "data.csv", self.frame())
            for suffix in ("svg", "png") if figure is not None else ():
                registry.write_figure(figure, into / f"figure.{suffix}", suffix)
            (into / "report.html").write_text(registry.page_of(self), encoding="utf-8")

        return folders.save(folder, folders.RESULT, record, write, overwrite=overwrite)

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
    def data(self) -> "xr.Dataset":
        """The labelled numbers."""
        return self.dataset

    def _dataset(self) -> "xr.Dataset":
        return self.dataset

    @classmethod
    def _from_saved(cls, saved: Saved) -> Self:
        return cls(saved.dataset, saved.record, saved.tensors)


@checked
def open(folder: Folder, *, check: bool = True) -> Result:
    """Open a saved result.

    Args:
        folder: What :meth:`Result.save` wrote.
        check: Compare every file with the SHA-256 that ``result.json`` lists. False opens a folder of which something was changed
            on purpose, as a figure by hand. Folders of version 0.1.0 list none: their bytes are not checked.

    Raises:
        InputError: The folder holds no complete result, or one of a newer format; a file was changed, is damaged or missing.
    """
    return _open(Path(folder), check, 0)


def _open(path: Path, check: bool, depth: int) -> Result:
    missing = f"{str(path)!r} holds no complete result: {_RECORD} is missing"
    with folders.opened(path, folders.RESULT, check=check, missing=missing) as record:
        digests = record.pop("files", None)
        kind, description, names = record.pop("kind"), record.pop("labels"), record.pop("parts")
        maker = registry.result_class(str(kind), str(record.pop("module", "")))
        if "resolved" not in record and "parameters" in record:  # version 0.1.0 kept both in one place
            record["resolved"] = record["parameters"]
        if digests is None and depth == 0:
            warn(
                f"{str(path)!r} was saved by patchclamp 0.1.0, which kept no digests: a damaged file in it goes unnoticed"
            )
        for name in names:
            if not folders.is_inside(name) or "/" in name or (path / name).is_symlink() or depth == _DEEPEST:
                raise ValueError(f"{name!r} cannot be a part of it")
        dataset = unpack(read_tensors(path / _ARRAYS), description)
        has_tensors = (path / _TENSORS).is_file() if digests is None else _TENSORS in digests
        tensors = read_tensors(path / _TENSORS) if has_tensors else {}
        parts = {name: _open(path / name, check and digests is None, depth + 1) for name in names}
        result: Result = maker._from_saved(Saved(dataset, record, tensors, parts))
    return result

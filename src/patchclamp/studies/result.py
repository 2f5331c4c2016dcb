"""The contract of a study: what it returns, how that is summarised as text and JSON, and how it is saved.

A study is a module with a function ``study``, which runs the experiment and returns a :class:`StudyResult`. The result says what
the experiment measured in three forms: ``summary()`` for other programs, ``text()`` for a terminal, and ``save(folder)`` for the
disk. A study declares its numbers, tables and figures (:meth:`StudyResult.files`); everything about files is here.
"""

import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import pandas as pd

import patchclamp as pc
from patchclamp.core import folders
from patchclamp.core.files import write_csv, write_json
from patchclamp.studies.drawing import save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Savable(Protocol):
    """A result or a direction: what has a folder of its own."""

    def save(self, folder: Path) -> object:
        """Write it into a folder."""


@dataclass(frozen=True)
class StudyFiles:
    """What a study leaves in its folder."""

    title: str
    """Heading of ``report.html``."""
    sections: Sequence[tuple[str, Any]]
    """These headings and contents follow the description of the experiment in the report; see :func:`patchclamp.report`."""
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    """``NAME.csv``; a name may lie in a folder, as ``tables/array``."""
    figures: Mapping[str, "Figure"] = field(default_factory=dict)
    """``NAME.svg`` and so on, in every one of ``formats``."""
    results: Mapping[str, Savable] = field(default_factory=dict)
    """Folders of their own."""
    numbers: Mapping[str, Any] = field(default_factory=dict)
    """``NAME.json``."""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    """What stands at the end of the report beside the versions of libraries."""
    formats: Sequence[str] = ("svg", "png")


class StudyResult(ABC):
    """Base of what a study returns; a subclass is a frozen dataclass of its numbers, in the study's module."""

    experiment_heading: ClassVar[str] = "The experiment"

    @abstractmethod
    def summary(self) -> dict[str, Any]:
        """The numbers, as plain JSON."""

    @abstractmethod
    def text(self) -> str:
        """The tables and what they say, for a terminal."""

    @abstractmethod
    def files(self) -> StudyFiles:
        """What is saved."""

    @classmethod
    def experiment(cls) -> str:
        """What the report says of the experiment: the docstring of the study's module, without its first line."""
        return (sys.modules[cls.__module__].__doc__ or "").split("\n\n", 1)[-1]

    def main_result(self) -> pc.Result | None:
        """The result that :func:`patchclamp.open` reads from the study's folder itself; most studies have none."""
        return None

    def save(self, folder: str | Path) -> Path:
        """Write tables, figures, results and ``report.html``; the folder then holds all of it, or what it held before.

        Raises:
            InputError: Before anything is written: something else is in the way.
            StorageError: The disk is full, or the system refused.
        """
        result = self.main_result()
        if result is None:
            folders.save_study(folder, type(self).__module__.rpartition(".")[2].replace("_", "-"), self._write)
        else:
            result.save(folder)
            folders.extend(folder, folders.RESULT, self._write)
        return Path(folder)

    def _write(self, into: Path) -> None:
        files = self.files()
        for name, result in files.results.items():
            result.save(into / name)
        for name, table in files.tables.items():
            write_csv(into / f"{name}.csv", table)
        for name, numbers in files.numbers.items():
            write_json(into / f"{name}.json", numbers)
        for name, fig in files.figures.items():
            save_figure(fig, into / name, files.formats)
        sections = [(self.experiment_heading, self.experiment()), *files.sections]
        pc.report(into / "report.html", files.title, sections, **files.evidence)


def name_of(model: pc.Model) -> str:
    """What a study calls a model: its name in the catalogue, or its class."""
    return model.source.name or type(model.module).__name__


def records(table: pd.DataFrame) -> list[dict[Any, Any]]:
    """The rows of a table as plain JSON, with None where there is no number."""
    return table.astype(object).where(table.notna(), None).to_dict("records")


def table_text(table: pd.DataFrame, digits: int = 3, absent: str = "NaN") -> str:
    """A table as text, with so many digits after the point."""
    return table.to_string(index=False, float_format=lambda value: f"{value:.{digits}f}", na_rep=absent)


def as_text(*parts: str | pd.DataFrame, digits: int = 3, absent: str = "NaN") -> str:
    """Sentences and tables below each other, as a terminal shows them."""
    return "\n".join(part if isinstance(part, str) else table_text(part, digits, absent) for part in parts)


def with_titles(tables: Mapping[str, pd.DataFrame], digits: int = 3) -> list[str]:
    """Each table below its title, after an empty line."""
    return [f"\n{title}\n{table_text(table, digits)}" for title, table in tables.items()]

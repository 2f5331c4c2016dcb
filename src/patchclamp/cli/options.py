"""Options that several verbs share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

import patchclamp as pc
from patchclamp.cli.specs import EditSpec
from patchclamp.core import folders

Dtype = Literal["auto", "float64", "float32", "bfloat16", "float16"]
Json = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON on stdout.")]


def _check_free(_: object, folder: Path | None) -> None:
    """Refuse a folder that a result cannot be saved in, before any work."""
    if folder is not None:
        folders.check(folder, folders.RESULT, *folders.COMMAND)


def _check_free_for_study(_: object, folder: Path) -> None:
    """Refuse a folder that a study cannot be saved in, before any work."""
    form = folders.form_of(folder)
    kind = form if form in (folders.STUDY, folders.RESULT) else folders.STUDY
    folders.check(folder, kind, *folders.COMMAND, "report.html")


Out = Annotated[Path | None, Parameter(help="Folder to save everything in.", validator=_check_free)]
Home = Annotated[Path, Parameter(validator=_check_free_for_study)]
StudyOut = Annotated[Home, Parameter(help="Folder for tables, pictures and the report.")]
ModelName = Annotated[str, Parameter(help="Catalogue name, Hugging Face id or folder.")]
Edits = Annotated[
    list[EditSpec] | None,
    Parameter(
        name="--edit", negative="", help="""An edit as JSON, as '{"op": "add", "token": " Rome"}'; may be repeated."""
    ),
]
Short = Annotated[EditSpec | None, Parameter(name="*", group="One edit, spelled out")]


@Parameter(name="*", group="Model")
@dataclass(frozen=True)
class Opening:
    """How to open the model."""

    dtype: Dtype = "float32"
    """Floating type to load the weights in."""
    device: str | None = None
    """Device, as cuda:0."""
    revision: str | None = None
    """Revision of a Hugging Face repository."""
    attention: Literal["eager", "sdpa"] | None = None
    """Attention implementation; eager shows attention patterns."""

    def load(self, name: str) -> "pc.Model":
        """Open a model by name."""
        return pc.load(
            name, dtype=self.dtype, device_map=self.device, revision=self.revision, attn_implementation=self.attention
        )

    def as_config(self) -> dict[str, str | None]:
        """For ``config.toml``."""
        return {"dtype": self.dtype, "device": self.device, "revision": self.revision, "attention": self.attention}


@Parameter(name="*")
@dataclass(frozen=True)
class Shared:
    """What nearly every verb takes: where to save, how to open the model, and how to print."""

    out: Out = None
    opening: Opening = Opening()
    as_json: Json = False

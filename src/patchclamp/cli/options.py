"""Options that several verbs share."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from typing_extensions import override

import patchclamp as pc
from patchclamp.cli.output import keep
from patchclamp.cli.specs import EditSpec, ReadName, reads_of
from patchclamp.core import folders

if TYPE_CHECKING:
    from patchclamp.core.result import Result

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
Strings = Annotated[list[str] | None, Parameter(negative="")]
Prompts = Annotated[list[str], Parameter(negative="")]
Source = Annotated[str, Parameter(help="The prompt whose activations are taken.")]
Into = Annotated[str, Parameter(help="The prompt that receives them.")]
PatchedSites = Annotated[
    list[str] | None, Parameter(negative="", help="Where; resid_post by default, `z.*.h*` for every head.")
]
PatchedAt = Annotated[str, Parameter(help="Position; each makes a cell a position.")]
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

    def keep(self, result: "Result", verb: str, options: dict[str, Any], **figure: Any) -> None:
        """Save a result as :func:`keep` does, with how the model was opened among the options in effect."""
        keep(result, self.out, verb, {**options, **self.opening.as_config()}, **figure)


@dataclass(frozen=True)
class _Turn:
    layers: Annotated[Literal["down", "up", "right"], Parameter(help="How the figure turns.")] = "down"


@Parameter(name="*")
@dataclass(frozen=True)
class Drawn(Shared, _Turn):
    """What verbs take whose figure has layers: how it turns, then what nearly every verb takes."""

    @override
    def keep(self, result: "Result", verb: str, options: dict[str, Any], **figure: Any) -> None:
        super().keep(result, verb, {**options, "layers": self.layers}, layers=self.layers, **figure)


@Parameter(name="*")
@dataclass(frozen=True)
class EditOptions:
    """The edits of a verb: those given as JSON or in the config, and the one spelled out as options."""

    edit: Edits = None
    short: Short = None

    @property
    def specs(self) -> list[EditSpec]:
        """The edits as they were given."""
        return [*(self.edit or []), *([self.short] if self.short is not None and self.short.op is not None else [])]

    def build(self, model: "pc.Model") -> "list[pc.Edit]":
        """The edits of a model."""
        return [spec.build(model) for spec in self.specs]


@Parameter(name="*")
@dataclass(frozen=True)
class PatchOptions:
    """How the positions of two runs correspond, and what is measured of the run that is patched."""

    align: Literal["equal", "left", "right", "ends"] = "equal"
    """How positions correspond where the prompts differ in length."""
    read: Annotated[list[ReadName] | None, Parameter(negative="")] = None
    """What to measure; the logit difference of two answers by default."""
    answer: Strings = None
    """Tokens that are read."""

    def as_options(self) -> dict[str, Any]:
        """For the method."""
        return {"align": self.align, "read": reads_of(self.read or ["logit-difference"], self.answer)}


@Parameter(name="*")
@dataclass(frozen=True)
class CellOptions:
    """How the cells of a verb are run."""

    budget: str = "1GB"
    """Memory beyond the model."""
    verify: int = 0
    """Run this many random cells again the slow way."""
    checkpoint: str | None = None
    """Folder from which interrupted work goes on."""

    def as_config(self) -> dict[str, Any]:
        """For ``config.toml``: a checkpoint is of the work, not of its result."""
        return {"budget": self.budget, "verify": self.verify}

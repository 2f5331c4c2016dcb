"""Edits, positions and reads as a command line or a TOML file can say them."""

import re
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict

import patchclamp as pc
from patchclamp.core.errors import InputError, check_choice

Operation = Literal["add", "patch", "zero", "mean", "scale", "project-out", "reflect", "clamp", "noise"]
ReadName = Literal["probability", "logit-difference", "loss", "kl", "rank", "top"]


class EditSpec(BaseModel):
    """One edit."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    op: Operation | None = None
    """What to do to the activation."""
    token: str | None = None
    """Use this token's embedding as the vector (or direction)."""
    vector: str | None = None
    """Use a vector from a safetensors file: FILE, or FILE:NAME if it holds several."""
    source: str | None = None
    """For patch and mean: the prompt whose activations are taken."""
    scale: float = 1.0
    """Multiplies the vector (add) or the activation (scale)."""
    low: float | None = None
    """For clamp."""
    high: float | None = None
    """For clamp."""
    std: float = 1.0
    """For noise: its standard deviation."""
    noise_seed: int = 0
    """For noise."""
    site: list[str] | None = None
    """Where: mlp_out (every layer), mlp_out.5, z.5.h3, or a module path with its port."""
    at: str = "all"
    """Position: last, all, each (sweeps), a number, 2:5, 'token: Spain', and in generation prompt or generated."""

    def build(self, model: "pc.Model") -> "pc.Edit":
        """The edit that this describes.

        Raises:
            InputError: The operation needs something that is not given.
        """
        from patchclamp.interventions import UNSAID

        at = position(self.at) if "at" in self.model_fields_set else UNSAID
        place: dict[str, Any] = {"site": tuple(self.site) if self.site else None, "at": at}
        if self.op == "add":
            return pc.Add(self._vector(model), self.scale, **place)
        if self.op == "patch":
            return pc.Patch(self._vector(model) if self.source is None else self.source, **place)
        if self.op == "zero":
            return pc.Zero(**place)
        if self.op == "mean":
            return pc.MeanAblate([self._source()], **place)
        if self.op == "scale":
            has_direction = self.token is not None or self.vector is not None
            return pc.Scale(self.scale, self._vector(model) if has_direction else None, **place)
        if self.op == "project-out":
            return pc.ProjectOut(self._vector(model), **place)
        if self.op == "reflect":
            return pc.Reflect(self._vector(model), **place)
        if self.op == "clamp":
            return pc.Clamp(self.low, self.high, **place)
        if self.op == "noise":
            return pc.Noise(self.std, self.noise_seed, **place)
        raise InputError(f"an edit needs an operation: --op with one of {', '.join(get_args(Operation))}")

    def _source(self) -> str:
        if self.source is None:
            raise InputError(f"--op {self.op} needs --source PROMPT")
        return self.source

    def _vector(self, model: "pc.Model") -> Any:
        if self.token is not None:
            return model.embedding(self.token)
        if self.vector is None:
            raise InputError(
                f"--op {self.op} needs a vector: --token ' Rome' (its embedding) or --vector FILE.safetensors"
            )
        path, _, name = self.vector.partition(".safetensors:")
        file = Path(f"{path}.safetensors" if name else path)
        if not file.is_file():
            raise InputError(f"the vector file {str(file)!r} does not exist")
        from patchclamp.core.tensors import read_tensors

        tensors = read_tensors(file)
        if not name and len(tensors) == 1:
            return next(iter(tensors.values()))
        check_choice(f"vector in {str(file)!r}", name, tensors)
        return tensors[name]


def position(text: str) -> Any:
    """Read a position.

    Raises:
        InputError: It is none.
    """
    if text.startswith("token:"):
        token_text, _, number = text.removeprefix("token:").partition("#")
        return pc.token(token_text, int(number) if number else None)
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    if match := re.fullmatch(r"(-?\d*):(-?\d*)", text):
        return slice(*(int(part) if part else None for part in match.groups()))
    if "," in text:
        return [position(part.strip()) for part in text.split(",")]
    return text


def reads_of(names: list[ReadName], answers: list[str] | None) -> "list[pc.Read]":
    """The reads of a command.

    Raises:
        InputError: A read needs answers that are not given.
    """
    reads: list[pc.Read] = []
    for name in names:
        if name in ("probability", "rank", "logit-difference") and not answers:
            raise InputError(f"--read {name} needs --answer, as in --answer ' Madrid' --answer ' Rome'")
        if name == "probability":
            reads.append(pc.Probability(answers))
        elif name == "rank":
            reads.append(pc.Rank(answers))
        elif name == "logit-difference":
            if len(answers or []) != 2:
                raise InputError(f"--read logit-difference needs two answers, got {len(answers or [])}")
            reads.append(pc.LogitDifference(*(answers or [])))
        else:
            reads.append({"loss": pc.Loss, "kl": pc.KL, "top": pc.TopK}[name]())
    return reads


def over_of(items: list[str] | None) -> dict[str, list[Any]]:
    """Swept parameters, given as ``scale=1,2,4``.

    Raises:
        InputError: It is not ``name=value,value``.
    """
    swept_values: dict[str, list[Any]] = {}
    for item in items or []:
        name, equals, values = item.partition("=")
        if not equals or not values:
            raise InputError(f"--over takes name=value,value, as in --over scale=1,2,4; got {item!r}")
        swept_values[name] = [_number(value) for value in values.split(",")]
    return swept_values


def _number(text: str) -> Any:
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text

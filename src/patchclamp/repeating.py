"""A saved result, made again from its folder alone."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from patchclamp import format_1, metrics
from patchclamp.core.arguments import checked
from patchclamp.core.call import is_recorded, recall
from patchclamp.core.errors import InputError, unknown
from patchclamp.core.files import read_json, reading
from patchclamp.core.kinds import Folder
from patchclamp.core.result import Result
from patchclamp.core.result import open as open_result
from patchclamp.core.text import for_terminal
from patchclamp.model import Model, load

_RECORDED = ("dtype", "revision", "attn_implementation")


@checked
def repeat(folder: Folder, model: Model | None = None) -> Result:
    """Run again what a folder holds, with the model, prompts and parameters that it records.

    Args:
        folder: What ``Result.save`` wrote.
        model: The model to use; without it the recorded one is opened by name.

    Raises:
        InputError: The folder does not say enough: a live model without a name, or an edit that could not be saved.
    """
    saved = open_result(folder)
    file, advice = Path(folder) / "result.json", "a record that says other things cannot be repeated"
    record = read_json(file)
    with reading(file, advice):
        parameters, described = record["parameters"], record["model"]
        reason = record.get("not_repeatable", parameters.get("not_repeatable"))
        if reason is not None:
            raise InputError(f"{str(folder)!r} cannot be repeated from its folder: {reason}")
    opened = model or _open(described, folder)
    with reading(file, advice):
        read = recall if "call" in record else partial(format_1.recall, saved.kind)
        again: Callable[[], Result] = read(record, saved.tensors, calls(), opened)
    return again()


def calls() -> dict[str, Callable[..., Any]]:
    """Every public function whose results say which call made them, by name."""
    public = [getattr(place, name) for place in (Model, metrics) for name in dir(place) if not name.startswith("_")]
    return {function.__name__: function for function in public if is_recorded(function)}


def _open(described: dict[str, Any], folder: Folder) -> Model:
    if described["name"] is None:
        raise InputError(
            f"{str(folder)!r} was made with a live model that has no name; pass it: pc.repeat(folder, model)"
        )
    name, options = described["name"], _options(described["options"], folder)
    sys.stderr.write(f"patchclamp: {for_terminal(announcement(folder, name))}\n")
    opened = load(name, **options)
    if described["weights_sha256"] not in (None, opened.weights_digest()):
        raise InputError(
            f"the weights of {described['name']!r} are no longer those of {str(folder)!r}; pass the model you mean"
        )
    return opened


def announcement(folder: str | Path, name: str, what: str | None = None) -> str:
    """What a folder is about to have opened: it may come from somebody else, so it is said first."""
    from patchclamp import catalogue

    if what is None:
        local = "a local folder" if Path(name).exists() else "a model of the Hugging Face hub"
        what = "a model of the catalogue" if catalogue.is_model(name) else local
    return f"{str(folder)!r} was made with {name!r}, {what}, which is opened now"


def _options(recorded: Any, folder: str | Path) -> dict[str, Any]:
    """How a model was opened. Only what :func:`patchclamp.load` records is passed on to it.

    Raises:
        InputError: The record holds something else.
    """
    if not isinstance(recorded, dict):
        raise InputError(f"{str(folder)!r} records no options of its model, but {recorded!r}")
    for name, value in recorded.items():
        if name not in _RECORDED:
            raise InputError(f"{str(folder)!r}: {unknown('recorded option of a model', name, _RECORDED)}")
        if not isinstance(value, str):
            raise InputError(f"{str(folder)!r} records {name}={value!r} of its model, which is no text")
    return recorded

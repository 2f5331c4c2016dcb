"""Where a result comes from: the call that made it, its prompts, the model, the versions of the libraries.

Every method that returns a result calls :func:`provenance` at its end; ``patchclamp.repeating`` reads it back.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from patchclamp.core.call import current_call
from patchclamp.core.plain import UnsavableError, savable_as, to_plain
from patchclamp.core.result import library_versions
from patchclamp.models.inputs import Prompt

if TYPE_CHECKING:
    from patchclamp.models.opened import OpenModel


class _Untold:
    """An input without tokens, in place of a prompt."""


def _refuse(*_: Any) -> None:
    raise UnsavableError("it holds inputs without tokens, which are recorded by their digest only", None)


savable_as("$untold", _Untold, _refuse, _refuse)


def provenance(
    model: "OpenModel",
    prompts: Sequence[Prompt],
    resolved: Mapping[str, Any] | None = None,
    /,
    **instead: Any,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The record of a result, and the tensors it refers to.

    Args:
        model: The model.
        prompts: All that was run; they also stand for the parameter ``prompts``, if the call has it.
        resolved: What the arguments came to, where the record of the call does not say it, as the measured size of noise.
        **instead: Arguments as they were read, where that is plainer than what was passed, as sites by their names.
    """
    call, tensors = current_call(), dict[str, Tensor]()
    if "prompts" in call.parameters:
        instead = {"prompts": list(prompts), **instead}
    record = call.as_record(tensors, {name: _as_passed(value) for name, value in instead.items()})
    return record | {
        "resolved": {name: to_plain(value, tensors) for name, value in (resolved or {}).items()},
        "model": model.describe(),
        "prompts": [_row(prompt, tensors) for prompt in prompts],
        "versions": library_versions(),
    }, tensors


def _as_passed(value: Any) -> Any:
    """Prompts in the form in which people pass them: text, or token ids."""
    if isinstance(value, Prompt):
        if not value.ids:
            return _Untold()
        if value.tensors:
            return value
        return list(value.ids) if value.text is None else value.text
    if isinstance(value, list | tuple):
        return [_as_passed(item) for item in value]
    return value


def _row(prompt: Prompt, tensors: dict[str, Tensor]) -> dict[str, Any]:
    if not prompt.ids:
        return {"digest": prompt.key}
    beside = {"beside": to_plain(prompt.tensors, tensors)} if prompt.tensors else {}
    return {"text": prompt.text, "ids": list(prompt.ids), **beside}

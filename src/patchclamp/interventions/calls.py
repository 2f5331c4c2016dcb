"""What a user's own call of a model says: its arguments by name, its tokens, its padding and its cache.

Called by ``stepping.py`` before every call of the module under ``model.editing`` or in a generation.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from patchclamp.core.errors import InputError
from patchclamp.interventions.decoding import effective, end_ids
from patchclamp.models.inputs import Prompt
from patchclamp.models.opened import OpenModel

NO_TOKENS = "a text without tokens"


def named_arguments(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call by name."""
    signature = inspect.signature(function)
    try:
        arguments = dict(signature.bind_partial(*args, **kwargs).arguments)
    except TypeError as error:
        raise InputError(f"the call does not fit {getattr(function, '__qualname__', function)}: {error}") from None
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            arguments |= arguments.pop(name, {})
        elif parameter.kind is inspect.Parameter.VAR_POSITIONAL and (rest := arguments.pop(name, ())):
            if len(rest) > 1:
                raise InputError(
                    "under model.editing name the arguments of a call after the first, as in attention_mask=..."
                )
            arguments["input_ids"] = rest[0]
    return arguments


def main_input(call: Mapping[str, Any], required: bool) -> Tensor | None:
    """The token ids or embeddings of a call; None for one without, of a model that needs none."""
    for name in ("input_ids", "inputs_embeds"):
        if isinstance(call.get(name), Tensor):
            tensor: Tensor = call[name]
            return tensor
    if not required:
        return None
    raise InputError("under model.editing the module must be called with input_ids or inputs_embeds")


def cache_of(call: Mapping[str, Any]) -> Any:
    """The cache or recurrent state that a call is given; None for one without."""
    cache = call.get("past_key_values")
    return call.get("cache_params") if cache is None else cache


def past_length(past: Any, default: int) -> int:
    """Positions that a cache holds; of a recurrent state, which does not say, those that earlier calls had."""
    if past is None:
        return 0
    try:
        return int(past.get_seq_length())
    except (AttributeError, ValueError):
        state = getattr(past, "has_previous_state", None)
        if state is None:
            raise InputError(
                f"under model.editing past_key_values must be a Cache, got {type(past).__name__}"
            ) from None
        return default if state() else 0


def inferred_mask(module: Any, settings: Mapping[str, Any], ids: Tensor) -> Tensor | None:
    """The mask that transformers makes where none is given: padding is what holds the pad id, if that ends no text."""
    pad, ends = effective(module, settings, "pad_token_id"), end_ids(module, settings)
    if pad is None or int(pad) in ends or not bool((ids == int(pad)).any()):
        return None
    return (ids != int(pad)).long()


def padding_of(mask: Tensor | None, count: int, total: int) -> tuple[list[int], bool]:
    """Columns of padding on the left of each row, and whether some row is padded on the right.

    Raises:
        InputError: A row is all padding, or has some inside.
    """
    if mask is None:
        return [0] * count, False
    pads, right = [], False
    for number, row in enumerate(mask.bool().tolist()):
        if not any(row):
            raise InputError(f"row {number} of attention_mask is all padding")
        first, last = row.index(True), total - row[::-1].index(True)
        if not all(row[first:last]):
            raise InputError(f"row {number} of attention_mask has padding between its tokens")
        pads.append(first)
        right |= last < total
    return pads, right


def prompts_of(model: OpenModel, inputs: Tensor, mask: Tensor | None, total: int) -> list[Prompt]:
    """The texts of a call as prompts; where tokens are not known (embeddings, a cache from elsewhere) only their number."""
    keep = torch.ones(len(inputs), total) if mask is None else mask
    if inputs.ndim == 2 and inputs.shape[1] == total:
        return model.prompts([row[real.bool()].tolist() for row, real in zip(inputs, keep, strict=True)])
    return [
        Prompt((0,) * int(real.bool().sum()), NO_TOKENS, (), {"given": row.unsqueeze(0)})
        for row, real in zip(inputs, keep, strict=True)
    ]

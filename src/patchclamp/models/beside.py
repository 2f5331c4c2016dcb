"""Inputs beside token ids: which a model takes token by token or for a whole prompt, and how a processor's mapping is read."""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from patchclamp.core.errors import InputError
from patchclamp.core.interrupts import guarded
from patchclamp.models.ids import Ids, is_id, token_ids, with_numbers
from patchclamp.models.tensors import fetch, first_tensor

ALIGNED = (
    "position_ids", "token_type_ids", "mm_token_type_ids", "moe_mm_token_type_ids", "task_type_ids", "langs", "bbox",
    "global_attention_mask", "input_shape_ids", "input_pronunciation_ids", "xpath_tags_seq", "xpath_subs_seq",
)  # fmt: skip
"""What transformers' models take beside ``input_ids`` with one entry (or vector) a token."""
_DEFAULT_VALUES: dict[str, Callable[[Tensor], Tensor]] = {
    "position_ids": lambda value: torch.arange(len(value)),
    "token_type_ids": torch.zeros_like,
}
"""The values that say nothing new: what most tokenizers give, and what most models take by themselves."""
_PROMPT_INPUT = re.compile(r"pixel|image|video|audio|input_features|feature_attention_mask|aspect_ratio|spatial_shapes")
_NOT_OF_TOKENS = ("labels", "inputs_embeds", "past_key_values", "cache_position", "head_mask", "use_cache")
_PROBE = 8


@dataclass(frozen=True, eq=False)
class Beside:
    """What a model's forward takes beside ``input_ids``."""

    model: str = "this model"
    """The name of the model's class, for messages."""
    names: tuple[str, ...] = ()
    """The names of inputs with one entry a token."""
    whole: tuple[str, ...] = ()
    """The names of inputs of a whole prompt: its pictures and sounds, and what describes them."""
    bounds: Mapping[str, int] = field(default_factory=dict)
    """The first value of an input that is too large, where it is known."""
    reads_ids: bool | None = None
    """Whether its input is token ids, and only they; None if it is not known."""
    parameters: tuple[str, ...] | None = None
    """Every input that its forward names; None if it may take any."""
    accepts_ids: bool = True
    """Whether its forward has a place for token ids."""
    needs_mask: bool = False
    """Whether its forward cannot be called without an attention mask."""
    is_default: Callable[[str], bool] = lambda _: False
    """Whether the model takes the usual values of an input when the input is missing."""

    @classmethod
    def of(cls, module: nn.Module, context: int | None, is_default: Callable[[str], bool]) -> "Beside":
        """Read a module's signature and config."""
        parameters = inspect.signature(module.forward).parameters
        config = getattr(module, "config", None)
        main_input = getattr(module, "main_input_name", None)
        others = (
            ()
            if main_input
            else tuple(n for n in parameters if n not in ("input_ids", "attention_mask", *_NOT_OF_TOKENS))
        )
        names = tuple(name for name in (ALIGNED if main_input else others) if name in parameters)
        types = getattr(config, "type_vocab_size", None)
        bounds = {"position_ids": context, "token_type_ids": types if isinstance(types, int) else None}
        mask = parameters.get("attention_mask")
        takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        return cls(
            type(module).__name__,
            names if "input_ids" in parameters else (),
            tuple(n for n in parameters if is_whole(n) and n not in names)
            if main_input == "input_ids" and "input_ids" in parameters
            else (),
            {name: bound for name, bound in bounds.items() if bound},
            main_input == "input_ids",
            None
            if takes_any and not main_input
            else tuple(name for name in parameters if name not in _NOT_OF_TOKENS[:1]),
            "input_ids" in parameters or (takes_any and main_input in (None, "input_ids")),
            mask is not None and mask.default is mask.empty,
            is_default,
        )

    def select_informative(self, extras: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Select those of one prompt's inputs that tell the model something, each ``[position, ...]``.

        Raises:
            InputError: The model does not take one, or not with such values.
        """
        inputs: dict[str, Tensor] = {}
        for name, value in extras.items():
            self._check_kind(name, value)
            is_usual = name in _DEFAULT_VALUES and torch.equal(value, _DEFAULT_VALUES[name](value).to(value))
            if is_usual and (name not in self.names or self.is_default(name)):
                continue
            if name not in self.names:
                raise InputError(f"{name} was given, and {self.model} does not take it; {self.valid}")
            self._check_range(name, value)
            inputs[name] = value
        return inputs

    def _check_kind(self, name: str, value: Tensor) -> None:
        if name in _DEFAULT_VALUES and (value.is_floating_point() or value.dtype == torch.bool):
            raise InputError(f"{name} are integers; got {str(value.dtype).removeprefix('torch.')}")

    def _check_range(self, name: str, value: Tensor) -> None:
        bound = self.bounds.get(name)
        if bound is not None and not 0 <= int(value.min()) <= int(value.max()) < bound:
            wrong = next(int(v) for v in value.flatten() if not 0 <= v < bound)
            raise InputError(f"{name} hold {wrong}, and {self.model} takes 0..{bound - 1}")

    @property
    def valid(self) -> str:
        """The inputs that may stand beside the ids, for messages."""
        return "valid: " + ", ".join(("input_ids", "attention_mask", *self.names, *self.whole))


def is_whole(name: str) -> bool:
    """Whether an input beside token ids belongs to a prompt as a whole, as its pictures do, and not to its tokens one by one."""
    return _PROMPT_INPUT.search(name) is not None and name not in ALIGNED


def read_rows(inputs: Mapping[str, Any], beside: Beside) -> list[tuple[Ids, dict[str, Tensor]]]:
    """Token ids and other inputs of every row of a mapping with ``input_ids``, without padding.

    Raises:
        InputError: An input that is not used, is not aligned with the ids, or has values that no model takes.
    """
    values_by_name = {str(name): value for name, value in inputs.items() if value is not None}
    unknown_names = sorted(
        set(values_by_name) - {"input_ids", "attention_mask", *beside.names, *beside.whole, *_DEFAULT_VALUES}
    )
    if unknown_names:
        raise InputError(
            f"inputs {unknown_names} beside input_ids are not used by a run of {beside.model}; leave them out, {beside.valid}"
        )
    single, rows = _id_rows(values_by_name.pop("input_ids"))
    has_mask = "attention_mask" in values_by_name
    masks = _align("attention_mask", values_by_name.pop("attention_mask"), rows, single) if has_mask else None
    token_slices = [_mask(row) for row in masks] if masks is not None else [slice(None)] * len(rows)
    prompt_inputs = {
        name: _of_rows(name, values_by_name.pop(name), len(rows)) for name in beside.whole if name in values_by_name
    }
    token_inputs = {name: _align(name, value, rows, single) for name, value in values_by_name.items()}
    prompts = []
    for index, (row, token_slice) in enumerate(zip(rows, token_slices, strict=True)):
        extras = beside.select_informative(
            {name: token_input[index][token_slice] for name, token_input in token_inputs.items()}
        )
        if "position_ids" in extras and has_mask:
            # without a mask transformers reads positions that start again as several texts in one row
            extras["attention_mask"] = torch.ones(len(row[token_slice]), dtype=torch.long)
        token_tensors = {name: value.unsqueeze(0).cpu().contiguous() for name, value in extras.items()}
        prompts.append(
            (row[token_slice], {**token_tensors, **{name: values[index] for name, values in prompt_inputs.items()}})
        )
    return prompts


def _of_rows(name: str, value: Any, rows: int) -> list[Tensor]:
    """What each prompt has of an input for whole prompts, with the axis along which transformers joins prompts.

    Raises:
        InputError: It is not known which part belongs to which prompt.
    """
    tensor = _tensor(name, value).cpu().contiguous()
    if rows == 1:
        return [tensor]
    if tensor.ndim == 0 or len(tensor) != rows:
        raise InputError(
            f"{name} has shape {tuple(tensor.shape)} for {rows} prompts, so it is not known which part belongs to which; pass a "
            "list of mappings, one a prompt"
        )
    return list(tensor.split(1))


def read_tensors(inputs: Mapping[str, Any], beside: Beside) -> dict[str, Tensor]:
    """The inputs of a model that is not given token ids, each with the same leading batch axis.

    Raises:
        InputError: One is no tensor or not taken, or they do not share that axis.
    """
    tensors = {str(name): _tensor(str(name), value) for name, value in inputs.items() if value is not None}
    if not tensors or (beside.reads_ids and "inputs_embeds" not in tensors):
        raise InputError(f"the mapping holds no input_ids; got {sorted(tensors)}")
    unknown_names = sorted(set(tensors) - set(beside.parameters)) if beside.parameters is not None else []
    if unknown_names:
        raise InputError(f"inputs {unknown_names} are not used by a run of {beside.model}; leave them out")
    sizes = {tensor.shape[0] if tensor.ndim else None for tensor in tensors.values()}
    if len(sizes) != 1 or None in sizes:
        raise InputError(
            f"inputs must share their leading batch axis; got { {k: tuple(v.shape) for k, v in tensors.items()} }"
        )
    return tensors


def measured_default(module: nn.Module, name: str, vocabulary: int | None, context: int | None) -> bool:
    """Whether a model gives the same numbers, to the bit, with an input's usual values as without it.

    RoBERTa counts positions from 2, and GPT-2 adds the embedding of token 0 for token type 0: there the values matter.
    """
    if not vocabulary or module.training:
        return False
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    ids = torch.tensor([[(7919 * i + 11) % vocabulary for i in range(1, min(_PROBE, context or _PROBE) + 1)]])
    usual = _DEFAULT_VALUES[name](ids[0]).unsqueeze(0)
    try:
        with guarded(torch.no_grad()):
            implicit, explicit = (module(input_ids=ids.to(device), **more) for more in ({}, {name: usual.to(device)}))
        a, b = (fetch(output, first_tensor(output) or ()) for output in (implicit, explicit))
        return torch.equal(a, b)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
        return False


def _id_rows(value: Any) -> tuple[bool, list[Ids]]:
    """Rows of ids, with their padding, and whether the value was one row without a batch axis."""
    if isinstance(value, Tensor | np.ndarray) and value.ndim not in (1, 2):
        raise InputError(f"input_ids has shape {tuple(value.shape)}; [row, position] is wanted")
    if isinstance(value, str | bytes | Mapping) or not hasattr(value, "__iter__"):
        raise InputError(f"input_ids holds {type(value).__name__}; rows of token ids are wanted")
    value = with_numbers(value, "input_ids") if isinstance(value, Tensor) else value
    rows = value.tolist() if isinstance(value, Tensor | np.ndarray) else list(value)
    if rows and all(is_id(item) for item in rows):
        return True, [token_ids(rows)]
    return False, [token_ids(row) for row in rows]


def _align(name: str, value: Any, rows: Sequence[Ids], single: bool) -> list[Tensor]:
    """Make one tensor ``[position, ...]`` a row.

    Raises:
        InputError: The shape is not that of the ids.
    """
    lengths = [len(row) for row in rows]
    is_ragged = isinstance(value, list | tuple) and not single and len(value) == len(rows)
    tensors = [_tensor(name, item) for item in value] if is_ragged else []
    if not is_ragged:
        tensor = _tensor(name, value)
        if (
            single
            and tensor.ndim
            and len(tensor) == lengths[0]
            and not (tensor.ndim > 1 and tensor.shape[:2] == (1, 1))
        ):
            tensors = [tensor]
        elif tensor.ndim > 1 and len(tensor) == 1 and name in _DEFAULT_VALUES:
            tensors = [tensor[0]] * len(rows)  # transformers broadcasts one row
        elif tensor.ndim > 1 and len(tensor) == len(rows):
            tensors = list(tensor)
    is_flat = name in ("position_ids", "attention_mask")
    if [len(item) if item.ndim else -1 for item in tensors] != lengths or (
        is_flat and any(item.ndim > 1 for item in tensors)
    ):
        shape = tuple(_tensor(name, value).shape) if not is_ragged else [tuple(item.shape) for item in tensors]
        expected = (lengths[0],) if single else (len(rows), lengths[0] if len(set(lengths)) == 1 else lengths)
        raise InputError(f"{name} has shape {shape}, input_ids {expected}; one entry a token is wanted")
    return tensors


def _mask(row: Tensor) -> slice:
    """The tokens of a row that are no padding.

    Raises:
        InputError: The mask hides all, or tokens between others, or holds something else than 0 and 1.
    """
    if not bool(((row == 0) | (row == 1)).all()):
        raise InputError(f"attention_mask holds other values than 0 (padding) and 1: {row.tolist()[:20]}")
    real_positions = row.nonzero().flatten().tolist()
    if not real_positions:
        raise InputError("a prompt is empty: its attention_mask is 0 everywhere")
    if len(real_positions) != real_positions[-1] + 1 - real_positions[0]:
        raise InputError(
            f"attention_mask hides tokens between others, {[int(v) for v in row][:20]}: a prompt is its tokens without "
            "padding on its left and right; leave the hidden ones out"
        )
    return slice(real_positions[0], real_positions[-1] + 1)


def _tensor(name: str, value: Any) -> Tensor:
    try:
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"the input {name!r} is no tensor, but {type(value).__name__}: {str(value)[:60]}") from None
    return with_numbers(tensor, f"the input {name!r}")

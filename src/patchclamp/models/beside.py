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
_USUAL: dict[str, Callable[[Tensor], Tensor]] = {
    "position_ids": lambda value: torch.arange(len(value)),
    "token_type_ids": torch.zeros_like,
}
"""The values that say nothing new: what most tokenizers give, and what most models take by themselves."""
_WHOLE = re.compile(r"pixel|image|video|audio|input_features|feature_attention_mask|aspect_ratio|spatial_shapes")
_NOT_OF_TOKENS = ("labels", "inputs_embeds", "past_key_values", "cache_position", "head_mask", "use_cache")
_PROBE = 8


@dataclass(frozen=True, eq=False)
class Beside:
    """What a model's forward takes beside ``input_ids``."""

    model: str = "this model"
    """Its class, for messages."""
    names: tuple[str, ...] = ()
    """Inputs with one entry a token."""
    whole: tuple[str, ...] = ()
    """Inputs of a whole prompt: its pictures and sounds, and what is said of them."""
    bounds: Mapping[str, int] = field(default_factory=dict)
    """The first value that is too large, where it is known."""
    reads_ids: bool | None = None
    """Whether its input is token ids, and only they; None if it is not known."""
    parameters: tuple[str, ...] | None = None
    """Every input that its forward names; None if it may take any."""
    accepts_ids: bool = True
    """Whether its forward has a place for token ids."""
    needs_mask: bool = False
    """Whether its forward cannot be called without an attention mask."""
    is_default: Callable[[str], bool] = lambda _: False
    """Whether the usual values of an input are what the model takes when it is not given."""

    @classmethod
    def of(cls, module: nn.Module, context: int | None, is_default: Callable[[str], bool]) -> "Beside":
        """Read a module's signature and config."""
        taken = inspect.signature(module.forward).parameters
        config = getattr(module, "config", None)
        own = getattr(module, "main_input_name", None)
        others = () if own else tuple(n for n in taken if n not in ("input_ids", "attention_mask", *_NOT_OF_TOKENS))
        names = tuple(name for name in (ALIGNED if own else others) if name in taken)
        types = getattr(config, "type_vocab_size", None)
        bounds = {"position_ids": context, "token_type_ids": types if isinstance(types, int) else None}
        mask = taken.get("attention_mask")
        anything = any(p.kind is p.VAR_KEYWORD for p in taken.values())
        return cls(
            type(module).__name__,
            names if "input_ids" in taken else (),
            tuple(n for n in taken if is_whole(n) and n not in names)
            if own == "input_ids" and "input_ids" in taken
            else (),
            {name: bound for name, bound in bounds.items() if bound},
            own == "input_ids",
            None if anything and not own else tuple(name for name in taken if name not in _NOT_OF_TOKENS[:1]),
            "input_ids" in taken or (anything and own in (None, "input_ids")),
            mask is not None and mask.default is mask.empty,
            is_default,
        )

    def kept(self, extras: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those of one prompt's inputs that tell the model something, each ``[position, ...]``.

        Raises:
            InputError: The model does not take one, or not with such values.
        """
        found: dict[str, Tensor] = {}
        for name, value in extras.items():
            self._check_kind(name, value)
            usual = name in _USUAL and torch.equal(value, _USUAL[name](value).to(value))
            if usual and (name not in self.names or self.is_default(name)):
                continue
            if name not in self.names:
                raise InputError(f"{name} was given, and {self.model} does not take it; {self.valid}")
            self._check_range(name, value)
            found[name] = value
        return found

    def _check_kind(self, name: str, value: Tensor) -> None:
        if name in _USUAL and (value.is_floating_point() or value.dtype == torch.bool):
            raise InputError(f"{name} are integers; got {str(value.dtype).removeprefix('torch.')}")

    def _check_range(self, name: str, value: Tensor) -> None:
        bound = self.bounds.get(name)
        if bound is not None and not 0 <= int(value.min()) <= int(value.max()) < bound:
            wrong = next(int(v) for v in value.flatten() if not 0 <= v < bound)
            raise InputError(f"{name} hold {wrong}, and {self.model} takes 0..{bound - 1}")

    @property
    def valid(self) -> str:
        """What may stand beside the ids, for messages."""
        return "valid: " + ", ".join(("input_ids", "attention_mask", *self.names, *self.whole))


def is_whole(name: str) -> bool:
    """Whether an input beside token ids belongs to a prompt as a whole, as its pictures do, and not to its tokens one by one."""
    return _WHOLE.search(name) is not None and name not in ALIGNED


def read_rows(inputs: Mapping[str, Any], beside: Beside) -> list[tuple[Ids, dict[str, Tensor]]]:
    """Token ids and other inputs of every row of a mapping with ``input_ids``, without padding.

    Raises:
        InputError: An input that is not used, is not aligned with the ids, or has values that no model takes.
    """
    given = {str(name): value for name, value in inputs.items() if value is not None}
    extra = sorted(set(given) - {"input_ids", "attention_mask", *beside.names, *beside.whole, *_USUAL})
    if extra:
        raise InputError(
            f"inputs {extra} beside input_ids are not used by a run of {beside.model}; leave them out, {beside.valid}"
        )
    single, rows = _id_rows(given.pop("input_ids"))
    masked = "attention_mask" in given
    masks = _aligned("attention_mask", given.pop("attention_mask"), rows, single) if masked else None
    keep = [_mask(row) for row in masks] if masks is not None else [slice(None)] * len(rows)
    parts = {name: _of_rows(name, given.pop(name), len(rows)) for name in beside.whole if name in given}
    columns = {name: _aligned(name, value, rows, single) for name, value in given.items()}
    found = []
    for index, (row, part) in enumerate(zip(rows, keep, strict=True)):
        extras = beside.kept({name: column[index][part] for name, column in columns.items()})
        if "position_ids" in extras and masked:
            # without a mask transformers reads positions that start again as several texts in one row
            extras["attention_mask"] = torch.ones(len(row[part]), dtype=torch.long)
        aligned = {name: value.unsqueeze(0).cpu().contiguous() for name, value in extras.items()}
        found.append((row[part], {**aligned, **{name: values[index] for name, values in parts.items()}}))
    return found


def _of_rows(name: str, value: Any, rows: int) -> list[Tensor]:
    """What each prompt has of an input for whole prompts, with the axis along which transformers joins prompts.

    Raises:
        InputError: It is not known which part belongs to which prompt.
    """
    whole = _tensor(name, value).cpu().contiguous()
    if rows == 1:
        return [whole]
    if whole.ndim == 0 or len(whole) != rows:
        raise InputError(
            f"{name} has shape {tuple(whole.shape)} for {rows} prompts, so it is not known which part belongs to which; pass a "
            "list of mappings, one a prompt"
        )
    return list(whole.split(1))


def read_tensors(inputs: Mapping[str, Any], beside: Beside) -> dict[str, Tensor]:
    """The inputs of a model that is not given token ids, each with the same leading batch axis.

    Raises:
        InputError: One is no tensor or not taken, or they do not share that axis.
    """
    given = {str(name): _tensor(str(name), value) for name, value in inputs.items() if value is not None}
    if not given or (beside.reads_ids and "inputs_embeds" not in given):
        raise InputError(f"the mapping holds no input_ids; got {sorted(given)}")
    extra = sorted(set(given) - set(beside.parameters)) if beside.parameters is not None else []
    if extra:
        raise InputError(f"inputs {extra} are not used by a run of {beside.model}; leave them out")
    sizes = {tensor.shape[0] if tensor.ndim else None for tensor in given.values()}
    if len(sizes) != 1 or None in sizes:
        raise InputError(
            f"inputs must share their leading batch axis; got { {k: tuple(v.shape) for k, v in given.items()} }"
        )
    return given


def measured_default(module: nn.Module, name: str, vocabulary: int | None, context: int | None) -> bool:
    """Whether a model gives the same numbers, to the bit, with an input's usual values as without it.

    RoBERTa counts positions from 2, and GPT-2 adds the embedding of token 0 for token type 0: there the values matter.
    """
    if not vocabulary or module.training:
        return False
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    ids = torch.tensor([[(7919 * i + 11) % vocabulary for i in range(1, min(_PROBE, context or _PROBE) + 1)]])
    usual = _USUAL[name](ids[0]).unsqueeze(0)
    try:
        with guarded(torch.no_grad()):
            plain, given = (module(input_ids=ids.to(device), **more) for more in ({}, {name: usual.to(device)}))
        a, b = (fetch(output, first_tensor(output) or ()) for output in (plain, given))
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


def _aligned(name: str, value: Any, rows: Sequence[Ids], single: bool) -> list[Tensor]:
    """One ``[position, ...]`` a row.

    Raises:
        InputError: The shape is not that of the ids.
    """
    lengths = [len(row) for row in rows]
    ragged = isinstance(value, list | tuple) and not single and len(value) == len(rows)
    found = [_tensor(name, item) for item in value] if ragged else []
    if not ragged:
        whole = _tensor(name, value)
        if single and whole.ndim and len(whole) == lengths[0] and not (whole.ndim > 1 and whole.shape[:2] == (1, 1)):
            found = [whole]
        elif whole.ndim > 1 and len(whole) == 1 and name in _USUAL:
            found = [whole[0]] * len(rows)  # transformers broadcasts one row
        elif whole.ndim > 1 and len(whole) == len(rows):
            found = list(whole)
    flat = name in ("position_ids", "attention_mask")
    if [len(item) if item.ndim else -1 for item in found] != lengths or (flat and any(item.ndim > 1 for item in found)):
        shown = tuple(_tensor(name, value).shape) if not ragged else [tuple(item.shape) for item in found]
        wanted = (lengths[0],) if single else (len(rows), lengths[0] if len(set(lengths)) == 1 else lengths)
        raise InputError(f"{name} has shape {shown}, input_ids {wanted}; one entry a token is wanted")
    return found


def _mask(row: Tensor) -> slice:
    """The tokens of a row that are no padding.

    Raises:
        InputError: The mask hides all, or tokens between others, or holds something else than 0 and 1.
    """
    if not bool(((row == 0) | (row == 1)).all()):
        raise InputError(f"attention_mask holds other values than 0 (padding) and 1: {row.tolist()[:20]}")
    real = row.nonzero().flatten().tolist()
    if not real:
        raise InputError("a prompt is empty: its attention_mask is 0 everywhere")
    if len(real) != real[-1] + 1 - real[0]:
        raise InputError(
            f"attention_mask hides tokens between others, {[int(v) for v in row][:20]}: a prompt is its tokens without "
            "padding on its left and right; leave the hidden ones out"
        )
    return slice(real[0], real[-1] + 1)


def _tensor(name: str, value: Any) -> Tensor:
    try:
        found = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"the input {name!r} is no tensor, but {type(value).__name__}: {str(value)[:60]}") from None
    return with_numbers(found, f"the input {name!r}")

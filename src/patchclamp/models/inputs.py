"""Prompts: whatever the user passes, as a list of unpadded rows; and batches made of them again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from patchclamp.core.digest import digest
from patchclamp.core.errors import InputError
from patchclamp.models import tokens


@dataclass(frozen=True, eq=False)
class Prompt:
    """One input of a model, without padding: token ids, or tensors for models that take no tokens."""

    ids: tuple[int, ...] = ()
    text: str | None = None
    tokens: tuple[str, ...] = ()
    """Each position as text."""
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    """Other inputs of this row, each with a leading axis of size 1; '0' is the first positional argument."""

    @property
    def length(self) -> int | None:
        """Number of positions, if the prompt is made of tokens."""
        return len(self.ids) or None

    @property
    def name(self) -> str:
        """How the prompt is called in results."""
        if self.text is not None:
            return self.text
        return "".join(self.tokens) if self.ids else f"input {self.key}"

    @cached_property
    def key(self) -> str:
        """Content digest: equal inputs, equal keys."""
        return digest(self.ids, dict(self.tensors))


@dataclass(frozen=True, eq=False)
class Batch:
    """Several prompts in one call of the model, padded on the right where their lengths differ."""

    args: tuple[Tensor, ...]
    kwargs: dict[str, Tensor]
    lengths: tuple[int | None, ...]

    @property
    def rows(self) -> int:
        """How many prompts."""
        return len(self.lengths)

    @property
    def width(self) -> int | None:
        """Positions of the longest prompt, if prompts are made of tokens."""
        return max((n for n in self.lengths if n is not None), default=None)


def make_prompts(
    inputs: Any, tokenizer: Any, limit: int | None, vocabulary: int | None, takes_ids: bool = True
) -> list[Prompt]:
    """Read the user's inputs: text, lists of text, ids, tensors, a BatchEncoding or another mapping of tensors.

    Args:
        inputs: What the user passed.
        tokenizer: The model's tokenizer, or None.
        limit: The model's context length.
        vocabulary: Size of the vocabulary, to check ids.
        takes_ids: Whether the model reads token ids (else integer tensors are plain inputs).

    Raises:
        InputError: Empty, too long, out of the vocabulary, or of a kind that no model takes.
    """
    if isinstance(inputs, Prompt):
        prompts = [inputs]
    elif isinstance(inputs, str):
        prompts = [_from_text(inputs, tokenizer)]
    elif isinstance(inputs, Mapping):
        prompts = _from_mapping(inputs, tokenizer)
    elif isinstance(inputs, Tensor):
        prompts = _from_tensor(inputs, tokenizer, takes_ids)
    elif isinstance(inputs, Sequence):
        prompts = _from_sequence(inputs, tokenizer, takes_ids)
    else:
        raise InputError(f"a prompt is text, token ids, tensors or a BatchEncoding; got {type(inputs).__name__}")
    if not prompts:
        raise InputError("no prompt was given: the list of prompts is empty")
    for prompt in prompts:
        _check(prompt, limit, vocabulary)
    return prompts


def _check(prompt: Prompt, limit: int | None, vocabulary: int | None) -> None:
    if not prompt.ids:
        return
    if limit is not None and len(prompt.ids) > limit:
        raise InputError(
            f"the prompt {prompt.name[:60]!r}... has {len(prompt.ids)} tokens; the model's context is {limit}"
        )
    if vocabulary is not None and not 0 <= min(prompt.ids) <= max(prompt.ids) < vocabulary:
        wrong = next(i for i in prompt.ids if not 0 <= i < vocabulary)
        raise InputError(f"token id {wrong} is outside the vocabulary 0..{vocabulary - 1}")


def _from_text(text: str, tokenizer: Any) -> Prompt:
    ids = tokens.encode(tokenizer, text)
    return Prompt(tuple(ids), text, tokens.labels(tokenizer, ids))


def _from_ids(ids: Sequence[int], tokenizer: Any) -> Prompt:
    if not ids:
        raise InputError("a prompt is empty: it has no token ids")
    row = tuple(int(i) for i in ids)
    return Prompt(row, None, tokens.labels(tokenizer, row))


def _from_sequence(inputs: Sequence[Any], tokenizer: Any, takes_ids: bool) -> list[Prompt]:
    if inputs and all(isinstance(item, int) for item in inputs):
        return [_from_ids(inputs, tokenizer)]
    prompts: list[Prompt] = []
    for item in inputs:
        if isinstance(item, Prompt):
            prompts.append(item)
        elif isinstance(item, str):
            prompts.append(_from_text(item, tokenizer))
        elif isinstance(item, Tensor):
            prompts += _from_tensor(item, tokenizer, takes_ids)
        elif isinstance(item, Sequence) and all(isinstance(i, int) for i in item):
            prompts.append(_from_ids(item, tokenizer))
        else:
            raise InputError(f"a prompt is text, token ids or a tensor; the list holds a {type(item).__name__}")
    return prompts


def _from_tensor(tensor: Tensor, tokenizer: Any, takes_ids: bool) -> list[Prompt]:
    if tensor.numel() == 0:
        raise InputError(f"a prompt is empty: its tensor has shape {tuple(tensor.shape)}")
    if takes_ids and not tensor.is_floating_point():
        rows = tensor.unsqueeze(0) if tensor.ndim == 1 else tensor
        return [_from_ids(row, tokenizer) for row in rows.tolist()]
    if tensor.ndim < 2:
        raise InputError(
            f"inputs have a leading batch axis; got shape {tuple(tensor.shape)} (one input: x.unsqueeze(0))"
        )
    return [Prompt(tensors={"0": row.unsqueeze(0)}) for row in tensor]


def _from_mapping(inputs: Mapping[str, Any], tokenizer: Any) -> list[Prompt]:
    given = {name: torch.as_tensor(value) for name, value in inputs.items() if value is not None}
    if "input_ids" not in given:
        sizes = {tensor.shape[0] for tensor in given.values()}
        if len(sizes) != 1:
            raise InputError(
                f"inputs must share their leading batch axis; got { {k: tuple(v.shape) for k, v in given.items()} }"
            )
        return [Prompt(tensors={k: v[i : i + 1] for k, v in given.items()}) for i in range(sizes.pop())]
    extra = sorted(set(given) - {"input_ids", "attention_mask", "token_type_ids", "position_ids"})
    if extra:
        raise InputError(f"inputs {extra} beside input_ids are not supported; valid: input_ids, attention_mask")
    ids = torch.atleast_2d(given["input_ids"])
    mask = torch.atleast_2d(given.get("attention_mask", torch.ones_like(ids))).bool()
    if mask.shape != ids.shape:
        raise InputError(f"attention_mask has shape {tuple(mask.shape)}, input_ids {tuple(ids.shape)}")
    return [_from_ids(row[keep].tolist(), tokenizer) for row, keep in zip(ids, mask, strict=True)]


def make_batch(prompts: Sequence[Prompt], device: torch.device, dtype: torch.dtype | None) -> Batch:
    """One call's worth of prompts.

    Token prompts are padded on the right, where padding cannot reach a causal model's real positions, so it needs no
    mask. (Prompts of a model that looks both ways are never batched with others of another length.)

    Args:
        prompts: All of tokens, or all of tensors of equal shapes.
        device: Where the model is.
        dtype: The model's floating dtype, for tensor inputs.
    """
    if prompts[0].ids:
        width = max(len(prompt.ids) for prompt in prompts)
        ids = torch.zeros(len(prompts), width, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt.ids)] = torch.tensor(prompt.ids)
        return Batch((), {"input_ids": ids.to(device)}, tuple(len(prompt.ids) for prompt in prompts))
    merged: dict[str, Tensor] = {}
    for name in prompts[0].tensors:
        value = torch.cat([prompt.tensors[name] for prompt in prompts]).to(device)
        merged[name] = value.to(dtype) if dtype is not None and value.is_floating_point() else value
    args = tuple(merged.pop(name) for name in sorted(n for n in merged if n.isdigit()))
    return Batch(args, merged, (None,) * len(prompts))

"""Prompts: whatever the user passes, as a list of unpadded rows; and batches made of them again."""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from patchclamp.core.digest import digest
from patchclamp.core.errors import InputError
from patchclamp.core.plain import savable
from patchclamp.models import tokens
from patchclamp.models.beside import Beside, is_whole, read_rows, read_tensors
from patchclamp.models.ids import Ids, is_id, token_ids, with_numbers


@savable
@dataclass(frozen=True, eq=False)
class Prompt:
    """One input of a model, without padding: token ids, or tensors for models that take no tokens."""

    ids: tuple[int, ...] = ()
    text: str | None = None
    tokens: tuple[str, ...] = ()
    """The token of each position as text."""
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    """Other inputs of this row. Beside ids those with one entry a token, ``[1, position, ...]``, and those of the whole prompt
    (its pictures), which calls join along their first axis; without ids the whole input, with a leading axis of size 1, where
    '0' is the first positional argument."""

    @property
    def length(self) -> int | None:
        """The number of positions, if the prompt is made of tokens."""
        return len(self.ids) or None

    @property
    def name(self) -> str:
        """The name of the prompt in results."""
        if self.text is not None:
            return self.text
        return "".join(self.tokens) if self.ids else f"input {self.key}"

    @property
    def form(self) -> tuple[Any, ...]:
        """The lengths and types of the inputs: prompts of equal form can be rows of one call without padding."""
        parts = sorted((name, tuple(t.shape), str(t.dtype)) for name, t in self.tensors.items())
        return (len(self.ids), *parts)

    def head(self, length: int) -> "Prompt":
        """The first tokens as a prompt of their own."""
        extras = {name: value if is_whole(name) else value[:, :length] for name, value in self.tensors.items()}
        return Prompt(self.ids[:length], None, self.tokens[:length], extras)

    @cached_property
    def key(self) -> str:
        """A digest of the content: equal inputs have equal keys."""
        return digest(self.ids, dict(self.tensors))


@dataclass(frozen=True, eq=False)
class Batch:
    """Several prompts in one call of the model, padded on the right where their lengths differ."""

    args: tuple[Tensor, ...]
    kwargs: dict[str, Tensor]
    lengths: tuple[int | None, ...]

    @property
    def rows(self) -> int:
        """The number of prompts."""
        return len(self.lengths)

    @property
    def width(self) -> int | None:
        """The number of positions of the longest prompt, if prompts are made of tokens."""
        return max((n for n in self.lengths if n is not None), default=None)


def make_prompts(
    inputs: Any,
    tokenizer: Any,
    limit: int | None,
    vocabulary: int | None,
    takes_ids: bool = True,
    beside: Beside | None = None,
) -> list[Prompt]:
    """Read the user's inputs: text, lists of text, ids, tensors, a BatchEncoding or another mapping of tensors.

    Args:
        inputs: The prompts as the user passed them.
        tokenizer: The model's tokenizer, or None.
        limit: The model's context length.
        vocabulary: The size of the vocabulary, to check ids.
        takes_ids: Whether the model reads token ids (else integer tensors are plain inputs).
        beside: The inputs that the model takes beside token ids; by default none.

    Raises:
        InputError: Empty, too long, out of the vocabulary, of a kind that no model takes, or not used by this one.
    """
    prompts = _Reader(tokenizer, limit, vocabulary, takes_ids, beside or Beside()).read(inputs)
    if not prompts:
        raise InputError("no prompt was given: the list of prompts is empty (a generator gives its prompts only once)")
    if len({bool(prompt.ids) for prompt in prompts}) > 1:
        raise InputError("some prompts are token ids and others are tensors; one call takes one kind")
    return prompts


@dataclass(frozen=True, eq=False)
class _Reader:
    """Reads prompts for one model."""

    tokenizer: Any
    limit: int | None
    vocabulary: int | None
    takes_ids: bool
    beside: Beside

    def read(self, inputs: Any) -> list[Prompt]:
        if isinstance(inputs, Prompt | str | Mapping | Tensor | np.ndarray | np.generic):
            return self._item(inputs)
        if isinstance(inputs, bytes | bytearray | memoryview | Set) or not isinstance(inputs, Iterable):
            raise InputError(f"a prompt is text, token ids, tensors or a BatchEncoding; got {type(inputs).__name__}")
        items = list(inputs)
        if any(is_id(item) for item in items):
            return [self._ids(items)]
        return [prompt for item in items for prompt in self._item(item)]

    def _item(self, item: Any) -> list[Prompt]:
        """Read one prompt, or the rows of a tensor or mapping."""
        if isinstance(item, Prompt):
            self._check(item.ids, item.tensors)
            return [item]
        if isinstance(item, str):
            return [self._text(str(item))]
        if isinstance(item, Mapping):
            return self._mapping(item)
        if isinstance(item, np.ndarray) and item.dtype.kind in "biuf":
            return self._tensor(torch.as_tensor(item))
        if isinstance(item, np.ndarray) and item.ndim:
            return self.read(item.tolist())
        if isinstance(item, Tensor):
            return self._tensor(item)
        single = isinstance(item, np.ndarray) or is_id(item) or not isinstance(item, Iterable)
        if single or isinstance(item, bytes | bytearray | memoryview | Set):
            raise InputError(
                f"a prompt is text, token ids or a tensor; the list holds a {type(item).__name__}: {item!r:.60}"
            )
        row = list(item)
        if any(isinstance(part, str) for part in row):
            raise InputError(
                f"a row of token ids holds text, {row!r:.80}; a pair of texts is one prompt when the tokenizer joins it: pass "
                "tokenizer(a, b)"
            )
        return [self._ids(row)]

    def _text(self, text: str) -> Prompt:
        ids, encoding = tokens.encode_all(self.tokenizer, text)
        # zeros from the tokenizer mean one segment, which is what a model takes without them
        token_inputs = {name: torch.as_tensor(value) for name, value in encoding.items() if name in self.beside.names}
        extras = {name: value for name, value in token_inputs.items() if name != "token_type_ids" or bool(value.any())}
        inputs = self.beside.select_informative(extras) if extras else {}
        return self._prompt(tuple(ids), text, {name: value.unsqueeze(0) for name, value in inputs.items()})

    def _ids(self, row: Any) -> Prompt:
        return self._prompt(token_ids(row), None, {})

    def _tensor(self, tensor: Tensor) -> list[Prompt]:
        tensor = with_numbers(tensor, "a prompt")
        if tensor.numel() == 0:
            raise InputError(f"a prompt is empty: its tensor has shape {tuple(tensor.shape)}")
        if self.takes_ids and (self.beside.reads_ids or not tensor.is_floating_point()):
            if tensor.ndim not in (1, 2) or tensor.is_floating_point() or tensor.dtype == torch.bool:
                kind = str(tensor.dtype).removeprefix("torch.")
                raise InputError(
                    f"{self.beside.model} takes token ids, integers of shape [row, position]; got {kind} of shape "
                    f"{tuple(tensor.shape)}"
                )
            return [self._ids(row) for row in torch.atleast_2d(tensor).tolist()]
        if tensor.ndim < 2:
            raise InputError(
                f"inputs have a leading batch axis; got shape {tuple(tensor.shape)} (one input: x.unsqueeze(0))"
            )
        return [Prompt(tensors={"0": row.unsqueeze(0)}) for row in tensor]

    def _mapping(self, inputs: Mapping[Any, Any]) -> list[Prompt]:
        if bad_names := [name for name in inputs if not isinstance(name, str)]:
            raise InputError(
                f"inputs in a mapping have names, as 'input_ids'; got {bad_names[0]!r} of {type(bad_names[0]).__name__}"
            )
        if inputs.get("input_ids") is not None:
            return [self._prompt(ids, None, extras) for ids, extras in read_rows(inputs, self.beside)]
        tensors = read_tensors(inputs, self.beside)
        return [
            Prompt(tensors={k: v[i : i + 1] for k, v in tensors.items()})
            for i in range(len(next(iter(tensors.values()))))
        ]

    def _prompt(self, ids: Ids, text: str | None, extras: Mapping[str, Tensor]) -> Prompt:
        """Make a prompt, whose ids are checked before they become labels."""
        self._check(ids, extras)
        return Prompt(ids, text, tokens.labels(self.tokenizer, ids), extras)

    def _check(self, ids: Ids, extras: Mapping[str, Tensor]) -> None:
        if not ids:
            return
        if not self.beside.accepts_ids:
            raise InputError(f"{self.beside.model} takes no token ids: its forward has no input_ids; pass a tensor")
        if unknown_names := sorted(set(extras) - {"attention_mask", *self.beside.names, *self.beside.whole}):
            raise InputError(
                f"the prompt holds {unknown_names}, which {self.beside.model} does not take; {self.beside.valid}"
            )
        most = self.vocabulary or 2**63
        if not 0 <= min(ids) <= max(ids) < most:
            wrong = next(i for i in ids if not 0 <= i < most)
            raise InputError(f"token id {wrong} is outside the vocabulary 0..{most - 1}")
        if self.limit is not None and len(ids) > self.limit:
            beginning = "".join(tokens.labels(self.tokenizer, ids[:20]))[:60]
            raise InputError(f"the prompt {beginning!r}... has {len(ids)} tokens; the model's context is {self.limit}")


def make_batch(prompts: Sequence[Prompt], device: torch.device, dtype: torch.dtype | None) -> Batch:
    """Put prompts into one call of the model.

    Token prompts are padded on the right, where padding cannot reach a causal model's real positions, so it needs no
    mask. (Prompts of a model that looks both ways, and those with inputs beside their ids, are never batched with others
    of another form.)

    Args:
        prompts: The prompts, all of them token ids or all of them tensors of equal shapes.
        device: The device of the model.
        dtype: The model's floating dtype, for tensor inputs and pictures; None to leave them as they are.
    """

    def join(name: str) -> Tensor:
        value = torch.cat([prompt.tensors[name] for prompt in prompts]).to(device)
        return value.to(dtype) if dtype is not None and value.is_floating_point() else value

    if prompts[0].ids:
        width = max(len(prompt.ids) for prompt in prompts)
        ids = torch.zeros(len(prompts), width, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt.ids)] = torch.tensor(prompt.ids)
        extras = {name: join(name) for name in prompts[0].tensors}
        return Batch((), {"input_ids": ids.to(device), **extras}, tuple(len(prompt.ids) for prompt in prompts))
    tensors = {name: join(name) for name in prompts[0].tensors}
    args = tuple(tensors.pop(name) for name in sorted(n for n in tensors if n.isdigit()))
    return Batch(args, tensors, (None,) * len(prompts))

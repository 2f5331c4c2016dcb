"""Where in a prompt: always positions of the unpadded prompt, whatever the batch looks like.

``at=`` of edits, reads and recordings is read here when a call is made, and resolved once its prompts are known.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from torch import Tensor

from patchclamp.core.arguments import checked_as
from patchclamp.core.errors import PositionError, unknown
from patchclamp.core.plain import savable, savable_as
from patchclamp.core.readers import Rule, UnfitError, shown, tensor
from patchclamp.models import tokens
from patchclamp.models.ids import is_id
from patchclamp.models.inputs import Prompt

WORDS = ("last", "all", "rest", "each", "prompt", "generated")
"""``"rest"`` is every position but the first, where attention sinks lie; of an input without tokens it is every one."""
GENERATED = -(10**9)
"""Stands for every position after the prompt, in a generation."""


class Unsaid(str):
    """A place that an edit has by default and nobody said: it holds until a sweep says another."""

    __slots__ = ()


UNSAID = Unsaid("all")
savable_as("$unsaid", Unsaid, lambda value, _: str(value), lambda plain, *_: Unsaid(plain))


@savable
@dataclass(frozen=True)
class Token:
    """The tokens that a string covers; see :func:`token`."""

    text: str
    occurrence: int | None = None


@savable
@dataclass(frozen=True)
class PerPrompt:
    """One position (or span, or list) for each prompt of the call."""

    each: tuple[Any, ...]


@checked_as(PositionError)
def token(text: str, occurrence: int | None = None) -> Token:
    """The span of tokens that ``text`` covers in a prompt.

    Args:
        text: A string of the prompt whose ends fall on token borders, as ``" Spain"``.
        occurrence: Which one, from 0 (negative: from the end), where it stands several times; without it an ambiguous string is
            an error.
    """
    if not text:
        raise PositionError("pc.token('') covers no token: the text is empty")
    return Token(text, occurrence)


@checked_as(PositionError)
def per_prompt(each: Sequence[Any]) -> PerPrompt:
    """One position, span or list for each prompt, in the order of the prompts; in a read, one answer for each."""
    return PerPrompt(tuple(each))


def read_at(at: Any) -> Any:
    """Positions as the user wrote them, in plain numbers: arrays, tensors and ranges become lists.

    Raises:
        PositionError: It is no position at all, whatever the prompt; the message has the valid forms.
    """
    try:
        return _read_at(at)
    except RecursionError:
        raise PositionError("the list of positions holds itself, or lists too deep to read") from None


def _read_at(at: Any) -> Any:
    if isinstance(at, PerPrompt):
        if not at.each:
            raise PositionError("pc.per_prompt([]) holds no position")
        if any(isinstance(item, PerPrompt) for item in at.each):
            raise PositionError("pc.per_prompt holds another pc.per_prompt; give one position, span or list a prompt")
        return PerPrompt(tuple(_read_at(item) for item in at.each))
    if isinstance(at, str):
        if at not in WORDS:
            raise PositionError(
                unknown("position", at, WORDS)
                + f"; or an int, a slice, a string's tokens as pc.token({at!r}), a list, pc.per_prompt([...])"
            )
        return at if isinstance(at, Unsaid) else str(at)
    if isinstance(at, slice):
        return _slice(at)
    if isinstance(at, Token):
        return at
    if is_id(at):
        return int(at)
    many = _as_list(at) if isinstance(at, np.ndarray | Tensor) else at
    if isinstance(many, list | tuple | range):
        if not len(many):
            raise PositionError("the list of positions is empty")
        if any(isinstance(item, PerPrompt) for item in many):
            raise PositionError("a list of positions holds pc.per_prompt, which stands alone")
        return [_read_at(item) for item in many]
    raise PositionError(
        f"{shown(at)} is no position; valid: int, slice, {', '.join(WORDS)}, pc.token, a list, pc.per_prompt"
    )


def _as_list(at: Any) -> Any:
    """The entries of an array with one axis; anything else as it is."""
    try:
        return tensor(at).tolist() if at.ndim == 1 else at
    except UnfitError:
        return at


def _slice(at: slice) -> slice:
    ends = (at.start, at.stop, at.step)
    if any(end is not None and not is_id(end) for end in ends):
        raise PositionError(f"{at} is no position: a slice has whole numbers")
    plain = slice(*(None if end is None else int(end) for end in ends))
    if plain.step == 0:
        raise PositionError(f"{at} is no position: the step of a slice is not 0")
    return plain


At = Annotated[Any, Rule("a position", read_at)]
"""Positions, as the user writes them."""


def resolve(
    at: Any,
    prompt: Prompt,
    index: int,
    count: int,
    tokenizer: Any,
    generating: bool = False,
    *,
    repeats: bool = False,
) -> tuple[int, ...] | None:
    """Positions in one prompt, in the order given; None for all of an input that has no tokens.

    Args:
        at: What the user wrote.
        prompt: The prompt.
        index: Which prompt of the call it is.
        count: How many prompts the call has.
        tokenizer: To find strings.
        generating: Whether tokens will follow the prompt, so that "all" and "rest" include them and "generated" is allowed.
        repeats: Whether a position that a list names twice is there twice: what is read is; an edit acts there once.

    Raises:
        PositionError: Outside the prompt; the message shows its tokens.
    """
    if isinstance(at, PerPrompt):
        if len(at.each) != count:
            raise PositionError(f"pc.per_prompt has {len(at.each)} positions for {count} prompts")
        return resolve(at.each[index], prompt, index, count, tokenizer, generating, repeats=repeats)
    if isinstance(at, list | tuple):
        groups = [resolve(item, prompt, index, count, tokenizer, generating, repeats=repeats) for item in at]
        if any(group is None for group in groups):
            return None  # a list with "all" in it, of an input without tokens
        merged = tuple(p for group in groups for p in group or ())
        return merged if repeats else tuple(dict.fromkeys(merged))
    if isinstance(at, Token):
        return tokens.find_span(tokenizer, prompt.ids, prompt.text, at.text, at.occurrence)
    if at == "generated" and not generating:
        raise PositionError("at='generated' needs a generation: use model.generate or model.editing")
    if at == "each":
        raise PositionError("at='each' makes one cell a position: it belongs to model.sweep and model.patch")
    if prompt.length is None:
        return _without_tokens(at)
    return _within(at, prompt, prompt.length, generating)


def names_tokens(at: Any) -> bool:
    """Whether some position is given by the text of its tokens."""
    items = at.each if isinstance(at, PerPrompt) else at
    return any(names_tokens(item) for item in items) if isinstance(items, list | tuple) else isinstance(items, Token)


def spelled_out(at: Any, index: int) -> list[Any]:
    """The parts of ``at`` that name positions of prompt ``index`` one by one, and not by a word such as "all"."""
    if isinstance(at, PerPrompt):
        return spelled_out(at.each[index], index)
    if isinstance(at, list | tuple):
        return [part for item in at for part in spelled_out(item, index)]
    return [] if isinstance(at, str) and at != "last" else [at]


def _within(at: Any, prompt: Prompt, length: int, generating: bool) -> tuple[int, ...]:
    if at == "generated":
        return (GENERATED,)
    if at in ("all", "prompt"):
        return (*range(length), GENERATED) if generating and at == "all" else tuple(range(length))
    if at == "rest":
        if length == 1 and not generating:
            raise PositionError(f"{prompt.name!r} has one token, so at='rest' (all but the first) selects none")
        return (*range(1, length), GENERATED) if generating else tuple(range(1, length))
    if at == "last":
        return (length - 1,)
    if isinstance(at, slice):
        selection = tuple(range(length))[at]
        if not selection:
            raise PositionError(f"{at} selects none of the {length} positions of {prompt.name!r}")
        return selection
    if not -length <= at < length:
        raise PositionError(
            f"position {at} is outside the prompt, which has {length} tokens (0..{length - 1}): {list(prompt.tokens)}"
        )
    return (at % length,)


def _without_tokens(at: Any) -> tuple[int, ...] | None:
    if at in ("all", "rest"):
        return None
    if isinstance(at, int) and at >= 0:
        return (at,)
    raise PositionError(f"at={at!r}: this input has no tokens, so a position is 'all' or a number from 0 on")

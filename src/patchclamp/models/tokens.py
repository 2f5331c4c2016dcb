"""Text to tokens and back, where a whitespace or a special token more decides the result."""

from collections.abc import Sequence
from typing import Annotated, Any

from patchclamp.core.errors import InputError, PositionError
from patchclamp.core.readers import Rule, UnfitError


def _tokenizer(given: Any) -> Any:
    if given is None or all(
        callable(getattr(given, name, None)) for name in ("convert_ids_to_tokens", "decode", "__call__")
    ):
        return given
    raise UnfitError("a tokenizer of transformers, or None")


Tokenizer = Annotated[Any, Rule("a tokenizer of transformers", _tokenizer)]
"""What makes token ids of text and text of ids."""


def need_tokenizer(tokenizer: Any, what: str) -> Any:
    """The tokenizer, or an error that says what wanted it."""
    if tokenizer is None:
        raise InputError(f"{what} needs a tokenizer: pass one, as in pc.wrap(model, tokenizer), or pass token ids")
    return tokenizer


def encode_all(tokenizer: Any, text: str) -> tuple[list[int], dict[str, Any]]:
    """Token ids of a prompt, with the special tokens that the tokenizer adds by itself, and what else it gives.

    Raises:
        InputError: The text gives no token.
    """
    given = dict(need_tokenizer(tokenizer, f"the prompt {text!r}")(_whole(text)))
    ids = list(given.pop("input_ids"))
    if not ids:
        raise InputError(f"the prompt {text!r} is empty: it gives no token")
    return ids, given


def _whole(text: str) -> str:
    """Text that is made of characters; half of one, as text from broken files holds, is none to a tokenizer."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{text!r} cannot be tokenized: {error.object[error.start]!r} is half a character") from None
    return text


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a prompt, as :func:`encode_all`."""
    return encode_all(tokenizer, text)[0]


def labels(tokenizer: Any, ids: Sequence[int]) -> tuple[str, ...]:
    """Each token as text, for ticks and tables; a token that is part of a character keeps its raw name."""
    if tokenizer is None:
        return tuple(str(i) for i in ids)
    shown = []
    for identity, name in zip(ids, tokenizer.convert_ids_to_tokens(list(ids)), strict=True):
        text = str(name).replace("▁", " ") if str(name).startswith("▁") else tokenizer.decode([identity])
        shown.append(str(name) if "\ufffd" in text or not text else text)
    return tuple(shown)


def token_id(tokenizer: Any, text: str | int) -> int:
    """The one token that stands for ``text`` inside a sentence.

    Raises:
        InputError: It takes several tokens, or none.
    """
    if isinstance(text, int):
        return text
    tokenizer = need_tokenizer(tokenizer, f"the token {text!r}")
    tried: list[list[int]] = []
    for candidate in dict.fromkeys((text, text.removeprefix(" "))):
        ids = tokenizer(_whole(candidate), add_special_tokens=False)["input_ids"]
        if len(ids) == 1 and in_context(tokenizer, ids[0]) == text:
            return int(ids[0])
        tried.append(ids)
    pieces = list(labels(tokenizer, tried[0]))
    hint = "" if text.startswith(" ") else f" (with a leading space, as inside a sentence, it would be {' ' + text!r})"
    if len(pieces) == 1:
        raise InputError(
            f"{text!r} is no token of its own: the tokenizer reads it as {pieces[0]!r}; say that if you mean it"
        )
    raise InputError(f"{text!r} is not one token: the tokenizer gives {len(pieces)}: {pieces}{hint}")


def in_context(tokenizer: Any, identity: int) -> str:
    """The text that a token adds after another one."""
    anchor = tokenizer("a", add_special_tokens=False)["input_ids"][-1:]
    before = tokenizer.decode(anchor)
    return str(tokenizer.decode([*anchor, identity]))[len(before) :]


def spans(tokenizer: Any, ids: Sequence[int], text: str | None) -> tuple[str, list[tuple[int, int]]]:
    """The text of a prompt and the character range of each of its tokens."""
    if text is not None and getattr(tokenizer, "is_fast", False):
        encoded = tokenizer(text, return_offsets_mapping=True)
        if list(encoded["input_ids"]) == list(ids):
            return text, [(int(a), int(b)) for a, b in encoded["offset_mapping"]]
    whole, ranges, before = "", [], 0
    for end in range(1, len(ids) + 1):
        whole = tokenizer.decode(list(ids[:end]))
        ranges.append((before, len(whole)))
        before = len(whole)
    return whole, ranges


def find_span(
    tokenizer: Any, ids: Sequence[int], text: str | None, wanted: str, occurrence: int | None
) -> tuple[int, ...]:
    """Positions of the tokens that ``wanted`` covers in a prompt.

    Args:
        tokenizer: The model's tokenizer.
        ids: The prompt's tokens.
        text: The prompt's text, if known.
        wanted: The string to find; its ends must fall on token borders (a leading space may be left out).
        occurrence: Which one, from 0 (negative: from the end), where it stands several times.

    Raises:
        PositionError: Absent, ambiguous, or not on token borders; the message shows the tokens.
    """
    tokenizer = need_tokenizer(tokenizer, f"pc.token({wanted!r})")
    whole, ranges = spans(tokenizer, ids, text)
    shown = list(labels(tokenizer, ids))
    starts = [i for i in range(len(whole)) if whole.startswith(wanted, i)] if wanted else []
    if not starts:
        raise PositionError(f"the string {wanted!r} is not in the prompt; its tokens are {shown}")
    if occurrence is None and len(starts) > 1:
        raise PositionError(
            f"the string {wanted!r} stands {len(starts)} times in the prompt {shown}; "
            f"choose one with pc.token({wanted!r}, occurrence=0..{len(starts) - 1})"
        )
    if not -len(starts) <= (occurrence or 0) < len(starts):
        raise PositionError(
            f"occurrence {occurrence} of {wanted!r}: it stands {len(starts)} times in the prompt {shown}"
        )
    begin = starts[occurrence or 0]
    end = begin + len(wanted)
    hit = [i for i, (a, b) in enumerate(ranges) if a < end and b > begin and b > a]
    first, last = ranges[hit[0]][0], ranges[hit[-1]][1]
    if whole[first:begin].strip() or whole[end:last].strip():
        raise PositionError(
            f"the string {wanted!r} does not end on token borders: it lies inside {''.join(shown[i] for i in hit)!r} of {shown}"
        )
    return tuple(hit)

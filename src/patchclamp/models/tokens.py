"""Text to tokens and back, where a whitespace or a special token more decides the result."""

from collections.abc import Sequence
from typing import Annotated, Any

from patchclamp.core.errors import InputError, PositionError
from patchclamp.core.readers import Rule, UnfitError


def _tokenizer(tokenizer: Any) -> Any:
    if tokenizer is None or all(
        callable(getattr(tokenizer, name, None)) for name in ("convert_ids_to_tokens", "decode", "__call__")
    ):
        return tokenizer
    raise UnfitError("a tokenizer of transformers, or None")


Tokenizer = Annotated[Any, Rule("a tokenizer of transformers", _tokenizer)]
"""A tokenizer, which turns text into token ids and back."""


def need_tokenizer(tokenizer: Any, what: str) -> Any:
    """Return the tokenizer, or raise an error that says what needs it."""
    if tokenizer is None:
        raise InputError(f"{what} needs a tokenizer: pass one, as in pc.wrap(model, tokenizer), or pass token ids")
    return tokenizer


def encode_all(tokenizer: Any, text: str) -> tuple[list[int], dict[str, Any]]:
    """Token ids of a prompt, with the special tokens that the tokenizer adds by itself, and what else it gives.

    Raises:
        InputError: The text gives no token.
    """
    encoding = dict(need_tokenizer(tokenizer, f"the prompt {text!r}")(_check_characters(text)))
    ids = list(encoding.pop("input_ids"))
    if not ids:
        raise InputError(f"the prompt {text!r} is empty: it gives no token")
    return ids, encoding


def _check_characters(text: str) -> str:
    """Refuse text with half a character, as broken files hold, which no tokenizer reads."""
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
    texts = []
    for identity, name in zip(ids, tokenizer.convert_ids_to_tokens(list(ids)), strict=True):
        text = str(name).replace("▁", " ") if str(name).startswith("▁") else tokenizer.decode([identity])
        texts.append(str(name) if "\ufffd" in text or not text else text)
    return tuple(texts)


def token_id(tokenizer: Any, text: str | int) -> int:
    """The one token that stands for ``text`` inside a sentence.

    Raises:
        InputError: It takes several tokens, or none.
    """
    if isinstance(text, int):
        return text
    tokenizer = need_tokenizer(tokenizer, f"the token {text!r}")
    attempts: list[list[int]] = []
    for candidate in dict.fromkeys((text, text.removeprefix(" "))):
        ids = tokenizer(_check_characters(candidate), add_special_tokens=False)["input_ids"]
        if len(ids) == 1 and in_context(tokenizer, ids[0]) == text:
            return int(ids[0])
        attempts.append(ids)
    pieces = list(labels(tokenizer, attempts[0]))
    hint = "" if text.startswith(" ") else f" (with a leading space, as inside a sentence, it would be {' ' + text!r})"
    if len(pieces) == 1:
        raise InputError(
            f"{text!r} is no token of its own: the tokenizer reads it as {pieces[0]!r}; say that if you mean it"
        )
    raise InputError(f"{text!r} is not one token: the tokenizer gives {len(pieces)}: {pieces}{hint}")


def in_context(tokenizer: Any, identity: int) -> str:
    """The text that a token adds after another one."""
    anchor = tokenizer("a", add_special_tokens=False)["input_ids"][-1:]
    prefix = tokenizer.decode(anchor)
    return str(tokenizer.decode([*anchor, identity]))[len(prefix) :]


def spans(tokenizer: Any, ids: Sequence[int], text: str | None) -> tuple[str, list[tuple[int, int]]]:
    """The text of a prompt and the character range of each of its tokens."""
    if text is not None and getattr(tokenizer, "is_fast", False):
        encoding = tokenizer(text, return_offsets_mapping=True)
        if list(encoding["input_ids"]) == list(ids):
            return text, [(int(a), int(b)) for a, b in encoding["offset_mapping"]]
    full_text, ranges, start = "", [], 0
    for end in range(1, len(ids) + 1):
        full_text = tokenizer.decode(list(ids[:end]))
        ranges.append((start, len(full_text)))
        start = len(full_text)
    return full_text, ranges


def find_span(
    tokenizer: Any, ids: Sequence[int], text: str | None, string: str, occurrence: int | None
) -> tuple[int, ...]:
    """Positions of the tokens that ``wanted`` covers in a prompt.

    Args:
        tokenizer: The model's tokenizer.
        ids: The prompt's tokens.
        text: The prompt's text, if known.
        string: The string to find; its ends must fall on token borders (a leading space may be left out).
        occurrence: The number of the occurrence, from 0 (negative: from the end), where the string stands several times.

    Raises:
        PositionError: Absent, ambiguous, or not on token borders; the message shows the tokens.
    """
    tokenizer = need_tokenizer(tokenizer, f"pc.token({string!r})")
    full_text, ranges = spans(tokenizer, ids, text)
    pieces = list(labels(tokenizer, ids))
    starts = [i for i in range(len(full_text)) if full_text.startswith(string, i)] if string else []
    if not starts:
        raise PositionError(f"the string {string!r} is not in the prompt; its tokens are {pieces}")
    if occurrence is None and len(starts) > 1:
        raise PositionError(
            f"the string {string!r} stands {len(starts)} times in the prompt {pieces}; "
            f"choose one with pc.token({string!r}, occurrence=0..{len(starts) - 1})"
        )
    if not -len(starts) <= (occurrence or 0) < len(starts):
        raise PositionError(
            f"occurrence {occurrence} of {string!r}: it stands {len(starts)} times in the prompt {pieces}"
        )
    begin = starts[occurrence or 0]
    end = begin + len(string)
    positions = [i for i, (a, b) in enumerate(ranges) if a < end and b > begin and b > a]
    first, last = ranges[positions[0]][0], ranges[positions[-1]][1]
    if full_text[first:begin].strip() or full_text[end:last].strip():
        raise PositionError(
            f"the string {string!r} does not end on token borders: it lies inside "
            f"{''.join(pieces[i] for i in positions)!r} of {pieces}"
        )
    return tuple(positions)

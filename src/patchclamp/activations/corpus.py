"""A corpus of texts, as every method reads it: by name or as it is passed, packed into sequences or cut into rows."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice
from typing import Any

import numpy as np
from torch import Tensor

from patchclamp import catalogue
from patchclamp.core.errors import InputError, unknown
from patchclamp.core.readers import UnfitError, tensor
from patchclamp.models.opened import OpenModel
from patchclamp.models.tokens import need_tokenizer

CORPORA = ("gutenberg",)
"""Names of corpora; ``NAME:TITLE`` is one book."""
PASSAGE = 2000
"""The number of characters of one passage of a book."""
_BATCH_TEXTS = 32  # texts that the tokenizer gets in one call
INSERTED = -1
"""The position of a token that is in no text: packing put it before a sequence, or between two texts."""


@dataclass(frozen=True, eq=False)
class TokenRow:
    """What a model reads at once, and where each token is from."""

    ids: np.ndarray
    """Token ids, ``[token]``."""
    documents: np.ndarray
    """The number of each token's text in the corpus, ``[token]``."""
    positions: np.ndarray
    """Its position in the text's tokens; ``INSERTED`` of a token that packing put in."""

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, begin: int, end: int) -> "TokenRow":
        """Some of the tokens."""
        return TokenRow(self.ids[begin:end], self.documents[begin:end], self.positions[begin:end])

    @classmethod
    def joined(cls, rows: "Sequence[TokenRow]") -> "TokenRow":
        """Several rows as one."""
        return cls(
            *(np.concatenate([getattr(row, name) for row in rows]) for name in ("ids", "documents", "positions"))
        )

    @classmethod
    def of(cls, ids: Sequence[int], document: int, first: int = 0) -> "TokenRow":
        """Tokens of one text, from its position ``first`` on."""
        number = len(ids)
        places = np.full(number, INSERTED) if first == INSERTED else np.arange(first, first + number)
        return cls(np.array(ids, dtype=np.int64), np.full(number, document), places)


def read_corpus(corpus: Any) -> Iterable[Any]:
    """The texts of a corpus, each a string or a list of token ids, as they are or by name.

    ``"gutenberg"`` is passages of 2,000 characters of each of the catalogue's books in turn, so that any beginning has some of
    every book; ``"gutenberg:carroll-alice"`` is one book as one text.

    Raises:
        InputError: An unknown name, or something that cannot be iterated over.
    """
    if isinstance(corpus, Tensor):
        try:
            rows: Tensor = tensor(corpus)
        except UnfitError as unfit:
            raise InputError(f"a corpus is an iterable of texts or of lists of token ids{unfit.reason}") from None
        if rows.ndim == 2:
            texts: list[list[int]] = rows.tolist()
            return iter(texts)
    if not isinstance(corpus, str):
        single = isinstance(corpus, bytes | type) or getattr(corpus, "ndim", 1) == 0
        if isinstance(corpus, Iterable) and not single:
            return corpus
        raise InputError(
            f"a corpus is an iterable of texts, or a name such as 'gutenberg'; got {type(corpus).__name__}"
        )
    name, _, title = corpus.partition(":")
    if name not in CORPORA:
        raise InputError(unknown("corpus", corpus, CORPORA) + "; or pass texts: a list of strings")
    return catalogue.gutenberg(title).values() if title else passages(list(catalogue.gutenberg().values()))


def passages(books: Sequence[str], size: int = PASSAGE) -> Iterator[str]:
    """Cut passages of books in turn, one of each and again, so that any beginning of the corpus has some of every book."""
    longest = max(map(len, books), default=0)
    for begin in count(0, size):
        if begin >= longest:
            return
        yield from (book[begin : begin + size] for book in books if begin < len(book))


def sequences(model: OpenModel, texts: Any, length: int, *, most: int | None = None) -> list[list[int]]:
    """Pack a corpus into sequences of exactly ``length`` token ids; what is left at the end is dropped.

    See :func:`packed` for what a sequence is.

    Args:
        model: The model, whose tokenizer, context and vocabulary are used.
        texts: A corpus, as for :func:`read_corpus`.
        length: The number of tokens in each sequence.
        most: The number of sequences to make; all that there are by default.

    Raises:
        InputError: As for :func:`packed`, or a corpus that does not fill one sequence.
    """
    if most is not None and most < 1:
        raise InputError(f"most={most}: at least one sequence is needed")
    rows = [row.ids.tolist() for row in islice(packed(model, texts, length), most) if len(row) == length]
    if not rows:
        raise InputError(f"the corpus is too small: it does not fill one sequence of {length} tokens")
    return rows


def packed(model: OpenModel, corpus: Any, length: int) -> Iterator[TokenRow]:
    """Join a corpus into one stream of tokens, and cut it into sequences of ``length``; the last may be shorter.

    Every sequence begins as a prompt does, with the special tokens that the tokenizer puts before a text; these, or else its
    end-of-text token, stand between two texts as well. Lists of ids are joined as they are. Texts are read 32 at a time, and
    no more of them than are asked for.

    Raises:
        InputError: An unknown name, something that is no text, an id outside the vocabulary, a length that the model does
            not take, or an empty corpus.
    """
    check_length(model, length)
    pieces = _pieces(read_corpus(corpus))
    first = next(pieces, None)
    if first is None:
        raise InputError("the corpus is empty: it holds no text")
    prefix, separator = ([], []) if not isinstance(first[1], str) else _special_ids(model, first[1])
    body = length - len(prefix)
    if body < 1:
        raise InputError(
            f"sequences of {length} tokens hold no text: the tokenizer puts {len(prefix)} of its own before each"
        )
    parts: list[TokenRow] = []
    held = 0
    for text in _encode(model, chain([first], pieces), separator):
        begin = 0
        while begin < len(text):
            part = text.part(begin, begin + body - held)
            parts.append(part)
            begin, held = begin + len(part), held + len(part)
            if held == body:
                yield from _begun(prefix, parts)
                parts, held = [], 0
    yield from _begun(prefix, parts)


def cut(model: OpenModel, corpus: Any, length: int) -> Iterator[TokenRow]:
    """Read each text of a corpus by itself, as a prompt is read, in rows of at most ``length`` tokens.

    Raises:
        InputError: An unknown name, something that is no text, an id outside the vocabulary, or inputs beside token ids.
    """
    for document, text in enumerate(read_corpus(corpus)):
        if isinstance(text, str) and model.tokenizer is not None:
            texts = [tuple(model.tokenizer(text, verbose=False)["input_ids"])]  # longer than the context, perhaps
        else:
            prompts = model.prompts([text])
            if any(prompt.tensors for prompt in prompts):
                raise InputError("a corpus is text or token ids; inputs beside the ids have no meaning where it is cut")
            texts = [prompt.ids for prompt in prompts]
        for ids in texts:
            for begin in range(0, len(ids), length):
                yield TokenRow.of(ids[begin : begin + length], document, begin)


def limited(rows: Iterable[TokenRow], tokens: int) -> Iterator[TokenRow]:
    """Rows up to a number of tokens; the last is cut."""
    remaining = tokens
    for row in rows:
        yield row.part(0, remaining)
        remaining -= len(row)
        if remaining <= 0:
            return


def check_length(model: OpenModel, length: int) -> None:
    """Refuse a length of sequences that the model does not take.

    Raises:
        InputError: It is shorter than two tokens, or longer than the model's context.
    """
    if length < 2 or (model.context is not None and length > model.context):
        raise InputError(f"sequences of {length} tokens: the model takes 2..{model.context or 'any number of'} tokens")


def _begun(prefix: Sequence[int], parts: Sequence[TokenRow]) -> Iterator[TokenRow]:
    """A sequence, with the tokens that stand before every one; none where no token of a text is left."""
    if any(bool((part.positions != INSERTED).any()) for part in parts):
        yield TokenRow.joined([TokenRow.of(prefix, int(parts[0].documents[0]), INSERTED), *parts])


def _pieces(texts: Iterable[Any]) -> Iterator[tuple[int, str | list[int]]]:
    """The texts that are not empty, with their numbers; all of them must be of one kind."""
    kind: type | None = None
    for number, text in enumerate(texts):
        ids = None if isinstance(text, str) else _ids(text, number)
        piece: str | list[int] = text if ids is None else ids
        kind = kind or type(piece)
        if type(piece) is not kind:
            raise InputError(f"text number {number} of the corpus: texts and token ids cannot be mixed")
        if piece:
            yield number, piece


def _ids(row: Any, number: int) -> list[int]:
    if isinstance(row, Sequence) and not isinstance(row, bytes) and all(type(item) is int for item in row):
        return list(row)
    raise InputError(
        f"text number {number} of the corpus is no text and no list of token ids, but {type(row).__name__}"
    )


def _special_ids(model: OpenModel, text: str) -> tuple[list[int], list[int]]:
    """The ids that stand before every sequence, and those between two texts."""
    tokenizer = need_tokenizer(model.tokenizer, "a corpus of texts")
    sample = text[:100]
    plain_ids, prompt_ids = (
        list(tokenizer(sample, add_special_tokens=with_special)["input_ids"]) for with_special in (False, True)
    )
    prefix = prompt_ids[
        : next((i for i in range(len(prompt_ids)) if prompt_ids[i : i + len(plain_ids)] == plain_ids), 0)
    ]
    end = getattr(tokenizer, "eos_token_id", None)
    return prefix, prefix or ([] if end is None else [end])


def _encode(
    model: OpenModel, texts: Iterator[tuple[int, str | list[int]]], separator: Sequence[int]
) -> Iterator[TokenRow]:
    """Tokens of each text, with what stands after it."""
    while batch := list(islice(texts, _BATCH_TEXTS)):
        numbers = [number for number, _ in batch]
        if isinstance(batch[0][1], str):
            rows = model.tokenizer([text for _, text in batch], add_special_tokens=False, verbose=False)["input_ids"]
        else:
            rows = [ids for _, ids in batch]
            for ids in rows:
                _check_ids(model, ids)
        for number, ids in zip(numbers, rows, strict=True):
            text = TokenRow.of(ids, number)
            yield TokenRow.joined([text, TokenRow.of(separator, number, INSERTED)]) if len(separator) else text


def _check_ids(model: OpenModel, ids: Sequence[int]) -> None:
    invalid_id = next((i for i in ids if not 0 <= i < (model.vocabulary or i + 1)), None)
    if invalid_id is not None:
        raise InputError(f"token id {invalid_id} is outside the vocabulary 0..{(model.vocabulary or 0) - 1}")

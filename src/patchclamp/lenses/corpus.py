"""A corpus as sequences of equal length: texts, or a name of the catalogue, tokenised and packed."""

import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

from torch import Tensor

from patchclamp import catalogue
from patchclamp.core.errors import InputError, unknown
from patchclamp.models.opened import OpenModel
from patchclamp.models.tokens import need_tokenizer

PASSAGE = 4000
"""Characters of a book that stay together, about; passages of all books are shuffled."""
_BATCH_TEXTS = 32  # texts that the tokenizer gets in one call


def sequences(model: OpenModel, texts: Any, length: int, *, most: int | None = None) -> list[list[int]]:
    """Pack a corpus into sequences of exactly ``length`` token ids; what is left at the end is dropped.

    The texts are joined into one stream and cut. Every sequence begins as a prompt does, with the special tokens that the
    tokenizer puts before a text; these, or else its end-of-text token, stand between two texts as well. Texts are read
    32 at a time, and no more of them once ``most`` sequences are full.

    Args:
        model: The model, whose tokenizer, context and vocabulary are used.
        texts: ``"gutenberg"`` (passages of all books, in an order that is random but always the same),
            ``"gutenberg:carroll-alice"`` (one book from its beginning), an iterable of texts, or one of lists of ids (or a tensor),
            which are joined as they are.
        length: The number of tokens in each sequence.
        most: The number of sequences to make; all that there are by default.

    Raises:
        InputError: An unknown name, something that is no text, an id outside the vocabulary, a length that the model does
            not take, or a corpus that does not fill one sequence.
    """
    check_length(model, length)
    if most is not None and most < 1:
        raise InputError(f"most={most}: at least one sequence is needed")
    pieces = _pieces(_texts(texts))
    first = next(pieces, None)
    if first is None:
        raise InputError("the corpus is empty: it holds no text")
    rows = chain([first], pieces)
    prefix, separator = ([], []) if not isinstance(first, str) else _special_ids(model, first)
    stream = chain.from_iterable(_encode(model, rows, separator))
    body = length - len(prefix)
    if body < 1:
        raise InputError(
            f"sequences of {length} tokens hold no text: the tokenizer puts {len(prefix)} of its own before each"
        )
    blocks: list[list[int]] = []
    while most is None or len(blocks) < most:
        row = list(islice(stream, body))
        if len(row) < body:
            break
        blocks.append([*prefix, *row])
    if not blocks:
        raise InputError(f"the corpus is too small: it does not fill one sequence of {length} tokens")
    return blocks


def check_length(model: OpenModel, length: int) -> None:
    """Refuse a length of sequences that the model does not take.

    Raises:
        InputError: It is shorter than two tokens, or longer than the model's context.
    """
    if length < 2 or (model.context is not None and length > model.context):
        raise InputError(f"sequences of {length} tokens: the model takes 2..{model.context or 'any number of'} tokens")


def _texts(corpus: Any) -> Iterable[Any]:
    if isinstance(corpus, Tensor) and corpus.ndim == 2:
        return iter(corpus.tolist())
    if not isinstance(corpus, str):
        return _iterable(corpus)
    name, _, title = corpus.partition(":")
    if name != "gutenberg":
        raise InputError(unknown("corpus", corpus, ["gutenberg"]) + "; or pass texts: a list of strings")
    if title:
        return catalogue.gutenberg(title).values()
    passages = [passage for book in catalogue.gutenberg().values() for passage in _passages(book)]
    random.Random(0).shuffle(passages)
    return passages


def _iterable(corpus: Any) -> Iterable[Any]:
    single = isinstance(corpus, bytes | type) or getattr(corpus, "ndim", 1) == 0
    if isinstance(corpus, Iterable) and not single:
        return corpus
    raise InputError(f"a corpus is an iterable of texts, or a name such as 'gutenberg'; got {type(corpus).__name__}")


def _passages(book: str) -> Iterator[str]:
    """Passages of whole paragraphs, about ``PASSAGE`` characters of them together."""
    paragraphs: list[str] = []
    for paragraph in book.split("\n\n"):
        paragraphs.append(paragraph)
        if sum(map(len, paragraphs)) >= PASSAGE:
            yield "\n\n".join(paragraphs)
            paragraphs = []
    if paragraphs:
        yield "\n\n".join(paragraphs)


def _pieces(texts: Iterable[Any]) -> Iterator[str | list[int]]:
    """The texts that are not empty; all of them must be of one kind."""
    kind: type | None = None
    for number, text in enumerate(texts):
        ids = None if isinstance(text, str) else _ids(text, number)
        piece: str | list[int] = text if ids is None else ids
        kind = kind or type(piece)
        if type(piece) is not kind:
            raise InputError(f"text number {number} of the corpus: texts and token ids cannot be mixed")
        if piece:
            yield piece


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


def _encode(model: OpenModel, rows: Iterator[str | list[int]], separator: list[int]) -> Iterator[list[int]]:
    """Token ids of the texts, with what stands between them."""
    while batch := list(islice(rows, _BATCH_TEXTS)):
        if isinstance(batch[0], str):
            for row in model.tokenizer(batch, add_special_tokens=False, verbose=False)["input_ids"]:
                yield [*row, *separator]
            continue
        for ids in batch:
            invalid_id = next((i for i in ids if not 0 <= i < (model.vocabulary or i + 1)), None)  # type: ignore[operator]
            if invalid_id is not None:
                raise InputError(f"token id {invalid_id} is outside the vocabulary 0..{(model.vocabulary or 0) - 1}")
            yield ids  # type: ignore[misc]

"""Passages of books on which an edit should do nothing."""

import random
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from patchclamp import catalogue
from patchclamp.core.arguments import checked
from patchclamp.core.errors import InputError
from patchclamp.core.kinds import Seed
from patchclamp.core.readers import shown
from patchclamp.models.opened import OpenModel

MIN_CHARACTERS = 200
"""Characters below which a piece of a book is no passage."""


@checked
def neutral_texts(count: int = 16, seed: Seed = 0, *, characters: int = 800) -> list[str]:
    """Passages of the catalogue's books, spread over as many books as there are.

    They are ordinary prose and verse, chosen at random and not by content: an edit of gender still finds pronouns in them,
    so a small divergence can be the effect that was wanted.

    Args:
        count: The number of passages.
        seed: The seed; another one gives other passages.
        characters: The length of a passage, about; whole paragraphs, cut at a space.

    Raises:
        InputError: No passage is asked for, too short ones, or more than the books hold.
    """
    if count < 1 or characters < MIN_CHARACTERS:
        raise InputError(
            f"neutral texts: at least 1 passage of at least {MIN_CHARACTERS} characters; got {count} of {characters}"
        )
    generator = random.Random(seed)
    books = [passages(text, characters) for text in catalogue.gutenberg().values()]
    generator.shuffle(books)
    for book in books:
        generator.shuffle(book)
    interleaved = [book[i] for i in range(max(map(len, books))) for book in books if i < len(book)]
    if count > len(interleaved):
        raise InputError(f"{count} neutral texts of {characters} characters: the books hold {len(interleaved)}")
    return interleaved[:count]


def read_texts(model: OpenModel, texts: Any) -> list[Any]:
    """Read what the user gave as other text into a list; passages of books, cut to the model's context, where nothing was given."""
    if texts is None and model.tokenizer is not None and model.context is not None:
        rows = [model.tokenizer(text)["input_ids"] for text in neutral_texts()]
        return [row[: model.context] for row in rows]
    if texts is None:
        return list(neutral_texts())
    if isinstance(texts, Mapping | Tensor | np.ndarray):
        return list(model.prompts(texts))
    if isinstance(texts, bytes | type) or not isinstance(texts, Iterable):
        raise InputError(
            f"texts={shown(texts)} are no prompts; valid: texts or token ids, or None for passages of books"
        )
    return [texts] if isinstance(texts, str) else list(texts)


def passages(book: str, characters: int) -> list[str]:
    """Cut a book into passages: paragraphs that follow one another, joined until they reach a length, then cut at a space."""
    texts, passage = [], ""
    for paragraph in book.split("\n\n"):
        passage = f"{passage}\n\n{paragraph.strip()}".strip()
        if len(passage) >= characters:
            texts.append(passage[:characters].rsplit(None, 1)[0])
            passage = ""
    return texts

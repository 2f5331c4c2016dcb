"""Names that come again: where they stand in a text, the text with another name there, and passages of books that have them."""

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import patchclamp as pc

OTHERS = (
    " Thornby", " Melrow", " Hargrave", " Pemberton", " Larkin", " Ashcombe", " Bellamy", " Tarrant", " Quillan", " Mossop",
    " Fenwick", " Kettering", " Radley", " Wexford", " Ostler", " Brimley", " Calloway", " Vexley", " Drummle", " Pilcrow",
)  # fmt: skip
"""Names to stand in for another."""
NOVELS = (
    "austen-emma", "austen-persuasion", "austen-sense", "bryant-stories", "chesterton-ball", "chesterton-brown",
    "chesterton-thursday", "edgeworth-parents", "melville-moby_dick",
)  # fmt: skip
_NAME = re.compile(r"(?<=[a-z,;] )[A-Z][a-z]{3,11}\b")


@dataclass(frozen=True)
class NamePassage:
    """A text in which a name recurs, as tokens; it ends with the name's last occurrence or later."""

    label: str
    ids: tuple[int, ...]
    name: tuple[int, ...]
    starts: tuple[int, ...]
    """Where each occurrence begins."""

    @property
    def last(self) -> int:
        """Where the last occurrence begins."""
        return self.starts[-1]

    def earlier(self) -> list[int]:
        """Positions of all occurrences but the last."""
        return [start + i for start in self.starts[:-1] for i in range(len(self.name))]

    def positions(self) -> list[int]:
        """Positions of all occurrences."""
        return [start + i for start in self.starts for i in range(len(self.name))]

    def until(self, step: int) -> list[int]:
        """The tokens before token ``step`` of the last occurrence."""
        return list(self.ids[: self.last + step])

    def put(self, tokens: Sequence[int], starts: Iterable[int], step: int) -> list[int]:
        """:meth:`until`, with other tokens at some places."""
        ids = self.until(step)
        for start in starts:
            ids[start : start + len(tokens)] = tokens
        return ids


def ids_of(model: pc.Model, text: str) -> tuple[int, ...]:
    """A text's tokens, with what the tokenizer puts before a prompt."""
    (prompt,) = model.prompts(text)
    return tuple(prompt.ids)


def piece_of(model: pc.Model, text: str) -> tuple[int, ...]:
    """The tokens of a piece of text as it stands within a sentence, after another word."""
    word, both = ids_of(model, "the"), ids_of(model, "the" + text)
    if both[: len(word)] != word:
        raise pc.InputError(
            f"{text!r} melts into the word before it: {model.tokens('the' + text)}; give it a leading space"
        )
    return both[len(word) :]


def passage(model: pc.Model, text: str, name: str, label: str = "passage") -> NamePassage:
    """Find a name in a text.

    Args:
        model: Whose tokens.
        text: Any text.
        name: As it stands in the text, with its leading space.
        label: What to call the passage.

    Raises:
        InputError: It does not stand there twice in the same tokens; the message shows the tokens.
    """
    ids, name_ids = ids_of(model, text), piece_of(model, name)
    starts = tuple(i for i in range(len(ids)) if ids[i : i + len(name_ids)] == name_ids)
    if len(starts) < 2:
        tokens = [model.output_label(token) for token in name_ids]
        raise pc.InputError(
            f"{name!r} does not recur: occurrences in the text, as the tokens {tokens}: {len(starts)}; the study compares a later "
            f"one with earlier ones. The text's tokens: {model.tokens(text)}"
        )
    return NamePassage(label, ids, name_ids, starts)


def stand_in(model: pc.Model, name_passage: NamePassage, names: Iterable[str] = OTHERS) -> tuple[int, ...]:
    """Another name of as many tokens, none of which the passage has.

    Raises:
        InputError: None of the names fits.
    """
    candidates = list(names)
    for name in candidates:
        ids = piece_of(model, name)
        if len(ids) == len(name_passage.name) and not set(ids) & set(name_passage.ids):
            return ids
    raise pc.InputError(f"none of {candidates} has {len(name_passage.name)} tokens that the passage lacks; pass other=")


def recurring_passages(
    model: pc.Model, books: Mapping[str, str], count: int, *, length: int = 110, seed: int = 0
) -> list[NamePassage]:
    """Passages of books in which a name of several tokens recurs, one name each.

    A name is a capitalised word within a sentence that never stands there in lower case. Its last occurrence comes at least 40
    tokens into the passage and 10 after the one before.

    Raises:
        InputError: The books do not have so many.
    """
    generator = random.Random(seed)
    texts = {title: re.sub(r"\s+", " ", text) for title, text in books.items()}
    passages: dict[str, NamePassage] = {}
    for _ in range(400 * count):
        title = generator.choice(sorted(texts))
        start = texts[title].find(". ", generator.randrange(len(texts[title]))) + 2
        window = texts[title][start : start + 6 * length]
        for name in sorted(set(_NAME.findall(window)) - set(passages)):
            if window.count(f" {name}") >= 2 and name.lower() not in window:
                name_passage = _cut(model, window, f" {name}", f"{title}: {name}", length)
                if name_passage is not None:
                    passages[name] = name_passage
                    break
        if len(passages) == count:
            return list(passages.values())
    raise pc.InputError(
        f"only {len(passages)} passages with a recurring name of several tokens were found, not {count}"
    )


def _cut(model: pc.Model, window: str, name: str, label: str, length: int) -> NamePassage | None:
    """The first tokens of a window, if the name recurs in them as it should."""
    name_ids, ids = piece_of(model, name), ids_of(model, window)[:length]
    starts = tuple(i for i in range(len(ids) - len(name_ids)) if ids[i : i + len(name_ids)] == name_ids)
    fits = len(name_ids) in (2, 3, 4) and len(starts) >= 2 and starts[-1] >= 40 and starts[-1] - starts[-2] >= 10
    return NamePassage(label, ids, name_ids, starts) if fits else None

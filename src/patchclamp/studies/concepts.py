"""Texts of three concepts, each in a part to fit on and a part to test on: sentiment, politics, gender."""

import random
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

import patchclamp as pc
from patchclamp.core.errors import PatchclampWarning
from patchclamp.core.intervals import bootstrap
from patchclamp.studies import gender as _gender

Part = Literal["train", "test"]
SENTIMENTS, PARTIES, GENDERS = ("negative", "positive"), ("Democratic", "Republican"), ("1 male", "2 female")
SENTIMENT_WORDS = (
    (" bad", " terrible", " awful", " boring", " horrible", " poor", " disappointing", " worst"),
    (" good", " great", " wonderful", " amazing", " excellent", " fun", " enjoyable", " best"),
)
SENTIMENT_PROMPTS: dict[str, tuple[str, ...]] = {
    "train": (
        "The movie was", "I thought the show was", "Overall, the book was", "The food at the hotel was", "The weather here is",
        "To be honest, the concert was",
    ),
    "test": (
        "In the end, the film was", "My day at work was", "The new song is", "People say that the restaurant is",
        "I think that the ending was", "The service at the bank was", "We found that the play was", "Her latest novel is",
        "The acting in this one is", "My first impression of the town was", "The game last night was", "His speech was",
    ),
}  # fmt: skip
ERAS: tuple[tuple[str, str], ...] = (
    ("Harry S Truman", "Dwight D Eisenhower"), ("John F Kennedy", "Richard Nixon"), ("Lyndon B Johnson", "Gerald R Ford"),
    ("Jimmy Carter", "Ronald Reagan"), ("William J Clinton", "George Bush"), ("Barack Obama", "George W Bush"),
    ("Joseph R Biden", "Donald J Trump"),
)  # fmt: skip
"""Presidents since 1950, a Democrat and a Republican of about one time together."""


@dataclass(frozen=True)
class Texts:
    """Texts with a label and a group each."""

    prompts: tuple[str, ...]
    labels: tuple[str, ...]
    groups: tuple[Any, ...]
    """Texts that belong together: a president, the two sentences of a pair."""

    def __len__(self) -> int:
        return len(self.prompts)

    def where(self, chosen: Any) -> "Texts":
        """Those for which ``chosen`` (one truth value a text) holds."""
        indices = [i for i, keep in enumerate(chosen) if keep]
        return Texts(*(tuple(values[i] for i in indices) for values in (self.prompts, self.labels, self.groups)))


def sentiment(part: Part, count: int = 200, *, words: int = 45, skip: int = 0) -> Texts:
    """The last words of film reviews, half negative and half positive; where a review ends it says what it thinks.

    Args:
        part: The reviews are taken from this part of the catalogue's split into training and test.
        count: How many, of both classes together.
        words: Length of each.
        skip: Reviews of each class to leave out first.
    """
    rows = []
    for positive in (False, True):
        reviews = [review for review in pc.catalogue.imdb(part) if review.positive is positive]
        rows += [(ending(review.text, words), SENTIMENTS[positive]) for review in reviews[skip : skip + count // 2]]
    return Texts(tuple(text for text, _ in rows), tuple(label for _, label in rows), tuple(range(len(rows))))


def ending(text: str, words: int) -> str:
    """The last words of a text."""
    return " ".join(text.split()[-words:])


def politics(each: int = 16, *, words: int = 45, seed: int = 0) -> Texts:
    """Passages of State of the Union speeches since 1950, as many of each president; the group is the president.

    A passage begins with a sentence. It never names a party.

    Args:
        each: Passages a president.
        words: Length of each.
        seed: Another seed gives other passages.
    """
    generator = random.Random(seed)
    speeches: dict[str, list[str]] = {}
    for speech in pc.catalogue.state_of_the_union():
        if speech.year >= 1950:
            speeches.setdefault(speech.president, []).append(speech.text)
    rows = []
    for pair in ERAS:
        for party, president in zip(PARTIES, pair, strict=True):
            pieces = [piece for text in speeches[president] for piece in passages(text, words)]
            rows += [(piece, party, president) for piece in generator.sample(pieces, each)]
    prompts, labels, groups = zip(*rows, strict=True)
    return Texts(prompts, labels, groups)


def passages(text: str, words: int) -> list[str]:
    """Pieces of a speech, each from the beginning of a sentence on, that do not overlap and name no party."""
    pieces, text_so_far = [], ""
    for sentence in text.split(". "):
        text_so_far = f"{text_so_far} {sentence.strip()}.".strip()
        if len(text_so_far.split()) >= words:
            pieces.append(" ".join(text_so_far.split()[:words]))
            text_so_far = ""
    return [piece for piece in pieces if "Democrat" not in piece and "Republican" not in piece]


def gender(part: Part) -> Texts:
    """Sentences about a man or a woman; the group is the pair of people."""
    prompts, labels, groups = _gender.labelled(part)
    return Texts(tuple(prompts), tuple(labels), tuple(groups))


def party_words(model: pc.Model, presidents: Any = None, most: int = 12) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Words that presidents of one party use more than those of the other: those of Democrats, those of Republicans.

    Each president is one observation, the logarithm of the word's frequency; words are ordered by Welch's t of the two parties,
    and are single tokens, no function words, that at least half of the presidents use.

    Args:
        model: Whose tokens.
        presidents: Whose speeches count; all of :data:`ERAS` by default.
        most: Words a party.
    """
    from scipy.stats import ttest_ind
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    names = [name for pair in ERAS for name in pair] if presidents is None else list(presidents)
    counts: dict[str, Counter[str]] = {name: Counter() for name in names}
    for speech in pc.catalogue.state_of_the_union():
        if speech.year >= 1950 and speech.president in counts:
            counts[speech.president].update(re.findall(r"\b[a-z]{4,}\b", speech.text))
    total = {name: sum(words_of_one.values()) for name, words_of_one in counts.items()}
    users = Counter(word for words_of_one in counts.values() for word in words_of_one)
    words = [
        word for word, count in users.items()
        if count >= len(names) / 2 and sum(words_of_one[word] for words_of_one in counts.values()) >= 20 * len(names)
    ]  # fmt: skip
    words = [word for word in sorted(words) if word not in ENGLISH_STOP_WORDS and _single(model, f" {word}")]
    rates = np.array([[np.log((counts[n][w] + 0.5) / total[n]) for w in words] for n in names])
    democratic = np.array([any(name == pair[0] for pair in ERAS) for name in names])
    order = np.argsort(ttest_ind(rates[democratic], rates[~democratic], equal_var=False).statistic)
    return tuple(f" {words[i]}" for i in order[::-1][:most]), tuple(f" {words[i]}" for i in order[:most])


def single_tokens(
    model: pc.Model, words: tuple[Sequence[str], Sequence[str]]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Those of two lists of words that are one token of a model."""
    first, second = (tuple(word for word in part if _single(model, word)) for part in words)
    return first, second


def _single(model: pc.Model, word: str) -> bool:
    try:
        model.token_id(word)
    except pc.InputError:
        return False
    return True


def with_step(direction: pc.Direction, length: float) -> pc.Direction:
    """A direction whose ``add(1)`` is a step of this length."""
    gap = direction.step()
    return replace(direction, gap=gap * (length / float(gap.norm())))


def mean_activations(
    model: pc.Model, prompts: Sequence[str], site: str, edits: Sequence[pc.Edit] = ()
) -> tuple[Any, float]:
    """The mean activation of each prompt over all tokens but the first ``[prompt, d]``, and the length of the median token's."""
    rows = model.rows(list(prompts), site, edits=edits)
    x = rows.x.double()
    means = [x[torch.from_numpy(rows.prompt == i)].mean(0) for i in range(len(prompts))]
    return torch.stack(means).numpy(), float(x.norm(dim=1).median())


def fit_at_site(model: pc.Model, estimator: Any, x: Any, labels: Any, site: str, length: float) -> pc.Direction:
    """A direction fitted on arrays, at home at a site; ``length`` is that of the median vector there, and of a step."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PatchclampWarning)  # of few rows: the studies measure on held-out texts alone
        direction = estimator.fit(x, labels).direction_
    return with_step(direction.at_home(model, site, length=length), length)


def mean_of(values: Any, seed: int = 0) -> tuple[float, float, float]:
    """A mean and its 95 % bootstrap interval."""
    return float(np.mean(values)), *bootstrap(values, seed)

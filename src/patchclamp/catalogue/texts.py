"""The catalogue's texts with labels: speeches by party, reviews by sentiment, sets for probes."""

from dataclasses import dataclass
from typing import Literal

from patchclamp.catalogue.fetching import fetch
from patchclamp.core.arguments import checked
from patchclamp.core.errors import InputError, check_choice, unknown
from patchclamp.core.files import read_json

Party = Literal[
    "Democratic",
    "Republican",
    "Democratic-Republican",
    "Federalist",
    "Whig",
    "Whig & Democratic",
    "National Union",
    "none",
]


@dataclass(frozen=True)
class Speech:
    """A State of the Union speech, or the annual message that went by that name before."""

    year: int
    president: str
    party: Party
    """The president's party: ``none`` for Washington, ``Whig & Democratic`` for Tyler, ``National Union`` for Andrew Johnson."""
    text: str
    """The text without line breaks."""


@checked
def state_of_the_union() -> list[Speech]:
    """The speeches of 1790 to 2021, in the order of time.

    There is none of 1933, and two each of 1953 and 1961, when the office changed hands. Democrats gave 90,
    Republicans 92.
    """
    return [Speech(**row) for row in read_json(fetch("state-of-the-union") / "speeches.json")]


@dataclass(frozen=True)
class Review:
    """A film review."""

    text: str
    """The review as one paragraph, without line-break tags."""
    positive: bool
    split: Literal["train", "test"]


@checked
def imdb(split: Literal["train", "test"] | None = None) -> list[Review]:
    """Film reviews, 25,000 positive and 25,000 negative, in an order that mixes both, or one half of them.

    The package that carries them has lost the split of the source, so **this split is not that of published results**.
    It is even in size and hangs on the SHA-256 of a review's letters and digits alone: the 422 reviews that repeat
    another stand on the same side as it.

    Source: Maas et al., Learning Word Vectors for Sentiment Analysis, ACL 2011.

    Raises:
        InputError: There is no such split.
    """
    if split not in (None, "train", "test"):
        raise InputError(unknown("split", split, ["train", "test"]))
    rows = [Review(**row) for row in read_json(fetch("imdb") / "reviews.json")]
    return [row for row in rows if split in (None, row.split)]


@dataclass(frozen=True)
class Labelled:
    """A text and which of its set's two labels it has."""

    prompt: str
    label: str
    group: int
    """Texts that overlap have one number: pass it as ``groups`` wherever rows are split into train and test."""


@checked
def probing_sets() -> list[str]:
    """Names of the sets for probes, as their package has them."""
    return sorted(
        (path.stem for path in fetch("probing-sets").glob("[0-9]*.json")), key=lambda name: int(name.split("_")[0])
    )


@checked
def probing_set(name: str) -> list[Labelled]:
    """A set of texts with two labels, such as ``92_glue_sst2`` with ``negative`` and ``positive``.

    A text that the package repeats is here once, and one that it gives both labels is left out, so classes are near to
    even, not even. Texts that share 30 characters in a row, such as passages of one document or a phrase and its
    sentence, are of one group.

    Source: Kantamneni et al., Are Sparse Autoencoders Useful? A Case Study in Sparse Probing, 2025.

    Raises:
        InputError: There is no such set.
    """
    check_choice("probing set", name, probing_sets())
    return [Labelled(**row) for row in read_json(fetch("probing-sets") / f"{name}.json")]

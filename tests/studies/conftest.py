"""A tiny GPT-2 that knows a few words, for studies of text; ten classes of pictures, for studies of small networks."""

from pathlib import Path

import pytest
import torch

import patchclamp as pc
from patchclamp.studies.digits import Images
from patchclamp.studies.training import Shape, make_tokenizer, stream, train_gpt2

TINY = Shape(layers=2, d_model=16, heads=2, context=64, vocabulary=400, steps=6, batch=4)
PEOPLE = (("king", "He", "he"), ("queen", "She", "she"), ("boy", "He", "he"), ("girl", "She", "she"))
TEXTS = [
    f"Once upon a time, there was a kind {noun}. {upper} was tired, so {lower} went home. One day, {upper} left because {lower} could."
    for noun, upper, lower in PEOPLE
] * 5


@pytest.fixture(scope="session")
def storyteller(tmp_path_factory: pytest.TempPathFactory) -> pc.Model:
    """A tiny GPT-2 with a tokenizer in which the pronouns are single tokens."""
    folder: Path = tmp_path_factory.mktemp("storyteller") / "model"
    tokenizer = make_tokenizer(TEXTS, TINY.vocabulary)
    tokens = stream(tokenizer, TEXTS)
    train_gpt2(folder, tokenizer, tokens, tokens[:200], TINY, dropout=0.0, seed=0, progress=False)
    return pc.load(folder, dtype="float32")


@pytest.fixture(scope="session")
def shapes() -> Images:
    """Ten classes of noisy pictures: enough for a small network to learn in a second."""
    draw = torch.Generator().manual_seed(0)
    strokes = (torch.rand(10, 784, generator=draw) < 0.2).float()
    labels = torch.randint(10, (1000,), generator=draw)
    pixels = (
        strokes[labels] * (0.4 + 0.6 * torch.rand(1000, 1, generator=draw))
        + 0.3 * torch.randn(1000, 784, generator=draw)
    ).clamp(0, 1)
    return Images(pixels[:600], labels[:600], pixels[600:], labels[600:], tuple("0123456789"))


@pytest.fixture(autouse=True)
def _saved_without_pictures(without_pictures: None) -> None:
    """Studies save many."""

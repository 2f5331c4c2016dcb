"""A tiny GPT-2 that knows a few words, for studies of text."""

from pathlib import Path

import pytest

import patchclamp as pc
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

"""What the tests of the command line share: one tiny model, opened once, and results that are saved without their pictures."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import patchclamp as pc
import patchclamp.model
import patchclamp.repeating
from tests import tiny


class Opened:
    """``pc.load`` that opens a session's own folders once for each way of opening them; everything else is opened as ever."""

    def __init__(self, load: Callable[..., pc.Model]) -> None:
        self.load = load
        self.kept: dict[tuple[str, str], pc.Model] = {}
        self.folders: set[str] = set()

    def __call__(self, name_or_path: str | Path, **options: Any) -> pc.Model:
        name = str(name_or_path)
        if name not in self.folders:
            return self.load(name_or_path, **options)
        key = (name, repr(sorted((k, v) for k, v in options.items() if v is not None)))
        if key not in self.kept:
            self.kept[key] = self.load(name_or_path, **options)
        return self.kept[key]


@pytest.fixture(scope="session")
def opened() -> Opened:
    """Keeps what it has opened for the whole session."""
    return Opened(pc.load)


@pytest.fixture(scope="package", autouse=True)
def _opened_once(opened: Opened) -> Iterator[None]:
    """The verbs open models with it, and so do the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pc, "load", opened)
        patch.setattr(patchclamp.model, "load", opened)
        patch.setattr(patchclamp.repeating, "load", opened)
        yield


@pytest.fixture(scope="session")
def folder(opened: Opened, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny Llama with stories15M's tokenizer, as a plain folder: fast, and the command line needs no cache for it."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    path = tmp_path_factory.mktemp("model")
    tokenizer = AutoTokenizer.from_pretrained(pc.catalogue.fetch("stories15m"))
    _, _, arguments = tiny.FAMILIES["llama"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(**{**arguments, "vocab_size": 32000}))
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    opened.folders.add(str(path))
    return str(path)


@pytest.fixture
def from_disk(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folders are opened anew."""
    monkeypatch.setattr(opened, "folders", set())


@pytest.fixture(autouse=True)
def _saved_without_pictures(without_pictures: None) -> None:
    """Verbs save what they make."""

"""What the tests of the command line share."""

import pytest
import torch

import patchclamp as pc
from tests import tiny


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
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
    return str(path)

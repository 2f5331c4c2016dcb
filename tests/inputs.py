"""Small models and ragged inputs for tests of what a model is given; the oracle is the module's own call on one prompt alone."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

import patchclamp as pc
from tests import tiny

IDS = {"vocab_size": 97, "bos_token_id": 1, "eos_token_id": 2}
LLAMA = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
    "max_position_embeddings": 32, **IDS,
}  # fmt: skip
BERT = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 32,
    "pad_token_id": 0, **IDS,
}  # fmt: skip
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, "pad_token_id": 0, **IDS}
MADE: dict[str, tuple[str, str, dict[str, Any]]] = {
    "decoder": ("LlamaConfig", "LlamaForCausalLM", {**LLAMA, "pad_token_id": 0}),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", GPT2),
    "encoder": ("BertConfig", "BertForMaskedLM", BERT),
    "roberta": ("RobertaConfig", "RobertaForMaskedLM", {**BERT, "pad_token_id": 1, "type_vocab_size": 2}),
    "boxes": ("LayoutLMConfig", "LayoutLMForMaskedLM", BERT),
    "pairs": ("BertConfig", "BertForSequenceClassification", {**BERT, "num_labels": 3}),
    "tags": ("BertConfig", "BertForTokenClassification", {**BERT, "num_labels": 3}),
    "spans": ("BertConfig", "BertForQuestionAnswering", BERT),
    "reward": ("LlamaConfig", "LlamaForSequenceClassification", {**LLAMA, "pad_token_id": None, "num_labels": 3}),
    "reward_pad": ("LlamaConfig", "LlamaForSequenceClassification", {**LLAMA, "pad_token_id": 7, "num_labels": 3}),
    "segments": ("XLNetConfig", "XLNetLMHeadModel", {"vocab_size": 97, "d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 24}),
}  # fmt: skip
POOLED = ("pairs", "reward", "reward_pad")


def module(name: str, attention: str | None = None) -> Any:
    """A tiny random model in float64, always the same one."""
    return _made(name, attention)


@cache
def _made(name: str, attention: str | None) -> Any:
    return tiny.draw(MADE[name], 5, 4.0, attention).double().eval()


def model(name: str, attention: str | None = None) -> pc.Model:
    """The same, opened."""
    return _opened(name, attention)


@cache
def _opened(name: str, attention: str | None) -> pc.Model:
    return pc.wrap(module(name, attention))


@cache
def plain() -> nn.Module:
    """A module that is no language model."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double().eval()


def alone(name: str, row: list[int], beside: Mapping[str, Tensor] | None = None) -> Tensor:
    """The module's own call on one prompt, ``[position, output]`` or ``[output]``."""
    with torch.no_grad():
        found: Tensor = module(name)(input_ids=torch.tensor([row]), **(beside or {})).logits[0]
    return found


ragged = st.lists(st.lists(st.integers(0, 96), min_size=1, max_size=6), min_size=1, max_size=4)
"""Prompts of several lengths; 0, 1 and 7 are some models' padding."""


def packed(rows: list[list[int]], side: str, fill: int = 0, **more: list[list[int]]) -> dict[str, Tensor]:
    """Rows as a padded batch with its mask."""
    width = max(map(len, rows))

    def pad(row: list[int], value: int) -> list[int]:
        rest = [value] * (width - len(row))
        return rest + row if side == "left" else row + rest

    table = {"input_ids": (rows, fill), "attention_mask": ([[1] * len(row) for row in rows], 0)}
    table |= {name: (value, 1) for name, value in more.items()}
    return {name: torch.tensor([pad(row, value) for row in given]) for name, (given, value) in table.items()}

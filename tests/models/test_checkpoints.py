"""What is opened is what was saved: every weight in its place, or an error that names it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import patchclamp as pc
from tests import tiny

MLP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {}
    for name in ("llama", "bert", "gpt2", "resnet", "vit"):
        found[name] = tmp_path_factory.mktemp("saved") / name
        tiny.build(name, torch.float32).save_pretrained(found[name])
    return found


@pytest.fixture
def folder(saved: dict[str, Path], tmp_path: Path) -> Callable[..., Path]:
    """A copy of a saved model with other weights, another config or other files."""

    def make(
        name: str = "llama",
        weights: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]] | None = None,
        files: dict[str, bytes | None] | None = None,
        **config: Any,
    ) -> Path:
        copy = tmp_path / name
        shutil.copytree(saved[name], copy)
        if weights is not None:
            file = copy / "model.safetensors"
            save_file(weights(load_file(file)), file, metadata={"format": "pt"})
        if config:
            file = copy / "config.json"
            file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
        for file_name, data in (files or {}).items():
            if data is None:
                (copy / file_name).unlink()
            else:
                (copy / file_name).write_bytes(data)
        return copy

    return make


Change = Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]
NOT_WHOLE: dict[str, tuple[Change | None, dict[str, Any], str]] = {
    "missing": (lambda w: {k: v for k, v in w.items() if k != MLP}, {}, f"misses {MLP}"),
    "no place": (lambda w: {**w, "stray.weight": torch.zeros(2)}, {}, "more than it has a place for stray.weight"),
    "another shape": (lambda w: {**w, MLP: torch.zeros(2, 3)}, {}, rf"in another shape {MLP} \(2, 3\) instead of \(48, 32\)"),
    "renamed": (lambda w: {k.replace("up_proj", "upp") if k == MLP else k: v for k, v in w.items()}, {}, f"misses {MLP}; it holds"),
    "fewer layers": (None, {"num_hidden_layers": 2}, "a place for model.layers.2.input_layernorm.weight.* and 3 more"),
    "more layers": (None, {"num_hidden_layers": 4}, "misses model.layers.3.input_layernorm.weight"),
    "no head": (
        lambda w: {k: v for k, v in w.items() if k != "lm_head.weight"}, {"tie_word_embeddings": False}, "misses lm_head.weight"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", NOT_WHOLE)
def test_a_checkpoint_that_is_not_whole_is_refused_by_name(kind: str, folder: Callable[..., Path]) -> None:
    weights, config, message = NOT_WHOLE[kind]
    with pytest.raises(pc.ModelError, match=rf"is not a whole LlamaForCausalLM: it .*{message}"):
        pc.load(folder(weights=weights, **config))


def _bert(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    other = {
        "bert.pooler.dense.weight": (32, 32),
        "bert.pooler.dense.bias": (32,),
        "cls.seq_relationship.weight": (2, 32),
    }
    return {
        **weights,
        **{name: torch.zeros(shape) for name, shape in other.items()},
        "bert.embeddings.position_ids": torch.arange(64),
    }


WHOLE: dict[str, tuple[str, Change | None, dict[str, Any]]] = {
    "as saved": ("llama", None, {}),
    "a head of another task": ("llama", lambda w: {**w, "score.weight": torch.zeros(2, 32)}, {}),
    "the base model of it": ("llama", None, {"architectures": ["LlamaModel"]}),
    "tied": ("gpt2", None, {}),
    "a pooler and a second head": ("bert", _bert, {}),
    "a pooler that the base model alone has": ("vit", lambda w: {**w, "vit.pooler.dense.weight": torch.zeros(32, 32)}, {}),
    "constants of earlier versions": (
        "gpt2", lambda w: {**w, "transformer.h.0.attn.masked_bias": torch.zeros(1), "transformer.h.0.attn.bias": torch.zeros(1, 1, 64, 64)}, {}
    ),
    "frequencies of earlier versions": ("llama", lambda w: {**w, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4)}, {}),
    "names without the prefix": ("gpt2", lambda w: {k.removeprefix("transformer."): v for k, v in w.items()}, {}),
    "no counters of batches": ("resnet", lambda w: {k: v for k, v in w.items() if not k.endswith("num_batches_tracked")}, {}),
}  # fmt: skip


SHORT = {
    "as saved",
    "a pooler and a second head",
    "a pooler that the base model alone has",
    "constants of earlier versions",
}


@pytest.mark.parametrize("kind", [k if k in SHORT else pytest.param(k, marks=pytest.mark.slow) for k in WHOLE])
def test_nothing_that_is_whole_is_refused(kind: str, folder: Callable[..., Path]) -> None:
    """Weights that are there are the ones that were saved."""
    name, weights, config = WHOLE[kind]
    model = pc.load(folder(name, weights, **config))
    expected = dict(tiny.build(name, torch.float32).named_parameters())
    prefix = "" if set(dict(model.module.named_parameters())) <= set(expected) else "model."
    for key, value in model.module.named_parameters():
        assert torch.equal(value, expected[prefix + key]), key


BROKEN: dict[str, tuple[dict[str, bytes | None], str]] = {
    "truncated weights": ({"model.safetensors": b"\x10\0\0\0\0\0\0\0{}"}, "could not be loaded: SafetensorError"),
    "empty weights": ({"model.safetensors": b""}, "could not be loaded: SafetensorError"),
    "no weights": ({"model.safetensors": None}, "could not be loaded: OSError.*model.safetensors"),
    "a torn config": ({"config.json": b'{"model_type": "ll'}, "config.json is damaged"),
    "a config of bytes": ({"config.json": b"\xff\xfe\0"}, "config.json is damaged"),
    "a config that is a list": ({"config.json": b"[]"}, "config.json is damaged or of no known kind"),
    "a config that is null": ({"config.json": b"null"}, "config.json is damaged or of no known kind"),
    "no config": ({"config.json": None}, "the folder holds no config.json"),
    "a torn tokenizer": ({"tokenizer.json": b"{]", "tokenizer_config.json": b"{}"}, "the tokenizer of .* could not be read"),
    "an odd tokenizer": ({"tokenizer.json": b"[5]", "tokenizer_config.json": b"{}"}, "the tokenizer of .* could not be read"),
    "a torn index": ({"model.safetensors": None, "model.safetensors.index.json": b"{]"}, "could not be loaded: JSONDecodeError"),
    "a missing shard": (
        {"model.safetensors": None,
         "model.safetensors.index.json": json.dumps({"metadata": {}, "weight_map": {MLP: "model-00001-of-00001.safetensors"}}).encode()},
        "could not be loaded: .*model-00001-of-00001.safetensors",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_named(kind: str, folder: Callable[..., Path]) -> None:
    files, message = BROKEN[kind]
    with pytest.raises(pc.ModelError, match=message):
        pc.load(folder(files=files))


@pytest.mark.parametrize(
    "config", [{"hidden_size": "wide"}, {"architectures": [5]}, {"architectures": "x"}, {"model_type": "novel"}]
)
def test_a_config_with_odd_values_is_opened_or_named(config: dict[str, Any], folder: Callable[..., Path]) -> None:
    place = folder(**config)
    if "architectures" in config:
        assert pc.load(place).sites.family.name == "llama"
    else:
        with pytest.raises(pc.ModelError, match="config.json is damaged or of no known kind"):
            pc.load(place)


def test_an_encoder_decoder_folder_opens_as_what_was_saved(tmp_path: Path) -> None:
    import transformers

    config = transformers.BartConfig(
        d_model=32, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=48, decoder_ffn_dim=48, encoder_attention_heads=4,
        decoder_attention_heads=4, max_position_embeddings=64, vocab_size=97, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    for kind in ("BartForConditionalGeneration", "BartForSequenceClassification"):
        getattr(transformers, kind)(config).save_pretrained(tmp_path / kind)
        assert type(pc.load(tmp_path / kind).module).__name__ == kind


def test_every_device_in_one_place_opens(folder: Callable[..., Path]) -> None:
    pytest.importorskip("accelerate")
    place = folder()
    model = pc.load(place, device_map="auto")
    assert len({parameter.device for parameter in model.module.parameters()}) == 1
    wanted = pc.load(place).run([[5, 6]]).logits
    assert torch.allclose(model.run([[5, 6]]).logits.cpu(), wanted, atol=1e-4)

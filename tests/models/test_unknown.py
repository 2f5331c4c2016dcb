"""Architectures that no table describes: each opens, says what it has, and is edited as a hook of one's own would edit it."""

from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

import patchclamp as pc
from tests import tiny
from tests.traces import no_trace

_ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_BASE = {"vocab_size": 97, **_ENDS}
_T5 = {"d_model": 32, "d_ff": 48, "num_layers": 2, "num_heads": 4, "d_kv": 8, "decoder_start_token_id": 0, **_BASE}
_BART = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "max_position_embeddings": 64, **_BASE,
}  # fmt: skip
_WHISPER = {
    **_BART,
    "num_mel_bins": 8,
    "max_source_positions": 16,
    "max_target_positions": 64,
    "decoder_start_token_id": 1,
}
_GEMMA3N = {
    **tiny.TEXT, "num_hidden_layers": 4, "intermediate_size": [48] * 4, "head_dim": 16, "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 97, "num_kv_shared_layers": 1, "laurel_rank": 4, "altup_num_inputs": 2, "sliding_window": 5,
    "layer_types": ["sliding_attention", "full_attention"] * 2, "activation_sparsity_pattern": [0.0] * 4,
}  # fmt: skip

IDS, PICTURE = torch.tensor([[5, 6, 7, 8]]), torch.linspace(-1, 1, 768).reshape(1, 3, 16, 16)
SHORTER, LONGER = (
    {"input_ids": IDS, "decoder_input_ids": torch.tensor([ids])} for ids in ([0, 8, 9], [0, 8, 9, 10, 11, 12])
)

# architecture -> (config class, model class, arguments, a call of the user's own, modules to edit, why it has no names)
UNKNOWN: dict[str, tuple[str, str, dict[str, Any], dict[str, Any], list[str], str | None]] = {
    "t5": ("T5Config", "T5ForConditionalGeneration", _T5, SHORTER,
           ["encoder.block.1.layer.1.DenseReluDense", "decoder.block.1.layer.2.DenseReluDense", "decoder.block.0.layer.1.EncDecAttention.k"],
           "has two stacks, an encoder and a decoder"),
    "bart": ("BartConfig", "BartForConditionalGeneration", _BART, LONGER, ["model.encoder.layers.0.fc2", "model.decoder.layers.1.fc2"], "two stacks"),
    "pegasus": ("PegasusConfig", "PegasusForConditionalGeneration", _BART, LONGER, ["model.decoder.layers.1.fc2"], "two stacks"),
    "bart decoder": ("BartConfig", "BartForCausalLM", _BART, {"input_ids": IDS}, ["model.decoder.layers.1.fc2"], None),
    "whisper": ("WhisperConfig", "WhisperForConditionalGeneration", _WHISPER,
                {"input_features": torch.ones(1, 8, 32), "decoder_input_ids": torch.tensor([[1, 8, 9]])},
                ["model.encoder.layers.1.fc2", "model.decoder.layers.0.fc2"], "two stacks"),
    "clip": ("CLIPConfig", "CLIPModel",
             {"text_config": tiny.TEXT, "vision_config": tiny.VISION, "projection_dim": 16}, {"input_ids": IDS, "pixel_values": PICTURE},
             ["vision_model.encoder.layers.1.mlp", "text_model.encoder.layers.1.mlp"], "CLIPModel"),
    "dinov2": ("Dinov2Config", "Dinov2Model", tiny.VISION, {"pixel_values": PICTURE}, ["encoder.layer.1.mlp"], None),
    "gemma3n": ("Gemma3nTextConfig", "Gemma3nForCausalLM", _GEMMA3N, {"input_ids": IDS}, ["model.layers.1.mlp"], None),
    "cpmant": ("CpmAntConfig", "CpmAntForCausalLM",
               {"vocab_size": 97, "hidden_size": 32, "num_attention_heads": 4, "dim_head": 8, "dim_ff": 48, "num_hidden_layers": 2},
               {"input_ids": IDS}, ["cpmant.encoder.layers.1.ffn.ffn.w_out"], None),
    "xlnet": ("XLNetConfig", "XLNetLMHeadModel", {"vocab_size": 97, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48},
              {"input_ids": IDS}, ["transformer.layer.1.ff.layer_2"], None),
    "deepseek": ("DeepseekV3Config", "DeepseekV3ForCausalLM",
                 {**tiny.TEXT, "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8,
                  "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_group": 1, "topk_group": 1,
                  "first_k_dense_replace": 1},
                 {"input_ids": IDS}, ["model.layers.0.mlp", "model.layers.1.mlp"], None),
    "canine": ("CanineConfig", "CanineModel",
               {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64},
               {"input_ids": IDS}, ["encoder.layer.0.output.dense"], "no short input could be made up"),
}  # fmt: skip


TELLING = {"t5", "whisper", "cpmant", "xlnet", "dinov2", "canine"}
"""Those that the short form tries: one for each thing that the code has to tell apart."""


@cache
def built(name: str) -> nn.Module:
    import transformers

    config, model, arguments = UNKNOWN[name][:3]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        made = getattr(transformers, model)(getattr(transformers, config)(**arguments))
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    return made.eval()


def flat(output: Any) -> torch.Tensor:
    """Every number of an output."""
    if isinstance(output, torch.Tensor):
        return output.flatten().float()
    values = output.values() if hasattr(output, "values") else output if isinstance(output, tuple | list) else []
    return torch.cat([torch.zeros(1), *(flat(value) for value in values)])


@pytest.mark.parametrize(
    "name", [name if name in TELLING else pytest.param(name, marks=pytest.mark.slow) for name in UNKNOWN]
)
def test_an_own_call_is_edited_as_by_a_hook(name: str) -> None:
    """Whatever a module works on (tokens, another text, patches, time first), an edit at='all' is that of a plain hook."""
    *_, call, paths, why = UNKNOWN[name]
    module = built(name)
    with torch.no_grad(), no_trace(module):
        model = pc.wrap(module)
        plain = flat(module(**call))
        for path in paths:
            handle = module.get_submodule(path).register_forward_hook(lambda _, __, out: out * 0.5)
            wanted = flat(module(**call))
            handle.remove()
            with model.editing(pc.Scale(0.5, site=f"{path}:out")) as tally:
                found = flat(module(**call))
            assert torch.equal(found, wanted), path
            assert not torch.equal(found, plain), "the edit decides something"
            assert tally.fired(0) > 0
    if why is not None:
        assert not model.sites.layers
        assert why in str(model.sites)
        with pytest.raises(pc.SiteError, match=why):
            model.sites.expand("resid_post")


def test_a_survey_that_raises_falls_back_to_module_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is raised, at whichever step; the negative control is the same model undisturbed."""
    module = tiny.build("llama")

    class OddError(Exception):
        pass

    def wrong(*_: object, **__: object) -> Any:
        raise OddError("nobody thought of this\nat all")

    assert pc.wrap(module).ladder.strategy == "wavefront"
    for target in ("models.loading.text_stack", "interventions.verification._probe"):
        with monkeypatch.context() as patch:
            patch.setattr(f"patchclamp.{target}", wrong)
            model = pc.wrap(module)
        reason = "looking at LlamaForCausalLM failed with OddError: nobody thought of this, so only module paths"
        assert reason in str(model.sites)
        with pytest.raises(pc.SiteError, match=reason):
            model.record([[3, 4]], "resid_post")
        handle = module.model.layers[1].mlp.register_forward_hook(lambda _, __, out: out * 0)
        with torch.no_grad():
            wanted = module(input_ids=torch.tensor([[3, 4, 5]])).logits
        handle.remove()
        assert torch.equal(model.run([[3, 4, 5]], pc.Zero(site="model.layers.1.mlp:out")).logits, wanted)
    for step in ("_is_causal", "_head_is_separate", "_ladder"):
        with monkeypatch.context() as patch:
            patch.setattr(f"patchclamp.interventions.verification.{step}", wrong)
            model = pc.wrap(module)
        assert (model.ladder.strategy, "OddError: nobody thought of this" in model.ladder.reason) == ("cell", True)
        assert model.record([[3, 4]], "resid_post.1")["resid_post.1"].shape == (1, 2, 32), "what was seen stays"
        grid = model.sweep([[3, 4, 5], [6, 7, 8, 9]], pc.Zero(), sites="mlp_out", at="each", read=pc.Logits(), verify=5)
        assert grid.plan.strategy == "cell"


def test_an_encoder_decoder_generates_under_edits() -> None:
    """The encoder is called by itself there, and the decoder token by token; both are edited as by hooks."""
    ids = torch.tensor([[5, 6, 7, 2]])
    for name in ("t5", "bart"):
        module, paths = built(name), UNKNOWN[name][4]
        model = pc.wrap(module)
        settings: dict[str, Any] = {
            "max_new_tokens": 4,
            "min_new_tokens": 4,
            "output_logits": True,
            "return_dict_in_generate": True,
        }
        plain = torch.stack(module.generate(ids, **settings).logits)  # type: ignore[operator]
        for path in paths[:2]:
            handle = module.get_submodule(path).register_forward_hook(lambda _, __, out: out * -3.0)
            wanted = torch.stack(module.generate(ids, **settings).logits)  # type: ignore[operator]
            handle.remove()
            with model.editing(pc.Scale(-3.0, site=f"{path}:out")):
                found = torch.stack(module.generate(ids, **settings).logits)  # type: ignore[operator]
            assert torch.equal(found, wanted)
            assert not torch.equal(found, plain)
        with (
            pytest.raises(pc.InputError, match="ran outside a call of the whole model"),
            model.editing(pc.Zero(site=f"{paths[0]}:out", at=1)),
        ):
            module.generate(ids, max_new_tokens=2)  # type: ignore[operator]
        with pytest.raises(pc.InputError, match="encoder-decoder, which writes a text of its own"):
            model.generate(ids, max_new_tokens=2)


def test_positions_name_tokens_of_the_prompt_or_are_refused() -> None:
    """In the encoder they do; in a decoder, in front of extra vectors and over time-first tensors they would be others."""
    module = built("t5")
    model = pc.wrap(module)
    encoder, decoder = (f"{path}:out" for path in UNKNOWN["t5"][4][:2])

    def one(_: object, __: object, out: torch.Tensor) -> torch.Tensor:
        return torch.cat([out[:, :1], out[:, 1:2] * 0, out[:, 2:]], 1)

    handle = module.get_submodule(UNKNOWN["t5"][4][0]).register_forward_hook(one)
    with torch.no_grad():
        wanted = module(**LONGER).logits
        handle.remove()
        with model.editing(pc.Zero(site=encoder, at=1)):
            assert torch.equal(module(**LONGER).logits, wanted)
    for at in (1, -1, [0, 1], slice(0, 2), "last"):
        with (
            pytest.raises(pc.PositionError, match="outside the encoder 'encoder' that reads them; edit it at='all'"),
            model.editing(pc.Zero(site=decoder, at=at)),
        ):
            raise AssertionError("nothing is called")
    for name in ("cpmant", "xlnet"):
        site = f"{UNKNOWN[name][4][0]}:out"
        other = pc.wrap(built(name))
        with pytest.raises(pc.PositionError, match=r"its vectors are not these tokens; it can be edited at='all'"):
            other.run([[5, 6, 7, 8]], pc.Zero(site=site, at=1))
        with pytest.raises(pc.PositionError, match=r"its vectors are not these tokens and cannot be read"):
            other.record([[5, 6, 7, 8]], site)
    with pytest.raises(pc.InputError, match=r"cannot be run on token ids alone: ValueError: .* inside model.editing"):
        model.run([[5, 6]])


def test_a_lens_needs_no_table() -> None:
    """GPT BigCode reshapes by the shape of its ids, so its head must be given as many rows as there are states."""
    module = tiny.shared("gpt_bigcode")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("patchclamp.models.loading.all_families", dict)
        model = pc.wrap(module)
    assert (model.sites.family.model_types, model.ladder.strategy) == ((), "wavefront")
    frame = model.lens([[5, 6, 7]], k=3).frame()
    last = frame[frame.layer == frame.layer.max()]
    assert float(last.kl.max()) < 1e-12
    assert float((last.top_probability - last.final_probability).abs().max()) < 1e-12

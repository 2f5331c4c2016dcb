"""Models that take pictures beside text: the text stack has its names, and a prompt with pictures is run as the model runs it."""

from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

import patchclamp as pc
from tests import tiny
from tests.traces import no_trace

_GEMMA = {"head_dim": 8, "sliding_window": 5, "query_pre_attn_scalar": 8}
MLP = "model.language_model.layers.1.mlp"


@cache
def built(name: str) -> nn.Module:
    import transformers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        module: nn.Module
        if name == "gemma3":
            module = transformers.Gemma3ForConditionalGeneration(
                transformers.Gemma3Config(
                    text_config={**tiny.TEXT, **_GEMMA}, vision_config=tiny.VISION, mm_tokens_per_image=4, image_token_index=90,
                    boi_token_index=91, eoi_token_index=92,
                )
            )  # fmt: skip
        else:
            module = transformers.LlavaForConditionalGeneration(
                transformers.LlavaConfig(
                    text_config=transformers.LlamaConfig(**tiny.TEXT), vision_config=transformers.CLIPVisionConfig(**tiny.VISION),
                    image_token_index=90,
                )
            )  # fmt: skip
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.ndim >= 2:
                    parameter.mul_(3)
    return module.double().eval()


def prompt(seed: int = 0, rows: int = 1) -> dict[str, torch.Tensor]:
    ids = torch.tensor([[5, 91, 90, 90, 90, 90, 92, 7, 8]]).repeat(rows, 1)
    ids[:, 0] += torch.arange(rows)
    generator = torch.Generator().manual_seed(seed)
    return {"input_ids": ids, "pixel_values": torch.randn(rows, 3, 16, 16, generator=generator)}


def own_call(module: nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    doubled = {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}
    with torch.no_grad():
        logits: torch.Tensor = module(**doubled).logits
    return logits


@pytest.mark.parametrize("name", ["gemma3", pytest.param("llava", marks=pytest.mark.slow)])
def test_the_text_stack_has_its_names(name: str) -> None:
    """A name means the tensor of the language model inside the wrapper, and sweeps share work as on it alone."""
    module = built(name)
    model = pc.wrap(module)
    seen: dict[str, torch.Tensor] = {}
    layer = module.get_submodule("model.language_model.layers.1")
    handle = layer.register_forward_hook(lambda _, __, out: seen.update(out=out if torch.is_tensor(out) else out[0]))
    own_call(module, {"input_ids": torch.tensor([[5, 6, 7, 8]])})
    handle.remove()
    assert torch.equal(model.record([[5, 6, 7, 8]], "resid_post.1")["resid_post.1"], seen["out"])
    assert (model.context, model.ladder.strategy, model.sites.n_layers) == (64, "wavefront", 2)
    names = [row["site"] for row in model.sites.rows() if row["read"]]
    assert {"embed", "q", "z", "attn_out", "mlp_act", "mlp_out", "resid_mid", "final_norm", "logits"} <= set(names)
    model.sweep([[5, 6, 7], [8, 9, 10, 11]], pc.Scale(2.0), sites="mlp_out", at="each", read=pc.Logits([3]), verify=9)


def test_a_prompt_with_a_picture_is_run_as_by_the_model_itself() -> None:
    module = built("gemma3")
    model = pc.wrap(module)
    inputs = prompt()
    with no_trace(module):
        plain = own_call(module, inputs)
        assert torch.equal(model.run(inputs).logits, plain)
        last = model.run(inputs, logits="last").logits
        assert torch.allclose(last, plain[:, -1], rtol=1e-12)
        without = own_call(module, {"input_ids": inputs["input_ids"]})
        assert not torch.allclose(without, plain), "the picture decides something"
        seen: list[torch.Tensor] = []

        def hook(_: nn.Module, __: Any, out: torch.Tensor) -> torch.Tensor:
            seen.append(out)
            return torch.cat([out[:, :7], out[:, 7:8] * 0, out[:, 8:]], 1)

        handle = module.get_submodule(MLP).register_forward_hook(hook)
        wanted = own_call(module, inputs)
        handle.remove()
        for site in ("mlp_out.1", f"{MLP}:out"):
            edit = pc.Zero(site=site, at=7)
            assert torch.allclose(model.run(inputs, edit).logits, wanted, rtol=1e-12, atol=1e-12) or site == "mlp_out.1"
        assert torch.equal(model.record(inputs, f"{MLP}:out")[f"{MLP}:out"], seen[0])
        grid = model.sweep(inputs, pc.Zero(), sites=[f"{MLP}:out"], at="each", read=pc.Logits([3, 4]), verify=9)
        assert grid.plan.strategy == "rows"
        assert "pixel_values beside the tokens" in grid.plan.reason
        assert torch.allclose(torch.from_numpy(grid.data.sel(position=7).values.squeeze()), wanted[0, -1, [3, 4]])


def test_pictures_go_with_their_prompts() -> None:
    """Rows of a processor's batch, mappings in a list, with text alone between them: each as it is by itself."""
    model = pc.wrap(built("gemma3"))
    both = prompt(rows=2)
    alone = [model.run({name: value[i : i + 1] for name, value in both.items()}).logits[0] for i in range(2)]
    assert not torch.allclose(*alone)
    assert torch.allclose(model.run(both).logits, torch.stack(alone), rtol=1e-12, atol=1e-12)
    mixed = model.run([{k: v[:1] for k, v in both.items()}, [5, 6, 7], {k: v[1:] for k, v in both.items()}])
    assert torch.allclose(mixed.logits[[0, 2]], torch.stack(alone), rtol=1e-12, atol=1e-12)
    with pytest.raises(
        pc.InputError, match=r"pixel_values has shape \(3, 3, 16, 16\) for 2 prompts.*a list of mappings"
    ):
        model.run({**both, "pixel_values": torch.zeros(3, 3, 16, 16)})
    with pytest.raises(pc.InputError, match="cannot read the prompt with its pixel_values"):
        model.run({"input_ids": torch.tensor([[5, 6, 7]]), "pixel_values": torch.zeros(1, 3, 16, 16)})
    with pytest.raises(pc.InputError, match="inputs \\['labels'\\] beside input_ids are not used.*pixel_values"):
        model.run({**both, "labels": both["input_ids"]})


def test_patches_are_edited_everywhere_and_not_by_token() -> None:
    module = built("gemma3")
    model = pc.wrap(module)
    path = next(name for name, _ in module.named_modules() if name.endswith("encoder.layers.1.mlp"))
    handle = module.get_submodule(path).register_forward_hook(lambda _, __, out: out * 0)
    wanted = own_call(module, prompt())
    handle.remove()
    assert torch.equal(model.run(prompt(), pc.Zero(site=f"{path}:out")).logits, wanted)
    with pytest.raises(pc.PositionError, match="its vectors are not these tokens"):
        model.run(prompt(), pc.Zero(site=f"{path}:out", at=2))


def test_a_picture_is_generated_from(tmp_path: Any) -> None:
    module = built("gemma3")
    model = pc.wrap(module)
    doubled = {name: value.double() if value.is_floating_point() else value for name, value in prompt().items()}
    handle = module.get_submodule(MLP).register_forward_hook(lambda _, __, out: out * -2.0)
    wanted = module.generate(**doubled, max_new_tokens=4, min_new_tokens=4, do_sample=False)  # type: ignore[operator]
    handle.remove()
    made = model.generate(prompt(), pc.Scale(-2.0, site=f"{MLP}:out"), max_new_tokens=4, min_new_tokens=4)
    assert list(made.ids[0]) == wanted[0, -4:].tolist()
    run = model.run(prompt(), pc.Scale(-2.0, site=f"{MLP}:out"))
    run.save(tmp_path / "run")
    again = pc.repeat(tmp_path / "run", model)
    assert torch.equal(again.logits, run.logits)

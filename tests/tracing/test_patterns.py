import gc

import pytest
import torch
from torch import Tensor

import patchclamp as pc
from patchclamp.models.sites import Site
from patchclamp.tracing.patterns import attention
from tests import tiny
from tests.lenses.families import opened, parametrised
from tests.traces import no_trace

DTYPE = {name: torch.float32 for name in tiny.MOE}
EAGER_ONLY = {
    "falcon_alibi": "eager"
}  # under sdpa transformers rounds its position biases, so the attention is another


def read(model: pc.Model, prompts: list[list[int]], batch_tokens: int) -> Tensor:
    parts: dict[int, list[Tensor]] = {}
    attention(
        model,
        model.prompts(prompts),
        lambda layer, _, part: parts.setdefault(layer, []).append(part),
        batch_tokens=batch_tokens,
    )
    return torch.stack([torch.cat(parts[layer], -1) for layer in sorted(parts)])  # [layer, prompt, head, query, key]


SHORT = ("llama", "gpt2", "gemma2", "gpt_neo", "falcon_alibi")
"""Grouped heads, fused projections, capped scores, windows and attention in float32, position biases."""
ATTENTIVE = parametrised([name for name in tiny.DECODERS if name != "mamba"], SHORT)


@pytest.mark.parametrize(
    ("family", "batch_tokens"),
    [
        *(
            pytest.param(*one.values, 4096, marks=one.marks) if not isinstance(one, str) else (one, 4096)
            for one in ATTENTIVE
        ),
        *((name, 1) for name in ("llama", "gpt2")),
        *(
            pytest.param(name, 1, marks=pytest.mark.slow)
            for name in tiny.DECODERS
            if name not in ("mamba", "llama", "gpt2")
        ),
    ],
)
def test_patterns_are_those_that_eager_attention_shows(family: str, batch_tokens: int) -> None:
    """Of every family, in its own attention implementation; all keys at once, and a head's width of them at a time."""
    dtype = DTYPE.get(family, torch.float64)
    prompts = tiny.ids(2, 19)
    model = pc.wrap(tiny.build(family, dtype, "eager") if family in EAGER_ONLY else tiny.shared(family, dtype))
    shown = pc.wrap(tiny.build(family, dtype, "eager")).record(prompts, "attn_pattern")["attn_pattern"]
    assert (read(model, prompts, batch_tokens) - shown.transpose(2, 3)).abs().max() < 1e-6  # eager's softmax is float32


def test_the_run_itself_is_left_as_it_is(llama: pc.Model) -> None:
    prompts = tiny.ids(3, 9)
    seen: dict[Site, Tensor] = {}
    taps = {
        site: lambda value, site=site: seen.update({site: value}) for site in llama.sites.expand(["resid_post", "z"])
    }
    with no_trace(llama.module):
        attention(llama, llama.prompts(prompts), lambda *_: None, taps=taps)
    clean = llama.record(prompts, ["resid_post", "z"])
    for site, value in seen.items():
        assert value.shape[0] == 3
        assert torch.allclose(value, clean[str(site)].flatten(2), atol=1e-12)


def test_no_layer_is_kept() -> None:
    """Tensors of the values' shape, counted while layers are shown: as many in the last one as in the first."""
    model, alive = opened("llama"), []
    width = model.sites.width(Site("v", 0))
    assert width != model.sites.width(Site("z", 0)), "grouped heads, so the shape tells values from the stream"

    def visit(layer: int, first: int, part: Tensor) -> None:
        shape = (3, 9, width)
        alive.append(sum(type(held) is Tensor and held.shape == shape for held in gc.get_objects()))

    attention(model, model.prompts(tiny.ids(3, 9)), visit)
    assert len(alive) == 3
    assert len(set(alive)) == 1


def test_heads_that_are_no_weighted_sums_are_refused() -> None:
    module = tiny.build("llama")
    model = pc.wrap(module)
    module.model.layers[1].self_attn.o_proj.register_forward_pre_hook(lambda _, args: (args[0] * 2 + 1,))
    with pytest.raises(pc.ModelError, match="the heads of layer 1 .* are no attention-weighted sums"):
        attention(model, model.prompts(tiny.ids(1, 9)), lambda *_: None)

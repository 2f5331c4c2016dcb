"""A model inside an adapter library's wrapper: the sites of what it wraps, with the adapter at work."""

from typing import Any

import pytest
import torch
from torch import nn

import patchclamp as pc
from tests import tiny

pytestmark = pytest.mark.slow  # it takes seconds to import the library


def adapted(name: str, *targets: str) -> Any:
    peft: Any = pytest.importorskip("peft")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        config = peft.LoraConfig(r=4, target_modules=list(targets), task_type="CAUSAL_LM", init_lora_weights=False)
        return peft.get_peft_model(tiny.build(name), config).double().eval()


@pytest.mark.parametrize(("name", "targets"), [("llama", ("q_proj", "down_proj")), ("gpt2", ("c_attn",))])
def test_an_adapted_model_is_the_merged_one(name: str, targets: tuple[str, ...]) -> None:
    wrapped, merged = adapted(name, *targets), pc.wrap(adapted(name, *targets).merge_and_unload())
    model = pc.wrap(wrapped)
    ids = [[5, 6, 7, 8]]
    assert (model.ladder.strategy, model.sites.n_layers) == ("wavefront", 3)
    for site in ("resid_post.1", "q.1", "mlp_out.2", "final_norm", "logits"):
        assert torch.allclose(model.record(ids, site)[site], merged.record(ids, site)[site], atol=1e-12), site
    edit = pc.Zero(site="mlp_out.1", at=2)
    wanted = merged.run(ids, edit).logits
    assert torch.allclose(model.run(ids, edit).logits, wanted, atol=1e-12)
    assert not torch.allclose(pc.wrap(tiny.build(name)).run(ids, edit).logits, wanted), "the adapter decides something"
    with model.editing(edit):
        assert torch.allclose(wrapped(input_ids=torch.tensor(ids)).logits, wanted, atol=1e-12)
        wrapped.generate(input_ids=torch.tensor(ids), max_new_tokens=2)
    assert model.generate(ids, edit, max_new_tokens=3).ids == merged.generate(ids, edit, max_new_tokens=3).ids


def test_the_weight_under_an_adapter_is_refused() -> None:
    model = pc.wrap(adapted("llama", "q_proj"))
    with pytest.raises(pc.SiteError, match=r"layer with an adapter.*merge_and_unload"):
        model.weight("q.1")
    assert isinstance(model.weight("k.1"), nn.Parameter | torch.Tensor)

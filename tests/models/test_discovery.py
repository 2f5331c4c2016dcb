"""Architectures without a table: found by structure, trusted only where the checks confirm it."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import patchclamp as pc
from patchclamp.models import loading
from patchclamp.models.discovery import discover
from tests import tiny

HIDDEN = ["llama", "qwen3", "gemma2", "phi", "gpt_neox", "cohere", "olmo2", "gptj", "mixtral"]


@pytest.fixture
def no_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "all_families", dict)


@pytest.mark.parametrize(
    "name",
    [n if n in ("llama", "gpt_neox", "mixtral") else pytest.param(n, marks=pytest.mark.slow) for n in HIDDEN],
)
def test_what_discovery_offers_is_what_the_table_says(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every site that it dares to name is the same tensor as the table's; what it cannot confirm it refuses."""
    dtype = torch.float32 if name in tiny.MOE else torch.float64
    known = pc.wrap(tiny.shared(name, dtype))
    monkeypatch.setattr(loading, "all_families", dict)
    found = pc.wrap(tiny.shared(name, dtype))
    assert found.sites.family.model_types == (), "no table was used"
    assert found.ladder.strategy == known.ladder.strategy
    offered = [row["site"] for row in found.sites.rows() if row["read"]]
    assert {"resid_pre", "resid_post", "embed", "final_norm", "logits"} <= set(offered)
    for component in offered:
        site = f"{component}.1" if component not in ("embed", "final_norm", "logits") else component
        ours, theirs = (m.record(tiny.ids(1, 6), site)[site] for m in (found, known))
        assert torch.equal(ours, theirs), site


@pytest.mark.parametrize("name", ["gemma2", pytest.param("olmo2", marks=pytest.mark.slow)])
@pytest.mark.usefixtures("no_tables")
def test_a_sandwich_norm_is_not_mistaken_for_an_addition(name: str) -> None:
    """The attention module's output is not what is added there; only the algebra can tell, and it does."""
    model = pc.wrap(tiny.shared(name))
    with pytest.raises(pc.SiteError, match=r"resid_pre \+ attn_out \+ mlp_out misses resid_post by"):
        model.sites.expand("attn_out")


@pytest.mark.usefixtures("no_tables")
def test_sweeps_are_exact_without_a_table() -> None:
    model = pc.wrap(tiny.shared("llama"))
    v = torch.randn(32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    grid = model.sweep(
        tiny.ids(2, 7), pc.Add(v), sites=["attn_out", "mlp_out"], at="each", cumulative=True, read=pc.TopK(3), verify=20
    )
    assert grid.plan.strategy == "wavefront"
    assert grid.plan.difference is not None
    assert grid.plan.difference < 1e-12


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.input_norm, self.self_attn = (
            nn.LayerNorm(4),
            nn.ModuleDict({"q_proj": nn.Linear(4, 4), "last": nn.Linear(4, 4)}),
        )
        self.attn_norm, self.dropout_mlp, self.feed_forward = (
            nn.LayerNorm(4),
            nn.Dropout(),
            nn.Sequential(nn.Linear(4, 4)),
        )


class Base(nn.Module):
    """Two stacks of as many like modules as there are layers; the larger one holds the layers."""

    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        self.words = nn.Embedding(5, 4)
        self.gates = nn.ModuleList(nn.Linear(1, 1) for _ in range(layers))
        self.deep = nn.ModuleDict({"blocks": nn.ModuleList(Layer() for _ in range(layers)), "ln_f": nn.LayerNorm(4)})

    def get_input_embeddings(self) -> nn.Module:
        return self.words


def test_roles_are_found_by_structure_and_usual_names() -> None:
    found = discover(
        Base(),
        SimpleNamespace(num_hidden_layers=2, model_type="novel", is_decoder=False, architectures=["NovelForCausalLM"]),
    )
    assert (found.name, found.layers, found.embed, found.final_norm) == ("novel", "deep.blocks", "words", "deep.ln_f")
    assert (found.attn, found.mlp, found.causal, found.residual) == ("self_attn", "feed_forward", True, "other")
    assert found.sites == {
        "attn_in": "self_attn:in", "attn_out": "self_attn:out", "attn_pattern": "self_attn:out[1]", "q": "self_attn.q_proj:out",
        "z": "self_attn.last:in", "mlp_in": "feed_forward:in", "mlp_out": "feed_forward:out", "mlp_act": "feed_forward.0:in",
    }  # fmt: skip
    assert set(found.refused) == {"k", "v", "resid_mid", "mlp_pre"}
    for config, causal in (({"is_decoder": True}, True), ({"architectures": ["NovelForMaskedLM"]}, False), ({}, False)):
        assert discover(Base(), SimpleNamespace(num_hidden_layers=2, **config)).causal is causal


def test_without_a_stack_of_the_right_length_nothing_is_found() -> None:
    with pytest.raises(pc.ModelError, match="Base has no stack of 3 layers of one kind"):
        discover(Base(), SimpleNamespace(num_hidden_layers=3))
    mixed = nn.Sequential(nn.Linear(1, 1), nn.ReLU())
    with pytest.raises(pc.ModelError, match="has no stack of 2 layers"):
        discover(mixed, SimpleNamespace(num_hidden_layers=2))


def test_two_candidates_for_a_role_are_none() -> None:
    base = Base()
    for layer in base.deep["blocks"]:  # type: ignore[union-attr]
        layer.cross_attention = nn.Linear(4, 4)
    found = discover(base, SimpleNamespace(num_hidden_layers=2))
    assert found.attn is None
    assert {"attn_in", "attn_out", "z", "q"} <= set(found.refused)

"""Architectures without a table: found by structure, trusted only where the checks confirm it."""

import pytest
import torch

import patchclamp as pc
from patchclamp.models import loading
from tests import tiny

HIDDEN = ["llama", "qwen3", "gemma2", "phi", "gpt_neox", "cohere", "olmo2", "gptj", "mixtral"]


@pytest.fixture
def no_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "all_families", dict)


@pytest.mark.parametrize("name", HIDDEN)
def test_what_discovery_offers_is_what_the_table_says(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every site that it dares to name is the same tensor as the table's; what it cannot confirm it refuses."""
    dtype = torch.float32 if name in tiny.MOE else torch.float64
    known = pc.wrap(tiny.shared(name, dtype))
    monkeypatch.setattr(loading, "all_families", dict)
    found = pc.wrap(tiny.shared(name, dtype))
    assert found.sites.family.model_types == (), "no table was used"
    assert found.ladder.rung == known.ladder.rung
    offered = [row["site"] for row in found.sites.rows() if row["read"]]
    assert {"resid_pre", "resid_post", "embed", "final_norm", "logits"} <= set(offered)
    for component in offered:
        site = f"{component}.1" if component not in ("embed", "final_norm", "logits") else component
        ours, theirs = (m.record(tiny.ids(1, 6), site)[site] for m in (found, known))
        assert torch.equal(ours, theirs), site


@pytest.mark.parametrize("name", ["gemma2", "olmo2"])
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
    assert grid.plan.rung == "wavefront"
    assert grid.plan.difference is not None
    assert grid.plan.difference < 1e-12

"""The checks on opening have teeth: a model or a table that is not what it says is caught."""

import dataclasses

import pytest
import torch

import patchclamp as pc
from patchclamp.models import loading
from patchclamp.models.families import all_families
from patchclamp.models.family import ComponentPlace
from tests import tiny


def opened_with(monkeypatch: pytest.MonkeyPatch, name: str, **sites: object) -> pc.Model:
    """A tiny model opened with a table in which some rows are wrong."""
    families = all_families()
    kind = tiny.shared(name).config.model_type
    wrong = dataclasses.replace(families[kind], sites={**families[kind].sites, **sites})
    monkeypatch.setattr(loading, "all_families", lambda: {**families, kind: wrong})
    return pc.wrap(tiny.shared(name))


@pytest.mark.parametrize(
    ("name", "site", "place", "message"),
    [
        ("gemma2", "mlp_out", "mlp:out", r"resid_pre \+ attn_out \+ mlp_out misses resid_post by"),
        ("granite", "attn_out", "self_attn:out", r"resid_pre \+ attn_out \+ mlp_out misses resid_post by"),
        ("llama", "resid_mid", "input_layernorm:in", r"it misses resid_pre \+ attn_out by"),
        ("gpt_neox", "v", ComponentPlace("attention.query_key_value:out", part="v"), r"z is not a multiple of v"),
        (
            "gpt_neox",
            "v",
            ComponentPlace("attention.query_key_value:out", part="k", layout="grouped"),
            r"z is not a multiple of v",
        ),
        ("llama", "mlp_act", "mlp.no_such:in", r"there is no module 'model.layers.0.mlp.no_such'"),
        ("llama", "z", "self_attn.o_proj:out[1]", r"the module (gives|returns)"),
    ],
)
def test_a_wrong_row_in_a_table_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, site: str, place: object, message: str
) -> None:
    model = opened_with(monkeypatch, name, **{site: place})
    with pytest.raises(pc.SiteError, match=message):
        model.sites.expand(f"{site}.0")


def test_the_right_tables_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model = opened_with(monkeypatch, "gpt_neox")
    assert model.sites.expand("v.0")


class Leaky(torch.nn.Module):
    """Wraps an attention so that it also sees the number of rows in the batch: sharing rows would be wrong."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: object, **kwargs: object) -> object:
        output = self.inner(*args, **kwargs)
        return (output[0] * (1 + 0.01 * (output[0].shape[0] - 1)), *output[1:])


def test_a_model_whose_rows_touch_falls_to_one_forward_a_cell() -> None:
    module = tiny.build("llama")
    module.model.layers[1].self_attn = Leaky(module.model.layers[1].self_attn)
    model = pc.wrap(module.eval())
    assert model.ladder.strategy == "cell"
    assert "missed one forward a cell" in model.ladder.reason
    grid = model.sweep(tiny.ids(1, 5), pc.Scale(2.0), sites="mlp_out", at="each", read=pc.Logits())
    single = model.run(tiny.ids(1, 5), pc.Scale(2.0, site="mlp_out.1", at=3)).logits[0, -1]
    assert torch.equal(torch.from_numpy(grid.data.sel(layer=1, position=3).values.squeeze()), single)


class Counting(torch.nn.Module):
    """A layer whose effect depends on how many positions it is given: positions before an edit cannot be left out."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, hidden_states: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        out: torch.Tensor = self.inner(hidden_states, *args, **kwargs)
        return out + 0.01 * hidden_states.shape[1]


def test_a_model_that_counts_positions_falls_to_sharing_layers_only() -> None:
    module = tiny.build("llama")
    module.model.layers[1] = Counting(module.model.layers[1])
    model = pc.wrap(module.eval())
    assert model.ladder.strategy == "layers"
    assert "the wavefront strategy missed one forward a cell by" in model.ladder.reason
    grid = model.sweep(tiny.ids(1, 5), pc.Scale(2.0), sites="resid_post", at="each", read=pc.Logits(), verify=15)
    assert grid.plan.strategy == "layers"
    assert grid.plan.difference is not None
    assert grid.plan.difference < 1e-12


def test_a_bidirectional_llama_is_seen_to_be_one() -> None:
    module = tiny.build("llama")
    for layer in module.model.layers:
        layer.self_attn.is_causal = False
    module.config.is_causal = False
    model = pc.wrap(module.eval())
    assert not model.causal
    assert model.ladder == pc.wrap(module).ladder
    assert model.ladder.strategy == "layers"
    assert model.ladder.reason == "every position sees every other"
    grid = model.sweep(
        [*tiny.ids(1, 5), *tiny.ids(1, 3, seed=2)],
        pc.Scale(2.0),
        sites="mlp_out",
        at="each",
        read=pc.Logits(),
        verify=20,
    )
    assert grid.plan.dead == 0, "in the last layer too an edit reaches every position"


def test_attention_without_a_mask_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The known trap: sdpa's causal flag aligns top-left, so a suffix of queries without its mask attends wrongly."""
    from patchclamp.interventions import wavefront

    original = wavefront.capture_calls

    def without_mask(*args: object) -> object:
        calls, cache = original(*args)
        return [(a, {**k, "attention_mask": None}) for a, k in calls], cache

    monkeypatch.setattr(wavefront, "capture_calls", without_mask)
    assert pc.wrap(tiny.build("llama")).ladder.strategy == "layers"


def test_a_module_that_runs_twice_is_no_site() -> None:
    module = tiny.build("llama")
    mlp = module.model.layers[1].mlp
    module.model.layers[1].mlp = torch.nn.Sequential(mlp, torch.nn.Identity())
    module.model.layers[0].mlp = module.model.layers[1].mlp
    model = pc.wrap(module.eval())
    with pytest.raises(pc.SiteError, match="mlp_pre"):
        model.sites.expand("mlp_pre.1")
    shared = tiny.build("llama")
    shared.model.layers[2] = shared.model.layers[1]
    with pytest.raises(pc.SiteError, match="runs 2 times in one forward pass"):
        pc.wrap(shared).sites.expand("mlp_out.1")

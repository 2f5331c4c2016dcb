"""From names to columns: units of whole, fused and interleaved projections, and what a model's table says."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import patchclamp as pc
from patchclamp.models.family import ComponentPlace, Family, Variant
from patchclamp.models.sitemap import Access, Heads, _columns, _match, columns_of
from patchclamp.models.sites import Site, Unit
from tests import tiny

FUSED = nn.Linear(1, 24)
HEADS = Heads(query=4, key=2, size=3)


def picked(columns: object, width: int = 24) -> list[int]:
    return torch.arange(width)[columns].tolist()  # type: ignore[index]


def test_fused_projections_are_divided_as_they_are_laid_out() -> None:
    """Four query heads, two key heads, size 3: all q, all k, all v; or per key head its two q, then k, then v."""
    flat = {part: picked(_columns(ComponentPlace(":out", part=part), HEADS, FUSED)) for part in ("q", "k", "v")}  # type: ignore[arg-type]
    assert flat == {"q": list(range(12)), "k": list(range(12, 18)), "v": list(range(18, 24))}
    grouped = {
        part: picked(_columns(ComponentPlace(":out", part=part, layout="grouped"), HEADS, FUSED))
        for part in ("q", "k", "v")
    }  # type: ignore[arg-type]
    assert grouped == {
        "q": [0, 1, 2, 3, 4, 5, 12, 13, 14, 15, 16, 17], "k": [6, 7, 8, 18, 19, 20], "v": [9, 10, 11, 21, 22, 23],
    }  # fmt: skip
    assert picked(_columns(ComponentPlace(":out", part="gate"), None, FUSED)) == list(range(12))
    assert _columns(ComponentPlace(":out"), HEADS, FUSED) is None


@pytest.mark.parametrize("columns", [None, slice(6, 18), torch.arange(24)[1::2]])
def test_a_unit_is_its_part_of_the_sites_columns(columns: slice | torch.Tensor | None) -> None:
    whole = picked(columns) if columns is not None else list(range(24))
    width = len(whole)
    access = Access("m", "out", columns=columns, units=4)
    assert columns_of(access, None, width) is columns
    size = width // 4
    for head in range(4):
        assert picked(columns_of(access, Unit("h", head), width)) == whole[head * size : (head + 1) * size]
    for neuron in (0, 5, width - 1):
        assert picked(columns_of(access, Unit("n", neuron), width)) == [whole[neuron]]


def test_heads_are_read_off_the_config() -> None:
    def of(**config: object) -> Heads | None:
        return Heads.of(SimpleNamespace(**config))

    assert of(num_attention_heads=4, hidden_size=32) == Heads(4, 4, 8)
    assert of(num_attention_heads=4, hidden_size=32, num_key_value_heads=2, head_dim=16) == Heads(4, 2, 16)
    assert of(num_attention_heads=4, hidden_size=32, num_key_value_heads=None, head_dim=None) == Heads(4, 4, 8)
    assert of(hidden_size=32) is None
    assert of(num_attention_heads=4) is None
    falcon = {"model_type": "falcon", "num_attention_heads": 4, "hidden_size": 32, "num_kv_heads": 2}
    assert of(**falcon, new_decoder_architecture=True, multi_query=True) == Heads(4, 2, 8)
    assert of(**falcon, new_decoder_architecture=False, multi_query=True) == Heads(4, 1, 8)
    assert of(**falcon, new_decoder_architecture=False, multi_query=False) == Heads(4, 4, 8)


def test_stages_of_blocks_are_one_stack() -> None:
    stages = nn.Sequential(nn.Sequential(nn.ReLU(), nn.ReLU()), nn.Sequential(nn.ReLU()))
    module = nn.Module()
    module.add_module("stages", stages)
    modules = dict(module.named_modules())
    assert _match(modules, "stages") == ["stages.0", "stages.1"]
    assert _match(modules, "stages.*") == ["stages.0.0", "stages.0.1", "stages.1.0"]
    assert _match(modules, "nowhere") == _match(modules, "nowhere.*") == []


def test_the_table_of_sites(llama: pc.Model) -> None:
    rows = {row["site"]: row for row in llama.sites.rows()}
    assert {name: row["shape"] for name, row in rows.items()} == {
        "embed": "32", "resid_pre": "32", "attn_in": "32", "q": "4 x 8", "k": "2 x 8", "v": "2 x 8", "attn_pattern": "",
        "z": "4 x 8", "attn_out": "32", "resid_mid": "32", "mlp_in": "32", "mlp_pre": "48", "mlp_act": "48", "mlp_out": "32",
        "resid_post": "32", "final_norm": "32", "logits": "97",
    }  # fmt: skip
    assert {
        row["layers"] for name, row in rows.items() if name in ("embed", "final_norm", "logits", "attn_pattern")
    } == {""}
    assert rows["z"]["layers"] == "0-2"
    assert [name for name, row in rows.items() if not row["read"]] == ["attn_pattern"]
    assert [name for name, row in rows.items() if not row["write"]] == ["attn_pattern"]
    assert rows["z"]["note"] == "each head's weighted sum of values, before the output projection"


def test_patterns_are_listed_where_they_can_be_read_and_never_written() -> None:
    model = pc.wrap(tiny.build("llama", attention="eager"))
    (row,) = (row for row in model.sites.rows() if row["site"] == "attn_pattern")
    assert (row["read"], row["write"]) == (True, False)
    assert "edit q or k" in row["note"]
    with pytest.raises(pc.SiteError, match="attn_pattern.1 is read-only"):
        model.sites.check_writable(Site("attn_pattern", 1))
    model.sites.check_writable(Site("z", 1))


def test_widths_of_sites_units_and_modules(llama: pc.Model) -> None:
    def width(name: str) -> int | None:
        return llama.sites.width(Site.parse(name))

    widths = {"z.1": 32, "z.1.h2": 8, "k.1": 16, "k.1.h1": 8, "mlp_act.0": 48, "mlp_act.0.n7": 1, "logits": 97}
    assert {name: width(name) for name in widths} == widths
    path = "model.layers.1.mlp.down_proj"
    assert (width(f"{path}:in"), width(f"{path}:out"), width(f"{path}:out.n3")) == (48, 32, 1)
    assert width("model.layers.1.mlp.act_fn:out") is None
    assert width(f"{path}:out[0]") is None
    assert width("nowhere:out") is None
    lstm = pc.wrap(nn.LSTM(4, 5, bidirectional=True).eval())
    assert [lstm.sites.width(Site.parse(f":{side}")) for side in ("in", "out")] == [4, 10]


@pytest.mark.parametrize(
    ("name", "names"),
    [
        (Site("z", 1, Unit("h", 3)), ["z.1.h3"]),
        ("z.-3.h0-1", ["z.0.h0", "z.0.h1"]),
        ("mlp_act.1.n0,47", ["mlp_act.1.n0", "mlp_act.1.n47"]),
        ("model.layers.1.mlp:in.n3", ["model.layers.1.mlp:in.n3"]),
        (["logits", "resid_mid.0"], ["logits", "resid_mid.0"]),
    ],
)
def test_names_are_expanded_in_the_order_given(llama: pc.Model, name: object, names: list[str]) -> None:
    assert [str(site) for site in llama.sites.expand(name)] == names  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mlp_out.-4", r"layer -4 of 'mlp_out' is outside this model's layers 0\.\.2"),
        ("z.1.h4", r"there are 4 of them, so head 4 is outside 0\.\.3"),
        ("mlp_act.1.n48", r"there are 48 of them, so neuron 48"),
        ("resid_post.1.h*", "those that are: z, q, k and v"),
    ],
)
def test_the_first_place_outside_is_refused(llama: pc.Model, text: str, message: str) -> None:
    with pytest.raises(pc.SiteError, match=message):
        llama.sites.expand(text)


def test_a_derived_family_merges_tables_and_drops_what_it_refuses() -> None:
    base = Family(
        "base",
        ("base",),
        "layers",
        "embed",
        "norm",
        {"z": "a:in", "q": "b:out"},
        {"k": "no k"},
        weights={"mlp_up": "up"},
    )
    made = base.derive("made", sites={"q": "c:out", "v": "d:out"}, refused={"z": "no z"}, weights={"other": "w"})
    assert (made.name, made.model_types, made.layers) == ("made", ("made",), "layers")
    assert made.sites == {"q": "c:out", "v": "d:out"}
    assert made.refused == {"k": "no k", "z": "no z"}
    assert made.weights == {"mlp_up": "up", "other": "w"}
    assert base.derive("same", "one", "two").model_types == ("one", "two")
    assert base.sites == {"z": "a:in", "q": "b:out"}, "the family itself is left as it was"


def test_a_variant_is_chosen_by_the_config_alone() -> None:
    variants = (
        Variant("parallel", True, refused={"q": "none"}, residual="parallel"),
        Variant("fused", 2, sites={"z": "x:in"}),
    )
    base = Family(
        "base", ("a", "b"), "layers", None, None, {"z": "a:in", "q": "b:out"}, residual="other", variants=variants
    )
    plain = base.for_config(SimpleNamespace(parallel=False, fused=1))
    assert plain is base
    assert base.for_config(SimpleNamespace()) is base
    both = base.for_config(SimpleNamespace(parallel=True, fused=2))
    assert (both.name, both.model_types, both.sites, both.refused, both.residual) == (
        "base", ("a", "b"), {"z": "x:in"}, {"q": "none"}, "parallel",
    )  # fmt: skip
    assert base.for_config(SimpleNamespace(fused=2)).residual == "other"

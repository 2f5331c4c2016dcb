import pytest
from hypothesis import given
from hypothesis import strategies as st

import patchclamp as pc
from patchclamp.models.components import COMPONENTS
from patchclamp.models.sites import Site, SitePattern, Unit

layered = st.sampled_from([name for name, row in COMPONENTS.items() if row.per_layer])
units = st.none() | st.builds(Unit, st.sampled_from("hn"), st.integers(0, 4000))
paths = st.lists(st.from_regex(r"[a-z_][a-z0-9_]{0,6}|[0-9]", fullmatch=True), max_size=4).map(".".join)


@given(layered, st.integers(0, 99), units)
def test_named_sites_round_trip(component: str, layer: int, unit: Unit | None) -> None:
    site = Site(component, layer, unit)
    assert Site.parse(str(site)) == site


@given(paths, st.sampled_from(["in", "out"]), st.lists(st.integers(0, 3), max_size=2), units)
def test_raw_sites_round_trip(path: str, side: str, keys: list[int], unit: Unit | None) -> None:
    text = f"{path}:{side}" + "".join(f"[{k}]" for k in keys) + (f".{unit}" if unit else "")
    site = Site.parse(text)
    assert (site.module, site.side, site.keys, site.unit) == (path, side, tuple(keys), unit)
    assert str(site) == text


@pytest.mark.parametrize(
    ("text", "layers", "units"),
    [
        ("mlp_out", None, None),
        ("mlp_out.*", None, None),
        ("mlp_out.0-2", (0, 1, 2), None),
        ("mlp_out.-1", (-1,), None),
        ("mlp_out.-3--1", (-3, -2, -1), None),
        ("mlp_out.0,3,7", (0, 3, 7), None),
        ("embed", (None,), None),
        ("z.5.h0-1", (5,), (Unit("h", 0), Unit("h", 1))),
        ("z.*.h*", None, "*"),
        ("mlp_act.5.n1,1024", (5,), (Unit("n", 1), Unit("n", 1024))),
        ("z.h3", None, (Unit("h", 3),)),
        ("mlp_out.2-2", (2,), None),
        ("logits.n7", (None,), (Unit("n", 7),)),
    ],
)
def test_patterns(text: str, layers: object, units: object) -> None:
    pattern = SitePattern.parse(text)
    assert pattern.layers == layers
    assert pattern.units == units


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mlpout.5", "did you mean 'mlp_out'"),
        ("mlp_out.x", "'x' is not a layer"),
        ("mlp_out.5-2", "runs backwards"),
        ("embed.3", "takes no layer"),
        ("z.5.q3", "'q3' is not a unit"),
        ("z.5.h3.n2", "too many parts"),
        ("", "unknown site ''"),
        ("model.layers.7.mlp", "or a module path with its port"),
    ],
)
def test_wrong_names_say_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(pc.SiteError, match=message):
        SitePattern.parse(text)


def test_units_of_every_kind_and_keys_into_what_a_module_gives() -> None:
    assert SitePattern.parse("mlp_act.5.n*").unit_kind == "n"
    assert SitePattern.parse("z.5.h*").unit_kind == "h"
    raw = SitePattern.parse("a.b:out[hidden][-1]['x'].h*")
    assert (raw.component, raw.layers, raw.units, raw.unit_kind) == ("a.b:out[hidden][-1]['x']", (None,), "*", "h")
    assert (raw.module, raw.side, raw.keys) == ("a.b", "out", ("hidden", -1, "x"))


def test_sites_are_sorted_as_the_pass_meets_them() -> None:
    order = [
        "embed", "resid_pre.0", "attn_in.0", "q.0", "z.0", "attn_out.0", "resid_mid.0", "mlp_act.0.n1", "mlp_act.0.n2",
        "mlp_out.0", "resid_post.0", "resid_pre.1", "resid_post.10", "final_norm", "logits", "a:out", "b:in",
    ]  # fmt: skip
    sites = [Site.parse(name) for name in order]
    assert sorted(reversed(sites), key=lambda site: site.sort_key) == sites
    assert [str(site.whole) for site in sites[7:9]] == ["mlp_act.0", "mlp_act.0"]
    assert Site.parse("a:out[1].h2").whole == Site.parse("a:out[1]")


def test_one_site_is_needed_where_one_is_needed() -> None:
    for text in ("mlp_out", "mlp_out.0-3", "z.1.h*", "z.1.h0-1", "z.*.h1"):
        with pytest.raises(pc.SiteError, match="names several sites"):
            Site.parse(text)


def test_expansion_on_a_model(llama: pc.Model) -> None:
    def names(*given: str) -> list[str]:
        return [str(site) for site in llama.sites.expand(list(given))]

    assert names("mlp_out") == ["mlp_out.0", "mlp_out.1", "mlp_out.2"]
    assert names("mlp_out.-1", "embed") == ["mlp_out.2", "embed"]
    assert names("k.1.h*") == ["k.1.h0", "k.1.h1"]
    assert names("model.layers.1.mlp:out") == ["model.layers.1.mlp:out"]
    assert llama.sites.width(Site.parse("z.1.h2")) == 8
    assert llama.sites.width(Site.parse("k.1")) == 16


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mlp_out.3", r"layer 3 of 'mlp_out' is outside this model's layers 0\.\.2"),
        ("z.1.h4", r"there are 4 of them, so head 4 is outside 0\.\.3"),
        ("k.1.h2", r"there are 2 of them"),
        ("mlp_act.1.n48", r"neuron 48 is outside 0\.\.47"),
        ("resid_post.1.h0", "is not divided into heads"),
        ("model.layers.1.mpl:out", "did you mean 'model.layers.1.mlp'"),
        ("attn_pattern.1", "attn_implementation='eager'"),
    ],
)
def test_what_the_model_lacks_is_refused(llama: pc.Model, text: str, message: str) -> None:
    with pytest.raises(pc.SiteError, match=message):
        llama.sites.expand(text)


def test_the_table_prints_every_component(llama: pc.Model) -> None:
    printed = str(llama.sites)
    assert all(name in printed for name in COMPONENTS)
    assert "4 x 8" in printed
    assert "load the model with attn_implementation='eager'" in printed

"""One battery that every architecture passes: sites mean what their names say, and sweeps are exact."""

from collections.abc import Iterable
from functools import cache
from typing import Any

import pytest
import torch

import patchclamp as pc
from patchclamp.models.components import COMPONENTS
from patchclamp.models.families import all_families
from tests import tiny
from tests.traces import no_trace

ALL = set(COMPONENTS)
SDPA = {"attn_pattern"}
NO_MID = {"resid_mid"}
EXPERTS = {"mlp_pre", "mlp_act"}
RESIDUAL_ONLY = ALL - {"embed", "resid_pre", "resid_post", "final_norm", "logits"}

# family -> what it refuses; every other component must be usable in every layer
REFUSED = {
    "llama": SDPA, "mistral": SDPA, "mixtral": SDPA | EXPERTS, "qwen2": SDPA, "qwen3": SDPA, "gemma": SDPA, "gemma2": set(),
    "gemma3": SDPA, "phi": SDPA | NO_MID, "phi3": SDPA, "gpt2": SDPA, "gpt_bigcode": SDPA,
    "gpt_bigcode_heads": SDPA, "gpt_neo": set(), "gpt_neox": SDPA | NO_MID,
    "gpt_neox_sequential": SDPA, "gptj": NO_MID, "opt": SDPA, "opt_post_norm": SDPA | NO_MID | {"final_norm"},
    "falcon": SDPA | NO_MID, "falcon_new": SDPA | NO_MID, "falcon_alibi": SDPA, "bloom": set(), "olmo2": SDPA, "stablelm": SDPA,
    "stablelm_parallel": SDPA | NO_MID, "granite": SDPA, "starcoder2": SDPA, "cohere": SDPA | NO_MID, "glm4": SDPA,
    "smollm3": SDPA, "gpt_oss": EXPERTS, "mamba": RESIDUAL_ONLY, "bert": SDPA | {"final_norm"}, "vit": SDPA,
    "resnet": RESIDUAL_ONLY | {"final_norm"},
}  # fmt: skip
STRATEGY = {"mamba": "layers", "bert": "layers", "vit": "rows", "resnet": "rows"}
TOKENS = [name for name in tiny.FAMILIES if name not in ("vit", "resnet")]
WITH_HEADS = [name for name in tiny.DECODERS if name != "mamba"]

TELLING = {
    "llama",  # separate projections, a gated MLP, fewer key heads than query heads
    "gpt2",  # one projection for all q, all k, all v; a plain MLP
    "falcon_new",  # one projection in groups; parallel blocks
    "gemma2",  # norms after the sublayers, a local window, capped logits
    "bloom",  # position biases that go from layer to layer; the sublayers add the residual themselves
    "mixtral",  # experts
    "mamba",  # a recurrent state
    "bert",  # looks both ways
    "vit",  # pictures
    "resnet",  # maps without heads
}
"""Families that the short form puts through the long tests: one for each thing that the code has to tell apart."""
FUSED = {
    "gpt2",
    "gpt_bigcode",
    "gpt_bigcode_heads",
    "gpt_neox",
    "phi3",
    "falcon",
    "falcon_new",
    "falcon_alibi",
    "bloom",
}
"""Families whose queries, keys and values come out of one projection."""


def chosen(names: Iterable[str], short: set[str]) -> list[Any]:
    """All of them, those that the short form leaves out marked as slow."""
    return [name if name in short else pytest.param(name, marks=pytest.mark.slow) for name in names]


def dtype_of(name: str) -> torch.dtype:
    return torch.float32 if name in tiny.MOE else torch.float64


def tolerance(name: str) -> float:
    """Of a relative error: what the model's own arithmetic allows."""
    return 1e-6 if name in tiny.MOE else 1e-8 if name in tiny.FP32_ATTENTION else 1e-12


@cache
def opened(name: str) -> pc.Model:
    return pc.wrap(tiny.shared(name, dtype_of(name)))


def inputs(name: str, length: int = 9) -> Any:
    if name in ("vit", "resnet"):
        size = 16 if name == "vit" else 32
        return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    return tiny.ids(1, length)


def close(found: torch.Tensor, wanted: torch.Tensor, name: str) -> bool:
    return float((found - wanted).abs().max() / wanted.abs().max()) <= tolerance(name)


def vector(model: pc.Model, site: str, size: float = 1.0) -> torch.Tensor:
    width = model.sites.width(model.sites.expand([site])[0])
    assert width is not None
    return size * torch.randn(width, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def logits(model: pc.Model, name: str, *edits: pc.Edit) -> torch.Tensor:
    return model.run(inputs(name), list(edits)).logits


def test_every_declared_family_has_a_row() -> None:
    built = {tiny.shared(name, dtype_of(name)).config.model_type for name in tiny.FAMILIES}
    assert set(all_families()) == built
    assert set(REFUSED) == set(tiny.FAMILIES)


@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_usable_sites_are_exactly_the_declared_ones_and_others_are_refused_with_a_reason(name: str) -> None:
    model = opened(name)
    missing = {row["site"] for row in model.sites.rows() if not row["read"]}
    assert missing == REFUSED[name]
    assert all("only layers" not in row["note"] for row in model.sites.rows())
    assert model.ladder.strategy == STRATEGY.get(name, "wavefront"), model.ladder.reason
    for component in REFUSED[name]:
        with pytest.raises(pc.SiteError, match=r"has no usable|no module|not in this model"):
            model.sites.expand([component])


@pytest.mark.parametrize("name", TOKENS)
def test_the_stream_is_the_sum_of_what_is_added(name: str) -> None:
    model = opened(name)
    if name in ("mamba", "bert", "opt_post_norm"):
        pytest.skip("a layer of this family is not a sum of attention and MLP")
    acts = model.record(inputs(name), ["resid_pre", "attn_out", "mlp_out", "resid_post"])
    assert close(acts["resid_pre"] + acts["attn_out"] + acts["mlp_out"], acts["resid_post"], name)
    assert not close(acts["resid_pre"] + acts["attn_out"], acts["resid_post"], name)


SAME_EFFECT = [("resid_mid", "attn_out"), ("mlp_out", "resid_post"), ("attn_out", "resid_mid")]


@pytest.mark.parametrize("name", chosen(WITH_HEADS, TELLING | {"granite", "olmo2", "opt"}))
def test_adding_where_two_sites_carry_one_vector_has_one_effect(name: str) -> None:
    """resid_mid = resid_pre + attn_out and resid_post = resid_mid + mlp_out, as edits and not only as readings."""
    model = opened(name)
    pairs = [pair for pair in SAME_EFFECT if not set(pair) & REFUSED[name]]
    pairs = [("mlp_out", "attn_out"), ("mlp_out", "resid_post")] if "resid_mid" in REFUSED[name] else pairs
    if name == "opt_post_norm":
        pytest.skip("the stream is normalised between the sublayers")
    for first, second in pairs:
        v = vector(model, f"{first}.1")
        one, two = (logits(model, name, pc.Add(v, site=f"{site}.1", at=3)) for site in (first, second))
        assert close(one, two, name), (first, second)
        assert not close(one, logits(model, name), name)


@pytest.mark.parametrize("name", chosen(tiny.FAMILIES, TELLING | {"phi3", "opt_post_norm"}))
def test_an_edit_is_what_the_site_then_reads(name: str) -> None:
    """Writing and reading agree at every writable site, at the edited position and nowhere else."""
    model = opened(name)
    at = 3 if name in TOKENS else 2
    for row in model.sites.rows():
        if not row["write"]:
            continue
        site = f"{row['site']}.1" if row["layers"] else row["site"]
        v = vector(model, site)
        here = 0 if name in ("vit", "resnet") and site == "logits" else at
        before = model.record(inputs(name), site)[site].double()
        after = model.record(inputs(name), site, edits=[pc.Add(v, site=site, at=here)])[site].double()
        change = (after - before).flatten(2) if after.ndim > 2 else (after - before)
        moved = change[0, here] if change.ndim > 2 else change[0]
        assert torch.allclose(moved, v, atol=max(1e-9, 30 * tolerance(name))), site
        if change.ndim > 2:
            others = [i for i in range(change.shape[1]) if i != here]
            assert bool((change[0, others] == 0).all()), site


@pytest.mark.parametrize("name", chosen(tiny.FAMILIES, TELLING))
def test_every_writable_site_reaches_the_output(name: str) -> None:
    """The negative control of every other test here: no site is a silent no-op."""
    model = opened(name)
    plain = logits(model, name)
    for row in model.sites.rows():
        if row["write"]:
            site = f"{row['site']}.1" if row["layers"] else row["site"]
            at = "all" if name == "resnet" else 0 if name == "vit" else 1  # ViT reads its class token, at 0, only
            assert not close(logits(model, name, pc.Add(vector(model, site), site=site, at=at)), plain, name), site


@pytest.mark.parametrize("name", chosen(WITH_HEADS, FUSED | {"llama"}))
def test_a_head_edit_stays_in_its_head(name: str) -> None:
    """An edit of one query, key or value head changes the z of its own heads only: the fused layouts are read right."""
    model = opened(name)
    heads = model.sites.heads
    assert heads is not None
    group = heads.query // heads.key
    before = model.record(inputs(name), "z.1")["z.1"]
    joint = name == "olmo2"  # its norm runs over all query (or key) heads together, after the site
    for component, count in (("q", heads.query), ("k", heads.key), ("v", heads.key))[2 * joint :]:
        for head in range(count):
            v = vector(model, f"{component}.1.h{head}", 3.0)
            after = model.record(inputs(name), "z.1", edits=[pc.Add(v, site=f"{component}.1.h{head}", at=4)])["z.1"]
            changed = {int(h) for h in ((after - before).abs().amax(dim=(0, 1, 3)) > 1e-9).nonzero()}
            mine = {head} if component == "q" else set(range(head * group, (head + 1) * group))
            assert changed == mine, (component, head)
            assert bool(((after - before)[:, :4].abs() < 1e-9).all()), "an edit at position 4 reached an earlier one"


@pytest.mark.parametrize("name", WITH_HEADS)
def test_values_are_what_the_model_caches(name: str) -> None:
    """v against an independent witness: transformers' own key-value cache."""
    model = opened(name)
    ids = torch.tensor(inputs(name))
    with torch.no_grad():
        cache = model.module(input_ids=ids, use_cache=True).past_key_values
    recorded = model.record(inputs(name), "v.1")["v.1"]  # [prompt, position, head, d_head]
    cached = cache.layers[1].values.transpose(1, 2)
    recorded = recorded.repeat_interleave(cached.shape[2] // recorded.shape[2], dim=2)
    assert torch.equal(recorded[:, -cached.shape[1] :], cached)
    assert not torch.equal(recorded.flip(2)[:, -cached.shape[1] :], cached) or recorded.shape[2] == 1, (
        "each head its own"
    )


@pytest.mark.parametrize("name", WITH_HEADS)
def test_weights_by_role_make_their_sites(name: str) -> None:
    """The matrix of a role times what the sublayer reads (and its bias) is the site."""
    model = opened(name)
    acts = model.record(inputs(name), ["attn_in.1", "q.1", "k.1", "v.1"])
    x = acts["attn_in.1"]
    for role in ("q", "k", "v"):
        site = acts[f"{role}.1"].flatten(2)
        guess = x @ model.weight(f"{role}.1")
        rest = site - guess  # the bias, the same at every position
        assert torch.allclose(rest, rest[:, :1].expand_as(rest), atol=1e-5 if name in tiny.MOE else 1e-9), role
        heads = model.sites.heads
        assert heads is not None
        last = (heads.query if role == "q" else heads.key) - 1
        assert torch.equal(model.weight(f"{role}.1.h{last}"), model.weight(f"{role}.1")[:, last * heads.size :])


def _sweeps(model: pc.Model, name: str, strategy: str | None, **options: Any) -> list[Any]:
    """Single, cumulative and patching sweeps over what this family has."""
    usable = [row["site"] for row in model.sites.rows() if row["write"]]
    streams = [site for site in ("attn_out", "mlp_out", "resid_post") if site in usable]
    read = [pc.Logits(), pc.KL(at=[2, -1])]
    v = vector(model, "resid_post.0")
    prompts = [*tiny.ids(2, 6), *tiny.ids(1, 4, seed=5)]
    found = [
        model.sweep(prompts, pc.Add(v), sites=streams, at="each", read=read, strategy=strategy, **options),
        model.sweep(
            prompts[:1], pc.Add(v), sites=streams, at="each", cumulative=True, read=read, strategy=strategy, **options
        ),
        model.patch(prompts[0], prompts[1], sites=[*streams, "resid_pre"], read=read, strategy=strategy, **options),
    ]
    if "z" in usable:
        found.append(
            model.patch(prompts[0], prompts[1], sites=["z.*.h*"], at=-2, read=read, strategy=strategy, **options)
        )
        scale = pc.Scale(3.0)
        found.append(
            model.sweep(
                prompts, scale, sites=["q", "k", "v", "mlp_in"], at="each", read=read, strategy=strategy, **options
            )
        )
    return found


@pytest.mark.parametrize("name", chosen(TOKENS, {"llama", "falcon_new"}))
def test_sweeps_equal_one_forward_a_cell(name: str) -> None:
    model = opened(name)
    for fast, slow in zip(_sweeps(model, name, None), _sweeps(model, name, "cell"), strict=True):
        assert fast.plan.strategy == STRATEGY.get(name, "wavefront"), fast.plan.reason
        found, wanted = (torch.from_numpy(grid.dataset["logits"].values) for grid in (fast, slow))
        assert torch.equal(found.isnan(), wanted.isnan())
        assert close(found.nan_to_num(), wanted.nan_to_num(), name)
        moved = abs(slow.dataset["logits"] - slow.dataset["baseline:logits"]).max()
        assert float(moved) > 1e3 * tolerance(name) * float(wanted.nan_to_num().abs().max()), "the edits do something"


@pytest.mark.sensitive
@pytest.mark.parametrize("name", chosen(TOKENS, TELLING))
def test_padding_changes_nothing(name: str) -> None:
    """Alone, in a batch of unequal lengths, and given with left or right padding: the same numbers."""
    model = opened(name)
    prompts = [*tiny.ids(1, 9), *tiny.ids(1, 5, seed=3), *tiny.ids(1, 7, seed=4)]
    edit = pc.Add(vector(model, "resid_post.1"), site="resid_post.1", at=-2)
    together = model.run(prompts, [edit])
    alone = [model.run([prompt], [edit]).logits[0] for prompt in prompts]
    allowed = tiny.FP32_PADDING if name in tiny.FP32_SOFTMAX else tolerance(name)
    for row, prompt, single in zip(together.logits, prompts, alone, strict=True):
        assert (row[: len(prompt)] - single).abs().max() <= allowed * single.abs().max()
        assert bool(row[len(prompt) :].isnan().all())
    for side in ("left", "right"):
        pads = [[0] * (9 - len(p)) for p in prompts]
        ids = torch.tensor([pad + p if side == "left" else p + pad for p, pad in zip(prompts, pads, strict=True)])
        mask = torch.tensor([[0] * len(pad) + [1] * len(p) if side == "left" else [1] * len(p) + [0] * len(pad) for p, pad in zip(prompts, pads, strict=True)])  # fmt: skip
        padded = model.run({"input_ids": ids, "attention_mask": mask}, [edit])
        assert torch.equal(padded.logits.nan_to_num(), together.logits.nan_to_num())


@pytest.mark.parametrize("name", chosen(tiny.DECODERS, TELLING))
def test_generation_with_cache_equals_full_forwards(name: str) -> None:
    """Each new token is what one full forward over the text so far gives, under the same edits; alone and in a batch."""
    model = opened(name)
    prompts = [*tiny.ids(1, 8), *tiny.ids(1, 5, seed=3)]
    v = vector(model, "resid_post.1", 2.0)
    edits = [pc.Add(v, site="resid_post.1", at="generated"), pc.Scale(1.5, site="resid_post.0", at=-1)]
    new = 4
    made = model.generate(prompts, edits, max_new_tokens=new, eos_token_id=None)
    assert made.fired == (2 * (new - 1), 2)
    for prompt, ids in zip(prompts, made.ids, strict=True):
        assert model.generate([prompt], edits, max_new_tokens=new, eos_token_id=None).ids == (ids,)
        text = list(prompt)
        for token in ids:
            later = list(range(len(prompt), len(text)))
            written = [pc.Scale(1.5, site="resid_post.0", at=len(prompt) - 1)]
            written += [pc.Add(v, site="resid_post.1", at=later)] if later else []
            assert int(model.run([text], written).logits[0, -1].argmax()) == token
            text.append(token)
    assert made.ids != model.generate(prompts, max_new_tokens=new, eos_token_id=None).ids


@pytest.mark.parametrize("name", chosen(tiny.FAMILIES, {"llama", "mixtral", "mamba", "vit"}))
def test_nothing_is_left_behind(name: str) -> None:
    module = tiny.build(name, dtype_of(name))
    with torch.no_grad():
        x = inputs(name)
        module(
            torch.tensor(x) if isinstance(x, list) else x.to(dtype_of(name))
        )  # transformers installs its recorders on the first call
    with no_trace(module):
        model = pc.wrap(module)
        model.run(inputs(name), [pc.Scale(2.0, site="resid_post.1")], record="resid_post.0")
        model.sweep(inputs(name), pc.Scale(2.0), sites="resid_post", read=pc.TopK(2))
        with pytest.raises(pc.EditError):
            model.run(inputs(name), [pc.Call(lambda x: x[..., :1], site="resid_post.1")])

"""A baked copy is the hooked model, in every family that can express the edit; the others say why, and what is near."""

from collections.abc import Iterable, Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import patchclamp as pc
from patchclamp.baking import bake
from patchclamp.baking.folding import Folding
from tests import tiny
from tests.effort import examples
from tests.traces import no_trace

STREAM = ("resid_pre", "resid_mid", "resid_post")
NORMED = ("gemma2", "gemma3", "olmo2", "glm4")
"""A norm stands between what a sublayer's weight makes and the stream."""
OTHER = ("mamba", "opt_post_norm")
PLAIN = [name for name in tiny.DECODERS if name not in (*NORMED, *OTHER)]
BIASED = [
    "phi", "gpt2", "gpt_neo", "gpt_neox", "gpt_neox_sequential", "gptj", "opt", "falcon_alibi", "bloom", "starcoder2",
]  # fmt: skip
"""Their MLP's output projection has a bias."""
QUICK = ("llama", "mixtral", "gemma", "gpt2", "gpt_neox", "falcon")
"""Gated and plain MLPs, experts, tied tables, position tables, scaled embeddings, parallel blocks, fused projections of two
layouts: what the short form tries of the edits of the whole stream. Other tests name what tells most there."""


def families(names: Iterable[str], quick: Sequence[str] = QUICK) -> list[Any]:
    """Parameters of a test: the others are slow, and those in float32 with a routing that could tip are sensitive."""
    marks = {
        name: [pytest.mark.slow] * (name not in quick) + [pytest.mark.sensitive] * (name in tiny.MOE) for name in names
    }
    return [pytest.param(name, marks=its, id=name) for name, its in marks.items()]


def allowed(model: pc.Model) -> float:
    """How far two ways of one sum may lie apart, relative to the largest logit.

    A weight is rounded once; a product of width d sums d terms in some order, which is off by at most d roundings; and a
    model has two blocks a layer and its head. (Attention in float32 rounds so whatever the type of the weights.) In float32
    roundings do not all point one way, and less is enough.
    """
    family = model.sites.family.name
    rounding = torch.finfo(torch.float32 if family in tiny.FP32_ATTENTION else model.dtype).eps
    return min(rounding * 48 * (2 * model.sites.n_layers + 1), 1e-5)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


D, C, R = draw(1, 2, 32), draw(2, 32), draw(3, 2, 32)
READERS = D + 0.2 * R


@cache
def opened(name: str) -> pc.Model:
    return pc.wrap(tiny.shared(name, torch.float32 if name in tiny.MOE else torch.float64))


def every(model: pc.Model) -> list[str]:
    return [row["site"] for row in model.sites.rows() if row["site"] in STREAM and row["write"]]


def error(model: pc.Model, module: torch.nn.Module, edits: Any, seed: int = 21) -> float:
    """Of the logits, relative to the largest, on prompts that the baking did not compare on."""
    prompts = tiny.ids(3, 9, seed=seed)
    wanted = model.run(prompts, edits).logits
    with torch.no_grad():
        found = module(torch.tensor(prompts)).logits
    return float((wanted - found).abs().max() / wanted.abs().max())


def assert_same(name: str, edits: Any) -> torch.nn.Module:
    """Bake, compare, and show that the edit does something and that the model is as it was."""
    model = opened(name)
    with no_trace(model.module):
        module = pc.baked(model, edits)
    assert error(model, module, edits) <= allowed(model)
    assert error(model, module, []) > 1e-4, "the edit does something"
    return module


WHOLE = [
    pytest.param(case.id, read_vectors, marks=case.marks, id=f"{case.id}-{kind}")
    for kind, read_vectors, names in (
        ("oblique", READERS, [name for name in PLAIN if name != "bloom"]),
        ("straight", None, ["llama", "gpt2", "gpt_neox"]),
    )
    for case in families(names)
]


@pytest.mark.parametrize(("name", "read_vectors"), WHOLE)
def test_a_projection_of_the_whole_stream_about_a_point(name: str, read_vectors: Tensor | None) -> None:
    """Sequential and parallel blocks, multipliers, tied embeddings, position tables, biases, mixtures of experts."""
    model = opened(name)
    edit = pc.ProjectOut(D, about=C, read_vectors=read_vectors, site=every(model))
    module = assert_same(name, edit)
    baked = pc.wrap(module)
    reads = D if read_vectors is None else read_vectors
    for site in every(model):
        states = baked.record(tiny.ids(1, 6, seed=4), site)[site].double()
        bound = min(1e-4, 32 * allowed(model) * float(reads.abs().max())) * float(states.abs().max())
        assert ((states - C) @ reads.T).abs().max() <= bound, "the coordinates are pinned everywhere"


@pytest.mark.parametrize("name", families(["llama", "gpt2", "gpt_neox"], quick=["gpt2"]))
@pytest.mark.parametrize(
    "make",
    [
        lambda site: [pc.Clamp(0.4, 0.4, D, C, site=site)],
        lambda site: [pc.Scale(0.0, D, C, READERS, site=site)],
        lambda site: [pc.ProjectOut(D[:1], C, site=site), pc.ProjectOut(D[:1], C, site=site)],
        lambda site: [pc.ProjectOut(D[:1], C, site=site), pc.Reflect(R, C, READERS, site=site), pc.Reflect(R, C, READERS, site=site)],
        lambda site: [pc.ProjectOut(D, site=site), pc.Scale(2.0, site="attn_out.1"), pc.Add(C, site="embed")],
        lambda site: [pc.ProjectOut(D, site=[*site, "embed"])],
    ],
    ids=["clamp", "scale0", "twice", "undone", "with-others", "embed-too"],
)  # fmt: skip
def test_other_idempotent_edits_of_the_whole_stream(name: str, make: Any) -> None:
    assert_same(name, make(every(opened(name))))


@pytest.mark.parametrize("name", families(["llama", "cohere", "falcon", "gemma"], ["llama", "gemma"]))
def test_embed_stands_for_the_first_state_where_nothing_comes_between(name: str) -> None:
    sites = [site for site in every(opened(name)) if site != "resid_pre"]
    assert_same(name, pc.ProjectOut(D, C, site=["embed", *sites]))


@pytest.mark.parametrize("name", families(PLAIN, ["llama", "mixtral", "granite", "gpt2"]))
def test_linear_maps_of_what_is_written(name: str) -> None:
    sites = ["attn_out", "mlp_out.1"]
    edits = [
        pc.Reflect(D, read_vectors=READERS, site=sites),
        pc.RankOne(R[0], C, site=sites),
        pc.Scale(0.7, site="mlp_out"),
    ]
    assert_same(name, edits)


@pytest.mark.parametrize("name", families(BIASED, ["gpt2", "gpt_neox"]))
def test_affine_maps_and_additions_where_there_is_a_bias(name: str) -> None:
    assert_same(name, [pc.Scale(2.0, D, C, site="mlp_out.1"), pc.Add(C, site="mlp_out")])
    assert_same(name, [pc.Add(C, 2.0, site="resid_post.1"), pc.Add(C, site="resid_post.0")])


@pytest.mark.parametrize("name", families(["gpt2", "bloom", "falcon_alibi"], ["gpt2"]))
def test_constants_in_place_of_what_is_written(name: str) -> None:
    assert_same(name, [pc.Patch(C, site="mlp_out.1"), pc.Reflect(D, C, site="attn_out")])
    assert_same(name, pc.MeanAblate(tiny.ids(2, 5, seed=8), site="mlp_out.1"))


@pytest.mark.parametrize(
    "name", families((name for name in tiny.DECODERS if name != "opt_post_norm"), ["llama", "gpt2", "gemma"])
)
def test_any_affine_map_of_the_embedding(name: str) -> None:
    module = assert_same(name, [pc.Scale(0.5, D, C, READERS, site="embed"), pc.Add(C, site="embed")])
    assert not module.config.tie_word_embeddings
    assert module.get_output_embeddings().weight is not module.get_input_embeddings().weight
    assert (
        module.get_output_embeddings().weight.data_ptr()
        == opened(name).module.get_output_embeddings().weight.data_ptr()
    )


@pytest.mark.parametrize(
    "name", families((name for name in tiny.DECODERS if name not in ("opt_post_norm", "bloom")), ["gpt2", "gemma"])
)
def test_any_affine_map_of_the_first_state(name: str) -> None:
    assert_same(name, [pc.Reflect(D, C, READERS, site="resid_pre.0"), pc.Add(C, site="resid_pre.0")])


@pytest.mark.parametrize(
    "name", families((name for name in tiny.DECODERS if name != "opt_post_norm"), ["llama", "gpt2", "gemma"])
)
def test_linear_maps_of_what_the_head_reads(name: str) -> None:
    module = assert_same(
        name, [pc.Reflect(D, read_vectors=READERS, site="final_norm"), pc.RankOne(R[0], C, site="final_norm")]
    )
    assert module.get_input_embeddings().weight is opened(name).module.get_input_embeddings().weight


WITH_ATTENTION = [name for name in tiny.DECODERS if name != "mamba"]


@pytest.mark.parametrize("name", families(WITH_ATTENTION, ["llama", "gpt2", "gpt_neox", "falcon"]))
def test_heads_and_queries(name: str) -> None:
    """Fused projections in either layout, single heads, several edits on one weight's input in their order."""
    assert_same(
        name,
        [pc.Zero(site="z.1.h2"), pc.Scale(1.7, site="q.1"), pc.Scale(0.3, site="k.0"), pc.Scale(1.4, site="v.2.h0")],
    )
    width = opened(name).sites.widths["z", 1]
    u, v, w = draw(5, width), draw(6, width), draw(7, width)
    assert_same(
        name, [pc.Reflect(u, read_vectors=w, site="z.1"), pc.ProjectOut(v, site="z.1"), pc.RankOne(w, u, site="z.1")]
    )


@pytest.mark.parametrize(
    "name", families((name for name in WITH_ATTENTION if name not in tiny.MOE), ["llama", "gpt_neox"])
)
def test_neurons_and_what_sublayers_read(name: str) -> None:
    assert_same(
        name,
        [
            pc.Scale(3.0, site="mlp_act.0.n3"),
            pc.Zero(site="mlp_act.1.n7"),
            pc.Reflect(D, read_vectors=READERS, site="mlp_in.1"),
        ],
    )
    assert_same(name, [pc.ProjectOut(D, read_vectors=READERS, site="attn_in"), pc.Reflect(R, site="attn_in")])


def test_ports_of_modules_and_containers_combine_in_the_order_of_the_pass(llama: pc.Model) -> None:
    own = "model.layers.1.mlp.down_proj"
    edits = [pc.Reflect(D, read_vectors=READERS, site="mlp_out.1"), pc.RankOne(C, R[0], site=f"{own}:out")]
    assert error(llama, pc.baked(llama, edits), edits) <= allowed(llama)
    head = [pc.Reflect(D, read_vectors=READERS, site="lm_head:in"), pc.RankOne(C, R[0], site="final_norm")]
    assert error(llama, pc.baked(llama, head), head) <= allowed(llama)
    swapped = [pc.RankOne(C, R[0], site="lm_head:in"), pc.Reflect(D, read_vectors=READERS, site="final_norm")]
    assert error(llama, pc.baked(llama, head), swapped) > 1e-3, "the order matters"


def test_a_projection_by_its_path_in_either_layout() -> None:
    for name, path in (("gpt2", "transformer.h.1.mlp.c_proj"), ("falcon", "transformer.h.1.mlp.dense_4h_to_h")):
        assert_same(name, [pc.Reflect(D, read_vectors=READERS, site=f"{path}:out"), pc.Scale(0.5, site=f"{path}:in")])


def test_any_module_of_linear_layers() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2)).double().eval()
    model, x = pc.wrap(net), draw(0, 4, 3)
    edits = [pc.Add(draw(1, 5), site="0:out"), pc.Reflect(draw(2, 5), site="2:in"), pc.Scale(2.0, site="2:out")]
    module = pc.baked(model, edits, prompts=x)
    assert torch.allclose(module(x), model.run(x, edits).logits, atol=1e-12)
    with pytest.raises(pc.InputError, match="prompts= are needed"):
        pc.baked(model, edits)


@pytest.mark.parametrize("number", range(7))
def test_without_one_writer_it_is_another_model(number: int, monkeypatch: pytest.MonkeyPatch, llama: pc.Model) -> None:
    """The negative control: skip one of the seven weights that a projection of a three-layer stream changes."""
    edit = pc.ProjectOut(D, C, site=every(llama))
    folded, fold = [], Folding.fold

    def skipping(self: Folding, *given: Any) -> None:
        folded.append(given)
        if len(folded) - 1 != number:
            fold(self, *given)

    monkeypatch.setattr(Folding, "fold", skipping)
    with pytest.raises(pc.ExactnessError, match="the baked model's logits differ"):
        pc.baked(llama, edit)
    assert len(folded) == 7


def test_only_the_named_weights_are_new_and_all_others_are_shared(llama: pc.Model) -> None:
    module = pc.baked(llama, pc.ProjectOut(D, site=["mlp_out.1", "attn_out.2"]))
    own = dict(llama.module.named_parameters())
    new = [name for name, parameter in module.named_parameters() if parameter is not own[name]]
    assert new == ["model.layers.1.mlp.down_proj.weight", "model.layers.2.self_attn.o_proj.weight"]


@given(st.integers(0, 2**20), st.integers(1, 4), st.booleans(), st.booleans())
@settings(max_examples=examples(3, 12))
def test_any_rank_readers_and_constant(seed: int, rank: int, oblique: bool, centred: bool) -> None:
    model = opened("gpt2")
    d, r, c = draw(seed, rank, 32), draw(seed + 1, rank, 32), draw(seed + 2, 32)
    edit = pc.ProjectOut(d, c if centred else None, d + 0.3 * r if oblique else None, site=every(model))
    read_vectors = (d + 0.3 * r) if oblique else d
    condition = float(torch.linalg.cond(read_vectors @ edit.operation.directions.T.cpu()))
    assert error(model, pc.baked(model, edit), edit) <= condition * allowed(model)


@pytest.mark.parametrize("name", families(NORMED, ["gemma2"]))
def test_a_norm_between_weight_and_stream_is_seen(name: str) -> None:
    model = opened(name)
    with pytest.raises(pc.SiteError, match=r"norm .*stands between attn_out\.0 and the weight.*nearest: 'embed'"):
        pc.baked(model, pc.ProjectOut(D, site=every(model)))
    with pytest.raises(pc.SiteError, match=r"nearest: 'model\.layers\.1\.mlp\.down_proj:out'"):
        pc.baked(model, pc.ProjectOut(D, site="mlp_out.1"))
    assert_same(name, pc.ProjectOut(D, site="model.layers.1.mlp.down_proj:out"))


def test_a_norm_after_the_embedding_is_seen() -> None:
    with pytest.raises(pc.SiteError, match=r"resid_pre\.0 is not the sum of .*nearest: 'embed'"):
        pc.baked(opened("bloom"), pc.ProjectOut(D, site=list(STREAM)))


@pytest.mark.parametrize("name", families(OTHER, ["opt_post_norm"]))
def test_a_sum_that_is_not_the_stream_is_seen(name: str) -> None:
    with pytest.raises(pc.SiteError, match=r"resid_pre\.0 is no change of weights"):
        pc.baked(opened(name), pc.ProjectOut(D, site=["resid_pre", "resid_post"]))


@pytest.mark.parametrize(
    ("edits", "said"),
    [
        (pc.ProjectOut(D, site="resid_post.1"), r"resid_post\.1 but not at resid_pre\.0.*nearest.*'resid_mid', 'resid_post'\], or the edit at 'mlp_out\.1'"),
        (pc.ProjectOut(D, site=["resid_pre", "resid_post"]), r"but not at resid_mid\.0, resid_mid\.1, resid_mid\.2 is"),
        (pc.ProjectOut(D, site="mlp_out.1", at="rest"), r"at='rest', and a weight cannot know positions; nearest: the same edit at='all'"),
        (pc.ProjectOut(D, site="mlp_out.1", at="last"), r"at='last'"),
        (pc.ProjectOut(D, site="mlp_out.1", where=pc.Norm(below=9.0)), r"has a gate \(Norm\).*nearest: the same edit without where="),
        (pc.Add(C, site="mlp_out.1"), r"'model\.layers\.1\.mlp\.down_proj' has no bias.*nearest: .*'embed'.*export_control_vector"),
        (pc.Add(C, site="resid_post.1"), r"an edit at resid_post\.1 adds a constant.*nearest"),
        (pc.Reflect(D, site=list(STREAM)), r"only an edit that does nothing when repeated.*nearest.*\['embed', 'attn_out', 'mlp_out'\]"),
        (pc.Scale(2.0, D, site=list(STREAM)), r"only an edit that does nothing when repeated"),
        ([pc.ProjectOut(D[:1], site=list(STREAM)), pc.ProjectOut(D[:1] + R[:1], site=list(STREAM))], r"does nothing when repeated"),
        ([pc.ProjectOut(D, site=["resid_pre", "resid_mid"]), pc.ProjectOut(R, site="resid_post.2")], r"edited in different ways.*nearest: one operation"),
        (pc.Clamp(-1.0, 1.0, D, site="mlp_out.1"), r"mlp_out\.1: pc\.Clamp is no affine map.*nearest|pc\.Clamp\(v, v, directions\)"),
        (pc.Zero(site="resid_post.1.n3"), r"resid_post\.1\.n3 is no change of weights.*nearest: the whole vector"),
        (pc.Scale(2.0, site="model.layers.1.mlp:in"), r"no weight makes or reads it directly; nearest"),
        (pc.ProjectOut(D), r"has no site"),
        ([], r"no edits were given"),
    ],
)  # fmt: skip
def test_what_is_no_change_of_weights_is_refused_with_what_is_near(llama: pc.Model, edits: Any, said: str) -> None:
    with no_trace(llama.module), pytest.raises(pc.InputError, match=said):
        pc.baked(llama, edits)


@pytest.mark.parametrize("name", families(tiny.MOE))
def test_experts_take_linear_maps_and_no_constants(name: str) -> None:
    model = opened(name)
    module = assert_same(name, pc.Reflect(D, read_vectors=READERS, site="mlp_out.1"))
    own = dict(model.module.named_parameters())
    new = [n for n, p in module.named_parameters() if p is not own[n]]
    assert new[0] == "model.layers.1.mlp.experts.down_proj"
    changed = module.get_parameter(new[0]) != own[new[0]]
    assert changed.flatten(1).any(1).all(), "every expert, also those that no token went to"
    with pytest.raises(pc.EditError, match="weighs its experts; nearest"):
        pc.baked(model, pc.Add(C, site="mlp_out.1"))


def test_an_edit_of_another_model_is_refused(llama: pc.Model) -> None:
    from dataclasses import replace

    from patchclamp.interventions.edit import Origin

    other = pc.wrap(tiny.shared("qwen2"))
    edit = replace(pc.ProjectOut(D, site="mlp_out.1"), origin=Origin("other", other.fingerprint(), "mlp_out.1"))
    with pytest.raises(pc.EditError, match="was fitted on other"):
        pc.baked(llama, edit)
    pc.baked(other, edit)


def test_a_shared_weight_is_refused() -> None:
    module = tiny.build("llama")
    module.model.layers[2].mlp.down_proj.weight = module.model.layers[1].mlp.down_proj.weight
    with pytest.raises(pc.ModelError, match=r"shares its weight with 'model\.layers\.2\.mlp\.down_proj'"):
        pc.baked(pc.wrap(module), pc.ProjectOut(D, site="mlp_out.1"))


def test_a_weight_too_large_for_its_type_is_refused() -> None:
    with pytest.raises(pc.EditError, match=r"becomes too large for torch\.float16"):
        pc.baked(pc.wrap(tiny.build("llama", torch.float16)), pc.Scale(1e6, site="mlp_out.1"))


def test_the_tolerance_follows_the_type(llama: pc.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    types = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
    for dtype, wanted in types.items():
        assert bake._tolerance(SimpleNamespace(dtype=dtype), None) == wanted
        assert bake._tolerance(SimpleNamespace(dtype=dtype), 0.3) == 0.3
    for error, options in ((1e-6, {}), (3e-3, {"tolerance": 3e-3})):
        for factor in (0.99, 1.01):
            monkeypatch.setattr(bake, "agreement", lambda *_, found=factor * error: pc.Agreement(0.0, found, 1))
            if factor < 1:
                pc.baked(llama, pc.ProjectOut(D, site="mlp_out.1"), **options)
            else:
                with pytest.raises(pc.ExactnessError, match="the baked model's logits differ"):
                    pc.baked(llama, pc.ProjectOut(D, site="mlp_out.1"), **options)


def test_it_is_compared_on_the_users_prompts_too(llama: pc.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(
        bake, "agreement", lambda m, e, c, prompts: seen.append(len(prompts)) or pc.Agreement(0.0, 0.0, 1)
    )
    for prompts in ((), tiny.ids(3, 5), torch.tensor(tiny.ids(2, 5))):
        pc.baked(llama, pc.ProjectOut(D, site="mlp_out.1"), prompts=prompts)
    assert seen == [4, 7, 6]
    with pytest.raises(pc.InputError, match="tolerance must be above 0"):
        pc.baked(llama, pc.ProjectOut(D, site="mlp_out.1"), tolerance=0.0)


def test_states_of_the_stream_in_the_order_of_the_pass(llama: pc.Model) -> None:
    wanted = [f"{name}.{layer}" for layer in range(3) for name in ("resid_mid", "resid_post")]
    assert llama.stream_sites() == ["resid_pre.0", *wanted]

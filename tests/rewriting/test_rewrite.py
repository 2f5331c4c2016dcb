"""A fact rewritten in a model: the value is stored exactly, in every family, and nothing else is touched."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import patchclamp as pc
from patchclamp.rewriting import exported, fact, rome
from tests import tiny
from tests.rewriting.test_tail import REWRITABLE
from tests.traces import no_trace

PROMPT, SUBJECT, TARGET = tiny.ids(1, 6), [1, 2], 9
PREFIXES = [tiny.ids(1, 4, seed=5)[0], tiny.ids(1, 3, seed=6)[0]]


def rewritten(model: pc.Model, **options: Any) -> pc.Rewrite:
    given = {"layer": 1, "covariance": "identity", "prefixes": PREFIXES, "steps": 4, "kl": 0.0} | options
    return model.rewrite_fact(PROMPT, SUBJECT, TARGET, **given)


@pytest.mark.parametrize("name", REWRITABLE)
def test_edit_and_copied_module_say_the_same_and_the_key_gives_the_value(name: str) -> None:
    model = pc.wrap(tiny.build(name))
    before = model.weights_digest()
    with no_trace(model.module):
        found = rewritten(model)
        copied = found.module(model)
        others = tiny.ids(3, 7, seed=11)
        a, plain = (model.run(others, edits).logits for edits in (found.edit(), ()))
        with torch.no_grad():
            b = copied(torch.tensor(others)).logits
    tolerance = 1e-5 if name in tiny.FP32_ATTENTION else 1e-9
    assert (a - b).abs().max() <= tolerance * b.abs().max()
    assert (a - plain).abs().max() > 1e-4 * b.abs().max()
    assert model.weights_digest() == before
    assert torch.allclose(found.key @ found.weight(model) + _bias(model), found.value, atol=1e-10, rtol=1e-10)
    changed = [n for n, p in model.module.named_parameters() if p is not dict(copied.named_parameters())[n]]
    assert len(changed) == 1, "all other weights are shared"


def _bias(model: pc.Model) -> torch.Tensor:
    bias = model.sites.modules[model.sites.accesses["mlp_act", 1].module].bias
    return torch.zeros(32, dtype=torch.float64) if bias is None else bias.detach()


@pytest.mark.parametrize("name", ["llama", "gpt2", "granite", "gemma2", "glm4", "opt", "phi"])
def test_the_projection_gives_the_value_at_the_subject(name: str) -> None:
    """With no prefixes the subject's own key is rewritten; norms and multipliers after the projection do not matter."""
    model = pc.wrap(tiny.shared(name))
    found = rewritten(model, prefixes=0)
    port = model.sites.accesses["mlp_act", 1].module + ":out"
    seen = model.record(PROMPT, [port, "mlp_act.1"], at=2, edits=found.edit())
    assert torch.allclose(seen[port][0], found.value, atol=1e-9)
    before = model.record(PROMPT, [port, "mlp_act.1"], at=2)
    assert torch.allclose(before["mlp_act.1"][0], found.key, atol=1e-12)
    assert torch.allclose(found.value - before[port][0], found.change, atol=1e-9)


def test_the_target_grows_likelier_and_no_random_change_does_as_well(llama: pc.Model) -> None:
    found = rewritten(llama, steps=15, decay=0.0, prefixes=0)
    curve = found.curve()
    assert (curve["nll"].diff().dropna() < 0).mean() > 0.8
    assert float(curve["norm"].iloc[-1]) == pytest.approx(float(found.change.norm()))
    port = llama.sites.accesses["mlp_act", 1].module + ":out"
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(20, 32, generator=draw, dtype=torch.float64)
    others = found.change.norm() * noise / noise.norm(dim=1, keepdim=True)

    def likely(change: torch.Tensor) -> float:
        return float(llama.run(PROMPT, pc.Add(change, site=port, at=2), logits="last").logits.softmax(-1)[0, TARGET])

    assert likely(found.change) == pytest.approx(curve["target_probability"].iloc[-1])
    assert likely(found.change) > max(likely(change) for change in others)


def test_the_clamp_and_an_early_end_hold(llama: pc.Model) -> None:
    short = rewritten(llama, steps=10, clamp=0.2)
    value = short.value - short.change
    assert float(short.change.norm()) <= 0.2 * float(value.norm()) * (1 + 1e-9)
    surprisal = short.curve()["nll"]
    enough = float(surprisal.iloc[[0, -1]].mean())
    done = rewritten(llama, steps=10, clamp=0.2, enough=enough)
    assert done.dataset.sizes["step"] == int((surprisal < enough).argmax()) + 1 < 11


def test_it_needs_no_gradients_of_its_caller(llama: pc.Model) -> None:
    wanted = rewritten(llama)
    with torch.no_grad():
        assert rewritten(llama) == wanted


def test_sampled_prefixes_follow_the_seed(llama: pc.Model) -> None:
    found = [rewritten(llama, prefixes=2, seed=seed) for seed in (0, 0, 1)]
    assert found[0] == found[1]
    assert found[0].record["contexts"] != found[2].record["contexts"]
    assert found[0].probability.sizes["context"] == 3


def test_an_edit_survives_saving_and_sweeps(llama: pc.Model, tmp_path: Path) -> None:
    edit = rewritten(llama).edit()
    pc.save_edits(edit, tmp_path)
    assert pc.load_edits(tmp_path) == [edit]
    grid = llama.sweep(PROMPT, edit, read=pc.Probability(TARGET), verify=1)
    after = llama.run(PROMPT, edit, logits="last").logits.softmax(-1)[0, TARGET]
    assert float(grid.data.squeeze()) == pytest.approx(float(after), rel=1e-9)


def test_an_exported_checkpoint_is_the_edited_model(tmp_path: Path) -> None:
    model = pc.wrap(tiny.build("llama", torch.float32))
    found = rewritten(model)
    before = model.weights_digest()
    with no_trace(model.module):
        folder = found.export(model, tmp_path / "new")
    assert model.weights_digest() == before
    again = pc.wrap(AutoModelForCausalLM.from_pretrained(folder).eval())
    wanted = model.run(PROMPT, found.edit()).logits
    assert (again.run(PROMPT).logits - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    assert (folder / "rewrite.json").is_file()
    with pytest.raises(pc.InputError, match="is not empty"):
        found.export(model, folder)


def test_a_checkpoint_that_says_something_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = pc.wrap(tiny.build("llama", torch.float32))
    found = rewritten(model)
    monkeypatch.setattr(exported, "with_weight", lambda *_: copy.deepcopy(model.module))
    with pytest.raises(pc.ExactnessError, match="differ from the edited model's"):
        found.export(model, tmp_path / "new")
    assert list(tmp_path.iterdir()) == [], "nothing half-written"


def test_a_checkpoint_that_lacks_a_tensor_is_refused(tmp_path: Path) -> None:
    model = pc.wrap(tiny.build("llama", torch.float32))
    found = rewritten(model)
    model.module.model.layers[0].register_buffer("extra", torch.ones(2))
    with pytest.raises(pc.ExactnessError, match=r"does not give back 'model\.layers\.0\.extra' \(1 tensors differ\)"):
        found.export(model, tmp_path / "new")


def test_another_models_weights_are_refused(llama: pc.Model) -> None:
    found = rewritten(llama)
    other = tiny.build("llama")
    with torch.no_grad():
        other.model.layers[1].mlp.down_proj.weight[0, 0] += 1
    with pytest.raises(pc.InputError, match=r"layer 1 of this live model has other weights"):
        found.module(pc.wrap(other))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"layer": 3}, r"layer 3 is outside this model's layers 0\.\.2"),
        ({"covariance": "wikipedia"}, "unknown covariance 'wikipedia'.*gutenberg, identity"),
        ({"step": 5}, "unknown parameter 'step'; did you mean 'steps'"),
        ({"steps": 0}, "steps is 1 or more"),
        ({"clamp": 0.0}, "clamp must be above 0"),
        ({"prefixes": -1}, "prefixes is how many"),
        ({"true": TARGET}, "is the answer that is to be replaced"),
    ],
)
def test_what_does_not_fit_is_refused(llama: pc.Model, options: dict[str, Any], said: str) -> None:
    with no_trace(llama.module), pytest.raises(pc.InputError, match=said):
        rewritten(llama, **options)


@pytest.mark.parametrize(
    ("options", "said"), [({"ridge": -1.0}, "ridge is a share"), ({"covariance": "wiki"}, "unknown covariance 'wiki'")]
)
def test_options_are_read_before_anything_is_sampled(
    llama: pc.Model, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], said: str
) -> None:
    monkeypatch.setattr(rome, "say", lambda *_: pytest.fail("sampled"))
    with pytest.raises(pc.InputError, match=said):
        rewritten(llama, **options)


def test_a_covariance_without_inverse_is_refused_before_the_search(
    llama: pc.Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATCHCLAMP_CACHE", str(tmp_path))
    moment = pc.rewriting.covariance(llama, 1, tiny.ids(1, 5))
    monkeypatch.setattr(rome, "search", lambda *_: pytest.fail("searched"))
    with pytest.raises(pc.InputError, match="C has no inverse"):
        rewritten(llama, covariance=moment, ridge=0.0)


def test_a_target_or_a_subject_outside_is_refused(llama: pc.Model) -> None:
    with pytest.raises(pc.InputError, match="output 200 is outside"):
        llama.rewrite_fact(PROMPT, SUBJECT, 200, layer=1, covariance="identity")
    with pytest.raises(pc.PositionError):
        llama.rewrite_fact(PROMPT, [9], TARGET, layer=1, covariance="identity")
    with pytest.raises(pc.InputError, match="one prompt"):
        llama.rewrite_fact(tiny.ids(2, 4), SUBJECT, TARGET, layer=1, covariance="identity")


def test_models_that_cannot_be_rewritten_say_why() -> None:
    with pytest.raises(pc.SiteError, match="routes each token to a few experts"):
        rewritten(pc.wrap(tiny.shared("mixtral", torch.float32)))
    with pytest.raises(pc.ModelError, match="reads both ways"):
        rewritten(pc.wrap(tiny.shared("bert")))
    with pytest.raises(pc.SiteError):
        rewritten(pc.wrap(tiny.shared("mamba")))
    broken = tiny.build("llama")
    with torch.no_grad():
        broken.model.layers[1].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(pc.ModelError, match="holds NaN"):
        rewritten(pc.wrap(broken))
    shared = tiny.build("llama")
    shared.model.layers[2].mlp.down_proj.weight = shared.model.layers[1].mlp.down_proj.weight
    with pytest.raises(pc.ModelError, match=r"shares its weight with 'model.layers.2.mlp.down_proj'"):
        rewritten(pc.wrap(shared))


@pytest.mark.assets
def test_a_capital_is_rewritten_and_its_neighbour_stays(smollm2: pc.Model) -> None:
    found = smollm2.rewrite_fact("The capital of {} is", "France", " Rome", layer=5, covariance="identity", prefixes=1)
    asked = pc.rewriting.Fact(
        "The capital of {} is", "France", " Paris", " Rome", ("The capital city of {} is",), (("Japan", " Tokyo"),)
    )
    before, after = (pc.rewriting.score(smollm2, asked, edits) for edits in ((), found.edit()))
    assert before["success"].tolist() == [False, False, True]
    assert after["success"].tolist() == [True, True, True]
    assert found.record["true"] == " Paris"


@pytest.mark.assets
def test_text_that_does_not_fit_is_refused(smollm2: pc.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fact, "generate", lambda *_, **__: pytest.fail("sampled"))
    with pytest.raises(pc.InputError, match=r"' Ouagadougou' is not one token: the tokenizer gives \d"):
        smollm2.rewrite_fact("The capital of {} is", "France", " Ouagadougou")
    with pytest.raises(pc.PositionError, match="the string 'France' is not in the prompt"):
        smollm2.rewrite_fact("The capital of Spain is", "France", " Rome")
    with pytest.raises(pc.InputError, match=r"takes one subject, a text, in place of one \{\}"):
        smollm2.rewrite_fact("From {} to {}", "France", " Rome")
    with pytest.raises(pc.InputError, match="essence is a template"):
        smollm2.rewrite_fact("The capital of {} is", "France", " Rome", essence="It is")

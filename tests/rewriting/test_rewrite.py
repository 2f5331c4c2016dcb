"""A fact rewritten in a model: the value is stored exactly, in every family, and nothing else is touched."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import patchclamp as pc
from patchclamp.rewriting import exported, fact, rome
from patchclamp.rewriting.value import Search, search
from tests import tiny
from tests.lenses.families import opened, parametrised
from tests.rewriting.test_tail import REWRITABLE, SHORT
from tests.traces import no_trace

PROMPT, SUBJECT, TARGET = tiny.ids(1, 6), [1, 2], 9
PREFIXES = [tiny.ids(1, 4, seed=5)[0], tiny.ids(1, 3, seed=6)[0]]


def rewritten(model: pc.Model, **options: Any) -> pc.Rewrite:
    given = {"layer": 1, "covariance": "identity", "prefixes": PREFIXES, "steps": 4, "kl": 0.0} | options
    return model.rewrite_fact(PROMPT, SUBJECT, TARGET, **given)


@pytest.mark.parametrize("name", parametrised(REWRITABLE, SHORT))
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


@pytest.mark.parametrize(
    "name", parametrised(["llama", "gpt2", "granite", "gemma2", "glm4", "opt", "phi"], ("gpt2", "granite", "gemma2"))
)
def test_the_projection_gives_the_value_at_the_subject(name: str) -> None:
    """With no prefixes the subject's own key is rewritten; norms and multipliers after the projection do not matter."""
    model = opened(name)
    found = rewritten(model, prefixes=0)
    port = model.sites.accesses["mlp_act", 1].module + ":out"
    seen = model.record(PROMPT, [port, "mlp_act.1"], at=2, edits=found.edit())
    assert torch.allclose(seen[port][0], found.value, atol=1e-9)
    before = model.record(PROMPT, [port, "mlp_act.1"], at=2)
    assert torch.allclose(before["mlp_act.1"][0], found.key, atol=1e-12)
    assert torch.allclose(found.value - before[port][0], found.change, atol=1e-9)


def test_the_key_is_a_mean_and_the_update_is_measured_by_the_covariance(
    llama: pc.Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Over the prompt alone and after each prefix; the rest of the update follows from the key by hand."""
    monkeypatch.setenv("PATCHCLAMP_CACHE", str(tmp_path))
    moment = pc.rewriting.covariance(llama, 1, tiny.ids(3, 20, seed=7))
    found = rewritten(llama, covariance=moment, ridge=0.3)
    contexts = [PROMPT[0], *(prefix + PROMPT[0] for prefix in PREFIXES)]
    assert found.record["contexts"] == contexts
    keys = [llama.record([ids], "mlp_act.1", at=len(ids) - 6 + 2)["mlp_act.1"].flatten() for ids in contexts]
    key = sum(keys) / 3
    assert torch.allclose(found.key, key, rtol=1e-12)
    assert (keys[0] - key).norm() > 0.1 * key.norm()
    size = len(key)
    damped = moment.matrix.numpy() + 0.3 * np.trace(moment.matrix.numpy()) / size * np.eye(size)
    solved = torch.from_numpy(np.linalg.solve(damped, key.numpy()))
    assert torch.allclose(found.read, solved / (key @ solved), rtol=1e-8)
    matrix = llama.module.model.layers[1].mlp.down_proj.weight.detach().T
    checks = found.record["checks"]
    assert checks["update"] == pytest.approx(float(torch.outer(found.read, found.change).norm() / matrix.norm()))
    assert checks["change"] == pytest.approx(float(found.change.norm() / (key @ matrix).norm()))
    assert checks["condition"] == pytest.approx(np.linalg.cond(damped), rel=1e-6)
    assert checks["covariance"] == "of 60 tokens of texts"
    for place, ids in enumerate(contexts):
        for when, edits in (("before", ()), ("after", found.edit())):
            own = llama.run([ids], edits, logits="last").logits.softmax(-1)[0]
            row = found.probability.isel(context=place).sel(moment=when)
            assert float(row.sel(answer=str(TARGET))) == pytest.approx(float(own[TARGET]), rel=1e-9)
    for row in found.frame().to_dict("records"):
        both = found.probability.sel(context=row["context"], answer=row["answer"])
        assert (row["before"], row["after"]) == tuple(float(both.sel(moment=name)) for name in ("before", "after"))


def test_what_is_replaced_is_the_likeliest_other_answer(llama: pc.Model) -> None:
    first, second = (int(i) for i in llama.run(PROMPT, logits="last").logits[0].topk(2).indices)
    usual = {"layer": 1, "covariance": "identity", "prefixes": 0, "steps": 1}
    for target, given, true in ((TARGET, None, first), (first, None, second), (first, 7, 7)):
        found = llama.rewrite_fact(PROMPT, SUBJECT, target, true=given, **usual)
        assert list(found.probability["answer"].values) == [llama.output_label(target), llama.output_label(true)]
    assert llama.rewrite_fact(PROMPT, SUBJECT, TARGET, **{**usual, "layer": None}).layer == 0
    deep = [rome._default_layer(SimpleNamespace(sites=SimpleNamespace(n_layers=n))) for n in (29, 30, 48)]
    assert deep == [4, 5, 8], "a sixth of the way up"


def test_the_search_is_adam_on_the_loss_within_a_ball() -> None:
    """Against the loss and Adam's rule written out, on logits that are linear in the vector."""
    draw = torch.Generator().manual_seed(0)
    maps = 0.5 * torch.randn(3, 5, 4, generator=draw, dtype=torch.float64)  # [prompt, token, d]
    value = torch.tensor([1.0, -2.0, 0.5, 1.5], dtype=torch.float64)
    tail = SimpleNamespace(
        model=SimpleNamespace(device="cpu", dtype=torch.float64), logits=lambda shift: torch.einsum("ptd,pd->pt", maps, shift(value.expand(3, -1)))
    )  # fmt: skip
    how = Search(steps=5, lr=0.3, kl=0.7, decay=0.2, clamp=0.55, enough=0.0)
    told: list[int] = []
    found, curve = search(tail, 2, 3, value, how, lambda: told.append(1))  # type: ignore[arg-type]
    length, change = float(value.norm()), torch.zeros(4, dtype=torch.float64)
    first, second = torch.zeros(4).double(), torch.zeros(4).double()
    calm = (maps[2] @ value).log_softmax(-1)
    clamped = 0
    for step in range(6):
        leaf = change.clone().requires_grad_()
        logs = (maps @ (value + leaf)).log_softmax(-1)
        nll = -(logs[0, 3] + logs[1, 3]) / 2
        kl = (logs[2].exp() * (logs[2] - calm)).sum()
        decay = (leaf**2).sum() / length**2
        loss = nll + 0.7 * kl + 0.2 * decay
        likely = (logs[0, 3].exp() + logs[1, 3].exp()) / 2
        wanted = (loss, nll, kl, decay, likely, leaf.norm())
        seen = [curve[name][step] for name in ("loss", "nll", "kl", "decay", "target_probability", "norm")]
        assert seen == pytest.approx([float(term.detach()) for term in wanted], rel=1e-9, abs=1e-12)
        if step == 5:
            break
        (slope,) = torch.autograd.grad(loss, leaf)
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        rate = 0.3 * length / 2  # in units of the root mean square of four entries
        change = change - rate * (first / (1 - 0.9 ** (step + 1))) / (
            (second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
        )
        if float(change.norm()) > 0.55 * length:
            change, clamped = change * 0.55 * length / change.norm(), clamped + 1
    assert torch.allclose(found, change, rtol=1e-9)
    assert (len(told), len(curve["loss"])) == (5, 6)
    assert 0 < clamped < 5


def test_a_value_that_the_projection_cannot_give_is_written_by_the_module_alone() -> None:
    module = tiny.build("llama")
    with torch.no_grad():
        module.model.layers[1].mlp.down_proj.weight[3] = module.model.layers[1].mlp.down_proj.weight[2]
    model = pc.wrap(module)
    found = rewritten(model, prefixes=0)
    with pytest.raises(pc.ModelError, match=r"the projection cannot give the new value .* use rewrite\.module"):
        found.edit()
    key = model.record(PROMPT, "mlp_act.1", at=2)["mlp_act.1"][0]
    copied = found.module(model).model.layers[1].mlp.down_proj.weight.detach()
    assert torch.allclose(copied @ key, found.value, atol=1e-9)


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
        ({"step": 5}, "unknown argument of rewrite_fact 'step'; did you mean 'steps'"),
        ({"steps": 0}, "steps is 1 or more"),
        ({"clamp": 0.0}, "clamp must be a finite number above 0; got 0.0"),
        ({"prefixes": -1}, "prefixes=-1 cannot be used; valid: a whole number"),
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
    monkeypatch.setattr(rome, "read_fact", lambda *_: pytest.fail("sampled"))
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
        rewritten(opened("mixtral", torch.float32))
    with pytest.raises(pc.ModelError, match="reads both ways"):
        rewritten(opened("bert"))
    with pytest.raises(pc.SiteError):
        rewritten(opened("mamba"))
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
@pytest.mark.slow
def test_a_capital_is_rewritten_and_its_neighbour_stays(smollm2: pc.Model) -> None:
    found = smollm2.rewrite_fact("The capital of {} is", "France", " Rome", layer=5, covariance="identity", prefixes=1)
    asked = pc.rewriting.Fact(
        "The capital of {} is", "France", " Paris", " Rome", ("The capital city of {} is",), (("Japan", " Tokyo"),)
    )
    before, after = (pc.rewriting.score(smollm2, asked, edits) for edits in ((), found.edit()))
    assert before["success"].tolist() == [False, False, True]
    own = smollm2.run("The capital of Japan is", logits="last").logits[0].softmax(-1)
    near = before.iloc[2]
    assert (near["p_wanted"], near["p_other"]) == pytest.approx(
        [float(own[smollm2.token_id(t)]) for t in (" Tokyo", " Rome")], rel=1e-3
    )
    assert near["magnitude"] == near["p_wanted"] - near["p_other"]
    assert after["success"].tolist() == [True, True, True]
    assert found.record["true"] == " Paris"
    said = fact.read_fact(smollm2, "The capital of {} is", "France", " Rome", None, ["France is large"], None, 0)
    for context in said.contexts:
        assert context.subject == len(context.prompt.ids) - 2, "the prompt's own subject, not the prefix's"
        assert context.prompt.tokens[context.subject] == " France"


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

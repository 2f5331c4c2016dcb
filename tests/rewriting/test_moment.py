"""The second moment of keys: the plain mean of outer products, kept by content, and refused for another model."""

from pathlib import Path

import numpy as np
import pytest
import torch

import patchclamp as pc
from patchclamp.rewriting import moment as module
from tests import tiny
from tests.lenses.families import opened
from tests.traces import no_trace

CORPUS = [*tiny.ids(3, 9, seed=1), *tiny.ids(2, 5, seed=2), *tiny.ids(1, 13, seed=3)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATCHCLAMP_CACHE", str(tmp_path))
    return tmp_path


def by_hand(model: pc.Model, layer: int, rows: list[list[int]]) -> torch.Tensor:
    keys = torch.cat([model.record([row], f"mlp_act.{layer}")[f"mlp_act.{layer}"][0] for row in rows]).double()
    return sum(torch.outer(key, key) for key in keys) / len(keys)


def test_it_is_the_mean_of_outer_products(llama: pc.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_TOKENS", 12)  # several passes, some of them padded
    with no_trace(llama.module):
        found = pc.rewriting.covariances(llama, [0, 2], CORPUS, context=7)
    rows = [row[begin : begin + 7] for row in CORPUS for begin in range(0, len(row), 7)]
    for covariance in found:
        assert torch.allclose(covariance.matrix, by_hand(llama, covariance.layer, rows), atol=1e-12)
        assert covariance.tokens == sum(map(len, CORPUS))


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_rows_fit_the_models_context(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = opened(name)
    assert model.context == 64
    (long,) = tiny.ids(1, 150)
    with monkeypatch.context() as patched:
        patched.setattr(model, "tokenizer", lambda *_, **__: {"input_ids": long})
        found = pc.rewriting.covariance(model, 1, ["long"])
    assert torch.allclose(found.matrix, by_hand(model, 1, [long[:64], long[64:128], long[128:]]), atol=1e-12)
    with pytest.raises(pc.InputError, match="context=65 is longer than the model's own, 64"):
        pc.rewriting.covariance(model, 1, ["long"], context=65)


def test_it_stops_at_the_tokens_asked_for(llama: pc.Model) -> None:
    found = pc.rewriting.covariance(llama, 1, iter(CORPUS), tokens=12)
    assert found.tokens == 12
    assert torch.allclose(found.matrix, by_hand(llama, 1, [CORPUS[0], CORPUS[1][:3]]), atol=1e-12)


def test_it_is_kept_by_content(llama: pc.Model, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = pc.rewriting.covariance(llama, 1, CORPUS)
    monkeypatch.setattr(module, "_moments", lambda *_: pytest.fail("made again"))
    again = pc.rewriting.covariance(llama, 1, CORPUS)
    assert torch.equal(first.matrix, again.matrix)
    assert first.described() == again.described()
    opened = pc.rewriting.Covariance.open(next((cache / "covariances").iterdir()))
    assert torch.equal(opened.matrix, first.matrix)
    with pytest.raises(pytest.fail.Exception, match="made again"):
        pc.rewriting.covariance(llama, 1, CORPUS[1:])
    with pytest.raises(pytest.fail.Exception, match="made again"):
        pc.rewriting.covariance(llama, 1, CORPUS, cache=False)
    with pytest.raises(pc.InputError, match=r"holds no covariance\.json"):
        pc.rewriting.Covariance.open(cache / "nowhere")
    file = next((cache / "covariances").iterdir()) / "covariance.json"
    file.write_text(file.read_text().replace('"format_version": 1', '"format_version": 2'))
    with pytest.raises(pc.InputError, match="newer format"):
        pc.rewriting.Covariance.open(file.parent)


def test_equal_weights_under_another_config_have_keys_of_their_own(cache: Path) -> None:
    model = pc.wrap(tiny.build("llama"))
    first = pc.rewriting.covariance(model, 1, CORPUS)
    for norm in (layer.post_attention_layernorm for layer in model.module.model.layers):
        norm.variance_epsilon = 1.0
    found, wanted = (pc.rewriting.covariance(model, 1, CORPUS, cache=kept) for kept in (True, False))
    assert torch.equal(found.matrix, wanted.matrix)
    assert not torch.equal(found.matrix, first.matrix)
    model.module.model.norm.rows = (x for x in [1])
    pc.rewriting.covariance(model, 1, CORPUS)
    assert len(list((cache / "covariances").iterdir())) == 2, "what cannot be found again is not kept"


def test_it_is_not_kept_unless_it_may_be(llama: pc.Model, cache: Path) -> None:
    pc.rewriting.covariance(llama, 1, CORPUS[:1], cache=False)
    assert not (cache / "covariances").exists()


def test_another_model_or_layer_is_refused(llama: pc.Model) -> None:
    found = pc.rewriting.covariance(llama, 1, CORPUS)
    other = tiny.build("llama")
    with torch.no_grad():
        other.model.embed_tokens.weight[5, 0] += 1
    given = {"covariance": found, "ridge": 0.1, "prefixes": 0, "steps": 1}
    with pytest.raises(pc.InputError, match="made of a live model with weights .* make it anew"):
        pc.wrap(other).rewrite_fact(tiny.ids(1, 6), [1], 9, layer=1, **given)
    with pytest.raises(pc.InputError, match="of layer 1, not of layer 2"):
        llama.rewrite_fact(tiny.ids(1, 6), [1], 9, layer=2, **given)
    assert llama.rewrite_fact(tiny.ids(1, 6), [1], 9, layer=1, **given).layer == 1


def test_the_ridge_makes_it_invertible(llama: pc.Model) -> None:
    found = pc.rewriting.covariance(llama, 1, CORPUS[:2])
    assert found.tokens < len(found.matrix)
    with pytest.raises(pc.InputError, match="18 keys cannot span 48 dimensions"):
        found.condition()
    with pytest.raises(pc.InputError, match="ridge is a share"):
        found.condition(-1.0)
    matrix = found.matrix.numpy()
    damped = matrix + 0.1 * np.trace(matrix) / 48 * np.eye(48)
    assert np.allclose(found.damped(0.1), damped, rtol=1e-12)
    assert found.condition(0.1) == pytest.approx(np.linalg.cond(damped), rel=1e-6)
    uneven = torch.diag(torch.tensor([1.0, 2.0, 10.0]).double())
    spanned = pc.rewriting.Covariance(uneven, 0, 3, "texts", "", None, "")
    assert spanned.condition() == pytest.approx(10.0), "as many keys as dimensions may span them"
    key = torch.ones(48, dtype=torch.float64)
    assert torch.allclose(found.damped(0.1) @ found.solve(key, 0.1), key, atol=1e-9)


def test_a_corpus_of_nothing_or_of_nan_is_refused(llama: pc.Model) -> None:
    with pytest.raises(pc.InputError, match="the corpus is empty"):
        pc.rewriting.covariance(llama, 1, [])
    with pytest.raises(pc.InputError, match="unknown corpus 'gutenburg'; did you mean 'gutenberg'"):
        pc.rewriting.covariance(llama, 1, "gutenburg")
    with pytest.raises(pc.InputError, match="1 or more"):
        pc.rewriting.covariance(llama, 1, CORPUS, tokens=0)
    broken = tiny.build("llama")
    with torch.no_grad():
        broken.model.embed_tokens.weight[CORPUS[0][0], 0] = float("nan")
    with pytest.raises(pc.ModelError, match="gives NaN or infinity, which arises first at embed"):
        pc.rewriting.covariance(pc.wrap(broken), 1, CORPUS, cache=False)


def test_a_key_is_solved_in_the_moments_precision_and_of_its_width() -> None:
    moment = pc.rewriting.covariance(
        pc.wrap(tiny.shared("llama")), 1, tiny.ids(8, 6), tokens=40, context=6, cache=False
    )
    key = torch.randn(48, generator=torch.Generator().manual_seed(0))
    solved = moment.solve(key, 0.1)
    torch.testing.assert_close(moment.damped(0.1) @ solved, key.to(solved))
    with pytest.raises(pc.InputError, match="48 numbers"):
        moment.solve(key[:5], 0.1)

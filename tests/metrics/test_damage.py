"""Damage against brute force, and its bounds."""

import math

import numpy as np
import pytest
import torch

import patchclamp as pc
from patchclamp.metrics import edited
from tests import tiny

TEXTS = [*tiny.ids(1, 9), *tiny.ids(2, 5, seed=1), *tiny.ids(1, 70 - 7, seed=2)]
EDITS = {"nothing": [], "noise": pc.Noise(0.3, site="resid_post.0"), "scaled": pc.Scale(2.0, site="mlp_out.1")}


def by_hand(model: pc.Model, text: list[int], edits: object) -> tuple[float, float]:
    before, after = (model.run([text], some).logits[0, :-1].double().softmax(-1) for some in ((), edits))
    kl = (before * (before / after).log()).sum(-1).mean()
    loss = -after[torch.arange(len(text) - 1), text[1:]].log().mean()
    return float(kl), float(loss)


def test_damage_equals_brute_force(llama: pc.Model) -> None:
    found = pc.metrics.damage(llama, EDITS, TEXTS).data
    for name, edits in {"unedited": [], **EDITS}.items():
        for index, text in enumerate(TEXTS):
            kl, loss = by_hand(llama, text, edits)
            one = found.sel(edit=name).isel(text=index)
            assert float(one["kl"]) == pytest.approx(kl, abs=1e-9)
            assert float(one["loss"]) == pytest.approx(loss, abs=1e-9)


def test_no_edit_does_no_damage_and_every_other_some(llama: pc.Model) -> None:
    found = pc.metrics.damage(llama, EDITS, TEXTS)
    assert (found.data["kl"].sel(edit=["unedited", "nothing"]) == 0).all()
    assert (found.data["loss"].sel(edit="nothing") == found.data["loss"].sel(edit="unedited")).all()
    assert (found.data["kl"] >= 0).all()
    assert (found.data["kl"].sel(edit=["noise", "scaled"]) > 1e-4).all()


def test_means_weigh_tokens_and_not_texts(llama: pc.Model) -> None:
    found = pc.metrics.damage(llama, EDITS, TEXTS)
    rows = found.summary().set_index(["edit", "metric"])
    tokens = np.array([len(text) - 1 for text in TEXTS])
    kl, loss = (found.data[name].sel(edit="scaled").values for name in ("kl", "loss"))
    assert rows.loc[("scaled", "kl"), "mean"] == pytest.approx((kl * tokens).sum() / tokens.sum())
    assert rows.loc[("scaled", "perplexity"), "mean"] == pytest.approx(math.exp((loss * tokens).sum() / tokens.sum()))
    assert rows.loc[("scaled", "kl"), "low"] <= rows.loc[("scaled", "kl"), "mean"] <= rows.loc[("scaled", "kl"), "high"]
    assert not np.isclose(kl.mean(), rows.loc[("scaled", "kl"), "mean"], rtol=1e-3)


def test_memory_knob_changes_nothing(llama: pc.Model) -> None:
    one, other = (pc.metrics.damage(llama, EDITS, TEXTS, batch_tokens=n).data for n in (1, 4096))
    assert np.allclose(one["kl"], other["kl"], atol=1e-9)


def test_the_unedited_pass_is_shared(llama: pc.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    from patchclamp.metrics import damage as _  # noqa: F401

    module = __import__("sys").modules["patchclamp.metrics.damage"]
    calls = []
    real = module.forward
    monkeypatch.setattr(module, "forward", lambda *a, **k: calls.append(1) or real(*a, **k))
    pc.metrics.damage(llama, EDITS, TEXTS[:2], batch_tokens=10_000)
    assert len(calls) == 1 + len(EDITS)


def test_values_that_are_not_finite_are_not_hidden() -> None:
    row = edited.mean_row([1.0, math.nan, 2.0], 0)
    assert math.isnan(row["mean"])
    assert math.isnan(row["low"])


def test_a_text_of_one_token_is_refused(llama: pc.Model) -> None:
    with pytest.raises(pc.InputError, match="needs a next token"):
        pc.metrics.damage(llama, [], [[4, 5], [7]])


@pytest.mark.assets
def test_neutral_texts_are_many_books_and_always_the_same() -> None:
    texts = pc.metrics.neutral_texts(18)
    assert texts == pc.metrics.neutral_texts(18)
    assert texts[:5] == pc.metrics.neutral_texts(5)
    assert texts != pc.metrics.neutral_texts(18, seed=1)
    assert all(600 <= len(text) <= 800 for text in texts)
    books = pc.catalogue.gutenberg().values()
    squeezed = [" ".join(book.split()) for book in books]
    holders = {i for text in texts for i, book in enumerate(squeezed) if " ".join(text.split()) in book}
    assert len(holders) == 18
    with pytest.raises(pc.InputError, match="the books hold"):
        pc.metrics.neutral_texts(10**6)
    with pytest.raises(pc.InputError, match="at least 1 passage"):
        pc.metrics.neutral_texts(0)


@pytest.mark.assets
def test_default_texts_fit_a_short_context(stories: pc.Model) -> None:
    found = pc.metrics.damage(stories, {"nothing": pc.Scale(1.0, site="resid_post.1")})
    assert int(found.data["tokens"].max()) == stories.context - 1, "some passage was cut"
    assert float(found.data["kl"].max()) == 0.0

"""Damage against brute force, and its bounds."""

import math
from itertools import chain
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import patchclamp as pc
from patchclamp.core.intervals import bootstrap
from patchclamp.core.progress import Progress
from patchclamp.metrics import edited, neutral
from patchclamp.metrics.damage import compare
from tests import tiny
from tests.traces import passes

TEXTS = [
    *tiny.ids(1, 9),
    *tiny.ids(2, 5, seed=1),
    *tiny.ids(1, 63, seed=2),
    *tiny.ids(2, 7, seed=3),
    *tiny.ids(2, 3, seed=4),
]
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
    tokens = np.array([len(text) - 1 for text in TEXTS])
    assert np.array_equal(found.data["tokens"], tokens)
    plain = found.data["loss"].sel(edit="unedited").values
    for seed in (0, 1):
        rows = found.summary(seed).set_index(["edit", "metric"])
        assert len(rows) == 3 * 4
        for edit in ("unedited", *EDITS):
            kl, loss = (found.data[name].sel(edit=edit).values for name in ("kl", "loss"))
            for metric, values, scale in (
                ("kl", kl, float),
                ("loss_change", loss - plain, float),
                ("perplexity", loss, math.exp),
            ):
                row = rows.loc[(edit, metric)]
                assert row["mean"] == pytest.approx(scale((values * tokens).sum() / tokens.sum()))
                assert (row["low"], row["high"]) == pytest.approx(tuple(map(scale, bootstrap(values, seed, tokens))))
                assert row["count"] == len(TEXTS)
    one, other, again = (found.summary(seed).set_index(["edit", "metric"]).loc[("scaled", "kl")] for seed in (0, 1, 1))
    assert (one["low"], one["high"]) != (other["low"], other["high"]) == (again["low"], again["high"])
    kl = found.data["kl"].sel(edit="scaled").values
    assert not np.isclose(kl.mean(), one["mean"], rtol=1e-3)
    rows = found.summary().set_index(["edit", "metric"])["mean"]
    perplexity, change = rows["scaled", "perplexity"], rows["scaled", "loss_change"]
    said = f"scaled       KL {one['mean']:.4f} nats a token, perplexity {perplexity:.2f} ({change:+.4f} nats)"
    assert repr(found).splitlines()[0] == f"Damage on 8 texts, {tokens.sum()} predicted tokens"
    assert repr(found).splitlines()[-1] == said


def test_a_long_text_is_compared_block_by_block_as_at_once() -> None:
    g = torch.Generator().manual_seed(0)
    before, after = (torch.randn(140, 11, generator=g, dtype=torch.float64) for _ in range(2))
    ids = torch.randint(0, 11, (135,), generator=g)
    p, q = before[:134].log_softmax(-1), after[:134].log_softmax(-1)
    kl, loss = compare(before, after, ids.tolist())
    assert kl == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()))
    assert loss == pytest.approx(float(-q[torch.arange(134), ids[1:]].mean()))


@pytest.mark.sensitive
def test_memory_knob_changes_nothing_but_the_number_of_passes(llama: pc.Model) -> None:
    events: list[Progress] = []
    with passes(llama.module) as calls:
        one, other = (
            pc.metrics.damage(llama, EDITS, TEXTS, batch_tokens=n, progress=events.append).data for n in (1, 4096)
        )
    assert len(calls) == (len(TEXTS) + 1) * 4, "one pass a text, and one for all, under each of four lists"
    assert events[-1].done == events[-1].total == 4 * len(TEXTS)
    assert np.allclose(one["kl"], other["kl"], atol=1e-9)
    assert np.allclose(one["loss"], other["loss"], atol=1e-9)


def test_the_unedited_pass_is_shared(llama: pc.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    from patchclamp.metrics import damage as _  # noqa: F401

    module = __import__("sys").modules["patchclamp.metrics.damage"]
    calls = []
    real = module.forward
    monkeypatch.setattr(module, "forward", lambda *a, **k: calls.append(1) or real(*a, **k))
    pc.metrics.damage(llama, EDITS, TEXTS[:2], batch_tokens=10_000)
    assert len(calls) == 1 + len(EDITS)


def test_edits_have_names() -> None:
    edit = pc.Zero(site="mlp_out.1")
    assert edited.name_edits(edit) == edited.name_edits([edit]) == {"edited": [edit]}
    assert edited.name_edits([]) == {}
    assert edited.name_edits({"none": [], 3: edit}) == {"none": [], "3": [edit]}


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


def books(monkeypatch: pytest.MonkeyPatch, paragraphs: int = 40) -> dict[str, str]:
    """Three books of numbered words, in paragraphs of 25 words."""
    words = lambda book, i: " ".join(f"{book}{i}.{j}" for j in range(25))  # noqa: E731
    made = {book: "\n\n".join(words(book, i) for i in range(paragraphs)) for book in "abc"}
    monkeypatch.setattr(neutral.catalogue, "gutenberg", lambda: made)
    return made


def test_neutral_texts_take_books_in_turn_in_an_order_of_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    made = books(monkeypatch)
    texts = neutral.neutral_texts(9, characters=200)
    assert [len({text[0] for text in texts[i : i + 3]}) for i in (0, 3, 6)] == [3, 3, 3], (
        "a passage of each book in turn"
    )
    orders = {tuple(text[0] for text in neutral.neutral_texts(3, seed, characters=200)) for seed in range(8)}
    assert len(orders) > 1, "which book comes first hangs on the seed"
    drawn = [sorted(neutral.neutral_texts(9, seed, characters=200)) for seed in (0, 1, 1)]
    assert drawn[0] != drawn[1] == drawn[2]
    assert texts[0] != neutral.passages(made[texts[0][0]], 200)[0], "not from the beginning of the book"
    every = [neutral.passages(book, 200) for book in made.values()]
    assert sorted(neutral.neutral_texts(sum(map(len, every)), characters=200)) == sorted(chain(*every))
    with pytest.raises(pc.InputError, match="the books hold"):
        neutral.neutral_texts(sum(map(len, every)) + 1, characters=200)
    with pytest.raises(pc.InputError, match="at least 1 passage of at least 200 characters; got 1 of 199"):
        neutral.neutral_texts(1, characters=199)


def test_a_passage_is_cut_at_the_last_space_below_its_length() -> None:
    book = "\n\n".join(["one two", "three four", "five", "x" * 14 + " y", "rest"])
    assert neutral.passages(book, 19) == ["one two\n\nthree", "five"]
    assert neutral.passages("one two three", 13) == ["one two"], "a passage that is just long enough is one"
    assert neutral.passages("one two three", 14) == []


def test_default_texts_are_cut_to_the_models_context(monkeypatch: pytest.MonkeyPatch, llama: pc.Model) -> None:
    books(monkeypatch)
    assert neutral.read_texts(llama, None) == neutral.neutral_texts(16), "a model without a tokenizer gets the texts"
    reader = SimpleNamespace(tokenizer=lambda text: {"input_ids": list(map(ord, text))}, context=300)
    wanted = [list(map(ord, text[:300])) for text in neutral.neutral_texts(16)]
    assert neutral.read_texts(reader, None) == wanted
    assert neutral.read_texts(reader, "one text") == ["one text"]
    assert neutral.read_texts(reader, ("a", [1, 2])) == ["a", [1, 2]]


@pytest.mark.slow
@pytest.mark.assets
def test_default_texts_fit_a_short_context(stories: pc.Model) -> None:
    found = pc.metrics.damage(stories, {"nothing": pc.Scale(1.0, site="resid_post.1")})
    assert int(found.data["tokens"].max()) == stories.context - 1, "some passage was cut"
    assert float(found.data["kl"].max()) == 0.0

"""What the studies of language models choose, by hand: facts that a model knows, words of the parties, passages, tables."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

import patchclamp as pc
from patchclamp.studies import (
    concept_matrix,
    concepts,
    facts,
    mnist_measures,
    polytopes_mnist,
    polytopes_smollm2,
    rome_capitals,
)

CAPITALS = {
    "Spain": "Madrid",
    "Italy": "Rome",
    "Mexico": "Mexico City",
    "Japan": "Tokyo",
    "France": "Paris",
    "Second Italy": "Rome",
    "Peru": "Lima",
}


@pytest.fixture
def countries(monkeypatch: pytest.MonkeyPatch) -> None:
    known = tuple(SimpleNamespace(name=name, capital=capital) for name, capital in CAPITALS.items())
    monkeypatch.setattr(pc.catalogue, "capitals", lambda: known)


class Speaker:
    """Says a capital after a prompt; its tokens are words with their leading space."""

    source = SimpleNamespace(name="speaker")

    def __init__(self, wrong: tuple[str, ...] = (), two_tokens: tuple[str, ...] = ()) -> None:
        self.wrong, self.two_tokens, self.words = wrong, two_tokens, [f" {c}" for c in dict.fromkeys(CAPITALS.values())]

    def output_label(self, token: int) -> str:
        return self.words[token].split(" City")[0]

    def token_id(self, word: str) -> int:
        if word.strip() in self.two_tokens:
            raise pc.InputError("two tokens")
        return self.words.index(word)

    def says(self, prompt: str) -> int:
        (country,) = [name for name in CAPITALS if f"of {name} is" in prompt]
        return self.words.index(f" {CAPITALS['Spain' if country in self.wrong else country]}")

    def run(self, prompts: Any, **_: Any) -> Any:
        ids = [self.says(prompt) for prompt in ([prompts] if isinstance(prompts, str) else prompts)]
        table = pd.DataFrame({"token": [self.output_label(i) for i in ids], "probability": 0.25})
        return SimpleNamespace(top=lambda _: table, logits=torch.eye(len(self.words))[ids])


@pytest.mark.usefixtures("countries")
def test_known_capitals_are_said_new_and_not_in_the_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "piece_of", lambda model, text: (model.words.index(text),))
    model: Any = Speaker(wrong=("Japan",))
    found = facts.known_capitals(model)
    assert found["country"].tolist() == ["Spain", "Italy", "France", "Peru"], "not Mexico, not Japan, and Rome once"
    assert found["answer"].tolist() == [" Madrid", " Rome", " Paris", " Lima"]
    assert found["probability"].tolist() == [0.25] * 4
    assert len(facts.known_capitals(model, most=2)) == 2
    with pytest.raises(pc.InputError, match="knows 1 capitals"):
        facts.study(model, most=1)


@pytest.mark.usefixtures("countries")
def test_known_facts_are_apart_and_their_neighbours_are_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("VALIDATION", 1), ("TEST", 2), ("NEIGHBOURS", 2)):
        monkeypatch.setattr(rome_capitals, name, size)
    model: Any = Speaker(wrong=("Japan",), two_tokens=("Lima", "Mexico City"))
    known = tuple(SimpleNamespace(name=n, capital=c) for n, c in CAPITALS.items() if n != "Second Italy")
    monkeypatch.setattr(pc.catalogue, "capitals", lambda: known)
    validation, test = rome_capitals.known_facts(model)
    assert (len(validation), len(test)) == (1, 2)
    assert {fact.subject for fact in (*validation, *test)} == {"Spain", "Italy", "France"}
    for fact in (*validation, *test):
        assert fact.true == f" {CAPITALS[fact.subject]}"
        assert fact.target != fact.true
        assert len(fact.neighbours) == 1, "of three the subject and the target's own country are no neighbours"
        (neighbour,) = fact.neighbours
        assert neighbour[1] not in (fact.true, fact.target)
    orders = {
        tuple(fact.subject for part in rome_capitals.known_facts(model, seed) for fact in part) for seed in range(8)
    }
    assert len(orders) > 1, "the seed deals them"
    assert rome_capitals.known_facts(model, 3) == rome_capitals.known_facts(model, 3)
    monkeypatch.setattr(rome_capitals, "TEST", 3)
    with pytest.raises(
        pc.InputError,
        match="speaker knows 3 capitals .of 4 that are one token., and the study needs 4: 1 validation and 3",
    ):
        rome_capitals.known_facts(model)


def test_the_score_of_rewriting_is_a_harmonic_mean() -> None:
    assert rome_capitals.harmonic(pd.Series([0.5, 1.0, 0.25])) == pytest.approx(3 / (2 + 1 + 4))
    assert rome_capitals.harmonic(pd.Series([0.5, 0.0, 1.0])) == 0
    layers = pd.DataFrame({"traced mlp_out": [0.1, 0.2, 0.9, 0.3], "score": [1.0, 2.0, 3.0, 4.0]})
    scores = pd.DataFrame(
        {"condition": ["rome", "rome", "nothing"], "test": ["a", "b", "a"], "success": [1.0, 0.5, 0.25]}
    )
    made = rome_capitals.RomeCapitals("m", 1, scores, scores, layers, scores, None, 0.0)  # type: ignore[arg-type]
    assert made.agreement() == pytest.approx(1 - 6 * (0 + 0 + 1 + 1) / (4 * 15)), "Spearman: the last two are exchanged"
    assert (made.share("rome", "b"), made.share("nothing", "a")) == (0.5, 0.25)
    drift = [pd.DataFrame({"condition": ["a", "b"], "kl": [float(k), 1.0]}) for k in (1, 2, 6)]
    assert rome_capitals.average_drift(drift)["kl"].tolist() == [3, 1]


def test_where_each_site_works_most() -> None:
    effect = np.zeros((3, 2, 3))
    effect[1, 0], effect[2, 1] = [0.1, 0.7, -0.9], [0.0, 0.2, 0.6]
    mean = xr.Dataset(
        {
            name: (("site", "role", "layer"), effect + shift)
            for name, shift in (("effect", 0.0), ("low", -0.1), ("high", 0.2))
        },
        coords={"site": list(facts.SITES), "role": ["last subject token", "last token"], "layer": [0, 1, 2]},
    )
    total = xr.DataArray([0.2, 0.4, 0.6], dims="fact")
    control = pd.DataFrame(
        {"layer": range(6), **{name: np.arange(6) / 10 + shift for shift, name in enumerate(facts.EFFECTS)}}
    )
    average: Any = SimpleNamespace(mean=lambda: mean, total_effect=lambda: total)
    made = facts.CapitalFacts(pd.DataFrame({"country": list("abc")}), average, control, "m")
    table = made.table().set_index(["role", "site"])
    assert table.loc[("last subject token", "mlp_out"), ["layer", "effect"]].tolist() == [1, 0.7]
    assert table.loc[("last token", "attn_out"), ["layer", "effect"]].tolist() == [2, 0.6]
    np.testing.assert_allclose(table.loc[("last token", "attn_out"), ["low", "high"]].astype(float), [0.5, 0.8])
    half = 4.302653 * 0.2 / np.sqrt(3)
    assert f"average total effect 0.400 ± {half:.3f}." in made.findings()[0]
    assert "after layer 2" in made.findings()[1]
    assert "brings +0.200 of the capital's probability, from another country's +1.200" in made.findings()[1]
    assert made.summary()["average total effect"] == pytest.approx(0.4)


def speech(president: str, text: str, year: int = 1960) -> Any:
    return SimpleNamespace(president=president, text=text, year=year, party="")


def test_words_of_a_party_are_those_that_its_presidents_use_more(monkeypatch: pytest.MonkeyPatch) -> None:
    common = "people " * 100
    said = {
        ("Harry S Truman", 60): ("workers ", 90, "freedom ", 30), ("Jimmy Carter", 60): ("workers ", 80, "freedom ", 25),
        ("Ronald Reagan", 81): ("workers ", 20, "freedom ", 90), ("Richard Nixon", 70): ("workers ", 25, "freedom ", 85),
    }  # fmt: skip
    speeches = [
        speech(name, common + a * n + b * m + "once " + "that " * 200) for (name, _), (a, n, b, m) in said.items()
    ]
    speeches.append(speech("Harry S Truman", "freedom " * 10_000, 1949))
    monkeypatch.setattr(pc.catalogue, "state_of_the_union", lambda: speeches)
    model: Any = SimpleNamespace(token_id=lambda word: len(word))
    left, right = concepts.party_words(model, [name for name, _ in said], most=1)
    assert (left, right) == ((" workers",), (" freedom",)), "speeches before 1950 do not count"
    monkeypatch.setattr(concepts, "ERAS", tuple((b, a) for a, b in concepts.ERAS))
    assert concepts.party_words(model, [name for name, _ in said], most=1) == (right, left)


def test_tokens_texts_and_steps() -> None:
    def token_id(word: str) -> int:
        if len(word) > 5:
            raise pc.InputError("two tokens")
        return 1

    model: Any = SimpleNamespace(token_id=token_id)
    assert concepts.single_tokens(model, ((" bad", " terrible"), (" wonderful", " fun"))) == ((" bad",), (" fun",))
    texts = concepts.Texts(("a", "b", "c"), ("x", "y", "x"), (1, 2, 3))
    assert texts.where([True, False, True]) == concepts.Texts(("a", "c"), ("x", "x"), (1, 3))
    assert concepts.ending("one two  three", 2) == "two three"
    mean, low, high = concepts.mean_of(np.array([0.0, 1.0, 2.0, 5.0]))
    assert mean == 2
    assert low < mean < high
    assert (
        concepts.mean_of(np.arange(9.0), 0) == concepts.mean_of(np.arange(9.0)) != concepts.mean_of(np.arange(9.0), 1)
    )


def test_concepts_are_tested_on_texts_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [name for pair in concepts.ERAS for name in pair]
    asked: list[Any] = []

    def politics(each: int, words: int) -> concepts.Texts:
        asked.append((each, words))
        return concepts.Texts(
            tuple(f"of {n}" for n in names), tuple(concepts.PARTIES[i % 2] for i in range(14)), tuple(names)
        )

    def sentiment(part: str, count: int, words: int) -> concepts.Texts:
        asked.append((part, count, words))
        return concepts.Texts((f"{part} bad", f"{part} good"), concepts.SENTIMENTS, (0, 1))

    monkeypatch.setattr(concepts, "politics", politics)
    monkeypatch.setattr(concepts, "sentiment", sentiment)
    monkeypatch.setattr(concepts, "party_words", lambda _, presidents: (tuple(presidents), ()))
    monkeypatch.setattr(concepts, "single_tokens", lambda _, words: words)
    gender, party, mood = concept_matrix.chosen_concepts(None, 40, 9)  # type: ignore[arg-type]
    assert asked == [(4, 9), ("train", 40, 9), ("test", 30, 9)]
    assert set(party.test.groups) == set(concept_matrix.HELD_OUT)
    assert set(party.fit.groups) == set(names) - set(concept_matrix.HELD_OUT) == set(party.answers[0])
    assert party.prompts == tuple(f"of {n}{concept_matrix.ASKED['politics']}" for n in party.test.groups)
    assert mood.prompts == ("test bad Overall, the film was", "test good Overall, the film was")
    assert mood.second.tolist() == [False, True]
    assert not set(gender.fit.prompts) & set(gender.test.prompts)
    assert gender.second.mean() == 0.5


def test_sequences_come_from_books_and_speeches_by_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polytopes_smollm2, "LENGTH", 4)
    monkeypatch.setattr(pc.catalogue, "gutenberg", lambda: {"one": "a" * 30, "short": "b" * 3, "two": "c" * 30})
    speeches = [speech("x", "n" * 30) for _ in range(181)]
    speeches[0].text, speeches[90].text, speeches[180].text = "x" * 30, "y" * 30, "z" * 30
    monkeypatch.setattr(pc.catalogue, "state_of_the_union", lambda: speeches)
    model: Any = SimpleNamespace(tokenizer=lambda text: {"input_ids": [ord(letter) for letter in text]})
    found = polytopes_smollm2.sequences(model, 4)
    assert ["".join(map(chr, row)) for row in found] == ["aaaa", "xxxx", "yyyy", "cccc"], (
        "one text is too short, and speeches are taken evenly"
    )
    with pytest.raises(pc.InputError, match=r"6 sequences of 4 tokens: the catalogue's books and speeches give 5"):
        polytopes_smollm2.sequences(model, 6)


def test_averages_over_seeds_have_their_least_and_most() -> None:
    table = pd.DataFrame({"network": ["a", "b", "a"], "auc": [0.5, 0.9, 0.7], "same": [1.0, 2.0, 4.0]})
    found = polytopes_mnist._average(table, ["network"], "auc", ["same"]).set_index("network")
    assert found.loc["a"].to_dict() == pytest.approx({"auc": 0.6, "least": 0.5, "most": 0.7, "same": 2.5})
    own = polytopes_mnist._average(table.rename(columns={"same": "most"}), ["network"], "auc", ["most"])
    assert list(own) == ["network", "auc", "least", "greatest", "most"]
    rows = pd.DataFrame({"site": ["a", "a"], "factor": [1.0, 2.0], "accuracy": [0.5, 0.25]})
    wide = polytopes_mnist._wide(rows, ["site"], "factor", "accuracy")
    assert wide.to_dict("records") == [{"site": "a", 1.0: 0.5, 2.0: 0.25}]


def test_measures_of_small_networks() -> None:
    net = torch.nn.Sequential(torch.nn.Identity())
    assert mnist_measures.margin(net, torch.tensor([[1.0, 4.0, 2.0], [0.0, 0.5, 5.5]])) == pytest.approx((2 + 5) / 2)
    vectors = torch.zeros(3, 3, 2)
    vectors[0, 1], vectors[2, 0] = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 7.0])
    assert mnist_measures._norm(vectors) == pytest.approx(12 / 6)
    four = torch.nn.Sequential(*[torch.nn.Identity()] * 4)
    assert (mnist_measures.posts_stage("mlp", four), mnist_measures.posts_stage("residual", four)) == (0, 2)
    data: Any = SimpleNamespace(test=torch.arange(10), test_labels=torch.arange(10))
    assert mnist_measures._some(data, 3, 0, 2)[0].tolist() == [0, 3, 6, 9], "evenly spread, before the head"
    assert len(mnist_measures._some(data, 3, 2, 2)[0]) == len(mnist_measures._some(data, 0, 0, 2)[0]) == 10
    assert mnist_measures._gates_at(2, 2) == ("none", "code", "activation", "verdict")
    assert mnist_measures._gates_at(1, 2) == ("none", "code", "activation")

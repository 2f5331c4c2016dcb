"""The study of steering: a judge that has learnt, doses of equal damage, steps of one length."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

import patchclamp as pc
from patchclamp.studies import concepts
from patchclamp.studies import sentiment_steering as steering


@pytest.fixture
def found(llama: pc.Model) -> dict[str, pc.Direction]:
    x, labels = np.random.default_rng(0).normal(size=(60, 32)), np.arange(60) % 2
    x[labels == 1] += 1.0
    makers = {"mean, all tokens": pc.directions.MeanDifference(), "random": pc.directions.RandomDirection()}
    makers |= {"random 2": pc.directions.RandomDirection(random_state=1)}
    return {name: concepts.fit_at_site(llama, maker, x, labels, "resid_post.1", 3.0) for name, maker in makers.items()}


def test_doses_are_chosen_for_equal_damage(found: dict[str, pc.Direction]) -> None:
    """Damage grows with the square of the dose; a step that harms four times as much gets half the dose."""
    table = pd.DataFrame({"direction": list(found), "kl": [0.04, 0.01, 0.01]})
    chosen = steering.conditions(found, table)
    assert list(chosen) == ["plain", "mean, all tokens -", "mean, all tokens +", "random -", "random +"]
    assert chosen["random +"][0] == pytest.approx(2 * chosen["mean, all tokens +"][0])
    assert chosen["mean, all tokens +"][0] == pytest.approx(steering.SMALL * (steering.BUDGET / 0.04) ** 0.5)
    assert chosen["random -"][0] == -chosen["random +"][0]
    assert chosen["random -"][1] == found["random"].add(chosen["random -"][0])
    assert chosen["plain"] == (0.0, None)


def test_everything_found_is_kept(llama: pc.Model, found: dict[str, pc.Direction], tmp_path: Path) -> None:
    here = found | {name: found["random"] for name in ("mean, last token", "one pair")}
    response = llama.dose_response(here, [[5, 6, 7], [8, 9]], (5, 9), [-1, 1], [[5, 6, 7, 8], [9, 8, 7]])
    rows = [{"condition": name, "positive": 0.5, "low": 0.4, "high": 0.6} for name in ("plain", "random -", "random +")]
    table = pd.DataFrame({"direction": list(here), "kl": 0.1})
    texts = pd.DataFrame({"prompt": ["It is", "We"], "sample": [0, 0], "plain": ["good", "go"]})
    judge = {"reviews": 0.9, "last 25 words": 0.8}
    made = steering.SentimentSteering("tiny", 1, table, table, response, pd.DataFrame(rows), judge, texts, here)
    made.save(tmp_path)
    assert pc.open(tmp_path / "dose") == response
    assert pc.Direction.open(tmp_path / "directions" / "one-pair") == here["one pair"]
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "completions.csv"), texts)
    page = (tmp_path / "report.html").read_text()
    assert "accuracy of the judge: reviews 0.900, last 25 words 0.800" in page
    assert page.count("data:image/png") >= 2
    assert "It is" in made.text()
    assert json.dumps(made.summary())


def test_the_judge_learns_from_reviews_that_no_direction_was_fitted_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def review(positive: bool, word: str) -> Any:
        return SimpleNamespace(positive=positive, text=f"a film that {word} " + "and so on " * 8 + word)

    # the first 2000, of which directions are fitted, say the opposite
    rows = [review(bool(i % 2), "bored" if i % 2 else "charmed") for i in range(2000)]
    rows += [review(bool(i % 2), "charmed" if i % 2 else "bored") for i in range(40)]
    held = [
        review(True, "charmed"),
        review(False, "bored"),
        review(True, "bored"),
        review(False, "charmed"),
        review(True, "bored"),
    ]
    held[3].text = "charmed " * 30 + "bored " * 25
    monkeypatch.setattr(pc.catalogue, "imdb", {"train": rows, "test": held}.get)
    judge = steering.Judge(40)
    low, high = judge.positive(["it bored me", "it charmed me"])
    assert low < 0.5 < high
    assert judge.accuracy(2) == {"reviews": 1.0, "last 25 words": 1.0}
    assert judge.accuracy(3)["reviews"] == pytest.approx(2 / 3)
    assert judge.accuracy(4)["last 25 words"] == pytest.approx(3 / 4), "its end alone is heard"


@pytest.mark.assets
@pytest.mark.slow
def test_the_judge_hears_sentiment_in_reviews_it_has_not_read() -> None:
    judge = steering.Judge(3000)
    assert judge.accuracy(500)["reviews"] > 0.8
    assert judge.accuracy(500)["last 25 words"] > 0.65
    low, high = judge.positive(["It was a terrible, boring waste of time.", "A wonderful film, I loved it."])
    assert low < 0.3 < 0.7 < high


@pytest.mark.assets
@pytest.mark.slow
def test_steps_of_a_layer_are_of_one_length_and_point_to_the_positive(
    smollm2: pc.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steering, "REVIEWS", 40)
    found = steering.directions(smollm2, [15])
    lengths = [float(own[0].step().norm()) for own in found.values()]
    np.testing.assert_allclose(lengths, lengths[0])
    rows = steering.by_layer(smollm2, found).set_index("direction")["effect"]
    assert rows["mean, all tokens"] > rows[list(steering.RANDOM)].abs().max()

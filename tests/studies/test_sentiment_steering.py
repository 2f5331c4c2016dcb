"""The study of steering: a judge that has learnt, doses of equal damage, steps of one length."""

import numpy as np
import pandas as pd
import pytest

import patchclamp as pc
from patchclamp.studies import concepts
from patchclamp.studies import sentiment_steering as steering


@pytest.fixture
def found(llama: pc.Model) -> dict[str, pc.Direction]:
    x, labels = np.random.default_rng(0).normal(size=(60, 12)), np.arange(60) % 2
    x[labels == 1] += 1.0
    makers = {"mean, all tokens": pc.directions.MeanDifference(), "random": pc.directions.RandomDirection()}
    makers |= {"random 2": pc.directions.RandomDirection(random_state=1)}
    return {name: concepts.placed(llama, maker, x, labels, "resid_post.1", 3.0) for name, maker in makers.items()}


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


@pytest.mark.assets
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

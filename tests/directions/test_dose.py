"""Dose and response: no dose does nothing, the response grows where it must, and each number is the measure's own."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import patchclamp as pc
from tests import tiny

PROMPTS = [tiny.ids(1, n, seed=n + 40)[0] for n in (5, 7, 6, 5, 8, 6, 7, 5)]
LABELS = [0, 1] * 4
TEXTS = [tiny.ids(1, n, seed=9)[0] for n in (3, 6, 11)]
ANSWERS = (5, 9)

pytestmark = pytest.mark.filterwarnings("ignore::patchclamp.core.errors.PatchclampWarning")


@pytest.fixture(scope="module")
def mean(llama: pc.Model) -> pc.Direction:
    return llama.fit_direction("mean", PROMPTS, LABELS, "resid_post.1", holdout=0)


def test_no_dose_does_exactly_nothing_and_some_does_something(llama: pc.Model, mean: pc.Direction) -> None:
    for edit, none in (("add", 0.0), ("scale", 1.0)):
        data = llama.dose_response({"m": mean}, PROMPTS, ANSWERS, [none, none + 2], TEXTS, edit=edit).data
        still = data.sel(direction="m", amount=none)
        assert float(still["kl"]) == float(still["loss_change"]) == 0
        for metric in ("effect", "lean"):
            assert float(still[metric]) == float(data[f"{metric}_before"])
        moved = data.sel(direction="m", amount=none + 2)
        assert float(moved["kl"]) > 0
        assert float(moved["effect"]) != float(data["effect_before"])


def test_every_number_is_that_of_the_measure_alone(llama: pc.Model, mean: pc.Direction) -> None:
    amounts = [2.0, -1.5]
    for edit, about in (("add", "mean"), ("scale", "mean"), ("scale", "zero")):
        how = {} if (edit, about) == ("add", "mean") else {"edit": edit, "about": about}  # what is added is the default
        data = llama.dose_response({"a|b": mean}, PROMPTS, ANSWERS, np.array(amounts), TEXTS, **how).data
        assert data["direction"].values.tolist() == ["a|b"]
        assert data["amount"].values.tolist() == sorted(amounts)
        for amount in amounts:
            one = mean.add(amount) if edit == "add" else mean.scale(amount, about=about)
            bias = pc.metrics.bias(llama, PROMPTS, ANSWERS, one, labels=[1] * len(PROMPTS)).summary()
            rows = {r["metric"]: r for r in bias.to_dict("records") if r["edit"] == "edited"}
            cost = pc.metrics.damage(llama, one, TEXTS).summary()
            rows |= {r["metric"]: r for r in cost.to_dict("records") if r["edit"] == "edited"}
            plain = {r["metric"]: r["mean"] for r in bias.to_dict("records") if r["edit"] == "unedited"}
            assert float(data["effect_before"]) == pytest.approx(plain["logit_difference"], abs=1e-12)
            assert float(data["lean_before"]) == pytest.approx(plain["within"], abs=1e-12)
            cell = data.sel(direction="a|b", amount=amount)
            for ours, theirs in (
                ("effect", "logit_difference"),
                ("lean", "within"),
                ("kl", "kl"),
                ("loss_change",) * 2,
            ):
                for suffix, part in (("", "mean"), ("_low", "low"), ("_high", "high")):
                    assert float(cell[ours + suffix]) == pytest.approx(rows[theirs][part], abs=1e-12)


def test_along_the_answers_own_unembedding_more_is_always_more(llama: pc.Model) -> None:
    """After the last layer only the norm and the unembedding follow, so the log-odds grow with every step along it."""
    direction = llama.fit_direction("mean", PROMPTS, LABELS, "resid_post.2", holdout=0)
    norm = llama.module.model.norm.weight
    unembedding = llama.module.lm_head.weight
    step = ((unembedding[ANSWERS[1]] - unembedding[ANSWERS[0]]) * norm).detach().double()
    unit = step / step.norm()
    good = replace(direction, directions=unit.unsqueeze(0), gap=unit, limit=float("inf"))
    amounts = [-8.0, -4.0, -2.0, 0.0, 2.0, 4.0, 8.0]
    table = llama.dose_response({"good": good, "mirrored": replace(good, gap=-unit)}, PROMPTS, ANSWERS, amounts, TEXTS)
    effect = table.data["effect"].values
    assert (np.diff(effect[0]) > 0).all()
    assert np.allclose(effect[1], effect[0][::-1])
    lines = repr(table).splitlines()
    cell = table.data.sel(direction="good", amount=-8.0)
    assert lines[1].startswith(f"good         -8: {float(cell['effect']):+.2f} / {float(cell['kl']):.3f}   -4: ")


def test_bad_requests_are_refused(llama: pc.Model, mean: pc.Direction) -> None:
    for directions, amounts, edit, message in (
        ({"m": mean}, [1], "swap", "unknown edit 'swap'"),
        ({}, [1], "add", "a direction and an amount are needed"),
        ({"m": mean}, [], "add", "a direction and an amount are needed"),
        ({"m": mean}, [float("nan")], "add", "entry 0 is nan; valid: a finite number"),
    ):
        with pytest.raises(pc.InputError, match=message):
            llama.dose_response(directions, PROMPTS, ANSWERS, amounts, TEXTS, edit=edit)
    other = tiny.build("llama")
    with torch.no_grad():
        other.lm_head.weight.mul_(3)
    with pytest.raises(pc.EditError, match="fit the direction on this model"):
        pc.wrap(other).dose_response({"m": mean}, PROMPTS, ANSWERS, [1], TEXTS)

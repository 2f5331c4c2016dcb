"""The bias against a softmax by hand, and its symmetries."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import patchclamp as pc
from patchclamp.core.intervals import bootstrap
from patchclamp.core.progress import Progress
from tests import tiny
from tests.traces import passes

METRICS = ("within", "across", "logit_difference", "mass", "accuracy")
PAIRS = [tuple(tiny.ids(2, n, seed=n)) for n in (4, 7, 5)]
EDITS = {
    "scaled": pc.Scale(3.0, site="resid_post.0"),
    "both": [pc.Add(torch.ones(32), site="mlp_out.1"), pc.Zero(site="z.2.h1", at=-1)],
    "head": pc.Scale(2.0, site="final_norm"),
}


def by_hand(model: pc.Model, prompt: list[int], edits: object) -> torch.Tensor:
    """Probabilities after one prompt, run alone."""
    return model.run([prompt], edits).logits[0, -1].double().softmax(-1)


@pytest.mark.parametrize("name", [None, *EDITS])
def test_bias_equals_softmax_by_hand(llama: pc.Model, name: str | None) -> None:
    edits = () if name is None else EDITS[name]
    found = pc.metrics.bias(llama, PAIRS, (5, 9), edits)
    one = found.data.sel(edit="unedited" if name is None else "edited")
    flat = [prompt for pair in PAIRS for prompt in pair]
    for index, prompt in enumerate(flat):
        p = by_hand(llama, prompt, edits)
        right, wrong = (p[5], p[9]) if index % 2 == 0 else (p[9], p[5])
        row = one.isel(prompt=index)
        assert float(row["within"]) == pytest.approx(float((right - wrong) / max(right, wrong)), abs=1e-9)
        assert float(row["logit_difference"]) == pytest.approx(float((right / wrong).log()), abs=1e-9)
        assert float(row["mass"]) == pytest.approx(float(right + wrong), abs=1e-9)
        assert float(row["accuracy"]) == float(right > wrong)
    for pair, (a, b) in enumerate(PAIRS):
        p, q = by_hand(llama, a, edits), by_hand(llama, b, edits)
        for place, (mine, other) in enumerate([(p[5], q[5]), (q[9], p[9])]):
            expected = float((mine - other) / max(mine, other))
            assert float(one["across"][pair, place]) == pytest.approx(expected, abs=1e-9)


def test_swapping_the_answers_inverts_both_biases(llama: pc.Model) -> None:
    found, swapped = (pc.metrics.bias(llama, PAIRS, answers, EDITS).data for answers in ((5, 9), (9, 5)))
    for name in ("within", "across", "logit_difference"):
        values = swapped[name].values[..., ::-1] if name == "across" else swapped[name].values
        assert np.allclose(values, -found[name].values, atol=1e-12)
    assert np.allclose(swapped["mass"], found["mass"], atol=1e-12)
    assert abs(found["within"]).max() > 0.1, "there is a bias to invert"


def test_labels_say_what_pairs_say(llama: pc.Model) -> None:
    flat = [prompt for pair in PAIRS for prompt in pair]
    paired = pc.metrics.bias(llama, PAIRS, (5, 9)).data
    single = pc.metrics.bias(llama, flat, (5, 9), labels=[0, 1] * 3)
    assert np.array_equal(single.data["within"], paired["within"])
    assert single.metrics == ("within", "logit_difference", "mass", "accuracy")
    inverted = pc.metrics.bias(llama, flat, (5, 9), labels=[1, 0] * 3).data
    assert np.allclose(inverted["within"], -paired["within"], atol=1e-12)


@pytest.mark.sensitive
def test_batches_and_neighbours_change_nothing(llama: pc.Model) -> None:
    events: list[Progress] = []
    with passes(llama.module) as calls:
        together = pc.metrics.bias(llama, PAIRS, (5, 9), EDITS)
        few = len(calls)
        alone = pc.metrics.bias(llama, PAIRS, (5, 9), EDITS, batch_tokens=1, progress=events.append)
    assert few < 6 * 4 <= len(calls) - few, "a pass at least for each prompt and list of edits, so that each is small"
    assert [event.done for event in events] == [*range(1, 25), 24]
    assert events[-1].total == 24
    assert np.allclose(together.data["log_probability"], alone.data["log_probability"], atol=1e-8)


def test_the_summary_counts_pairs_and_has_the_sources_two_sigma(llama: pc.Model) -> None:
    found = pc.metrics.bias(llama, PAIRS, (5, 9), EDITS["scaled"])
    samples = {name: found.data[name].values.reshape(2, 3, 2).mean(2) for name in METRICS}
    for seed in (0, 1):
        rows = found.summary(seed).set_index(["edit", "metric"])
        assert list(rows.index) == [(edit, name) for name in METRICS for edit in ("unedited", "edited")]
        for edit, name in rows.index:
            values, row = samples[name][int(edit == "edited")], rows.loc[(edit, name)]
            assert row["mean"] == pytest.approx(values.mean())
            deviation = math.sqrt(((values - values.mean()) ** 2).sum() / 3)
            assert row["two_sigma"] == pytest.approx(2 * deviation / math.sqrt(3))
            assert row["count"] == 3
            assert (row["low"], row["high"]) == pytest.approx(bootstrap(values, seed))
    row = found.summary().iloc[0]
    lines = repr(found).splitlines()
    assert lines[0].endswith("on 3 pairs (mean and two sigma)")
    assert f"within {row['mean']:.3f} ± {row['two_sigma']:.3f}, across" in lines[1]


def test_the_summary_without_pairs_counts_prompts_and_draws_with_its_seed(llama: pc.Model) -> None:
    prompts = tiny.ids(12, 3, seed=5)
    found = pc.metrics.bias(llama, prompts, (5, 9), labels=[0, 1, 1] * 4)
    values = found.data["within"].values[0]
    intervals = []
    for seed in (0, 1, 1):
        row = found.summary(seed).set_index("metric").loc["within"]
        assert (row["mean"], row["count"]) == (pytest.approx(values.mean()), 12)
        assert (row["low"], row["high"]) == pytest.approx(bootstrap(values, seed))
        intervals.append((row["low"], row["high"]))
    assert intervals[0] != intervals[1] == intervals[2]
    assert "on 12 prompts" in repr(found)
    assert found.record["parameters"]["labels"] == [0, 1, 1] * 4
    assert found.data["expected"].values.tolist() == [0, 1, 1] * 4


def test_the_frame_has_each_answers_probability(llama: pc.Model) -> None:
    found = pc.metrics.bias(llama, PAIRS[:2], (5, 9), EDITS["scaled"])
    rows = found.frame()
    flat = [prompt for pair in PAIRS[:2] for prompt in pair]
    assert list(rows["edit"]) == ["unedited"] * 4 + ["edited"] * 4
    for number, (edits, prompt) in enumerate(product([(), EDITS["scaled"]], flat)):
        p = by_hand(llama, prompt, edits)
        for answer in (5, 9):
            said = rows[f"probability of {llama.output_label(answer)}"][number]
            assert said == pytest.approx(float(p[answer]), abs=1e-9)


@given(st.floats(-60, 0), st.floats(-60, 0))
def test_the_ratio_of_log_probabilities(a: float, b: float) -> None:
    p, q = math.exp(a), math.exp(b)
    assert float(pc.metrics.ratio(a, b)) == pytest.approx((p - q) / max(p, q), abs=1e-9)
    assert float(pc.metrics.ratio(a, b)) == -float(pc.metrics.ratio(b, a))
    assert -1 <= float(pc.metrics.ratio(a, b)) <= 1


def test_wrong_input_is_refused_before_any_run(llama: pc.Model) -> None:
    for pairs in ([], [[1, 2]], "text", [PAIRS[0][0]]):
        with pytest.raises(pc.InputError, match="pairs"):
            pc.metrics.bias(llama, pairs, (5, 9))
    with pytest.raises(pc.InputError, match="1 pairs hold 3 prompts; each half of a pair is one prompt"):
        pc.metrics.bias(llama, [(torch.tensor([[3, 4], [5, 6]]), [7, 8])], (5, 9))
    with pytest.raises(pc.InputError, match="one 0 or 1 a prompt"):
        pc.metrics.bias(llama, PAIRS[0], (5, 9), labels=[0, 2])
    with pytest.raises(pc.InputError, match="two answers"):
        pc.metrics.bias(llama, PAIRS, (5,))
    with pytest.raises(pc.InputError, match="same token"):
        pc.metrics.bias(llama, PAIRS, (5, 5))
    with pytest.raises(pc.InputError, match="'unedited' names the model"):
        pc.metrics.bias(llama, PAIRS, (5, 9), {"unedited": EDITS["scaled"]})
    with pytest.raises(pc.InputError, match="'x' is .* a tensor of shape"):
        pc.metrics.bias(llama, PAIRS, (5, 9), {"x": [torch.ones(3)]})
    with pytest.raises(pc.InputError, match="'x' is None; valid: an Edit or a list"):
        pc.metrics.bias(llama, PAIRS, (5, 9), {"x": None})


@pytest.mark.slow
@pytest.mark.assets
def test_smollm2_is_biased_and_erasing_nothing_leaves_it_so(smollm2: pc.Model) -> None:
    pairs = [
        (f"The {man} said that", f"The {woman} said that")
        for man, woman in [
            ("king", "queen"),
            ("man", "woman"),
            ("father", "mother"),
            ("boy", "girl"),
            ("uncle", "aunt"),
        ]
    ]
    found = pc.metrics.bias(smollm2, pairs, edits={"nothing": []})
    rows = found.summary().set_index(["edit", "metric"])["mean"]
    assert rows["unedited", "within"] > 0.5
    assert rows["unedited", "across"] > 0.5
    assert rows["unedited", "accuracy"] > 0.8
    assert np.array_equal(found.data["within"][0], found.data["within"][1])


def test_an_answer_of_several_words_adds_their_probabilities(llama: pc.Model) -> None:
    """The odds are those of the sums; one word in a list is that word."""
    single = [pc.metrics.bias(llama, PAIRS, (a, b), EDITS).data["log_probability"].values for a, b in ((5, 9), (6, 7))]
    both = pc.metrics.bias(llama, PAIRS, ([5, 6], [9, 7, 7]), EDITS)
    np.testing.assert_allclose(both.data["log_probability"].values, np.logaddexp(*single), rtol=1e-12)
    assert both.data["answer"].values.tolist() == ["5|6", "9|7"]
    assert both.record["parameters"]["answers"] == [[5, 6], [9, 7]]
    alone = pc.metrics.bias(llama, PAIRS, ([5], [9]), EDITS)
    assert alone == pc.metrics.bias(llama, PAIRS, (5, 9), EDITS)
    with pytest.raises(pc.InputError, match="share it"):
        pc.metrics.bias(llama, PAIRS, ([5, 6], [6, 7]), EDITS)
    with pytest.raises(pc.InputError, match="several whose probabilities are added"):
        pc.metrics.bias(llama, PAIRS, ([5], []), EDITS)

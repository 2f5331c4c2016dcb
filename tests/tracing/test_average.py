"""Traces of many facts: averaged by role, with intervals, the same as one by one."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import patchclamp as pc
from patchclamp.tracing.average import roles
from tests import tiny
from tests.lenses.families import opened

LONG, SHORT, THIRD = tiny.ids(1, 9)[0], tiny.ids(1, 4, seed=4)[0], tiny.ids(1, 6, seed=8)[0]
FACTS = [([LONG], [1, 2, 3, 4], 9), ([SHORT], [1]), ([THIRD], [2, 3], 9)]
HOW = {"sites": ["resid_post", "mlp_out"], "samples": 2, "noise": 2.0, "seed": 3}


@pytest.fixture(scope="module")
def found(llama: pc.Model) -> pc.TraceAverage:
    return llama.trace_facts(FACTS, **HOW)


def test_roles_of_positions() -> None:
    assert roles(7, (2, 3)) == {
        "first subject token": [2], "middle subject tokens": [], "last subject token": [3], "first subsequent token": [4],
        "further tokens": [5], "last token": [6],
    }  # fmt: skip
    assert list(roles(9, (1, 2, 3, 4)).values()) == [[1], [2, 3], [4], [5], [6, 7], [8]]
    assert list(roles(4, (1,)).values()) == [[], [], [1], [2], [], [3]], "a subject of one token is its last one"
    assert list(roles(3, (1, 2)).values()) == [[1], [], [2], [], [], []], "the prompt ends with its subject"


def test_facts_are_the_traces_one_by_one(llama: pc.Model, found: pc.TraceAverage) -> None:
    said = found.record["parameters"]
    traces = [llama.causal_trace(*fact, std=said["std"], **HOW) for fact in FACTS]
    assert pc.tracing.average(traces) == found
    best = int(llama.run([SHORT]).logits[0, -1].argmax())
    assert found.data["answer"].values.tolist() == ["9", str(best), "9"], "the likeliest token where none is given"
    for row, (trace, fact) in enumerate(zip(traces, FACTS, strict=True)):
        ids, subject = fact[0][0], fact[1]
        assert str(found.data["fact"].values[row]) == "".join(map(str, ids))
        assert str(found.data["subject"].values[row]) == "".join(str(ids[i]) for i in subject)
        effect = trace.mean("log_odds")["effect"].transpose("site", "layer", "position").values
        for role, places in roles(len(ids), tuple(subject)).items():
            mine = found.data["log_odds"].sel(role=role).values[row]
            if places:
                assert np.allclose(mine, sum(effect[..., place] for place in places) / len(places), rtol=1e-12)
            else:
                assert np.isnan(mine).all()
        assert float(found.total_effect()[row]) == pytest.approx(float(trace.total_effect().mean()))


def test_it_says_where_the_largest_effects_are(found: pc.TraceAverage) -> None:
    effect = found.data["probability"].sel(site="mlp_out", role="last token").mean("fact").values
    line = f"  mlp_out    last token         largest {effect.max():.3f} at layer {effect.argmax()}"
    assert line in repr(found).splitlines()


def test_traces_that_differ_in_what_is_not_their_meaning_are_averaged_but_not_repeated(llama: pc.Model) -> None:
    one, other = (llama.causal_trace([SHORT], [1], 9, samples=1, sites="resid_post", seed=seed) for seed in (0, 1))
    assert pc.tracing.average([one, other]).record["not_repeatable"] == "its traces differ in seed"
    for options, said in (
        ({"noise": 2.0}, "noise is 3.0 and 2.0"),
        ({"window": 2}, "window is {'resid_post': 1} and {'resid_post': 2}"),
    ):
        odd = llama.causal_trace([SHORT], [1], 9, samples=1, sites="resid_post", **options)
        with pytest.raises(pc.InputError, match=f"of one model and one kind: {said}"):
            pc.tracing.average([one, odd])


def test_noise_is_measured_by_all_subjects(llama: pc.Model, found: pc.TraceAverage) -> None:
    ids = [fact[0][0][i] for fact in FACTS for i in fact[1]]
    wanted = float(llama.module.get_input_embeddings().weight.detach()[ids].std())
    assert found.record["parameters"]["std"] == pytest.approx(wanted, rel=1e-6)


def test_intervals_are_students_over_facts(found: pc.TraceAverage) -> None:
    mean = found.mean(level=0.9)
    for role, facts in (("last subject token", [0, 1, 2]), ("first subject token", [0, 2])):
        values = found.data["probability"].sel(role=role).isel(site=1, layer=1, fact=facts).values
        one = mean.sel(role=role).isel(site=1, layer=1)
        low, high = stats.t.interval(0.9, len(values) - 1, values.mean(), stats.sem(values))
        assert int(one["count"]) == len(values)
        assert float(one["effect"]) == pytest.approx(values.mean())
        assert (float(one["low"]), float(one["high"])) == pytest.approx((low, high))
        assert float(one["standard_error"]) == pytest.approx(stats.sem(values))
        usual = found.mean().sel(role=role).isel(site=1, layer=1)
        _, high = stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values))
        assert float(usual["high"]) == pytest.approx(high)
    alone = mean.sel(role="middle subject tokens")
    assert int(alone["count"]) == 1
    assert np.isnan(alone["low"]).all()
    assert not np.isnan(alone["effect"]).any()


def test_killed_work_goes_on(llama: pc.Model, found: pc.TraceAverage, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def kill(event: object) -> None:
        if getattr(event, "done", 0) >= 2:
            raise Killed

    with pytest.raises(Killed):
        llama.trace_facts(FACTS, **HOW, checkpoint=tmp_path, progress=kill)
    assert {p.name for p in tmp_path.iterdir()} == {"fact-0", "fact-1"}
    assert llama.trace_facts(FACTS, **HOW, checkpoint=tmp_path) == found


def test_the_figure_draws_the_means(found: pc.TraceAverage) -> None:
    axes = found.figure().axes
    drawn = axes[1].images[0].get_array()
    mean = found.mean()["effect"].sel(site="mlp_out").transpose("layer", "role").values
    assert np.allclose(drawn, mean)
    curve = axes[2].lines[0]
    assert np.allclose(curve.get_ydata(), found.mean()["effect"].sel(site="resid_post", role="last subject token"))


def test_bad_input(llama: pc.Model) -> None:
    with pytest.raises(pc.InputError, match="no traces"):
        pc.tracing.average([])
    with pytest.raises(pc.InputError, match="one or more"):
        llama.trace_facts([])
    with pytest.raises(pc.InputError, match="entry 1 is .The capital of Spain is.; valid: a list"):
        llama.trace_facts([([LONG], [1], 9), "The capital of Spain is"])
    with pytest.raises(pc.PositionError, match="fact number 1"):
        llama.trace_facts([([LONG], [1], 9), ([SHORT], [5], 9)])
    one = llama.causal_trace([LONG], [1], 9, samples=1)
    with pytest.raises(pc.InputError, match="same sites"):
        pc.tracing.average([one, llama.causal_trace([LONG], [1], 9, samples=1, sites="mlp_out")])
    with pytest.raises(pc.InputError, match="read the same"):
        pc.tracing.average([one, llama.causal_trace([LONG], [1], samples=1, read=pc.LogitDifference(5, 9))])
    with pytest.raises(pc.InputError, match="one kind: method is 'exact' and 'gradient'"):
        pc.tracing.average([one, llama.causal_trace([LONG], [1], 9, samples=1, method="gradient", check=0)])
    other = opened("gpt2").causal_trace([LONG], [1], 9, samples=1)
    with pytest.raises(pc.InputError, match="model is|same sites"):
        pc.tracing.average([one, other])
    with pytest.raises(pc.InputError, match="unknown read"):
        pc.tracing.average([one]).mean("logits")

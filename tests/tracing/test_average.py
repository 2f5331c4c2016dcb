"""Traces of many facts: averaged by role, with intervals, the same as one by one."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import patchclamp as pc
from patchclamp.tracing.average import roles
from tests import tiny

LONG, SHORT, THIRD = tiny.ids(1, 7)[0], tiny.ids(1, 5, seed=4)[0], tiny.ids(1, 6, seed=8)[0]
FACTS = [([LONG], [2, 3], 9), ([SHORT], [1], 4), ([THIRD], [1, 2, 3], 9)]


@pytest.fixture(scope="module")
def found(llama: pc.Model) -> pc.TraceAverage:
    return llama.trace_facts(FACTS, sites=["resid_post", "mlp_out"], samples=2)


def test_roles_of_positions() -> None:
    assert roles(7, (2, 3)) == {
        "first subject token": [2], "middle subject tokens": [], "last subject token": [3], "first subsequent token": [4],
        "further tokens": [5], "last token": [6],
    }  # fmt: skip
    assert roles(3, (2,))["last token"] == []


def test_facts_are_the_traces_one_by_one(llama: pc.Model, found: pc.TraceAverage) -> None:
    said = found.record["parameters"]
    traces = [
        llama.causal_trace(p, s, a, sites=["resid_post", "mlp_out"], samples=2, std=said["std"]) for p, s, a in FACTS
    ]
    assert pc.tracing.average(traces) == found
    for row, (trace, (_, subject, _)) in enumerate(zip(traces, FACTS, strict=True)):
        effect = trace.mean("log_odds")["effect"]
        mine = found.data["log_odds"].isel(fact=row)
        assert np.array_equal(mine.sel(role="last subject token"), effect.isel(position=subject[-1]))
        middle = effect.isel(position=subject[1:-1]).mean("position")
        assert np.array_equal(mine.sel(role="middle subject tokens"), middle, equal_nan=True)
        assert float(found.total_effect()[row]) == pytest.approx(float(trace.total_effect().mean()))


def test_noise_is_measured_by_all_subjects(llama: pc.Model, found: pc.TraceAverage) -> None:
    ids = [row[0][i] for row, where, _ in FACTS for i in where]
    wanted = float(llama.module.get_input_embeddings().weight[ids].std())
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
        llama.trace_facts(FACTS, sites=["resid_post", "mlp_out"], samples=2, checkpoint=tmp_path, progress=kill)
    assert {p.name for p in tmp_path.iterdir()} == {"fact-0", "fact-1"}
    assert llama.trace_facts(FACTS, sites=["resid_post", "mlp_out"], samples=2, checkpoint=tmp_path) == found


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
    with pytest.raises(pc.InputError, match=r"\(prompt, subject\)"):
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
    other = pc.wrap(tiny.shared("gpt2")).causal_trace([LONG], [1], 9, samples=1)
    with pytest.raises(pc.InputError, match="model is|same sites"):
        pc.tracing.average([one, other])
    with pytest.raises(pc.InputError, match="unknown read"):
        pc.tracing.average([one]).mean("logits")

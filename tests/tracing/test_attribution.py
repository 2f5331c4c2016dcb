from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import patchclamp as pc
from patchclamp.tracing import attribution, estimate
from tests import tiny
from tests.traces import no_trace

IDS, OTHER = tiny.ids(2, 7)
READ = pc.LogitDifference(5, 9)


def test_exact_on_a_linear_model() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 3)).double().eval()
        source, into = torch.randn(2, 1, 4, dtype=torch.float64)
    model = pc.wrap(net)
    sites, read = ["0:out", "1:out"], pc.LogitDifference(0, 2)
    with no_trace(net):
        found = model.attribution_patch(source, into, sites=sites, at="all", read=read)
    wanted = model.patch(source, into, sites=sites, at="all", read=read)
    assert np.allclose(found.data, wanted.data, rtol=1e-12)
    assert found.agreement is not None
    assert found.agreement["relative_error"] < 1e-12
    bent = pc.wrap(nn.Sequential(net[0], nn.GELU(), net[1], net[2]).eval())
    curved = bent.attribution_patch(source, into, sites=["0:out"], at="all", read=read)
    assert curved.agreement is not None
    assert curved.agreement["relative_error"] > 1e-3, "control: a nonlinear model is not linear"


def test_the_same_labels_as_the_exact_sweep_and_its_true_error(llama: pc.Model) -> None:
    sites = ["resid_post", "mlp_out"]
    with no_trace(llama.module):
        found = llama.attribution_patch([IDS], [OTHER], sites=sites, read=READ, check=10)
    exact = llama.patch([IDS], [OTHER], sites=sites, read=READ)
    assert found.data.dims == exact.data.dims
    assert found.data.coords.equals(exact.data.coords)
    assert np.allclose(found.baseline, exact.baseline)
    assert np.allclose(found.reference, exact.reference)
    assert found.agreement is not None
    truth, guess = (np.array(found.agreement[name]) for name in ("exact", "estimated"))
    every = set(np.round(exact.relative().values.ravel(), 10))
    assert set(np.round(truth, 10)) <= every
    assert set(np.round(guess, 10)) <= set(np.round(found.relative().values.ravel(), 10))
    assert found.agreement["pearson"] == pytest.approx(np.corrcoef(truth, guess)[0, 1])
    assert found.agreement["relative_error"] == pytest.approx(np.linalg.norm(truth - guess) / np.linalg.norm(truth))
    assert "on 10 random cells run exactly: correlation" in repr(found)


def small_noise(llama: pc.Model, noise: float, window: int) -> float:
    """Relative error of a trace's estimate."""
    sites = ["mlp_out", "resid_post"] if window == 1 else "mlp_out"
    trace = llama.causal_trace(
        [IDS], [1, 2], 9, samples=2, noise=noise, sites=sites, window=window, method="gradient", check=200
    )
    assert trace.agreement is not None
    return float(trace.agreement["relative_error"])


def test_it_needs_no_gradients_of_its_caller(llama: pc.Model) -> None:
    reads = [READ, pc.Probability([5, 9])]
    wanted = llama.attribution_patch([IDS], [OTHER], sites="mlp_out", read=reads, check=0, integrate=2)
    with torch.no_grad():
        found = llama.attribution_patch([IDS], [OTHER], sites="mlp_out", read=reads, check=0, integrate=2)
    assert found == wanted


def test_the_error_vanishes_with_the_change(llama: pc.Model) -> None:
    coarse, fine = (small_noise(llama, noise, window=1) for noise in (1e-2, 1e-3))
    assert fine < 1e-2
    assert fine < coarse / 3, "to first order"
    assert small_noise(llama, 1e-3, window=3) > 0.1, "windows count paths through several of their layers twice"


def test_the_estimated_trace_has_the_labels_of_the_exact_one(llama: pc.Model) -> None:
    exact = llama.causal_trace([IDS], [1, 2], 9, samples=2, window=2)
    found = llama.causal_trace([IDS], [1, 2], 9, samples=2, window=2, method="gradient", integrate=3, check=0)
    assert found.data.coords.equals(exact.data.coords)
    assert np.allclose(found.corrupted["log_odds"], exact.corrupted["log_odds"])
    assert found.agreement is None


def test_integrated_gradients_are_nearer_where_the_read_saturates(llama: pc.Model) -> None:
    plain, path = (
        llama.attribution_patch([IDS], [OTHER], sites="resid_pre.0", at="all", read=READ, integrate=n, check=1)
        for n in (0, 64)
    )
    errors = [found.agreement["relative_error"] for found in (plain, path) if found.agreement]
    assert errors[1] < 1e-3, "along the embeddings the integral of the gradient is the change itself"
    assert errors[0] > 10 * errors[1]


def test_an_integrated_trace_gives_all_of_the_total_effect(llama: pc.Model) -> None:
    """Along the noise on the embeddings the gradient adds up to the whole change; at its end alone it does not."""
    found = [
        llama.causal_trace(
            [IDS], [1, 2], 9, sites="resid_pre.0", samples=2, seed=1, method="gradient", integrate=n, check=0
        )
        for n in (0, 48)
    ]
    total = found[0].total_effect("log_odds").values
    plain, path = (trace.indirect_effect("log_odds").isel(site=0, layer=0).sum("position").values for trace in found)
    assert np.allclose(path, total, rtol=1e-2)
    assert (abs(plain - total) > 0.05 * abs(total)).all()


def test_the_cells_run_exactly_follow_the_seed(llama: pc.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Any] = []
    monkeypatch.setattr(attribution, "measured_error", lambda *given: kept.append(given))
    found = llama.attribution_patch([IDS], [OTHER], sites="resid_post", read=READ, check=3)
    assert found.agreement is None
    ((job, outcome, check),) = kept
    assert check == 3
    first, again, other = (estimate.measured_error(job, outcome, 3, seed) for seed in (0, 0, 1))
    assert first == again
    assert first is not None
    assert other is not None
    assert len(first["exact"]) == first["cells"] == 3
    assert first["estimated"] != other["estimated"]
    assert estimate.measured_error(job, outcome, 0) is None
    with pytest.raises(pc.InputError, match="check is a number of cells"):
        estimate.measured_error(job, outcome, -1)


def test_an_error_is_a_correlation_and_a_share_of_the_truth() -> None:
    def error(truth: list[float], guess: list[float]) -> tuple[float | None, float | None]:
        found = estimate.compare("read", np.array(truth), np.array(guess), "cells")
        return found["pearson"], found["relative_error"]

    assert error([3.0, 4.0], [3.0, 1.0]) == (pytest.approx(-1.0), pytest.approx(3 / 5))
    assert error([1.0, 2.0, 3.0], [2.0, 4.0, 6.0]) == (pytest.approx(1.0), pytest.approx(1.0))
    assert error([0.0, 0.0], [1.0, 2.0]) == (None, None), "nothing to compare with"
    assert error([1.0, 1.0], [1.0, 2.0]) == (None, pytest.approx(0.5**0.5))
    assert error([2.0], [1.0]) == (None, pytest.approx(0.5))
    assert estimate.midpoints(4) == [0.875, 0.625, 0.375, 0.125]
    assert estimate.midpoints(0) == []


def test_heads_and_several_answers(llama: pc.Model) -> None:
    read = pc.Probability([5, 9])
    found = llama.attribution_patch([IDS], [OTHER], sites="z.*.h*", at="last", read=read)
    assert found.data.dims == ("prompt", "site", "layer", "head", "answer")
    whole = llama.attribution_patch([IDS], [OTHER], sites="z", at="last", read=read)
    assert np.allclose(found.relative().sum("head"), whole.relative()), "first order adds up over heads"


def test_saved_and_opened(llama: pc.Model, tmp_path: Path) -> None:
    found = llama.attribution_patch([IDS], [OTHER], read=READ)
    found.save(tmp_path)
    assert pc.open(tmp_path) == found
    assert "run exactly: correlation" in (tmp_path / "report.html").read_text()


def test_what_does_not_fit_is_refused(llama: pc.Model) -> None:
    with pytest.raises(pc.InputError, match="the source has 7 tokens and the target 4"):
        llama.attribution_patch([IDS], [IDS[:4]], read=READ)
    with pytest.raises(pc.InputError, match=r"equally long; got 7 and 4 tokens"):
        llama.attribution_patch([IDS], [IDS[:4]], read=READ, align="left", integrate=2)
    with pytest.raises(pc.InputError, match="kl has no gradient"):
        llama.attribution_patch([IDS], [OTHER], read=pc.KL())
    with pytest.raises(pc.InputError, match="has no gradient to estimate with"):
        llama.attribution_patch([IDS], [OTHER], read=pc.Activation("resid_post.2"))
    with pytest.raises(pc.InputError, match="the read 'rank' has no gradient"):
        llama.attribution_patch([IDS], [OTHER], read=pc.Rank(5))
    with pytest.raises(pc.InputError, match="integrate=-1 cannot be used; valid: a whole number"):
        llama.attribution_patch([IDS], [OTHER], read=READ, integrate=-1)
    with pytest.raises(pc.InputError, match="97 numbers"):
        llama.attribution_patch([IDS], [OTHER], read=pc.Logits())

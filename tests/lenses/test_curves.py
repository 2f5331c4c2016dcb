from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import patchclamp as pc
from patchclamp.interventions import float32_logits
from patchclamp.lenses.measure import likeliest
from patchclamp.lenses.metrics import METRICS
from tests import tiny

ROWS = tiny.ids(7, 6)


def test_curves_are_means_of_the_lens_of_each_sequence(llama: pc.Model) -> None:
    found = llama.lens_curves(ROWS, ["resid_mid", "resid_post"], length=6)
    assert (found.data.sizes["sequence"], found.tokens) == (7, 42)
    for number, ids in enumerate(ROWS):
        alone = llama.lens([ids], ["resid_mid", "resid_post"]).data.isel(prompt=0)
        for metric in METRICS:
            values = alone[metric].values
            mine = found.data.sel(metric=metric, sequence=number)
            assert mine["mean"].values == pytest.approx(np.nanmean(values, 1), rel=1e-9, abs=1e-9)
            for share in (0.25, 0.5, 0.75):
                wanted = np.nanquantile(values, share, axis=1)
                assert mine["quantile"].sel(quantile_at=share).values == pytest.approx(wanted, rel=1e-9, abs=1e-12)
    assert found.data["site"].values.tolist() == alone["site"].values.tolist()


def test_intervals_are_students_over_sequences(llama: pc.Model) -> None:
    found = llama.lens_curves(ROWS, length=6)
    summary = found.summary(0.9)
    for metric in ("surprisal", "kl"):
        for name, low, high, values in (
            ("mean", "low", "high", found.data["mean"].sel(metric=metric).values),
            ("median", "median_low", "median_high", found.data["quantile"].sel(metric=metric, quantile_at=0.5).values),
        ):
            # (scipy takes no scale of 0, and the last layer has a KL of 0 everywhere)
            wanted = stats.t.interval(0.9, 6, loc=values.mean(0), scale=stats.sem(values, axis=0) + 1e-300)
            one = summary.sel(metric=metric)
            assert one[name].values == pytest.approx(values.mean(0))
            assert one[low].values == pytest.approx(wanted[0])
            assert one[high].values == pytest.approx(wanted[1], abs=1e-12)
    wider = found.summary()
    assert (wider["high"] > summary["high"]).sel(metric="kl").values[:-1].all()


@pytest.mark.parametrize("options", [{"batch_tokens": 6}, {"batch_tokens": 10**6}, {"chunk": 1}, {"chunk": 10**4}])
def test_batches_and_chunks_change_nothing(llama: pc.Model, options: dict[str, int]) -> None:
    whole, other = llama.lens_curves(ROWS, length=6), llama.lens_curves(ROWS, length=6, **options)
    for name in ("mean", "quantile"):
        assert np.allclose(whole.data[name], other.data[name], rtol=1e-9, atol=1e-9)


def test_the_last_layer_is_the_models_own_loss(llama: pc.Model) -> None:
    found = llama.lens_curves(ROWS, length=6).summary().isel(layer=-1)
    logs = llama.run(ROWS).logits.log_softmax(-1)[:, :-1]
    loss = -logs.gather(-1, torch.tensor(ROWS)[:, 1:].unsqueeze(-1)).mean()
    assert float(found["mean"].sel(metric="surprisal")) == pytest.approx(float(loss), rel=1e-9)
    assert float(found["mean"].sel(metric="kl")) == 0
    assert float(found["mean"].sel(metric="agreement")) == 1
    shuffled = [list(reversed(row)) for row in ROWS]
    other = llama.lens_curves(shuffled, length=6).summary().isel(layer=-1)
    assert float(other["mean"].sel(metric="surprisal")) != pytest.approx(float(loss), rel=1e-4)


def test_a_given_target_is_looked_at_everywhere(llama: pc.Model) -> None:
    found = llama.lens_curves(ROWS, length=6, targets=7).summary().isel(layer=-1)
    logs = llama.run(ROWS).logits.log_softmax(-1)
    assert float(found["mean"].sel(metric="surprisal")) == pytest.approx(-float(logs[..., 7].mean()), rel=1e-9)


def test_tokens_and_one_sequence(llama: pc.Model) -> None:
    some = llama.lens_curves(ROWS, length=6, tokens=20)
    assert some.data.sizes["sequence"] == 3
    assert llama.lens_curves(ROWS, length=6, tokens=6).data.sizes["sequence"] == 1
    one = llama.lens_curves(ROWS[:1], length=6)
    assert np.isnan(one.summary()["low"]).all()
    assert np.isfinite(one.summary()["mean"]).all()
    last = llama.lens_curves(ROWS, at="last", length=6).summary()["mean"]
    assert np.isnan(last.sel(metric="rank")).all()
    assert np.isfinite(last.sel(metric="entropy")).all()


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([], {"length": 6}, "empty"),
        (ROWS[:1], {"length": 9}, "too small"),
        (ROWS, {"length": 6, "tokens": 5}, "less than one sequence of 6"),
        ("gutenburg", {"length": 6}, "did you mean 'gutenberg'"),
        (["a text"], {"length": 6}, "tokenizer"),
        (ROWS, {"length": 6, "targets": [3]}, "targets=\\[3\\] cannot be used; valid: text or a whole number"),
        (ROWS, {"length": 6, "sites": "mlp_out"}, "unknown site for a lens"),
    ],
)
def test_bad_requests_are_refused(llama: pc.Model, texts: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(pc.InputError, match=message):
        llama.lens_curves(texts, **options)


def test_logits_that_are_not_numbers_are_refused() -> None:
    model = tiny.opened_then_infinite()
    with pytest.raises(pc.ModelError, match="gives NaN or infinity, which arises first at mlp_out.1"):
        model.lens_curves(ROWS, length=6)


def test_the_figure_draws_the_summary(llama: pc.Model) -> None:
    found, other = llama.lens_curves(ROWS, length=6), llama.lens_curves(ROWS[:4], length=6)
    axes = found.figure(metrics=["surprisal", "rank"], beside={"fewer": other}).axes
    assert np.allclose(axes[0].lines[0].get_ydata(), found.summary()["mean"].sel(metric="surprisal"))
    assert np.allclose(axes[0].lines[1].get_ydata(), other.summary()["mean"].sel(metric="surprisal"))
    assert np.allclose(axes[1].lines[0].get_ydata(), found.summary()["median"].sel(metric="rank"))
    with pytest.raises(pc.InputError, match="unknown metric 'ranks'"):
        found.figure(metrics="ranks")
    with pytest.raises(pc.InputError, match="other sites"):
        found.figure(beside={"mid": llama.lens_curves(ROWS, "resid_mid", length=6)})
    for wrong in (95, 1.0, 0.0):
        with pytest.raises(pc.InputError, match=rf"confidence={wrong}"):
            found.summary(wrong)


@given(st.integers(1, 400), st.integers(0, 1000))
def test_the_likeliest_tokens_are_those_of_a_full_search(vocabulary: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, vocabulary, generator=generator)
    logits = torch.cat([logits, *[torch.randn(2, 128, generator=generator) for _ in range(4)]], -1)
    for k in (1, 2, 5):
        assert torch.equal(likeliest(logits, k), logits.topk(k).indices)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_product_in_blocks_is_the_product(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(float32_logits, "_BLOCK_BYTES", {"cpu": 1})
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, 8, generator=generator, dtype=torch.float64).to(dtype) for n in (5, 1000))
    bias = torch.randn(1000, generator=generator, dtype=torch.float64).to(dtype)
    with float32_logits.WideLogits(weight):
        found = torch.nn.functional.linear(x, weight, bias)
    wanted = torch.nn.functional.linear(x.double(), weight.double(), bias.double())
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.allclose(found.double(), wanted, rtol=1e-5, atol=1e-5)
    other = torch.randn(1000, 8, generator=generator, dtype=torch.float64).to(dtype)
    with float32_logits.WideLogits(weight):
        assert torch.nn.functional.linear(x, other).dtype == dtype, "other products are left alone"

"""Latents that are never active come back: the auxiliary loss reaches the encoder, and resampling takes what is badly explained."""

import pytest
import torch

from patchclamp.dictionaries.linear import TrainingBatch
from patchclamp.dictionaries.revival import add_auxk, resample
from patchclamp.dictionaries.topk import TopKEncoder
from tests.dictionaries.test_gradients import WIDTH, autograd, parameters, rows, slow_loss

DEAD = torch.tensor([1, 4, 7, 20, 22])


def slow_auxk(x, p, residual, share):
    scores = ((x - p["bias"]) @ p["weight"].T + p["offset"])[:, DEAD]
    kept = scores.topk(2, dim=1)
    codes = torch.zeros_like(scores).scatter(1, kept.indices, kept.values.relu())
    return share * (residual - codes @ p["atoms"][DEAD]).square().sum(1).mean()


def test_the_gradient_of_auxk_is_that_of_autograd_and_reaches_the_encoder():
    encoder, x = TopKEncoder(3), rows()
    p = parameters(encoder)
    p["offset"][DEAD] -= 20  # dead in the main loss, so that all of their gradient is the auxiliary one's
    for latent in DEAD:
        p["weight"][latent] *= 5
    scores = (x - p["bias"]) @ p["weight"].T + p["offset"]
    batch = TrainingBatch(x, scores, p)
    step = encoder.step(batch)
    whole = add_auxk(batch, step, DEAD, 2, 0.25)
    leaves = {name: value.clone().requires_grad_() for name, value in p.items()}
    loss = slow_loss(encoder, x, leaves, 1.0, 1.0) + slow_auxk(x, leaves, step.residual, 0.25)
    expected = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
    torch.testing.assert_close(whole.loss, loss.detach())
    torch.testing.assert_close(whole.gradients, expected)
    alone = autograd(encoder, x, p)[1]
    for name in ("weight", "atoms", "offset"):
        reached = whole.gradients[name][DEAD].abs().sum(-1) > 0
        assert reached.any(), f"the auxiliary loss says nothing to {name}"
        assert not torch.allclose(whole.gradients[name], alone[name])


@pytest.mark.parametrize("idle_count", [4, 20])
def test_idle_latents_take_directions_of_large_residuals_and_begin_anew(idle_count):
    p = parameters(TopKEncoder(3))
    residual = torch.zeros(12, 6, dtype=torch.float64)
    residual[3], residual[8] = torch.eye(6)[0] * 5, torch.eye(6)[1] * 4  # the only rows that are badly explained
    residual[5:7] = 1e-6
    idle = torch.arange(WIDTH) < idle_count
    moments = {name: (torch.ones_like(value), torch.ones_like(value)) for name, value in p.items()}
    before = {name: value.clone() for name, value in p.items()}
    length = p["weight"][~idle].norm(dim=1).mean()
    resample(p, {}, moments, idle, residual, torch.Generator().manual_seed(0))
    chosen = idle & (torch.arange(WIDTH) < 12)  # no more than there are rows
    assert {0, 1} <= {int(i) for i in p["atoms"][:2].argmax(1)} | {int(i) for i in p["atoms"][:4].argmax(1)}
    for name in ("atoms", "weight", "offset"):
        assert torch.equal(p[name][~chosen], before[name][~chosen])
        for moment in moments[name]:
            assert not moment[chosen].any()
            assert bool((moment[~chosen] == 1).all())
    assert torch.equal(p["bias"], before["bias"])
    drawn = p["atoms"][:2]
    torch.testing.assert_close(drawn.norm(dim=1), torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(p["weight"][:2], drawn * length)
    assert not p["offset"][chosen].any()


def test_the_draw_is_weighted_by_the_squared_error():
    """Two rows, of squared errors 9 and 1: the first atom is the first row's nine times of ten."""
    residual = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    generator, first = torch.Generator().manual_seed(1), 0
    for _ in range(400):
        p = {"weight": torch.ones(3, 2), "offset": torch.zeros(3), "atoms": torch.ones(3, 2), "bias": torch.zeros(2)}
        moments = {name: (torch.zeros_like(value), torch.zeros_like(value)) for name, value in p.items()}
        resample(p, {}, moments, torch.tensor([True, False, False]), residual, generator)
        first += int(p["atoms"][0, 0] > 0.5)
    assert abs(first / 400 - 0.9) < 4 * (0.09 / 400) ** 0.5

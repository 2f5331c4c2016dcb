"""Gradients written by hand, of every loss and every parameter, against autograd in float64."""

import pytest
import torch
from torch import Tensor

from patchclamp.dictionaries.gated import Gated
from patchclamp.dictionaries.jumprelu import JumpReLU
from patchclamp.dictionaries.linear import LinearEncoder, TrainingBatch
from patchclamp.dictionaries.matryoshka import MatryoshkaBatchTopK
from patchclamp.dictionaries.relu import ReLU
from patchclamp.dictionaries.topk import BatchTopK, TopKEncoder

ROWS, D, WIDTH = 12, 6, 24
ENCODERS = [
    TopKEncoder(3),
    BatchTopK(3),
    MatryoshkaBatchTopK(3, groups=(0.25, 0.25, 0.5)),
    ReLU(penalty=0.7),
    JumpReLU(target_l0=3.0, penalty=2.0, bandwidth=0.9, initial_threshold=0.4),
    Gated(penalty=0.7),
]


def parameters(encoder: LinearEncoder, width: int = WIDTH) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    values = {"weight": random(width, D), "offset": random(width), "atoms": random(width, D), "bias": random(D)}
    extra = encoder.initial(random(ROWS, width))
    return values | {name: value + 0.3 * random(width) for name, value in extra.items()}


def rows() -> Tensor:
    return 2 * torch.randn(ROWS, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


class Straight(torch.autograd.Function):
    """The step and the jump of JumpReLU, with the pseudo-derivatives of the paper's appendix."""

    @staticmethod
    def forward(ctx, scores, threshold, bandwidth, jump):
        ctx.save_for_backward(scores, threshold)
        ctx.bandwidth, ctx.jump = bandwidth, jump
        on = (scores > threshold).to(scores.dtype)
        return scores * on if jump else on

    @staticmethod
    def backward(ctx, gradient):
        scores, threshold = ctx.saved_tensors
        bandwidth = ctx.bandwidth * threshold
        inside = ((scores - threshold) / bandwidth).abs() < 0.5
        to_scores = gradient * (scores > threshold) if ctx.jump else torch.zeros_like(scores)
        rise = threshold if ctx.jump else torch.ones_like(threshold)
        return to_scores, -(gradient * inside * rise / bandwidth).sum(0), None, None


def slow_loss(encoder: LinearEncoder, x: Tensor, p: dict[str, Tensor], error_factor: float, penalty: float) -> Tensor:
    """The loss as the papers write it."""
    scores = (x - p["bias"]) @ p["weight"].T + p["offset"]

    def error(codes: Tensor, atoms: Tensor, bias: Tensor) -> Tensor:
        return error_factor * (codes @ atoms + bias - x).square().sum(1).mean()

    match encoder:
        case TopKEncoder():
            kept = scores.topk(encoder.k, dim=1)
            return error(torch.zeros_like(scores).scatter(1, kept.indices, kept.values.relu()), p["atoms"], p["bias"])
        case BatchTopK() | MatryoshkaBatchTopK():
            least = scores.flatten().sort(descending=True).values[encoder.k * len(x) - 1]
            codes = scores.relu() * (scores >= least)
            if isinstance(encoder, BatchTopK):
                return error(codes, p["atoms"], p["bias"])
            ends = encoder.ends(scores.shape[1])
            return sum(error(codes[:, :end], p["atoms"][:end], p["bias"]) for end in ends) / len(ends)
        case ReLU():
            codes = scores.relu()
            return error(codes, p["atoms"], p["bias"]) + penalty * encoder.penalty * codes.abs().sum(1).mean()
        case JumpReLU():
            threshold = p["log_threshold"].exp()
            codes = Straight.apply(scores, threshold, encoder.bandwidth, True)
            l0 = Straight.apply(scores, threshold, encoder.bandwidth, False).sum(1).mean()
            pull = (l0 / encoder.target_l0 - 1).square()
            return error(codes, p["atoms"], p["bias"]) + penalty * encoder.penalty * D * pull
        case Gated():
            linear = (x - p["bias"]) @ p["weight"].T
            magnitude = (linear * p["magnitude_scale"].exp() + p["magnitude_offset"]).relu()
            main = error(magnitude * (scores > 0), p["atoms"], p["bias"])
            auxiliary = error(scores.relu(), p["atoms"].detach(), p["bias"].detach())
            return main + auxiliary + penalty * encoder.penalty * scores.relu().sum(1).mean()
    raise AssertionError(encoder)


def autograd(
    encoder: LinearEncoder, x: Tensor, p: dict[str, Tensor], error_factor: float = 1.0, penalty: float = 1.0
) -> tuple[Tensor, dict[str, Tensor]]:
    leaves = {name: value.clone().requires_grad_() for name, value in p.items()}
    loss = slow_loss(encoder, x, leaves, error_factor, penalty)
    return loss.detach(), dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


def by_hand(encoder: LinearEncoder, x: Tensor, p: dict[str, Tensor], **factors: float):
    scores = (x - p["bias"]) @ p["weight"].T + p["offset"]
    return encoder.step(TrainingBatch(x, scores, p, **factors))


@pytest.mark.parametrize("encoder", ENCODERS, ids=lambda encoder: type(encoder).__name__)
@pytest.mark.parametrize("factors", [(1.0, 1.0), (0.25, 0.125)], ids=["sample", "post"])
def test_gradients_by_hand_are_those_of_autograd(encoder, factors):
    p, x = parameters(encoder), rows()
    step = by_hand(encoder, x, p, error_factor=factors[0], penalty_factor=factors[1])
    loss, expected = autograd(encoder, x, p, *factors)
    torch.testing.assert_close(step.loss, loss)
    assert step.gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient.abs().max() > 1e-3, f"the loss does not hang on {name}: the comparison would say nothing"
        torch.testing.assert_close(step.gradients[name], gradient, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("encoder", ENCODERS, ids=lambda encoder: type(encoder).__name__)
def test_the_bias_has_a_gradient_through_the_encoder(encoder):
    """The negative control: without that term the comparison above fails."""
    p, x = parameters(encoder), rows()
    step = by_hand(encoder, x, p)
    _, expected = autograd(encoder, x, p)
    through_encoder = step.gradients["offset"] @ p["weight"]
    assert not torch.allclose(step.gradients["bias"] + through_encoder, expected["bias"])


@pytest.mark.parametrize("encoder", ENCODERS, ids=lambda encoder: type(encoder).__name__)
def test_residual_and_active_latents_are_those_of_the_codes(encoder):
    p, x = parameters(encoder), rows()
    step = by_hand(encoder, x, p)
    weights = {name: value for name, value in p.items() if name not in ("atoms", "bias", "log_threshold")}
    if "log_threshold" in p:
        weights["threshold"] = p["log_threshold"].exp()
    codes = encoder.codes(x - p["bias"], p["atoms"], weights)
    torch.testing.assert_close(step.residual, x - codes.decode(p["atoms"]) - p["bias"])
    assert torch.equal(step.active.long(), codes.firings())


@pytest.mark.parametrize("encoder", [TopKEncoder(3), BatchTopK(3), MatryoshkaBatchTopK(3)], ids=str)
def test_a_choice_in_low_precision_has_the_values_of_the_full_one(encoder):
    p, x = parameters(encoder), rows()
    scores = (x - p["bias"]) @ p["weight"].T + p["offset"]
    full = encoder.step(TrainingBatch(x, scores, p))
    coarse = encoder.step(TrainingBatch(x, scores.to(torch.bfloat16), p))
    same = torch.equal(full.active, coarse.active)
    assert same or abs(float(full.loss / coarse.loss) - 1) < 0.1
    if same:
        torch.testing.assert_close(coarse.gradients, full.gradients)

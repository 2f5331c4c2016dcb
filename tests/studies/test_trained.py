"""Directions trained on prompts alone."""

import pytest
import torch

import patchclamp as pc
from patchclamp.studies import trained
from tests import tiny

PROMPTS = tiny.ids(6, 7)
SITE = "resid_post.1"


@pytest.fixture(scope="module")
def start(llama: pc.Model) -> pc.Direction:
    return llama.fit_direction("random", PROMPTS, [0, 1] * 3, SITE, holdout=0)


def test_log_odds_are_of_one_token_against_the_rest() -> None:
    logits = torch.randn(4, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = logits.softmax(-1)[torch.arange(4), [3, 1, 4, 1]]
    assert torch.allclose(trained.log_odds(logits, [3, 1, 4, 1]), (p / (1 - p)).log())


@pytest.mark.parametrize(("kind", "edit"), [("erase", pc.ProjectOut), ("swap", pc.Reflect)])
def test_what_is_trained_is_the_edit(kind: trained.Kind, edit: type) -> None:
    draw = torch.Generator().manual_seed(0)
    about, x = torch.randn(8, generator=draw).double(), torch.randn(5, 8, generator=draw).double()
    along = trained.TrainableProjection(about, kind, 0)
    assert torch.allclose(along(x), edit(along.unit().detach(), about).operation(x))


@pytest.mark.parametrize("goal", ["avoid", "say"])
def test_training_moves_the_tokens_as_told(llama: pc.Model, start: pc.Direction, goal: str) -> None:
    own = llama.run(PROMPTS, logits="last").logits.argmax(-1).tolist()
    tokens = own if goal == "avoid" else own[1:] + own[:1]
    found = trained.train(llama, start, PROMPTS, tokens, kind="swap", goal=goal, steps=40)
    random = trained.train(llama, start, PROMPTS, tokens, kind="swap", goal=goal, steps=1)
    sign = 1 if goal == "avoid" else -1

    def loss(direction: pc.Direction) -> float:
        odds = trained.log_odds(llama.run(PROMPTS, direction.swap(), logits="last").logits, tokens)
        return float(torch.nn.functional.softplus(sign * odds).mean())

    assert loss(found) < 0.9 * loss(random)
    assert float(found.directions.norm()) == pytest.approx(1)
    assert found.fitted == start.fitted
    assert torch.equal(found.mean, start.mean)
    assert not found.classes


def test_the_model_is_left_as_it_was(llama: pc.Model, start: pc.Direction) -> None:
    first, second = list(llama.module.parameters())[:2]
    first.requires_grad_(False)
    try:
        before = [
            (p.requires_grad, None if p.grad is None else p.grad.clone(), p.clone()) for p in llama.module.parameters()
        ]
        trained.train(llama, start, PROMPTS, [5] * 6, kind="erase", goal="avoid", steps=2)
        for parameter, (needed, slope, value) in zip(llama.module.parameters(), before, strict=True):
            assert parameter.requires_grad == needed
            assert parameter.grad is slope is None or torch.equal(parameter.grad, slope)
            assert torch.equal(parameter, value)
        assert second.requires_grad
    finally:
        first.requires_grad_(True)


def test_the_same_seed_gives_the_same_direction(llama: pc.Model, start: pc.Direction) -> None:
    one, same, other = (
        trained.train(llama, start, PROMPTS, [5] * 6, kind="erase", goal="say", steps=2, seed=seed)
        for seed in (0, 0, 1)
    )
    assert one == same != other

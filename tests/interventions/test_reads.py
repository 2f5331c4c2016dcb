"""Reads against their definitions, written out."""

import math

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy

import patchclamp as pc
from patchclamp.interventions.reads import as_reads, in_blocks
from tests import tiny

PROMPTS = [*tiny.ids(1, 6), *tiny.ids(1, 4, seed=2)]


def measured(
    model: pc.Model, read: object, site: str = "mlp_out.1"
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Values and baseline of a one-cell sweep, and the logits they should come from."""
    edit = pc.Scale(3.0)
    grid = model.sweep(PROMPTS, edit, sites=site, at="last", read=read)
    name = grid.reads[0]
    edited = model.run(PROMPTS, edit.on(site, at="last")).logits
    plain = model.run(PROMPTS).logits
    cells = torch.from_numpy(grid.dataset[name].values)[:, 0, 0]
    return cells, torch.from_numpy(grid.dataset[f"baseline:{name}"].values), edited, plain


def last(logits: torch.Tensor) -> torch.Tensor:
    return torch.stack([logits[0, 5], logits[1, 3]])


def test_probability_and_rank(llama: pc.Model) -> None:
    values, baseline, edited, plain = measured(llama, pc.Probability([5, 9]))
    assert torch.allclose(values, last(edited).softmax(-1)[:, [5, 9]])
    assert torch.allclose(baseline, last(plain).softmax(-1)[:, [5, 9]])
    ranks, _, edited, _ = measured(llama, pc.Rank([5, 9]))
    order = last(edited).argsort(-1, descending=True)
    assert ranks.long().tolist() == [[int((row == t).nonzero()) for t in (5, 9)] for row in order]


def test_logit_difference_and_logits(llama: pc.Model) -> None:
    values, baseline, edited, plain = measured(llama, pc.LogitDifference(5, 9))
    assert torch.allclose(values, last(edited)[:, 5] - last(edited)[:, 9])
    assert torch.allclose(baseline, last(plain)[:, 5] - last(plain)[:, 9])
    whole, _, edited, _ = measured(llama, pc.Logits())
    assert torch.allclose(whole, last(edited))
    some, _, edited, _ = measured(llama, pc.Logits([7, 3]))
    assert torch.allclose(some, last(edited)[:, [7, 3]])


def test_loss_is_cross_entropy_over_the_prompts_own_tokens(llama: pc.Model) -> None:
    values, _, edited, _ = measured(llama, pc.Loss())
    for value, row, prompt in zip(values, edited, PROMPTS, strict=True):
        wanted = torch.nn.functional.cross_entropy(row[: len(prompt) - 1], torch.tensor(prompt[1:]))
        assert float(value) == pytest.approx(float(wanted))
    one, _, edited, _ = measured(llama, pc.Loss(7))
    assert torch.allclose(one, -last(edited).log_softmax(-1)[:, 7])


def test_kl_is_zero_without_an_edit_and_positive_with_one(llama: pc.Model) -> None:
    values, baseline, edited, plain = measured(llama, pc.KL())
    p = last(plain).softmax(-1)
    wanted = (p * (p.log() - last(edited).log_softmax(-1))).sum(-1)
    assert torch.allclose(values, wanted)
    assert bool((values > 0).all())
    assert torch.equal(baseline, torch.zeros(2, dtype=torch.float64))


def test_top_k(llama: pc.Model) -> None:
    grid = llama.sweep(PROMPTS, pc.Scale(3.0), sites="mlp_out.1", at="last", read=pc.TopK(3))
    best = last(llama.run(PROMPTS, pc.Scale(3.0, site="mlp_out.1", at="last")).logits).softmax(-1).topk(3)
    assert grid.reads == ("top_probability", "top_token")
    assert grid.dataset["top_token"].values[:, 0, 0].astype(int).tolist() == best.indices.tolist()
    assert torch.allclose(torch.from_numpy(grid.dataset["top_probability"].values[:, 0, 0]), best.values)


def test_activations_at_other_sites_and_positions(llama: pc.Model) -> None:
    read = pc.Activation("resid_post.2", at=[1, -1])
    values, baseline, _, _ = measured(llama, read)
    edit = pc.Scale(3.0, site="mlp_out.1", at="last")
    for found, edits in ((values, [edit]), (baseline, [])):
        acts = llama.record(PROMPTS, "resid_post.2", at=[1, -1], edits=edits)["resid_post.2"]
        assert torch.allclose(found, acts)


def numbers(model: pc.Model, read: object, logits: torch.Tensor, baseline: torch.Tensor) -> list[torch.Tensor]:
    """What a read makes of some logits of a prompt of six tokens, without running the model."""
    (prompt,) = model.prompts(PROMPTS[:1])
    return [bound.compute(logits, baseline) for bound in read.bind(model, prompt, 0, 1)]  # type: ignore[attr-defined]


def test_every_read_is_its_definition_row_by_row(llama: pc.Model) -> None:
    """Against scipy and loops, on more rows than one block holds and on two positions."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(20, 2, 97, generator=generator, dtype=torch.float64)
    baseline = 3 * torch.randn(2, 97, generator=generator, dtype=torch.float64)
    logits[4, 1, 9] = logits[4, 1, 5]  # a tie: neither is before the other
    x, p = logits.numpy(), softmax(logits.numpy(), axis=-1)
    before = softmax(baseline.numpy(), axis=-1)
    at = [2, -1]
    wanted = [
        (pc.Probability([5, 9], at=at), p[..., [5, 9]]),
        (pc.LogOdds([5, 9], at=at), np.log(p[..., [5, 9]] / (1 - p[..., [5, 9]]))),
        (pc.LogitDifference(5, 9, at=at), x[..., 5] - x[..., 9]),
        (pc.Logits([9, 5], at=at), x[..., [9, 5]]),
        (pc.Logits(at=at), x),
        (pc.Loss(7, at=at), -np.log(p[..., 7]).mean(-1)),
        (pc.Loss([7, 8], at=at), -(np.log(p[:, 0, 7]) + np.log(p[:, 1, 8])) / 2),
        (pc.KL(at=at), entropy(np.broadcast_to(before, p.shape), p, axis=-1)),
        (pc.Rank([5, 9], at=at), np.array([[[sum(row > row[i]) for i in (5, 9)] for row in cell] for cell in x])),
    ]
    for read, value in wanted:
        (found,) = numbers(llama, read, logits, baseline)
        assert found.shape == value.shape, read
        assert np.allclose(found, value, rtol=1e-9, atol=1e-12), read
    own = PROMPTS[0]
    (found,) = numbers(llama, pc.Loss(at=[1, 4]), logits, baseline)
    assert np.allclose(found, -(np.log(p[:, 0, own[2]]) + np.log(p[:, 1, own[5]])) / 2)
    best, which = numbers(llama, pc.TopK(3, at=at), logits, baseline)
    order = np.argsort(-x, axis=-1)[..., :3]
    assert np.array_equal(which, order)
    assert np.allclose(best, np.take_along_axis(p, order, -1))
    (one,) = numbers(llama, pc.Function(lambda rows: rows[:, :2], "two"), logits[:, :1], baseline[:1])
    assert np.array_equal(one, x[:, 0, :2])


def test_log_odds_never_saturate(llama: pc.Model) -> None:
    """At a probability that rounds to 1 the odds are still those of the logits: 60 over 96 equal others."""
    logits = torch.zeros(1, 1, 97, dtype=torch.float64)
    logits[..., 5] = 60.0
    (found,) = numbers(llama, pc.LogOdds([5, 6]), logits, logits[0])
    assert found[0].tolist() == pytest.approx([60 - math.log(96), -60.0], rel=1e-12)
    assert float(numbers(llama, pc.Probability([5]), logits, logits[0])[0]) == 1.0


@pytest.mark.parametrize(
    ("read", "where", "axes"),
    [
        (pc.Probability([5, 9]), (5,), {"answer": ("5", "9")}),
        (pc.Probability(pc.per_prompt([[5, 9]]), at=1), (1,), {"answer": ("answer 0", "answer 1")}),
        (pc.LogOdds([5], at=[0, 2]), (0, 2), {"read_at": (0, 2), "answer": ("5",)}),
        (pc.LogitDifference(5, 9), (5,), {}),
        (pc.Loss(), (0, 1, 2, 3, 4), {}),
        (pc.Loss(at=[2, 3]), (2, 3), {}),
        (pc.Loss(7), (5,), {}),
        (pc.KL("all"), (0, 1, 2, 3, 4, 5), {"read_at": (0, 1, 2, 3, 4, 5)}),
        (pc.Rank([9], at=slice(1, 3)), (1, 2), {"read_at": (1, 2), "answer": ("9",)}),
        (pc.TopK(), (5,), {"top": (0, 1, 2, 3, 4)}),
        (pc.Logits(), (5,), {"token_id": tuple(range(97))}),
        (pc.Activation("mlp_act.1"), (5,), {"d": tuple(range(48))}),
        (pc.Function(lambda x: x[:, 0]), (5,), {}),
        (pc.Function(lambda x: x[:, :3], at=2), (2,), {"output": (0, 1, 2)}),
    ],
)
def test_where_a_read_looks_and_what_its_axes_are_called(
    llama: pc.Model, read: object, where: tuple[int, ...], axes: dict[str, tuple[object, ...]]
) -> None:
    llama.run(PROMPTS[:1], logits="last")
    (prompt,) = llama.prompts(PROMPTS[:1])
    for bound in read.bind(llama, prompt, 0, 1):  # type: ignore[attr-defined]
        assert bound.positions == where
        assert {axis.name: axis.labels for axis in bound.axes} == axes
        assert bound.needs_baseline == isinstance(read, pc.KL)


def test_several_positions_make_an_axis(llama: pc.Model) -> None:
    grid = llama.sweep(PROMPTS[:1], pc.Scale(3.0), sites="mlp_out.1", at=2, read=pc.Probability([5], at=[1, 2, -1]))
    assert grid.data.dims == ("prompt", "site", "layer", "read_at", "answer")
    assert list(grid.data["read_at"].values) == [1, 2, 5]
    assert float(grid.relative().sel(read_at=1).squeeze()) == 0.0, "an edit at position 2 cannot reach position 1"
    assert abs(float(grid.relative().sel(read_at=2).squeeze())) > 0


def test_functions_of_the_logits(llama: pc.Model) -> None:
    def entropy(logits: torch.Tensor) -> torch.Tensor:
        return torch.distributions.Categorical(logits=logits).entropy()

    values, baseline, edited, plain = measured(llama, entropy)
    assert torch.allclose(values, entropy(last(edited)))
    assert torch.allclose(baseline, entropy(last(plain)))
    grid = llama.sweep(
        PROMPTS, pc.Zero(), sites="mlp_out.1", at="last", read=[entropy, pc.Function(lambda x: x[:, :2], "two")]
    )
    assert grid.reads == ("entropy", "two")


def test_blocks_do_not_change_a_row_wise_function() -> None:
    logits = torch.randn(70, 3, 11, generator=torch.Generator().manual_seed(0))
    assert torch.equal(in_blocks(lambda x: x.softmax(-1), logits), logits.softmax(-1))


def test_half_precision_logits_are_read_in_float32() -> None:
    model = pc.wrap(tiny.build("llama", torch.bfloat16))
    grid = model.sweep(PROMPTS[:1], pc.Scale(1.0), sites="mlp_out.1", at="last", read=pc.Probability(list(range(97))))
    assert math.isclose(float(grid.data.sum()), 1.0, abs_tol=1e-5)


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (None, "needs something to read"),
        (3, "a read is pc.Probability"),
        ([], "nothing to read"),
        (pc.Probability([]), "at least one token"),
        (pc.Probability([97]), r"output 97 is outside 0\.\.96"),
        (pc.Probability([" Rome"]), "needs a tokenizer"),
        (pc.Probability([5], at=9), "position 9 is outside"),
        (pc.TopK(0), r"k=0 is outside 1\.\.97"),
        (pc.Activation("mlp_out"), "names 3"),
        (pc.Function(lambda x: x.sum()), "give \\[row\\] or"),
        (pc.Function(lambda x: x[:, 0], at=[0, 1]), "reads one position"),
    ],
)
def test_bad_reads_are_refused_before_the_sweep(llama: pc.Model, read: object, message: str) -> None:
    with pytest.raises(pc.InputError, match=message):
        llama.sweep(PROMPTS[:1], pc.Zero(), sites="mlp_out", read=read)


def test_loss_needs_a_next_token(llama: pc.Model) -> None:
    with pytest.raises(pc.InputError, match="needs a next token"):
        llama.sweep([[5]], pc.Zero(), sites="mlp_out", read=pc.Loss())
    for read, said in (
        (pc.Loss(at=-1), "0 target tokens for 0 positions"),
        (pc.Loss([1, 2, 3], at=[0, 1]), "3 target tokens for 2"),
    ):
        with pytest.raises(pc.InputError, match=said):
            llama.sweep(PROMPTS[:1], pc.Zero(), sites="mlp_out", read=read)


def test_as_reads_keeps_order() -> None:
    one, two = pc.KL(), pc.Loss()
    assert as_reads([one, two]) == (one, two)
    assert as_reads(one) == (one,)


def test_classes_by_name_on_an_image_model() -> None:
    module = tiny.build("vit", torch.float32)
    module.config.label2id = {f"class {i}": i for i in range(5)}
    module.config.id2label = {i: f"class {i}" for i in range(5)}
    model = pc.wrap(module)
    x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    grid = model.sweep(x, pc.Scale(2.0), sites="mlp_out", read=pc.Probability(["class 3", 1]))
    assert list(grid.data["answer"].values) == ["class 3", "class 1"]
    assert float(grid.baseline.sum()) < 1
    with pytest.raises(pc.InputError, match="did you mean 'class 3'"):
        model.sweep(x, pc.Zero(), sites="mlp_out", read=pc.Probability("klass 3"))


def test_each_prompt_can_have_its_own_answers(llama: pc.Model) -> None:
    prompts = tiny.ids(2, 6)
    answers, others = pc.per_prompt([11, 12]), pc.per_prompt([21, 22])
    options = {"sites": "mlp_out", "at": "last"}
    both = llama.sweep(
        prompts,
        pc.Zero(),
        read=[pc.LogitDifference(answers, others), pc.Probability(answers), pc.Rank(others)],
        **options,
    )
    for i, (answer, other) in enumerate([(11, 21), (12, 22)]):
        alone = llama.sweep(
            prompts[i],
            pc.Zero(),
            read=[pc.LogitDifference(answer, other), pc.Probability(answer), pc.Rank(other)],
            **options,
        )
        for name in ("logit_difference", "probability", "rank"):
            assert both.data[name].isel(prompt=i).values == pytest.approx(
                alone.data[name].isel(prompt=0).values, abs=1e-12
            )
    assert not np.allclose(both.data["probability"].isel(prompt=0), both.data["probability"].isel(prompt=1)), "control"
    with pytest.raises(pc.InputError, match="pc.per_prompt has 3 answers for 2 prompts"):
        llama.sweep(prompts, pc.Zero(), read=pc.Probability(pc.per_prompt([1, 2, 3])), **options)
    with pytest.raises(pc.InputError, match=r"for other answers in each prompt: pc.per_prompt"):
        llama.sweep(prompts, pc.Zero(), read=pc.Probability([[11], [12]]), **options)
    with pytest.raises(pc.InputError, match="compares one token with one other"):
        llama.sweep(prompts, pc.Zero(), read=pc.LogitDifference([11, 12], 3), **options)

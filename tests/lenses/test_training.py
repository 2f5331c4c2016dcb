import copy
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import ttest_1samp

import patchclamp as pc
from patchclamp.lenses import training
from patchclamp.lenses.training import Settings, Training
from tests import tiny
from tests.lenses.families import opened, parametrised
from tests.traces import no_trace

CORPUS = tiny.ids(12, 40, seed=5)
QUICK: dict[str, Any] = {"tokens": 400, "length": 16, "batch": 64, "progress": False}


def settings(**changed: Any) -> Settings:
    usual = {
        "tokens": 64, "length": 16, "passes": 1, "held_out": 0.1, "optimizer": "sgd", "learning_rate": 1e-3,
        "weight_decay": 0.0, "batch": 64, "seed": 0, "chunk": 7,
    }  # fmt: skip
    return Settings(**{**usual, **changed})


@pytest.mark.parametrize(
    "name", parametrised(["llama", "gpt2", "gemma2", "cohere", "gpt_neox", "mamba"], ("llama", "gpt2", "gemma2"))
)
def test_the_gradient_is_that_of_autograd_through_the_definition(name: str) -> None:
    """One step of plain descent, against KL written down and differentiated, with soft caps, scales and biases of the head."""
    model, rows = opened(name), tiny.ids(4, 16)
    lens, other = pc.TunedLens(model), pc.TunedLens(model)
    with torch.no_grad():
        for own, twin in zip(lens.parameters(), other.parameters(), strict=True):
            own.copy_(0.1 * torch.randn(own.shape, generator=torch.Generator().manual_seed(1), dtype=own.dtype))
            twin.copy_(own)
    run = Training(model, lens, settings(), rows)
    run.optimizer = torch.optim.SGD(lens.parameters(), lr=1.0)
    run.optimizer.step = lambda: None  # type: ignore[method-assign,assignment]
    run.optimizer.zero_grad = lambda set_to_none: None  # type: ignore[method-assign,assignment,misc]
    list(run.run(None))
    acts = model.record(rows, ["resid_pre.0", "resid_post"])
    streams = [acts["resid_pre.0"], *acts["resid_post"]]
    final = model.run(rows).logits.log_softmax(-1)
    total = torch.zeros(())
    for depth, states in enumerate(streams[:-1]):
        edit = pc.Call(lambda _, depth=depth, states=states: other(states, depth))
        logits = model.run(rows, edit.on(f"resid_post.{model.sites.n_layers - 1}"), grad=True).logits
        total = total + (final.exp() * (final - logits.log_softmax(-1))).sum(-1).mean()
    total.backward()
    assert run.losses == [pytest.approx(float(total.detach()) / len(lens.weight), rel=1e-5)]
    for own, twin in zip(lens.parameters(), other.parameters(), strict=True):
        assert own.grad is not None
        assert twin.grad is not None
        near = 1e-4 if name == "mamba" else 1e-7  # its norms compute in float32
        assert torch.allclose(own.grad, twin.grad, rtol=near, atol=near * float(twin.grad.abs().max()))
        assert own.grad.abs().max() > 1e-6


@pytest.mark.sensitive
@pytest.mark.parametrize("optimizer", parametrised(["adam", "sgd"], ("adam",)))
def test_training_lowers_the_loss_on_text_it_has_not_seen(llama: pc.Model, optimizer: Any) -> None:
    lens = llama.tune_lens(
        CORPUS, passes=20, optimizer=optimizer, learning_rate=0.01 if optimizer == "adam" else 0.3, **QUICK
    )
    table = lens.frame()
    assert list(table["site"]) == ["resid_pre.0", "resid_post.0", "resid_post.1"]
    assert (table["kl"] < 0.9 * table["logit_lens_kl"]).all()
    assert lens.training_report["loss"][-1] < lens.training_report["loss"][0]


def test_the_report_is_what_the_lens_says_about_the_end_of_the_corpus(llama: pc.Model) -> None:
    lens = llama.tune_lens(CORPUS, **QUICK)
    report = lens.training_report
    rows = training.sequences(llama, CORPUS, 16)[:27]
    kept = rows[-report["held_out"]["sequences"] :]
    assert report["trained_tokens"] + report["held_out"]["tokens"] == 27 * 16
    for column, tuned in (("kl", lens), ("logit_lens_kl", None)):
        seen = llama.lens(kept, ["resid_pre.0", "resid_post"], tuned=tuned).data["kl"].values[:, :-1].mean(-1)
        assert lens.frame()[column].values == pytest.approx(seen.mean(0), abs=1e-6)
        low, high = ttest_1samp(seen, 0).confidence_interval(0.95)
        assert len(kept) < 5, "few enough that a normal distribution is another one"
        assert lens.frame()[f"{column}_interval"].values == pytest.approx((high - low) / 2, abs=1e-6)


@pytest.mark.parametrize(
    ("rows", "tokens", "held_out", "train", "kept"),
    [(40, 320, 0.25, 20, 5), (22, 320, 0.25, 18, 4), (40, 320, 0.01, 20, 2), (3, 16, 0.9, 1, 2)],
)
def test_the_end_of_the_corpus_is_kept(
    llama: pc.Model, rows: int, tokens: int, held_out: float, train: int, kept: int
) -> None:
    """A share of what is trained on, and two sequences at least; the same share of a corpus that is shorter."""
    given = tiny.ids(rows, 16)
    one, other = training._split(llama, given, settings(tokens=tokens, held_out=held_out))
    assert (one, other) == (given[:train], given[train : train + kept])


def test_each_pass_takes_every_sequence_once_in_an_order_of_its_own(llama: pc.Model) -> None:
    rows = tiny.ids(9, 16)

    def steps(seed: int) -> list[list[int]]:
        return Training(llama, pc.TunedLens(llama), settings(passes=2, batch=79, seed=seed), rows).steps

    assert [len(step) for step in steps(0)] == [4, 4, 4, 4, 2], "79 tokens hold four sequences of 16"
    order = [row for step in steps(0) for row in step]
    assert sorted(order[:9]) == sorted(order[9:]) == list(range(9))
    assert order[:9] != order[9:]
    assert order[:9] != list(range(9))
    assert steps(0) == steps(0) != steps(1)


@pytest.mark.parametrize(
    ("optimizer", "given", "rate", "step"),
    [("adam", None, 2e-3, 2e-3), ("adam", 0.5, 0.5, 0.5), ("sgd", None, 1.0, 0.1), ("sgd", 0.5, 0.5, 0.05)],
)
def test_the_step_size_falls_to_zero(
    llama: pc.Model, optimizer: Any, given: float | None, rate: float, step: float
) -> None:
    """Momentum 0.9 adds up to ten times a step, so SGD takes a tenth of the rate."""
    how = settings(optimizer=optimizer, learning_rate=given, weight_decay=0.25, batch=16)
    assert how.rate == rate
    run = Training(llama, pc.TunedLens(llama), how, tiny.ids(4, 16))
    (group,) = run.optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (pytest.approx(step), 0.25)
    if optimizer == "sgd":
        assert (group["momentum"], group["nesterov"]) == (0.9, True)
    rates = []
    run.optimizer.step = lambda: rates.append(group["lr"])  # type: ignore[method-assign,assignment]
    list(run.run(None))
    assert rates == pytest.approx([step, 0.75 * step, 0.5 * step, 0.25 * step])


def test_a_sequence_is_as_long_as_the_context_allows(llama: pc.Model) -> None:
    lens = llama.tune_lens(tiny.ids(3, 64), tokens=64, passes=2, progress=False)
    said = lens.training_report
    assert (said["length"], said["learning_rate"], said["optimizer"], said["seed"]) == (64, 2e-3, "adam", 0)
    assert (said["trained_tokens"], said["held_out"]["tokens"], len(said["loss"])) == (2 * 64, 128, 1)


def test_equal_seeds_equal_bytes(llama: pc.Model, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        llama.tune_lens(CORPUS, seed=seed, **QUICK).save_pretrained(tmp_path / name)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b
    assert a != c


class Killed(Exception):
    pass


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_killed_training_goes_on_and_ends_with_the_same_bytes(
    llama: pc.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: Any
) -> None:
    monkeypatch.setattr(training, "SAVE_EVERY", 0.0)
    options = {**QUICK, "passes": 2, "optimizer": optimizer, "weight_decay": 0.01}
    taken: list[int] = []
    step = Training._train_step

    def count(self: Training, rows: Any) -> None:
        if len(taken) == 5:
            raise Killed
        taken.append(self.step)
        step(self, rows)

    monkeypatch.setattr(Training, "_train_step", count)
    with pytest.raises(Killed):
        llama.tune_lens(CORPUS, checkpoint=tmp_path / "check", **options)
    monkeypatch.setattr(Training, "_train_step", lambda self, rows: (taken.append(self.step), step(self, rows))[1])
    llama.tune_lens(CORPUS, checkpoint=tmp_path / "check", **options).save_pretrained(tmp_path / "resumed")
    assert taken == list(range(len(taken))), "no step was taken twice"
    llama.tune_lens(CORPUS, **options).save_pretrained(tmp_path / "whole")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "resumed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    before = len(taken)
    llama.tune_lens(CORPUS, checkpoint=tmp_path / "check", **{**options, "seed": 1})
    assert taken[before] == 0, "other settings, another training"


def test_a_checkpoint_is_of_one_type_and_one_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half = tiny.build("llama", torch.bfloat16)
    models = [pc.wrap(half), pc.wrap(copy.deepcopy(half).float())]
    for model in models:
        model.tune_lens(CORPUS, checkpoint=tmp_path, **QUICK)
    assert pc.TunedLens(models[0]).model["weights"] == pc.TunedLens(models[1]).model["weights"]
    assert len(list(tmp_path.iterdir())) == 2, "equal weights, but other states"
    monkeypatch.setattr(training, "VERSION", training.VERSION + 1)
    models[1].tune_lens(CORPUS, checkpoint=tmp_path, **QUICK)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_torn_checkpoint_is_named(llama: pc.Model, tmp_path: Path) -> None:
    llama.tune_lens(CORPUS, checkpoint=tmp_path, **QUICK)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    for size in (0, 4, 100, len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(pc.InputError, match=f"{file.name}' is damaged"):
            llama.tune_lens(CORPUS, checkpoint=tmp_path, **QUICK)


def test_what_cannot_be_trained(llama: pc.Model) -> None:
    bad: list[tuple[dict[str, Any], str]] = [
        ({"optimizer": "adamw"}, "did you mean 'adam'"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
        ({"weight_decay": -1.0}, "weight_decay=-1.0"),
        ({"passes": 0}, "passes=0"),
        ({"chunk": 0}, "chunk=0"),
        ({"held_out": 1.0}, "held_out=1.0"),
        ({"tokens": 15}, "tokens=15 is less than one sequence of 16"),
        ({"batch": 15}, "batch=15 is less"),
        ({"length": 65}, r"2\.\.64"),
        ({"length": 0}, "length=0"),
    ]
    for changed, message in bad:
        with pytest.raises(pc.InputError, match=message):
            llama.tune_lens(CORPUS, **{**QUICK, "batch": 80, **changed})
    with pytest.raises(pc.InputError, match="at least 3 are needed"):
        llama.tune_lens([list(range(3, 20))], **QUICK)
    with pytest.raises(pc.InputError, match="empty"):
        llama.tune_lens([], **QUICK)
    with pytest.raises(pc.ModelError, match="is an encoder"):
        opened("bert").tune_lens(CORPUS, **QUICK)


def test_nan_stops_the_training_at_once() -> None:
    model = pc.wrap(tiny.build("llama", torch.float32))
    with pytest.raises(
        pc.ModelError, match=r"the loss at resid_\S+ is not finite in step \d+ of 7: learning_rate=2e\+37"
    ):
        model.tune_lens(CORPUS, learning_rate=2e37, **QUICK)
    with torch.no_grad():
        model.module.get_submodule("model.norm").weight[0] = torch.nan
    with pytest.raises(pc.ModelError, match="the model's own logits are not finite"):
        model.tune_lens(CORPUS, **QUICK)


def test_the_model_is_left_as_it_was() -> None:
    model = pc.wrap(tiny.build("llama"))
    assert all(parameter.requires_grad for parameter in model.module.parameters())
    with no_trace(model.module):
        model.tune_lens(CORPUS, **QUICK)


@pytest.mark.sensitive
def test_a_model_in_half_precision_is_tuned_in_float32() -> None:
    model = pc.wrap(tiny.build("llama", torch.bfloat16))
    lens = model.tune_lens(CORPUS, passes=10, learning_rate=0.01, **QUICK)
    assert lens.weight.dtype == torch.float32
    assert (lens.frame()["kl"] < 0.9 * lens.frame()["logit_lens_kl"]).all()


def test_progress_counts_every_token(llama: pc.Model, tmp_path: Path) -> None:
    seen: list[Any] = []
    lens = llama.tune_lens(CORPUS, checkpoint=tmp_path, **{**QUICK, "progress": seen.append})
    last = [event for event in seen if event.task == "tune"][-1]
    assert last.done == last.total == lens.training_report["trained_tokens"]
    seen.clear()
    llama.tune_lens(CORPUS, checkpoint=tmp_path, **{**QUICK, "progress": seen.append})
    again = [event for event in seen if event.task == "tune"][-1]
    assert again.done == again.total == last.total, "what a checkpoint holds counts as done"
    assert json.loads(json.dumps(lens.training_report)) == lens.training_report


@pytest.mark.assets
@pytest.mark.slow
def test_a_lens_of_stories15m_beats_the_logit_lens_on_stories_it_has_not_seen(stories: pc.Model) -> None:
    lens = stories.tune_lens(
        "gutenberg:bryant-stories", tokens=1536, length=64, batch=128, held_out=0.25, learning_rate=5e-3, progress=False
    )
    table = lens.frame()
    assert list(table["site"]) == ["resid_pre.0", *(f"resid_post.{layer}" for layer in range(5))]
    assert (table["kl"] + table["kl_interval"] < table["logit_lens_kl"] - table["logit_lens_kl_interval"]).all()


def test_a_checkpoint_is_of_one_corpus_one_setting_and_one_config(tmp_path: Path) -> None:
    """Every parameter, changed: the weights that come out are those of a training without a checkpoint."""
    usual = {"corpus": CORPUS, "tokens": 64, "length": 16, "batch": 32, "progress": False}
    changes: dict[str, Any] = {
        "corpus": tiny.ids(12, 40, seed=6), "tokens": 96, "length": 12, "passes": 2, "held_out": 0.4, "optimizer": "sgd",
        "learning_rate": 1e-3, "weight_decay": 0.1, "batch": 64, "seed": 1, "chunk": 5,
    }  # fmt: skip
    parameters = set(inspect.signature(pc.TunedLens.train_on).parameters)
    assert parameters - {"model", "checkpoint", "progress"} == set(changes), "none is left out"
    module = tiny.build("llama", torch.float32)
    model = pc.wrap(module)

    def trained(folder: Path | None, **changed: Any) -> dict[str, torch.Tensor]:
        return dict(model.tune_lens(checkpoint=folder, **{**usual, **changed}).state_dict())

    def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
        return all(torch.equal(one[name], other[name]) for name in one)

    before = trained(tmp_path)
    for name, value in changes.items():
        assert same(trained(tmp_path, **{name: value}), trained(None, **{name: value})), name
    module.model.norm.variance_epsilon = 0.5
    assert same(trained(tmp_path), trained(None))
    assert not same(trained(tmp_path), before)
    module.model.norm.variance_epsilon = 1e-6
    with torch.no_grad():
        module.lm_head.weight.mul_(1 + 2**-12)  # rounded to bfloat16 they are the same
    assert same(trained(tmp_path), trained(None))
    assert not same(trained(tmp_path), before)

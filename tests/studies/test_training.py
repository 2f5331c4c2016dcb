"""Training from nothing: what hangs on the seed, what on the dropout, and what a killed process leaves."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import patchclamp as pc
from patchclamp.core.files import read_json
from patchclamp.core.progress import Progress
from patchclamp.studies import training
from tests.studies.conftest import TEXTS, TINY


def train(folder: Path, progress: Any = False, dropout: float = 0.1, seed: int = 0) -> dict[str, Any]:
    tokenizer = training.make_tokenizer(TEXTS, TINY.vocabulary)
    tokens = training.stream(tokenizer, TEXTS)
    return training.train_gpt2(
        folder, tokenizer, tokens, tokens[:200], TINY, dropout=dropout, seed=seed, progress=progress
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_killed_training_ends_with_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "KEEP", 2)

    def kill(event: Progress) -> None:
        if event.done == 5 and not event.finished:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", kill)
    assert not (tmp_path / "killed").exists(), "a folder is complete or not there"
    assert torch.load(tmp_path / "killed.pt", weights_only=True)["step"] == 4
    steps: list[float] = []
    resumed = train(tmp_path / "killed", lambda event: steps.append(event.done))
    assert steps[0] == 4, "it went on from the checkpoint"
    assert resumed == train(tmp_path / "whole")
    first, second = weights(tmp_path / "killed"), weights(tmp_path / "whole")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not (tmp_path / "killed.pt").exists()
    other = weights(tmp_path / "whole")["transformer.wte.weight"]
    train(tmp_path / "other", seed=1)
    assert not torch.equal(weights(tmp_path / "other")["transformer.wte.weight"], other)


def test_a_finished_folder_is_read_and_the_random_state_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    said = train(tmp_path / "model")
    assert torch.equal(torch.get_rng_state(), before)
    assert read_json(tmp_path / "model" / "training.json")["found"] == said
    assert train(tmp_path / "model", lambda _: pytest.fail("nothing is trained again")) == said
    assert said["tokens"] == TINY.steps * TINY.batch * TINY.context
    assert train(tmp_path / "model", dropout=0.0)["dropout"] == 0, "what was trained otherwise is no answer"


def test_dropout_changes_no_initial_weight_and_no_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = training.make_tokenizer(TEXTS, TINY.vocabulary)
    tokens = training.stream(tokenizer, TEXTS)
    with torch.random.fork_rng(devices=[]):
        models = [training._new_model(TINY, tokenizer, dropout, 0) for dropout in (0.0, 0.1)]
        first, second = (model.state_dict() for model in models)
        assert all(torch.equal(first[name], second[name]) for name in first)
        seen: list[list[torch.Tensor]] = [[], []]
        for kept, model in zip(seen, models, strict=True):
            model.register_forward_pre_hook(lambda _, inputs, kept=kept: kept.append(inputs[0]))
            optimizer = torch.optim.AdamW(model.parameters())
            for step in range(2):
                training._step(model, optimizer, tokens, TINY, 0, step)
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))
    assert not torch.equal(seen[0][0], seen[0][1])
    assert not torch.equal(*(model.state_dict()["transformer.wte.weight"] for model in models))


def test_the_loss_is_that_of_windows(storyteller: pc.Model) -> None:
    tokens = training.stream(storyteller.tokenizer, TEXTS)[:130]
    found = training._loss(storyteller.module, tokens, TINY)
    logs = storyteller.run(tokens[:128].view(2, 64).tolist()).logits[:, :-1].log_softmax(-1)
    by_hand = -logs.gather(-1, tokens[:128].view(2, 64)[:, 1:, None]).mean()
    assert found == pytest.approx(float(by_hand), abs=1e-5)


def test_stories_begin_with_their_openings_and_are_told_once(
    storyteller: pc.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "TOKENS", 6)
    openings = ["Once upon a time, there was a kind king.", "One day, he left."]
    told = training.sample_stories(storyteller, openings, 2, tmp_path, progress=False)
    assert len(told) == 2 * training.ROWS * 2
    assert all(story.startswith(openings[i // training.ROWS % 2]) for i, story in enumerate(told))
    assert told[:4] != told[4:], "rounds differ"
    monkeypatch.setattr(pc.Model, "generate", lambda *_, **__: pytest.fail("told again"))
    assert training.sample_stories(storyteller, openings, 2, tmp_path, progress=False) == told
    with pytest.raises(pytest.fail.Exception, match="told again"):
        training.sample_stories(storyteller, openings[::-1], 2, tmp_path, progress=False)


def test_texts_end_in_the_stream() -> None:
    tokenizer = training.make_tokenizer(TEXTS, TINY.vocabulary)
    tokens = training.stream(tokenizer, TEXTS[:2])
    assert tokenizer.decode(tokens) == TEXTS[0] + training.END + TEXTS[1] + training.END
    assert (tokens == tokenizer.eos_token_id).sum() == 2

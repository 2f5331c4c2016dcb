"""The study of code directions: its measures by hand, and the whole of it on made-up pictures."""

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import patchclamp as pc
from patchclamp.studies import code_directions, digits, gender
from patchclamp.studies.code_directions import CodeDirections, auc, kinds, pushes
from tests.studies.test_classes_and_maps import pictures


def test_auc_is_the_share_of_pairs_in_order() -> None:
    scores = torch.tensor([0.0, 1, 1, 2, 3, 3, 5])
    positive = torch.tensor([False, False, True, False, True, True, True])
    pairs = list(product(scores[positive].tolist(), scores[~positive].tolist()))
    assert auc(scores, positive) == pytest.approx(np.mean([(a > b) + (a == b) / 2 for a, b in pairs]))


def test_what_is_kept_lies_on_the_line_between_doses() -> None:
    table = pd.DataFrame(
        {
            "model": "digits",
            "since": "1",
            "kind": "codes",
            "dose": [1, 2, 3],
            "moved": [0.2, 0.4, 0.8],
            "kept": [1, 0.9, 0.5],
        }
    )
    row = CodeDirections(pd.DataFrame(), table).kept().iloc[0]
    assert row["kept at 0.5 moved"] == pytest.approx(0.8)
    assert np.isnan(row["kept at 0.9 moved"]), "no dose moves as many"


def test_kinds_of_rows_and_of_pushes() -> None:
    draw = torch.Generator().manual_seed(0)
    pre = {"1": torch.randn(60, 8, generator=draw).double()}
    woman = torch.arange(60) < 30
    pre["1"][woman] += 1
    rows = kinds(pre, {"1": pre["1"].relu()})
    assert set(rows["codes"]["1"].unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(rows["activations of norm 1"]["1"].norm(dim=1), torch.ones(60).double())
    found = pushes(pre, ~woman, woman, seed=0)
    torch.testing.assert_close(
        found["pre-activations"].vectors["1"], pre["1"][woman].mean(0) - pre["1"][~woman].mean(0)
    )
    assert (found["codes"].vectors["1"] > 0).all(), "every gate opens"
    again = pushes(pre, ~woman, woman, seed=0)["random"].vectors["1"]
    assert torch.equal(found["random"].vectors["1"], again)


@pytest.mark.sensitive
def test_the_study_of_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = pictures(train=600, test=200, noise=0.1)
    network = digits.network("mlp", width=24)
    digits.train(network, data, epochs=12, progress=False)
    monkeypatch.setattr(digits, "images", lambda *_: data)
    monkeypatch.setattr(digits, "trained", lambda *_, **__: network)
    monkeypatch.setattr(code_directions, "PUSHED", ((1, 3), (4, 9)))
    found = code_directions.study(None, tmp_path, seeds=1)
    scores = found.scores.set_index(["since", "kind"])["mean"]
    assert len(scores) == 2 * 4
    assert list(scores.index.get_level_values("kind").unique()[:2]) == ["codes", "pre-activations"], (
        "as they were measured"
    )
    assert (scores > 0.99).all(), "the patterns are easy"
    effects = found.pushes.set_index(["since", "kind", "dose"])
    moved = {kind: effects.loc[("3", kind, 0.5), "moved"] for kind in ("pre-activations", "random")}
    assert moved["pre-activations"] > 0.5
    assert moved["random"] < 0.1, "not every push of this length moves them"
    for kind in moved:
        assert effects.loc[("3", kind, 0.125), "kept"] > effects.loc[("3", kind, 1.0), "kept"]
    assert {"scores.csv", "pushes.csv", "report.html"} <= {path.name for path in tmp_path.iterdir()}
    assert "kept at 0.9 moved" in found.text()
    assert len(found.summary()["scores"]) == 8


def test_pushes_of_gender_are_measured_on_other_people(storyteller: pc.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, count in (("TRAIN_NOUNS", 4), ("TEST_NOUNS", 2), ("TRAIN_NAMES", 0), ("TEST_NAMES", 0)):
        monkeypatch.setattr(gender, name, getattr(gender, name)[:count])
    monkeypatch.setattr(code_directions, "WORD_DOSES", (1.0, 4.0))
    monkeypatch.setattr(gender, "neutral_texts", lambda count: ["Once upon a time, there was a kind king."] * count)
    scores, effects = code_directions.measure_gender(storyteller, (0, 1), texts=1)
    assert len(scores) == 2 * 4
    assert len(effects) == 3 * 2 * 2
    parts = {}
    for part in ("train", "test"):
        prompts, labels, _ = gender.labelled(part)
        own = storyteller.record(prompts, "mlp_pre.1", at="last")["mlp_pre.1"].flatten(1).double()
        parts[part] = own.reshape(len(prompts), -1), torch.tensor([label == "2 female" for label in labels])
    (x, woman), (held, truth) = parts["train"], parts["test"]
    along = held @ (x[woman].mean(0) - x[~woman].mean(0))
    table = scores.set_index(["since", "kind"])["auc"]
    assert table["mlp_pre.1", "pre-activations"] == pytest.approx(auc(along, truth))
    men = [prompt for prompt, _ in gender.pairs("test")]
    gap = x[woman].mean(0) - x[~woman].mean(0)
    he, she = (storyteller.token_id(answer) for answer in gender.ANSWERS)

    def odds(edits: list[pc.Edit]) -> torch.Tensor:
        logits = storyteller.run(men, edits, logits="last").logits
        return logits[:, she] - logits[:, he]

    moved = odds([pc.Add(4 * gap.float(), site="mlp_pre.1", at="rest")]) - odds([])
    row = effects.set_index(["since", "kind", "dose"]).loc["mlp_pre.1", "pre-activations", 4.0]
    assert row["moved"] == pytest.approx(float(moved.mean()), rel=1e-3, abs=1e-5)
    assert (effects["kl"] > 0).all()
    with pytest.raises(pc.InputError, match=r"layers 0\.\.1; got 2"):
        code_directions.study(storyteller, since=(2,))


@pytest.mark.assets
@pytest.mark.slow
def test_the_study_of_gender_on_a_small_model() -> None:
    model = pc.load("stories15m", dtype="float32")
    scores, effects = code_directions.measure_gender(model, (0, 4), texts=2)
    assert len(scores) == 2 * 4
    assert (scores["auc"] > 0.5).all()
    table = effects.set_index(["since", "kind", "dose"])
    assert table.loc[("mlp_pre.0", "pre-activations", 2.0), "moved"] > table.loc[("mlp_pre.0", "random", 2.0), "moved"]
    assert (effects["kl"] > 0).all()
    with pytest.raises(pc.InputError, match=r"layers 0\.\.5; got 6"):
        code_directions.study(model, since=(6,))


def test_no_seed_is_refused() -> None:
    with pytest.raises(pc.InputError, match="at least 1 seed; got 0"):
        code_directions.study(None, seeds=0)

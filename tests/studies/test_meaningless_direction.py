"""The study of directions without a meaning, on a tiny model."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import patchclamp as pc
from patchclamp.studies import gender, meaningless_direction, trained
from patchclamp.studies.meaningless_direction import BREAK, GENDER, INSERT, NAMES, PROMPTS, RANDOM, TRAINED


@pytest.fixture
def setting(storyteller: pc.Model, monkeypatch: pytest.MonkeyPatch) -> meaningless_direction.DrawReference:
    texts = ["A kind king went home.", "There was a time."]
    monkeypatch.setattr(gender, "neutral_texts", lambda *_, **__: texts)
    monkeypatch.setattr(meaningless_direction, "TEST_PAIRS", 3)
    return meaningless_direction.setting(storyteller, "resid_post.0")


def test_a_draw_trains_on_ten_and_holds_out_twenty(
    storyteller: pc.Model, setting: meaningless_direction.DrawReference
) -> None:
    found, chosen, others = meaningless_direction.directions(storyteller, setting, 0, 2)
    assert list(found) == list(NAMES)
    assert len(set(chosen)) == TRAINED
    assert sorted(others) == sorted(setting.own[i] for i in chosen)
    assert found[BREAK].method == "trained to avoid by erase"
    assert found[INSERT].method == "trained to say by swap"
    again, same, _ = meaningless_direction.directions(storyteller, setting, 0, 2)
    assert same == chosen
    assert again == found


def test_shares_are_counted_by_hand(storyteller: pc.Model, setting: meaningless_direction.DrawReference) -> None:
    """A direction whose swap turns everything over breaks prompts; one that does nothing breaks none."""
    found, chosen, others = meaningless_direction.directions(storyteller, setting, 0, 1)
    weak = trained.direction_of(found[RANDOM], np_unit(storyteller), "no logit hangs on it")
    rows = meaningless_direction.measure(storyteller, setting, {"weak": weak, GENDER: found[GENDER]}, chosen, others)
    table = pd.DataFrame(rows).set_index(["direction", "edit"])
    assert table.loc[("weak", "erase"), ["broken", "broken, held out"]].tolist() == [0, 0]
    assert table.loc[("weak", "erase"), "kl"] < 1e-6
    top = storyteller.run(list(PROMPTS), found[GENDER].swap(), logits="last").logits.argmax(-1).tolist()
    broken = [top[i] != setting.own[i] for i in chosen]
    assert table.loc[(GENDER, "swap"), "broken"] == pytest.approx(np.mean(broken))
    said = [top[i] == token for i, token in zip(chosen, others, strict=True)]
    assert table.loc[(GENDER, "swap"), "said"] == pytest.approx(np.mean(said))


def np_unit(model: pc.Model) -> Any:
    """The direction of equal coordinates, which the layer norms of a GPT-2 take away."""
    import torch

    return torch.ones(model.module.config.n_embd)


@pytest.mark.slow
def test_killed_work_goes_on(storyteller: pc.Model, tmp_path: Path, setting: Any, monkeypatch: Any) -> None:
    found = meaningless_direction.study(storyteller, tmp_path, draws=2, steps=1, progress=False)
    assert found.site == "resid_post.1"
    assert len(found.draws) == 2 * len(NAMES) * 2
    monkeypatch.setattr(trained, "train", lambda *_, **__: pytest.fail("trained again"))
    again = meaningless_direction.study(storyteller, tmp_path, draws=2, steps=1, progress=False)
    pd.testing.assert_frame_equal(again.draws, found.draws)
    assert {"report.html", "figure.png", "figure.svg", "draws.csv", "table.csv"} <= {p.name for p in tmp_path.iterdir()}
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        meaningless_direction.study(storyteller, tmp_path, draws=1, steps=2, progress=False)


def test_tables_are_means_over_draws() -> None:
    rows = [
        {"draw": draw, "direction": name, "edit": edit, "broken": draw / 2, "broken, held out": 0.0, "said": 0.0,
         "kl": 0.5, "bias": 0.2}
        for draw in (0, 1) for name in NAMES for edit in ("erase", "swap")
    ]  # fmt: skip
    found = meaningless_direction.MeaninglessDirection("tiny", "resid_post.0", 0.8, pd.DataFrame(rows))
    row = found.row(GENDER, "erase")
    assert row["broken"] == 0.25
    assert row["± broken"] == pytest.approx(12.706 * 0.25, rel=1e-3), "t of one degree of freedom"
    assert row["bias per nat"] == pytest.approx(0.6 / 0.5)
    assert "0.87" in found.text()
    assert meaningless_direction.figure(found).axes
    one = meaningless_direction.MeaninglessDirection("tiny", "resid_post.0", 0.8, pd.DataFrame(rows[: 2 * len(NAMES)]))
    assert one.summary()["directions"][0]["± broken"] is None


def test_nothing_to_do_is_refused(storyteller: pc.Model) -> None:
    with pytest.raises(pc.InputError, match="at least 1 draw"):
        meaningless_direction.study(storyteller, draws=0)


def test_prompts_are_unconnected() -> None:
    assert len(set(PROMPTS)) == 30
    assert not {"he", "she", "his", "her"} & {word.lower() for prompt in PROMPTS for word in prompt.split()}

"""The study of tokens' polytopes: its sampling is the seed's, and its controls are controls."""

from pathlib import Path

import numpy as np
import pytest
import torch

import patchclamp as pc
from patchclamp.studies import polytopes_smollm2 as experiment


def test_the_sampling_is_the_seeds() -> None:
    dense = experiment.positions()
    sparse = dense[:: experiment.STEP]
    assert len(sparse) == 6
    assert min(dense) >= 100, "none of the first hundred"
    assert max(dense) < 1024
    assert np.ptp(np.diff(sparse)) <= 1, "evenly spaced"
    assert np.ptp(np.diff(dense)) <= 1
    assert len(dense) == len(set(dense))


def test_classes_of_tokens() -> None:
    for token, kind in (
        (" the", "function word"), ("The", "function word"), (" house", "word"), (" Rome", "capitalised word"), ("ing", "piece of a word"),
        (",", "punctuation"), (" 1,024", "number"), ("\n", "space"),
    ):  # fmt: skip
        assert experiment.class_of(token) == kind, token


def test_random_hyperplanes_see_directions_only() -> None:
    x = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    sides = experiment.hyperplanes(x, 90, 0)
    assert torch.equal(sides, experiment.hyperplanes(3 * x, 90, 0))
    assert torch.equal(sides, 1 - experiment.hyperplanes(-x, 90, 0))
    assert set(sides.unique().tolist()) == {0.0, 1.0}


def test_agreement_never_looks_into_the_same_sequence() -> None:
    rows = torch.tensor([[0.0], [0.1], [5.0], [0.3], [5.1], [9.0]])
    labels = {"token": list("abcadc"), "class": list("xxyxyy")}
    tokens = experiment.Tokens(labels, ("",) * 6, (0, 0, 0, 1, 1, 1), (True,) * 6)
    table = experiment.agreement({"own": rows}, tokens)
    # nearest of the other sequence: 0->3 (a), 1->3 (not b), 2->4 (not c), 3->1 (not a), 4->2 (not d), 5->2 (c)
    assert table.loc[0, "token"] == pytest.approx(2 / 6)
    assert table.loc[0, "class"] == pytest.approx(6 / 6)


@pytest.mark.assets
@pytest.mark.slow
def test_the_whole_study(smollm2: pc.Model, tmp_path: Path) -> None:
    found = experiment.study(smollm2, tmp_path, layers=(2,), count=6)
    assert len(found.codes) == 6 * 51
    assert len(found.codes.unique().rows) == len(found.codes), "every token has a code of its own"
    table = found.table("class").set_index(["layer", "form"])
    trained, untrained = (table.loc[(name, "soft code"), "ami"] for name in ("2", "2, untrained"))
    assert trained > 2 * abs(untrained)
    assert table.loc[("2", "soft code"), "purity"] > table.loc[("2", "soft code"), "shuffled"] + 0.2
    for name in ("codes", "layer-2", "layer-2-seed-sampling", "untrained"):
        pc.open(tmp_path / name)
    assert pc.open(tmp_path / "layer-2") == found.dense[2]
    assert "Largest clusters: soft code" in (tmp_path / "report.html").read_text()
    assert {"token.csv", "class.csv", "nearest.csv", "advantages.csv"} <= {p.name for p in tmp_path.iterdir()}


@pytest.mark.assets
@pytest.mark.slow
def test_more_sequences_than_texts_are_refused(smollm2: pc.Model) -> None:
    with pytest.raises(pc.InputError, match="the catalogue's books and speeches give"):
        experiment.sequences(smollm2, 10_000)

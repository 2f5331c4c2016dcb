from pathlib import Path

import pandas as pd
import pytest
import torch

import patchclamp as pc
from patchclamp.studies import rome_capitals


def test_controls_differ_from_the_rewrite_in_what_they_read_only(llama: pc.Model) -> None:
    rewrite = llama.rewrite_fact([[5, 6, 7, 8]], [1], 9, layer=1, covariance="identity", prefixes=0, steps=2)
    edits = rome_capitals.edits_of(rewrite, 0)
    assert list(edits) == list(rome_capitals.CONDITIONS)
    assert edits["identity"] == edits["rome"], "this rewrite had no covariance"
    reads = {name: edit.operation.read for name, edit in edits.items()}
    assert torch.equal(edits["random key"].operation.write, edits["rome"].operation.write)
    assert float(reads["random key"].norm()) == pytest.approx(float(reads["rome"].norm()))
    assert not torch.allclose(reads["random key"], reads["rome"])


def test_everything_found_is_kept(llama: pc.Model, tmp_path: Path) -> None:
    rewrite = llama.rewrite_fact([[5, 6, 7, 8]], [1], 9, layer=1, covariance="identity", prefixes=0, steps=2)
    frame = pd.DataFrame({"layer": [0, 1], "traced mlp_out": [0.1, 0.2], "score": [0.5, 0.6]})
    tables = {name: frame.assign(table=name) for name in ("scores", "unrelated", "layers", "facts")}
    found = rome_capitals.RomeCapitals("tiny", 1, **tables, example=rewrite, seconds=0.1)
    found.save(tmp_path)
    for name, table in tables.items():
        pd.testing.assert_frame_equal(pd.read_csv(tmp_path / f"{name}.csv"), table)
    assert pc.open(tmp_path / "example") == rewrite
    assert "Published (quoted from memory)" in (tmp_path / "report.html").read_text()


@pytest.mark.assets
@pytest.mark.slow
def test_validation_and_test_facts_are_apart_and_known(smollm2: pc.Model) -> None:
    validation, test = rome_capitals.known_facts(smollm2)
    assert len(test) >= 30
    assert not {fact.subject for fact in validation} & {fact.subject for fact in test}
    for fact in (*validation, *test):
        assert fact.target != fact.true
        assert len(fact.neighbours) == rome_capitals.NEIGHBOURS
        assert all(name != fact.subject and own != fact.target for name, own in fact.neighbours)
    before = pc.rewriting.score(smollm2, test[0])
    assert not before[before["test"] == "efficacy"]["success"].any()


@pytest.mark.assets
@pytest.mark.slow
def test_a_model_that_knows_too_few_capitals_is_refused(stories: pc.Model) -> None:
    with pytest.raises(
        pc.InputError, match=r"stories15m knows \d+ capitals .* needs 41: 11 validation and 30 test facts"
    ):
        rome_capitals.known_facts(stories)


@pytest.mark.assets
@pytest.mark.slow
def test_facts_are_learnt_and_a_random_key_learns_nothing(smollm2: pc.Model) -> None:
    _, test = rome_capitals.known_facts(smollm2)
    prefixes = pc.rewriting.sample_prefixes(smollm2)
    frames = []
    for number, fact in enumerate(test[:3]):
        rewrite = rome_capitals.rewrite_with_defaults(smollm2, fact, 5, prefixes)
        frames.append(rome_capitals.score_conditions(smollm2, fact, rewrite, number))
    found = rome_capitals.summary_table(pd.concat(frames)).set_index(["condition", "test"])["success"]
    assert found["rome", "efficacy"] == 1 > found["nothing", "efficacy"] == found["random key", "efficacy"] == 0
    assert found["rome", "neighbourhood"] > 0.8

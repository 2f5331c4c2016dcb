"""An evaluation is its parts, and refuses before any work what has no pairs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import patchclamp as pc
from patchclamp.directions.evaluation import pairs_of
from patchclamp.metrics import classifiers
from tests import tiny

FIT = [tiny.ids(1, n, seed=n + 40)[0] for n in (5, 7, 6, 5, 8, 6, 7, 5)]
PROMPTS = [tiny.ids(1, 12, seed=100 + n)[0] for n in range(12)]
LABELS = ["b", "a"] * 6
GROUPS = [f"g{i // 2}" for i in range(12)]
TEXTS = tiny.ids(2, 6, seed=9)

pytestmark = pytest.mark.filterwarnings(
    "ignore::patchclamp.core.errors.PatchclampWarning", "ignore::sklearn.exceptions.ConvergenceWarning"
)


@pytest.fixture(scope="module")
def direction(llama: pc.Model) -> pc.Direction:
    return llama.fit_direction("mean", FIT, ["a", "b"] * 4, "resid_post.1", holdout=0)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes that are trained for a few steps only: what they find is not looked at here."""
    for name in classifiers.ITERATIONS:
        monkeypatch.setitem(classifiers.ITERATIONS, name, 20)


def test_an_evaluation_is_its_parts(llama: pc.Model, direction: pc.Direction, tmp_path: Path) -> None:
    plane = torch.linalg.qr(torch.cat([direction.directions, torch.eye(32).double()[:1]]).T)[0].T
    means = direction.class_means @ direction.directions @ plane.T
    direction = replace(direction, directions=plane, class_means=means)  # of rank 2, so that the rank matters
    found = llama.evaluate_direction(direction, PROMPTS, LABELS, groups=GROUPS, answers=(5, 9), texts=TEXTS, seed=3)
    rows = llama.rows(PROMPTS, "resid_post.1")
    x, labels = rows.x.double(), np.array(LABELS)[rows.prompt]
    alone = pc.metrics.probe(
        x.numpy(), labels, lambda x: x - (x - direction.mean.numpy()) @ plane.numpy().T @ plane.numpy(),
        groups=np.array(GROUPS)[rows.prompt], rank=2, seed=3,
    )  # fmt: skip
    both, other = found.probe.summary(), alone.summary()
    assert np.allclose(both.select_dtypes("number"), other.select_dtypes("number"), atol=1e-6)
    said = found.probe.record["parameters"]
    assert (said["rank"], said["seed"], said["grouped"]) == (2, 3, True)
    assert found.projections.auc() == llama.projections(direction, PROMPTS, LABELS).auc()
    pairs = [(PROMPTS[i + 1], PROMPTS[i]) for i in range(0, 12, 2)]
    control = pc.directions.RandomDirection(rank=2, random_state=3).fit(rows.x, labels).direction_
    effects = llama.layer_effects(
        {"direction": [direction], "random": [replace(control, fitted=direction.fitted)]}, pairs, (5, 9), TEXTS
    )
    assert found.effects is not None
    assert found.effects.data.identical(effects.data)
    found.save(tmp_path)
    assert pc.open(tmp_path / "effects") == found.effects
    assert {p.name for p in tmp_path.iterdir()} == {"probe", "projections", "effects"}
    assert all(name in repr(found) for name in ("held-out rows", "AUC", "Effects by layer"))


def test_without_answers_there_are_no_effects(llama: pc.Model, direction: pc.Direction, tmp_path: Path) -> None:
    found = llama.evaluate_direction(direction, PROMPTS, LABELS)
    assert found.effects is None
    assert found.probe.record["parameters"]["grouped"], "tokens of one prompt belong together"
    found.save(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"probe", "projections"}


def test_pairs_are_those_of_the_groups_first_class_first(llama: pc.Model) -> None:
    order = np.random.default_rng(0).permutation(12)
    prompts, labels, groups = ([given[i] for i in order] for given in (PROMPTS, LABELS, GROUPS))
    found = pairs_of(llama, prompts, labels, groups)
    wanted = {(tuple(PROMPTS[i + 1]), tuple(PROMPTS[i])) for i in range(0, 12, 2)}
    assert {(a.ids, b.ids) for a, b in found} == wanted
    assert len(found) == 6
    for given, message in (
        ((PROMPTS, LABELS, None), "the bias needs pairs: two classes, and groups"),
        ((PROMPTS, ["a", "b", "c"] * 4, GROUPS), "the bias needs pairs"),
        ((PROMPTS, LABELS, ["x", *GROUPS[1:]]), "group 'x' has 0 prompts of 'a' and 1 of 'b'"),
        ((PROMPTS[:3], ["a", "b", "b"], ["x"] * 3), "group 'x' has 1 prompts of 'a' and 2 of 'b'"),
    ):
        with pytest.raises(pc.InputError, match=message):
            pairs_of(llama, *given)


def test_bad_requests_are_refused_before_any_work(
    llama: pc.Model, direction: pc.Direction, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("patchclamp.directions.evaluation.probe", lambda *_, **__: pytest.fail("probed"))
    for how, message in (
        ({"answers": (5, 9)}, "the bias needs pairs"),
        ({"answers": (5, 5), "groups": GROUPS}, "the same token"),
        ({"answers": (5,), "groups": GROUPS}, "two answers are compared"),
        ({"groups": GROUPS[1:]}, "12 prompts and 11 groups"),
        ({"groups": [*GROUPS, "more"]}, "12 prompts and 13 groups"),
    ):
        with pytest.raises(pc.InputError, match=message):
            llama.evaluate_direction(direction, PROMPTS, LABELS, **how)
    with pytest.raises(pc.InputError, match="12 prompts and 11 labels"):
        llama.evaluate_direction(direction, PROMPTS, LABELS[1:], groups=GROUPS, answers=(5, 9))
    with pytest.raises(pc.InputError, match="was fitted on arrays"):
        llama.evaluate_direction(replace(direction, fitted=None), PROMPTS, LABELS)


def test_texts_of_other_classes_are_refused(llama: pc.Model) -> None:
    prompts = tiny.ids(12, 6)
    direction = llama.fit_direction("mean", prompts, [0, 1] * 6, "resid_post.1", holdout=0)
    with pytest.raises(pc.InputError, match=r"fitted on the classes \['0', '1'\]; these texts have \['a', 'b'\]"):
        llama.evaluate_direction(direction, prompts, ["b", "a"] * 6)
    three = llama.fit_direction("mean", prompts, [0, 1, 2] * 4, "resid_post.1", holdout=0)
    for known, told, labels in (
        (three, ("'0', '1', '2'", "'0', '1'"), [0, 1] * 6),
        (direction, ("'0', '1'", "'0', '1', '2'"), [0, 1, 2] * 4),
    ):
        message = rf"fitted on the classes \[{told[0]}\]; these texts have \[{told[1]}\]"
        with pytest.raises(pc.InputError, match=message):
            llama.evaluate_direction(known, prompts, labels)

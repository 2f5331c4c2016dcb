"""What edits do by layer: each number is that of the measure called alone, and the chosen cell is the right one."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import patchclamp as pc
from patchclamp.core.progress import Progress
from patchclamp.directions.effects import KINDS, edits_of
from tests import tiny

PROMPTS = [tiny.ids(1, n, seed=n + 40)[0] for n in (5, 7, 6, 5, 8, 6, 7, 5, 6, 9, 5, 7)]
LABELS = [i % 2 for i in range(len(PROMPTS))]
PAIRS = list(zip(PROMPTS[::2], PROMPTS[1::2], strict=True))
TEXTS = [tiny.ids(1, n, seed=9)[0] for n in (3, 6, 11)]
ANSWERS = (5, 9)

pytestmark = pytest.mark.filterwarnings("ignore::patchclamp.core.errors.PatchclampWarning")


@pytest.fixture(scope="module")
def found(llama: pc.Model) -> dict[str, list[pc.Direction]]:
    return {
        "mean": llama.fit_directions("mean", PROMPTS, LABELS, holdout=0),
        "le|ace": llama.fit_directions(
            pc.directions.LEACE(shrinkage=0.2), PROMPTS, LABELS, ["resid_post.0", "resid_post.2"], holdout=0
        ),
    }


@pytest.fixture(scope="module")
def measured(llama: pc.Model, found: dict[str, list[pc.Direction]]) -> pc.LayerEffects:
    return llama.layer_effects(found, PAIRS, ANSWERS, TEXTS, edits=("erase", "swap", "to second"))


def test_every_number_is_that_of_the_measure_alone(
    llama: pc.Model, found: dict[str, list[pc.Direction]], measured: pc.LayerEffects
) -> None:
    seen = 0
    for method, several in found.items():
        for direction in several:
            for kind in ("erase", "swap", "to second"):
                edit = edits_of(direction, kind)
                bias = pc.metrics.bias(llama, PAIRS, ANSWERS, edit).summary().set_index(["edit", "metric"])
                cost = pc.metrics.damage(llama, edit, TEXTS).summary().set_index(["edit", "metric"])
                layer = int(str(direction.site).partition(".")[2])
                cell = measured.data.sel(direction=method, edit=kind, layer=layer)
                for name, row in (
                    ("bias", bias.loc["edited", "within"]),
                    ("across", bias.loc["edited", "across"]),
                    ("accuracy", bias.loc["edited", "accuracy"]),
                    ("kl", cost.loc["edited", "kl"]),
                ):
                    for suffix, part in (("", "mean"), ("_low", "low"), ("_high", "high")):
                        assert float(cell[name + suffix]) == pytest.approx(row[part], abs=1e-12), (method, kind, name)
                assert float(measured.data["bias_before"]) == pytest.approx(bias.loc["unedited", "within"]["mean"])
                seen += 1
    assert seen == 15
    assert float(measured.data["kl_before"]) == 0
    kl = measured.data["kl"].values
    assert np.nanmin(kl) > 0, "every edit does something"


def test_a_method_without_some_layers_leaves_holes_and_the_rest_stands(measured: pc.LayerEffects) -> None:
    holes = np.isnan(measured.data["bias"].sel(direction="le|ace"))
    assert holes.sel(layer=1).all()
    assert not holes.sel(layer=[0, 2]).any()
    assert not np.isnan(measured.data["bias"].sel(direction="mean")).any()
    assert "le|ace" in repr(measured)
    for metric in ("bias", "across", "lean", "accuracy"):
        axis = measured.figure(metric=metric).axes[0]
        lines = {line.get_label(): line for line in axis.lines}
        assert list(lines["le|ace"].get_xdata()) == [0, 2]
        assert (
            list(lines["mean"].get_ydata()) == measured.data[metric].sel(direction="mean", edit="erase").values.tolist()
        )
    with pytest.raises(pc.InputError, match="unknown metric 'kl'"):
        measured.figure(metric="kl")


def test_the_best_cell_by_brute_force(llama: pc.Model, found: dict[str, list[pc.Direction]]) -> None:
    measured = llama.layer_effects(found, PAIRS, ANSWERS, TEXTS)
    rows = measured.frame().dropna(subset=["bias"])
    for edit, goal in (("erase", abs), ("swap", float), ("double", float)):
        mine = rows[rows["edit"] == edit]
        limit = float(mine["kl"].median())
        for kl in (float("inf"), limit):
            wanted = min((r for r in mine.to_dict("records") if r["kl"] <= kl), key=lambda r: goal(r["bias"]))
            best = measured.best(edit, kl=kl)
            assert {k: best[k] for k in ("direction", "layer", "bias", "kl")} == {
                k: wanted[k] for k in ("direction", "layer", "bias", "kl")
            }
    with pytest.raises(pc.InputError, match="no erase stays at or below 0.0 nats"):
        measured.best("erase", kl=0.0)
    with pytest.raises(pc.InputError, match="unknown edit 'eras'; did you mean 'erase'"):
        measured.best("eras")


def test_without_texts_there_is_a_best_but_no_limit(llama: pc.Model, found: dict[str, list[pc.Direction]]) -> None:
    measured = llama.layer_effects(found, PAIRS, ANSWERS, (), edits=["erase"])
    assert "kl" not in measured.data
    table = measured.data["bias"].sel(edit="erase")
    assert np.isnan(table).any()
    assert abs(measured.best("erase")["bias"]) == float(np.abs(table).min())
    with pytest.raises(pc.InputError, match="no divergence was measured"):
        measured.best("erase", kl=0.1)


@pytest.mark.parametrize("number", [0, 1])
def test_to_a_class_gives_every_vector_that_class_means_coordinates(
    llama: pc.Model, found: dict[str, list[pc.Direction]], number: int
) -> None:
    for direction in (found["mean"][1], found["le|ace"][1]):
        edit = edits_of(direction, ("to first", "to second")[number])
        rows = llama.rows(PROMPTS, str(direction.site), edits=[edit]).x
        own = llama.rows(
            [p for p, y in zip(PROMPTS, LABELS, strict=True) if y == number], str(direction.site)
        ).x.double()
        wanted = direction.coordinates(own).mean(0)
        assert torch.allclose(direction.coordinates(rows), wanted.expand(len(rows), 1), atol=1e-6)
        assert not torch.allclose(direction.class_means[0], direction.class_means[1], atol=1e-3), "the classes differ"


def test_lean_changes_sign_with_the_answers_and_counts_pairs(
    llama: pc.Model, found: dict[str, list[pc.Direction]]
) -> None:
    one, other = (
        llama.layer_effects({"mean": found["mean"]}, PAIRS, answers, (), edits=["to first", "to second"]).data
        for answers in (ANSWERS, ANSWERS[::-1])
    )
    assert np.allclose(one["lean"], -other["lean"])
    assert np.abs(one["lean"]).min() > 0
    assert np.allclose(one["bias"], -other["bias"]), "who expects which answer is turned round, too"
    assert np.allclose(one["lean_low"], -other["lean_high"], atol=0.1)
    twice = [(a, a) for a, _ in PAIRS]
    lean = llama.layer_effects({"mean": found["mean"]}, twice, ANSWERS, (), edits=["swap"]).data
    alone = pc.metrics.bias(llama, [a for a, _ in PAIRS], ANSWERS, labels=[1] * len(PAIRS)).summary().iloc[0]
    before = pc.metrics.bias(llama, PROMPTS, ANSWERS, labels=[1] * len(PROMPTS)).summary().iloc[0]
    assert float(lean["lean_before"]) == pytest.approx(alone["mean"])
    assert float(one["lean_before"]) == pytest.approx(before["mean"])
    edit = found["mean"][0].swap()
    row = pc.metrics.bias(llama, [a for a, _ in PAIRS], ANSWERS, edit, labels=[1] * len(PAIRS)).summary()
    row = row[(row["edit"] == "edited") & (row["metric"] == "within")].iloc[0]
    cell = lean.sel(direction="mean", edit="swap", layer=0)
    assert [float(cell["lean_low"]), float(cell["lean_high"])] == pytest.approx([row["low"], row["high"]]), (
        "two prompts of a pair are one draw"
    )


def test_bad_requests_are_refused_before_any_work(
    llama: pc.Model, found: dict[str, list[pc.Direction]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("patchclamp.directions.effects.bias", lambda *_, **__: pytest.fail("measured"))
    arrays = replace(found["mean"][0], fitted=None)
    three = llama.fit_direction("mean", PROMPTS, [i % 3 for i in range(12)], "resid_post.1", holdout=0)
    embedded = llama.fit_direction("mean", PROMPTS, LABELS, "embed", holdout=0)
    same = [found["mean"][0], llama.fit_direction("mean", PROMPTS, LABELS, "resid_mid.0", holdout=0)]

    def asked(directions: Any, **how: Any) -> Callable[[], Any]:
        return lambda: llama.layer_effects(directions, PAIRS, ANSWERS, (), **how)

    for call, message in (
        (asked(found, edits=["erase", "swapp"]), "unknown kind of edit 'swapp'; did you mean 'swap'"),
        (asked({"mean": [three]}, edits=["to first"]), "'to first' needs two classes; the concept has 3"),
        (asked({}), "no direction was given"),
        (asked({"mean": [arrays]}), "'mean' was fitted on arrays"),
        (asked({"mean": [embedded]}), "'embed' lies in no layer"),
        (asked({"mean": same}), "'mean' has two directions at layer 0"),
        (asked({"mean": [found["mean"][0]] * 2}), "'mean' has two directions at one site"),
    ):
        with pytest.raises(pc.InputError, match=message):
            call()
    assert set(KINDS) == {"erase", "swap", "double", "to first", "to second"}


def test_edits_are_those_of_the_direction_about_the_point_that_is_asked_for(
    llama: pc.Model, found: dict[str, list[pc.Direction]]
) -> None:
    direction = found["le|ace"][1]
    assert edits_of(direction, "erase") == direction.erase()
    for about in ("mean", "median", "midpoint", "zero"):
        assert edits_of(direction, "erase", about) == direction.erase(about=about)
        assert edits_of(direction, "swap", about) == direction.swap(about=about)
        assert edits_of(direction, "double", about) == direction.scale(2.0, about=about)
    assert len({edits_of(direction, "swap", about).key for about in ("mean", "median", "midpoint", "zero")}) == 4
    events: list[Progress] = []
    data = llama.layer_effects(
        {"m": [direction]}, PAIRS, ANSWERS, TEXTS, edits=["swap"], about="zero", progress=events.append
    ).data
    row = pc.metrics.bias(llama, PAIRS, ANSWERS, direction.swap(about="zero")).summary().set_index(["edit", "metric"])
    assert float(data["bias"].squeeze()) == pytest.approx(row.loc[("edited", "within"), "mean"], abs=1e-12)
    assert [event.task for event in events if event.finished] == ["bias", "damage"]


@pytest.mark.slow
@pytest.mark.assets
def test_one_text_is_one_text(stories: pc.Model) -> None:
    prompts = [f"{a} {b} ran home because" for b in ("boy", "girl") for a in ("The", "A", "One", "That")]
    direction = stories.fit_direction("mean", prompts, [0] * 4 + [1] * 4, "resid_post.1", holdout=0)
    text = "The river flows from the hills to the sea"
    one, several = (
        stories.layer_effects(
            {"mean": [direction]}, [(prompts[0], prompts[4])], (" he", " she"), given, edits=["erase"]
        )
        for given in (text, [text])
    )
    assert one.record["parameters"]["texts"] == [text]
    assert float(one.data["kl"].squeeze()) == float(several.data["kl"].squeeze())
    doses = stories.dose_response({"mean": direction}, prompts[:1], (" he", " she"), [1], text)
    assert doses.data.equals(stories.dose_response({"mean": direction}, prompts[:1], (" he", " she"), [1], [text]).data)

"""The object that a fit gives: its edits, where they act, what they refuse, and its file."""

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import patchclamp as pc
from patchclamp.core.errors import PatchclampWarning
from patchclamp.directions import LEACE, MeanDifference, RandomDirection
from patchclamp.directions.concept import Concept
from patchclamp.directions.direction import Direction, Fitted
from tests.directions.made import rows
from tests.effort import examples

seeds = st.integers(0, 2**16)


def made(maker: Any = LEACE, classes: int = 2, seed: int = 0, **options: Any) -> tuple[Direction, torch.Tensor]:
    x, y = rows(classes=classes, seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PatchclampWarning)
        return maker(**options).fit(x, y).direction_, x


@given(seeds, st.sampled_from(["mean", "median", "midpoint", "zero"]), st.integers(2, 4))
@settings(max_examples=examples(5, 40), deadline=None)
@pytest.mark.parametrize("maker", [MeanDifference, LEACE, RandomDirection])
def test_edits_are_multiples_of_one_part(maker: Any, seed: int, about: Any, classes: int) -> None:
    direction, x = made(maker, classes, seed)
    erase, swap = direction.erase(about=about).operation(x), direction.swap(about=about).operation(x)
    part = x - erase
    assert part.abs().max() > 0.1, "there is a part"
    assert torch.allclose(erase, (x + swap) / 2, atol=1e-8), "erasing is the mean of identity and swap"
    assert torch.allclose(direction.swap(about=about).operation(swap), x, atol=1e-7), "twice is the identity"
    assert torch.allclose(direction.scale(2.0, about=about).operation(x), x + part, atol=1e-8)
    assert torch.allclose(direction.moved(x, -1.0, about), erase, atol=1e-8)
    origin = direction.origin(about)
    level = direction.coordinates(torch.zeros_like(x[0]) if origin is None else origin)
    assert torch.allclose(direction.coordinates(erase), level.expand(len(x), -1), atol=1e-7)
    along = direction.coordinates(x) - level
    for low, high, wanted in ((1.5, None, torch.full_like(along, 1.5)), (-0.5, 0.25, along.clamp(-0.5, 0.25))):
        bound = direction.clamp(low, high, about=about).operation(x)
        assert torch.allclose(direction.coordinates(bound) - level, wanted, atol=1e-7)


def test_the_points_to_measure_from_are_those_by_hand() -> None:
    x, y = rows(n=120)
    y = (np.arange(120) % 4 == 0).astype(int)  # so that the midpoint is not the mean of all rows
    means = torch.stack([x[y == c].mean(0) for c in (0, 1)])
    for maker in (MeanDifference, LEACE):
        direction = maker().fit(x, y).direction_
        unit = direction.directions[0]
        assert torch.allclose(unit, (means[1] - means[0]) / (means[1] - means[0]).norm())
        reads = unit
        if maker is LEACE:
            solved = torch.linalg.solve(torch.cov(x.T, correction=0), unit)
            reads = solved / (solved @ unit)
            assert not torch.allclose(reads, unit, atol=0.1)
        along = x @ reads
        assert torch.allclose(direction.coordinates(x.float()), (x.float().double() @ reads).unsqueeze(1))
        assert torch.allclose(direction.class_means, (means @ reads).unsqueeze(1))
        assert torch.allclose(direction.origin("mean"), x.mean(0))
        assert direction.origin("zero") is None
        assert torch.allclose(direction.origin("midpoint"), (along[y == 0].mean() + along[y == 1].mean()) / 2 * unit)
        median = torch.quantile(along, 0.5)
        assert torch.allclose(direction.origin("median"), median * unit)
        part = (along - median).unsqueeze(1) * unit
        assert torch.allclose(direction.erase(about="median").operation(x), x - part)
        assert torch.allclose(direction.swap(about="median").operation(x), x - 2 * part)
        assert torch.allclose(direction.scale(2, about="median").operation(x), x + part)
        lengths = x.norm(dim=1)
        assert direction.length == pytest.approx(float(lengths.sort()[0][59])), "the lower of the two in the middle"
        assert direction.limit == pytest.approx(4 * direction.length)
        assert direction.report["sinks"] == int((lengths > direction.limit).sum())


def test_the_report_of_a_fit_is_that_by_hand() -> None:
    x, y = rows(n=120)
    y = (np.arange(120) % 4 == 0).astype(int)
    x[7] *= 100
    gap = x[y == 1].mean(0) - x[y == 0].mean(0)
    direction = RandomDirection(random_state=5).fit(x, y).direction_
    unit, report = direction.directions[0], direction.report
    assert {key: report[key] for key in ("rows", "d", "rank", "classes", "sinks")} == {
        "rows": 120, "d": 12, "rank": 1, "classes": {"0": pytest.approx(90), "1": pytest.approx(30)}, "sinks": 1,
    }  # fmt: skip
    assert report["gap_before"] == pytest.approx(float(gap.norm()) * np.sqrt(2 * 0.25 * 0.75)), (
        "two columns, each by its sd"
    )
    left = float((gap - (gap @ unit) * unit).norm() / gap.norm())
    assert report["gap_left"] == pytest.approx(left)
    assert left < 1
    weights = np.where(np.arange(120) < 60, 2.0, 0.5)
    told = RandomDirection(random_state=5).fit(x, y, sample_weight=weights).direction_.report["classes"]
    assert told == {"0": pytest.approx(weights[y == 0].sum()), "1": pytest.approx(weights[y == 1].sum())}
    one, other = (MeanDifference().fit(x, y, sample_weight=w).direction_ for w in (None, 3.0))
    assert torch.allclose(one.directions, other.directions)
    assert torch.allclose(one.median, other.median), "one number is the weight of every row"


def test_what_an_estimator_gives_is_what_its_direction_gives() -> None:
    x, y = rows(n=60)
    found = LEACE().fit(x, y)
    for verb, arguments in (("erase", ()), ("swap", ()), ("scale", (3.0,)), ("add", (2.0,)), ("clamp", (-1.0, 1.0))):
        edit = getattr(found, verb)(*arguments, site="resid_post.0")
        assert edit == getattr(found.direction_, verb)(*arguments, site="resid_post.0"), verb
        assert edit.key not in {
            getattr(found, other)(site="resid_post.0").key for other in ("erase", "swap") if other != verb
        }
    assert found.report_ == found.direction_.report


def test_every_part_of_the_geometry_is_in_the_key() -> None:
    direction = made(LEACE)[0]
    parts = ("directions", "read_vectors", "mean", "median", "class_means", "gap")
    others = [replace(direction, **{part: getattr(direction, part) + 1}) for part in parts]
    others += [
        replace(direction, limit=1.0),
        replace(direction, fitted=Fitted("tiny", "0" * 64, "resid_post.1", "rest")),
    ]
    assert all(direction != other for other in others)
    assert len({other.key for other in others}) == len(parts) + 2, (
        "where it was fitted is not geometry, but is compared"
    )
    assert direction == replace(direction, report={})
    assert direction != 3
    assert repr(others[-1]) == "<Direction LEACE: rank 1 of 12 at resid_post.1 of tiny>"


def test_add_leads_from_one_class_mean_to_the_other() -> None:
    direction, x = made(MeanDifference)
    y = rows()[1]
    first, second = x[y == 0].mean(0), x[y == 1].mean(0)
    assert torch.allclose(direction.add(1.0).operation(first), second)
    assert torch.allclose(direction.add(-1.0).operation(second), first)
    assert direction.classes == (0, 1)
    many, x = made(MeanDifference, classes=3)
    y = rows(classes=3)[1]
    with pytest.raises(pc.InputError, match=r"3 classes; say towards= which: \[0, 1, 2\]"):
        many.add(1.0)
    with pytest.raises(pc.InputError, match="unknown class 7"):
        many.add(1.0, towards=7)
    assert torch.allclose(many.add(1.0, towards=2).operation(x.mean(0)), x[y == 2].mean(0))
    control, _ = made(RandomDirection)
    assert float(control.gap.norm()) == pytest.approx(float((second - first).norm())), "the control's step is as long"


def test_edits_skip_the_first_position_and_massive_activations_by_default() -> None:
    direction, x = made()
    edit = direction.erase("resid_post.1")
    assert edit.at == "rest"
    massive = x[:1] * 1e3
    assert not bool(edit.where(massive).any())
    assert bool(edit.where(x).all())
    assert (direction.erase(at="last").at, direction.erase(sinks="edit").at) == ("last", "all")
    assert direction.erase(at="all").where is not None
    assert direction.erase(at=slice(1, 3)).where is not None, "a stretch is not picked one by one"
    edge = torch.zeros(2, 12, dtype=torch.float64)
    edge[:, 0] = torch.tensor([direction.limit * 0.999, direction.limit * 1.001])
    assert edit.where(edge).tolist() == [True, False]
    for picked in (0, "last", pc.token("x"), [0, 1], pc.per_prompt([0])):
        assert direction.erase(at=picked).where is None, "a position that was picked is edited, whatever it holds"
    for bad in (float("nan"), float("inf")):
        with pytest.raises(pc.InputError, match="amount=.* valid: a finite number"):
            direction.add(bad)
    assert direction.erase(sinks="edit").where is None
    with pytest.raises(pc.InputError, match="unknown sinks 'drop'"):
        direction.erase(sinks="drop")


def test_a_direction_of_another_site_or_model_is_refused(llama: pc.Model) -> None:
    x = torch.randn(40, 32, generator=torch.Generator().manual_seed(0))
    found = MeanDifference().fit(x, np.arange(40) % 2).direction_
    here = replace(found, fitted=Fitted("tiny", llama.fingerprint(), "resid_post.1", "rest"))
    ids = torch.tensor([[1, 2, 3, 4]])
    assert llama.run(ids, here.erase()).fired == (3,)
    with pytest.raises(pc.EditError, match=r"fitted at 'resid_post.1', not at 'resid_post.0'"):
        here.erase("resid_post.0")
    with pytest.raises(pc.EditError, match=r"fitted at 'resid_post.1' and is placed at 'resid_post.0'"):
        llama.run(ids, here.erase().on("resid_post.0"))
    assert llama.run(ids, here.erase("resid_post.0", elsewhere=True)).fired == (3,)
    assert here.erase(["resid_post.1"]).origin == here.erase().origin != here.erase(elsewhere=True).origin
    other = replace(found, fitted=Fitted("tiny", "0" * 64, "resid_post.1", "rest"))
    with pytest.raises(pc.EditError, match="was fitted on tiny .weights 000000000000.*fit the direction on this model"):
        llama.run(ids, other.erase())


def test_a_direction_of_arrays_finds_its_home(llama: pc.Model) -> None:
    ids = torch.randint(3, 97, (40, 6), generator=torch.Generator().manual_seed(0)).tolist()
    states = llama.record(ids, "resid_post.1", at="last")["resid_post.1"]
    found = MeanDifference().fit(states, np.arange(40) % 2).direction_
    assert found.site is None
    home = found.at_home(llama, "resid_post.1", "last")
    assert home == llama.fit_direction("mean", ids, np.arange(40) % 2, "resid_post.1", at="last", holdout=0)
    assert home.length == pytest.approx(float(states.norm(dim=1).median()))
    assert found.at_home(llama, "resid_post.1", length=7.0).limit == 28.0
    with pytest.raises(pc.InputError, match="names 3 sites"):
        found.at_home(llama, "resid_post")
    with pytest.raises(pc.InputError, match="the direction has width 32, but mlp_act.1 has width"):
        found.at_home(llama, "mlp_act.1")


def test_a_saved_direction_opens_as_it_was(tmp_path: Path, llama: pc.Model) -> None:
    for maker in (MeanDifference, LEACE, RandomDirection):
        direction, x = made(maker, classes=3)
        folder = direction.save(tmp_path / maker.__name__)
        opened = Direction.open(folder)
        assert opened == direction
        assert torch.equal(opened.transform(x), direction.transform(x))
        assert opened.report["warnings"] == tuple(direction.report["warnings"])
        assert opened.swap().key == direction.swap().key
        assert {p.name for p in folder.iterdir()} == {"direction.json", "direction.safetensors"}
    with pytest.raises(pc.InputError, match="holds no direction.json"):
        Direction.open(tmp_path)
    said = json.loads((folder / "direction.json").read_text())
    (folder / "direction.json").write_text(json.dumps({**said, "format_version": said["format_version"] + 1}))
    with pytest.raises(pc.InputError, match="has a newer format than this patchclamp reads"):
        Direction.open(folder)
    edit = direction.erase("resid_post.0")
    pc.save_edits(edit, tmp_path / "edits")
    assert pc.load_edits(tmp_path / "edits") == [edit]


def test_nothing_of_the_users_is_replaced(tmp_path: Path) -> None:
    direction, _ = made()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    with pytest.raises(pc.InputError, match="holds 'thesis.tex'; a direction is written into a folder of its own"):
        direction.save(mine)
    assert (mine / "thesis.tex").read_text() == "years of work"
    with pytest.raises(pc.InputError, match="is a file"):
        direction.save(mine / "thesis.tex")
    other = made(seed=1)[0]
    direction.save(tmp_path / "own")
    other.save(tmp_path / "own")
    assert Direction.open(tmp_path / "own") == other, "an earlier direction gives way"


def test_a_direction_without_sinks_is_kept_in_plain_json(tmp_path: Path) -> None:
    direction = replace(made()[0], limit=float("inf"))
    folder = direction.save(tmp_path / "plain")
    json.loads((folder / "direction.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert Direction.open(folder) == direction


def test_what_cannot_be_used_is_refused_with_the_choices() -> None:
    direction, x = made()
    with pytest.raises(pc.InputError, match="unknown about 'meen'; did you mean 'mean'"):
        direction.erase(about="meen")
    with pytest.raises(pc.InputError, match=r"about is a vector \[12\]; got shape \(3,\)"):
        direction.erase(about=torch.zeros(3))
    z = x[:, 0] + 0.5
    with pytest.raises(pc.InputError, match="has no classes, hence no midpoint"):
        MeanDifference().fit(x, z).erase(about="midpoint")


def test_bad_rows_and_labels_are_refused() -> None:
    x, y = rows(n=40)
    for bad_x, bad_y, message in (
        (x, np.zeros(40, int), "one class only .0, in 40 rows"),
        (x, y[:39], "40 rows and 39 labels"),
        (x.index_fill(0, torch.tensor([3]), float("nan")), y, "12 NaN or infinite values of 480"),
        (x.index_fill(0, torch.tensor([3]), float("inf")), y, "12 NaN or infinite values of 480"),
        (x.long(), y, "of a floating type; got"),
        (x[0], y, r"activations are \[row, d\]"),
        (x, np.arange(40), "40 distinct values in 40 rows; if they are measurements"),
        (x, np.full(40, np.nan), "40 NaN or infinite"),
        (torch.ones(40, 3), y, "the class means are equal"),
        (torch.cat([x[::2], x[::2]]).float(), np.repeat([0, 1], 20), "the class means are equal"),
    ):
        with pytest.raises(pc.InputError, match=message):
            LEACE().fit(bad_x, bad_y)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        LEACE().fit(x.numpy(), y[:39])
    with pytest.raises(pc.InputError, match="unknown concept 'class'"):
        LEACE(concept="class").fit(x, y)
    with pytest.raises(pc.InputError, match="one weight a row"):
        LEACE().fit(x, y, sample_weight=[1.0])
    with pytest.raises(pc.InputError, match="finite and 0 or more"):
        LEACE().fit(x, y, sample_weight=-np.ones(40))
    for weight, shown in ((1e308, "1e\\+308"), (1e100, "1e\\+100"), (1e-300, "1e-300"), (5e-324, "4.94066e-324")):
        with pytest.raises(pc.InputError, match=f"sample_weight holds {shown}: .* leave the range of float64"):
            LEACE().fit(x, y, sample_weight=np.full(40, weight))
    with pytest.raises(pc.InputError, match="one class only is left"):
        LEACE().fit(x, y, sample_weight=y)
    with pytest.raises(pc.InputError, match="one group a row"):
        LEACE().fit(x, y, groups=[1])
    with pytest.raises(pc.InputError, match="X has 11 features"):
        LEACE().fit(x, y).transform(x[:, :11])


def test_whole_numbers_words_and_truth_values_are_classes_and_other_numbers_are_not() -> None:
    for labels, names in (
        ([3, 1, 3, 1], (1, 3)), ([2.0, 0.0, 2.0], (0.0, 2.0)), (["b", "a", "b"], ("a", "b")), ([True, False, True], (False, True)),
        ([[1], [0], [1]], (0, 1)),
    ):  # fmt: skip
        concept = Concept.of(labels)
        assert (concept.names, concept.columns) == (names, 2)
        assert concept.encode(labels).tolist() == [[float(np.ravel(one)[0] == c) for c in names] for one in labels]
    for labels, columns in (([0.5, 1.0, 2.0], 1), ([[1, 2], [3, 4]], 2), ([[0.5], [1.0]], 1)):
        concept = Concept.of(labels)
        assert (concept.names, concept.columns) == ((), columns)
        assert concept.encode(labels).tolist() == np.reshape(labels, (-1, columns)).tolist()
    assert Concept.of([0.5, 1.5, 0.5], "classes").names == (0.5, 1.5)
    assert Concept.of([0, 1, 5], "continuous").columns == 1
    assert Concept.of(np.arange(20) % 10).columns == 10, "half as many classes as rows are taken for classes"
    assert Concept.of([0], classes=[0, 1, 2]).columns == 3, "or more, if they were announced"
    for labels, kind, message in (
        (np.arange(21) % 11, "auto", "11 distinct values in 21 rows"),
        (["a", "b"], "continuous", "a continuous concept is made of numbers"),
        ([[0, 1], [1, 0]], "classes", r"class labels are one a row, \[row\]"),
        ([], "auto", "labels are .row. or"),
        (np.zeros((2, 2, 2)), "auto", "labels are .row. or"),
    ):
        with pytest.raises(pc.InputError, match=message):
            Concept.of(labels, kind)
    with pytest.raises(pc.InputError, match="the concept has 2 numbers a row; got 1"):
        Concept.of([[1, 2], [3, 4]]).encode([1, 2])


def test_bad_labels_of_any_kind_are_named() -> None:
    x, y = rows(n=40)
    words = np.array(["no", "yes"], dtype=object)  # as pandas keeps strings
    with pytest.raises(pc.InputError, match="one class only .'no', in 40 rows"):
        MeanDifference().fit(x, words[0 * y])
    with pytest.raises(pc.InputError, match="unknown class 'maybe'"):
        MeanDifference().partial_fit(x, words[y]).partial_fit(x, np.array(["no", "maybe"], dtype=object)[y])
    with pytest.raises(pc.InputError, match="group 'yes' has no row of class 0"):
        MeanDifference(paired=True).fit(x, y, groups=words[y])


def test_the_random_step_is_as_long_as_that_of_the_classes() -> None:
    x, y = rows(n=300, classes=3)
    x = x + 1e3
    far = torch.stack([x[y == c].mean(0) for c in range(3)]) - x.mean(0)
    step = RandomDirection().fit(x, y).direction_.step()
    assert torch.isclose(step.norm(), far.norm(dim=1).mean()), "wherever the rows lie"
    z = x[:, :2] - x[:, :2].mean(0)
    moved = torch.stack([(x - x.mean(0)).T @ column / len(x) / column.std(correction=0) for column in z.T])
    assert torch.isclose(RandomDirection().fit(x, z).direction_.step().norm(), moved.norm(dim=1).mean())
    one = MeanDifference().fit(x, x[:, 0] * 2 + 0.3).direction_
    assert torch.allclose(
        one.step(), (x - x.mean(0)).T @ (x[:, 0] - x[:, 0].mean()) / len(x) / x[:, 0].std(correction=0)
    )


def test_a_random_direction_is_drawn_with_its_seed_and_has_the_rank_of_the_concept_by_default() -> None:
    x, y = rows(n=60, classes=3)
    one, other, again = (RandomDirection(random_state=seed).fit(x, y).direction_.directions for seed in (0, 1, 1))
    assert one.shape == (2, 12)
    assert not torch.allclose(one, other)
    assert torch.equal(other, again)
    assert torch.allclose(RandomDirection(random_state=1, rank=12).fit(x, y).transform(x), x.mean(0).expand_as(x))
    for seed in range(3):
        drawn = RandomDirection(rank=5, random_state=seed).fit(x, y).directions_
        assert torch.allclose(drawn @ drawn.T, torch.eye(5).double())
    with pytest.raises(pc.InputError, match=r"rank=13 is outside 1\.\.12"):
        RandomDirection(rank=13).fit(x, y)


def test_few_rows_and_rare_classes_are_warned_of() -> None:
    x, y = rows(n=10)
    with pytest.warns(
        PatchclampWarning, match="10 rows of width 12: what is gone on these rows is not gone on others"
    ) as told:
        found = LEACE().fit(x, y)
    assert {one.filename for one in told} == {__file__}, "the warning points to the line that asked for the fit"
    assert any("class '0' has 5 rows only" in said for said in found.report_["warnings"])
    other, z = rows(n=400, seed=5)
    from patchclamp.directions.report import gap_left

    held = gap_left(found.direction_, other, torch.nn.functional.one_hot(torch.from_numpy(z), 2).double())
    gap = other[z == 1].mean(0) - other[z == 0].mean(0)
    left = gap - (found.direction_.coordinates(gap) @ found.direction_.directions)
    assert held == pytest.approx(float(left.norm() / gap.norm()))
    assert found.report_["gap_left"] < 1e-9 < 0.1 < held, "the training gap is not the held-out gap"
    for count, rare in ((9, True), (10, False)):
        x, _ = rows(n=40, d=6)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            said = MeanDifference().fit(x, (np.arange(40) < count).astype(int)).report_["warnings"]
        assert bool(said) == rare, said
    for count, few in ((12, True), (13, False)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            said = MeanDifference().fit(*rows(n=count, d=12)).report_["warnings"]
        assert any("rows of width 12" in one for one in said) == few


def test_a_small_distance_of_class_means_is_found_where_it_is_more_than_rounding() -> None:
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shift = torch.zeros(6, dtype=torch.float64)
    shift[2] = 1e-9
    both, y = torch.cat([x, x + shift]), np.repeat([0, 1], 50)
    assert torch.allclose(MeanDifference().fit(both, y).directions_[0], shift / 1e-9, atol=1e-4)
    with pytest.raises(pc.InputError, match="the class means are equal"):
        MeanDifference().fit(torch.cat([x, x]), y)

"""The object that a fit gives: its edits, where they act, what they refuse, and its file."""

import warnings
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
from patchclamp.directions.direction import Direction, Fitted
from tests.directions.made import rows

seeds = st.integers(0, 2**16)


def made(maker: Any = LEACE, classes: int = 2, seed: int = 0, **options: Any) -> tuple[Direction, torch.Tensor]:
    x, y = rows(classes=classes, seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PatchclampWarning)
        return maker(**options).fit(x, y).direction_, x


@given(seeds, st.sampled_from(["mean", "median", "midpoint", "zero"]), st.integers(2, 4))
@settings(max_examples=20, deadline=None)
@pytest.mark.parametrize("maker", [MeanDifference, LEACE, RandomDirection])
def test_edits_are_multiples_of_one_part(maker: Any, seed: int, about: Any, classes: int) -> None:
    direction, x = made(maker, classes, seed)
    erase, swap = direction.erase(about=about).operation(x), direction.swap(about=about).operation(x)
    part = x - erase
    assert torch.allclose(erase, (x + swap) / 2, atol=1e-8), "erasing is the mean of identity and swap"
    assert torch.allclose(direction.swap(about=about).operation(swap), x, atol=1e-7), "twice is the identity"
    assert torch.allclose(direction.scale(2.0, about=about).operation(x), x + part, atol=1e-8)
    assert torch.allclose(direction.moved(x, -1.0, about), erase, atol=1e-8)
    origin = direction.origin(about)
    level = direction.coordinates(torch.zeros_like(x[0]) if origin is None else origin)
    assert torch.allclose(direction.coordinates(erase), level.expand(len(x), -1), atol=1e-7)
    pinned = direction.clamp(1.5, about=about).operation(x)
    assert torch.allclose(
        direction.coordinates(pinned) - level, torch.full((len(x), direction.rank), 1.5).double(), atol=1e-7
    )


def test_the_seeds_formulas() -> None:
    direction, x = made(MeanDifference)
    d = direction.directions[0]
    m = (x @ d).median() * d
    m = torch.quantile(x @ d, 0.5) * d
    part = ((x - m) @ d).unsqueeze(1) * d
    assert torch.allclose(direction.origin("median"), m)
    assert torch.allclose(direction.erase(about="median").operation(x), (x - m) - part + m)
    assert torch.allclose(direction.swap(about="median").operation(x), x - 2 * part)
    assert torch.allclose(direction.scale(2, about="median").operation(x), x + part)


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
    for picked in (0, "last", pc.token("x"), [0, 1], pc.per_prompt([0])):
        assert direction.erase(at=picked).where is None, "a position that was picked is edited, whatever it holds"
    for bad in (float("nan"), float("inf")):
        with pytest.raises(pc.InputError, match="an amount is a finite number; got"):
            direction.add(bad)
    assert direction.erase(sinks="edit").where is None
    with pytest.raises(pc.InputError, match="unknown way with sinks 'drop'"):
        direction.erase(sinks="drop")


def test_a_direction_of_another_site_or_model_is_refused(llama: pc.Model) -> None:
    x = torch.randn(40, 32, generator=torch.Generator().manual_seed(0))
    found = MeanDifference().fit(x, np.arange(40) % 2).direction_
    from dataclasses import replace

    here = replace(found, fitted=Fitted("tiny", llama.fingerprint(), "resid_post.1", "rest"))
    ids = torch.tensor([[1, 2, 3, 4]])
    assert llama.run(ids, here.erase()).fired == (3,)
    with pytest.raises(pc.EditError, match=r"fitted at 'resid_post.1', not at 'resid_post.0'"):
        here.erase("resid_post.0")
    with pytest.raises(pc.EditError, match=r"fitted at 'resid_post.1' and is placed at 'resid_post.0'"):
        llama.run(ids, here.erase().on("resid_post.0"))
    assert llama.run(ids, here.erase("resid_post.0", elsewhere=True)).fired == (3,)
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
    import json
    from dataclasses import replace

    direction = replace(made()[0], limit=float("inf"))
    folder = direction.save(tmp_path / "plain")
    json.loads((folder / "direction.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert Direction.open(folder) == direction


def test_what_cannot_be_used_is_refused_with_the_choices() -> None:
    direction, x = made()
    with pytest.raises(pc.InputError, match="unknown point 'meen'; did you mean 'mean'"):
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
    with pytest.raises(pc.InputError, match="unknown kind of concept 'class'"):
        LEACE(concept="class").fit(x, y)
    with pytest.raises(pc.InputError, match="one weight a row"):
        LEACE().fit(x, y, sample_weight=[1.0])
    with pytest.raises(pc.InputError, match="finite and 0 or more"):
        LEACE().fit(x, y, sample_weight=-np.ones(40))
    with pytest.raises(pc.InputError, match="one class only is left"):
        LEACE().fit(x, y, sample_weight=y)
    with pytest.raises(pc.InputError, match="one group a row"):
        LEACE().fit(x, y, groups=[1])
    with pytest.raises(pc.InputError, match="X has 11 features"):
        LEACE().fit(x, y).transform(x[:, :11])


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


def test_few_rows_and_rare_classes_are_warned_of() -> None:
    x, y = rows(n=10)
    with pytest.warns(PatchclampWarning, match="10 rows of width 12: what is gone on these rows is not gone on others"):
        found = LEACE().fit(x, y)
    assert any("class '0' has 5 rows only" in said for said in found.report_["warnings"])
    other, z = rows(n=400, seed=5)
    from patchclamp.directions.base import gap_left

    held = gap_left(found.direction_, other, torch.nn.functional.one_hot(torch.from_numpy(z), 2).double())
    assert found.report_["gap_left"] < 1e-9 < 0.1 < held, "the training gap is not the held-out gap"

"""The same kinds of arguments at every verb: refused by name before any work, in the same words."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import patchclamp as pc
from patchclamp.cli.app import main
from patchclamp.interventions.positions import read_at, resolve
from patchclamp.models.inputs import Prompt
from tests.effort import examples
from tests.fuzz import world
from tests.fuzz.world import IDS, vector

READ = pc.Logits([3])
AT_DOORS: dict[str, Callable[[Any], Any]] = {
    "run": lambda at: world.model().run(IDS, record="mlp_out.1", at=at),
    "record": lambda at: world.model().record(IDS, "mlp_out.1", at),
    "edit": lambda at: pc.Zero(site="mlp_out.1", at=at),
    "on": lambda at: pc.Zero(site="mlp_out.1").on(at=at),
    "sweep": lambda at: world.model().sweep(IDS, pc.Zero(), sites="mlp_out.1", at=at, read=READ),
    "patch": lambda at: world.model().patch(IDS, IDS, sites="mlp_out.1", at=at, read=READ),
    "source": lambda at: pc.source(IDS, at=at),
    "lens": lambda at: world.model().lens(IDS, at=at),
    "rows": lambda at: world.model().rows(IDS, "mlp_out.1", at),
    "fit": lambda at: world.model().fit_direction("mean", world.LABELLED, world.LABELS, "mlp_out.1", at=at),
    "direction": lambda at: world.direction().erase(at=at),
    **{
        f"read {kind.__name__}": (lambda at, kind=kind, first=first: kind(*first, at=at))
        for kind, first in (
            (pc.Probability, [3]), (pc.LogOdds, [3]), (pc.Rank, [3]), (pc.Logits, [3]), (pc.LogitDifference, [3, 4]), (pc.Loss, [3]), (pc.KL, []),
            (pc.TopK, []), (pc.Activation, ["mlp_out.1"]), (pc.Function, [torch.sum]),
        )
    },
}  # fmt: skip
NO_POSITIONS = [
    1.5, True, "lsat", [], [1, 2.5], [[1], "no"], object(), {1}, {1: 2}, b"last", slice(0, 3, 0), slice(0.5, 2), slice("a"), pc.Zero, lambda: 0,
    torch.tensor(1.5), torch.ones(2, 2), np.array([0.5]), 3j, float("nan"),
]  # fmt: skip


@pytest.mark.parametrize("door", sorted(AT_DOORS))
def test_what_is_no_position_is_refused_at_every_door(door: str) -> None:
    for at in [*NO_POSITIONS, *(pc.per_prompt([at]) for at in NO_POSITIONS)]:
        with pytest.raises(pc.PositionError):
            AT_DOORS[door](at)


@given(st.recursive(st.integers(-5, 4), lambda inner: st.lists(inner, min_size=1, max_size=3), max_leaves=5))
@settings(max_examples=examples(20, 200), deadline=None)
def test_positions_mean_the_same_in_any_container(at: Any) -> None:
    """Lists against arrays, tensors, tuples and numbers of numpy; the oracle is Python's own indexing."""
    prompt = Prompt(tuple(IDS))

    def flat(value: Any) -> list[int]:
        return [value] if isinstance(value, int) else [n for item in value for n in flat(item)]

    def other(value: Any, number: int = 0) -> Any:
        if isinstance(value, int):
            return [np.int64(value), torch.tensor(value), value, np.array(value)][number % 4]
        plain = all(isinstance(item, int) for item in value)
        whole = [np.array(value), torch.tensor(value), tuple(value)][number % 3] if plain else None
        return [other(item, number + i) for i, item in enumerate(value)] if whole is None else whole

    wanted = tuple(range(5)[n] for n in flat(at))
    for form in (at, *(other(at, number) for number in range(4))):
        assert resolve(read_at(form), prompt, 0, 1, None, repeats=True) == wanted


def test_tokens_are_text_and_occurrences_whole_numbers() -> None:
    for arguments in (
        {"text": 5},
        {"text": ""},
        {"text": None},
        {"text": "x", "occurrence": 1.5},
    ):
        with pytest.raises(pc.PositionError):
            pc.token(**arguments)
    with pytest.raises(pc.PositionError, match="stands alone"):
        pc.Zero(at=[pc.per_prompt([1])])


@pytest.mark.parametrize("where", [0, 0.5, True, "Norm", [pc.Norm(above=1)], int, lambda: 0, torch.ones(3)])
def test_where_is_a_gate_or_a_function_of_the_vectors(where: Any) -> None:
    for make in (pc.Zero, lambda **place: pc.Add(vector(), **place), lambda **place: pc.Zero().on(**place)):
        with pytest.raises(pc.EditError, match="where"):
            make(where=where)


def test_fields_of_gates_are_numbers_and_vectors() -> None:
    for make in (
        lambda: pc.Along("x"), lambda: pc.Along(vector().to("meta")), lambda: pc.Along(vector().to_sparse()), lambda: pc.Along(vector(), above="1"),
        lambda: pc.Norm(above=None), lambda: pc.Norm(below=float("nan")), lambda: pc.Nearest(vector(rows=2), 0.5), lambda: pc.Nearest("x", 0),
        lambda: pc.NearestCode(vector(rows=2), 0, threshold="auto"), lambda: pc.NearestCode(vector(rows=2), True),
    ):  # fmt: skip
        with pytest.raises(pc.EditError):
            make()
    assert pc.Along(vector().tolist()) == pc.Along(vector().float()) or pc.Along(vector().numpy()) == pc.Along(vector())


VECTORS: dict[str, Any] = {
    "meta": vector().to("meta"), "sparse": vector().to_sparse(), "float8": vector().to(torch.float8_e4m3fn), "integer": vector().long(),
    "complex": vector().to(torch.complex64), "narrow": vector()[:31], "two axes": vector(rows=2).unsqueeze(0), "text": "he", "none": None,
    "nested": torch.nested.nested_tensor([vector(), vector()[:3]], layout=torch.jagged), "ragged": [[1.0], [1.0, 2.0]], "mapping": {1: 2.0}, "NaN": vector() * torch.nan,
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(VECTORS))
@pytest.mark.filterwarnings("ignore")
def test_a_vector_that_is_none_is_refused_by_every_operation(kind: str) -> None:
    odd = VECTORS[kind]
    for make in (
        lambda: pc.Add(odd), lambda: pc.RankOne(odd, odd), lambda: pc.ProjectOut(odd), lambda: pc.Reflect(odd),
        lambda: pc.ProjectOut(vector(), about=[odd]), lambda: pc.Scale(2.0, directions=[odd]), lambda: pc.Rotate(vector(), directions=[odd]),
    ):  # fmt: skip
        with pytest.raises(pc.EditError):
            world.model().run(IDS, make().on("mlp_out.1"))


NO_SITES = [5, None, 1.5, ["mlp_out.1", 5], [["mlp_out.1"]], {"mlp_out.1"}, {"layer": 1}, b"mlp_out.1", torch.ones(2), np.array("mlp_out.1"), "mlp_uot.1", object()]  # fmt: skip
SITE_DOORS: dict[str, Callable[[Any], Any]] = {
    "record": lambda sites: world.model().record(IDS, sites),
    "run": lambda sites: world.model().run(IDS, record=sites),
    "sweep": lambda sites: world.model().sweep(IDS, pc.Zero(), sites=[sites] if sites is None else sites, at=-1, read=READ),
    "edit": lambda sites: world.model().run(IDS, pc.Zero(site=[sites] if sites is None else sites)),
    "patch": lambda sites: world.model().patch(IDS, IDS, sites=sites, read=READ),
    "lens": lambda sites: world.model().lens(IDS, sites),
    "fit": lambda sites: world.model().fit_directions("mean", world.LABELLED, world.LABELS, sites),
    "path": lambda sites: world.model().path_patch(IDS, IDS, receivers=sites, read=READ),
}  # fmt: skip


@pytest.mark.parametrize("door", sorted(SITE_DOORS))
def test_what_is_no_site_is_refused_at_every_door(door: str) -> None:
    for sites in NO_SITES:
        with pytest.raises(pc.InputError):
            SITE_DOORS[door](sites)


def test_one_edit_stands_for_a_list_of_one_wherever_edits_go() -> None:
    m, edit = world.model(), pc.Add(vector(), site="embed", at=1)

    def numbers(result: Any) -> Any:
        return result.data.values if hasattr(result, "data") else result

    for call in (
        lambda edits: m.run(IDS, edits).logits,
        lambda edits: m.sweep(IDS, pc.Zero(), sites="mlp_out.1", at=1, read=READ, base=edits),
        lambda edits: m.patch(world.OTHER, IDS, sites="mlp_out.1", at=1, read=READ, base=edits, source_edits=edits),
        lambda edits: m.run(IDS, pc.Patch(pc.source(IDS, edits), site="mlp_out.1")).logits,
        lambda edits: m.rows(IDS, "mlp_out.1", edits=edits).x,
    ):
        one, several = call(edit), call([edit])
        if isinstance(one, torch.Tensor):
            assert torch.equal(one, several)
        else:
            assert all(np.array_equal(one.dataset[name], several.dataset[name]) for name in one.dataset)
    clean = m.run(IDS).logits
    assert not torch.equal(clean, m.run(IDS, edit).logits), "the negative control: the edit does something"


@pytest.mark.parametrize(
    "edits", [None, 5, "Add", lambda x: x, [lambda x: x], [pc.Zero(), None], {"a": pc.Zero()}, torch.sin, vector()]
)
def test_what_is_no_edit_is_refused_wherever_edits_go(edits: Any) -> None:
    m = world.model()
    for call in (
        lambda: m.run(IDS, edits), lambda: m.record(IDS, "mlp_out.1", edits=edits), lambda: m.generate(IDS, edits), lambda: m.editing(edits),
        lambda: m.sweep(IDS, edits, sites="mlp_out.1", at=1, read=READ), lambda: m.sweep(IDS, pc.Zero(), sites="mlp_out.1", at=1, read=READ, base=edits),
        lambda: pc.source(IDS, edits), lambda: pc.save_edits(edits, "unused"), lambda: m.baked(edits),
    ):  # fmt: skip
        with pytest.raises(pc.EditError):
            call()
    if callable(edits):
        with pytest.raises(pc.EditError, match=r"pc\.Call"):
            m.run(IDS, edits)


@pytest.mark.parametrize(
    "budget", ["1.2.3GB", "", "GB", "1TB2", "-1GB", 0, -5, "1e3", 1.5, None, True, "\u0663GB", "9" * 400, float("nan")]
)
def test_a_budget_is_an_amount_of_memory(budget: Any) -> None:
    with pytest.raises(pc.InputError, match="budget"):
        world.model().sweep(IDS, pc.Zero(), sites="mlp_out.1", at=1, read=READ, budget=budget)
    assert world.model().plan(IDS, pc.Zero(), sites="mlp_out.1", at=1, read=READ, budget=2e9).budget == 2 * 10**9


@pytest.mark.parametrize(
    ("call", "near"),
    [
        (lambda m: m.sweep(IDS, pc.Zero(), site="mlp_out", read=READ), "sites"),
        (lambda m: m.plan(IDS, pc.Zero(), site="mlp_out", read=READ), "sites"),
        (lambda m: m.patch(IDS, IDS, site="mlp_out", read=READ), "sites"),
        (lambda m: m.path_patch(IDS, IDS, reciever="final_norm", read=READ), "receivers"),
        (lambda m: m.record(IDS, "mlp_out", edit=pc.Zero()), "edits"),
        (lambda m: m.tune_lens(world.LABELLED, pases=2), "passes"),
        (lambda m: m.rewrite_fact(IDS, [1], 9, covarience="identity"), "covariance"),
        (lambda m: m.fit_direction("mean", world.LABELLED, world.LABELS, "mlp_out.1", holdot=0), "holdout"),
        (lambda m: pc.Probability([3], att=1), "at"),
        (lambda m: pc.Add(vector(), scael=2.0), "scale"),
        (lambda m: pc.Norm(abvoe=2.0), "above"),
        (lambda m: world.direction().erase(elswhere=True), "elsewhere"),
        (lambda m: m.run(IDS).figure(layres=[1]), None),
        (lambda m: m.sweep(IDS, pc.Zero(), sites="mlp_out", at=1, read=READ, strategy="foo"), None),
        (lambda m: m.patch(IDS, IDS, read=READ, align="lft"), "left"),
        (lambda m: pc.load("stories15m", dtype="flaot32"), "float32"),
    ],
)  # fmt: skip
def test_an_unknown_name_is_refused_with_the_nearest(call: Callable[[pc.Model], Any], near: str | None) -> None:
    with pytest.raises(pc.InputError, match=f"did you mean '{near}'" if near else "Valid: "):
        call(world.model())


def test_reads_take_tokens_as_text_or_ids() -> None:
    for tokens in (1.5, True, [1.5], [None], {}, {1}, b"he", object(), torch.ones(2), np.array([0.5]), [[3]]):
        for kind in (pc.Probability, pc.LogOdds, pc.Rank, pc.Logits):
            with pytest.raises(pc.InputError):
                kind(tokens)
        with pytest.raises(pc.InputError):
            pc.LogitDifference(3, tokens)
    m = world.model()
    wanted = m.sweep(IDS, pc.Zero(), sites="mlp_out.1", at=1, read=pc.Logits([3, 4]))
    for tokens in (np.array([3, 4]), torch.tensor([3, 4]), (3, np.int64(4)), iter([3, 4])):
        grid = m.sweep(IDS, pc.Zero(), sites="mlp_out.1", at=1, read=pc.Logits(tokens))
        assert np.array_equal(grid.data, wanted.data)


@pytest.mark.parametrize(
    "ids",
    [
        torch.tensor(5),
        torch.ones(1, 2, 3, dtype=torch.long),
        np.array(5),
        [[[5]]],
        [5, 6.0],
        [True],
        [-1],
        [10**30],
        "",
        None,
    ],
)
def test_ids_of_another_shape_are_refused(ids: Any) -> None:
    for call in (world.model().run, world.model().generate, lambda ids: world.model().record(ids, "mlp_out.1")):
        if ids == "":
            continue
        with pytest.raises(pc.InputError):
            call(ids)


def test_counts_and_seeds_outside_their_range_are_refused_before_any_work() -> None:
    m = world.model()
    for call in (
        lambda n: m.head_scores(samples=n), lambda n: m.causal_trace(IDS, [1], 7, samples=n), lambda n: m.attribution_patch(IDS, IDS, read=READ, integrate=n),
        lambda n: m.tune_lens(world.LABELLED, passes=n), lambda n: m.generate(IDS, max_new_tokens=n), lambda n: pc.Noise(1.0, seed=n),
        lambda n: m.generate(IDS, seed=n, do_sample=True), lambda n: pc.Subspace(n, 1), lambda n: m.record(IDS, "mlp_out.1", batch_tokens=n),
    ):  # fmt: skip
        for number in (10**30, -(10**30), 2.5, float("nan"), "3", True):
            with pytest.raises(pc.InputError):
                call(number)


def test_a_path_of_the_wrong_kind_is_refused_before_any_work(tmp_path: Path) -> None:
    m, file = world.model(), tmp_path / "file"
    file.write_text("mine")
    for call in (
        lambda: pc.save_edits(pc.Zero(site="mlp_out.1"), file), lambda: pc.load_edits(file), lambda: pc.open(file), lambda: pc.repeat(file),
        lambda: m.export(pc.Zero(site="mlp_out.1"), file), lambda: world.direction().save(file), lambda: m.run(IDS).save(file),
        lambda: m.sweep(IDS, pc.Zero(), sites="mlp_out.1", at=1, read=READ, checkpoint=file),
        lambda: pc.report(tmp_path, "title", [("a", "b")]), lambda: m.export_control_vector(pc.Add(vector(), site="resid_post.1"), tmp_path),
    ):  # fmt: skip
        with pytest.raises(pc.InputError):
            call()
    assert file.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [file]


def test_the_command_line_says_the_same_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(
        [
            "sweep",
            "stories15m",
            "Once",
            "--sites",
            "mlp_out",
            "--edit",
            "zero",
            "--probability",
            " upon",
            "--budget",
            "1.2.3GB",
        ]
    )
    said = re.sub(r"\s+", " ", capsys.readouterr().err)
    assert code == 2, said
    assert "Traceback" not in said


def test_a_warning_points_at_the_users_own_line() -> None:
    """However many of our own functions lie between."""
    with pytest.warns(UserWarning, match="rows") as told:
        world.model().fit_direction("mean", world.LABELLED, world.LABELS, "resid_post.1", at="last", holdout=0)
    assert {one.filename for one in told} == {__file__}

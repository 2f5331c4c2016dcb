"""The door of public functions: what is meant is accepted as what it is, and all else refused by name."""

import inspect
import math
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import patchclamp as pc
from patchclamp.core.arguments import Reading, checked, checked_as, is_checked
from patchclamp.core.kinds import Array, File, Folder, Labels, Numbers, Repeats, Seed
from patchclamp.core.stored import Stored
from tests.effort import examples


class Thing:
    """A class of ours."""


@checked
def door(
    count: int = 1,
    share: float = 0.5,
    on: bool = False,
    name: str = "x",
    rule: Literal["left", "right", 3] = "left",
    sizes: Sequence[float] = (),
    pairs: tuple[str, int] | None = None,
    by_name: Mapping[str, int] | None = None,
    thing: Optional["Thing"] = None,
    function: Callable[[int], int] | None = None,
    where: str | Path | None = None,
    bound: float = math.inf,
    vector: torch.Tensor | None = None,
    anything: Any = None,
) -> dict[str, Any]:
    """Every kind of annotation."""
    return dict(locals())


GOOD: dict[str, st.SearchStrategy[tuple[Any, Any]]] = {
    "count": st.integers(-(2**63), 2**63 - 1).flatmap(
        lambda n: st.sampled_from([(n, n), (np.int64(n), n), (torch.tensor(n), n), (np.array(n), n)])
    ),
    "share": st.floats(allow_nan=False, allow_infinity=False).flatmap(
        lambda x: st.sampled_from([(x, x), (np.float64(x), x), (torch.tensor(x, dtype=torch.float64), x)])
    ),
    "bound": st.sampled_from([(math.inf, math.inf), (-math.inf, -math.inf), (3, 3), (Fraction(1, 2), 0.5)]),
    "on": st.sampled_from([(True, True), (np.True_, True), (torch.tensor(False), False)]),
    "name": st.text().flatmap(lambda text: st.sampled_from([(text, text), (np.str_(text), text)])),
    "rule": st.sampled_from([("left", "left"), ("right", "right"), (3, 3), (np.int8(3), 3), (np.str_("left"), "left")]),
    "sizes": st.lists(st.floats(-9, 9)).flatmap(
        lambda xs: st.sampled_from([(xs, xs), (tuple(xs), tuple(xs)), (np.array(xs), xs), (iter(xs), xs)])
    ),
    "pairs": st.just((["a", np.int64(2)], ("a", 2))),
    "by_name": st.just(({"a": np.int64(2)}, {"a": 2})),
    "function": st.sampled_from([(len, len), (None, None)]),
    "where": st.sampled_from([("here", "here"), (Path("here"), Path("here")), (None, None)]),
}
"""For each parameter: what a user may pass, and what it is."""
ODD = [
    None, True, 0.5, -1, 10**30, math.nan, math.inf, "other", b"bytes", [], [None], [[1]], {}, {1: 2}, {1}, object(), int, len, ..., slice(1),
    np.array([1, 2]), np.array("a"), np.float32("nan"), torch.tensor(1.5), torch.ones(2, 2), torch.ones(2, device="meta"), torch.tensor(1, device="meta"),
    torch.ones(2, 2).to_sparse(), torch.ones(2, dtype=torch.complex64), 3 + 4j, iter([object()]), Thing, "\x00", "",
]  # fmt: skip
FITS: dict[str, Callable[[Any], bool]] = {
    "count": lambda v: isinstance(v, int) and not isinstance(v, bool) and abs(v) < 2**63,
    "share": lambda v: isinstance(v, int | float | torch.Tensor) and not isinstance(v, bool) and _one(v),
    "on": lambda v: isinstance(v, bool),
    "name": lambda v: isinstance(v, str),
    "rule": lambda v: False,
    "thing": lambda v: v is None,
    "function": lambda v: v is None or v is len,
    "where": lambda v: v is None or (isinstance(v, str) and v not in ("", "\x00")),
    "by_name": lambda v: v is None or (isinstance(v, dict) and not v),
    "pairs": lambda v: v is None,
}


def _one(value: Any) -> bool:
    return not (isinstance(value, torch.Tensor) and (value.ndim or value.is_meta)) and math.isfinite(value)


@given(data=st.data(), name=st.sampled_from(sorted(GOOD)))
@settings(max_examples=examples(60, 600), deadline=None)
def test_what_stands_for_a_plain_value_becomes_it(data: st.DataObject, name: str) -> None:
    value, meant = data.draw(GOOD[name])
    read = door(**{name: value})[name]
    assert read == meant
    assert type(read) is type(meant)


@pytest.mark.parametrize("name", sorted(FITS))
def test_all_else_is_refused_with_its_name_and_value(name: str) -> None:
    for value in ODD:
        if FITS[name](value):
            door(**{name: value})
            continue
        with pytest.raises(pc.InputError) as refusal:
            door(**{name: value})
        assert name in str(refusal.value)
        assert "\n" not in str(refusal.value)
        assert len(str(refusal.value)) < 400


def test_a_message_says_what_is_valid_and_what_is_near() -> None:
    for arguments, words in (
        ({"count": 2.0}, ["door", "count=2.0", "a whole number"]),
        ({"rule": "lefft"}, ["lefft", "did you mean 'left'", "right"]),
        ({"cuont": 2}, ["unknown argument of door", "cuont", "did you mean 'count'"]),
        ({"sizes": [1.0, "x"]}, ["entry 1", "'x'", "number"]),
        ({"where": 3}, ["where=3", "path", "None"]),
        ({"share": math.inf}, ["share=inf", "finite"]),
        ({"vector": torch.ones(2).to_sparse()}, ["vector", "to_dense"]),
        ({"vector": torch.ones(2, device="meta")}, ["vector", "meta"]),
    ):
        with pytest.raises(pc.InputError) as refusal:
            door(**arguments)
        assert all(word in str(refusal.value) for word in words), str(refusal.value)


def test_missing_and_extra_arguments_are_named() -> None:
    @checked
    def two(first: int, second: int, *, third: int = 0) -> int:
        return first + second + third

    assert two(1, second=2) == 3
    with pytest.raises(pc.InputError, match="two needs second"):
        two(1)
    with pytest.raises(pc.InputError, match="first, second by place, and 1 more"):
        two(1, 2, 3)
    with pytest.raises(pc.InputError, match="first twice"):
        two(1, first=1, second=2)


def test_a_class_is_read_at_its_constructor_and_keeps_its_signature() -> None:
    @checked_as(pc.EditError)
    class Made:
        def __init__(self, size: int, later: "Sequence[Later]" = ()) -> None:
            self.size, self.later = size, later

    class Later:
        """Defined where no annotation can see it, so that nothing is known of it."""

    assert list(inspect.signature(Made).parameters) == ["size", "later"]
    assert Made(np.int32(3)).size == 3
    assert Made(3, [Later()]).later  # type: ignore[list-item]
    with pytest.raises(pc.EditError, match="Made: size='3'"):
        Made("3")  # type: ignore[arg-type]


def test_a_gradient_is_never_lost_on_the_way_to_a_plain_number() -> None:
    """A tensor that requires gradients is no plain number: taking its value would cut it off in silence."""
    with pytest.raises(pc.InputError, match="share"):
        door(share=torch.tensor(1.0, requires_grad=True))
    scale = torch.tensor(2.0, requires_grad=True)
    assert pc.Add(torch.ones(3), scale).operation.scale is scale


@checked
def kinds(
    seed: Seed = 0, often: Repeats = 1, folder: Folder = "x", file: File = "x", labels: Labels = (), numbers: Numbers = 0, rows: Array = ((0.0,),)
) -> dict[str, Any]:  # fmt: skip
    """Every kind of value."""
    return dict(locals())


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("seed", [0, 2**32 - 1, np.uint32(7)], [-1, 2**32, 1.0, True, None, "1", 10**30]),
        ("often", [0, 100_000], [-1, 100_001, 10**30, 2.5]),
        ("labels", [[0, 1], ("a", "b"), np.array([1]), torch.ones(2), iter([1])], ["ab", 3, None, {0: 1}, {1}, int, np.array(3), [torch.ones(2, 2), 3]]),
        ("numbers", [3, 0.5, [1, 2], np.ones(2), torch.ones(2, requires_grad=True)], ["3", None, [None], [[1], []], 1j, {}, object(), torch.ones(2, device="meta")]),
        ("rows", [[[1.0]], np.ones((2, 2)), torch.ones(2, 2)], ["x", 3, None, [None], [["a"]], iter([1]), torch.ones(2, 2).to_sparse()]),
    ],
)  # fmt: skip
def test_each_kind_of_value_is_read_in_one_place(name: str, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        kinds(**{name: value})
    for value in bad:
        with pytest.raises(pc.InputError, match=name):
            kinds(**{name: value})


def test_a_folder_is_no_file_and_a_file_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    kinds(folder=tmp_path, file=tmp_path / "file")
    kinds(folder=tmp_path / "new", file=str(tmp_path / "new"))
    for arguments in (
        {"folder": tmp_path / "file"}, {"file": tmp_path}, {"folder": tmp_path / "file" / "inside"}, {"file": "x" * 5000}, {"folder": ""}, {"folder": "\x00"},
    ):  # fmt: skip
        with pytest.raises(pc.InputError, match=next(iter(arguments))):
            kinds(**arguments)


def test_annotations_that_only_type_checkers_import_are_known() -> None:
    reading = Reading.of(inspect.unwrap(pc.Model.projections), "projections", pc.InputError)
    assert reading.readers["direction"] is not None
    with pytest.raises(pc.InputError, match="direction"):
        reading.value("direction", 3)


def public() -> Iterator[tuple[str, Any]]:
    """Every public function, and every public class that users make objects of."""
    for name in pc.__all__:
        found = getattr(pc, name)
        if isinstance(found, types.ModuleType):
            yield from ((f"{name}.{inner}", getattr(found, inner)) for inner in getattr(found, "__all__", ()))
        else:
            yield name, found
    yield from ((f"Model.{name}", item) for name, item in inspect.getmembers(pc.Model, inspect.isfunction) if name[0] != "_")  # fmt: skip


MADE_FOR_USERS = {
    "Agreement", "Gate", "Model", "Plan", "Read", "TunedLens", "Direction", "polytopes.AffineMap", "polytopes.CodeDirection", "polytopes.Pieces",
    "rewriting.Covariance", "directions.Direction", "ActivationBatch", "dictionaries.Codes", "dictionaries.DictionaryFit", "dictionaries.Encoder",
}  # fmt: skip
"""Classes that functions make, or that are bases; estimators are read when they fit."""


def test_every_public_function_reads_its_arguments() -> None:
    unread = [
        name
        for name, item in public()
        if callable(item)
        and not is_checked(item)
        and not (inspect.isclass(item) and issubclass(item, pc.Result | Exception | tuple))
        and name not in MADE_FOR_USERS
        and not (name.startswith(("directions.", "dictionaries.")) and is_checked(getattr(item, "fit", None)))
        and (inspect.isclass(item) or inspect.signature(item).parameters)
        and not name.startswith("catalogue.")
    ]
    assert not unread, "each needs @checked of core/arguments.py"


def test_every_method_of_a_result_reads_its_arguments() -> None:
    for method in (pc.Run.top, pc.Grid.save, pc.Direction.erase, pc.TunedLens.train_on):
        assert is_checked(method)


def test_every_method_of_what_is_saved_reads_its_arguments() -> None:
    classes = (pc.TunedLens, pc.polytopes.NearestLinear, pc.rewriting.Covariance, Stored)
    methods = [(kind, name) for kind in classes for name in vars(kind) if name[0] != "_" and name != "forward"]
    unread = [
        f"{kind.__name__}.{name}"
        for kind, name in methods
        if inspect.isroutine(method := getattr(kind, name))
        and set(inspect.signature(method).parameters) - {"self"}
        and not is_checked(method)
    ]
    assert not unread
    assert len(methods) > 20


@pytest.mark.parametrize("opener", [pc.open, pc.load, pc.load_edits, pc.rewriting.Covariance.open])
@pytest.mark.parametrize("place", [5, None, "", "\0", b"x", "x" * 5000])
def test_openers_refuse_what_is_no_place(opener: Callable[[Any], Any], place: Any) -> None:
    with pytest.raises(pc.InputError):
        opener(place)


def test_a_read_has_a_name_that_a_file_can_keep() -> None:
    assert pc.Function(torch.sin, name="π $x$").name == "π $x$"
    with pytest.raises(pc.InputError, match="half a character"):
        pc.Function(torch.sin, name="\ud800")


def test_infinity_is_allowed_where_it_is_the_default() -> None:
    assert pc.Norm(above=-math.inf).below == math.inf
    with pytest.raises(pc.EditError, match="above"):
        pc.Norm(above=math.nan)


def test_an_annotation_with_another_mark_is_read_as_its_type() -> None:
    @checked
    def marked(size: Annotated[int, "in bytes"]) -> int:
        return size

    assert marked(np.int64(3)) == 3

"""Spline codes: packed equals dense, layers and places are slices, saving gives them back, bad input is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import patchclamp as pc
from patchclamp.polytopes import SplineCodes
from patchclamp.polytopes import codes as codes_module
from tests.effort import examples

SHAPES = {"first": (13,), "conv": (3, 4, 5), "last": (8,)}


def values(rows: int = 24, seed: int = 0) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.randn(rows, *shape, generator=draw) for name, shape in SHAPES.items()}


def made(rows: int = 24, seed: int = 0) -> SplineCodes:
    return SplineCodes.from_preactivations(values(rows, seed), [("odd" if i % 2 else "even") for i in range(rows)])


shapes = st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=3), min_size=1, max_size=4)


@settings(max_examples=examples(20, 60))
@given(shapes=shapes, rows=st.integers(1, 9), seed=st.integers(0, 10**6))
def test_packed_equals_dense(shapes: list[list[int]], rows: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    bits = {str(i): torch.rand(rows, *shape, generator=draw) > 0.5 for i, shape in enumerate(shapes)}
    codes = SplineCodes.from_bits(bits)
    for name, one in bits.items():
        assert torch.equal(codes.dense(name), one)
    whole = torch.cat([one.flatten(1) for one in bits.values()], dim=1)
    assert torch.equal(codes.dense(), whole)
    assert codes.bits == whole.shape[1]
    assert codes.packed.shape[1] == sum(-(-one[0].numel() // 8) for one in bits.values())
    assert torch.equal(codes.hamming(), (whole[:, None] ^ whole).sum(-1).int()), "filling bits count for nothing"
    for number, name in enumerate(bits):
        rest = torch.cat([one.flatten(1) for one in list(bits.values())[number:]], dim=1)
        assert torch.equal(codes.since(name).dense(), rest)
        assert torch.equal(codes.layer(name).dense(), bits[name].flatten(1))


def test_pathways_add_up() -> None:
    codes = made()
    total = sum(codes.layer(layer.name).hamming() for layer in codes.layers)
    assert torch.equal(codes.hamming(), total)
    assert torch.equal(codes.hamming() - codes.since("conv").hamming(), codes.layer("first").hamming())


def test_a_place_of_a_convolution() -> None:
    codes, dense = made().layer("conv"), values()["conv"] > 0
    place = codes.at(2, 4)
    assert torch.equal(place.dense(), dense[:, :, 2, 4])
    assert place.layers[0].name == "conv[2,4]"
    assert list(place.labels()) == list(codes.labels())
    summed = sum(codes.at(h, w).hamming() for h in range(4) for w in range(5))
    assert torch.equal(summed, codes.hamming())


def test_neighbours_of_codes() -> None:
    base, queries = made(), made(7, seed=3)
    want = (queries.dense()[:, None] ^ base.dense()).sum(-1)
    found = base.knn(queries, 4)
    assert torch.equal(found.distance, want.sort(dim=1).values[:, :4])
    assert torch.equal(base.hamming(queries), want.T.int())
    inside = base.jaccard()
    assert torch.equal(base.knn(k=1, metric="jaccard").distance[:, 0], (inside + torch.eye(24)).amin(1))
    assert torch.equal(base.jaccard(queries), queries.jaccard(base).T)
    near = base.knn(queries, 3, "jaccard").distance
    assert torch.equal(near, queries.jaccard(base).sort(dim=1).values[:, :3])


def test_a_row_is_not_its_own_neighbour_among_equals() -> None:
    bits = torch.ones(6, 9, dtype=torch.bool)
    found = SplineCodes.from_bits({"a": bits}).knn(k=2)
    assert found.index.tolist() == [[1, 2], [0, 2], [0, 1], [0, 1], [0, 1], [0, 1]], "the first others"
    for row, (index, distance) in enumerate(zip(found.index.tolist(), found.distance.tolist(), strict=True)):
        assert row not in index
        assert len(set(index)) == 2
        assert distance == [0, 0]


def test_distinct_codes() -> None:
    bits = torch.tensor([[1, 0, 1], [0, 0, 1], [1, 0, 1], [1, 1, 1], [0, 0, 1], [1, 0, 1]]).bool()
    found = SplineCodes.from_bits({"a": bits}).unique()
    assert found.rows.tolist() == [0, 1, 3]
    assert found.counts.tolist() == [3, 2, 1]
    assert found.inverse.tolist() == [0, 1, 0, 2, 1, 0]


def test_a_table_of_layers_and_one_of_rows_by_hand() -> None:
    """Four rows of two layers, labelled by class and by half."""
    first = torch.tensor([[1, 0, 1], [0, 0, 1], [1, 0, 1], [1, 1, 1]]).bool()
    last = torch.tensor([[0], [0], [1], [1]]).bool()
    codes = SplineCodes.from_bits({"first": first, "last": last}, {"class": list("abab"), "half": [0, 0, 1, 1]})
    table = codes.separation().set_index("layer")
    assert table["set"].to_dict() == {"first": 8 / 12, "last": 2 / 4}
    assert table["distinct"].to_dict() == {"first": 3, "last": 2}
    assert table["bits"].to_dict() == {"first": 3, "last": 1}
    # rows 0, 2 and 1, 3 are of one class: 0 and 2 of 3 bits differ; the four other pairs differ in 1, 1, 1 and 1
    assert table["within"].to_dict() == pytest.approx({"first": (0 + 2) / 2 / 3, "last": 1})
    assert table["between"].to_dict() == pytest.approx({"first": 4 / 4 / 3, "last": 2 / 4})
    halves = codes.separation("half").set_index("layer")
    assert halves["within"]["last"] == 0
    assert halves["between"]["last"] == 1
    rows = codes.frame()
    assert rows["set in first"].tolist() == [2, 1, 2, 3]
    assert rows["set in last"].tolist() == [0, 0, 1, 1]
    assert rows["distinct code"].tolist() == [0, 1, 2, 3]
    assert rows["half"].tolist() == codes.labels("half").tolist() == [0, 0, 1, 1]
    assert codes.labels().tolist() == list("abab"), "the first without a name"
    assert "within" not in SplineCodes.from_bits({"first": first}).separation()
    assert repr(codes) == "SplineCodes of 4 rows, 4 bits, 4 distinct: first 3, last 1"


def test_of_many_rows_evenly_spaced_ones_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of nine rows the first, the middle and the last, which are equal; all others differ from them."""
    bits = torch.zeros(9, 4, dtype=torch.bool)
    bits[[1, 2, 3, 5, 6, 7]] = True
    codes = SplineCodes.from_bits({"a": bits}, [0] * 9)
    assert codes.separation()["within"][0] == pytest.approx(18 / 36)
    monkeypatch.setattr(codes_module, "COMPARED_ROWS", 3)
    assert codes.separation()["within"][0] == 0
    assert codes.separation()["set"][0] == 24 / 36, "of all rows"
    assert np.isnan(codes.separation()["between"][0]), "there is one label"


def test_chosen_rows() -> None:
    codes = made()
    odd = codes.rows(np.array(codes.labels()) == "odd")
    assert torch.equal(odd.dense(), codes.dense()[1::2])
    assert set(odd.labels()) == {"odd"}
    assert odd != codes


def test_separation_tells_labels_apart_where_there_is_something() -> None:
    labels = np.arange(40) % 2
    draw = torch.Generator().manual_seed(0)
    told = torch.randn(40, 30, generator=draw) + 3 * torch.from_numpy(labels)[:, None] * torch.ones(30)
    table = SplineCodes.from_preactivations(
        {"told": told, "noise": torch.randn(40, 300, generator=draw)}, labels
    ).separation()
    told_row, noise_row = table.to_dict("records")
    assert told_row["between"] > told_row["within"] + 0.2
    assert abs(noise_row["between"] - noise_row["within"]) < 0.03
    apart = (told.gt(0)[:, None] ^ told.gt(0)).float().mean(-1)
    same = torch.from_numpy(labels[:, None] == labels)
    assert told_row["between"] == pytest.approx(float(apart[~same].mean()), rel=1e-6)
    assert told_row["within"] == pytest.approx(float(apart[same & ~torch.eye(40).bool()].mean()), rel=1e-6)


@pytest.mark.parametrize(
    "part",
    [
        pytest.param("whole", marks=pytest.mark.slow),
        "layer",
        pytest.param("since", marks=pytest.mark.slow),
        "place",
        "rows",
    ],
)
def test_saving_gives_an_equal_object_back(part: str, tmp_path: Path) -> None:
    codes = made()
    chosen = {
        "whole": codes,
        "layer": codes.layer("conv"),
        "since": codes.since("conv"),
        "place": codes.layer("conv").at(0, 1),
        "rows": codes.rows([3, 5, 8]),
    }[part]
    chosen.save(tmp_path)
    opened = pc.open(tmp_path)
    assert opened == chosen
    assert isinstance(opened, SplineCodes)
    assert torch.equal(opened.dense(), chosen.dense())
    with pytest.raises(pc.InputError, match="cannot be repeated"):
        pc.repeat(tmp_path)


def test_bad_input_is_refused() -> None:
    good = torch.zeros(3, 4)
    for values, said in (
        ({}, "at least one layer"),
        ({"a": good, "b": torch.zeros(2, 4)}, "different numbers of rows: {'a': 3, 'b': 2}"),
        ({"a": torch.zeros(3)}, r"'a' must be \[row, \*shape\]"),
        ({"a": torch.zeros(0, 4)}, "must be"),
        ({"a": good.index_fill(0, torch.tensor([1]), torch.nan)}, "'a' hold NaN"),
    ):
        with pytest.raises(pc.InputError, match=said):
            SplineCodes.from_preactivations(values)
    with pytest.raises(pc.InputError, match="must be booleans; got torch.float32"):
        SplineCodes.from_bits({"a": good})
    with pytest.raises(pc.InputError, match="one label for each of 3 rows"):
        SplineCodes.from_preactivations({"a": good}, [1, 2])
    with pytest.raises(pc.InputError, match="cannot be called 'code'"):
        SplineCodes.from_preactivations({"a": good}, {"code": [1, 2, 3]})


def test_questions_without_an_answer_are_refused() -> None:
    codes = made()
    with pytest.raises(pc.InputError, match="unknown layer 'firts'; did you mean 'first'"):
        codes.layer("firts")
    with pytest.raises(pc.InputError, match="choose a layer first"):
        codes.at(0, 0)
    with pytest.raises(pc.InputError, match="no channels, height and width"):
        codes.layer("first").at(0, 0)
    for place in ((4, 0), (0, 5), (-1, 0), (0, -1)):
        with pytest.raises(pc.InputError, match=rf"place \({place[0]}, {place[1]}\) is outside"):
            codes.layer("conv").at(*place)
    with pytest.raises(pc.InputError, match="cannot be compared"):
        codes.hamming(codes.layer("first"))
    with pytest.raises(pc.InputError, match="each of 24 codes has 23 others"):
        codes.knn(k=24)
    with pytest.raises(pc.InputError, match="unknown labels 'digit'"):
        codes.labels("digit")
    with pytest.raises(pc.InputError, match="have no labels"):
        SplineCodes.from_preactivations(values()).labels()


def test_one_label_for_all_rows_is_refused() -> None:
    with pytest.raises(pc.InputError, match="valid: labels, one a row"):
        SplineCodes.from_bits({"a": torch.ones(2, 3, dtype=torch.bool)}, labels={"kind": 5})


@pytest.mark.parametrize("chosen", [[], [24], [0.5], [True], [False] * 24])
def test_rows_that_there_are_not_are_refused(chosen: list[object]) -> None:
    with pytest.raises(pc.InputError, match="chosen"):
        made(24).rows(chosen)
    assert len(made(24).rows([-1, 3])) == 2

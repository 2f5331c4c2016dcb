"""Packing: two short rows in one row of a call, kept apart by the mask."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import patchclamp as pc
from patchclamp.interventions import packing, wavefront
from patchclamp.interventions.packing import Layout, Packer, lay_out, pack, unpack
from tests import tiny

READ = pc.Logits()
LENGTH = 7
PROMPTS = [*tiny.ids(1, LENGTH), *tiny.ids(1, LENGTH, seed=4)]


def counts() -> st.SearchStrategy[tuple[int, dict[int, list[int]]]]:
    def rows(length: int) -> st.SearchStrategy[tuple[int, dict[int, list[int]]]]:
        lines = st.lists(st.integers(0, 1), min_size=1, max_size=5)
        return st.tuples(st.just(length), st.dictionaries(st.integers(0, length - 1), lines))

    return st.integers(2, 9).flatmap(rows)


@given(counts(), st.sampled_from([1.0, 1.1, float("inf")]))
def test_every_row_lies_in_one_place_behind_no_other(drawn: tuple[int, dict[int, list[int]]], waste: float) -> None:
    length, rows = drawn
    layout = lay_out(length, rows, waste)
    taken = torch.zeros(len(layout.kinds), length)
    for place in layout.places:
        taken[place.packed, place.column : place.column + length - place.start] += 1
        assert layout.lines[place.packed] == tuple(rows[place.start][place.rows]), "a row reads its own line's keys"
        assert place.column in (0, place.start)
    assert not taken.numel() or taken.max() <= 1
    for start in layout.starts:
        held = sorted(i for p in layout.places if p.start == start for i in range(p.rows.start, p.rows.stop))
        assert held == list(range(len(rows[start]))), "all rows of a start position, once"
    if waste < float("inf"):
        assert taken.numel() <= waste * float(taken.sum()) + 1e-6
    hidden = {start: torch.randn(len(own), length - start, 3) for start, own in rows.items() if start in layout.starts}
    if hidden:
        back = unpack(layout, pack(layout, hidden, length), length)
        assert all(torch.equal(back[start], hidden[start]) for start in hidden)


def test_equal_groups_are_packed_without_a_hole() -> None:
    layout = lay_out(5, {start: [0] * 4 for start in range(5)})
    assert layout.starts == {0, 1, 2, 3, 4}
    assert len(layout.kinds) == 12
    assert lay_out(6, {3: [0] * 4}).kinds == (3, 3)
    assert lay_out(5, {1: [0] * 4, 4: [0] * 3}).kinds == (1,) * 4, "one row has room left"
    assert lay_out(5, {1: [0] * 4}).kinds == (), "a fifth of it would be room"
    assert lay_out(5, {2: [0] * 9, 3: [0]}).kinds == ()
    assert lay_out(5, {1: [0, 1], 4: [1, 0]}).kinds == (), "rows of different lines cannot share keys"


def calls_of_a_layer(module: torch.nn.Module) -> list[torch.Size]:
    seen: list[torch.Size] = []
    layer = module.model.layers[1]
    original = layer.forward
    layer.forward = lambda x, *a, **k: (seen.append(x.shape), original(x, *a, **k))[1]
    return seen


@pytest.fixture(scope="module")
def counted() -> tuple[pc.Model, list[torch.Size]]:
    """A model and the shapes that its second layer has been called with."""
    module = tiny.build("llama")
    model = pc.wrap(module)
    assert model.ladder.packs
    return model, calls_of_a_layer(module)


ADD, PATCH = pc.Add(torch.randn(32, generator=torch.Generator().manual_seed(1))), pc.Patch(tiny.ids(1, LENGTH, seed=8))


@pytest.mark.parametrize(
    ("edit", "sites"),
    [
        (ADD, ["mlp_out", "attn_out"]),
        (PATCH, "resid_post"),
        (pc.Scale(3.0), "z.*.h1"),
        pytest.param(PATCH, ["mlp_out", "attn_out"], marks=pytest.mark.slow),
        pytest.param(ADD, "resid_post", marks=pytest.mark.slow),
        pytest.param(PATCH, "z.*.h1", marks=pytest.mark.slow),
    ],
)
def test_packed_rows_give_what_they_give_alone(
    counted: tuple[pc.Model, list[torch.Size]], edit: pc.Edit, sites: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, seen = counted
    seen.clear()
    base = [pc.Scale(1.5, site="mlp_out.1", at=slice(2, 5))]
    options = {"sites": sites, "at": "each", "read": [READ, pc.KL(at="all")], "base": base}
    packed = model.sweep(PROMPTS, edit, **options)
    together = len(seen)
    assert (len({shape[1] for shape in seen})) == 1, "every call has whole rows"
    seen.clear()
    monkeypatch.setattr(model.capabilities, "ladder", dataclasses.replace(model.ladder, packs=False))
    alone = model.sweep(PROMPTS, edit, **options)
    assert together < len(seen), "fewer calls"
    slow = model.sweep(PROMPTS, edit, **options, strategy="cell")
    for other in (alone, slow):
        for name in ("logits", "kl"):
            found, wanted = (torch.from_numpy(grid.data[name].values) for grid in (packed, other))
            assert torch.allclose(found, wanted, rtol=0, atol=1e-12, equal_nan=True)


def test_a_mask_that_lets_rows_see_each_other_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Packer._widened

    def leaky(self: Packer, mask: torch.Tensor, start: int) -> torch.Tensor:
        wide = original(self, mask, start)
        wide[..., self.length :] = True
        return wide

    monkeypatch.setattr(Packer, "_widened", leaky)
    model = pc.wrap(tiny.build("llama"))
    assert model.ladder == dataclasses.replace(model.ladder, strategy="wavefront", packs=False)


def test_an_argument_that_is_not_understood_is_not_packed() -> None:
    assert not pc.wrap(tiny.shared("bloom")).ladder.packs, "alibi biases have the keys' own shape"
    assert pc.wrap(tiny.shared("bloom")).ladder.strategy == "wavefront"
    assert pc.wrap(tiny.shared("mistral")).ladder.packs, "a sliding window is a mask"
    assert not pc.wrap(tiny.shared("gemma2")).ladder.packs, "its softmax in float32 depends on the number of keys"
    assert pc.wrap(tiny.shared("gemma2", torch.float32)).ladder.packs, "which float32 does not promise"


def test_large_groups_are_left_alone(llama: pc.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    laid: list[Layout] = []
    original = packing.layout_at
    monkeypatch.setattr(wavefront, "layout_at", lambda *a: laid.append(original(*a)) or laid[-1])
    monkeypatch.setattr(packing, "ENOUGH", 1)
    llama.sweep(PROMPTS, pc.Scale(2.0), sites="mlp_out", at="each", read=READ)
    assert laid
    assert not any(layout.places for layout in laid)

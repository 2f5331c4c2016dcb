"""The network of nearest points: against brute force, dense sampling and its own low-rank form."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import patchclamp as pc
from patchclamp.polytopes import NearestLinear
from patchclamp.polytopes.voronoi import crossings, nearest
from tests.effort import examples
from tests.old import undigested


def made(d_in: int = 5, d_out: int = 3, regions: int = 7, rank: int | None = None, seed: int = 0) -> NearestLinear:
    """A network in float64 whose maps all differ."""
    network = NearestLinear(d_in, d_out, regions, rank, seed=seed).double()
    draw = torch.Generator().manual_seed(seed + 100)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw, dtype=parameter.dtype))
    return network.eval()


def rows(count: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(count, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def brute(network: NearestLinear, x: Tensor) -> tuple[Tensor, Tensor]:
    """Region and output, a row at a time."""
    maps, bias = network.maps()
    found = [int(((row - network.points) ** 2).sum(1).argmin()) for row in x]
    return torch.tensor(found), torch.stack([maps[k] @ row + bias[k] for k, row in zip(found, x, strict=True)])


@pytest.mark.parametrize("rank", [None, 0, 2])
def test_evaluation_is_the_map_of_the_nearest_point(rank: int | None) -> None:
    network, x = made(rank=rank), rows(200, 5)
    region, out = brute(network, x)
    assert len(region.unique()) == 7, "every region is tried"
    assert torch.equal(network.region(x), region)
    torch.testing.assert_close(network(x), out, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rank", [None, 0, 2])
def test_training_with_one_neighbour_or_no_temperature_is_evaluation(rank: int | None) -> None:
    network, x = made(rank=rank), rows(50, 5)
    hard = network(x)
    network.train()
    mixed = network(x)
    assert not torch.allclose(mixed, hard, atol=1e-2), "the choice is soft by default"
    network.neighbours = 1
    torch.testing.assert_close(network(x), hard)
    network.neighbours, network.temperature = 4, 1e-9
    torch.testing.assert_close(network(x), hard)


def test_the_mixture_is_the_softmax_of_the_nearest_squared_distances() -> None:
    network, x = made(), rows(20, 5)
    network.place(x, network.points.detach().clone())
    distances = torch.cdist(x, network.points) ** 2
    assert network.spread == pytest.approx(distances.min(1).values.mean().item())
    kept = distances.argsort(1)[:, :4]
    share = (-distances.gather(1, kept) / (network.temperature * network.spread)).softmax(1)
    maps, bias = network.maps()
    every = torch.einsum("koi,ri->rko", maps, x) + bias
    wanted = (share[:, :, None] * torch.stack([every[i, kept[i]] for i in range(20)])).sum(1)
    torch.testing.assert_close(network.train()(x), wanted)


def test_first_weights_hang_on_the_seed_and_sizes_are_counted() -> None:
    for rank, numbers in ((None, 7 * 5 + 7 * 3 + 7 * 15), (2, 7 * 5 + 7 * 3 + 15 + 7 * 3 * 2 + 7 * 2 * 5)):
        first, again, other = (NearestLinear(5, 3, 7, rank, seed=seed) for seed in (0, 0, 1))
        assert first.parameter_count == numbers, "points among them, though they do not learn"
        for name, value in first.named_parameters():
            assert torch.equal(value, again.get_parameter(name))
            if name not in ("bias", "up"):
                assert not torch.equal(value, other.get_parameter(name)), name
    assert NearestLinear(5, 3, 3).neighbours == 3, "no more than there are"
    assert NearestLinear(5, 3, 9).neighbours == 4
    assert "7 regions, one shared map and rank 2 each" in repr(first)
    assert "7 regions, full maps" in repr(NearestLinear(5, 3, 7))


def test_the_nearest_of_each_row_and_how_far_it_is_squared() -> None:
    points = torch.tensor([[0.0, 0], [3, 4]])
    index, squared = nearest(points, torch.tensor([[0.0, 1], [3, 2], [1.5, 1.9]]))
    assert index.tolist() == [0, 1, 0]
    assert squared.tolist() == pytest.approx([1, 4, 1.5**2 + 1.9**2])
    network = NearestLinear(2, 1, 2).place(torch.tensor([[0.0, 1], [3, 2]]), points)
    assert float(network.spread) == 2.5


def test_points_that_are_the_rows_themselves_make_a_hard_choice_that_stays_finite() -> None:
    x, y = board(8, 0)
    network = NearestLinear(2, 2, 8).place(x, "rows")
    assert 0 < float(network.spread) < 1e-5
    torch.testing.assert_close(network.train()(x), network.eval()(x))
    assert network.fit(x, y, epochs=2)[-1] > 0
    assert float(NearestLinear(2, 2, 1).place(x[:1], "rows").spread) > 0


@pytest.mark.sensitive
def test_data_far_from_the_origin_have_the_same_regions() -> None:
    network, x = made(regions=20), rows(200, 5)
    before = network.region(x)
    network.points.data += 1000
    assert (network.float().region((x + 1000).float()) == before).float().mean() > 0.99


def test_before_training_it_is_one_linear_map() -> None:
    x = rows(30, 5).float()
    one = NearestLinear(5, 3, 1).eval()
    for rank in (None, 2):
        several = NearestLinear(5, 3, 7, rank).eval()
        maps, bias = one.maps()
        torch.testing.assert_close(several(x), x @ maps[0].T + bias[0])


@settings(max_examples=examples(20, 60))
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 40))
def test_pieces_of_a_line_are_those_of_dense_sampling(seed: int, d: int, regions: int) -> None:
    network = made(d, 2, regions, seed=seed)
    start, end = 2 * rows(2, d, seed + 1)
    found = network.segment(start, end)
    assert len(found) == len(found.t) + 1
    assert len(set(found.region.tolist())) == len(found), "a convex region is entered once"
    assert (found.t.diff() >= 0).all()
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    line = start + t[:, None] * (end - start)
    squared = torch.cdist(line, network.points, compute_mode="donot_use_mm_for_euclid_dist") ** 2
    own = squared[range(len(t)), found.region[torch.searchsorted(found.t, t)]]
    assert (own - squared.min(1).values).max() <= 1e-9, "nowhere is another point nearer"
    for when, (before, after) in zip(found.t, pairwise(found.region), strict=True):
        at = start + when * (end - start)
        both = [float((at - network.points[k]).square().sum()) for k in (before, after)]
        assert both[0] == pytest.approx(both[1], rel=1e-9, abs=1e-9), "a crossing lies on the face of its two regions"


def test_a_line_through_a_vertex_skips_what_it_only_touches() -> None:
    network = made(2, 1, 4)
    with torch.no_grad():
        network.points.copy_(torch.tensor([[-1.0, -1], [1, -1], [-1, 1], [1, 1]]))
    diagonal = network.segment(torch.tensor([-2.0, -2]).double(), torch.tensor([2.0, 2]).double())
    assert diagonal.region.tolist() == [0, 3]
    assert diagonal.t.tolist() == [0.5]
    edge = network.segment(torch.tensor([-2.0, -1]).double(), torch.tensor([2.0, -1]).double())
    assert edge.region.tolist() == [0, 1]
    assert network.segment(torch.tensor([-2.0, -1]).double(), torch.tensor([-3.0, -1]).double()).region.tolist() == [0]


def test_many_lines_at_once_are_the_lines_one_by_one() -> None:
    network = made(3, 1, 30)
    starts, ends = 3 * rows(20, 3, 1), 3 * rows(20, 3, 2)
    t, region = crossings(network.points.detach(), starts, ends)
    for line in range(20):
        alone = network.segment(starts[line], ends[line])
        torch.testing.assert_close(t[line][t[line].isfinite()], alone.t, rtol=1e-12, atol=1e-12)
        assert torch.equal(region[line][: len(alone)], alone.region)
        assert (region[line][len(alone) :] == alone.region[-1]).all()


def test_jumps_are_those_of_the_output_on_both_sides_of_a_face() -> None:
    network, x = made(regions=12), rows(100, 5)
    found = network.face_jumps(x, most=100)
    region = network.region(x)
    start, end = (region[:, None] != region[None]).nonzero(as_tuple=True)
    shared = {
        pair for line in crossings(network.points.detach(), x[start], x[end])[1] for pair in pairwise(line.tolist())
    }
    pairs = set(zip(found["region"], found["neighbour"], strict=True))
    assert pairs <= shared | {(b, a) for a, b in shared}, "only regions that have a face in common"
    maps = network.maps()[0].detach()
    for row in found.head(20).itertuples():
        a, b = maps[row.region], maps[row.neighbour]
        assert row.map_distance == pytest.approx(float(2 * (a - b).norm() / (a.norm() + b.norm())))
    assert network.face_jumps(x, most=100).equals(found)
    some = [network.face_jumps(x, most=4, seed=seed) for seed in (0, 0, 1)]
    assert some[0].equals(some[1])
    assert not some[0].equals(some[2]), "other rows to start from"
    assert 4 <= len(some[0]) < len(found) / 2


def test_a_jump_on_a_line_between_two_points_is_found_by_hand() -> None:
    network = made(1, 1, 2, rank=None)
    with torch.no_grad():
        network.points.copy_(torch.tensor([[0.0], [2.0]]))
        network.weight.copy_(torch.tensor([[[1.0]], [[3.0]]]))
        network.bias.zero_()
    found = network.face_jumps(torch.tensor([[0.5], [1.75]], dtype=torch.float64))
    assert found["jump"].tolist() == pytest.approx([1.0, 1.0]), "from 1 to 3 at x = 1, over the mean 2"
    assert found["map_distance"].tolist() == pytest.approx([1.0, 1.0])
    network.bias.data.copy_(torch.tensor([[0.0], [-2.0]]))
    assert network.face_jumps(torch.tensor([[0.5], [1.75]]).double())["jump"].tolist() == pytest.approx([0, 0])


def test_full_rank_is_the_full_map_and_a_lower_one_the_best_approximation() -> None:
    network, x = made(), rows(60, 5)
    network.place(x, "rows")
    network.temperature, network.neighbours = 0.7, 2
    torch.testing.assert_close(network.low_rank(3)(x), network(x))
    copied = network.train().low_rank(3)
    assert copied.training
    torch.testing.assert_close(copied(x), network(x), msg="spread, temperature and neighbours too")
    assert not network.eval().low_rank(3).training
    maps, cut = network.maps()[0], network.low_rank(1).maps()[0]
    assert not torch.allclose(maps, cut)
    centred = maps - maps.mean(0)
    left = torch.linalg.svdvals(centred)[:, 1:].square().sum(1).sqrt()
    torch.testing.assert_close((maps - cut).flatten(1).norm(dim=1), left)


def board(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Points of a checkerboard of two classes, which no linear map tells apart."""
    x = 4 * torch.rand(count, 2, generator=torch.Generator().manual_seed(seed)) - 2
    return x, (x.floor().sum(1) % 2).long()


@pytest.mark.sensitive
@pytest.mark.parametrize(
    ("rank", "learn"),
    [(None, False), pytest.param(1, False, marks=pytest.mark.slow), pytest.param(None, True, marks=pytest.mark.slow)],
)
def test_training_beats_one_linear_map_and_learns_nothing_from_random_labels(rank: int | None, learn: bool) -> None:
    (x, y), (held, truth) = board(1500, 0), board(1000, 1)

    def accuracy(network: NearestLinear, labels: Tensor) -> float:
        network.place(x)
        losses = network.fit(x, labels, epochs=6, rate=0.05)
        assert losses[-1] < losses[0]
        return float((network.eval()(held).argmax(1) == truth).float().mean())

    shuffled = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(2))]
    assert accuracy(NearestLinear(2, 2, 1), y) < 0.65
    assert accuracy(NearestLinear(2, 2, 64, rank, learn_points=learn), y) > 0.75
    assert 0.4 < accuracy(NearestLinear(2, 2, 64, rank, learn_points=learn), shuffled) < 0.6


@pytest.mark.parametrize("of", ["labels", "numbers"])
def test_training_is_adam_on_batches_in_orders_drawn_from_the_seed(of: str) -> None:
    """By a loop of its own on a copy: the same weights and mean losses, to the rounding of the same sums."""
    x = rows(25, 3)
    y = torch.arange(25) % 2 if of == "labels" else rows(25, 2, 1)
    loss_of = nn.functional.cross_entropy if of == "labels" else lambda out, target: (out - target).square().mean()
    network, copy = (NearestLinear(3, 2, 4, learn_points=True, seed=5).double().place(x, "rows") for _ in range(2))
    found = network.eval().fit(x, y, epochs=3, batch=10, rate=0.03, seed=7)
    optimizer = torch.optim.Adam(copy.train().parameters(), lr=0.03)
    draw, wanted = torch.Generator().manual_seed(7), []
    for _ in range(3):
        order, total = torch.randperm(25, generator=draw), 0.0
        for begin in (0, 10, 20):
            some = order[begin : begin + 10]
            loss = loss_of(copy(x[some]), y[some])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(some)
        wanted.append(total / 25)
    assert found == pytest.approx(wanted, rel=1e-9)
    torch.testing.assert_close(network.state_dict(), copy.state_dict(), rtol=1e-9, atol=1e-9)
    assert not network.training


def test_points_move_only_when_they_may() -> None:
    x, y = board(300, 0)
    for learn in (False, True):
        network = NearestLinear(2, 2, 8, learn_points=learn).place(x)
        before = network.points.detach().clone()
        network.fit(x, y, epochs=1)
        assert torch.equal(network.points, before) is not learn


def test_training_hangs_on_the_seed_alone_and_leaves_the_mode_and_the_generator() -> None:
    x, y = board(300, 0)
    state = torch.get_rng_state()
    first, second, third = (NearestLinear(2, 2, 8).place(x).eval() for _ in range(3))
    losses = [network.fit(x, y, seed=seed) for network, seed in ((first, 1), (second, 1), (third, 2))]
    assert torch.equal(torch.get_rng_state(), state)
    assert not first.training
    assert losses[0] == losses[1] != losses[2]
    torch.testing.assert_close(first.state_dict(), second.state_dict(), rtol=0, atol=0)


@pytest.mark.sensitive
def test_squared_error_fits_numbers() -> None:
    x = rows(200, 3).float()
    y = x.abs()
    network = NearestLinear(3, 3, 16).place(x)
    losses = network.fit(x, y, epochs=30, rate=0.05)
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.sensitive
@pytest.mark.parametrize(("how", "are_rows"), [("kmeans", False), ("rows", True)])
def test_points_lie_where_the_data_are(how: str, are_rows: bool) -> None:
    centres = 20 * rows(6, 3, 5).float()
    x = (centres[:, None] + rows(60, 3).float().view(6, 10, 3)).flatten(0, 1)
    network = NearestLinear(3, 1, 6).place(x, how)
    same = (network.points[:, None] == x[None]).all(2).any(1)
    assert bool(same.all()) is are_rows
    assert len(network.points.unique(dim=0)) == 6
    if how == "kmeans":
        assert network.spread < 4, "one centre a cluster"
    again = NearestLinear(3, 1, 6).place(x, how)
    assert torch.equal(network.points, again.points)
    noise = rows(90, 3).float()
    several = [NearestLinear(3, 1, 20).place(noise, how, seed=seed).points for seed in (0, 0, 1)]
    assert torch.equal(several[0], several[1])
    assert not torch.equal(several[0].sort(0).values, several[2].sort(0).values), "other places from another seed"
    twice = torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]]).repeat(9, 1)
    found = NearestLinear(3, 1, 3).place(twice, how).points
    assert sorted(found[:, 0].tolist()) == pytest.approx([0, 1, 2]), "rows that are equal count once"


@pytest.mark.parametrize("rank", [None, 2])
def test_saved_and_opened(tmp_path: Path, rank: int | None) -> None:
    network, x = made(rank=rank), rows(30, 5)
    network.points.requires_grad_(rank is None)
    network.place(x, "rows")
    network.temperature, network.neighbours = 0.7, 2
    network.save_pretrained(tmp_path)
    again = NearestLinear.from_pretrained(tmp_path)
    assert not again.training
    assert again.points.requires_grad is (rank is None)
    assert torch.equal(again(x), network(x))
    assert torch.equal(again.train()(x), network.train()(x)), "spread, temperature and neighbours too"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_a_damaged_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(pc.InputError, match=r"holds no config\.json"):
        NearestLinear.from_pretrained(tmp_path)
    undigested(made().save_pretrained(tmp_path), "config.json")
    weights = load_file(tmp_path / "model.safetensors")
    save_file({**weights, "bias": weights["bias"][:2].clone()}, tmp_path / "model.safetensors")
    with pytest.raises(pc.InputError, match="damaged"):
        NearestLinear.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(pc.InputError, match="damaged"):
        NearestLinear.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"kind": "tuned_lens", "format_version": 1}')
    with pytest.raises(pc.InputError, match="no NearestLinear"):
        NearestLinear.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"kind": "nearest_linear", "format_version": 2}')
    with pytest.raises(pc.InputError, match="format version 2"):
        NearestLinear.from_pretrained(tmp_path)
    broken = made()
    broken.bias.data[0, 0] = np.nan
    with pytest.raises(pc.ModelError, match="bias holds NaN"):
        broken.save_pretrained(tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"d_in": 0}, "d_in is at least 1; got 0"),
        ({"regions": 0}, "regions is at least 1"),
        ({"rank": 4}, r"0\.\.3, .* got 4"),
        ({"rank": -1}, "got -1"),
        ({"neighbours": 0}, "neighbours is at least 1"),
        ({"temperature": 0.0}, "positive"),
        ({"temperature": float("nan")}, "a finite number"),
    ],
)
def test_sizes_without_sense_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(pc.InputError, match=message):
        NearestLinear(**{"d_in": 5, "d_out": 3, "regions": 4, **arguments})  # type: ignore[arg-type]


def test_bad_rows_and_targets_are_refused_before_any_work() -> None:
    network, x = made(), rows(10, 5)
    bad = x.clone()
    bad[3, 0] = np.nan
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(pc.InputError, match=r"\[row, 5\]"):
        network(x[:, :4])
    with pytest.raises(pc.InputError, match="row 3 is not"):
        network.place(bad)
    with pytest.raises(pc.InputError, match="float64"):
        network(x.float())
    with pytest.raises(pc.InputError, match="7 points need as many different rows; the data have 1"):
        network.place(x[:1].repeat(20, 1))
    with pytest.raises(pc.InputError, match="did you mean 'kmeans'"):
        network.place(x, "k-means")  # type: ignore[arg-type]
    with pytest.raises(pc.InputError, match="7 regions need as many points; got 10"):
        network.place(x, x)
    with pytest.raises(pc.InputError, match="as many targets; got 9"):
        network.fit(x, torch.zeros(9, dtype=torch.long))
    with pytest.raises(pc.InputError, match=r"0\.\.2, .* got 0\.\.3"):
        network.fit(x, torch.arange(10) % 4)
    with pytest.raises(pc.InputError, match="integer labels"):
        network.fit(x, x)
    with pytest.raises(pc.InputError, match="NaN"):
        network.fit(x, bad[:, :3])
    with pytest.raises(pc.InputError, match="at least 1"):
        network.fit(x, x[:, :3], epochs=0)
    with pytest.raises(pc.InputError, match="different end points"):
        network.segment(x[0], x[0])
    with pytest.raises(pc.InputError, match="ends of a line"):
        network.segment(x[0], x[1, :4])
    with pytest.raises(pc.InputError, match="one region"):
        network.face_jumps(x[:1])
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)


def test_a_loss_that_is_not_finite_stops_training() -> None:
    x, y = board(100, 0)
    network = NearestLinear(2, 2, 4).eval()
    network.bias.data[:] = np.inf
    with pytest.raises(pc.ModelError, match="lower rate"):
        network.fit(x, y)
    assert not network.training

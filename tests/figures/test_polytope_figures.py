"""What the figures of polytopes draw is what was found."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from torch import nn

import patchclamp as pc
from patchclamp.figures import (
    boundaries,
    clusters,
    paths,
    plane,
    radial_density,
    raster,
    scaling,
    segment,
    spline_codes,
)
from tests.figures.test_drawn import lines, same


@pytest.fixture(scope="module")
def net() -> pc.Model:
    """Two inputs, two layers of gates, three outputs; whole weights."""
    draw = torch.Generator().manual_seed(0)
    made = nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randint(-4, 5, parameter.shape, generator=draw).double() / 2)
    return pc.wrap(made.eval())


def test_a_segment_shows_every_crossing_in_its_layers_strip(net: pc.Model) -> None:
    found = net.segment([-3.0, 1.0], [2.0, -2.5])
    drawn = segment.figure(found, bins=4)
    data = found.data
    for one, name in zip(drawn.axes, found.record["layers"], strict=False):
        places = data["t"].values[data["layer"].values == name]
        same(sorted(path.vertices[0, 0] for path in one.collections[0].get_paths()), sorted(places))
        assert one.get_ylabel() == f"{name} ({len(places)})"
    density = drawn.axes[len(found.record["layers"])]
    total = sum(bar.get_height() for bar in density.patches)
    assert total * found.length / 4 == pytest.approx(found.count), "crossings a unit, over the bins"
    outputs = drawn.axes[-1].lines
    same([line.get_ydata() for line in outputs[:3]], data["output"].values.T)
    changes = [line.get_xdata()[0] for line in outputs[3:]]
    same(changes, found.record["changes"])


def test_a_plane_is_coloured_by_class_code_map_or_density(net: pc.Model) -> None:
    found = net.plane(box=1.5)
    data = found.data
    by_density = plane.figure(found, "density").axes[0].collections[0]
    same(by_density.get_array(), 1 / data["area"].values)
    by_map = plane.figure(found, "map").axes[0].collections[0]
    same(by_map.get_array(), np.linalg.norm(data["map"].values, axis=(1, 2)))
    low, high = np.quantile(1 / data["area"].values, [0.01, 0.99])
    same(by_density.get_clim(), (low, high))
    by_code = plane.figure(found, "code").axes[0].collections[0].get_facecolors()
    assert len(np.unique(by_code.round(6), axis=0)) == len(np.unique(data["code"].values, axis=0))
    first = plane.figure(found, "code", layers=1).axes[0].collections[0].get_facecolors()
    assert len(np.unique(first.round(6), axis=0)) < len(np.unique(by_code.round(6), axis=0))
    classes = plane.figure(found).axes[0]
    assert {h for h in classes.get_legend_handles_labels()[1] if h.startswith("class")} == {
        f"class {c}" for c in np.unique(data["class"])
    }
    counts = [1, *found.layer_counts().values()]
    assert plane.figure(found, layers=1).axes[0].get_title() == f"{counts[1]:,} regions after 1 of 2 layers"
    assert classes.get_title() == f"{found.regions:,} regions"
    assert (classes.get_xlim(), classes.get_ylim()) == ((-1.5, 1.5), (-1.5, 1.5))
    drawn = [c for c in classes.collections if type(c).__name__ == "LineCollection"]
    assert sorted(len(c.get_segments()) for c in drawn[:2]) == sorted(int((data["layer"] == k).sum()) for k in (0, 1))
    with pytest.raises(pc.InputError, match="layers must be 0 to 2, not 3"):
        plane.figure(found, layers=3)
    with pytest.raises(pc.InputError, match="did you mean 'class'"):
        plane.figure(found, "clas")
    with pytest.raises(pc.InputError, match="did you mean 'plain'"):
        plane.figure(found, lines="plane")


def test_a_raster_has_a_bar_a_piece_and_a_dot_a_crossing(net: pc.Model) -> None:
    found = net.raster(box=1.5, lines=5)
    data = found.data
    drawn = raster.figure(found).axes[0]
    same([bar.get_x() for bar in drawn.patches], data["begin"])
    same([bar.get_width() for bar in drawn.patches], data["end"] - data["begin"])
    assert {round(bar.get_height(), 9) for bar in drawn.patches} == {0.6}
    dots = sum(len(c.get_offsets()) for c in drawn.collections)
    assert dots == data.sizes["crossing"] if "crossing" in data.sizes else dots == len(data["x"])
    assert not any(len(c.get_offsets()) for c in raster.figure(found, crossings=False).axes[0].collections)
    counts = raster.figure(found, "density").axes[0].images[0].get_array()
    assert counts.shape == (5, 5)
    same(counts.sum(1) * 3 / 5, [int((data["line_of"] == k).sum()) for k in range(5)])


def test_distances_are_a_rising_share(net: pc.Model) -> None:
    found = net.boundaries(torch.randn(6, 2, generator=torch.Generator().manual_seed(0)).double(), radii=(0.1, 1.0))
    near, count = boundaries.figure(found).axes
    own = lines(near)["nearest of all"]
    same(own.get_xdata(), np.sort(found.nearest))
    same(own.get_ydata(), np.arange(1, 7) / 6)
    one = lines(near)["layer 1"]
    same(one.get_xdata(), np.sort(found.data["distance"].sel(layer="1").values))
    same(count.lines[-1].get_ydata(), np.maximum(found.within.mean(0), 1e-2))
    assert near.get_xscale() == count.get_yscale() == "log"


def test_densities_lie_in_the_middle_of_their_shells() -> None:
    table = pd.DataFrame({
        "rays": ["points", "points", "random"], "from": [0.0, 2.0, 0.0], "to": [2.0, 6.0, 2.0], "density": [3.0, 0.0, 1.0],
        "least": [2.0, 0.0, 0.5], "most": [5.0, 1.0, 2.0],
    })  # fmt: skip
    data = xr.Dataset({"norm": ("ray", np.arange(101.0)), "high": ("shell", [2.0, 6.0]), "low": ("shell", [0.0, 2.0])})
    found: Any = SimpleNamespace(summary=lambda: table, data=data)
    (drawn,) = radial_density.figure(found).axes
    own = lines(drawn)["through points"]
    same((own.get_xdata(), own.get_ydata()), ([1, 4], [3, 1 / 404]))
    plain = radial_density.figure(found, log=False).axes[0]
    same(lines(plain)["through points"].get_ydata(), [3, 0])
    assert (drawn.get_yscale(), plain.get_yscale()) == ("log", "linear")
    spans = [patch for patch in drawn.patches if "90 %" in patch.get_label()]
    same((spans[0].get_x(), spans[0].get_width()), (5, 90))


def test_scaling_has_a_panel_a_metric(net: pc.Model) -> None:
    x = torch.randn(8, 2, generator=torch.Generator().manual_seed(0)).double()
    found = net.scaling(x, ["1:out"], (0.5, 1.0, 2.0), labels=[0, 1, 2, 0] * 2)
    drawn = scaling.figure(found)
    assert [one.get_ylabel() for one in drawn.axes] == [
        "accuracy",
        "KL from unscaled (nats)",
        "share of later bits that flip",
    ]
    data = found.data.assign(flipped=found.flipped).sel(site="1:out")
    for one, metric in zip(drawn.axes, ("accuracy", "kl", "flipped"), strict=True):
        for edit in ("scale", "noise"):
            same(lines(one)[f"1:out, {edit}"].get_ydata(), data[metric].sel(edit=edit))
            same(lines(one)[f"1:out, {edit}"].get_xdata(), [0.5, 1, 2])
    same(drawn.axes[0].lines[-2].get_ydata(), [float(found.data["accuracy_before"])] * 2)
    plain = scaling.figure(net.scaling(x, ["1:out"], (0.5, 1.0)))
    assert plain.axes[0].get_ylabel() == "same verdict as unscaled"


def test_paths_are_strips_densities_and_cosines() -> None:
    kinds, places = ["pgd", "gauss"], [0.0, 0.5, 1.0]
    data = xr.Dataset(
        {
            "length": (("path", "point"), [[2.0, 3.0], [4.0, 5.0]]), "flip": (("path", "point"), [[1.5, 9.0], [np.nan, 1.0]]),
            "cosine": (("path", "point", "gate", "place"), np.arange(24.0).reshape(2, 2, 2, 3) / 24),
            "strip_path": ("mark", ["pgd", "pgd", "gauss"]), "strip_layer": ("mark", ["1", "3", "1"]), "strip_at": ("mark", [0.1, 0.2, 0.3]),
        },
        coords={"path": kinds, "gate": ["1", "3"], "place": places},
    )  # fmt: skip
    table = pd.DataFrame({"path": ["gauss", "pgd"], "density": [1.0, 3.0], "least": [0.5, 2.0], "most": [2.0, 3.5]})
    strips, density, cosine = paths.figure(SimpleNamespace(data=data, summary=lambda: table)).axes  # type: ignore[arg-type]
    drawn = [[(p.vertices[0, 0], p.vertices[:, 1].mean()) for p in c.get_paths()] for c in strips.collections]
    assert [[(round(float(x), 9), round(float(y), 9)) for x, y in one] for one in (drawn[0], drawn[1], drawn[3])] == [
        [(0.1, 0.0)], [(0.2, 0.0)], [(0.3, 1.0)],
    ]  # fmt: skip
    assert [(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in strips.lines] == [(1.5, 0.0)], (
        "gauss never flips"
    )
    assert strips.yaxis_inverted(), "the first kind is at the top, as in the densities"
    same([bar.get_width() for bar in density.patches], [3, 1])
    assert [t.get_text() for t in density.texts] == ["3", "1"]
    same(lines(cosine)["gauss"].get_ydata(), data["cosine"].values[1, :, 1].mean(0))


def test_codes_are_ordered_by_label(net: pc.Model) -> None:
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(0)).double()
    labels = ["b", "a", "b", "a", "c", "a"]
    found = net.spline_codes(x, labels=labels)
    left, right = spline_codes.figure(found).axes[:2]
    order = np.argsort(labels, kind="stable")
    shares = found.hamming().numpy()[np.ix_(order, order)] / found.bits
    same(left.images[0].get_array(), shares)
    apart = shares[~np.eye(6, dtype=bool)]
    same(left.images[0].get_clim(), (apart.min(), apart.max()))
    assert [t.get_text() for t in left.get_yticklabels()] == ["a", "b", "c"]
    same(left.get_yticks(), [1, 3.5, 5])
    table = found.separation()
    same(lines(right)["within a label"].get_xdata(), table["within"])
    same(lines(right)["between labels"].get_xdata(), table["between"])
    bare = spline_codes.figure(net.spline_codes(x)).axes[1]
    same(bare.lines[0].get_xdata(), net.spline_codes(x).separation()["set"])


def test_clusters_are_drawn_with_intervals_and_shuffled_labels(net: pc.Model) -> None:
    x = torch.randn(24, 2, generator=torch.Generator().manual_seed(0)).double()
    found = net.cluster(x, "1", labels=["a", "b", "c"] * 8, algorithms=["k-means"], k=3)
    drawn = clusters.figure(found)
    data = found.data.sel(labels=found.label_names[0], algorithm="k-means")
    for one, score in zip(drawn.axes, clusters.TITLES, strict=True):
        part = data.sel(score=score)
        for row, form in enumerate(found.forms):
            here = part.sel(form=form)
            span, value, shuffled = one.lines[3 * row : 3 * row + 3]
            same(span.get_xdata(), [here["low"], here["high"]])
            same(value.get_xdata(), [here["value"]])
            same(shuffled.get_xdata(), [here["shuffled"]])
    cards = clusters.figure(found, view="cards", most=2, examples=1)
    table = found.cards("k-means", found.forms[0], most=2, examples=1)
    titles = [one.get_title(loc="left") for one in cards.axes[:2]]
    assert titles == [
        f"{row['size']} rows, purity {row['purity']:.2f}: {row['labels'][:40]}" for _, row in table.iterrows()
    ]
    with pytest.raises(pc.InputError, match="did you mean 'cards'"):
        clusters.figure(found, view="card")  # type: ignore[arg-type]

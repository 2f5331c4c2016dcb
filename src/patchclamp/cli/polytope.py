"""``patchclamp polytope``: the regions on which a network is one affine map."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from patchclamp.cli.networks import INPUTS_HELP, NETWORK_HELP, POINT_HELP, inputs, open_network, point
from patchclamp.cli.options import Shared, Strings
from patchclamp.cli.output import keep, show
from patchclamp.core.errors import InputError
from patchclamp.core.files import read_text

if TYPE_CHECKING:
    import patchclamp as pc

app = App(name="polytope", help="The polytope lens: the regions on which a network is one affine map, and their codes.")
Network = Annotated[str, Parameter(help=NETWORK_HELP)]
Inputs = Annotated[list[str], Parameter(help=INPUTS_HELP, negative="")]
LabelFile = Annotated[
    Path | None, Parameter(help="A text file with a label for each row (or each text) on its own line.")
]
Point = Annotated[str, Parameter(help=POINT_HELP)]


@app.command
def segment(
    network: Network,
    a: Point,
    b: Point,
    *,
    start: str | None = None,
    method: Literal["exact", "sampled"] = "exact",
    samples: int = 1000,
    limit: int = 1_000_000,
    shared: Shared = Shared(),  # noqa: B008
) -> None:
    """Every region that the straight line between two points crosses, in order.

    Args:
        a: One end.
        b: The other end.
        start: Where the ends lie: a module's name (its output), or with :in what goes into it; the input by default.
        method: sampled works for networks that are not piecewise linear.
        samples: Of the sampled method.
        limit: Crossings at which the walk stops.
        opening: How to open the model; dtype is what to compute in.
    """
    model = open_network(network, shared.opening)
    dtype = shared.opening.dtype if shared.opening.dtype in ("float32", "float64") else None
    ends = point(a, network), point(b, network)
    line = model.segment(*ends, start=start, method=method, samples=samples, limit=limit, dtype=dtype)
    values = {
        "crossings": line.count, "length": line.length, "density": line.density, "flips": line.flips,
        "layers": line.per_layer, "changes": line.record["changes"], "outputs": line.record["classes"],
    }  # fmt: skip
    show(values if shared.as_json else repr(line), as_json=shared.as_json)
    options = {
        "network": network, "a": a, "b": b, "start": start, "method": method, "samples": samples, "limit": limit,
    }  # fmt: skip
    shared.keep(line, "polytope segment", options)


@app.command
def codes(
    network: Network,
    rows: Inputs,
    *,
    site: Strings = None,
    at: str = "rest",
    labels: LabelFile = None,
    neighbours: int = 5,
    shared: Shared = Shared(),  # noqa: B008
) -> None:
    """Spline codes: how many are different, how far apart labels lie, and whether neighbours share a label.

    Args:
        site: Where; every gate of a network, mlp_pre of every layer of a language model.
        at: Which tokens of a language model are rows.
        labels: Of the rows.
        neighbours: Of how many nearest codes the share with the row's own label is told.
    """
    import pandas as pd

    model = open_network(network, shared.opening)
    x, row_labels = _read_rows(rows, network, labels)
    spline_codes = model.spline_codes(x, site, labels=row_labels, **_position_options(model, at))
    table = pd.DataFrame(_layer_rows(spline_codes, neighbours))
    show(table.to_dict("records"), as_json=shared.as_json, table=table, title=repr(spline_codes).partition("\n")[0])
    options = {"network": network, "rows": rows, "site": site, "at": at, "labels": labels, "neighbours": neighbours}
    shared.keep(spline_codes, "polytope codes", options)


def _layer_rows(spline_codes: "pc.polytopes.SplineCodes", neighbours: int) -> list[dict[str, Any]]:
    """A line a layer, and one for all layers."""
    parts = {layer.name: spline_codes.layer(layer.name) for layer in spline_codes.layers}
    if len(parts) > 1:
        parts["all layers"] = spline_codes
    return [{"layer": name, "bits": part.bits, **_code_statistics(part, neighbours)} for name, part in parts.items()]


def _code_statistics(spline_codes: "pc.polytopes.SplineCodes", neighbours: int) -> dict[str, Any]:
    distinct = {
        "different codes": len(spline_codes.unique().counts),
        "bits on": float(spline_codes.dense().double().mean()),
    }
    names = [name for name in spline_codes.data.coords if name not in ("prompt", "position")]
    if not names:
        return distinct
    import numpy as np

    label_values = np.asarray(spline_codes.labels(str(names[0])))
    nearest = spline_codes.knn(k=neighbours).index.numpy()
    same = (label_values[nearest] == label_values[:, None]).mean()
    return {**distinct, f"nearest {neighbours} of the same {names[0]}": float(same)}


@app.command
def cluster(
    network: Network,
    rows: Inputs,
    *,
    layer: str,
    at: str = "rest",
    labels: LabelFile = None,
    k: int | None = None,
    algorithm: Annotated[list[Literal["k-means", "ward", "hdbscan"]] | None, Parameter(negative="")] = None,
    pca: int = 50,
    seed: int = 0,
    cards: int = 0,
    shared: Shared = Shared(),  # noqa: B008
) -> None:
    """Clusters of a layer's codes, always beside those of its pre-activations, activations and unit-norm activations.

    Args:
        layer: A gate's name, or the number of a language model's layer.
        at: Which tokens of a language model are rows.
        labels: Of the rows; known for pictures, and the token itself for a language model.
        k: Clusters of k-means and Ward; by default as many as labels.
        algorithm: Which; k-means, Ward and HDBSCAN by default.
        pca: Principal components to cluster in.
        seed: Of everything random.
        cards: Print so many of the largest clusters of codes, too.
    """
    model = open_network(network, shared.opening)
    x, row_labels = _read_rows(rows, network, labels)
    if row_labels is None and not model.sites.layers:
        raise InputError(
            "clusters are scored against labels: give --labels FILE, with a label for each row on its own line"
        )
    options: dict[str, Any] = {"k": k, "pca": pca, "seed": seed}
    if algorithm:
        options["algorithms"] = algorithm
    clusters = model.cluster(x, layer, labels=row_labels, progress=True, **options, **_position_options(model, at))
    if shared.as_json:
        show(clusters.frame().to_dict("records"), as_json=True)
    else:
        show(repr(clusters), as_json=False)
        if cards:
            table = clusters.cards(clusters.algorithms[0], clusters.forms[0], most=cards)
            show(None, as_json=False, table=table.drop(columns=["rows", "examples"]))
    config = {
        "network": network,
        "rows": rows,
        "layer": layer,
        "at": at,
        "labels": labels,
        "algorithm": algorithm,
        "cards": cards,
    }
    shared.keep(clusters, "polytope cluster", {**config, **options})


@app.command
def plane(
    network: Network,
    points: Annotated[
        list[str] | None, Parameter(help=f"{POINT_HELP} Three of them, or none for a network of two inputs.")
    ] = None,
    *,
    box: Annotated[list[float] | None, Parameter(negative="", consume_multiple=True)] = None,
    start: str | None = None,
    max_regions: int = 50_000,
    force: Annotated[bool, Parameter(negative="")] = False,
    lines: int | None = None,
    color: Literal["class", "code", "map", "density"] | None = None,
    shared: Shared = Shared(),  # noqa: B008
) -> None:
    """Every region on a plane, as exact polygons; or exact lines through it where there are too many.

    Args:
        points: What the plane goes through.
        box: In the plane's coordinates: r for -r to r, or left right bottom top.
        start: Where the points lie; the input by default.
        max_regions: Above this estimate nothing begins.
        force: Begin all the same, and stop at max_regions with what was found.
        lines: Draw so many exact lines instead of polygons; the cost does not hang on the number of regions.
        color: What the figure's colours say.
    """
    if box is not None and len(box) not in (1, 4):
        raise InputError(f"box has 1 number or 4, not {len(box)}")
    model = open_network(network, shared.opening)
    plane_points = [point(spec, network) for spec in points] if points else None
    window = None if box is None else box[0] if len(box) == 1 else ((box[0], box[1]), (box[2], box[3]))
    options: dict[str, Any] = {"box": window, "start": start, "names": points or None, "progress": True}
    result: Any = (
        model.raster(plane_points, lines=lines, **options)
        if lines
        else model.plane(plane_points, max_regions=max_regions, force=force, **options)
    )
    show(result.frame().describe().to_dict() if shared.as_json else repr(result), as_json=shared.as_json)
    config = {
        "network": network,
        "points": points,
        "box": box,
        "start": start,
        "max_regions": max_regions,
        "force": force,
        "lines": lines,
    }
    config["color"] = color
    keep(
        result,
        shared.out,
        "polytope plane",
        {**config, **shared.opening.as_config()},
        **({"color": color} if color and not lines else {}),
    )


@app.command
def scale(
    network: Network,
    rows: Inputs,
    *,
    site: Annotated[list[str], Parameter(negative="")],
    factor: Annotated[list[float] | None, Parameter(negative="", consume_multiple=True)] = None,
    labels: LabelFile = None,
    at: str = "all",
    seed: int = 0,
    shared: Shared = Shared(),  # noqa: B008
) -> None:
    """Multiply the activations at a site by factors, beside moves of the same length elsewhere, and see what still holds.

    Args:
        site: Where, as 1:out or resid_post.8; several give several curves.
        factor: By how much; powers of two from 1/64 to 64 by default.
        labels: Classes of the rows, as numbers; known for pictures.
        at: Positions of a language model.
        seed: Of the controls.
    """
    from patchclamp.cli.specs import position

    model = open_network(network, shared.opening)
    x, row_labels = _read_rows(rows, network, labels)
    numbers = None if row_labels is None or model.sites.layers else _class_numbers(row_labels, network)
    options: dict[str, Any] = {} if factor is None else {"factors": factor}
    scaling = model.scaling(x, site, labels=numbers, at=position(at), seed=seed, progress=True, **options)
    show(scaling.frame().to_dict("records") if shared.as_json else repr(scaling), as_json=shared.as_json)
    config = {
        "network": network,
        "rows": rows,
        "site": site,
        "factor": factor,
        "labels": labels,
        "at": at,
        "seed": seed,
    }
    shared.keep(scaling, "polytope scale", config)


def _read_rows(rows: list[str], network: str, labels: Path | None) -> tuple[Any, Any]:
    """Inputs, and the labels of the file or those that are known."""
    x, row_labels = inputs(rows, network)
    return x, row_labels if labels is None else [
        line.strip() for line in read_text(labels).splitlines() if line.strip()
    ]


def _position_options(model: "pc.Model", at: str) -> dict[str, Any]:
    """Positions, for models that have them."""
    from patchclamp.cli.specs import position

    return {"at": position(at)} if model.sites.layers else {}


def _class_numbers(labels: list[str], network: str) -> list[int]:
    """Classes as numbers."""
    from patchclamp.cli.networks import NETWORKS

    if all(label.isdecimal() for label in labels):
        return [int(label) for label in labels]
    if network.partition(":")[0] not in NETWORKS:
        invalid = next(number for number, label in enumerate(labels) if not label.isdecimal())
        raise InputError(f"labels of scale are numbers of outputs, from 0; label {invalid + 1} is {labels[invalid]!r}")
    from patchclamp.studies import digits

    names = digits.images(network.partition(":")[0].rpartition("-")[0]).names  # type: ignore[arg-type]
    return [names.index(label) for label in labels]

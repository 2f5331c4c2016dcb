"""``patchclamp polytope``: the regions on which a network is one affine map."""

from typing import Annotated, Literal

from cyclopts import App, Parameter

from patchclamp.cli.networks import POINTS, SAYS, open_network, point
from patchclamp.cli.options import Json, Opening, Out
from patchclamp.cli.output import keep, show

app = App(name="polytope", help="The polytope lens: the regions on which a network is one affine map, and their codes.")
Network = Annotated[str, Parameter(help=SAYS)]
Point = Annotated[str, Parameter(help=POINTS)]


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
    out: Out = None,
    opening: Opening = Opening(),  # noqa: B008
    as_json: Json = False,
) -> None:
    """Every region that the straight line between two points crosses, in order.

    Args:
        network: See above.
        a: One end.
        b: The other end.
        start: Where the ends lie: a module's name (its output), or with :in what goes into it; the input by default.
        method: sampled works for networks that are not piecewise linear.
        samples: Of the sampled method.
        limit: Crossings at which the walk stops.
        out: Folder to save everything in.
        opening: How to open the model; dtype is what to compute in.
        as_json: Print JSON.
    """
    model = open_network(network, opening)
    dtype = opening.dtype if opening.dtype in ("float32", "float64") else None
    ends = point(a, network), point(b, network)
    found = model.segment(*ends, start=start, method=method, samples=samples, limit=limit, dtype=dtype)
    plain = {
        "crossings": found.count, "length": found.length, "density": found.density, "flips": found.flips,
        "layers": found.per_layer, "changes": found.record["changes"], "outputs": found.record["classes"],
    }  # fmt: skip
    show(plain if as_json else repr(found), as_json=as_json)
    options = {
        "network": network, "a": a, "b": b, "start": start, "method": method, "samples": samples, "limit": limit,
    }  # fmt: skip
    keep(found, out, "polytope segment", {**options, **opening.as_config()})

"""``patchclamp patch MODEL SOURCE INTO``: activation patching over layers and positions."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from cyclopts import App

from patchclamp.cli.options import (
    CellOptions,
    Drawn,
    Into,
    ModelName,
    PatchedAt,
    PatchedSites,
    PatchOptions,
    Shared,
    Source,
)
from patchclamp.cli.output import say, show
from patchclamp.cli.specs import position
from patchclamp.cli.sweep import by_read, strongest

if TYPE_CHECKING:
    import patchclamp as pc

command = App(name="patch", help="Put one run's activations into another, a cell a site and position, and measure.")


@command.default
def patch(
    model: ModelName,
    source: Source,
    into: Into,
    *,
    site: PatchedSites = None,
    at: PatchedAt = "each",
    reading: PatchOptions = PatchOptions(),  # noqa: B008
    cells: CellOptions = CellOptions(),  # noqa: B008
    shared: Drawn = Drawn(),  # noqa: B008
) -> None:
    """Patch one run into another."""
    open_model = shared.opening.load(model)
    sites = site or ["resid_post"]
    grid = open_model.patch(
        source, into, sites=sites, at=position(at), **reading.as_options(), **asdict(cells)
    )  # fmt: skip
    say(grid.plan)
    show_patched(grid, shared, "largest differences from the unpatched run", plan=grid.plan.as_record())
    config = {
        "model": model, "source": source, "into": into, "site": sites, "at": at, **asdict(reading), **cells.as_config(),
    }  # fmt: skip
    shared.keep(grid, "patch", config)


def show_patched(grid: "pc.Grid", shared: Shared, title: str, **evidence: Any) -> None:
    """Print a patched run beside the unpatched one and the one that was patched in.

    Args:
        grid: The result.
        shared: How to print.
        title: Above the table.
        **evidence: What else stands in JSON.
    """
    value = {
        "baseline": by_read(grid, "baseline:"),
        "reference": by_read(grid, "reference:"),
        "values": by_read(grid),
        **evidence,
    }
    show(value, as_json=shared.as_json, table=strongest(grid), title=title)

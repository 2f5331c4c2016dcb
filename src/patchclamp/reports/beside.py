"""Pictures of several results on one page, cell for cell on one line."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from markupsafe import Markup

from patchclamp.core.digest import digest
from patchclamp.core.result import Result
from patchclamp.figures.aligned import check, check_layers, pictures_of
from patchclamp.figures.grid import Panel
from patchclamp.lenses.result import Lens
from patchclamp.reports import lens, neurons
from patchclamp.reports.cells import Cells, aligned, svg
from patchclamp.reports.heatmap import picture


def beside(results: Sequence[Result], share: Literal["layers", "tokens"] = "layers") -> Markup:
    """Results of one prompt side by side (or one above the other), so that the same layer (or token) lies on one line.

    Raises:
        InputError: A result has no picture of layers by tokens, or tokens or layers differ.
    """
    check(results)
    pictures = [(result.kind, cells) for result in results for cells in cells_of(result)]
    check_layers([(kind, cells.rows) for kind, cells in pictures], share)
    link = digest(*(list(cells.columns) for _, cells in pictures))[:12]
    return aligned([svg(replace(cells, link=link)) for _, cells in pictures], stacked=share == "tokens")


def cells_of(result: Any) -> list[Cells]:
    """The pictures of layers by tokens that a result has.

    Raises:
        InputError: It has none.
    """
    if isinstance(result, Lens):
        return [lens.cells(result)]
    if result.kind == "neurons":
        return neurons.cells(result)
    return [picture(panel) for panel in pictures_of(result) if isinstance(panel, Panel)]

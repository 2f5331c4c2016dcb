"""Causal traces of many facts, averaged by the role that a token plays."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from patchclamp.core.errors import InputError
from patchclamp.tracing.trace import Trace

if TYPE_CHECKING:
    import xarray as xr

ROLES = (
    "first subject token",
    "middle subject tokens",
    "last subject token",
    "first subsequent token",
    "further tokens",
    "last token",
)


def roles(length: int, subject: tuple[int, ...]) -> dict[str, list[int]]:
    """Positions that play each role; a subject of one token is its last token, and the prompt's end its last."""
    inside, end = list(subject), length - 1
    after = [position for position in range(subject[-1] + 1, end)]
    return {
        "first subject token": inside[:1] if len(inside) > 1 else [],
        "middle subject tokens": inside[1:-1],
        "last subject token": inside[-1:],
        "first subsequent token": after[:1],
        "further tokens": after[1:],
        "last token": [end] if end not in inside else [],
    }


def average(traces: Sequence[Trace], read: str | None = None) -> "xr.Dataset":
    """Average indirect effect over facts, by site, layer and role of the token.

    Args:
        traces: Of the same model, sites and layers; prompts may differ in length.
        read: Which measurement; the first by default.

    Returns:
        ``effect`` and its ``standard_error`` over facts, ``count`` of facts that have a token in the role, all
        ``[site, layer, role]`` (``count`` by role only); and ``total``, the average total effect. A fact with several
        tokens in a role counts once, with their mean.

    Raises:
        InputError: No traces, or traces of different sites or layers.

    Source: Meng et al. 2022, arXiv 2202.05262, figure 2 and appendix B.
    """
    import xarray as xr

    if not traces:
        raise InputError("there are no traces to average")
    first = traces[0].dataset
    for trace in traces:
        if any(list(trace.dataset[dim].values) != list(first[dim].values) for dim in ("site", "layer")):
            raise InputError("traces to average must have the same sites and layers")
    shape = (len(traces), first.sizes["site"], first.sizes["layer"], len(ROLES))
    table = np.full(shape, np.nan)
    for row, trace in enumerate(traces):
        effect = trace.mean(read)["effect"].transpose("site", "layer", "position").values
        for column, places in enumerate(roles(len(trace.tokens), trace.subject).values()):
            if places:
                table[row, :, :, column] = effect[:, :, places].mean(-1)
    present = ~np.isnan(table[:, 0, 0])
    count = present.sum(0)
    filled = np.nan_to_num(table)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = filled.sum(0) / count
        spread = np.where(np.isnan(table), 0, table - mean)
        error = np.sqrt((spread**2).sum(0) / (count - 1) / count)
    error[..., count < 2] = np.nan
    dims = ("site", "layer", "role")
    total = float(np.mean([float(trace.total_effect(read).mean()) for trace in traces]))
    return xr.Dataset(
        {"effect": (dims, mean), "standard_error": (dims, error), "count": ("role", count), "total": ((), total)},
        coords={"site": first["site"], "layer": first["layer"], "role": np.array(ROLES, dtype=object)},
    )

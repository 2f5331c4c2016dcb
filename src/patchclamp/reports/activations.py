"""The page of a recording: what was recorded, and how long its vectors are."""

from typing import TYPE_CHECKING

import pandas as pd

from patchclamp.reports.page import Section, embed_result, table

if TYPE_CHECKING:
    from patchclamp.interventions import Activations


def parts(activations: "Activations") -> list[Section]:
    """The parts of the page, from top to bottom."""
    rows = [
        {
            "site": name,
            "dimensions": ", ".join(activations.dims[name]),
            "shape": " x ".join(map(str, value.shape)),
            "dtype": str(value.dtype),
        }
        for name, value in activations.values.items()
    ]
    norms = Section("Euclidean norms of the first prompt", embed_result(activations))
    return [Section("Recorded", table(pd.DataFrame(rows))), norms]

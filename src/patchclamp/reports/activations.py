"""The page of a recording: what was recorded, and how long its vectors are."""

from typing import TYPE_CHECKING

import pandas as pd

from patchclamp.reports.page import Part, embedded_png, table

if TYPE_CHECKING:
    from patchclamp.interventions import Activations


def parts(activations: "Activations") -> list[Part]:
    """What the page shows."""
    rows = [
        {
            "site": name,
            "dimensions": ", ".join(activations.dims[name]),
            "shape": " x ".join(map(str, value.shape)),
            "dtype": str(value.dtype),
        }
        for name, value in activations.values.items()
    ]
    norms = Part("Euclidean norms of the first prompt", embedded_png(activations))
    return [Part("Recorded", table(pd.DataFrame(rows))), norms]

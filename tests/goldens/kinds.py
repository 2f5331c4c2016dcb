"""A small result of every kind, described as text: variables, coordinates, numbers, and the rows of its frame."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

import patchclamp as pc
from patchclamp.core.result import Result
from tests import tiny
from tests.core.test_result import ARRAYS, NETWORK, WALKED, _results
from tests.goldens import compare, models

if TYPE_CHECKING:
    import xarray as xr

FITTED = ("probe_report", "superposition")
"""Kinds that hold what an iterative fit found, whose digits hang on libraries: their numbers are left out."""
FIRST, ROWS = 6, 2
"""So many numbers of an array, and rows of a frame, are shown."""
WHOLE = 12
"""Arrays of so many values are shown whole."""
LONGEST = 160
"""So many characters of an attribute are shown."""


def made() -> dict[str, Result]:
    """A result of every kind, as the tests of saving make them, but where they sample from the model: that hangs on the processor."""
    model, (prompt, other) = models.llama(), [*tiny.ids(1, 6), *tiny.ids(1, 4, seed=2)]
    return _results(model) | {
        "generation": model.generate([prompt, other], [pc.Scale(2.0, site="resid_post.1", at=-1)], max_new_tokens=3),
        "rewrite": model.rewrite_fact(
            [prompt], [1, 2], 9, layer=1, true=4, covariance="identity", prefixes=[other], ridge=0.02, steps=3, lr=0.2
        ),
    }


def model_of(kind: str) -> pc.Model | None:
    """The model that made the result of a kind; None for one that is made of arrays alone."""
    return None if kind in ARRAYS else NETWORK if kind in WALKED else models.llama()


def text(results: Mapping[str, Result]) -> str:
    """The golden file of these results."""
    return compare.joined({kind: described(result) for kind, result in results.items()})


def described(result: Result) -> str:
    """One result."""
    frame, numbers = result.frame(), result.kind not in FITTED
    lines = [type(result).__name__, *arrays(result._dataset(), numbers)]
    lines.append(f"frame of {len(frame)} rows: {', '.join(map(str, frame.columns))}")
    if numbers:
        lines += ["  " + " ".join(map(_value, row)) for row in frame.head(ROWS).itertuples(index=False)]
    for name, part in sorted(result._parts().items()):
        lines += [f"part {name}", *("  " + line for line in described(part).splitlines())]
    return "\n".join(lines)


def arrays(dataset: "xr.Dataset", numbers: bool = True) -> list[str]:
    """A line an attribute, coordinate and variable."""
    return [
        *(f"attribute {name}: {str(value)[:LONGEST]}" for name, value in sorted(dataset.attrs.items())),
        *(f"coordinate {_array(name, array, True)}" for name, array in sorted(dataset.coords.items())),
        *(f"variable {_array(name, array, numbers)}" for name, array in sorted(dataset.data_vars.items())),
    ]


def _array(name: str, array: Any, numbers: bool) -> str:
    values = np.asarray(array.values)
    shape = ", ".join(f"{dim} {size}" for dim, size in array.sizes.items())
    kind = "text" if values.dtype.kind in "OU" else str(values.dtype)
    return f"{name} ({shape}) {kind}" + (": " + " ".join(_shown(values)) if numbers else "")


def _shown(values: np.ndarray) -> Iterator[str]:
    """The first values, and statistics of all in their order."""
    flat = values.reshape(-1)
    yield from map(_value, flat if flat.size <= WHOLE else flat[:FIRST])
    if flat.size > WHOLE and values.dtype.kind in "fiub":
        finite = flat[np.isfinite(flat)].astype(np.float64)
        ramp = np.linspace(0, 1, finite.size)
        yield f"finite {finite.size}"
        if finite.size:
            statistics = {"least": finite.min(), "largest": finite.max(), "mean": finite.mean()}
            statistics["ramp"] = (finite * ramp).mean()
            yield from (f"{name} {_value(float(value))}" for name, value in statistics.items())
    elif flat.size > WHOLE:
        yield f"... last {_value(flat[-1])}, {len(set(map(str, flat)))} different"


def _value(value: Any) -> str:
    if isinstance(value, list | tuple | np.ndarray):
        return "[" + " ".join(map(_value, value)) + "]"
    if isinstance(value, float | np.floating):
        return f"{value + 0.0:.6g}" if not float(value).is_integer() else f"{value + 0.0:.1f}"
    return repr(value.item() if isinstance(value, np.generic) else value)

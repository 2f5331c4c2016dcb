"""A lens over a corpus: every metric by layer, with intervals over sequences; nothing is kept of single positions."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from patchclamp.core.call import recorded
from patchclamp.core.errors import InputError
from patchclamp.core.progress import Listener, task
from patchclamp.core.result import DatasetResult
from patchclamp.interventions.positions import At
from patchclamp.interventions.provenance import provenance
from patchclamp.lenses.corpus import check_length, sequences
from patchclamp.lenses.logit import BATCH_TOKENS, CHUNK, lens
from patchclamp.lenses.metrics import METRICS
from patchclamp.models.opened import OpenModel
from patchclamp.models.peers import Sites

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from patchclamp.lenses.result import Lens
    from patchclamp.lenses.tuned import TunedLens

LENGTH = 128
TOKENS = 20_000
QUANTILES = (0.25, 0.5, 0.75)


@dataclass(eq=False)
class LensCurves(DatasetResult):
    """What each layer would predict, over a corpus.

    ``data`` is a Dataset: ``mean`` with dims ``metric, sequence, layer`` (over the positions of a sequence) and ``quantile``
    with ``quantile`` in front. Positions of one text are not independent, so sequences are what is counted.
    """

    kind: ClassVar[str] = "lens_curves"

    @property
    def tokens(self) -> int:
        """How many positions were looked at."""
        return int(self.dataset["positions"]) * self.dataset.sizes["sequence"]

    def summary(self, confidence: float = 0.95) -> "xr.Dataset":
        """Means over sequences with their intervals.

        Args:
            confidence: Of the intervals: Student's t over sequences. With one sequence they are NaN.

        Returns:
            ``mean``, ``low`` and ``high`` with dims ``metric, layer``; ``median``, ``median_low`` and ``median_high`` are the
            same for the medians of the sequences.

        Raises:
            InputError: A confidence outside 0..1.
        """
        import xarray as xr

        if not 0 < confidence < 1:
            raise InputError(f"confidence={confidence} is outside 0..1")
        found: dict[str, xr.DataArray] = {}
        medians = self.dataset["quantile"].sel(quantile_at=0.5, drop=True)
        for name, low, high, values in (
            ("mean", "low", "high", self.dataset["mean"]),
            ("median", "median_low", "median_high", medians),
        ):
            centre = values.mean("sequence", skipna=False)
            half = self._half(values, confidence)
            found |= {name: centre, low: centre - half, high: centre + half}
        return xr.Dataset(found)

    def _half(self, values: "xr.DataArray", confidence: float) -> "xr.DataArray":
        from scipy.stats import t

        count = values.sizes["sequence"]
        if count < 2:
            return values.mean("sequence") * np.nan
        factor = float(t.ppf((1 + confidence) / 2, count - 1)) / np.sqrt(count)
        spread: xr.DataArray = values.std("sequence", ddof=1, skipna=False) * factor
        return spread

    def frame(self) -> "pd.DataFrame":
        """One row a metric and layer: mean, median, and their 95 % intervals."""
        return self.summary().to_dataframe().reset_index()

    def __repr__(self) -> str:
        sizes = self.dataset.sizes
        return f"LensCurves of {', '.join(METRICS)}: {sizes['layer']} rows, {sizes['sequence']} sequences, {self.tokens} positions"


@recorded
def lens_curves(
    model: OpenModel,
    texts: Any,
    sites: Sites = "resid_post",
    at: At = "all",
    *,
    length: int = LENGTH,
    tokens: int | None = TOKENS,
    targets: str | int = "next",
    chunk: int = CHUNK,
    batch_tokens: int = BATCH_TOKENS,
    tuned: "TunedLens | None" = None,
    progress: bool | Listener | None = None,
) -> LensCurves:
    """:meth:`patchclamp.Model.lens` over a corpus: every metric by layer, with intervals over sequences.

    Texts are packed into sequences of equal length. A few sequences are looked at at a time, and only their means and
    quartiles are kept, so memory does not grow with the number of positions.

    Args:
        model: The model.
        texts: ``"gutenberg"``, ``"gutenberg:TITLE"``, or an iterable of texts or of lists of token ids.
        sites: As for :meth:`patchclamp.Model.lens`.
        at: Positions of every sequence.
        length: Tokens of a sequence.
        tokens: How many tokens to read at most; None for all.
        targets: ``"next"``, or one token.
        chunk: As for :meth:`patchclamp.Model.lens`.
        batch_tokens: As for :meth:`patchclamp.Model.lens`.
        tuned: As for :meth:`patchclamp.Model.lens`.
        progress: True for a bar, a function for events.

    Raises:
        InputError: The corpus is empty, unknown, or does not fill one sequence.
        ModelError: As for :meth:`patchclamp.Model.lens`.
    """
    check_length(model, length)
    if tokens is not None and tokens < length:
        raise InputError(f"tokens={tokens} is less than one sequence of {length}")
    rows = sequences(model, texts, length, most=None if tokens is None else tokens // length)
    together = max(1, batch_tokens // length)
    pieces: list[tuple[Any, Any]] = []
    seen: Lens | None = None
    with task("lens", len(rows), "sequences", show=progress) as bar:
        for start in range(0, len(rows), together):
            part = rows[start : start + together]
            seen = lens(
                model, part, sites, at, k=1, targets=targets, chunk=chunk, batch_tokens=batch_tokens, tuned=tuned,
                progress=False,
            )  # fmt: skip
            pieces.append(_summed(seen))
            bar.advance(len(part))
    assert seen is not None
    names = [str(site) for site in seen.data["site"].values]
    record = provenance(model, [], texts=torch.tensor(rows, dtype=torch.int32), sites=names)
    return LensCurves(_labelled(seen, pieces), *record)


def _summed(seen: "Lens") -> tuple[Any, Any]:
    """Means ``[metric, sequence, layer]`` and quantiles ``[quantile, metric, sequence, layer]`` over positions."""
    means, quantiles = [], []
    for metric in METRICS:
        values = seen.data[metric].transpose("prompt", "layer", "position").values.astype(float)
        known = values[..., ~np.isnan(values[0, 0])]  # a position has a target in every sequence, or in none
        if not known.shape[-1]:
            known = np.full((*values.shape[:2], 1), np.nan)
        means.append(known.mean(-1))
        quantiles.append(np.quantile(known, QUANTILES, axis=-1))
    return np.stack(means), np.stack(quantiles, 1)


def _labelled(seen: "Lens", pieces: list[tuple[Any, Any]]) -> "xr.Dataset":
    import xarray as xr

    means = np.concatenate([mean for mean, _ in pieces], 1)
    quantiles = np.concatenate([quantile for _, quantile in pieces], 2)
    coords = {
        "metric": np.array(list(METRICS), dtype=object), "sequence": np.arange(means.shape[1]),
        "layer": seen.data["layer"].values, "site": ("layer", seen.data["site"].values), "quantile_at": list(QUANTILES),
    }  # fmt: skip
    dims = ("metric", "sequence", "layer")
    return xr.Dataset(
        {
            "mean": (dims, means),
            "quantile": (("quantile_at", *dims), quantiles),
            "positions": seen.data.sizes["position"],
        },
        coords,
    )

"""A lens over a corpus: every metric by layer, with intervals over sequences; nothing is kept of single positions."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from patchclamp.activations.corpus import check_length, sequences
from patchclamp.core.call import recorded
from patchclamp.core.errors import InputError
from patchclamp.core.progress import Listener, task
from patchclamp.core.result import DatasetResult
from patchclamp.interventions import At, provenance
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
        """The number of positions that were looked at."""
        return int(self.dataset["positions"]) * self.dataset.sizes["sequence"]

    def summary(self, confidence: float = 0.95) -> "xr.Dataset":
        """Means over sequences with their intervals.

        Args:
            confidence: The confidence of the intervals (Student's t over sequences). With one sequence they are NaN.

        Returns:
            ``mean``, ``low`` and ``high`` with dims ``metric, layer``; ``median``, ``median_low`` and ``median_high`` are the
            same for the medians of the sequences.

        Raises:
            InputError: A confidence outside 0..1.
        """
        import xarray as xr

        if not 0 < confidence < 1:
            raise InputError(f"confidence={confidence} is outside 0..1")
        statistics: dict[str, xr.DataArray] = {}
        medians = self.dataset["quantile"].sel(quantile_at=0.5, drop=True)
        for name, low, high, values in (
            ("mean", "low", "high", self.dataset["mean"]),
            ("median", "median_low", "median_high", medians),
        ):
            centre = values.mean("sequence", skipna=False)
            half_width = self._half_width(values, confidence)
            statistics |= {name: centre, low: centre - half_width, high: centre + half_width}
        return xr.Dataset(statistics)

    def _half_width(self, values: "xr.DataArray", confidence: float) -> "xr.DataArray":
        from scipy.stats import t

        count = values.sizes["sequence"]
        if count < 2:
            return values.mean("sequence") * np.nan
        factor = float(t.ppf((1 + confidence) / 2, count - 1)) / np.sqrt(count)
        half_width: xr.DataArray = values.std("sequence", ddof=1, skipna=False) * factor
        return half_width

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
        at: The positions of every sequence.
        length: The number of tokens in each sequence.
        tokens: The largest number of tokens to read; None for all.
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
    batch_size = max(1, batch_tokens // length)
    parts: list[tuple[Any, Any]] = []
    result: Lens | None = None
    with task("lens", len(rows), "sequences", show=progress) as bar:
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            result = lens(
                model, batch, sites, at, k=1, targets=targets, chunk=chunk, batch_tokens=batch_tokens, tuned=tuned,
                progress=False,
            )  # fmt: skip
            parts.append(_statistics(result))
            bar.advance(len(batch))
    assert result is not None
    names = [str(site) for site in result.data["site"].values]
    record = provenance(model, [], texts=torch.tensor(rows, dtype=torch.int32), sites=names)
    return LensCurves(_dataset(result, parts), *record)


def _statistics(result: "Lens") -> tuple[Any, Any]:
    """Means ``[metric, sequence, layer]`` and quantiles ``[quantile, metric, sequence, layer]`` over positions."""
    means, quantiles = [], []
    for metric in METRICS:
        values = result.data[metric].transpose("prompt", "layer", "position").values.astype(float)
        target_values = values[..., ~np.isnan(values[0, 0])]  # a position has a target in every sequence, or in none
        if not target_values.shape[-1]:
            target_values = np.full((*values.shape[:2], 1), np.nan)
        means.append(target_values.mean(-1))
        quantiles.append(np.quantile(target_values, QUANTILES, axis=-1))
    return np.stack(means), np.stack(quantiles, 1)


def _dataset(result: "Lens", parts: list[tuple[Any, Any]]) -> "xr.Dataset":
    import xarray as xr

    means = np.concatenate([mean for mean, _ in parts], 1)
    quantiles = np.concatenate([quantile for _, quantile in parts], 2)
    coords = {
        "metric": np.array(list(METRICS), dtype=object), "sequence": np.arange(means.shape[1]),
        "layer": result.data["layer"].values, "site": ("layer", result.data["site"].values), "quantile_at": list(QUANTILES),
    }  # fmt: skip
    dims = ("metric", "sequence", "layer")
    return xr.Dataset(
        {
            "mean": (dims, means),
            "quantile": (("quantile_at", *dims), quantiles),
            "positions": result.data.sizes["position"],
        },
        coords,
    )

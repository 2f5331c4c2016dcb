"""How well a dictionary explains held-out rows, and with how many latents."""

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from patchclamp.activations.stream import ActivationStream
from patchclamp.core.arguments import checked
from patchclamp.core.digest import digest
from patchclamp.core.errors import InputError
from patchclamp.core.kinds import Array
from patchclamp.core.result import DatasetResult, record_of_arrays
from patchclamp.dictionaries.atoms import as_tensor
from patchclamp.dictionaries.codes import Codes
from patchclamp.dictionaries.dictionary import BLOCK, Dictionary
from patchclamp.dictionaries.encoder import Encoder

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

DENSE = 0.1
"""Latents that fire on more than this share of rows are dense."""


@dataclass(eq=False)
class DictionaryEvaluation(DatasetResult):
    """A dictionary on held-out rows.

    ``data`` has the dims ``latent`` and ``active``. Of each latent: ``density``, the share of rows in which it is not zero, and
    ``strength``, its mean value there (NaN if there are none). ``rows`` is the number of rows with so many active latents.
    Numbers of all rows: ``explained_variance``, ``1 - sum |x - y|^2 / sum |x - mean(x)|^2`` with the reconstruction y, summed over
    rows and coordinates (R^2; the fraction of variance unexplained, FVU, is the rest to 1); ``cosine``, the mean cosine of x and
    y; ``length``, the mean of ``|y| / |x|`` (below 1 the dictionary shrinks). Rows that are exactly 0 count in neither of the last
    two.
    """

    kind: ClassVar[str] = "evaluation"

    @property
    def explained_variance(self) -> float:
        """The share of the rows' variance that is explained."""
        return float(self.dataset["explained_variance"])

    @property
    def l0(self) -> float:
        """The mean number of active latents of a row."""
        return float(self.dataset["density"].sum())

    def summary(self) -> dict[str, float]:
        """The numbers of all rows; ``l0`` with its deviation over rows; ``dead`` and ``dense`` latents (over 10 % of rows)."""
        data = self.dataset
        active, rows = data["active"].values, data["rows"].values
        deviation = float(((active - self.l0) ** 2 * rows).sum() / rows.sum()) ** 0.5
        return {
            "explained_variance": self.explained_variance,
            "fvu": 1 - self.explained_variance,
            "cosine": float(data["cosine"]),
            "length": float(data["length"]),
            "l0": self.l0,
            "l0_deviation": deviation,
            "dead": int((data["density"] == 0).sum()),
            "dense": int((data["density"] > DENSE).sum()),
            "width": data.sizes["latent"],
            "rows": int(rows.sum()),
        }

    def __repr__(self) -> str:
        numbers = self.summary()
        return (
            f"Evaluation on {numbers['rows']:,} rows: explained variance {numbers['explained_variance']:.4f}, L0 "
            f"{numbers['l0']:.1f} ± {numbers['l0_deviation']:.1f}, cosine {numbers['cosine']:.4f}, length "
            f"{numbers['length']:.3f}; of {numbers['width']:,} latents {numbers['dead']} dead, {numbers['dense']} dense"
        )


@checked
def evaluate(
    dictionary: Dictionary,
    rows: Array | ActivationStream,
    *,
    encoder: Encoder | None = None,
    batches: int | None = None,
) -> DictionaryEvaluation:
    """Measure a dictionary on held-out rows, batch by batch, so that any number of rows needs the memory of one batch.

    Another encoder on the same atoms tells what is the encoder's fault: with ``OMP(k=...)`` beside the trained one it gives
    the amortisation gap (O'Neill et al. 2025, arXiv 2411.13117).

    Args:
        dictionary: The dictionary.
        rows: Activations ``[row, d]``, or a stream, which is read on from where it stands and not moved: after training on an
            endless stream, its next rows are held out.
        encoder: Another rule than the dictionary's own.
        batches: How many batches of a stream; all by default, which an endless stream does not have.

    Raises:
        InputError: No rows, rows of another width, or numbers that are not finite; a stream that is exhausted, or endless without
            ``batches``.
    """
    if batches is not None and batches < 1:
        raise InputError(f"batches is 1 or more; got {batches}")
    sums = _RowSums(dictionary.width, dictionary.atoms.device)
    with torch.no_grad():
        for x in _batches(rows, batches):
            codes = dictionary.codes(x, encoder)
            sums.add(x.to(dictionary.atoms.dtype), codes, dictionary.decode(codes))
    if not sums.count:
        raise InputError("there are no rows to measure the dictionary on")
    if not sums.variance > 0:
        raise InputError("all rows are equal, so there is no variance to explain")
    parameters = {
        "width": dictionary.width, "d": dictionary.d, "rows": sums.count, "encoder": repr(encoder or dictionary.encoder),
        "digest": digest(dictionary.atoms.cpu(), sums.mean.cpu(), sums.variance),
    }  # fmt: skip
    return DictionaryEvaluation(sums.dataset(), record_of_arrays(parameters))


def _batches(rows: Array | ActivationStream, batches: int | None) -> Iterator[Float[Tensor, "row d"]]:
    if not isinstance(rows, ActivationStream):
        x = as_tensor(rows, "rows")
        if x.ndim != 2:
            raise InputError(f"rows are [row, d]; got shape {tuple(x.shape)}")
        yield from islice((block for block in x.split(BLOCK) if len(block)), batches)
        return
    if rows.count is None and batches is None:
        raise InputError("this stream has no end: say how many batches to measure on")
    ahead = copy(rows)
    ahead.restore(rows.state())
    yield from (batch.rows for batch in islice(ahead, batches))


class _RowSums:
    """Running sums in float64; variance by the shifted mean of Chan, Golub & LeVeque 1979, which large means do not spoil."""

    def __init__(self, width: int, device: torch.device) -> None:
        self.count, self.error, self.variance = 0, 0.0, 0.0
        self.mean: Tensor = torch.zeros((), dtype=torch.float64, device=device)
        self.cosine, self.length, self.directed = 0.0, 0.0, 0
        self.fired, self.total = (torch.zeros(width, dtype=torch.float64, device=device) for _ in range(2))
        self.active: Tensor = torch.zeros(1, dtype=torch.int64, device=device)

    def add(self, x: Float[Tensor, "row d"], codes: Codes, y: Float[Tensor, "row d"]) -> None:
        """Count some rows, their codes and reconstructions."""
        x, y = x.double(), y.double()
        mean, count = x.mean(0), self.count + len(x)
        shift = mean - self.mean
        self.variance += float((x - mean).square().sum() + shift.square().sum() * (self.count * len(x) / count))
        self.mean = self.mean + shift * (len(x) / count)
        self.count = count
        self.error += float((x - y).square().sum())
        lengths, output = x.norm(dim=1), y.norm(dim=1)
        directed = lengths > 0
        self.directed += int(directed.sum())
        self.length += float((output / lengths)[directed].sum())
        products = (x * y).sum(1) / (lengths * output).clamp_min(torch.finfo(x.dtype).tiny)
        self.cosine += float(products[directed].sum())
        self.fired += codes.firings()
        self.total.index_add_(0, codes.latents, codes.values.double())
        active = torch.bincount(codes.counts(), minlength=len(self.active))
        active[: len(self.active)] += self.active
        self.active = active

    def dataset(self) -> "xr.Dataset":
        """What the sums say."""
        import xarray as xr

        strength = torch.where(self.fired > 0, self.total / self.fired, torch.nan)
        return xr.Dataset(
            {
                "density": ("latent", (self.fired / self.count).cpu().numpy()),
                "strength": ("latent", strength.cpu().numpy()),
                "rows": ("active", self.active.cpu().numpy()),
                "explained_variance": 1 - self.error / self.variance,
                "cosine": self.cosine / max(self.directed, 1),
                "length": self.length / max(self.directed, 1),
            },
            {"active": np.arange(len(self.active))},
        )


@dataclass(eq=False)
class Frontier(DatasetResult):
    """Explained variance against L0 of several dictionaries.

    ``data`` has the dim ``dictionary``: ``method``, ``l0``, ``explained_variance``, ``dead``, ``dense``, ``width`` and ``best``,
    whether no other explains as much with as few active latents (the Pareto front).
    """

    kind: ClassVar[str] = "frontier"

    def __repr__(self) -> str:
        return self.frame().to_string(index=False, float_format=lambda value: f"{value:.4g}")

    def frame(self) -> "pd.DataFrame":
        """One row a dictionary."""
        return self.dataset.to_dataframe().reset_index(drop=True)


@checked
def frontier(evaluations: Mapping[str, Sequence[DictionaryEvaluation]]) -> Frontier:
    """Hold dictionaries against each other: what they explain, and with how many latents.

    Args:
        evaluations: Those of each method, in any order.

    Raises:
        InputError: There are none.
    """
    import xarray as xr

    points = [(method, evaluation.summary()) for method, several in evaluations.items() for evaluation in several]
    if not points:
        raise InputError("there are no evaluations to compare")
    names = ("l0", "explained_variance", "dead", "dense", "width")
    columns = {name: np.array([summary[name] for _, summary in points]) for name in names}
    l0, explained = columns["l0"], columns["explained_variance"]
    as_good = (l0[:, None] >= l0) & (explained[:, None] <= explained)
    dominated = as_good & ((l0[:, None] > l0) | (explained[:, None] < explained))
    arrays = {"method": np.array([method for method, _ in points], dtype=object), **columns, "best": ~dominated.any(1)}
    digests = [
        evaluation.plain_record()["parameters"]["digest"] for several in evaluations.values() for evaluation in several
    ]
    dataset = xr.Dataset({name: ("dictionary", column) for name, column in arrays.items()})
    return Frontier(dataset, record_of_arrays({"methods": list(evaluations), "digests": digests}))

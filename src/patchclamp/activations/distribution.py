"""How activations are distributed, neuron by neuron, beside what the toy models of superposition assume."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from patchclamp.activations.live import activation_stream
from patchclamp.activations.stream import ActivationStream
from patchclamp.core.call import recorded
from patchclamp.core.errors import InputError
from patchclamp.core.kinds import Seed
from patchclamp.core.progress import Listener, task
from patchclamp.core.result import DatasetResult
from patchclamp.interventions import provenance, record
from patchclamp.models.opened import OpenModel

if TYPE_CHECKING:
    import xarray as xr

STATISTICS = ("mean", "deviation", "skewness", "kurtosis", "zeros", "positive", "density")
_MOST_NUMBERS = 2**28
_LEAST_ROWS = 8
_TOY_ROWS = 4096


@dataclass(eq=False)
class ActivationDistribution(DatasetResult):
    """Statistics of each neuron at one site, and of the toy model's.

    ``data`` has dims ``of, statistic, neuron``. ``of`` is ``model`` or ``toy``: sparse non-negative uniform coefficients in a
    random dictionary, of the same width. The statistics are the mean, the standard deviation, the skewness, the excess kurtosis
    (0 of a normal distribution), the shares of exact zeros and of positive numbers, and the density ``E[|x|]^2 / E[x^2]`` (Treves
    and Rolls 1991): 2/pi of a centred normal distribution, and p times that of the active part if a share p is active. Those
    of a neuron that never changes are NaN where they are not defined.
    """

    kind: ClassVar[str] = "activation_distribution"

    def __repr__(self) -> str:
        data = self.dataset["value"]
        lines = [
            f"ActivationDistribution of {self.dataset.attrs['site']}: {self.dataset.attrs['rows']} rows, median neuron"
        ]
        for statistic in STATISTICS:
            values = [float(data.sel(of=of, statistic=statistic).median()) for of in ("model", "toy")]
            lines.append(f"{statistic:<10} {values[0]:>10.3g}   toy {values[1]:>10.3g}")
        return "\n".join(lines)


class StreamMoments:
    """Central moments of each column up to the fourth, in float64 and one pass.

    Source: Pebay 2008, "Formulas for robust, one-pass parallel computation of covariances and arbitrary-order statistical
    moments", equations 2.1 and 2.2 (SAND2008-6212).
    """

    def __init__(self, d: int, device: torch.device | str = "cpu") -> None:
        self.n = 0
        self.mean, self.m2, self.m3, self.m4, self.absolute, self.zeros, self.positive = torch.zeros(
            7, d, dtype=torch.float64, device=device
        )

    def update(self, rows: Tensor) -> None:
        """Take in rows ``[row, d]``."""
        x = rows.to(torch.float64)
        mean, b, a = x.mean(0), len(x), self.n
        centred = x - mean
        m2, m3, m4 = (centred.pow(power).sum(0) for power in (2, 3, 4))
        n, delta = a + b, mean - self.mean
        self.m4 = (
            self.m4 + m4 + delta**4 * a * b * (a * a - a * b + b * b) / n**3
            + 6 * delta**2 * (a * a * m2 + b * b * self.m2) / n**2 + 4 * delta * (a * m3 - b * self.m3) / n
        )  # fmt: skip
        self.m3 = self.m3 + m3 + delta**3 * a * b * (a - b) / n**2 + 3 * delta * (a * m2 - b * self.m2) / n
        self.m2 = self.m2 + m2 + delta**2 * a * b / n
        self.mean, self.n = self.mean + delta * b / n, n
        self.absolute, self.zeros = self.absolute + x.abs().sum(0), self.zeros + (x == 0).sum(0)
        self.positive = self.positive + (x > 0).sum(0)

    def statistics(self) -> Tensor:
        """``[statistic, d]``, in the order of ``STATISTICS``."""
        n, variance = self.n, self.m2 / self.n
        square = variance + self.mean.square()
        values = (
            self.mean, variance.sqrt(), self.m3 / n / variance**1.5, self.m4 / n / variance**2 - 3,
            self.zeros / n, self.positive / n, (self.absolute / n).square() / square,
        )  # fmt: skip
        return torch.stack(values).cpu()


def toy_rows(rows: int, d: int, features: int, active: float, seed: int) -> Tensor:
    """Rows of the toy model ``[row, d]``: each of some random unit vectors is on with one probability, and then uniform in 0..1."""
    if features * max(rows, d) > _MOST_NUMBERS:
        raise InputError(
            f"features={features:,}: {rows:,} rows of the toy model would need {features * rows:,} numbers at once"
        )
    generator = torch.Generator().manual_seed(seed)
    dictionary = torch.nn.functional.normalize(torch.randn(features, d, generator=generator), dim=1)
    on = torch.rand(rows, features, generator=generator) < active / features
    return (on * torch.rand(rows, features, generator=generator)) @ dictionary


@recorded
def activation_distribution(
    model: OpenModel,
    corpus: Any,
    site: str,
    *,
    tokens: int | None = 20_000,
    length: int | None = None,
    pack: bool = True,
    skip_special: bool = True,
    features: int | None = None,
    active: float = 5.0,
    seed: Seed = 0,
    progress: bool | Listener | None = None,
) -> ActivationDistribution:
    """Measure how the activations of each neuron are distributed, beside those of the toy model of superposition.

    One pass over the corpus in bounded memory, in float64.

    Args:
        model: The model.
        corpus: As for :meth:`patchclamp.Model.activation_stream`; inputs of the module where it takes no tokens.
        site: One site, as ``"mlp_act.3"``.
        tokens: The largest number of tokens to read; None for all.
        length: As for :meth:`patchclamp.Model.activation_stream`.
        pack: As for :meth:`patchclamp.Model.activation_stream`.
        skip_special: As for :meth:`patchclamp.Model.activation_stream`.
        features: The number of the toy model's features; twice the width by default.
        active: The mean number of them that are on in a row.
        seed: The seed of the toy model.
        progress: True for a bar, a function for events.

    Raises:
        InputError: As for :meth:`patchclamp.Model.activation_stream`, or toy features that cannot be.
    """
    if (features is not None and features < 1) or not 0 < active < float("inf"):
        raise InputError(f"features are 1 or more and active is above 0; got {features!r} and {active!r}")
    inputs = (
        corpus if isinstance(corpus, str | Tensor | np.ndarray) or not hasattr(corpus, "__iter__") else list(corpus)
    )
    if model.takes_tokens:
        stream = activation_stream(
            model, inputs, site, tokens=tokens, length=length, pack=pack, skip_special=skip_special, shuffle=False
        )
    else:
        stream = ActivationStream.from_recording(record(model, inputs, site), site, shuffle=False)
    width = features or 2 * stream.d
    if active > width:
        raise InputError(f"active={active} is more than the toy model's {width} features")
    moments: StreamMoments | None = None
    with task("activations", stream.count or 0, "rows", show=progress) as bar:
        for batch in stream:
            moments = moments or StreamMoments(stream.d, batch.rows.device)
            moments.update(batch.rows)
            bar.advance(len(batch))
    assert moments is not None
    if moments.n < _LEAST_ROWS:
        raise InputError(f"{moments.n} rows say nothing of a distribution: at least {_LEAST_ROWS} are needed")
    toy = StreamMoments(stream.d)
    toy.update(toy_rows(_TOY_ROWS, stream.d, width, active, seed))
    values = torch.stack([moments.statistics(), toy.statistics()])
    return ActivationDistribution(_dataset(values, site, moments.n), *provenance(model, [], corpus=inputs))


def _dataset(values: Tensor, site: str, rows: int) -> "xr.Dataset":
    import xarray as xr

    coords = {"of": ["model", "toy"], "statistic": list(STATISTICS), "neuron": np.arange(values.shape[2])}
    variable = (("of", "statistic", "neuron"), values.numpy())
    return xr.Dataset({"value": variable}, coords=coords, attrs={"site": site, "rows": rows})

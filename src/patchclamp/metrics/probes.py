"""What a probe can still read after an erasure, always on held-out rows and beside a random projection of equal rank."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from patchclamp.core.arguments import checked
from patchclamp.core.digest import digest
from patchclamp.core.errors import InputError, check_choice
from patchclamp.core.intervals import bootstrap, wilson
from patchclamp.core.kinds import Array, Groups, Labels, Seed
from patchclamp.core.readers import refuses, shown
from patchclamp.core.result import DatasetResult, record_of_arrays
from patchclamp.interventions import to_numpy
from patchclamp.metrics.classifiers import PROBES, FittedProbe, ProbeRows, fit, guess, scale_of
from patchclamp.metrics.controls import control_labels, random_projection, rank_of, rounding_of
from patchclamp.metrics.edited import table
from patchclamp.metrics.splits import split

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

BEFORE, AFTER, RANDOM = "before", "after", "random"
CONCEPT, CONTROL = "concept", "control"


@dataclass(eq=False)
class ProbeReport(DatasetResult):
    """Probes before and after an erasure, and after a random projection of equal rank.

    ``data`` has dims ``data`` (before, after, random), ``probe`` (linear, mlp) and ``task`` (concept, control): ``accuracy``
    with its 95 % interval ``low, high``, ``loss`` (cross-entropy in nats) and ``converged``, all on held-out rows; what a
    guess from the training frequencies gets is ``chance_accuracy`` (the most frequent class) and ``chance_loss``. ``gap_left``,
    with dims ``data, rows`` (train, test), is the distance between class means in units of that before; ``damage`` is
    E|r(x) - x|^2 / E|x - mean|^2 on held-out rows.

    Source: control tasks and selectivity, Hewitt & Liang 2019, arXiv 1909.03368; the random control, Elazar et al. 2021,
    "Amnesic Probing", arXiv 2006.00995.
    """

    kind: ClassVar[str] = "probe_report"
    drawn_by: ClassVar[str] = "probes"
    shown_by: ClassVar[str] = "metrics"

    def selectivity(self) -> "xr.DataArray":
        """Accuracy on the concept minus accuracy on the control task, dims ``data, probe``."""
        accuracy = self.dataset["accuracy"]
        return accuracy.sel(task=CONCEPT, drop=True) - accuracy.sel(task=CONTROL, drop=True)

    def summary(self) -> "pd.DataFrame":
        """One row a version of the data and probe."""
        rows = []
        for version in self.dataset["data"].values:
            for name in self.dataset["probe"].values:
                version_row = self.dataset.sel(data=version, probe=name)
                concept_row = version_row.sel(task=CONCEPT)
                rows.append({
                    "data": version, "probe": name,
                    **{part: float(concept_row[part]) for part in ("accuracy", "low", "high", "loss")},
                    "selectivity": float(self.selectivity().sel(data=version, probe=name)),
                    "gap_left": float(version_row["gap_left"].sel(rows="test")), "damage": float(version_row["damage"]),
                    "converged": bool(version_row["converged"].all()),
                })  # fmt: skip
        return table(rows)

    def frame(self) -> "pd.DataFrame":
        """One row a version of the data, probe and task."""
        return self.dataset[["accuracy", "low", "high", "loss", "converged"]].to_dataframe().reset_index()

    def __repr__(self) -> str:
        parameters = self.record["parameters"]
        lines = [
            f"ProbeReport on {parameters['test_rows']} held-out rows of {parameters['rows']}: chance accuracy "
            f"{float(self.dataset['chance_accuracy']):.3f}, loss {float(self.dataset['chance_loss']):.3f}; "
            f"rank {parameters['rank']}"
        ]
        for row in self.summary().itertuples():
            lines.append(
                f"{row.data:<7} {row.probe:<7} accuracy {row.accuracy:.3f} [{row.low:.3f}, {row.high:.3f}], loss {row.loss:.3f}, "
                f"selectivity {row.selectivity:+.3f}, gap left {row.gap_left:.2g}, damage {row.damage:.2g}"
                + ("" if row.converged else ", not converged")
            )
        return "\n".join(lines)


@checked
def probe(
    X: Array,
    z: Labels,
    transform: Any,
    *,
    groups: Groups = None,
    types: Groups = None,
    rank: int | None = None,
    probes: Sequence[str] = tuple(PROBES),
    test_size: float = 0.3,
    seed: Seed = 0,
) -> ProbeReport:
    """Train probes before and after an erasure, and measure them on held-out rows.

    Args:
        X: The rows, ``[row, d]``.
        z: The class of each row.
        transform: The erasure, ``[row, d] -> [row, d]``: a function, or something with a ``transform``. It should be fitted on
            the training rows of :func:`split` alone, with the same groups, size and seed.
        groups: Rows of one group are never on both sides of the split.
        types: For the control task: rows of one type (as of one token) get one random label. Without types labels are
            shuffled over the rows of each side, and no probe can beat chance on them.
        rank: The rank of the random projection; by default the rank of what the erasure changes.
        probes: The probes: "linear" (logistic), "mlp" (64 hidden units).
        test_size: The share of rows that is held out.
        seed: The seed of the split, the control labels, the random projection and the MLP.

    Raises:
        InputError: Shapes differ, values are not finite, or a class has too few rows.
    """
    data, labels = _array(X), np.asarray(z)
    if len(labels) != len(data):
        raise InputError(f"labels are one a row: got {len(labels)} for {len(data)} rows")
    for name in probes:
        check_choice("probe", name, PROBES)
    if not callable(transform) and not callable(getattr(transform, "transform", None)):
        raise InputError(f"transform={shown(transform)} is no erasure: a function, or something with a transform")
    function: Callable[[Any], Any] = getattr(transform, "transform", transform)
    if refuses(function, 1):
        raise InputError(f"transform={shown(transform)} is no erasure: it does not take one argument, the rows")
    train, test = split(labels, groups, test_size=test_size, seed=seed)
    if not np.ptp(data[train], 0).any():
        raise InputError("all rows of X are equal where the probe learns, so there is nothing to read")
    erased_rows = function(data.copy())
    after = _array(erased_rows)
    if after.shape != data.shape:
        raise InputError(f"the erasure turned {data.shape} into {after.shape}; it must keep the shape")
    generator = np.random.default_rng(seed)
    projection_rank = rank_of((after - data)[train], rounding_of(erased_rows, data)) if rank is None else rank
    versions = {
        BEFORE: data,
        AFTER: after,
        RANDOM: random_projection(data, data[train].mean(0), projection_rank, generator),
    }
    tasks = {CONCEPT: labels, CONTROL: control_labels(labels, types, train, test, generator)}
    # the deviations of the untouched rows for every version: rounding along an erased direction must not become a feature
    mean, deviation = scale_of(data[train])
    group_of_row = np.arange(len(data)) if groups is None else np.asarray(groups)
    fits: dict[tuple[str, str, str], FittedProbe] = {}
    for version, rows in versions.items():
        scaled = (rows - mean) / deviation
        for task, task_labels in tasks.items():
            train_rows, test_rows = (
                ProbeRows(scaled[part], task_labels[part], group_of_row[part]) for part in (train, test)
            )
            fits |= {(version, name, task): fit(name, train_rows, test_rows, seed) for name in probes}
    test_groups = None if groups is None else group_of_row[test]
    dataset = _dataset(fits, versions, list(probes), test_groups, guess(labels[train], labels[test]), seed)
    gaps = np.array([[_gap(rows[part], labels[part]) for part in (train, test)] for rows in versions.values()])
    variance = ((data[test] - data[test].mean(0)) ** 2).sum()
    dataset["gap_left"] = (("data", "rows"), gaps / gaps[0])
    dataset["damage"] = ("data", [float(((rows - data)[test] ** 2).sum() / variance) for rows in versions.values()])
    record = {
        "rows": len(data), "test_rows": len(test), "d": data.shape[1], "rank": projection_rank,
        "test_size": test_size, "seed": seed,
        "grouped": groups is not None, "typed": types is not None, "digest": digest(torch.from_numpy(data), labels.tolist()),
    }  # fmt: skip
    return ProbeReport(dataset, record_of_arrays(record))


def _array(rows: Any) -> Any:
    array = np.asarray(to_numpy(rows) if isinstance(rows, torch.Tensor) else rows, dtype=np.float64)
    if array.ndim != 2:
        raise InputError(f"rows of features [row, d] are wanted; got shape {array.shape}")
    if not np.isfinite(array).all():
        raise InputError(
            f"features must be finite; {int((~np.isfinite(array)).any(1).sum())} of {len(array)} rows are not"
        )
    return array


def _gap(rows: Any, labels: Any) -> float:
    """The distance between class means: the root of the summed squares of their differences from the mean of them."""
    means = np.stack([rows[labels == label].mean(0) for label in np.unique(labels)])
    return float(np.linalg.norm(means - means.mean(0)))


def _dataset(
    fits: dict[tuple[str, str, str], FittedProbe],
    versions: dict[str, Any],
    probes: list[str],
    groups: Any,
    chance: tuple[float, float],
    seed: int,
) -> "xr.Dataset":
    import xarray as xr

    dims, axes = ("data", "probe", "task"), (list(versions), probes, [CONCEPT, CONTROL])
    arrays = {name: np.empty(tuple(map(len, axes))) for name in ("accuracy", "low", "high", "loss")}
    converged = np.empty(arrays["loss"].shape, dtype=bool)
    for index in np.ndindex(converged.shape):
        fit_result = fits[axes[0][index[0]], axes[1][index[1]], axes[2][index[2]]]
        low, high = _interval(fit_result.correct, groups, seed)
        for name, value in (("accuracy", fit_result.accuracy), ("low", low), ("high", high), ("loss", fit_result.loss)):
            arrays[name][index] = value
        converged[index] = fit_result.converged
    coords = {name: np.array(names, dtype=object) for name, names in zip(dims, axes, strict=True)}
    coords["rows"] = np.array(["train", "test"], dtype=object)
    values = {name: (dims, numbers) for name, numbers in arrays.items()}
    chances = {"chance_accuracy": chance[0], "chance_loss": chance[1]}
    return xr.Dataset(values | {"converged": (dims, converged)} | chances, coords)


def _interval(correct: Any, groups: Any, seed: int) -> tuple[float, float]:
    """The 95 % interval of an accuracy: over rows (Wilson), or over groups, whose rows are not independent (bootstrap)."""
    if groups is None:
        return wilson(int(correct.sum()), len(correct))
    _, group_index, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    means = np.bincount(group_index, weights=correct) / sizes
    return bootstrap(means, seed, sizes) if len(sizes) > 1 else (np.nan, np.nan)

"""Whether dictionaries agree: a dictionary with a larger one, one seed with another."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from patchclamp.core.arguments import checked
from patchclamp.core.digest import digest
from patchclamp.core.errors import InputError
from patchclamp.core.intervals import RESAMPLES, mean_row
from patchclamp.core.kinds import Array, Seed
from patchclamp.core.result import DatasetResult, record_of_arrays
from patchclamp.dictionaries.atoms import atoms_of, match_atoms, unit_rows
from patchclamp.dictionaries.dictionary import Dictionary

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


@dataclass(eq=False)
class DictionaryAgreement(DatasetResult):
    """Dictionaries beside each other, every one with every other.

    ``data`` has the dim ``entry``: an atom of ``dictionary`` beside the whole of ``other``; ``mcs`` is the largest cosine of any
    of its atoms, signed, and ``matched`` the absolute cosine of the one that a one-to-one matching gives it (NaN if none).
    """

    kind: ClassVar[str] = "agreement"

    def summary(self) -> "pd.DataFrame":
        """One row a pair: the mean largest cosine (MMCS) with its 95 % bootstrap interval over atoms, and the share above .9.

        ``matched`` is the mean of the matching. That of a dictionary with a larger one is the post's comparison of widths.
        """
        import pandas as pd

        rows = []
        for (name, other), part in self._pairs().items():
            mean = mean_row(part["mcs"].values, seed=0)
            rows.append({
                "dictionary": name, "other": other, "atoms": len(part), "mmcs": mean["mean"], "low": mean["low"],
                "high": mean["high"], "above_0.9": float((part["mcs"] > 0.9).mean()), "matched": float(part["matched"].mean()),
            })  # fmt: skip
        return pd.DataFrame(rows)

    def overall(self, seed: Seed = 0) -> dict[str, float]:
        """The mean over all pairs, with a 95 % bootstrap interval over dictionaries, as over seeds; NaN for fewer than three.

        Args:
            seed: Of the draws.
        """
        table = self.summary()
        names = list(dict.fromkeys(table["dictionary"]))
        means = table.pivot_table(index="dictionary", columns="other", values="mmcs").loc[names, names].to_numpy()
        mean = float(np.nanmean(means))
        if len(names) < 3:
            return {"mean": mean, "low": np.nan, "high": np.nan, "count": len(names)}
        draws = np.random.default_rng(seed).integers(len(names), size=(RESAMPLES, len(names)))
        # a dictionary drawn twice says nothing beside itself: its pairs, NaN on the diagonal, are left out
        samples = [np.nanmean(means[np.ix_(draw, draw)]) for draw in draws if len(set(draw)) > 1]
        low, high = np.percentile(samples, [2.5, 97.5])
        return {"mean": mean, "low": float(low), "high": float(high), "count": len(names)}

    def _pairs(self) -> "dict[tuple[str, str], pd.DataFrame]":
        frame = self.dataset.to_dataframe()
        groups = frame.groupby(["dictionary", "other"], sort=False)
        return {(str(name), str(other)): part for (name, other), part in groups}

    def __repr__(self) -> str:
        return self.summary().to_string(index=False, float_format=lambda value: f"{value:.3f}")


@checked
def agreement(*dictionaries: Dictionary | Array, names: Sequence[str] | None = None) -> DictionaryAgreement:
    """Hold dictionaries against each other: of two widths, or of several seeds.

    Source: Sharkey, Braun & Millidge 2022 (similarity with larger dictionaries).

    Args:
        *dictionaries: Two or more dictionaries, or atoms ``[width, d]``, of one width of rows.
        names: What they are called; "0", "1" and so on by default.

    Raises:
        InputError: Fewer than two, rows of different widths, or names that do not fit.
    """
    if len(dictionaries) < 2:
        raise InputError(f"dictionaries agree with each other: give two or more; got {len(dictionaries)}")
    labels = [str(number) for number in range(len(dictionaries))] if names is None else list(names)
    if len(labels) != len(dictionaries) or len(set(labels)) < len(labels):
        raise InputError(f"names are one a dictionary, each its own; got {labels} for {len(dictionaries)} dictionaries")
    atoms = [
        atoms_of(dictionary, f"dictionary {name!r}") for name, dictionary in zip(labels, dictionaries, strict=True)
    ]
    if len(widths := {part.shape[1] for part in atoms}) > 1:
        raise InputError(f"dictionaries of rows of different widths cannot agree: {sorted(widths)}")
    parameters = {
        "names": labels,
        "widths": [len(part) for part in atoms],
        "digest": digest(*(part.cpu() for part in atoms)),
    }
    return DictionaryAgreement(_dataset(labels, atoms), record_of_arrays(parameters))


def _dataset(labels: Sequence[str], atoms: Sequence[Array]) -> "xr.Dataset":
    import xarray as xr

    columns: dict[str, list[Array]] = {name: [] for name in ("dictionary", "other", "atom", "mcs", "matched")}
    for i, j in permutations(range(len(labels)), 2):
        cosines = unit_rows(atoms[i]) @ unit_rows(atoms[j]).T.to(atoms[i])
        rows, partners = match_atoms(cosines)
        matched = cosines.new_full((len(cosines),), float("nan"))
        matched[rows] = cosines[rows, partners].abs()
        columns["dictionary"].append(np.full(len(cosines), labels[i], dtype=object))
        columns["other"].append(np.full(len(cosines), labels[j], dtype=object))
        columns["atom"].append(np.arange(len(cosines)))
        columns["mcs"].append(cosines.max(1).values.cpu().numpy())
        columns["matched"].append(matched.cpu().numpy())
    return xr.Dataset({name: ("entry", np.concatenate(parts)) for name, parts in columns.items()})

"""How much of the truth a dictionary recovers: by its atoms, and by what its latents fire on."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from patchclamp.core.arguments import checked
from patchclamp.core.digest import digest
from patchclamp.core.errors import InputError
from patchclamp.core.kinds import Array, Seed, between
from patchclamp.core.result import DatasetResult, record_of_arrays
from patchclamp.dictionaries.atoms import atoms_of, match_atoms, unit_rows
from patchclamp.dictionaries.codes import Codes
from patchclamp.dictionaries.dictionary import BLOCK, Dictionary
from patchclamp.dictionaries.encoder import Encoder
from patchclamp.dictionaries.toy import ToyData

if TYPE_CHECKING:
    import xarray as xr

THRESHOLDS = (0.9, 0.99)
DENSE = 0.1
"""Latents that fire on more than this share of rows are dense."""
DUPLICATE = 0.95
"""Atoms whose cosine is above this are duplicates."""


@dataclass(eq=False)
class Recovery(DatasetResult):
    """A dictionary held against the features that made its data.

    ``data`` has dims ``feature`` and ``atom``. Of each true feature: ``mcs``, the largest cosine of any atom (signed), and
    ``best_atom``; ``matched``, the absolute cosine of the atom that the one-to-one matching gives it (Hungarian algorithm; NaN
    if it gets none), and ``matched_atom`` (-1); ``probability``, how often it is on. Of each atom: ``atom_mcs``, its largest
    cosine with any feature, and ``best_feature``, that with the largest absolute cosine; ``duplicate``, whether an atom before
    it is almost the same.

    Where codes of held-out rows were made: ``density``, the share of rows in which a latent fires, and ``precision``,
    ``recall``, ``f1`` and ``accuracy`` of it as a detector of its ``best_feature``. Of each feature ``contribution`` compares
    what it adds to rows, ``c g``, with what its matched latent adds, ``z a``: ``1 - E|c g - z a|^2 / E|c g|^2``. That puts the
    scale into the coefficients, where the atom's length may be split from the code's in any way; shrinkage, which no
    cosine sees, counts.
    1 is perfect, 0 as good as no latent, below 0 worse. ``true_density`` and ``true_square`` are how often a feature is on in
    these rows and the mean square of what it adds.

    Sources: MMCS, Sharkey, Braun & Millidge 2022; MCC, uniqueness and F1 as in SynthSAEBench, Chanin et al. 2026, arXiv
    2602.14687, and MCC from Song et al. 2025, arXiv 2505.20254.
    """

    kind: ClassVar[str] = "recovery"

    @property
    def mmcs(self) -> float:
        """Mean over true features of the largest cosine of any atom, signed: the post's metric."""
        return float(self.dataset["mcs"].mean())

    def summary(self) -> dict[str, float]:
        """The numbers of the whole dictionary.

        ``mmcs``; ``atom_mmcs``, the same in the other direction; ``weighted_mmcs``, features weighted by how often they are on;
        ``mcc``, the mean absolute cosine of the one-to-one matching; ``uniqueness``, the number of features that are best for
        some atom, over the number of atoms; ``recovered_0.9`` and ``recovered_0.99``, shares of features; ``precision_0.9``, the
        share of atoms whose cosine with a feature is above .9; ``duplicates``. With codes ``f1``, ``precision``, ``recall``,
        ``accuracy`` as means over latents, ``dead``, ``dense``, ``l0``, ``true_l0``, and ``contribution`` of all
        features together, each
        weighted by the mean square of its part of the rows.
        """
        data = self.dataset
        mcs, weights = data["mcs"].values, data["probability"].values
        numbers = {
            "mmcs": self.mmcs,
            "atom_mmcs": float(data["atom_mcs"].mean()),
            "weighted_mmcs": float((mcs * weights).sum() / weights.sum()),
            "mcc": float(np.nanmean(data["matched"].values)),
            "uniqueness": len(np.unique(data["best_feature"].values)) / data.sizes["atom"],
            **{f"recovered_{threshold}": float((mcs > threshold).mean()) for threshold in THRESHOLDS},
            f"precision_{THRESHOLDS[0]}": float((data["atom_mcs"].values > THRESHOLDS[0]).mean()),
            "duplicates": int(data["duplicate"].sum()),
        }
        if "density" in data:
            density = data["density"].values
            numbers |= {name: float(data[name].mean()) for name in ("f1", "precision", "recall", "accuracy")}
            numbers |= {
                "dead": int((density == 0).sum()),
                "dense": int((density > DENSE).sum()),
                "l0": float(density.sum()),
                "true_l0": float(data["true_density"].sum()),
                "contribution": self._contribution(),
            }
        return numbers

    def _contribution(self) -> float:
        weights = self.dataset["true_square"].values
        return float((np.nan_to_num(self.dataset["contribution"].values) * weights).sum() / weights.sum())

    def histogram(self, bins: int = 50) -> "xr.DataArray":
        """How many features have which largest cosine: what one mean hides.

        Args:
            bins: Intervals of equal length between -1 and 1.
        """
        import xarray as xr

        counts, edges = np.histogram(self.dataset["mcs"].values, bins=bins, range=(-1, 1))
        return xr.DataArray(counts, {"mcs": (edges[:-1] + edges[1:]) / 2}, ["mcs"], name="features")

    def __repr__(self) -> str:
        numbers = self.summary()
        lines = [f"Recovery of {self.dataset.sizes['feature']} features by {self.dataset.sizes['atom']} atoms"]
        lines += [f"{name:<16} {value:.4g}" for name, value in numbers.items()]
        return "\n".join(lines)


@checked
def recovery(
    dictionary: Dictionary | Array,
    truth: ToyData | Array,
    *,
    encoder: Encoder | None = None,
    rows: Array | None = None,
    coefficients: Codes | Array | None = None,
    samples: Annotated[int, between(32, 10**7, "held-out rows")] = 40_960,
    seed: Seed = 2**31,
) -> Recovery:
    """Hold a dictionary against the features that made its data.

    Args:
        dictionary: A dictionary, or atoms ``[width, d]`` alone, of which no codes are made.
        truth: Toy data; or true features ``[G, d]``, which come from elsewhere.
        encoder: Another rule than the dictionary's own.
        rows: Held-out rows of features from elsewhere, ``[row, d]``.
        coefficients: What made these rows, ``[row, G]``, or as codes.
        samples: How many rows toy data draw.
        seed: From where they draw them; take another one than for training.

    Raises:
        InputError: Shapes do not fit, or numbers are not finite.
    """
    atoms = atoms_of(dictionary, "dictionary")
    features = truth.features if isinstance(truth, ToyData) else atoms_of(truth, "truth")
    features = features.to(atoms)
    if atoms.shape[1] != features.shape[1]:
        raise InputError(f"atoms are of width {atoms.shape[1]} and true features of width {features.shape[1]}")
    if (rows is None) != (coefficients is None):
        raise InputError("rows and coefficients belong together: give both, or none")
    if samples < 1:
        raise InputError(f"samples is the number of held-out rows, 1 or more; got {samples}")
    cosines = unit_rows(features) @ unit_rows(atoms).T
    matched_features, matched_atoms = match_atoms(cosines)
    columns = _atom_columns(atoms, cosines, matched_features, matched_atoms)
    batches: Iterator[tuple[Tensor, Codes]] | None = None
    if rows is not None:
        batches = _given(rows, coefficients, atoms, len(features))
    elif isinstance(truth, ToyData) and isinstance(dictionary, Dictionary):
        batches = _drawn(truth, samples, seed)
    probability = truth.probabilities if isinstance(truth, ToyData) else torch.ones(len(features))
    counts = None
    if batches is not None:
        if not isinstance(dictionary, Dictionary):
            raise InputError("codes of rows are made by a dictionary; atoms alone have no encoder")
        counts = _count(dictionary, encoder, batches, atoms, cosines, columns["matched_atom"])
        columns |= counts.columns(cosines, columns["matched_atom"], columns["best_feature"])
        if not isinstance(truth, ToyData):
            probability = columns["true_density"]
    columns["probability"] = probability
    parameters = {
        "width": len(atoms), "features": len(features), "d": atoms.shape[1], "samples": None if counts is None else counts.rows,
        "encoder": None if encoder is None else repr(encoder), "seed": seed, "digest": digest(atoms.cpu(), features.cpu()),
    }  # fmt: skip
    return Recovery(_dataset(columns), record_of_arrays(parameters))


_FEATURE_COLUMNS = (
    "mcs",
    "best_atom",
    "matched",
    "matched_atom",
    "probability",
    "true_density",
    "true_square",
    "contribution",
)


def _dataset(columns: dict[str, Tensor]) -> "xr.Dataset":
    import xarray as xr

    arrays = {
        name: ("feature" if name in _FEATURE_COLUMNS else "atom", column.cpu().numpy())
        for name, column in columns.items()
    }
    return xr.Dataset(arrays)


def _atom_columns(
    atoms: Float[Tensor, "width d"],
    cosines: Float[Tensor, "G width"],
    matched_features: Int[Tensor, " pair"],
    matched_atoms: Int[Tensor, " pair"],
) -> dict[str, Tensor]:
    """What the atoms alone say."""
    best, best_atom = cosines.max(1)
    matched = cosines.new_full((len(cosines),), torch.nan)
    matched[matched_features] = cosines[matched_features, matched_atoms].abs()
    matched_atom = torch.full((len(cosines),), -1, dtype=torch.int64, device=cosines.device)
    matched_atom[matched_features] = matched_atoms
    unit = unit_rows(atoms)
    duplicate = torch.zeros(len(atoms), dtype=torch.bool, device=atoms.device)
    for start in range(0, len(atoms), BLOCK):
        block = unit[start : start + BLOCK] @ unit.T
        duplicate[start : start + BLOCK] = (block.tril(start - 1) > DUPLICATE).any(1)
    return {
        "mcs": best, "best_atom": best_atom, "matched": matched, "matched_atom": matched_atom,
        "atom_mcs": cosines.max(0).values, "best_feature": cosines.abs().argmax(0), "duplicate": duplicate,
    }  # fmt: skip


class _Counts(NamedTuple):
    """Sums over held-out rows."""

    rows: int
    fired: Float[Tensor, " width"]
    hits: Float[Tensor, " width"]
    """Rows in which a latent fires and its best feature is on."""
    true_fired: Float[Tensor, " G"]
    true_squares: Float[Tensor, " G"]
    code_squares: Float[Tensor, " width"]
    products: Float[Tensor, " G"]
    """Of each feature's coefficient and its matched latent's code."""

    def columns(
        self, cosines: Tensor, matched_atom: Int[Tensor, " G"], best_feature: Int[Tensor, " width"]
    ) -> dict[str, Tensor]:
        """What the codes say."""
        misses = self.true_fired[best_feature] - self.hits
        false_alarms = self.fired - self.hits
        precision, recall = _share(self.hits, self.fired), _share(self.hits, self.true_fired[best_feature])
        feature = torch.arange(len(cosines), device=cosines.device)
        along = cosines[feature, matched_atom] * self.products
        error = self.true_squares - 2 * along + self.code_squares[matched_atom]
        contribution = torch.where(
            (matched_atom >= 0) & (self.true_squares > 0), 1 - error / self.true_squares, torch.nan
        )
        return {
            "density": self.fired / self.rows, "true_density": self.true_fired / self.rows,
            "true_square": self.true_squares / self.rows, "precision": precision,
            "recall": recall, "f1": _share(2 * precision * recall, precision + recall),
            "accuracy": 1 - (misses + false_alarms) / self.rows, "contribution": contribution,
        }  # fmt: skip


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """0 of nothing is 0."""
    return torch.where(whole > 0, part / whole.clamp_min(torch.finfo(whole.dtype).tiny), 0.0)


@torch.no_grad()
def _count(
    dictionary: Dictionary,
    encoder: Encoder | None,
    batches: Iterator[tuple[Tensor, Codes]],
    atoms: Float[Tensor, "width d"],
    cosines: Float[Tensor, "G width"],
    matched_atom: Int[Tensor, " G"],
) -> _Counts:
    """Run over held-out rows; a code's length is that of what it adds to the row, whatever the length of its atom."""
    features, width = cosines.shape
    best_feature = cosines.abs().argmax(0)
    lengths = atoms.norm(dim=1)
    sums = {
        name: torch.zeros(width, dtype=torch.float64, device=atoms.device) for name in ("fired", "hits", "code_squares")
    }
    true = {
        name: torch.zeros(features, dtype=torch.float64, device=atoms.device)
        for name in ("true_fired", "true_squares", "products")
    }
    count = 0
    feature_of = torch.full((width,), -1, dtype=torch.int64, device=atoms.device)
    pairs = matched_atom >= 0
    feature_of[matched_atom[pairs]] = pairs.nonzero()[:, 0]
    for x, coefficients in batches:
        codes = dictionary.codes(x, encoder)
        count += len(codes)
        values = codes.values.double() * lengths.double()[codes.latents]
        fires = values != 0
        keys = coefficients.rows * features + coefficients.latents
        keys, order = keys.sort()
        amounts = coefficients.values.double()[order]
        best = _look_up(keys, amounts, codes.rows * features + best_feature[codes.latents])
        sums["fired"].index_add_(0, codes.latents, fires.double())
        sums["hits"].index_add_(0, codes.latents, (fires & (best > 0)).double())
        sums["code_squares"].index_add_(0, codes.latents, values.square())
        true["true_fired"].index_add_(0, keys % features, (amounts > 0).double())
        true["true_squares"].index_add_(0, keys % features, amounts.square())
        partner = feature_of[codes.latents]
        amount = _look_up(keys, amounts, codes.rows * features + partner.clamp_min(0))
        true["products"].index_add_(0, partner.clamp_min(0), torch.where(partner >= 0, amount * values, 0.0))
    return _Counts(count, **sums, **true)


def _look_up(keys: Int[Tensor, " active"], amounts: Float[Tensor, " active"], wanted: Int[Tensor, " code"]) -> Tensor:
    """The coefficient of each wanted (row, feature), 0 where it is not on."""
    if not len(keys):
        return amounts.new_zeros(len(wanted))
    places = torch.searchsorted(keys, wanted).clamp_max(len(keys) - 1)
    return torch.where(keys[places] == wanted, amounts[places], 0.0)


def _drawn(truth: ToyData, samples: int, seed: int) -> Iterator[tuple[Tensor, Codes]]:
    for step, start in enumerate(range(0, samples, BLOCK)):
        yield truth.sample(min(BLOCK, samples - start), seed, step)


def _given(rows: Any, coefficients: Any, atoms: Tensor, features: int) -> Iterator[tuple[Tensor, Codes]]:
    x = torch.as_tensor(rows)
    codes = coefficients if isinstance(coefficients, Codes) else Codes.of_dense(torch.as_tensor(coefficients))
    if x.ndim != 2 or x.shape[1] != atoms.shape[1] or len(x) != len(codes) or codes.width != features:
        raise InputError(
            f"rows are [row, {atoms.shape[1]}] and their coefficients [row, {features}]; got {tuple(x.shape)} and "
            f"[{len(codes)}, {codes.width}]"
        )
    for start in range(0, len(x), BLOCK):
        starts = codes.starts[start : start + BLOCK + 1]
        part = slice(int(starts[0]), int(starts[-1]))
        yield x[start : start + BLOCK], Codes(codes.latents[part], codes.values[part], starts - starts[0], features)

"""The first report's sweep over the L1 weight and the size of the dictionary, with known truth; and what it leaves open.

"Taking features out of superposition with sparse autoencoders" (Sharkey, Braun & Millidge 2022) trains autoencoders on toy data
whose features are known, for many weights of the L1 penalty and many sizes of the dictionary. A right size and weight shows in
three maps: the mean largest cosine of true features with atoms (MMCS), the number of dead latents, and the agreement of a
dictionary with larger ones of the same weight, which alone can be had without the truth. On language models the maps looked
different. Its readers named three causes, and each is an experiment here:

*Undertraining.* Some of the weights are trained for longer, at all sizes.

*A mean that hides two kinds of features.* Of each dictionary the whole histogram of largest cosines is kept, of features with atoms
and of atoms with those of the next larger dictionary.

*Weak interference.* With twice as many features as dimensions an encoder that is trained to superpose them makes antipodal pairs,
which hardly interfere. Features of such an encoder (Elhage et al. 2022, arXiv 2209.10652), and random ones beside them, are
recovered at G/d = 2, 4 and 8 by the report's autoencoder (at the best of several weights, which the truth chooses; and that one
trained for longer), by BatchTopK and by alternation with matching pursuit (MOD).

The recipe is the report's: data, loss, initialisation, optimiser. ``alpha = 10 ** (e / 4)`` is the weight of ``mean |c|_1 / m``
beside the mean squared error over rows and dimensions. Dictionaries of random directions are the floor of every map.

By default there are a quarter of the report's features and dimensions, with half as many active features, every second weight
and four sizes, so that three seeds take some 25 minutes on one core. A seed draws features, rows and initial atoms anew;
intervals are 95 % bootstrap intervals over seeds. All dictionaries of a map are trained as one job, whose checkpoints stay in the
study's folder: killed work goes on from there.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.base import clone

import patchclamp as pc
from patchclamp.core.errors import InputError
from patchclamp.core.interrupts import resumable
from patchclamp.core.intervals import mean_row
from patchclamp.core.progress import Listener
from patchclamp.studies import superposition_sweep_figures as figures
from patchclamp.studies.result import StudyFiles, StudyResult, as_text, records, with_titles

BINS = 40
MEASURES = ("mmcs", "recovered_0.9", "precision_0.9", "explained_variance", "l0", "dead_share", "agreement")
HELD_OUT = 10_000
"""The seed from which held-out rows are drawn is so much higher."""
START = 20_000
"""So is that of random directions and initial atoms: with the seed of the features they could be the features themselves."""


@dataclass(frozen=True)
class SweepSetting:
    """What the numbers hang on; data, widths and penalties are those of the report at a quarter of its size."""

    exponents: tuple[int, ...] = (-8, -6, -4, -2, 0, 2, 4, 6, 8)
    """``e`` of the weights ``alpha = 10 ** (e / 4)``."""
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    """Sizes of dictionaries over the number of features."""
    G: int = 128
    d: int = 64
    active: float = 2.5
    decay: float = 0.9606
    batch_size: int = 1024
    steps: int = 1000
    longer: tuple[int, ...] = (-2, 0, 2)
    """``e`` of the weights that are trained for longer."""
    longer_steps: int = 3000
    held_out: int = 40
    """Batches of held-out rows; a latent that is active in none is dead."""
    densities: tuple[int, ...] = (2, 4, 8)
    """Numbers of features a dimension, in the part on interference."""
    interference_d: int = 32
    interference_active: float = 2.0
    interference_steps: int = 1500
    interference_longer_steps: int = 4500
    """Of the best of the report's autoencoders once more: what is left by then is not for want of training."""
    seeds: int = 3
    """How many times everything is drawn and trained."""
    seed: int = 0
    """The first of them."""

    def __post_init__(self) -> None:
        for name in ("exponents", "ratios", "densities"):
            values = getattr(self, name)
            if not values or list(values) != sorted(set(values)):
                raise InputError(f"{name} are one or more numbers that rise; got {values}")
        if missing := set(self.longer) - set(self.exponents):
            raise InputError(f"longer are some of the exponents {list(self.exponents)}; got {sorted(missing)} besides")
        for name in (
            "batch_size",
            "steps",
            "longer_steps",
            "held_out",
            "interference_steps",
            "interference_longer_steps",
            "seeds",
        ):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is 1 or more; got {getattr(self, name)}")
        if self.width(self.ratios[0]) < 1:
            raise InputError(f"a dictionary has an atom at least; a ratio of {self.ratios[0]} gives none")

    def width(self, ratio: float) -> int:
        """The number of latents of a dictionary."""
        return round(ratio * self.G)


@dataclass(frozen=True)
class SuperpositionSweep(StudyResult):
    """What the study found."""

    setting: SweepSetting
    cells: pd.DataFrame
    """A row a dictionary: of the ``grid``, trained ``longer``, or ``random``."""
    histograms: pd.DataFrame
    """How many features (``of="truth"``) or atoms (``of="larger"``) of a dictionary have which largest cosine."""
    interference: pd.DataFrame
    """A row a kind of features, density, seed and method."""

    def grid(self, run: str, column: str) -> pd.DataFrame:
        """One map: weights in rows, sizes in columns, means over seeds."""
        cells = self.cells[self.cells["run"] == run]
        return cells.pivot_table(index="alpha", columns="ratio", values=column, dropna=False)

    def training(self) -> pd.DataFrame:
        """Longer training less shorter, within seeds and over its weights: means with 95 % intervals, a row a size.

        ``before`` and ``after`` are the means of each, ``random`` that of random directions.
        """
        cells = self.cells
        rows: list[dict[str, Any]] = []
        for ratio, measure in product(self.setting.ratios, MEASURES):
            at = cells[cells["ratio"] == ratio]
            random = at.loc[at["run"] == "random", measure].mean()
            pairs = at[at["exponent"].isin(self.setting.longer)].pivot_table(
                index="seed", columns="run", values=measure
            )
            if "longer" not in pairs:  # the largest size agrees with nothing
                continue
            change = mean_row(pairs["longer"] - pairs["grid"], seed=0)
            rows.append({
                "ratio": ratio, "measure": measure, "before": pairs["grid"].mean(), "after": pairs["longer"].mean(),
                "change": change["mean"], "low": change["low"], "high": change["high"], "random": random,
            })  # fmt: skip
        return pd.DataFrame(rows)

    def intervals(self) -> pd.DataFrame:
        """The cells: means over seeds with 95 % bootstrap intervals."""
        keys = ["run", "exponent", "alpha", "ratio", "width", "steps"]
        return _averages(self.cells, keys, MEASURES)

    def choice(self) -> pd.DataFrame:
        """What it costs not to know the truth: the weight at which a size agrees most with the next larger, and the best weight.

        A row a size that has a larger one, with means over seeds; ``lost`` is the MMCS of the best weight less that of the chosen
        one, with its 95 % interval.
        """
        rows = []
        grid = self.cells[self.cells["run"] == "grid"]
        for (ratio, seed), part in grid[grid["agreement"].notna()].groupby(["ratio", "seed"]):
            chosen, best = (part.sort_values(name).iloc[-1] for name in ("agreement", "mmcs"))
            row = {
                "ratio": ratio,
                "seed": seed,
                "log_chosen": np.log10(chosen["alpha"]),
                "log_best": np.log10(best["alpha"]),
            }
            rows.append(
                row | {"mmcs_chosen": chosen["mmcs"], "mmcs_best": best["mmcs"], "lost": best["mmcs"] - chosen["mmcs"]}
            )
        if not rows:
            return pd.DataFrame()
        by_seed = pd.DataFrame(rows)
        others = by_seed.drop(columns=["seed", "lost"]).groupby("ratio").mean().reset_index()
        return others.merge(_averages(by_seed, ["ratio"], ("lost",)), on="ratio")

    def middling(self) -> pd.DataFrame:
        """Shares of features whose largest cosine is low (to .5), middling, or high (from .9): means over seeds with intervals."""
        truth = self.histograms[self.histograms["of"] == "truth"]
        bands = pd.cut(truth["mcs"], [0, 0.5, 0.9, 1], labels=["low", "middling", "high"])
        keys = ["run", "exponent", "alpha", "ratio"]
        by_seed = [truth[name] for name in (*keys, "seed")]
        counts = truth["count"].groupby([*by_seed, bands], observed=False, dropna=False).sum().unstack()
        counts = counts[counts.sum(axis=1) > 0]
        shares = counts.div(counts.sum(axis=1), axis=0).rename_axis(columns=None).reset_index()
        return _averages(shares, keys, ("low", "middling", "high"))

    def recovery(self) -> pd.DataFrame:
        """The part on interference: means over seeds with 95 % bootstrap intervals."""
        keys = ["features", "density", "method"]
        means = ["explained_variance", "l0", "rms", "welch", "largest", "antipodal"]
        table = _averages(self.interference, keys, ("mmcs", "recovered_0.9", "recovered_0.99"))
        others = self.interference.groupby(keys, sort=False)[means].mean().reset_index()
        return table.merge(others, on=keys)

    def summary(self) -> dict[str, Any]:
        """The numbers, as plain JSON."""
        return {
            "setting": asdict(self.setting), "cells": records(self.intervals()), "training": records(self.training()),
            "choice": records(self.choice()), "middling": records(self.middling()), "interference": records(self.recovery()),
        }  # fmt: skip

    def text(self) -> str:
        """The tables, for a terminal."""
        maps = {
            "MMCS, by weight (rows) and size": self.grid("grid", "mmcs").reset_index(),
            "Share of dead latents": self.grid("grid", "dead_share").reset_index(),
            "Agreement with the next larger dictionary": self.grid("grid", "agreement").reset_index(),
            "The weight of most agreement, and the best": self.choice(),
            "Longer training, mean over its weights": self.training(),
            "Low, middling and high cosines": self.middling(),
            "Interference": self.recovery(),
        }
        return as_text(*with_titles(maps))

    def files(self) -> StudyFiles:
        """The maps, the histograms, and the tables behind them."""
        pictures = {
            "maps": figures.maps(self), "histograms": figures.histograms(self), "interference": figures.interference(self),
        }  # fmt: skip
        if self.setting.longer:
            pictures["longer"] = figures.longer(self)
        sections: list[tuple[str, Any]] = [
            ("Weights and sizes", pictures["maps"]),
            ("The weight of most agreement, and the best", self.choice()),
            ("Largest cosines", pictures["histograms"]),
            ("Low, middling and high cosines", self.middling()),
            *([("Longer training", pictures["longer"])] if self.setting.longer else []),
            ("Longer training, mean over its weights", self.training()),
            ("Interference", pictures["interference"]),
            ("Recovery under interference", self.recovery()),
        ]
        return StudyFiles(
            "Weights, sizes and superposition",
            sections,
            tables={
                "cells": self.intervals(),
                "cells-by-seed": self.cells,
                "histograms": self.histograms,
                "choice": self.choice(),
                "training": self.training(),
                "middling": self.middling(),
                "interference": self.recovery(),
                "interference-by-seed": self.interference,
            },
            figures=pictures,
            evidence={"setting": asdict(self.setting)},
        )


def _averages(table: pd.DataFrame, keys: list[str], measures: Sequence[str]) -> pd.DataFrame:
    rows = []
    for values, part in table.groupby(keys, sort=False, dropna=False):
        row: dict[str, Any] = dict(zip(keys, values, strict=True))
        for name in measures:
            mean = mean_row(part[name], seed=0)
            row |= {name: mean["mean"], f"{name}_low": mean["low"], f"{name}_high": mean["high"]}
        rows.append(row)
    return pd.DataFrame(rows)


def measure(
    run: str, dictionaries: dict[tuple[int | None, float], Any], toy: pc.dictionaries.ToyData, setting: SweepSetting, steps: int,
    seed: int,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:  # fmt: skip
    """The cells of a map and their histograms.

    Args:
        run: What the cells are called.
        dictionaries: Dictionaries, or atoms alone, by ``e`` and ratio; ``e`` is None where there is no weight.
        toy: The truth.
        setting: Of the study.
        steps: How long they were trained.
        seed: Of the truth.
    """
    cells, histograms = [], []
    for (exponent, ratio), dictionary in dictionaries.items():
        trained = isinstance(dictionary, pc.dictionaries.Dictionary)
        recovery = pc.dictionaries.recovery(dictionary.atoms if trained else dictionary, toy)
        truth = recovery.summary()
        row: dict[str, Any] = {
            "run": run, "seed": seed, "exponent": exponent, "alpha": np.nan if exponent is None else 10 ** (exponent / 4),
            "ratio": ratio, "width": setting.width(ratio), "steps": steps,
            **{name: truth[name] for name in ("mmcs", "atom_mmcs", "weighted_mmcs", "recovered_0.9", "precision_0.9")},
        }  # fmt: skip
        if trained:
            held_out = toy.stream(batch_size=setting.batch_size, seed=seed + HELD_OUT)
            fit = pc.dictionaries.evaluate(dictionary, held_out, batches=setting.held_out).summary()
            row |= {name: fit[name] for name in ("explained_variance", "l0", "dead")}
            row["dead_share"] = fit["dead"] / fit["width"]
        larger = [other for (e, r), other in sorted(dictionaries.items(), key=_ratio) if e == exponent and r > ratio]
        cosines = largest_cosines(dictionary, larger[:2])
        means = [float(values.mean()) for values in cosines]
        row["agreement"], row["agreement_second"] = (*means, np.nan, np.nan)[:2]
        cells.append(row)
        columns = {"truth": recovery.data["mcs"].values, **dict(zip(["larger"], cosines, strict=False))}
        for of, values in columns.items():
            counts, edges = np.histogram(np.clip(values, 0, 1), BINS, range=(0, 1))
            keys = {name: row[name] for name in ("run", "seed", "exponent", "alpha", "ratio")}
            middles = (edges[:-1] + edges[1:]) / 2
            histograms += [
                {**keys, "of": of, "mcs": mcs, "count": int(count)} for mcs, count in zip(middles, counts, strict=True)
            ]
    return cells, histograms


def largest_cosines(dictionary: Any, larger: Sequence[Any]) -> list[Any]:
    """The largest cosine of each atom with any of each of some larger dictionaries, ``[width]`` each.

    Args:
        dictionary: A dictionary, or atoms.
        larger: Those that it is held against.
    """
    maxima = []
    for other in larger:
        data = pc.dictionaries.agreement(dictionary, other, names=["smaller", "larger"]).data
        maxima.append(data["mcs"].values[data["dictionary"].values == "smaller"])
    return maxima


def _ratio(item: tuple[tuple[int | None, float], Any]) -> float:
    return item[0][1]


def _train(
    toy: pc.dictionaries.ToyData, setting: SweepSetting, exponents: Sequence[int], steps: int, seed: int, checkpoint: Path,
    progress: bool | Listener | None,
) -> dict[tuple[int | None, float], Any]:  # fmt: skip
    """Dictionaries of some weights and all sizes, as one job."""
    keys = [(exponent, ratio) for exponent in exponents for ratio in setting.ratios]
    fits = [
        pc.dictionaries.SGD(
            pc.dictionaries.ReLU(penalty=10.0 ** (exponent / 4)), recipe="post", width=setting.width(ratio), steps=steps,
            random_state=seed + START,
        )
        for exponent, ratio in keys
    ]  # fmt: skip
    stream = toy.stream(batch_size=setting.batch_size, seed=seed)
    trained = pc.dictionaries.train(stream, fits, checkpoint=checkpoint, checkpoint_every=100, progress=progress)
    return dict(zip(keys, trained, strict=True))


def _maps(seed: int, setting: SweepSetting, home: Path, progress: bool | Listener | None) -> list[Any]:
    """Cells and histograms of one seed: random directions, the grid, and the weights that are trained for longer."""
    toy = pc.dictionaries.ToyData.post(G=setting.G, d=setting.d, active=setting.active, decay=setting.decay, seed=seed)
    generator = torch.Generator().manual_seed(seed + START)
    random: dict[tuple[int | None, float], Any] = {
        (None, ratio): torch.randn(setting.width(ratio), setting.d, generator=generator) for ratio in setting.ratios
    }
    parts = [measure("random", random, toy, setting, 0, seed)]
    for run, exponents, steps in (
        ("grid", setting.exponents, setting.steps), ("longer", setting.longer, setting.longer_steps),
    ):  # fmt: skip
        if exponents:
            dictionaries = _train(toy, setting, exponents, steps, seed, home / f"{run}-{seed}", progress)
            parts.append(measure(run, dictionaries, toy, setting, steps, seed))
    return parts


def _interfere(
    kind: str, density: int, seed: int, setting: SweepSetting, home: Path, progress: bool | Listener | None
) -> list[dict[str, Any]]:
    """Features of one kind and density, recovered by each method with twice as many atoms."""
    d, G = setting.interference_d, density * setting.interference_d
    options: dict[str, Any] = {"active": setting.interference_active, "seed": seed}
    if kind == "trained":
        toy = pc.dictionaries.ToyData.trained_encoder(G, d, steps=setting.interference_steps, **options)
    else:
        toy = pc.dictionaries.ToyData.zipf(G, d, exponent=0.0, **options)
    steps, k = setting.interference_steps, max(1, round(1.3 * setting.interference_active))
    common: dict[str, Any] = {"width": 2 * toy.G, "random_state": seed + START}
    penalties = [10.0 ** (exponent / 4) for exponent in setting.longer or setting.exponents]
    fits = [
        pc.dictionaries.SGD(pc.dictionaries.ReLU(penalty=p), recipe="post", steps=steps, **common) for p in penalties
    ]
    fits.append(pc.dictionaries.SGD(pc.dictionaries.BatchTopK(k), steps=steps, learning_rate=1e-2, **common))
    checkpoint = home / f"interference-{kind}-{density}-{seed}"
    *by_penalty, batch_topk = pc.dictionaries.train(
        toy.stream(batch_size=256, seed=seed), fits, checkpoint=checkpoint, progress=progress
    )
    mmcs = [pc.dictionaries.recovery(dictionary.atoms, toy).mmcs for dictionary in by_penalty]
    best = int(np.argmax(mmcs))
    (longer,) = pc.dictionaries.train(
        toy.stream(batch_size=256, seed=seed),
        [clone(fits[best]).set_params(steps=setting.interference_longer_steps)],
        checkpoint=checkpoint.with_name(f"{checkpoint.name}-longer"),
        progress=progress,
    )
    rows = toy.stream(batch_size=1024, seed=seed, rows=256 * steps)
    dictionaries = {
        "ReLU with L1": by_penalty[best],
        "ReLU with L1, longer": longer,
        "BatchTopK": batch_topk,
        "MOD": pc.dictionaries.MOD(k=k, **common).fit(rows).dictionary_,
    }
    coherence = pc.dictionaries.coherence(toy.features)
    table = []
    for method, dictionary in dictionaries.items():
        truth = pc.dictionaries.recovery(dictionary.atoms, toy).summary()
        held_out = toy.stream(batch_size=1024, seed=seed + HELD_OUT)
        fit = pc.dictionaries.evaluate(dictionary, held_out, batches=8).summary()
        table.append({
            "features": kind, "density": density, "seed": seed, "method": method, "G": toy.G, "d": d,
            "alpha": penalties[best] if method.startswith("ReLU") else np.nan,
            **{name: truth[name] for name in ("mmcs", "recovered_0.9", "recovered_0.99", "precision_0.9")},
            **{name: fit[name] for name in ("explained_variance", "l0", "dead")},
            **{name: coherence[name] for name in ("rms", "welch", "largest", "antipodal")},
        })  # fmt: skip
    return table


def study(
    out: str | Path, setting: SweepSetting = SweepSetting(), *, progress: bool | Listener | None = None
) -> SuperpositionSweep:
    """Run the experiment and save it; killed work goes on from the folder.

    Args:
        out: The folder for checkpoints, tables, pictures and the report.
        setting: Weights, sizes, data and steps.
        progress: True for a bar.

    Raises:
        InputError: The folder holds checkpoints of another setting.
    """
    home, seeds = Path(out) / "training", range(setting.seed, setting.seed + setting.seeds)
    cases = product(("trained", "random"), setting.densities, seeds)
    with resumable(out):
        parts = [part for seed in seeds for part in _maps(seed, setting, home, progress)]
        interference = [row for case in cases for row in _interfere(*case, setting, home, progress)]
    cells, histograms = (pd.DataFrame([row for part in parts for row in part[n]]) for n in range(2))
    result = SuperpositionSweep(setting, cells, histograms, pd.DataFrame(interference))
    result.save(out)
    return result

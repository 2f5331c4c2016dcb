"""Does it matter where the atoms of a dictionary begin? Six initialisations, several seeds, toy data and a language model.

The authors of "Taking features out of superposition with sparse autoencoders" (Sharkey, Braun & Millidge 2022) used an orthogonal
initialisation, which they remembered as faster, without a note; in the discussion they thought of principal axes, of noised copies
of the left singular vectors of the layer's weight, and, if neurons are a privileged basis, of noised unit vectors.

Here these and rows of the data (``data``) and random directions begin the atoms. The encoder begins as their transpose, times the
one number by which the first rows are reconstructed best: without it, starts differ in how far they overshoot more than in their
directions. A dictionary is trained for each of several budgets of steps, with the whole schedule of its learning rate in each,
and measured on held-out rows: the explained variance, the share of latents that are active in no row, and on toy data the MMCS
with the truth. Everything is paired: in one seed all see the same rows in the same order. A seed draws new features of the toy
data, new orders and new initial atoms; intervals are 95 % bootstrap intervals over seeds, of differences from random directions
within each seed.

On toy data the "layer" whose singular vectors begin the atoms is the map from coefficients to rows, which nobody has elsewhere; in
a language model it is the weight of the gate, from the residual stream to the neurons.

Two controls are something else that may matter: not to revive dead latents, and not to scale the encoder (``unscaled``).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import patchclamp as pc
from patchclamp.core.errors import InputError
from patchclamp.core.interrupts import resumable
from patchclamp.core.intervals import mean_row
from patchclamp.core.progress import Listener
from patchclamp.studies import initialisation_figures as figures
from patchclamp.studies.result import StudyFiles, StudyResult, as_text, records, with_titles

INITIALISATIONS: tuple[Any, ...] = ("data", "orthogonal", "svd", "unit", "pca", "random")
CONTROLLED: tuple[Any, ...] = ("data", "random")
"""Initialisations that are trained in the other variants too."""
VARIANTS: dict[str, dict[str, Any]] = {
    "standard": {},
    "no revival": {"revival": None},
    "unscaled": {"encoder_start": "transpose"},
}
"""What is changed in each; all but the first are controls."""
MEASURES = ("explained_variance", "dead_share", "mmcs", "l0")
HELD_OUT = 10_000
"""The seed from which held-out rows of toy data are drawn is so much higher."""
START = 20_000
"""So is that of the initial atoms: with the seed of the features random directions would be the features themselves."""
_UP = ("gate_proj.weight", "up_proj.weight", "c_fc.weight", "fc1.weight", "fc_in.weight", "dense_h_to_4h.weight")


@dataclass(frozen=True)
class InitialisationSetting:
    """What the numbers hang on."""

    seeds: int = 5
    toy_steps: tuple[int, ...] = (50, 150, 500)
    G: int = 256
    d: int = 64
    active: float = 3.0
    ratio: float = 2.0
    """Atoms over features, on toy data."""
    k: int = 4
    penalty: float = 2.0
    """Of the ReLU with L1."""
    learning_rate: float = 1e-2
    """On toy data; in a language model it is that of the library for the width."""
    toy_batch_size: int = 256
    model_steps: tuple[int, ...] = (25, 75, 200)
    layer: int = 3
    corpus: str = "gutenberg"
    rows: int = 65_536
    model_held_out: int = 8192
    model_ratio: float = 2.0
    """Atoms over neurons."""
    model_k: int = 32
    batch_size: int = 256
    revive_every: int = 25

    def __post_init__(self) -> None:
        for name in ("seeds", "rows", "model_held_out", "batch_size", "toy_batch_size", "revive_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is 1 or more; got {getattr(self, name)}")
        for name in ("toy_steps", "model_steps"):
            steps = getattr(self, name)
            if not steps or list(steps) != sorted(set(steps)) or steps[0] < 1:
                raise InputError(f"{name} are numbers of steps that rise, from 1 on; got {steps}")


@dataclass(frozen=True)
class InitialisationResult(StudyResult):
    """What the study found."""

    setting: InitialisationSetting
    model: str | None
    """The language model; None if there is none."""
    table: pd.DataFrame
    """A row a dictionary."""
    seeds_agree: pd.DataFrame
    """Of a language model: agreement of the seeds' dictionaries, for each initialisation and number of steps."""

    def averages(self) -> pd.DataFrame:
        """Means over seeds with 95 % bootstrap intervals."""
        keys = ["data", "encoder", "variant", "initialisation", "steps"]
        return _averages(self.table, keys, MEASURES)

    def differences(self) -> pd.DataFrame:
        """Each initialisation less random directions, within seeds, in the standard variant."""
        table = self.table[self.table["variant"] == "standard"]
        keys = ["data", "encoder", "steps", "seed"]
        floor = table[table["initialisation"] == "random"].set_index(keys)
        others = table[table["initialisation"] != "random"].set_index([*keys, "initialisation"])
        change = others[list(MEASURES)].sub(floor[list(MEASURES)])
        return _averages(change.reset_index(), ["data", "encoder", "initialisation", "steps"], MEASURES)

    def control(self) -> pd.DataFrame:
        """Each control less the standard variant, within seeds and initialisations."""
        keys = ["data", "encoder", "initialisation", "steps", "seed"]
        table = self.table.set_index(keys)
        standard = table.loc[table["variant"] == "standard", list(MEASURES)]
        others = table[table["variant"] != "standard"]
        change = others[list(MEASURES)] - standard.loc[others.index]
        change.insert(0, "variant", others["variant"])
        return _averages(change.reset_index(), ["data", "encoder", "variant", "initialisation", "steps"], MEASURES)

    def last(self, table: pd.DataFrame) -> pd.DataFrame:
        """The rows of a table with the fewest and the most steps of each data."""
        steps = table.groupby("data")["steps"]
        return table[(table["steps"] == steps.transform("min")) | (table["steps"] == steps.transform("max"))]

    def summary(self) -> dict[str, Any]:
        """The numbers, as plain JSON."""
        return {
            "setting": asdict(self.setting), "model": self.model, "averages": records(self.averages()),
            "differences": records(self.differences()), "control": records(self.control()),
            "seeds_agree": records(self.seeds_agree),
        }  # fmt: skip

    def text(self) -> str:
        """The tables, for a terminal."""
        tables = {
            "Less random directions, within seeds": self.last(self.differences()),
            "Controls, less the standard variant": self.last(self.control()),
        }
        if len(self.seeds_agree):
            tables["Agreement of seeds"] = self.seeds_agree
        return as_text(*with_titles(tables))

    def files(self) -> StudyFiles:
        """The curves, what they are of, and the tables."""
        pictures = {"figure": figures.curves(self), "controls": figures.controls(self)}
        return StudyFiles(
            "Where the atoms begin",
            [
                ("Against training steps", pictures["figure"]),
                ("Less random directions, within seeds", self.differences()),
                ("Without revival, and without the scale", pictures["controls"]),
                ("Controls, less the standard variant", self.control()),
                *([("Agreement of seeds", self.seeds_agree)] if len(self.seeds_agree) else []),
                ("All means", self.averages()),
            ],
            tables={
                "averages": self.averages(),
                "differences": self.differences(),
                "control": self.control(),
                "by-seed": self.table,
                "seeds-agree": self.seeds_agree,
            },
            figures=pictures,
            evidence={"setting": asdict(self.setting), "model": self.model},
        )


def _averages(table: pd.DataFrame, keys: list[str], measures: Sequence[str]) -> pd.DataFrame:
    rows = []
    for values, part in table.groupby(keys, sort=False):
        row: dict[str, Any] = dict(zip(keys, values, strict=True))
        for name in measures:
            mean = mean_row(part[name].dropna(), seed=0)
            row |= {name: mean["mean"], f"{name}_low": mean["low"], f"{name}_high": mean["high"]}
        rows.append(row)
    return pd.DataFrame(rows)


def up_weight(model: pc.Model, layer: int, neurons: int) -> torch.Tensor:
    """The weight ``[neurons, d_model]`` by which an MLP reads the residual stream; that of the gate where there is one.

    Raises:
        InputError: The layer has no such weight under a known name.
    """
    parameters = dict(model.module.named_parameters())
    for ending in _UP:
        for name, weight in parameters.items():
            if f".{layer}." in name and name.endswith(ending) and neurons in weight.shape:
                return weight.detach() if weight.shape[0] == neurons else weight.detach().T
    raise InputError(f"layer {layer} has no weight of {neurons} neurons that is called one of {list(_UP)}")


def _fits(
    encoders: dict[str, Any], steps: int, seed: int, setting: InitialisationSetting, width: int, weight: torch.Tensor,
    learning_rate: float | None,
) -> dict[tuple[str, str, str], Any]:  # fmt: skip
    """The settings of every dictionary of one job, by encoder, initialisation and variant."""
    keys = [(encoder, start, "standard") for encoder in encoders for start in INITIALISATIONS]
    keys += [("BatchTopK", start, variant) for variant in list(VARIANTS)[1:] for start in CONTROLLED]
    common: dict[str, Any] = {
        "width": width, "steps": steps, "revive_every": setting.revive_every, "learning_rate": learning_rate,
        "random_state": seed + START,
    }  # fmt: skip
    return {
        (encoder, start, variant): pc.dictionaries.SGD(
            encoders[encoder], initialisation=start, layer_weight=weight if start == "svd" else None,
            **{**common, **VARIANTS[variant]},
        )
        for encoder, start, variant in keys
    }  # fmt: skip


def _row(data: str, key: tuple[str, str, str], seed: int, steps: int, dictionary: Any, rows: Any) -> dict[str, Any]:
    fit = pc.dictionaries.evaluate(dictionary, rows).summary()
    return {
        "data": data, "encoder": key[0], "initialisation": key[1], "variant": key[2], "seed": seed, "steps": steps,
        "explained_variance": fit["explained_variance"], "l0": fit["l0"], "dead_share": fit["dead"] / fit["width"],
    }  # fmt: skip


def on_toy_data(
    setting: InitialisationSetting, home: Path, progress: bool | Listener | None = None
) -> list[dict[str, Any]]:
    """Every dictionary of toy data, measured.

    Args:
        setting: Of the study.
        home: The folder for checkpoints.
        progress: True for a bar.
    """
    encoders = {
        "BatchTopK": pc.dictionaries.BatchTopK(setting.k),
        "ReLU": pc.dictionaries.ReLU(penalty=setting.penalty),
    }
    width, table = round(setting.ratio * setting.G), []
    for seed in range(setting.seeds):
        toy = pc.dictionaries.ToyData.zipf(setting.G, setting.d, active=setting.active, seed=seed)
        held_out, _ = toy.sample(8192, seed=seed + HELD_OUT)
        for steps in setting.toy_steps:
            fits = _fits(encoders, steps, seed, setting, width, toy.features.T, setting.learning_rate)
            stream = toy.stream(batch_size=setting.toy_batch_size, seed=seed)
            folder = home / f"toy-{seed}-{steps}"
            trained = pc.dictionaries.train(stream, list(fits.values()), checkpoint=folder, progress=progress)
            for key, dictionary in zip(fits, trained, strict=True):
                mmcs = pc.dictionaries.recovery(dictionary.atoms, toy).mmcs
                table.append(_row("toy", key, seed, steps, dictionary, held_out) | {"mmcs": mmcs})
    return table


def on_model(
    model: pc.Model, setting: InitialisationSetting, home: Path, progress: bool | Listener | None = None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Every dictionary of a language model's neurons, measured; and how far the seeds agree.

    Args:
        model: The model.
        setting: Of the study.
        home: The folder for checkpoints.
        progress: True for a bar.
    """
    # A buffer of that many rows is mixed by itself, so training rows and held-out ones are of different sequences.
    count = setting.rows + setting.model_held_out
    site = f"mlp_act.{setting.layer}"
    whole = model.activation_stream(setting.corpus, site, tokens=count + count // 8, buffer=setting.rows)
    rows = whole.sample(count)
    if len(rows) < count:
        raise InputError(f"the corpus has {len(rows):,} rows; rows and model_held_out ask for more: take fewer rows")
    held_out, rows = rows[setting.rows :], rows[: setting.rows]
    weight = up_weight(model, setting.layer, rows.shape[1])
    width = round(setting.model_ratio * rows.shape[1])
    encoders = {"BatchTopK": pc.dictionaries.BatchTopK(setting.model_k)}
    table, agreements = [], []
    for steps in setting.model_steps:
        seeds: dict[Any, list[Any]] = {}
        for seed in range(setting.seeds):
            fits = _fits(encoders, steps, seed, setting, width, weight, None)
            stream = pc.activations.stream.ActivationStream.from_array(
                rows, batch_size=setting.batch_size, passes=-(-steps * setting.batch_size // len(rows)), seed=seed
            )
            folder = home / f"model-{seed}-{steps}"
            trained = pc.dictionaries.train(stream, list(fits.values()), checkpoint=folder, progress=progress)
            for key, dictionary in zip(fits, trained, strict=True):
                table.append(_row("model", key, seed, steps, dictionary, held_out) | {"mmcs": np.nan})
                seeds.setdefault(key, []).append(dictionary)
        for (encoder, start, variant), dictionaries in seeds.items():
            if variant == "standard" and len(dictionaries) > 1:
                overall = pc.dictionaries.agreement(*dictionaries).overall()
                agreements.append({"encoder": encoder, "initialisation": start, "steps": steps, **overall})
    return table, agreements


def study(
    out: str | Path,
    model: pc.Model | None = None,
    setting: InitialisationSetting = InitialisationSetting(),
    *,
    progress: bool | Listener | None = None,
) -> InitialisationResult:
    """Run the experiment and save it; killed work goes on from the folder.

    Args:
        out: The folder for checkpoints, tables, pictures and the report.
        model: The language model; toy data alone without one.
        setting: Sizes, seeds and steps.
        progress: True for a bar.

    Raises:
        InputError: The folder holds checkpoints of another setting, or the model has no such layer or too short a corpus.
    """
    home = Path(out) / "training"
    agreements: list[dict[str, Any]] = []
    with resumable(out):
        table = on_toy_data(setting, home, progress)
        if model is not None:
            rows, agreements = on_model(model, setting, home, progress)
            table += rows
    name = None if model is None else model.source.name or type(model.module).__name__
    result = InitialisationResult(setting, name, pd.DataFrame(table), pd.DataFrame(agreements))
    result.save(out)
    return result

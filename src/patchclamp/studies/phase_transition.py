"""When does superposition come about? Features of the toy encoder against its training steps.

The discussion of "Taking features out of superposition with sparse autoencoders" (Sharkey, Braun & Millidge 2022) asks whether
a model has "the parameters/data/training steps it needs to develop superposition of clean features", since Elhage et al. 2022
(arXiv 2209.10652) saw phase transitions over the course of training.

Here the encoder of that report is trained at several sparsities and from several seeds, and at each step of a logarithmic scale we
look at its loss, at how many features it represents, and at how they share dimensions. A transition is where the share of a
quantity's whole change that falls into one tenth of the (logarithmic) time is large: 0.1 is a change at an even pace.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import patchclamp as pc
from patchclamp.core.intervals import mean_row
from patchclamp.studies.result import StudyFiles, StudyResult, as_text, records

QUANTITIES = ("loss", "represented", "antipodal", "dimensionality")


@dataclass(frozen=True)
class EncoderSetting:
    """What the numbers hang on."""

    G: int = 20
    d: int = 10
    active: tuple[float, ...] = (0.2, 1.0, 4.0)
    """Mean numbers of active features."""
    seeds: int = 5
    steps: int = 2000


@dataclass(frozen=True)
class PhaseTransition(StudyResult):
    """What the study found."""

    setting: EncoderSetting
    course: pc.dictionaries.Superposition

    def table(self) -> pd.DataFrame:
        """A row a sparsity, seed and quantity: its beginning and end, when half of its change is over, and how abrupt that is."""
        data = self.course.data
        represented = data["square"] > 0.5
        curves: dict[str, Any] = {
            "loss": np.log(data["loss"]), "represented": represented.sum("feature"), "antipodal": data["antipodal"],
            "dimensionality": data["dimensionality"].where(represented).mean("feature").fillna(0),
        }  # fmt: skip
        rows = []
        for quantity, curve in curves.items():
            for active in data["active"].values:
                for seed in data["seed"].values:
                    values = curve.sel(active=active, seed=seed).values.astype(float)
                    half, abrupt = transition(data["step"].values, values)
                    rows.append({
                        "active": float(active), "quantity": quantity, "seed": int(seed), "first": values[0], "last": values[-1],
                        "half": half, "abruptness": abrupt,
                    })  # fmt: skip
        return pd.DataFrame(rows)

    def averages(self) -> pd.DataFrame:
        """Means over seeds with 95 % bootstrap intervals."""
        rows = []
        for (quantity, active), part in self.table().groupby(["quantity", "active"], sort=False):
            row: dict[str, Any] = {"quantity": quantity, "active": active}
            for name in ("last", "half", "abruptness"):
                mean = mean_row(part[name].dropna(), seed=0)
                row |= {name: mean["mean"], f"{name}_low": mean["low"], f"{name}_high": mean["high"]}
            rows.append(row)
        return pd.DataFrame(rows)

    def summary(self) -> dict[str, Any]:
        """The numbers, as plain JSON."""
        return {"setting": asdict(self.setting), "averages": records(self.averages())}

    def text(self) -> str:
        """The table, for a terminal."""
        return as_text(
            "Half of the change is over at step `half`; `last` of the loss is its logarithm.", self.averages()
        )

    def files(self) -> StudyFiles:
        """The averages, what they are of, the course, and the report."""
        figure = self.course.figure()
        return StudyFiles(
            "Phase transitions of superposition",
            [("Course of training", figure), ("When, and how abruptly", self.averages())],
            tables={"averages": self.averages(), "by-seed": self.table()},
            figures={"figure": figure},
            results={"course": self.course},
            evidence={"setting": asdict(self.setting)},
        )


def transition(steps: Any, values: Any) -> tuple[float, float]:
    """When half of the whole change is over, and the largest share of it in a tenth of the logarithmic time; NaN without a change.

    Args:
        steps: Steps done, from 0.
        values: The quantity at each.
    """
    change = float(values[-1] - values[0])
    if abs(change) < 1e-9:
        return np.nan, np.nan
    share, time = (values - values[0]) / change, np.log1p(steps)
    half = int(np.argmax(share >= 0.5))
    fine = np.linspace(time[0], time[-1], 201)
    smooth = np.interp(fine, time, share)
    return float(steps[half]), float(np.max(smooth[20:] - smooth[:-20]))


def study(out: str | Path, setting: EncoderSetting = EncoderSetting()) -> PhaseTransition:
    """Run the experiment and save it.

    Args:
        out: The folder for tables, pictures and the report.
        setting: Sizes, sparsities, seeds and steps.
    """
    course = pc.dictionaries.superposition(
        setting.G, setting.d, active=setting.active, seeds=range(setting.seeds), steps=setting.steps
    )
    result = PhaseTransition(setting, course)
    result.save(out)
    return result

"""Activation addition: pull a completion toward " Rome" by adding that word's embedding.

The experiment of pyvene's tutorial (Wu, 2023), after Merullo et al., "Language Models Implement Simple Word2Vec-style
Vector Arithmetic" (2023): the embedding of " Rome" is added to the output of every MLP at the last position of
"The capital of Spain is"; then, systematically, to the outputs of MLPs and of attention up to each layer, at each position.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

import patchclamp as pc
from patchclamp.studies.result import StudyFiles, StudyResult, as_text, name_of

BASE, OTHER = "The capital of Spain is", "The capital of Italy is"
TRUE, PULL = " Madrid", " Rome"
COEFFICIENTS = (1.0, 2.0, 4.0)
DOSES = tuple(i / 2 for i in range(13))
PUBLISHED = {
    "model": "gpt2",
    "before": {" Madrid": 0.10501234978437424, " Barcelona": 0.0702790841460228},
    "after": {" Rome": 0.4558262228965759, " Madrid": 0.2788238823413849, " Barcelona": 0.10828061401844025},
}
"""The tutorial's own numbers, coefficient 1."""


@dataclass(frozen=True)
class ActivationAdditionStudy(StudyResult):
    """What the study found."""

    tables: dict[str, pd.DataFrame]
    """Per prompt: the ten likeliest tokens before and after, one pair of columns a coefficient."""
    dose: pc.Grid
    """Probability of both answers against the coefficient, added up to each layer."""
    sweep: pc.Grid
    """The systematic sweep: component by layer by position, with the smallest and the largest coefficient."""
    model: str

    def probability(self, answer: str, coefficient: float) -> float:
        """Probability of an answer after adding to every MLP at the last position of the base prompt."""
        cell = self.dose.data.sel(answer=answer, scale=coefficient).isel(prompt=0, site=0, layer=-1)
        return float(cell)

    def before(self, answer: str) -> float:
        """Probability of an answer without the edit."""
        return float(self.dose.baseline.sel(answer=answer).isel(prompt=0))

    def summary(self) -> dict[str, Any]:
        """The numbers, as plain JSON."""
        return {
            "model": self.model,
            "before": {answer: self.before(answer) for answer in (TRUE, PULL)},
            "after": {str(c): {answer: self.probability(answer, c) for answer in (TRUE, PULL)} for c in COEFFICIENTS},
            "published": PUBLISHED,
        }

    def text(self) -> str:
        """The tables and what they say, for a terminal."""
        heading = f"next token before and after adding c x embedding({PULL!r}) to every MLP output, last position"
        parts = [part for prompt, table in self.tables.items() for part in (f"{prompt!r}: {heading}", table, "")]
        return as_text(*parts, self.comparison())

    def comparison(self) -> str:
        """Our numbers beside the tutorial's."""
        rises = ", ".join(f"{self.probability(PULL, c):.2f} at {c:g}" for c in COEFFICIENTS)
        return (
            f"{self.model}: P({PULL!r}) goes from {self.before(PULL):.3f} to {rises}; P({TRUE!r}) was {self.before(TRUE):.3f}.\n"
            "The tutorial, on GPT-2 with coefficient 1: P(' Rome') reaches 0.456, P(' Madrid') goes from 0.105 to 0.279.\n"
            "Embeddings of different models have different lengths against their residual streams, so the coefficient that\n"
            "does the same work differs; the curve over coefficients shows it."
        )

    def main_result(self) -> pc.Result:
        """The sweep."""
        return self.sweep

    def files(self) -> StudyFiles:
        """The doses, a table a prompt, and the report."""
        return StudyFiles(
            "Activation addition",
            [
                *((f"{prompt!r}, before and after", table) for prompt, table in self.tables.items()),
                ("Beside the tutorial", self.comparison()),
                ("Dose", self.dose),
                ("Sweep", self.sweep),
            ],
            tables={prompt.lower().replace(" ", "-"): table for prompt, table in self.tables.items()},
            results={"dose": self.dose},
        )


def before_and_after(model: pc.Model, prompt: str, vector: Any) -> pd.DataFrame:
    """The likeliest tokens of a prompt, unedited and at each coefficient."""
    columns: dict[str, Any] = {}
    for coefficient in (0.0, *COEFFICIENTS):
        edits = [pc.Add(vector, coefficient, site="mlp_out", at="last")] if coefficient else []
        top = model.run(prompt, edits, logits="last").top(10)
        name = f"c={coefficient:g}" if coefficient else "before"
        columns[name], columns[f"p({name})"] = top["token"], top["probability"]
    return pd.DataFrame(columns)


def study(model: pc.Model, out: str | Path | None = None) -> ActivationAdditionStudy:
    """Run the experiment.

    Args:
        model: A language model for which " Rome" and " Madrid" are single tokens.
        out: Folder for ``report.html``, the sweep's figure and data, and a CSV a table; None to keep nothing.
    """
    rome = model.embedding(PULL)
    read = pc.Probability([TRUE, PULL])
    tables = {prompt: before_and_after(model, prompt, rome) for prompt in (BASE, OTHER)}
    add = pc.Add(rome)
    dose = model.sweep(BASE, add, sites="mlp_out", at="last", cumulative=True, over={"scale": DOSES}, read=read)
    extremes = {"scale": (COEFFICIENTS[0], COEFFICIENTS[-1])}
    sweep = model.sweep(
        BASE, add, sites=["mlp_out", "attn_out"], at="each", cumulative=True, over=extremes, read=read, verify=5
    )
    result = ActivationAdditionStudy(tables, dose, sweep, name_of(model))
    if out is not None:
        result.save(out)
    return result

"""The confusion ratio: how far a model goes over to another prompt's answers when it gets its coordinates along directions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from patchclamp.core.arguments import checked
from patchclamp.core.call import recorded
from patchclamp.core.errors import InputError
from patchclamp.core.intervals import mean_row
from patchclamp.core.kinds import Numbers, Seed
from patchclamp.core.result import DatasetResult
from patchclamp.interventions import BATCH_TOKENS, At, Rotate, provenance, rows, source
from patchclamp.metrics.edited import (
    Answer,
    answer_ids,
    answer_names,
    answers_after,
    flatten_pairs,
    place_edits,
    plain_answers,
    table,
)
from patchclamp.models.inputs import Prompt
from patchclamp.models.opened import OpenModel

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

SAME = 1e-6
"""A difference in nats: an answer whose log-probability differs by less between the prompts of a pair cannot go over."""


@dataclass(eq=False)
class Interchange(DatasetResult):
    """Log-probabilities of answers after each prompt of a pair, and with coordinates taken from the other one.

    ``data`` has dims ``pair, prompt, answer``: ``start`` after the prompt itself, ``worst`` after the other prompt of the
    pair, ``mixed`` after the prompt with the other one's coordinates (nats); ``confusion`` is
    clip((start - mixed) / (start - worst), 0, 1), NaN where both prompts give the answer the same probability. 0: the
    coordinates change nothing; 1: the answer is as likely as after the other prompt.

    Source: the "Frankenstein" runs in the code of Roger 2022, "A Mystery About High Dimensional Concept Encoding"; it is the
    interchange intervention of Geiger et al. 2024, arXiv 2303.02536, on a fixed subspace.
    """

    kind: ClassVar[str] = "interchange"
    shown_by: ClassVar[str] = "metrics"

    def values(self) -> Any:
        """The mean confusion of each pair, without those that have none."""
        confusions = self.dataset["confusion"].mean(("prompt", "answer"), skipna=True).values
        return confusions[np.isfinite(confusions)]

    def summary(self, seed: Seed = 0) -> "pd.DataFrame":
        """One row: the mean confusion with its 95 % bootstrap interval over pairs, and how many pairs have one."""
        return table([mean_row(self.values(), seed)])

    def __repr__(self) -> str:
        row = self.summary().iloc[0]
        parameters = self.record["parameters"]
        return (
            f"Interchange at {parameters['site']}, rank {self.dataset.attrs['rank']}: confusion {row['mean']:.3f} "
            f"[{row['low']:.3f}, {row['high']:.3f}] over {row['count']:.0f} pairs"
        )


@checked
def confusion(start: Numbers, mixed: Numbers, worst: Numbers) -> Any:
    """clip((start - mixed) / (start - worst), 0, 1) of log-probabilities; NaN where start and worst are the same."""
    start, mixed, worst = (np.asarray(value, dtype=float) for value in (start, mixed, worst))
    difference = start - worst
    can_move = np.abs(difference) > SAME
    return np.where(can_move, np.clip((start - mixed) / np.where(can_move, difference, 1.0), 0.0, 1.0), np.nan)


@recorded
def interchange(
    model: OpenModel,
    pairs: Any,
    directions: Any,
    site: str,
    answers: Sequence[Answer] = (" he", " she"),
    at: At = "rest",
    *,
    batch_tokens: int = BATCH_TOKENS,
) -> Interchange:
    """Run each prompt of a pair with its coordinates along directions taken from the other one, both ways.

    Args:
        model: The model.
        pairs: (prompt of class 1, prompt of class 2), with equally many tokens: position for position is interchanged.
        directions: The directions, ``[d]`` or ``[rank, d]``; their span is interchanged.
        site: The site.
        answers: Two tokens, as text or ids, or two lists of tokens (their probabilities are
            added); the confusion of both is measured.
        at: The positions.
        batch_tokens: The number of padded tokens in a forward pass.

    Raises:
        InputError: The prompts of a pair have not equally many tokens, or an answer is not one token.
    """
    flat, partners = _pairs(model, pairs)
    ids = answer_ids(model, answers, flat[0])
    basis = torch.atleast_2d(rows(directions))
    edit = Rotate(source(partners), directions=basis, site=site, at=at)
    log_probabilities = []
    for actions in place_edits(model, {"mixed": [edit]}, flat).values():
        values = np.empty((len(flat), 2))
        for indices, batch_values in answers_after(model, flat, actions, ids, batch_tokens):
            values[indices] = batch_values.numpy()
        log_probabilities.append(values.reshape(-1, 2, 2))
    start, mixed = log_probabilities
    names = answer_names(model, ids)
    both_ways = list(zip(flat[::2], flat[1::2], strict=True))
    record = provenance(model, flat, pairs=both_ways, directions=basis, answers=plain_answers(ids))
    return Interchange(_dataset(start, mixed, flat, names, len(basis)), *record)


def _dataset(start: Any, mixed: Any, prompts: list[Prompt], answers: list[str], rank: int) -> "xr.Dataset":
    """Label log-probabilities ``[pair, prompt, answer]`` and their confusion."""
    import xarray as xr

    worst = start[:, ::-1].copy()
    arrays = {"start": start, "worst": worst, "mixed": mixed, "confusion": confusion(start, mixed, worst)}
    texts = np.array([p.name for p in prompts], dtype=object).reshape(-1, 2)
    return xr.Dataset(
        {name: (("pair", "prompt", "answer"), values) for name, values in arrays.items()},
        {"answer": np.array(answers, dtype=object), "text": (("pair", "prompt"), texts)},
        attrs={"rank": rank},
    )


def _pairs(model: OpenModel, pairs: Any) -> tuple[list[Prompt], list[Prompt]]:
    """Read the prompts into one row, with the partner of each."""
    flat = flatten_pairs(model, pairs)
    partners = [flat[i ^ 1] for i in range(len(flat))]
    for a, b in zip(flat[::2], partners[::2], strict=True):
        if len(a.ids) != len(b.ids):
            raise InputError(
                f"an interchange needs equally many tokens: {a.name!r} has {len(a.ids)} and {b.name!r} has {len(b.ids)}"
            )
    return flat, partners

"""The probability-ratio bias: how much likelier the expected of two answers is, relative to the likelier one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from patchclamp.core.arguments import checked
from patchclamp.core.call import recorded
from patchclamp.core.errors import InputError
from patchclamp.core.intervals import mean_row
from patchclamp.core.kinds import Numbers, Seed
from patchclamp.core.progress import Listener, task
from patchclamp.core.result import DatasetResult
from patchclamp.interventions import BATCH_TOKENS, provenance
from patchclamp.metrics.edited import (
    Answer,
    Edits,
    answer_ids,
    answer_names,
    answers_after,
    flatten_pairs,
    name_edits,
    place_edits,
    plain_answers,
    table,
)
from patchclamp.models.inputs import Prompt
from patchclamp.models.opened import OpenModel

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

WITHIN, ACROSS = "within", "across"
METRICS = (WITHIN, ACROSS, "logit_difference", "mass", "accuracy")


@dataclass(eq=False)
class Bias(DatasetResult):
    """Answers after each prompt, without edits and under each list of them.

    ``data`` has dims ``edit, prompt``: ``within`` is (p - q) / max(p, q) with p the probability of the prompt's expected
    answer and q that of the other one; ``logit_difference`` is log p - log q in nats; ``mass`` is p + q; ``accuracy`` is 1
    where p > q; ``log_probability`` has both answers. ``across``, with dims ``edit, pair, answer``, is (p - q) / max(p, q)
    with p the probability of an answer after the prompt that expects it, and q after the pair's other prompt. Both ratios
    are 1 for full bias, 0 for none, negative where it is inverted.

    Source: the relative difference of CounterGen (Roger, 2022), as in "A Mystery About High Dimensional Concept Encoding".
    """

    kind: ClassVar[str] = "bias"
    shown_by: ClassVar[str] = "metrics"

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that were measured; ``across`` needs pairs."""
        return tuple(name for name in METRICS if name in self.dataset)

    def values(self, metric: str = WITHIN) -> "xr.DataArray":
        """A metric with dims ``edit, sample``: a sample is a pair (its mean), or a prompt that has no partner."""
        metric_data = self.dataset[metric]
        if metric == ACROSS:
            return metric_data.mean("answer").rename(pair="sample")
        if "pair" not in self.dataset.dims:
            return metric_data.rename(prompt="sample")
        pair_means = metric_data.values.reshape(metric_data.sizes["edit"], -1, 2).mean(-1)
        return self.dataset[ACROSS].mean("answer").copy(data=pair_means).rename(pair="sample")

    def frame(self) -> "pd.DataFrame":
        """One row an edit and prompt: its numbers, and the probability of each answer."""
        prompt_metrics = [name for name in self.metrics if name != ACROSS]
        rows = self.dataset[prompt_metrics].to_dataframe().reset_index()
        log_probabilities = self.dataset["log_probability"].values.reshape(-1, 2)
        for i, answer in enumerate(self.dataset["answer"].values):
            rows[f"probability of {answer}"] = np.exp(log_probabilities[:, i])
        return rows

    def summary(self, seed: Seed = 0) -> "pd.DataFrame":
        """One row an edit and metric: mean, ``two_sigma`` and the 95 % bootstrap interval ``low, high`` over samples.

        Both take samples for independent: of pairs that share a template or a person they are too narrow.
        ``two_sigma`` is 2 std / sqrt(samples) with the standard deviation divided by the number of samples, as in the source.
        """
        rows = []
        for name in self.metrics:
            for edit, values in zip(self.dataset["edit"].values, self.values(name).values, strict=True):
                row = mean_row(values, seed)
                count = row.pop("count")
                rows.append(
                    {
                        "edit": edit,
                        "metric": name,
                        **row,
                        "two_sigma": 2 * values.std() / np.sqrt(count),
                        "count": count,
                    }
                )
        return table(rows)

    def __repr__(self) -> str:
        sizes = self.dataset.sizes
        inputs = f"{sizes['pair']} pairs" if "pair" in sizes else f"{sizes['prompt']} prompts"
        first, second = self.dataset["answer"].values
        lines = [f"Bias between {first!r} and {second!r} on {inputs} (mean and two sigma)"]
        for edit, rows in self.summary().groupby("edit", sort=False):
            values = [f"{row.metric} {row.mean:.3f} ± {row.two_sigma:.3f}" for row in rows.itertuples()]
            lines.append(f"{edit:<12} " + ", ".join(values))
        return "\n".join(lines)


@checked
def ratio(p: Numbers, q: Numbers) -> Any:
    """(p - q) / max(p, q), from log-probabilities in nats, so that it is exact for answers of any rarity."""
    difference = np.asarray(p, dtype=float) - np.asarray(q, dtype=float)
    return -np.sign(difference) * np.expm1(-np.abs(difference))


@recorded
def bias(
    model: OpenModel,
    prompts: Any,
    answers: Sequence[Answer] = (" he", " she"),
    edits: Edits = (),
    *,
    labels: Sequence[int] | None = None,
    batch_tokens: int = BATCH_TOKENS,
    progress: bool | Listener | None = None,
) -> Bias:
    """Measure the bias between two answers, without edits and under each list of them.

    Args:
        model: The model.
        prompts: Pairs (a prompt that expects the first answer, one that expects the second); or single prompts, with
            ``labels``.
        answers: Two tokens, as text or ids; or two lists of tokens, whose probabilities are added.
        edits: An edit, several that act together, or a mapping of names to either.
        labels: The labels of single prompts: 0 where the first answer is expected, 1 where the second is.
        batch_tokens: The number of padded tokens in a forward pass: the memory knob.
        progress: True for a bar, a function for events.

    Raises:
        InputError: Prompts are no pairs and have no labels, or an answer is not one token.
    """
    flat, expected = _prompts(model, prompts, labels)
    edits_by_name = name_edits(edits)
    ids = answer_ids(model, answers, flat[0])
    actions = place_edits(model, edits_by_name, flat)
    log_probabilities = np.empty((len(actions), len(flat), 2))
    with task("bias", log_probabilities.shape[0] * log_probabilities.shape[1], "prompts", show=progress) as bar:
        for number, rows in enumerate(actions.values()):
            for indices, values in answers_after(model, flat, rows, ids, batch_tokens):
                log_probabilities[number, indices] = values.numpy()
                bar.advance(len(indices))
    names = answer_names(model, ids)
    pairs = list(zip(flat[::2], flat[1::2], strict=True)) if labels is None else flat
    record = provenance(model, flat, prompts=pairs, answers=plain_answers(ids), edits=edits_by_name)
    return Bias(_dataset(log_probabilities, list(actions), flat, expected, names, labels is None), *record)


def _prompts(model: OpenModel, prompts: Any, labels: Sequence[int] | None) -> tuple[list[Prompt], Any]:
    """Read prompts into one row (those of a pair next to each other), with the answer that each expects."""
    if labels is not None:
        flat = model.prompts(prompts)
        expected = np.asarray(labels)
        if expected.shape != (len(flat),) or not np.isin(expected, (0, 1)).all():
            raise InputError(f"labels are one 0 or 1 a prompt: got {list(labels)!r:.80} for {len(flat)} prompts")
        return flat, expected.astype(int)
    flat = flatten_pairs(model, prompts)
    return flat, np.arange(len(flat)) % 2


def _dataset(
    log_probabilities: Any, edits: list[str], prompts: list[Prompt], expected: Any, answers: list[str], has_pairs: bool
) -> "xr.Dataset":
    """Compute everything that follows from the log-probabilities ``[edit, prompt, answer]``."""
    import xarray as xr

    rows = np.arange(len(prompts))
    p, q = log_probabilities[:, rows, expected], log_probabilities[:, rows, 1 - expected]
    cell = ("edit", "prompt")
    variables: dict[str, Any] = {
        WITHIN: (cell, ratio(p, q)), "logit_difference": (cell, p - q), "mass": (cell, np.exp(p) + np.exp(q)),
        "accuracy": (cell, (p > q).astype(float)), "log_probability": ((*cell, "answer"), log_probabilities),
    }  # fmt: skip
    if has_pairs:
        pair_values = log_probabilities.reshape(len(edits), -1, 2, 2)  # [edit, pair, prompt, answer]
        across = ratio(
            np.stack([pair_values[..., 0, 0], pair_values[..., 1, 1]], -1),
            np.stack([pair_values[..., 1, 0], pair_values[..., 0, 1]], -1),
        )
        variables[ACROSS] = (("edit", "pair", "answer"), across)
    coords = {
        "edit": np.array(edits, dtype=object), "prompt": np.array([p.name for p in prompts], dtype=object),
        "answer": np.array(answers, dtype=object), "expected": ("prompt", expected),
    }  # fmt: skip
    return xr.Dataset(variables, coords)

"""Head scores: which heads go back to where a token stood before, and which copy what they find there."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch import Tensor

from patchclamp.core.call import recorded
from patchclamp.core.digest import digest
from patchclamp.core.errors import InputError, ModelError, unknown
from patchclamp.core.kinds import Repeats, Seed
from patchclamp.core.progress import Listener, task
from patchclamp.core.result import DatasetResult
from patchclamp.interventions import provenance
from patchclamp.models.opened import OpenModel
from patchclamp.tracing import patterns
from patchclamp.tracing.copying import ov_positivity
from patchclamp.tracing.means import COPYING, Means
from patchclamp.tracing.repeats import (
    ATTENTION_SCORES,
    INDUCTION,
    PREVIOUS,
    Passage,
    Word,
    random_passages,
    word_passages,
)

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

OV = "ov_copying"
SCORES = (*ATTENTION_SCORES, COPYING, OV)
SHUFFLED, UNREPEATED = "shuffled", "unrepeated"
OV_DRAWS = 5
HIGH = 0.95


@dataclass(eq=False)
class HeadScores(DatasetResult):
    """Scores of every head, and what the same statistics give where there is nothing to find.

    ``data`` holds ``value`` and ``standard_error`` with dims ``score, layer, head``; and for each control its ``null_mean``
    and ``null_high`` (95 % quantile) with dims ``control, score, layer, head``. What a control does not apply to is NaN.
    Both controls are of the mean over passages: the shuffled one over draws of targets, the unrepeated one over draws of
    passages (a bootstrap), so it is NaN for one passage, as is the standard error.

    Source: Olsson et al. 2022, "In-context learning and induction heads", arXiv 2209.11895; Elhage et al. 2021.
    """

    kind: ClassVar[str] = "heads"

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of what was measured."""
        return tuple(str(name) for name in self.dataset["score"].values)

    def strongest(self, score: str = INDUCTION, k: int = 10) -> "pd.DataFrame":
        """The ``k`` heads with the largest score, as sites, each beside its standard error and its controls.

        Raises:
            InputError: There is no such score here.
        """
        import pandas as pd

        score_data = self.dataset.sel(score=self.named(score))
        flat = score_data["value"].values.ravel()
        order = np.argsort(-np.nan_to_num(flat, nan=-np.inf), kind="stable")[:k]
        rows = []
        for index in order:
            layer, head = np.unravel_index(int(index), score_data["value"].shape)
            cell = score_data.isel(layer=layer, head=head)
            row = {"site": f"z.{int(cell['layer'])}.h{int(cell['head'])}", score: float(cell["value"])}
            row["standard_error"] = float(cell["standard_error"])
            for control in self.controls(score):
                row |= {control: float(cell["null_mean"].sel(control=control))}
                row |= {f"{control} 95 %": float(cell["null_high"].sel(control=control))}
            rows.append(row)
        return pd.DataFrame(rows)

    def controls(self, score: str) -> list[str]:
        """The controls that a score has."""
        means = self.dataset["null_mean"].sel(score=self.named(score))
        return [str(name) for name in means["control"].values if bool(means.sel(control=name).notnull().any())]

    def named(self, score: str) -> str:
        """The score asked for.

        Raises:
            InputError: It was not measured.
        """
        if score not in self.scores:
            raise InputError(unknown("score", score, self.scores))
        return score

    def __repr__(self) -> str:
        parameters = self.record["parameters"]
        sizes = self.dataset.sizes
        if parameters["word"] is None:
            inputs = f"{parameters['samples']} passages of {parameters['length']} random tokens, twice"
        else:
            inputs = f"{len(self.record['occurrences'])} occurrences of {parameters['word']!r}"
            others = self.record["occurrences_elsewhere"]
            inputs += f" ({others} more in other tokens left out)" if others else ""
        lines = [f"HeadScores of {sizes['layer']} layers x {sizes['head']} heads, on {inputs}"]
        for score in self.scores:
            strongest = self.strongest(score, 3)
            if not np.isfinite(strongest[score]).any():
                continue
            high = float(self.dataset["null_high"].sel(score=score, control=self.controls(score)[0]).max())
            values = ", ".join(
                f"{site} {value:.2f}" for site, value in zip(strongest["site"], strongest[score], strict=True)
            )
            lines.append(f"{score:<16} {values}; shuffled: at most {high:.2f}")
        lines += [f"{name:<16} not measured: {why}" for name, why in self.record["not_measured"].items()]
        return "\n".join(lines)


@recorded
def head_scores(
    model: OpenModel,
    text: Any = None,
    word: str | None = None,
    *,
    length: int = 32,
    samples: Repeats = 8,
    seed: Seed = 0,
    draws: Repeats = 100,
    batch_tokens: int = patterns.BATCH_TOKENS,
    progress: bool | Listener | None = None,
) -> HeadScores:
    """Score every head: does it go back to where a token stood before, and copy what followed? With controls.

    On random tokens that come twice, or on a text in which a word recurs. Any attention implementation will do: patterns
    are read off the values. The page on head scores has every definition.

    Source: Olsson et al. 2022, arXiv 2209.11895; Elhage et al. 2021.

    Args:
        model: The model.
        text: A text with a word that recurs; without it, random tokens.
        word: The word, as ``" Dursley"``.
        length: Random tokens of a block, which comes twice.
        samples: The number of such passages.
        seed: The seed of the tokens and of the shuffled targets.
        draws: The number of times that targets are shuffled, for the control.
        batch_tokens: The number of positions in a forward pass: the memory knob.
        progress: True for a bar, a function for events.

    Raises:
        ModelError: The model has no attention heads, or reads both ways.
        PositionError: The word does not recur, or not in the same tokens; the message shows them.
    """
    if not model.causal:
        raise ModelError(
            f"head scores are about going back in a text that is read from left to right; {type(model.module).__name__} "
            "reads both ways"
        )
    patterns.readable(model)
    if (text is None) != (word is None):
        raise InputError("a text needs the word that recurs in it, and a word its text: head_scores(text, word)")
    if draws < 1:
        raise InputError(f"draws is how often targets are shuffled, 1 or more; got {draws!r}")
    recurrence: Word | None = None
    unrepeated_passages: list[Passage] = []
    if word is None:
        passages = random_passages(model, length, samples, seed)
        unrepeated_passages = random_passages(model, length, samples, seed, repeated=False)
    else:
        passages, recurrence = word_passages(model, text, word)
    missing: dict[str, str] = {}
    with task("heads", len(passages) + len(unrepeated_passages), "passages", show=progress) as bar:
        means = Means(model, passages, draws, seed).measure(batch_tokens, bar.advance, missing)
        unrepeated_means = (
            Means(model, unrepeated_passages, 0, seed).measure(batch_tokens, bar.advance, missing)
            if unrepeated_passages
            else None
        )
    circuit = None if word is not None else _circuit(model, seed, missing)
    prompts = list({passage.prompt.key: passage.prompt for passage in passages}.values())
    record, tensors = provenance(model, prompts, **({} if word is None else {"text": prompts[0]}))
    record |= {"not_measured": missing}
    if recurrence is not None:
        record |= {
            "occurrences": [list(span) for span in recurrence.occurrences],
            "occurrences_elsewhere": recurrence.other,
        }
    return HeadScores(_dataset(means, unrepeated_means, circuit, draws, seed), record, tensors)


def _circuit(model: OpenModel, seed: int, missing: dict[str, str]) -> tuple[Tensor, Tensor] | None:
    try:
        return ov_positivity(model, OV_DRAWS, seed)
    except ModelError as error:
        missing[OV] = str(error)
        return None


def _bootstrap_means(values: Any, draws: int, seed: int) -> Any:
    """Means over as many passages, drawn with replacement: ``[..., passage]`` to ``[..., draw]``; NaN for one passage."""
    count = values.shape[-1]
    indices = np.random.default_rng(int(digest(UNREPEATED, seed), 16)).integers(count, size=(draws, count))
    return values[..., indices].mean(-1) if count > 1 else np.full((*values.shape[:-1], draws), np.nan)


def _dataset(
    means: Means, unrepeated_means: Means | None, circuit: tuple[Tensor, Tensor] | None, draws: int, seed: int
) -> "xr.Dataset":
    import xarray as xr

    layers = sorted(means.attention)
    table = means.table()  # [score, layer, head, passage, place]
    names = SCORES if unrepeated_means is not None else SCORES[:-1]
    shape = (len(names), *table.shape[1:3])
    value, error = np.full(shape, np.nan), np.full(shape, np.nan)
    mean, high = np.full((2, *shape), np.nan), np.full((2, *shape), np.nan)
    count, scores, null = table.shape[3], table[..., 0], table[..., 1:].mean(3)
    attention_rows = slice(0, len(SCORES) - 1)
    value[attention_rows] = scores.mean(-1)
    if count > 1:
        error[attention_rows] = scores.std(-1, ddof=1) / np.sqrt(count)
    mean[0, attention_rows], high[0, attention_rows] = null.mean(-1), np.quantile(null, HIGH, axis=-1)
    if unrepeated_means is not None:
        unrepeated_scores = unrepeated_means.table()[..., 0]
        unrepeated_scores[names.index(PREVIOUS)] = np.nan  # the token before is there whether or not anything recurs
        mean[1, attention_rows] = unrepeated_scores.mean(-1)
        high[1, attention_rows] = np.quantile(_bootstrap_means(unrepeated_scores, draws, seed), HIGH, axis=-1)
    if circuit is not None:
        value[-1] = circuit[0].numpy()
        mean[0, -1], high[0, -1] = circuit[1].mean(0).numpy(), np.quantile(circuit[1].numpy(), HIGH, axis=0)
    cell = ("score", "layer", "head")
    controls = [SHUFFLED, UNREPEATED] if unrepeated_means is not None else [SHUFFLED]
    return xr.Dataset(
        {
            "value": (cell, value), "standard_error": (cell, error),
            "null_mean": (("control", *cell), mean[: len(controls)]), "null_high": (("control", *cell), high[: len(controls)]),
        },
        {
            "score": np.array(names, dtype=object), "layer": np.array(layers), "head": np.arange(shape[-1]),
            "control": np.array(controls, dtype=object),
        },
    )  # fmt: skip

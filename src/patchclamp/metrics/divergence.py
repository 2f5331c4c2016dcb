"""Greedy continuations with and without edits: after how many tokens they differ, on the topic of the edit and off it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from patchclamp.core.call import recorded
from patchclamp.core.errors import InputError
from patchclamp.core.intervals import mean_row, wilson
from patchclamp.core.kinds import Seed
from patchclamp.core.progress import Listener, task
from patchclamp.core.result import DatasetResult
from patchclamp.interventions import Generation, generate, provenance
from patchclamp.metrics.edited import UNEDITED, Edits, name_edits, table
from patchclamp.models.opened import OpenModel

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

ON, OFF = "on", "off"


@dataclass(eq=False)
class Divergence(DatasetResult):
    """Continuations without edits and under each list of them.

    ``data`` has dims ``edit, prompt``: ``first`` is how many new tokens are those of the unedited model before one differs
    (all ``max_new_tokens`` if none does: then the true number is unknown, and at least that), ``text`` the continuation. The
    coordinate ``topic`` is "on" or "off".

    Source: the generations compared in Roger 2022, "A Mystery About High Dimensional Concept Encoding", appendix.
    """

    kind: ClassVar[str] = "divergence"

    @property
    def topics(self) -> list[str]:
        """The topics that there are prompts of."""
        return [topic for topic in (ON, OFF) if (self.dataset["topic"] == topic).any()]

    @property
    def max_new_tokens(self) -> int:
        """The largest number of tokens that were generated."""
        return int(self.dataset.attrs["max_new_tokens"])

    def first(self, edit: str, topic: str) -> Any:
        """The values of ``first`` of the prompts of a topic."""
        lengths = self.dataset["first"].sel(edit=edit).values
        return lengths[self.dataset["topic"].values == topic]

    def curves(self) -> "xr.Dataset":
        """The agreement curves: which share of the prompts still has the unedited tokens after ``k`` of them.

        Returns:
            ``share``, ``low`` and ``high`` (Wilson's 95 % interval) with dims ``edit, topic, k``, ``k`` from 0 to
            ``max_new_tokens``.
        """
        import xarray as xr

        edits, ks = self.dataset["edit"].values[1:], np.arange(self.max_new_tokens + 1)
        values = np.empty((3, len(edits), len(self.topics), len(ks)))
        for i, edit in enumerate(edits):
            for j, topic in enumerate(self.topics):
                first = self.first(edit, topic)
                hits = (first[:, None] >= ks).sum(0)
                values[0, i, j] = hits / len(first)
                values[1:, i, j] = np.transpose([wilson(int(n), len(first)) for n in hits])
        values[1:, :, :, 0] = 1.0  # before the first token all are alike by definition
        dims = ("edit", "topic", "k")
        coords = {"edit": edits, "topic": np.array(self.topics, dtype=object), "k": ks}
        return xr.Dataset(dict(zip(("share", "low", "high"), ((dims, v) for v in values), strict=True)), coords)

    def summary(self, seed: Seed = 0) -> "pd.DataFrame":
        """One row an edit and topic: the mean of ``first`` with its 95 % bootstrap interval, its median, and the share unchanged.

        The mean counts unchanged continuations as ``max_new_tokens``, so it is a lower bound.
        """
        rows = []
        for edit in self.dataset["edit"].values[1:]:
            for topic in self.topics:
                first = self.first(edit, topic)
                row = {"edit": edit, "topic": topic, **mean_row(first, seed), "median": float(np.median(first))}
                rows.append(row | {"unchanged": float((first == self.max_new_tokens).mean())})
        return table(rows)

    def completions(self) -> "pd.DataFrame":
        """The continuations side by side: one row a prompt, one column the unedited model and each list of edits."""
        dataset = self.dataset
        columns = {str(edit): dataset["text"].sel(edit=edit).values for edit in dataset["edit"].values}
        prompts, topics = dataset["prompt"].values, dataset["topic"].values
        texts = zip(*columns.values(), strict=True)
        rows = zip(prompts, topics, texts, strict=True)
        return table([{"prompt": p, "topic": t, **dict(zip(columns, row, strict=True))} for p, t, row in rows])

    def __repr__(self) -> str:
        lines = [f"Divergence of greedy continuations, at most {self.max_new_tokens} tokens"]
        for row in self.summary().itertuples():
            lines.append(
                f"{row.edit:<12} {row.topic} topic: {row.mean:.1f} tokens alike on average, median {row.median:g}; "
                f"{row.unchanged:.0%} of {row.count} prompts unchanged"
            )
        return "\n".join(lines)


@recorded
def divergence(
    model: OpenModel,
    edits: Edits,
    on_topic: Any,
    off_topic: Any = (),
    *,
    max_new_tokens: int = 32,
    progress: bool | Listener | None = None,
) -> Divergence:
    """Generate with and without edits, greedily, and see when they part.

    Args:
        model: The model.
        edits: An edit, several that act together, or a mapping of names to either.
        on_topic: Prompts about what the edit is meant to change.
        off_topic: Prompts about something else: the control.
        max_new_tokens: The number of tokens to generate.
        progress: True for a bar, a function for events.

    Raises:
        InputError: No edit or no prompt is given.
    """
    edits_by_name = name_edits(edits)
    if not edits_by_name:
        raise InputError("divergence compares with the unedited model: give at least one edit")
    groups = {
        topic: [] if _is_empty(prompts_of_topic) else model.prompts(prompts_of_topic)
        for topic, prompts_of_topic in ((ON, on_topic), (OFF, off_topic))
    }
    prompts = [prompt for group in groups.values() for prompt in group]
    if not prompts:
        raise InputError("no prompt was given: on_topic and off_topic are both empty")
    runs: dict[str, Generation] = {}
    with task("divergence", len(edits_by_name) + 1, "continuations", show=progress) as bar:
        for name, edit_list in {UNEDITED: [], **edits_by_name}.items():
            runs[name] = generate(model, prompts, edit_list, max_new_tokens=max_new_tokens)
            bar.advance()
    unedited_ids = runs[UNEDITED].ids
    first = [
        [agreement(a, b, max_new_tokens) for a, b in zip(unedited_ids, run.ids, strict=True)] for run in runs.values()
    ]
    topics = [topic for topic, group in groups.items() for _ in group]
    record = provenance(model, prompts, edits=edits_by_name, on_topic=groups[ON], off_topic=groups[OFF])
    return Divergence(_dataset(runs, first, topics, max_new_tokens), *record)


def _is_empty(prompts: Any) -> bool:
    return isinstance(prompts, list | tuple) and not prompts


def agreement(ids: Sequence[int], other_ids: Sequence[int], limit: int) -> int:
    """Count the tokens that two continuations share before they differ; ``limit`` if they never do. Ending is a difference."""
    first_difference = next((i for i, (a, b) in enumerate(zip(ids, other_ids, strict=False)) if a != b), None)
    if first_difference is not None:
        return first_difference
    return limit if len(ids) == len(other_ids) else min(len(ids), len(other_ids))


def _dataset(
    runs: dict[str, Generation], first: list[list[int]], topics: list[str], max_new_tokens: int
) -> "xr.Dataset":
    import xarray as xr

    coords = {
        "edit": np.array(list(runs), dtype=object),
        "prompt": np.array(next(iter(runs.values())).prompts, dtype=object),
        "topic": ("prompt", np.array(topics, dtype=object)),
    }
    texts = np.array([run.texts for run in runs.values()], dtype=object)
    variables = {"first": (("edit", "prompt"), np.array(first)), "text": (("edit", "prompt"), texts)}
    return xr.Dataset(variables, coords, attrs={"max_new_tokens": max_new_tokens})

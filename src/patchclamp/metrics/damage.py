"""What an edit costs on text that it is not about: divergence from the unedited model, and perplexity."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from patchclamp.core.call import recorded
from patchclamp.core.errors import InputError
from patchclamp.core.intervals import mean_row
from patchclamp.core.kinds import Seed
from patchclamp.core.progress import Listener, task
from patchclamp.core.result import DatasetResult
from patchclamp.interventions import Action, Row, batches, forward, may_share, provenance
from patchclamp.metrics.edited import UNEDITED, Edits, name_edits, place_edits, table
from patchclamp.metrics.neutral import read_texts
from patchclamp.models.inputs import Prompt
from patchclamp.models.opened import OpenModel

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

BATCH_TOKENS = 512
"""The number of padded tokens in a forward pass: two times the logits of so many positions are alive at once."""
_BLOCK = 64  # positions whose vocabulary-wide float64 temporaries are made at once


@dataclass(eq=False)
class Damage(DatasetResult):
    """Divergence and loss on texts, without edits and under each list of them.

    ``data`` has dims ``edit, text``: ``kl`` is KL(unedited || edited) of the next token and ``loss`` the cross-entropy of the
    text's own next token, both in nats, a mean over the text's ``tokens`` predicted tokens (all but its first).
    """

    kind: ClassVar[str] = "damage"
    shown_by: ClassVar[str] = "metrics"

    def summary(self, seed: Seed = 0) -> "pd.DataFrame":
        """One row an edit and metric: the mean over tokens, and its 95 % bootstrap interval over texts.

        The metrics: ``kl``; ``loss_change``, edited minus unedited on the same texts; ``perplexity``, the exponential of the
        mean loss. The interval of the perplexity is that of the texts, which differ far more than edits do: to compare, take
        ``loss_change``.
        """
        tokens, rows = self.dataset["tokens"].values, []
        loss = self.dataset["loss"]
        change = loss - loss.sel(edit=UNEDITED, drop=True)
        for name, values in (("kl", self.dataset["kl"]), ("loss_change", change), ("perplexity", loss)):
            for edit, edit_values in zip(self.dataset["edit"].values, values.values, strict=True):
                row = mean_row(edit_values, seed, tokens)
                if name == "perplexity":
                    row |= {part: float(np.exp(row[part])) for part in ("mean", "low", "high")}
                rows.append({"edit": edit, "metric": name, **row})
        return table(rows)

    def __repr__(self) -> str:
        title = f"Damage on {self.dataset.sizes['text']} texts, {int(self.dataset['tokens'].sum())} predicted tokens"
        lines = [title]
        for edit, rows in self.summary().groupby("edit", sort=False):
            row = rows.set_index("metric")["mean"]
            lines.append(
                f"{edit:<12} KL {row['kl']:.4f} nats a token, perplexity {row['perplexity']:.2f} ({row['loss_change']:+.4f} nats)"
            )
        return "\n".join(lines)


@recorded
def damage(
    model: OpenModel,
    edits: Edits,
    texts: Any = None,
    *,
    batch_tokens: int = BATCH_TOKENS,
    progress: bool | Listener | None = None,
) -> Damage:
    """Measure what edits do to other text; the unedited pass is run once for all of them.

    Args:
        model: The model.
        edits: An edit, several that act together, or a mapping of names to either.
        texts: Text, ids or tensors, as for :meth:`patchclamp.Model.run`; :func:`neutral_texts` by default.
        batch_tokens: Padded tokens of a forward pass: the memory knob. Only the logits of one pass and of its unedited
            counterpart are held.
        progress: True for a bar, a function for events.

    Raises:
        InputError: A text has no next token to predict.
    """
    prompts = model.prompts(read_texts(model, texts) if texts is None else texts)
    short_prompt = next((p for p in prompts if len(p.ids) < 2), None)
    if short_prompt is not None:
        raise InputError(
            f"the text {short_prompt.name!r} has {len(short_prompt.ids)} tokens; a loss needs a next token: at least 2"
        )
    if model.capabilities.width_of_logits is None:
        _logits(model, prompts, [()] * len(prompts), [0])
    model.check_predicts(token for prompt in prompts for token in prompt.ids[1:])
    edits_by_name = name_edits(edits)
    actions = place_edits(model, edits_by_name, prompts)
    kl, loss = np.zeros((len(actions), len(prompts))), np.zeros((len(actions), len(prompts)))
    with task("damage", kl.size, "texts", show=progress) as bar:
        for batch in batches(prompts, batch_tokens, *may_share(model)):
            unedited_logits = _logits(model, prompts, actions[UNEDITED], batch)
            for number, rows in enumerate(actions.values()):
                edited_logits = _logits(model, prompts, rows, batch) if number else unedited_logits
                for index, text in enumerate(batch):
                    kl[number, text], loss[number, text] = compare(
                        unedited_logits[index], edited_logits[index], prompts[text].ids
                    )
                bar.advance(len(batch))
    record = provenance(model, prompts, edits=edits_by_name, texts=prompts)
    return Damage(_dataset(kl, loss, list(actions), prompts), *record)


def compare(unedited_logits: Tensor, edited_logits: Tensor, ids: Sequence[int]) -> tuple[float, float]:
    """Compute means over a text's predicted tokens: KL(unedited || edited) and the loss of the edited model, in nats.

    Args:
        unedited_logits: The logits of the unedited model, ``[position, vocabulary]``, perhaps with padding at the end.
        edited_logits: The logits of the edited model, likewise.
        ids: The text's tokens.
    """
    targets = torch.tensor(list(ids[1:]), device=edited_logits.device)
    divergence, losses = 0.0, 0.0
    for start in range(0, len(targets), _BLOCK):
        rows = slice(start, min(start + _BLOCK, len(targets)))
        log_q = edited_logits[rows].to(torch.float64).log_softmax(-1)
        losses -= float(log_q.gather(-1, targets[rows].unsqueeze(-1)).sum())
        if unedited_logits is not edited_logits:
            log_p = unedited_logits[rows].to(torch.float64).log_softmax(-1)
            divergence += float((log_p.exp() * (log_p - log_q)).sum(-1).clamp(min=0).sum())
    return divergence / len(targets), losses / len(targets)


def _logits(
    model: OpenModel, prompts: Sequence[Prompt], actions: Sequence[tuple[Action, ...]], members: Sequence[int]
) -> Tensor:
    logits = forward(model, [Row(prompts[i], actions[i]) for i in members]).logits
    assert logits is not None
    if logits.ndim < 3:
        raise InputError(f"{type(model.module).__name__} gives one output a prompt, so its next tokens have no loss")
    return logits


def _dataset(kl: Any, loss: Any, edits: list[str], prompts: list[Prompt]) -> "xr.Dataset":
    import xarray as xr

    coords = {
        "edit": np.array(edits, dtype=object), "text": np.array([p.name for p in prompts], dtype=object),
        "tokens": ("text", np.array([len(p.ids) - 1 for p in prompts])),
    }  # fmt: skip
    return xr.Dataset({"kl": (("edit", "text"), kl), "loss": (("edit", "text"), loss)}, coords)

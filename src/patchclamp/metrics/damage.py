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
from patchclamp.interventions.actions import Action
from patchclamp.interventions.forward import Row, forward
from patchclamp.interventions.provenance import provenance
from patchclamp.interventions.record import batches, may_share
from patchclamp.metrics.edited import UNEDITED, Edits, named, placed, table
from patchclamp.metrics.neutral import listed
from patchclamp.models.inputs import Prompt
from patchclamp.models.opened import OpenModel

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

BATCH_TOKENS = 512
"""Padded tokens a forward pass: two times the logits of so many positions are held at once."""
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
            for edit, mine in zip(self.dataset["edit"].values, values.values, strict=True):
                row = mean_row(mine, seed, tokens)
                if name == "perplexity":
                    row |= {part: float(np.exp(row[part])) for part in ("mean", "low", "high")}
                rows.append({"edit": edit, "metric": name, **row})
        return table(rows)

    def __repr__(self) -> str:
        head = f"Damage on {self.dataset.sizes['text']} texts, {int(self.dataset['tokens'].sum())} predicted tokens"
        lines = [head]
        for edit, rows in self.summary().groupby("edit", sort=False):
            one = rows.set_index("metric")["mean"]
            lines.append(
                f"{edit:<12} KL {one['kl']:.4f} nats a token, perplexity {one['perplexity']:.2f} ({one['loss_change']:+.4f} nats)"
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
        batch_tokens: Padded tokens a forward pass: the memory knob. Only the logits of one pass and of its unedited
            counterpart are held.
        progress: True for a bar, a function for events.

    Raises:
        InputError: A text has no next token to predict.
    """
    prompts = model.prompts(listed(model, texts) if texts is None else texts)
    short = next((p for p in prompts if len(p.ids) < 2), None)
    if short is not None:
        raise InputError(f"the text {short.name!r} has {len(short.ids)} tokens; a loss needs a next token: at least 2")
    if model.width_of_logits is None:
        _logits(model, prompts, [()] * len(prompts), [0])
    model.check_predicts(token for prompt in prompts for token in prompt.ids[1:])
    chosen = named(edits)
    actions = placed(model, chosen, prompts)
    kl, loss = np.zeros((len(actions), len(prompts))), np.zeros((len(actions), len(prompts)))
    with task("damage", kl.size, "texts", show=progress) as bar:
        for members in batches(prompts, batch_tokens, *may_share(model)):
            before = _logits(model, prompts, actions[UNEDITED], members)
            for number, rows in enumerate(actions.values()):
                after = _logits(model, prompts, rows, members) if number else before
                for place, text in enumerate(members):
                    kl[number, text], loss[number, text] = compare(before[place], after[place], prompts[text].ids)
                bar.advance(len(members))
    record = provenance(model, prompts, edits=chosen, texts=prompts)
    return Damage(_labelled(kl, loss, list(actions), prompts), *record)


def compare(before: Tensor, after: Tensor, ids: Sequence[int]) -> tuple[float, float]:
    """Means over a text's predicted tokens: KL(before || after) and the loss of ``after``, in nats.

    Args:
        before: Logits, ``[position, vocabulary]``, perhaps with padding at the end.
        after: Likewise.
        ids: The text's tokens.
    """
    targets = torch.tensor(list(ids[1:]), device=after.device)
    total, losses = 0.0, 0.0
    for start in range(0, len(targets), _BLOCK):
        rows = slice(start, min(start + _BLOCK, len(targets)))
        log_q = after[rows].to(torch.float64).log_softmax(-1)
        losses -= float(log_q.gather(-1, targets[rows].unsqueeze(-1)).sum())
        if before is not after:
            log_p = before[rows].to(torch.float64).log_softmax(-1)
            total += float((log_p.exp() * (log_p - log_q)).sum(-1).clamp(min=0).sum())
    return total / len(targets), losses / len(targets)


def _logits(
    model: OpenModel, prompts: Sequence[Prompt], actions: Sequence[tuple[Action, ...]], members: Sequence[int]
) -> Tensor:
    logits = forward(model, [Row(prompts[i], actions[i]) for i in members]).logits
    assert logits is not None
    if logits.ndim < 3:
        raise InputError(f"{type(model.module).__name__} gives one output a prompt, so its next tokens have no loss")
    return logits


def _labelled(kl: Any, loss: Any, edits: list[str], prompts: list[Prompt]) -> "xr.Dataset":
    import xarray as xr

    coords = {
        "edit": np.array(edits, dtype=object), "text": np.array([p.name for p in prompts], dtype=object),
        "tokens": ("text", np.array([len(p.ids) - 1 for p in prompts])),
    }  # fmt: skip
    return xr.Dataset({"kl": (("edit", "text"), kl), "loss": (("edit", "text"), loss)}, coords)

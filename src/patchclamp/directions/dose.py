"""Dose and response: how far an edit of growing size moves the answers, and what it costs on other text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from patchclamp.core.arguments import checked
from patchclamp.core.errors import InputError
from patchclamp.core.progress import Listener
from patchclamp.core.result import DatasetResult
from patchclamp.directions.direction import About, Direction
from patchclamp.interventions import evidence
from patchclamp.metrics.bias import bias
from patchclamp.metrics.damage import damage
from patchclamp.metrics.edited import UNEDITED, Answer, mean_row, named
from patchclamp.metrics.neutral import listed
from patchclamp.models.opened import OpenModel

if TYPE_CHECKING:
    import xarray as xr


@dataclass(eq=False)
class DoseResponse(DatasetResult):
    """What each amount of each edit does.

    ``data`` has dims ``direction, amount``: ``effect`` is the mean log-odds (in nats) of the second answer over the first,
    ``lean`` its bounded form (p2 - p1) / max(p1, p2), ``kl`` the divergence on other text and ``loss_change`` the change of its
    loss, in nats a token; each with ``_low`` and ``_high``, 95 % bootstrap intervals over prompts (texts).
    """

    kind: ClassVar[str] = "dose_response"

    @property
    def data(self) -> "xr.Dataset":
        """The numbers."""
        return self.dataset

    def __repr__(self) -> str:
        lines = ["Dose and response: log-odds of the second answer (nats), KL on other text (nats a token)"]
        for method in self.dataset["direction"].values:
            one = self.dataset.sel(direction=method)
            cells = [
                f"{float(a):g}: {float(e):+.2f} / {float(k):.3f}"
                for a, e, k in zip(one["amount"], one["effect"], one["kl"], strict=True)
            ]
            lines.append(f"{method:<12} " + "   ".join(cells))
        return "\n".join(lines)


@checked
def dose_response(
    model: OpenModel,
    directions: dict[str, Direction],
    prompts: Any,
    answers: Sequence[Answer],
    amounts: Sequence[float],
    texts: Any = None,
    *,
    edit: Literal["add", "scale"] = "add",
    about: About = "mean",
    progress: bool | Listener | None = None,
) -> DoseResponse:
    """How far edits of growing size move the answers, and what they cost on other text.

    Args:
        model: The model.
        directions: Of each method.
        prompts: After which the answers are read.
        answers: Two tokens, or two lists of tokens (their probabilities are added); the effect is the log-odds of the second
            over the first.
        amounts: Of the edit: distances between the class means for ``add``, factors for ``scale``.
        texts: On which divergence and loss are measured; passages of books by default.
        edit: What grows.
        about: From where ``scale`` measures.
        progress: True for bars, a function for events.

    Raises:
        InputError: No direction or amount, or answers that are not single tokens.
    """
    if not directions or not len(amounts):
        raise InputError("a direction and an amount are needed at least")
    doses = [float(amount) for amount in amounts]
    if not np.isfinite(doses).all():
        raise InputError(f"amounts are finite numbers; got {next(dose for dose in doses if not np.isfinite(dose))}")
    placed: dict[str, Any] = {}
    for name, direction in directions.items():
        for amount in doses:
            one = direction.add(amount) if edit == "add" else direction.scale(amount, about=about)
            placed[f"{name}|{amount!r}"] = one
    return dosed(model, placed, prompts, answers, texts, progress)


def dosed(
    model: OpenModel,
    edits: dict[str, Any],
    prompts: Any,
    answers: Sequence[Answer],
    texts: Any = None,
    progress: bool | Listener | None = None,
) -> DoseResponse:
    """Measure edits named ``method|amount``."""
    import xarray as xr

    rows = model.prompts(prompts)
    others = listed(model, texts)
    found = bias(model, prompts, answers, edits, labels=[1] * len(rows), progress=progress)
    cost = damage(model, edits, others, progress=progress)
    parts = [name.rpartition("|") for name in edits]
    methods = list(dict.fromkeys(part[0] for part in parts))
    amounts = sorted({float(part[2]) for part in parts})
    loss = cost.data["loss"] - cost.data["loss"].sel(edit=UNEDITED, drop=True)
    samples = {
        "effect": (found.data["logit_difference"], None),
        "lean": (found.data["within"], None),
        "kl": (cost.data["kl"], cost.data["tokens"].values),
        "loss_change": (loss, cost.data["tokens"].values),
    }
    arrays: dict[str, Any] = {}
    for metric, (values, weights) in samples.items():
        arrays[f"{metric}_before"] = mean_row(values.sel(edit=UNEDITED).values, 0, weights)["mean"]
        for suffix, key in (("", "mean"), ("_low", "low"), ("_high", "high")):
            table = np.full((len(methods), len(amounts)), np.nan)
            for name, (method, _, amount) in zip(edits, parts, strict=True):
                row = mean_row(values.sel(edit=name).values, 0, weights)
                table[methods.index(method), amounts.index(float(amount))] = row[key]
            arrays[metric + suffix] = (("direction", "amount"), table)
    dataset = xr.Dataset(arrays, {"direction": np.array(methods, dtype=object), "amount": np.array(amounts)})
    said = evidence(
        model,
        rows,
        edits=named(edits),
        answers=list(answers),
        texts=others,
    )
    return DoseResponse(dataset, *said)

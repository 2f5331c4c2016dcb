"""Dose and response: how far an edit of growing size moves the answers, and what it costs on other text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from patchclamp.core.call import recorded
from patchclamp.core.errors import InputError
from patchclamp.core.progress import Listener
from patchclamp.core.result import DatasetResult
from patchclamp.directions.direction import About, Direction
from patchclamp.directions.tables import mean_tables
from patchclamp.interventions import provenance
from patchclamp.metrics.bias import bias
from patchclamp.metrics.damage import damage
from patchclamp.metrics.edited import UNEDITED, Answer
from patchclamp.metrics.neutral import read_texts
from patchclamp.models.opened import OpenModel

if TYPE_CHECKING:
    pass


@dataclass(eq=False)
class DoseResponse(DatasetResult):
    """What each amount of each edit does.

    ``data`` has dims ``direction, amount``: ``effect`` is the mean log-odds (in nats) of the second answer over the first,
    ``lean`` its bounded form (p2 - p1) / max(p1, p2), ``kl`` the divergence on other text and ``loss_change`` the change of its
    loss, in nats a token; each with ``_low`` and ``_high``, 95 % bootstrap intervals over prompts (texts).
    """

    kind: ClassVar[str] = "dose_response"

    def __repr__(self) -> str:
        lines = ["Dose and response: log-odds of the second answer (nats), KL on other text (nats a token)"]
        for method in self.dataset["direction"].values:
            method_data = self.dataset.sel(direction=method)
            cells = [
                f"{float(a):g}: {float(e):+.2f} / {float(k):.3f}"
                for a, e, k in zip(method_data["amount"], method_data["effect"], method_data["kl"], strict=True)
            ]
            lines.append(f"{method:<12} " + "   ".join(cells))
        return "\n".join(lines)


@recorded
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
        directions: The direction of each method.
        prompts: The prompts after which the answers are read.
        answers: Two tokens, or two lists of tokens (their probabilities are added); the effect is the log-odds of the second
            over the first.
        amounts: The amounts of the edit: distances between the class means for ``add``, factors for ``scale``.
        texts: The texts on which divergence and loss are measured; passages of books by default.
        edit: The edit whose size grows.
        about: The point from which ``scale`` measures.
        progress: True for bars, a function for events.

    Raises:
        InputError: No direction or amount, or answers that are not single tokens.
    """
    if not directions or not len(amounts):
        raise InputError("a direction and an amount are needed at least")
    doses = [float(amount) for amount in amounts]
    if not np.isfinite(doses).all():
        raise InputError(f"amounts are finite numbers; got {next(dose for dose in doses if not np.isfinite(dose))}")
    edit_map = {
        (name, amount): direction.add(amount) if edit == "add" else direction.scale(amount, about=about)
        for name, direction in directions.items()
        for amount in doses
    }
    return measure_doses(model, edit_map, prompts, answers, texts, progress)


def measure_doses(
    model: OpenModel,
    edits: Mapping[tuple[str, float], Any],
    prompts: Any,
    answers: Sequence[Answer],
    texts: Any = None,
    progress: bool | Listener | None = None,
) -> DoseResponse:
    """Measure edits, each of a direction and an amount."""
    import xarray as xr

    rows = model.prompts(prompts)
    text_list = read_texts(model, texts)
    edits_by_name = {f"{method}|{amount!r}": edit for (method, amount), edit in edits.items()}
    effect = bias(model, prompts, answers, edits_by_name, labels=[1] * len(rows), progress=progress)
    cost = damage(model, edits_by_name, text_list, progress=progress)
    methods = list(dict.fromkeys(method for method, _ in edits))
    amounts = sorted({amount for _, amount in edits})
    cells = [(methods.index(method), amounts.index(amount)) for method, amount in edits]
    loss = cost.data["loss"] - cost.data["loss"].sel(edit=UNEDITED, drop=True)
    samples = {
        "effect": (effect.data["logit_difference"], None),
        "lean": (effect.data["within"], None),
        "kl": (cost.data["kl"], cost.data["tokens"].values),
        "loss_change": (loss, cost.data["tokens"].values),
    }
    arrays: dict[str, Any] = {}
    for metric, (values, weights) in samples.items():
        before_mean, tables = mean_tables(values.values, weights, cells, (len(methods), len(amounts)))
        arrays[f"{metric}_before"] = before_mean
        arrays |= {metric + suffix: (("direction", "amount"), table) for suffix, table in tables.items()}
    dataset = xr.Dataset(arrays, {"direction": np.array(methods, dtype=object), "amount": np.array(amounts)})
    return DoseResponse(dataset, *provenance(model, rows, texts=text_list))

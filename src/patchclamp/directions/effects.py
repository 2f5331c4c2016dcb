"""What the edits of directions do, layer by layer: bias and divergence for each method, edit and layer."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from patchclamp.core.arguments import checked
from patchclamp.core.errors import InputError, unknown
from patchclamp.core.progress import Listener
from patchclamp.core.result import DatasetResult
from patchclamp.directions.direction import About, Direction
from patchclamp.interventions import Edit, evidence
from patchclamp.metrics.bias import Bias, bias, ratio
from patchclamp.metrics.damage import Damage, damage
from patchclamp.metrics.edited import UNEDITED, Answer, mean_row, named
from patchclamp.metrics.neutral import listed
from patchclamp.models.opened import OpenModel
from patchclamp.models.sites import Site

if TYPE_CHECKING:
    import xarray as xr

KINDS = ("erase", "swap", "double", "to first", "to second")
"""``to first`` and ``to second`` set the coordinates to those of a class mean: the positive and the negative intervention."""
_SEP = "|"


@dataclass(eq=False)
class LayerEffects(DatasetResult):
    """Bias and damage of edits, by layer.

    ``data`` has dims ``direction, edit, layer``. ``bias`` is the probability-ratio bias within prompts (1 full, 0 none, negative
    inverted), ``across`` that across the two prompts of a pair, ``lean`` how much likelier the second answer is than the first
    whatever the prompt, in [-1, 1]; ``kl`` the divergence from the unedited model on other text, in nats a token. Each has
    ``_low`` and ``_high``, 95 % bootstrap intervals over pairs (texts). ``bias_before`` and so on are those of the model as it is.
    """

    kind: ClassVar[str] = "layer_effects"

    @property
    def data(self) -> "xr.Dataset":
        """The numbers."""
        return self.dataset

    def best(self, edit: str, *, kl: float = float("inf")) -> dict[str, Any]:
        """The direction and layer with the least (for erase: the least absolute) bias, among those that stay below a divergence.

        Args:
            edit: As ``"erase"`` or ``"swap"``.
            kl: Highest divergence allowed, in nats a token.

        Raises:
            InputError: No such edit, none is allowed, or no divergence was measured to hold the limit against.
        """
        if edit not in self.dataset["edit"].values:
            raise InputError(unknown("edit", edit, self.dataset["edit"].values))
        if "kl" not in self.dataset and kl < float("inf"):
            raise InputError("no divergence was measured, since no texts were given, so it has no limit")
        rows = self.dataset.sel(edit=edit).to_dataframe().reset_index().dropna(subset=["bias"])
        if "kl" in rows:
            rows = rows[rows["kl"] <= kl]
        if not len(rows):
            raise InputError(f"no {edit} stays at or below {kl} nats a token")
        goal = rows["bias"].abs() if edit == "erase" else rows["bias"]
        return dict(rows.iloc[int(np.argmin(goal.to_numpy()))])

    def __repr__(self) -> str:
        lines = [f"Effects by layer; bias before {float(self.dataset['bias_before']):.3f}"]
        for edit in self.dataset["edit"].values:
            for method in self.dataset["direction"].values:
                one = self.dataset.sel(edit=edit, direction=method)
                place = int(np.nanargmin(np.abs(one["bias"]) if edit == "erase" else one["bias"]))
                row = one.isel(layer=place)
                said = f"bias {float(row['bias']):+.3f} [{float(row['bias_low']):+.3f}, {float(row['bias_high']):+.3f}]"
                said += f", KL {float(row['kl']):.4f}" if "kl" in one else ""
                lines.append(f"{edit:<10} {method:<12} least at layer {int(row['layer']):>2}: {said}")
        return "\n".join(lines)


def edits_of(direction: Direction, kind: str, about: About = "mean") -> Edit:
    """One of the :data:`KINDS` of edit that a direction gives.

    Raises:
        InputError: There is no such kind, or the concept has not two classes.
    """
    if kind not in KINDS:
        raise InputError(unknown("kind of edit", kind, KINDS))
    if kind == "erase":
        return direction.erase(about=about)
    if kind == "swap":
        return direction.swap(about=about)
    if kind == "double":
        return direction.scale(2.0, about=about)
    if len(direction.classes) != 2:
        raise InputError(f"{kind!r} needs two classes; the concept has {len(direction.classes)}")
    mean = direction.class_means[KINDS.index(kind) - 3] @ direction.directions
    return direction.erase(about=mean)


@checked
def layer_effects(
    model: OpenModel,
    directions: Mapping[str, Sequence[Direction]],
    pairs: Any,
    answers: Sequence[Answer],
    texts: Any = None,
    *,
    edits: Sequence[str] = ("erase", "swap", "double"),
    about: About = "mean",
    progress: bool | Listener | None = None,
) -> LayerEffects:
    """What the edits of several methods do at each layer: to the answers after pairs of prompts, and to other text.

    Args:
        model: The model.
        directions: For each method its directions, one a layer, as :meth:`patchclamp.Model.fit_directions` gives them.
        pairs: (Prompt that expects the first answer, prompt that expects the second).
        answers: Two tokens, or two lists of tokens whose probabilities are added, as ``(" he", " she")``.
        texts: On which the divergence is measured; passages of books by default, ``()`` for none.
        edits: Of ``erase``, ``swap``, ``double``, ``to first`` and ``to second`` (every vector gets a class mean's
            coordinates: the negative and the positive intervention of AlterRep, Ravfogel et al. 2021, arXiv 2105.06965).
        about: From where they measure.
        progress: True for bars, a function for events.

    Raises:
        InputError: No pairs, unknown kinds of edit, or answers that are not single tokens.
    """
    placed: dict[str, Any] = {}
    for method, several in directions.items():
        if any(direction.fitted is None for direction in several):
            raise InputError(f"a direction of {method!r} was fitted on arrays; model.fit_directions gives it a layer")
        sites = [str(direction.site) for direction in several]
        if len(set(sites)) < len(sites):
            raise InputError(f"{method!r} has two directions at one site: {sites}; name them apart")
        for kind in edits:
            placed |= {
                _SEP.join((method, kind, site)): edits_of(direction, kind, about)
                for site, direction in zip(sites, several, strict=True)
            }
    return measured(model, placed, pairs, answers, texts, progress)


def measured(
    model: OpenModel,
    edits: Mapping[str, Any],
    pairs: Any,
    answers: Sequence[Answer],
    texts: Any = None,
    progress: bool | Listener | None = None,
) -> LayerEffects:
    """Measure edits named ``method|edit|site``."""
    if not edits:
        raise InputError("no direction was given")
    cells = _cells(edits)
    others = listed(model, texts)
    found = bias(model, pairs, answers, edits, progress=progress)
    cost = damage(model, edits, others, progress=progress) if len(others) else None
    flat = [prompt for pair in pairs for prompt in pair]
    said = evidence(model, model.prompts(flat), edits=named(edits), answers=list(answers), texts=others)
    return LayerEffects(_assembled(cells, found, cost), *said)


def _cells(names: Iterable[str]) -> dict[str, tuple[str, str, int]]:
    """Method, edit and layer of each name.

    Raises:
        InputError: A site lies in no layer, or a method has two directions at one layer.
    """
    found: dict[str, tuple[str, str, int]] = {}
    for name in names:
        method, kind, site = name.rsplit(_SEP, 2)  # a method may have the separator in its name
        cell = method, kind, _layer(site)
        if cell in found.values():
            raise InputError(f"{method!r} has two directions at layer {cell[2]}; name them apart")
        found[name] = cell
    return found


def _assembled(cells: dict[str, tuple[str, str, int]], found: Bias, cost: Damage | None) -> "xr.Dataset":
    import xarray as xr

    methods, kinds = (list(dict.fromkeys(cell[i] for cell in cells.values())) for i in (0, 1))
    layers = sorted({layer for _, _, layer in cells.values()})
    shape = (len(methods), len(kinds), len(layers))
    arrays: dict[str, Any] = {}
    before: dict[str, Any] = {}
    for metric, values in _samples(found, cost).items():
        weights = values.pop("weights", None)
        before[f"{metric}_before"] = mean_row(values[UNEDITED], 0, weights)["mean"]
        for suffix in ("", "_low", "_high"):
            arrays[metric + suffix] = np.full(shape, np.nan)
        for name, (method, kind, layer) in cells.items():
            at = (methods.index(method), kinds.index(kind), layers.index(layer))
            row = mean_row(values[name], 0, weights)
            for suffix, key in (("", "mean"), ("_low", "low"), ("_high", "high")):
                arrays[metric + suffix][at] = row[key]
    dims = ("direction", "edit", "layer")
    coords = {
        "direction": np.array(methods, dtype=object),
        "edit": np.array(kinds, dtype=object),
        "layer": np.array(layers),
    }
    return xr.Dataset({**{name: (dims, value) for name, value in arrays.items()}, **before}, coords)


def _samples(found: Bias, cost: Damage | None) -> dict[str, dict[str, Any]]:
    """For each metric the samples of every edit, and their weights where they have some."""
    edits = [str(name) for name in found.data["edit"].values]
    logs = found.data["log_probability"].values
    lean = ratio(logs[..., 1], logs[..., 0]).reshape(len(edits), -1, 2).mean(-1)
    tables: dict[str, dict[str, Any]] = {
        "bias": dict(zip(edits, found.values("within").values, strict=True)),
        "across": dict(zip(edits, found.values("across").values, strict=True)),
        "accuracy": dict(zip(edits, found.values("accuracy").values, strict=True)),
        "lean": dict(zip(edits, lean, strict=True)),
    }
    if cost is not None:
        tables["kl"] = {**dict(zip(edits, cost.data["kl"].values, strict=True)), "weights": cost.data["tokens"].values}
    return tables


def _layer(site: str) -> int:
    found = Site.parse(site).layer
    if found is None:
        raise InputError(f"{site!r} lies in no layer, so it has no place on the axis of layers")
    return found

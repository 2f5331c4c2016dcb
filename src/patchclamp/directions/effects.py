"""What the edits of directions do, layer by layer: bias and divergence for each method, edit and layer."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from patchclamp.core.call import recorded
from patchclamp.core.errors import InputError, check_choice
from patchclamp.core.progress import Listener
from patchclamp.core.result import DatasetResult
from patchclamp.directions.direction import About, Direction
from patchclamp.directions.tables import mean_tables
from patchclamp.interventions import Edit, provenance
from patchclamp.metrics.bias import Bias, bias, ratio
from patchclamp.metrics.damage import Damage, damage
from patchclamp.metrics.edited import Answer
from patchclamp.metrics.neutral import read_texts
from patchclamp.models.opened import OpenModel
from patchclamp.models.sites import Site

if TYPE_CHECKING:
    import xarray as xr

KINDS = ("erase", "swap", "double", "to first", "to second")
"""``to first`` and ``to second`` set the coordinates to those of a class mean: the positive and the negative intervention."""


class LayerEdit(NamedTuple):
    """An edit of a direction at a site."""

    direction: str
    kind: str
    """One of the :data:`KINDS`."""
    site: str

    @property
    def layer(self) -> int:
        """The layer of the site.

        Raises:
            InputError: The site lies in no layer.
        """
        layer = Site.parse(self.site).layer
        if layer is None:
            raise InputError(f"{self.site!r} lies in no layer, so it has no place on the axis of layers")
        return layer


@dataclass(eq=False)
class LayerEffects(DatasetResult):
    """Bias and damage of edits, by layer.

    ``data`` has dims ``direction, edit, layer``. ``bias`` is the probability-ratio bias within prompts (1 full, 0 none, negative
    inverted), ``across`` that across the two prompts of a pair, ``lean`` how much likelier the second answer is than the first
    whatever the prompt, in [-1, 1]; ``kl`` the divergence from the unedited model on other text, in nats a token. Each has
    ``_low`` and ``_high``, 95 % bootstrap intervals over pairs (texts). ``bias_before`` and so on are those of the model as it is.
    """

    kind: ClassVar[str] = "layer_effects"

    def best(self, edit: str, *, kl: float = float("inf")) -> dict[str, Any]:
        """The direction and layer with the least (for erase: the least absolute) bias, among those that stay below a divergence.

        Args:
            edit: The kind of edit, as ``"erase"`` or ``"swap"``.
            kl: The highest divergence allowed, in nats a token.

        Raises:
            InputError: No such edit, none is allowed, or no divergence was measured to hold the limit against.
        """
        check_choice("edit", edit, self.dataset["edit"].values)
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
                method_data = self.dataset.sel(edit=edit, direction=method)
                layer_index = int(np.nanargmin(np.abs(method_data["bias"]) if edit == "erase" else method_data["bias"]))
                row = method_data.isel(layer=layer_index)
                summary = (
                    f"bias {float(row['bias']):+.3f} [{float(row['bias_low']):+.3f}, {float(row['bias_high']):+.3f}]"
                )
                summary += f", KL {float(row['kl']):.4f}" if "kl" in method_data else ""
                lines.append(f"{edit:<10} {method:<12} least at layer {int(row['layer']):>2}: {summary}")
        return "\n".join(lines)


def edits_of(direction: Direction, kind: str, about: About = "mean") -> Edit:
    """One of the :data:`KINDS` of edit that a direction gives.

    Raises:
        InputError: There is no such kind, or the concept has not two classes.
    """
    check_choice("kind of edit", kind, KINDS)
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


@recorded
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
        directions: The directions of each method, one a layer, as :meth:`patchclamp.Model.fit_directions` gives them.
        pairs: (Prompt that expects the first answer, prompt that expects the second).
        answers: Two tokens, or two lists of tokens whose probabilities are added, as ``(" he", " she")``.
        texts: The texts on which the divergence is measured; passages of books by default, ``()`` for none.
        edits: Any of ``erase``, ``swap``, ``double``, ``to first`` and ``to second`` (every vector gets a class mean's
            coordinates: the negative and the positive intervention of AlterRep, Ravfogel et al. 2021, arXiv 2105.06965).
        about: The point from which they measure.
        progress: True for bars, a function for events.

    Raises:
        InputError: No pairs, unknown kinds of edit, or answers that are not single tokens.
    """
    edit_map: dict[LayerEdit, Edit] = {}
    for method, direction_list in directions.items():
        if any(direction.fitted is None for direction in direction_list):
            raise InputError(f"a direction of {method!r} was fitted on arrays; model.fit_directions gives it a layer")
        sites = [str(direction.site) for direction in direction_list]
        if len(set(sites)) < len(sites):
            raise InputError(f"{method!r} has two directions at one site: {sites}; name them apart")
        for kind in edits:
            edit_map |= {
                LayerEdit(method, kind, site): edits_of(direction, kind, about)
                for site, direction in zip(sites, direction_list, strict=True)
            }
    return measure_layer_edits(model, edit_map, pairs, answers, texts, progress)


def measure_layer_edits(
    model: OpenModel,
    edits: Mapping[LayerEdit, Any],
    pairs: Any,
    answers: Sequence[Answer],
    texts: Any = None,
    progress: bool | Listener | None = None,
) -> LayerEffects:
    """Measure edits, each at its place on the axes of direction, edit and layer."""
    if not edits:
        raise InputError("no direction was given")
    _check_apart(edits)
    text_list = read_texts(model, texts)
    edits_by_name = {"|".join(place): edit for place, edit in edits.items()}
    effect = bias(model, pairs, answers, edits_by_name, progress=progress)
    cost = damage(model, edits_by_name, text_list, progress=progress) if len(text_list) else None
    flat = [prompt for pair in pairs for prompt in pair]
    record = provenance(model, model.prompts(flat), pairs=pairs, texts=text_list)
    return LayerEffects(_dataset(edits, effect, cost), *record)


def _check_apart(edits: Collection[LayerEdit]) -> None:
    """Refuse two directions of one name at one layer.

    Raises:
        InputError: There are such, or a site lies in no layer.
    """
    cells = set()
    for edit in edits:
        cell = edit.direction, edit.kind, edit.layer
        if cell in cells:
            raise InputError(f"{edit.direction!r} has two directions at layer {edit.layer}; name them apart")
        cells.add(cell)


def _dataset(edits: Collection[LayerEdit], effect: Bias, cost: Damage | None) -> "xr.Dataset":
    import xarray as xr

    methods, kinds = (list(dict.fromkeys(edit[axis] for edit in edits)) for axis in (0, 1))
    layers = sorted({edit.layer for edit in edits})
    cells = [(methods.index(edit.direction), kinds.index(edit.kind), layers.index(edit.layer)) for edit in edits]
    arrays: dict[str, Any] = {}
    before_means: dict[str, Any] = {}
    for metric, (samples, weights) in _samples(effect, cost).items():
        before_means[f"{metric}_before"], tables = mean_tables(
            samples, weights, cells, (len(methods), len(kinds), len(layers))
        )
        arrays |= {metric + suffix: (("direction", "edit", "layer"), table) for suffix, table in tables.items()}
    coords = {
        "direction": np.array(methods, dtype=object),
        "edit": np.array(kinds, dtype=object),
        "layer": np.array(layers),
    }
    return xr.Dataset({**arrays, **before_means}, coords)


def _samples(effect: Bias, cost: Damage | None) -> dict[str, tuple[Any, Any]]:
    """The samples of each metric, ``[1 + edit, sample]``, the unedited model first, and their weights if they have some."""
    log_probabilities = effect.data["log_probability"].values
    lean = ratio(log_probabilities[..., 1], log_probabilities[..., 0]).reshape(len(log_probabilities), -1, 2).mean(-1)
    samples = {name: (effect.values(name).values, None) for name in ("within", "across", "accuracy")}
    metrics = {
        "bias": samples["within"],
        "across": samples["across"],
        "accuracy": samples["accuracy"],
        "lean": (lean, None),
    }
    return metrics if cost is None else metrics | {"kl": (cost.data["kl"].values, cost.data["tokens"].values)}

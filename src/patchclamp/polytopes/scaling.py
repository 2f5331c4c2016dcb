"""Activation scaling: over which sizes of an activation its direction keeps its meaning (its "distribution of validity")."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from patchclamp.core.call import recorded
from patchclamp.core.errors import InputError, ModelError, PatchclampError, check_choice
from patchclamp.core.kinds import Labels, Seed
from patchclamp.core.progress import Listener, task
from patchclamp.core.result import DatasetResult
from patchclamp.interventions import At, Call, Edit, Row, Scale, batches, forward, may_share, place, provenance
from patchclamp.models.inputs import Prompt
from patchclamp.models.opened import OpenModel
from patchclamp.models.sites import Site
from patchclamp.polytopes.attacks import whole_labels
from patchclamp.polytopes.points import activation_modules

if TYPE_CHECKING:
    import xarray as xr

SCALE, NOISE, ROTATION = "scale", "noise", "rotation"
CONTROLS = (NOISE, ROTATION)
FACTORS = tuple(2.0**power for power in range(-6, 7))
METRICS = ("accuracy", "loss", "agreement", "kl")
_TOKENS, _NUMBERS, _ROWS = 512, 1 << 22, 1000  # of one forward pass: padded tokens; input numbers; rows without tokens
_BLOCK = 256  # rows of logits whose float64 temporaries are made at once


@dataclass(eq=False)
class Scaling(DatasetResult):
    """What a network says when the activations at a site are multiplied.

    ``data`` has dims ``edit, site, factor``: ``accuracy`` and ``loss`` (cross-entropy, nats) against the labels or the texts' next
    tokens, ``agreement`` of the verdict with the unscaled network's, ``kl`` of the unscaled output from the scaled one (nats); and
    with ``gate`` too ``flipped``: the share of its bits that change, NaN for gates that the edit does not reach. The edits beside
    ``scale`` move every vector as far in a random direction: ``noise`` adds it, ``rotation`` keeps the length (only where the
    move is at most twice the length). ``accuracy_before`` and ``loss_before`` are those of the network as it is.
    """

    kind: ClassVar[str] = "scaling"

    @property
    def flipped(self) -> "xr.DataArray":
        """Share of bits that change, over all gates that are reached: ``[edit, site, factor]``."""
        return self.dataset["flipped"].weighted(self.dataset["bits"]).mean("gate")

    def __repr__(self) -> str:
        data = self.dataset
        metric = "accuracy" if np.isfinite(data["accuracy"]).any() else "agreement"
        head = f"{metric}, {int(data['rows'])} rows"
        if metric == "accuracy":
            head += f", {float(data['accuracy_before']):.3f} unscaled"
        lines = [head, f"{'factor':<22}" + "".join(f"{factor:>8.3g}" for factor in data["factor"].values)]
        for site in data["site"].values:
            for edit in data["edit"].values:
                row = data[metric].sel(site=site, edit=edit).values
                lines.append(f"{site} {edit}"[:21].ljust(22) + "".join(f"{value:>8.3f}" for value in row))
        return "\n".join(lines)


@recorded
def scaling(
    model: OpenModel,
    inputs: Any,
    sites: Sequence[str | Sequence[str]] | str,
    factors: Sequence[float] = FACTORS,
    *,
    labels: Labels = None,
    controls: Sequence[str] = CONTROLS,
    at: At = "all",
    seed: Seed = 0,
    progress: bool | Listener | None = None,
) -> Scaling:
    """Multiply activations by factors and see where the network's verdicts hold.

    Args:
        model: A language model, or any network that gives ``[row, class]``.
        inputs: Texts or tokens, or tensors.
        sites: Where; each one alone. A site of several layers, or a tuple of sites, is scaled at all of them together.
        factors: Positive numbers.
        labels: Classes of tensor inputs, ``[row]``. Language models are measured on the texts' own next tokens.
        controls: Any of ``"noise"`` and ``"rotation"``.
        at: Positions that are scaled.
        seed: The seed of the controls' directions.
        progress: True for a bar, a function for events.

    Raises:
        InputError: No site, or no factor, or one that is not positive; labels that do not fit; an unknown control.
        ModelError: The network gives no row of outputs for an input.
        SiteError: An unknown site.
    """
    groups = _read_groups(sites)
    amounts = _read_factors(factors)
    for name in controls:
        check_choice("control", name, CONTROLS)
    prompts = model.prompts(inputs)
    if not prompts[0].ids and len({prompt.form for prompt in prompts}) > 1:
        raise InputError(
            f"inputs have shapes of their own, {sorted({p.form for p in prompts})}; scaling takes equal ones"
        )
    truth = _read_labels(prompts, labels)
    gates = gate_sites(model)
    plan: dict[tuple[str, str, float], list[Edit]] = {}
    for edit in (SCALE, *dict.fromkeys(controls)):
        for label, group in groups.items():
            for factor in amounts:
                if edit != ROTATION or abs(factor - 1) <= 2:
                    plan[edit, label, factor] = [_edit(edit, factor, seed).on(site, at=at) for site in group]
    actions = {key: place(model, edits, prompts) for key, edits in plan.items()}
    sums: dict[Any, _Sums] = {key: _Sums(len(gates)) for key in [None, *plan]}
    with task("scaling", len(plan) * len(prompts), "inputs", show=progress) as bar:
        for members in batches(prompts, _batch(prompts), *may_share(model)):
            rows = [prompts[i] for i in members]
            before = _unscaled(model, [Row(prompt) for prompt in rows], gates)
            targets = _targets(rows, [truth[i] for i in members] if truth is not None else None, before.logits)
            sums[None].add(before, before, targets)
            for key, row_actions in actions.items():
                after = _Pass(model, [Row(prompts[i], row_actions[i]) for i in members], gates)
                sums[key].add(before, after, targets)
                bar.advance(len(members))
    sites_by_group = [list(group) if len(group) > 1 else group[0] for group in groups.values()]
    names = [str(site) for site in gates]
    record, tensors = provenance(
        model,
        prompts if prompts[0].ids else (),
        inputs=_inputs_for_record(prompts),
        sites=sites_by_group,
        factors=amounts,
        labels=truth,
    )
    return Scaling(_dataset(sums, list(groups), amounts, [SCALE, *dict.fromkeys(controls)], names), record, tensors)


def gate_sites(model: OpenModel) -> list[Site]:
    """What goes into the gates: ``mlp_pre`` of every layer, or the inputs of activation modules.

    A gate that is a function, not a module, is not seen.
    """
    try:
        sites = model.sites.expand(["mlp_pre"])
    except PatchclampError:
        sites = []
    return sites or model.sites.expand([f"{name}:in" for name in activation_modules(model)])


class _Pass:
    """One forward pass: its logits, and what went into each gate."""

    def __init__(self, model: OpenModel, rows: list[Row], gates: Sequence[Site]) -> None:
        gate_inputs: dict[Site, Tensor] = {}

        def make_sink(site: Site) -> Callable[[Tensor], None]:
            def sink(value: Tensor) -> None:
                gate_inputs[site] = value.clone()  # some modules go on to write into it

            return sink

        logits = forward(model, rows, taps={site: make_sink(site) for site in gates}).logits
        assert logits is not None
        lengths = [len(row.prompt.ids) for row in rows]
        if logits.dim() != (3 if lengths[0] else 2):
            expectation = "a row of logits for each token" if lengths[0] else "a row of outputs for each input"
            raise ModelError(f"scaling reads {expectation}; the network gives the shape {tuple(logits.shape)}")
        if lengths[0]:
            positions = torch.arange(logits.shape[1], device=logits.device)
            self.real = positions < torch.tensor(lengths, device=logits.device)[:, None]
            with_next = positions < torch.tensor(lengths, device=logits.device)[:, None] - 1
            self.logits = logits[with_next]
        else:
            self.real = torch.ones(len(rows), dtype=torch.bool, device=logits.device)
            self.logits = logits
        self.values = [gate_inputs[site] for site in gates]


def _unscaled(model: OpenModel, rows: list[Row], gates: Sequence[Site]) -> _Pass:
    """The pass without an edit; an input that the network does not take is an error of the input."""
    try:
        return _Pass(model, rows, gates)
    except RuntimeError as error:
        if rows[0].prompt.ids:
            raise
        shape = tuple(next(iter(rows[0].prompt.tensors.values())).shape[1:])
        raise InputError(f"the network does not take inputs of shape {shape}: {str(error).splitlines()[0]}") from error


class _Sums:
    """Sums over rows of what is measured under one edit."""

    def __init__(self, gates: int) -> None:
        self.rows, self.inputs, self.metrics = 0, 0, np.zeros(len(METRICS))
        self.flips, self.bits, self.reached = np.zeros(gates), np.zeros(gates), np.zeros(gates, dtype=bool)

    def add(self, before: _Pass, after: _Pass, targets: Tensor | None) -> None:
        """Add the rows of one pass."""
        self.rows += len(before.logits)
        self.inputs += int(before.real.sum())
        for start in range(0, len(before.logits), _BLOCK):
            rows = slice(start, start + _BLOCK)
            batch_targets = None if targets is None else targets[rows]
            self.metrics += _metric_sums(before.logits[rows], after.logits[rows], batch_targets)
        for number, (z, scaled) in enumerate(zip(before.values, after.values, strict=True)):
            z, scaled = z[before.real], scaled[before.real]
            self.reached[number] |= not torch.equal(z, scaled)
            self.flips[number] += int(((z > 0) != (scaled > 0)).sum())
            self.bits[number] += z.numel()


def _metric_sums(before: Tensor, after: Tensor, targets: Tensor | None) -> np.ndarray[Any, Any]:
    """Sums of the metrics over rows of logits ``[row, class]``."""
    p, q = before.double().log_softmax(-1), after.double().log_softmax(-1)
    kl = float((p.exp() * (p - q)).sum(-1).clamp(min=0).sum())
    agreement = int((before.argmax(-1) == after.argmax(-1)).sum())
    if targets is None:
        return np.array([np.nan, np.nan, agreement, kl])
    right = int((after.argmax(-1) == targets).sum())
    return np.array([right, -float(q.gather(-1, targets[:, None]).sum()), agreement, kl])


def _read_groups(sites: Sequence[str | Sequence[str]] | str) -> dict[str, tuple[str, ...]]:
    """Sites that are scaled together, by what they are called."""
    entries = [sites] if isinstance(sites, str) else list(sites)
    groups = [(group,) if isinstance(group, str) else tuple(group) for group in entries]
    if not groups or not all(groups):
        raise InputError("no site was given; name one, as 'mlp_in.4' or '1:out'")
    return {" + ".join(group): group for group in groups}


def _read_factors(factors: Sequence[float]) -> list[float]:
    numbers = [float(factor) for factor in factors]
    invalid = next((factor for factor in numbers if not 0 < factor < math.inf), None)
    if not numbers or invalid is not None:
        raise InputError(
            f"factors are positive numbers, one or more; got {list(factors) if invalid is None else invalid}"
        )
    return sorted(set(numbers))


def _read_labels(prompts: Sequence[Prompt], labels: Any) -> list[int] | None:
    if prompts[0].ids:
        if labels is not None:
            raise InputError(
                "labels are for networks without tokens; a language model is measured on its texts' next tokens"
            )
        short_prompt = next((prompt for prompt in prompts if len(prompt.ids) < 2), None)
        if short_prompt is not None:
            raise InputError(f"the text {short_prompt.name!r} has no next token to predict")
        return None
    if labels is None:
        return None
    classes = whole_labels(labels)
    if classes.shape != (len(prompts),) or classes.is_floating_point():
        raise InputError(
            f"{len(prompts)} inputs need as many whole numbers as labels; got shape {tuple(classes.shape)}"
        )
    return [int(label) for label in classes]


def _targets(prompts: Sequence[Prompt], labels: Sequence[int] | None, logits: Tensor) -> Tensor | None:
    if prompts[0].ids:
        labels = [token for prompt in prompts for token in prompt.ids[1:]]
    if labels is None:
        return None
    invalid = next((label for label in labels if not 0 <= label < logits.shape[1]), None)
    if invalid is not None:
        raise InputError(f"label {invalid} is outside the classes 0..{logits.shape[1] - 1}")
    return torch.tensor(labels, device=logits.device)


def _inputs_for_record(prompts: Sequence[Prompt]) -> Any:
    """Inputs to be run again: prompts, or tensors whole."""
    if prompts[0].ids:
        return list(prompts)
    tensors = {name: torch.cat([prompt.tensors[name] for prompt in prompts]).cpu() for name in prompts[0].tensors}
    return tensors.get("0", tensors)


def _batch(prompts: Sequence[Prompt]) -> int:
    """What :func:`batches` counts in: tokens, or inputs."""
    if prompts[0].ids:
        return _TOKENS
    return max(1, min(_ROWS, _NUMBERS // max(1, sum(tensor.numel() for tensor in prompts[0].tensors.values()))))


def _edit(edit: str, factor: float, seed: int) -> Edit:
    """Scaling, or a move of the same length elsewhere."""
    if edit == SCALE:
        return Scale(factor)

    def move(x: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        random = torch.randn(x.shape, generator=generator).to(x)
        length: Tensor = x.norm(dim=-1, keepdim=True)
        if edit == NOISE:
            unit: Tensor = random / random.norm(dim=-1, keepdim=True)
            shifted: Tensor = x + abs(factor - 1) * length * unit
            return shifted
        radial = x / length.clamp(min=1e-30)
        tangent = random - (random * radial).sum(-1, keepdim=True) * radial
        tangent = tangent / tangent.norm(dim=-1, keepdim=True)
        angle = 2 * math.asin(abs(factor - 1) / 2)
        rotated: Tensor = math.cos(angle) * x + math.sin(angle) * length * tangent
        return rotated

    return Call(move)


def _dataset(
    sums: dict[Any, _Sums], sites: list[str], factors: list[float], edits: list[str], gates: list[str]
) -> "xr.Dataset":
    import xarray as xr

    shape = (len(edits), len(sites), len(factors))
    tables = {name: np.full(shape, np.nan) for name in METRICS}
    flipped = np.full((*shape, len(gates)), np.nan)
    reached = {
        (edit, site): np.logical_or.reduce([sums[key].reached for key in sums if key and key[:2] == (edit, site)])
        for edit in edits
        for site in sites
    }
    for key, total in sums.items():
        if key is None:
            continue
        place = edits.index(key[0]), sites.index(key[1]), factors.index(key[2])
        for name, value in zip(METRICS, total.metrics / total.rows, strict=True):
            tables[name][place] = value
        flipped[place] = np.where(reached[key[:2]], total.flips / np.maximum(total.bits, 1), np.nan)
    clean = sums[None]
    arrays: dict[str, Any] = {name: (("edit", "site", "factor"), table) for name, table in tables.items()}
    arrays |= {
        "flipped": (("edit", "site", "factor", "gate"), flipped), "bits": ("gate", clean.bits / clean.inputs), "rows": clean.rows,
        "accuracy_before": clean.metrics[0] / clean.rows, "loss_before": clean.metrics[1] / clean.rows,
    }  # fmt: skip
    labels = {
        "edit": np.array(edits, dtype=object), "site": np.array(sites, dtype=object), "factor": np.array(factors),
        "gate": np.array(gates, dtype=object),
    }  # fmt: skip
    return xr.Dataset(arrays, labels)

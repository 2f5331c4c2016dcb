"""Causal traces of many facts, averaged by the role that a token plays."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from patchclamp.core.arguments import checked
from patchclamp.core.errors import InputError
from patchclamp.core.result import DatasetResult, Deferred
from patchclamp.interventions import CLEAN, CORRUPTED
from patchclamp.tracing.restored import RestoredReads
from patchclamp.tracing.trace import Trace

if TYPE_CHECKING:
    import xarray as xr

ROLES = (
    "first subject token",
    "middle subject tokens",
    "last subject token",
    "first subsequent token",
    "further tokens",
    "last token",
)


def roles(length: int, subject: tuple[int, ...]) -> dict[str, list[int]]:
    """Positions that play each role; a subject of one token is its last token, and the prompt's end its last."""
    subject_positions, end = list(subject), length - 1
    later = [position for position in range(subject[-1] + 1, end)]
    return {
        "first subject token": subject_positions[:1] if len(subject_positions) > 1 else [],
        "middle subject tokens": subject_positions[1:-1],
        "last subject token": subject_positions[-1:],
        "first subsequent token": later[:1],
        "further tokens": later[1:],
        "last token": [end] if end not in subject_positions else [],
    }


_SHARED_PARAMETERS = ("sites", "window", "samples", "noise", "std", "seed", "read", "method", "integrate", "check")
"""Parameters in which averaged traces must agree to be made again from one folder."""


_MEANING_PARAMETERS = ("model", "method", "window", "noise")
"""Parameters by which the numbers of averaged traces mean the same."""


@dataclass(eq=False)
class TraceAverage(RestoredReads, DatasetResult):
    """Indirect effects of many facts, by site, layer and role of the token.

    ``data`` holds for each thing that was read the mean effect over a fact's noise samples and over its tokens of that
    role, with dims ``fact, site, layer, role``; NaN where a fact has no token of the role.

    Source: Meng et al. 2022, arXiv 2202.05262, figure 2 and appendix B.
    """

    kind: ClassVar[str] = "trace_average"
    drawn_by: ClassVar[str] = "average"
    shown_by: ClassVar[str] = "average"

    def total_effect(self, read: str | None = None) -> "xr.DataArray":
        """What the corruption takes away from each fact, clean - corrupted, ``[fact]``."""
        name = self.named(read)
        return (self.dataset[CLEAN + name] - self.dataset[CORRUPTED + name]).rename(name)

    def mean(self, read: str | None = None, level: float = 0.95) -> "xr.Dataset":
        """The average indirect ``effect`` over facts, with its interval (Student's t; NaN for one fact).

        Args:
            read: The measurement; the first by default.
            level: The confidence level of the interval.

        Returns:
            ``effect``, ``low``, ``high`` and ``standard_error``, ``[site, layer, role]``; and ``count`` of facts ``[role]``.
        """
        from scipy.stats import t

        values = self.dataset[self.named(read)]
        count = values.notnull().isel(site=0, layer=0, drop=True).sum("fact")
        effect, degrees = values.mean("fact"), (count - 1).clip(min=1)
        error = (values.std("fact", ddof=1) / np.sqrt(count)).where(count > 1)
        half_width = error * t.ppf((1 + level) / 2, degrees.values)
        dataset = effect.to_dataset(name="effect")
        return dataset.assign(low=effect - half_width, high=effect + half_width, standard_error=error, count=count)

    def __repr__(self) -> str:
        name, facts = self.reads[0], self.dataset.sizes["fact"]
        total, effect = float(self.total_effect().mean()), self.mean()["effect"]
        lines = [f"Causal traces of {facts} facts: average total effect on {name.replace('_', ' ')} {total:.3f}"]
        for site in effect["site"].values:
            for role in ("last subject token", "last token"):
                curve = effect.sel(site=site, role=role)
                if not bool(curve.isnull().all()):
                    layer = int(curve["layer"].values[int(np.nanargmax(curve.values))])
                    lines.append(f"  {site:<10} {role:<18} largest {float(curve.max()):.3f} at layer {layer}")
        return "\n".join(lines)


@checked
def average(traces: Sequence[Trace]) -> TraceAverage:
    """Average causal traces over facts; see :meth:`patchclamp.Model.trace_facts`, which makes them too.

    Args:
        traces: Traces of the same model, sites, layers and reads; prompts may differ in length. A fact with several tokens in a
            role counts once, with their mean.

    Raises:
        InputError: There are no traces, or they are of different sites, layers or reads.
    """
    import xarray as xr

    if not traces:
        raise InputError("there are no traces to average")
    first = traces[0]
    for trace in traces:
        if any(list(trace.dataset[dim].values) != list(first.dataset[dim].values) for dim in ("site", "layer")):
            raise InputError("traces to average must have the same sites and layers")
        if trace.reads != first.reads:
            raise InputError(f"traces to average must read the same: {first.reads} and {trace.reads}")
        mismatch = next(
            (name for name in _MEANING_PARAMETERS if _parameter(trace, name) != _parameter(first, name)), None
        )
        if mismatch is not None:
            raise InputError(
                f"traces to average must be of one model and one kind: {mismatch} is "
                f"{_parameter(first, mismatch)!r} and {_parameter(trace, mismatch)!r}"
            )
    variables: dict[str, Any] = {}
    for name in first.reads:
        variables[name] = (("fact", "site", "layer", "role"), np.stack([_role_means(trace, name) for trace in traces]))
        variables[CLEAN + name] = ("fact", np.array([float(trace.clean[name]) for trace in traces]))
        variables[CORRUPTED + name] = ("fact", np.array([float(trace.corrupted[name].mean()) for trace in traces]))
    coords = {
        "fact": np.array(["".join(trace.tokens) for trace in traces], dtype=object),
        "subject": ("fact", np.array(["".join(t.tokens[i] for i in t.subject).strip() for t in traces], dtype=object)),
        "answer": ("fact", np.array([trace.answer or "" for trace in traces], dtype=object)),
        "site": first.dataset["site"].values, "layer": first.dataset["layer"].values,
        "role": np.array(ROLES, dtype=object),
    }  # fmt: skip
    return TraceAverage(xr.Dataset(variables, coords), _record(traces), dict(first.tensors))


def _parameter(trace: Trace, name: str) -> Any:
    value = trace.record["model"] if name == "model" else trace.record["parameters"][name]
    return value.value() if isinstance(value, Deferred) else value


def _role_means(trace: Trace, read: str) -> Any:
    """The mean effect of each role, ``[site, layer, role]``."""
    effect = trace.mean(read)["effect"].transpose("site", "layer", "position").values
    table = np.full((*effect.shape[:2], len(ROLES)), np.nan)
    for column, role_positions in enumerate(roles(len(trace.tokens), trace.subject).values()):
        if role_positions:
            table[:, :, column] = effect[:, :, role_positions].mean(-1)
    return table


def _record(traces: Sequence[Trace]) -> dict[str, Any]:
    """The records of all traces as one: that of a call of ``trace_facts`` with the same facts."""
    calls = [{**trace.record["parameters"], "std": trace.record["resolved"]["std"]} for trace in traces]
    shared_parameters = {name: calls[0][name] for name in _SHARED_PARAMETERS}
    facts = [[call[name] for name in ("prompt", "subject", "answer")] for call in calls]
    record = {
        **traces[0].record,
        "call": "trace_facts",
        "parameters": {"facts": facts, **shared_parameters},
        "prompts": [row for trace in traces for row in trace.record["prompts"]],
    }
    mismatch = next((name for name in _SHARED_PARAMETERS if any(call[name] != calls[0][name] for call in calls)), None)
    reasons = [f"its traces differ in {mismatch}"] if mismatch is not None else []
    reasons += [trace.record["not_repeatable"] for trace in traces if "not_repeatable" in trace.record]
    return record | ({"not_repeatable": reasons[-1]} if reasons else {})

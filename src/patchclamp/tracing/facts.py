"""Causal traces of a set of facts, one after another."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from patchclamp.core.call import recorded
from patchclamp.core.errors import InputError, PatchclampError
from patchclamp.core.interrupts import resumable
from patchclamp.core.kinds import Folder, Repeats, Seed
from patchclamp.core.progress import Listener, task
from patchclamp.interventions import DEFAULT_BUDGET, PartFiles, as_reads
from patchclamp.models.opened import OpenModel
from patchclamp.models.peers import Sites
from patchclamp.tracing.average import TraceAverage, average
from patchclamp.tracing.causal import Window, causal_trace
from patchclamp.tracing.setting import Setting, Std, deviation_of

Fact = tuple[Any, Any] | tuple[Any, Any, str | int | None]
"""A prompt, its subject, and the answer (the clean run's likeliest token if there is none)."""


@recorded
def trace_facts(
    model: OpenModel,
    facts: Sequence[Fact],
    *,
    sites: Sites = "resid_post",
    noise: float = 3.0,
    std: Std = None,
    samples: Repeats = 10,
    seed: Seed = 0,
    window: Window = None,
    read: Any = None,
    method: Literal["exact", "gradient"] = "exact",
    integrate: Repeats = 0,
    check: int = 20,
    budget: float | str = DEFAULT_BUDGET,
    max_tokens: int | None = None,
    verify: int = 0,
    checkpoint: Folder | None = None,
    progress: bool | Listener | None = None,
) -> TraceAverage:
    """Causal traces of many facts, averaged by the role of the token: first, middle and last of the subject, and after.

    Source: Meng et al. 2022, arXiv 2202.05262, section 2.2 and figure 2.

    Args:
        model: The model.
        facts: ``(prompt, subject)`` or ``(prompt, subject, answer)`` each.
        sites: As for :meth:`patchclamp.Model.causal_trace`.
        noise: The size of the noise, in ``std``.
        std: As for :meth:`patchclamp.Model.causal_trace`; by default over the tokens of all facts' subjects, as in ROME.
        samples: The number of noise samples for each fact.
        seed: The seed of the noise.
        window: As for :meth:`patchclamp.Model.causal_trace`, as are all up to ``verify``.
        read: Something else to measure than the answer.
        method: ``"exact"`` or ``"gradient"``.
        integrate: For the estimate: points between the two runs.
        check: For the estimate: random cells that are run exactly.
        budget: Memory beyond the model.
        max_tokens: The number of rows times positions alive at once.
        verify: Run this many random cells of each trace again the slow way.
        checkpoint: A folder: killed work goes on from there.
        progress: True for a bar, a function for events.

    Raises:
        InputError: There are no facts, or there is one that cannot be traced; raised before any of them is run, with its number.
    """
    if not facts:
        raise InputError("facts are (prompt, subject) or (prompt, subject, answer), one or more; there is none")
    rows = [_row(fact) for fact in facts]
    PartFiles.of(checkpoint, model, reads=() if read is None else as_reads(read))
    settings = [_setting(model, number, row, noise, samples, seed, read) for number, row in enumerate(rows)]
    deviation = _deviation(model, settings) if std is None else std
    traces = []
    with resumable(checkpoint), task("trace", len(rows), "facts", show=progress) as bar:
        for number, (prompt, subject, answer) in enumerate(rows):
            folder = None if checkpoint is None else Path(checkpoint) / f"fact-{number}"
            trace = causal_trace(
                model, prompt, subject, answer, sites=sites, window=window, samples=samples, noise=noise, std=deviation,
                seed=seed, read=read, method=method, integrate=integrate, check=check, budget=budget,
                max_tokens=max_tokens, verify=verify, checkpoint=folder,
            )  # fmt: skip
            traces.append(trace)
            bar.advance(1)
    return average(traces)


def _row(fact: Any) -> tuple[Any, Any, str | int | None]:
    if not isinstance(fact, tuple | list) or len(fact) not in (2, 3):
        raise InputError(f"a fact is (prompt, subject) or (prompt, subject, answer); got {fact!r}")
    return fact[0], fact[1], fact[2] if len(fact) == 3 else None


def _setting(
    model: OpenModel, number: int, fact: tuple[Any, ...], noise: float, samples: int, seed: int, read: Any
) -> Setting:
    """Check that a fact can be traced, and make its setting; nothing is run."""
    prompt, subject, answer = fact
    setting_answer = 0 if answer is None and read is None else answer
    try:
        return Setting.of(
            model, prompt, subject, setting_answer, noise=noise, std=0.0, samples=samples, seed=seed, read=read
        )  # fmt: skip
    except PatchclampError as error:
        raise type(error)(f"fact number {number}, {str(prompt)[:80]!r}: {error}") from error


def _deviation(model: OpenModel, settings: Sequence[Setting]) -> float:
    """Standard deviation of the embeddings of all subjects, as in ROME."""
    return deviation_of(model, [[setting.prompt.ids[i] for i in setting.subject] for setting in settings])

"""Causal traces of a set of facts, one after another."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from patchclamp.core.call import recorded
from patchclamp.core.errors import InputError, PatchclampError
from patchclamp.core.interrupts import resumable
from patchclamp.core.kinds import Folder
from patchclamp.core.progress import Listener, task
from patchclamp.interventions.part_files import PartFiles
from patchclamp.interventions.reads import as_reads
from patchclamp.models.opened import OpenModel
from patchclamp.tracing.average import TraceAverage, average
from patchclamp.tracing.causal import causal_trace
from patchclamp.tracing.setting import Setting, deviation_of

Fact = tuple[Any, Any] | tuple[Any, Any, str | int | None]
"""A prompt, its subject, and the answer (the clean run's likeliest token if there is none)."""


@recorded
def trace_facts(
    model: OpenModel,
    facts: Sequence[Fact],
    *,
    sites: Any = "resid_post",
    noise: float = 3.0,
    std: Any = None,
    samples: int = 10,
    seed: int = 0,
    checkpoint: Folder | None = None,
    progress: bool | Listener | None = None,
    **options: Any,
) -> TraceAverage:
    """Trace facts; see :meth:`patchclamp.Model.trace_facts`."""
    if not facts:
        raise InputError("facts are (prompt, subject) or (prompt, subject, answer), one or more; there is none")
    rows = [_row(fact) for fact in facts]
    PartFiles.of(checkpoint, model, reads=() if (read := options.get("read")) is None else as_reads(read))
    settings = [
        _checked(model, place, row, noise, samples, seed, options.get("read")) for place, row in enumerate(rows)
    ]
    found = _deviation(model, settings) if std is None else std
    same = {"sites": sites, "noise": noise, "std": found, "samples": samples, "seed": seed, **options}
    traces = []
    with resumable(checkpoint), task("trace", len(rows), "facts", show=progress) as bar:
        for place, (prompt, subject, answer) in enumerate(rows):
            folder = None if checkpoint is None else Path(checkpoint) / f"fact-{place}"
            traces.append(causal_trace(model, prompt, subject, answer, checkpoint=folder, **same))
            bar.advance(1)
    return average(traces)


def _row(fact: Any) -> tuple[Any, Any, str | int | None]:
    if not isinstance(fact, tuple | list) or len(fact) not in (2, 3):
        raise InputError(f"a fact is (prompt, subject) or (prompt, subject, answer); got {fact!r}")
    return fact[0], fact[1], fact[2] if len(fact) == 3 else None


def _checked(
    model: OpenModel, place: int, fact: tuple[Any, ...], noise: float, samples: int, seed: int, read: Any
) -> Setting:
    """A fact that can be traced; nothing is run."""
    prompt, subject, answer = fact
    chosen = 0 if answer is None and read is None else answer
    try:
        return Setting.of(
            model, prompt, subject, chosen, noise=noise, std=0.0, samples=samples, seed=seed, read=read
        )  # fmt: skip
    except PatchclampError as error:
        raise type(error)(f"fact number {place}, {str(prompt)[:80]!r}: {error}") from error


def _deviation(model: OpenModel, settings: Sequence[Setting]) -> float:
    """Standard deviation of the embeddings of all subjects, as in ROME."""
    return deviation_of(model, [[setting.prompt.ids[i] for i in setting.subject] for setting in settings])

"""Many dictionaries trained on one stream as one job: rows are read once, and one product serves all encoders.

No step waits for the device. What the host has to know (is everything finite, how good is it, which latents are dead) is
gathered there and read once in ``REVIEW_EVERY`` steps. From the first number on that is not finite, Adam leaves all parameters
as they are, so that those of the step before are kept.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor

from patchclamp.activations.stream import ActivationStream
from patchclamp.core.arguments import checked
from patchclamp.core.errors import InputError, warn
from patchclamp.core.interrupts import Changes, resumable
from patchclamp.core.kinds import Folder
from patchclamp.core.progress import Listener, Task, task
from patchclamp.dictionaries.checkpoints import Checkpoints
from patchclamp.dictionaries.dictionary import Dictionary
from patchclamp.dictionaries.member import Member
from patchclamp.dictionaries.scaling import RowScaling
from patchclamp.dictionaries.sgd import SGD, TrainingSettings
from patchclamp.dictionaries.sparse import selection_dtype

REVIEW_EVERY = 50
SAMPLE_ROWS = 16_384
"""The number of rows from which scaling and initialisation are made."""


@checked
def train(
    stream: ActivationStream,
    fits: Sequence[SGD],
    *,
    checkpoint: Folder | None = None,
    checkpoint_every: int = 500,
    progress: bool | Listener | None = None,
) -> list[Dictionary]:
    """Train dictionaries of any widths, encoders, seeds and penalties on one pass of a stream.

    Each comes out as if it had been trained alone, but for rounding.

    Args:
        stream: The rows; it goes on from where it stands.
        fits: The settings of each; their ``steps`` are equal, and their ``batch_size``, ``passes``, ``checkpoint`` and
            ``progress`` are not used.
        checkpoint: A folder that holds how far training has come. The same call goes on from there, and ends bit for bit as
            one that was not interrupted (on the CPU).
        checkpoint_every: The number of steps after which it is written; it is also written on Ctrl-C.
        progress: Whether to show progress, or a function that receives it.

    Returns:
        The dictionaries, in the order of ``fits``.

    Raises:
        InputError: No fit, or settings that make no sense; a stream with too few rows; a checkpoint of something else; or
            numbers that are not finite, with the steps among which they came.
        StorageError: A checkpoint could not be written; the one before is whole.
    """
    if checkpoint_every < 1:
        raise InputError(f"checkpoint_every is 1 or more; got {checkpoint_every!r}")
    if not fits:
        raise InputError("fits is empty: train needs one SGD(...) at least")
    files = Checkpoints.of(checkpoint, fits, stream)
    try:
        steps = _steps(stream, fits)
        if stream.exhausted:
            iter(stream)  # which says so
        job = Job.of(stream, fits, steps)
        if files is not None:
            files.load(job, stream, steps)
    except InputError:
        if files is not None:
            files.put_back(stream)
        raise
    name = "train a dictionary" if len(fits) == 1 else f"train {len(fits)} dictionaries"
    with resumable(checkpoint), task(name, steps, "steps", show=progress) as bar:
        bar.advance(job.steps_done)
        _run(job, stream, steps, files, checkpoint_every, bar)
    return job.dictionaries()


def _run(job: "Job", stream: ActivationStream, steps: int, files: Checkpoints | None, every: int, bar: Task) -> None:
    """Take all steps; an interrupt comes between two of them, and finds a checkpoint to go on from."""
    position, before = stream.state() if files else {}, job.rows_seen
    with Changes() as changes:
        try:
            while job.steps_done < steps:
                try:
                    batch = changes.run(next, stream)
                except StopIteration:
                    warn(
                        f"the stream ended after {job.rows_seen:,} rows: training took {job.steps_done} of {steps} steps, "
                        "and its learning rate did not come to its end"
                    )
                    break
                job.step(batch.rows)
                last = job.steps_done == steps
                if files:
                    position = stream.state()
                    if last or not job.steps_done % every:
                        job.review()
                        files.save(job, position)
                if job.was_reviewed:
                    speed = (job.rows_seen - before) / max(time.monotonic() - bar.began, 1e-9)
                    bar.advance(0, f"{job.report()}, {speed:,.0f} rows/s")
                bar.advance()
        except KeyboardInterrupt:
            if files:
                files.save(job, position)
            raise
    job.review()


def _steps(stream: ActivationStream, fits: Sequence[SGD]) -> int:
    """The number of steps of all fits."""
    several = {fit.steps for fit in fits}
    if len(several) > 1:
        raise InputError(f"dictionaries of one job take equally many steps; got steps={[fit.steps for fit in fits]}")
    wanted, rows = several.pop(), stream.remaining
    if wanted is not None and wanted < 1:
        raise InputError(f"steps is 1 or more; got {wanted!r}")
    if rows is None and wanted is None:
        raise InputError("nobody knows how many rows this stream has: say how many steps to take (steps=...)")
    there = None if rows is None else -(-rows // stream.batch_size)
    if wanted is not None and there is not None and wanted > there and rows:
        raise InputError(
            f"steps={wanted} of {stream.batch_size} rows: the stream has {rows:,} rows left, which are {there} steps; "
            "take fewer steps, or give the stream more passes"
        )
    return wanted or there or 0


@dataclass(eq=False)
class _Group:
    """Dictionaries that see rows in the same coordinates, and their encoders' parameters one after another."""

    scaling: RowScaling
    weight: Float[Tensor, "width d"]
    offset: Float[Tensor, " width"]
    members: list[Member]
    selection: str
    scores: Tensor | None = None
    rows: int = 0
    sums: Tensor | None = None
    """The sum of the rows since the last review, and of their squares, ``[d + 1]``."""

    def see(self, rows: Float[Tensor, "row d"]) -> tuple[Tensor, Tensor]:
        """Rows in the coordinates of the group, and every encoder's pre-activations."""
        x = self.scaling(rows.to(self.weight.dtype))
        offsets = [m.parameters["offset"] - m.parameters["weight"] @ m.parameters["bias"] for m in self.members]
        offset, dtype = torch.cat(offsets), self._dtype(x)
        shape = (len(x), len(self.weight))
        if self.scores is None or self.scores.shape != shape or self.scores.dtype != dtype:
            self.scores = torch.empty(shape, dtype=dtype, device=x.device)
        torch.addmm(offset.to(dtype), x.to(dtype), self.weight.to(dtype).T, out=self.scores)
        added = torch.cat([x.sum(0), x.square().sum().reshape(1)])
        self.sums = added if self.sums is None else self.sums + added
        self.rows += len(x)
        return x, self.scores

    def _dtype(self, x: Tensor) -> torch.dtype:
        if x.dtype != torch.float32 or not all(m.encoder.sparse for m in self.members):
            return x.dtype
        if self.selection == "auto":  # once for the job: another measurement may come out otherwise
            measured = selection_dtype(x.device, len(x), x.shape[1], len(self.weight))
            self.selection = str(measured).removeprefix("torch.")
        selected: torch.dtype = getattr(torch, self.selection)
        return selected

    def variance(self) -> float:
        """The squared distance of the rows since the last review from their mean, summed."""
        if self.sums is None:
            return 0.0
        return float(self.sums[-1] - self.sums[:-1].square().sum() / self.rows)


class Job:
    """Dictionaries in training; made by :meth:`of`."""

    def __init__(self, groups: list[_Group], members: list[Member], d: int, device: torch.device) -> None:
        self.groups, self.members, self.d = groups, members, d
        self.steps_done = self.rows_seen = self._reviewed = 0
        self.was_reviewed = False
        self.bad = torch.zeros((), device=device)
        """1 from the first number on that is not finite."""
        self.bad_rows = torch.zeros((), device=device)
        self.finite_steps = torch.zeros((), device=device)
        self._report: list[dict[str, float]] = []

    @classmethod
    def of(cls, stream: ActivationStream, fits: Sequence[SGD], steps: int | None) -> Self:
        """Make scalings and parameters from the first rows of a stream."""
        settings = [fit.settings(stream.d) for fit in fits]
        sample = stream.sample(SAMPLE_ROWS)
        if sample.shape[1] != stream.d or not bool(torch.isfinite(sample).all()):
            raise InputError(f"the first {len(sample):,} rows of the stream hold NaN or infinite values")
        keys: dict[Any, list[int]] = {}
        for number, (fit, setting) in enumerate(zip(fits, settings, strict=True)):
            keys.setdefault((setting.scaling, setting.dtype, fit.selection), []).append(number)
        members: dict[int, Member] = {}
        groups = []
        for (scaling_options, dtype, selection), numbers in keys.items():
            rows = sample.to(dtype)
            if not bool(torch.isfinite(rows).all()):
                raise InputError(
                    f"rows go up to {float(sample.abs().max()):.3g}, more than {dtype} holds: take dtype='float64', or scale them"
                )
            centre, scale, whiten = scaling_options
            changes = centre or scale or whiten != "none"
            scaling = (
                RowScaling.of(rows, centre=centre, scale=scale, whiten=whiten)
                if changes
                else RowScaling.identity(stream.d, dtype)
            ).to(rows.device)
            group = _group(scaling, scaling(rows), [settings[n] for n in numbers], [fits[n] for n in numbers], steps)
            group.selection = selection
            groups.append(group)
            members.update(zip(numbers, group.members, strict=True))
        return cls(groups, [members[n] for n in range(len(fits))], stream.d, sample.device)

    def check_stream(self, stream: ActivationStream) -> None:
        """Refuse rows of another width.

        Raises:
            InputError: They are.
        """
        if stream.d != self.d:
            raise InputError(f"the stream has rows of width {stream.d}; these dictionaries are of width {self.d}")

    @torch.no_grad()
    def step(self, rows: Float[Tensor, "row d"]) -> None:
        """One step of all dictionaries.

        Raises:
            InputError: Rows of another width; at a review, that numbers were not finite.
        """
        if rows.ndim != 2 or rows.shape[1] != self.d:
            raise InputError(f"rows of shape {tuple(rows.shape)} came; these dictionaries need [row, {self.d}]")
        rows = rows.to(self.bad.device)
        self.bad_rows = torch.maximum(self.bad_rows, (~torch.isfinite((rows - rows).sum())).to(self.bad.dtype))
        for group in self.groups:
            x, scores = group.see(rows)
            begin = 0
            for member in group.members:
                member.compute(x, scores[:, begin : begin + member.width], self.steps_done)
                begin += member.width
        losses = torch.stack([member.loss.to(self.bad.dtype) for member in self.members]).sum()
        self.bad = torch.maximum(self.bad, torch.maximum((~torch.isfinite(losses)).to(self.bad.dtype), self.bad_rows))
        self.finite_steps += 1 - self.bad
        self._adam()
        for member in self.members:
            member.settle(self.bad, self.steps_done)
        self.steps_done += 1
        self.rows_seen += len(rows)
        self.was_reviewed = False
        if self.steps_done % REVIEW_EVERY == 0 or any(m.revives_at(self.steps_done) for m in self.members):
            self.review()

    def _adam(self) -> None:
        """One fused step for all parameters that have the same learning rate now."""
        rates: dict[float, list[Member]] = {}
        for member in self.members:
            rates.setdefault(member.schedule.learning_rate(self.steps_done), []).append(member)
        for rate, members in rates.items():
            lists: list[list[Tensor]] = [[], [], [], [], []]
            for member in members:
                for name in member.trainable:
                    first, second = member.moments[name]
                    values = (member.parameters[name], member.gradients[name], first, second, member.updates)
                    for into, value in zip(lists, values, strict=True):
                        into.append(value)
                member.updates.add_(1 - self.bad)
            parameters, gradients, first_moments, second_moments, updates = lists
            torch._fused_adam_(
                parameters, gradients, first_moments, second_moments, [], updates,
                lr=rate, beta1=0.9, beta2=0.999, weight_decay=0.0, eps=1e-8, amsgrad=False, maximize=False,
                grad_scale=None, found_inf=self.bad,
            )  # fmt: skip

    @torch.no_grad()
    def review(self) -> None:
        """Read what was gathered on the device, revive latents, and begin gathering anew.

        Raises:
            InputError: A number was not finite.
        """
        if self.steps_done == self._reviewed:
            return
        self._check_finite()
        self._report = []
        for group in self.groups:
            variance = group.variance()
            self._report += [member.review(variance, group.rows, self.steps_done) for member in group.members]
            group.rows, group.sums = 0, None
        self._reviewed, self.was_reviewed = self.steps_done, True

    def report(self) -> str:
        """How good the dictionaries were since the last review, for a line of progress."""
        ev, l0, dead = ([row[name] for row in self._report] for name in ("ev", "l0", "dead"))
        if len(ev) == 1:
            return f"EV {ev[0]:.3f}, L0 {l0[0]:.1f}, {dead[0]:.0f} dead"
        return (
            f"EV {min(ev):.3f}..{max(ev):.3f}, L0 {min(l0):.1f}..{max(l0):.1f}, {min(dead):.0f}..{max(dead):.0f} dead"
        )

    def _check_finite(self) -> None:
        bad, rows, finite_steps = torch.stack([self.bad, self.bad_rows, self.finite_steps]).tolist()
        if not bad:
            return
        steps = f"one of steps {self._reviewed + 1}..{self.steps_done}, after step {finite_steps:.0f}, the last that was finite"
        if rows:
            raise InputError(f"activations hold NaN or infinite values, in {steps}")
        numbers = [n for n, member in enumerate(self.members) if not bool(torch.isfinite(member.loss))]
        raise InputError(f"training diverged in {steps} (fits {numbers}): take a smaller learning_rate")

    def dictionaries(self) -> list[Dictionary]:
        """The dictionaries as they are now."""
        made: dict[int, Dictionary] = {}
        for group in self.groups:
            for member in group.members:
                made[id(member)] = member.dictionary(group.scaling, self.steps_done, self.rows_seen)
        return [made[id(member)] for member in self.members]

    def tensors(self) -> dict[str, Tensor]:
        """Everything that decides how training goes on, by name, as it is held here."""
        tensors = {"bad": self.bad, "bad_rows": self.bad_rows, "finite_steps": self.finite_steps}
        for number, group in enumerate(self.groups):
            tensors |= {f"scaling.{number}.{name}": value for name, value in group.scaling.state_dict().items()}
        for number, member in enumerate(self.members):
            tensors |= {f"{number}.{name}": value for name, value in member.tensors().items()}
        return tensors

    def restore(
        self, tensors: Mapping[str, Tensor], selections: Sequence[str], steps_done: int, rows_seen: int
    ) -> None:
        """Go to where a job of the same fits was.

        Raises:
            ValueError: A tensor of another shape.
        """
        for name, value in self.tensors().items():
            if tensors[name].shape != value.shape:
                raise ValueError(f"{name} has the shape {tuple(tensors[name].shape)}, not {tuple(value.shape)}")
            value.copy_(tensors[name])
        for group, selection in zip(self.groups, selections, strict=True):
            group.selection = selection
        for number, member in enumerate(self.members):
            member.restore_generator(tensors[f"{number}.generator"])
        self.steps_done = self._reviewed = steps_done
        self.rows_seen = rows_seen


def _group(
    scaling: RowScaling, rows: Tensor, settings: list[TrainingSettings], fits: list[SGD], steps: int | None
) -> _Group:
    members = [Member(setting, fit, rows, scaling, steps) for setting, fit in zip(settings, fits, strict=True)]
    weight = torch.cat([member.parameters["weight"] for member in members])
    offset = torch.cat([member.parameters["offset"] for member in members])
    begin = 0
    for member in members:
        end = begin + member.width
        member.parameters["weight"], member.parameters["offset"] = weight[begin:end], offset[begin:end]
        begin = end
    return _Group(scaling, weight, offset, members, "float32")

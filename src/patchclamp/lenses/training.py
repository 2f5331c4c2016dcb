"""Training a tuned lens: KL(final || lens) at every depth, over a corpus, one pass of the model a batch."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from patchclamp.activations.corpus import sequences
from patchclamp.core.digest import digest
from patchclamp.core.errors import InputError, ModelError, check_choice
from patchclamp.core.files import check_place, reading
from patchclamp.core.interrupts import guarded, resumable
from patchclamp.core.kinds import Folder
from patchclamp.core.progress import Listener, task
from patchclamp.core.tensors import read_sealed, write_sealed
from patchclamp.interventions import Row, forward, through_head
from patchclamp.lenses.divergence import Aim, divergence
from patchclamp.lenses.translators import Translators
from patchclamp.models.inputs import Prompt
from patchclamp.models.opened import OpenModel
from patchclamp.models.sites import Site

FORWARD_TOKENS = 512
SAVE_EVERY = 30.0
"""Seconds between two checkpoints."""
VERSION = 3
"""The version of the method; a checkpoint of another version is not continued."""
RATES = {"adam": 2e-3, "sgd": 1.0}


@dataclass(frozen=True)
class Settings:
    """The settings that decide the trained weights, beside model and corpus."""

    tokens: int
    length: int
    passes: int
    held_out: float
    optimizer: Literal["adam", "sgd"]
    learning_rate: float | None
    weight_decay: float
    batch: int
    seed: int
    chunk: int

    @property
    def rate(self) -> float:
        """The learning rate, given or by default."""
        return RATES[self.optimizer] if self.learning_rate is None else self.learning_rate

    def check(self) -> None:
        """Refuse what makes no sense.

        Raises:
            InputError: A setting makes no sense; the message names it.
        """
        check_choice("optimizer", self.optimizer, RATES)
        sizes = {name: getattr(self, name) for name in ("length", "passes", "chunk")}
        for name, value in {**sizes, "learning_rate": self.rate}.items():
            if not 0 < value < math.inf:
                raise InputError(f"{name}={value}: it must be larger than 0")
        if not 0 <= self.weight_decay < math.inf:
            raise InputError(f"weight_decay={self.weight_decay}: it must be 0 or larger")
        if not 0 < self.held_out < 1:
            raise InputError(f"held_out={self.held_out}: it is the share of text kept for the report, between 0 and 1")
        for name in ("tokens", "batch"):
            if getattr(self, name) < self.length:
                raise InputError(f"{name}={getattr(self, name)} is less than one sequence of {self.length} tokens")


def tune(
    lens: Translators,
    model: OpenModel,
    corpus: Any,
    settings: Settings,
    checkpoint: Folder | None,
    progress: bool | Listener | None,
) -> dict[str, Any]:
    """Train new translators in place, and report on it; see :meth:`patchclamp.TunedLens.train_on`."""
    settings.check()
    if checkpoint is not None:
        check_place(checkpoint, "a checkpoint")
    folder = None if checkpoint is None else (Path(checkpoint), model.identity())
    training_rows, held_out_rows = _split(model, corpus, settings)
    training, size = Training(model, lens, settings, training_rows), settings.length
    token_count = settings.passes * len(training_rows) * size
    with resumable(checkpoint), task("tune", token_count, "tokens", show=progress) as bar:
        for sequence_count in training.run(folder):
            bar.advance(sequence_count * size)
    measurements = evaluate(model, lens, held_out_rows, settings.chunk, progress=progress)
    return {
        **asdict(settings),
        "learning_rate": settings.rate,
        "corpus": corpus
        if isinstance(corpus, str)
        else {"digest": digest(torch.tensor([*training_rows, *held_out_rows]))},
        "trained_tokens": token_count,
        "loss": training.losses,
        "held_out": {"tokens": len(held_out_rows) * size, "sequences": len(held_out_rows), "by_site": measurements},
    }


def _split(model: OpenModel, corpus: Any, settings: Settings) -> tuple[list[list[int]], list[list[int]]]:
    """Sequences to train on, and those at the end of the corpus that are kept for the report."""
    training_count = settings.tokens // settings.length
    most = training_count + max(2, round(training_count * settings.held_out))
    rows = sequences(model, corpus, settings.length, most=most)
    held_out_count = max(2, round(len(rows) * (most - training_count) / most))
    if len(rows) - held_out_count < 1:
        raise InputError(
            f"the corpus gives {len(rows)} sequences of {settings.length} tokens; at least 3 are needed, two of them for "
            "the report"
        )
    return rows[:-held_out_count], rows[-held_out_count:]


class Training:
    """The translators of a lens, their optimiser, and how far it has come."""

    def __init__(self, model: OpenModel, lens: Translators, settings: Settings, train: Sequence[list[int]]) -> None:
        self.model, self.lens, self.settings, self.train = model, lens, settings, train
        generator = torch.Generator().manual_seed(settings.seed)
        order = [i for _ in range(settings.passes) for i in torch.randperm(len(train), generator=generator).tolist()]
        rows = settings.batch // settings.length
        self.steps = [order[start : start + rows] for start in range(0, len(order), rows)]
        self.step = 0
        self.losses: list[float] = []
        """Mean KL over depths and tokens of every step, in nats."""
        self.optimizer = _optimizer(lens, settings)

    def run(self, checkpoint: tuple[Path, str] | None) -> Iterator[int]:
        """Train, and yield after every step how many sequences it took. A checkpoint is a folder and the identity of the model."""
        file = None if checkpoint is None else checkpoint[0] / f"tuned-lens-{self._identity(checkpoint[1])}.safetensors"
        if file is not None and file.is_file():
            self._load(file)
            yield sum(map(len, self.steps[: self.step]))
        saved = time.monotonic()
        while self.step < len(self.steps):
            members = self.steps[self.step]
            self._train_step([self.train[i] for i in members])
            self.step += 1
            if file is not None and (self.step == len(self.steps) or time.monotonic() - saved >= SAVE_EVERY):
                self._save(file)
                saved = time.monotonic()
            yield len(members)

    def _train_step(self, rows: Sequence[list[int]]) -> None:
        """One step of the optimiser."""
        weight, bias = torch.zeros_like(self.lens.weight), torch.zeros_like(self.lens.bias)
        count, total = len(rows) * self.settings.length, torch.zeros(len(weight), dtype=torch.float64)
        for streams, aim in _chunks(self.model, rows, self.settings.chunk):
            scratch = torch.empty_like(aim.probabilities)
            for depth, states in enumerate(streams[:-1]):
                with guarded(torch.no_grad()):
                    translated = self.lens(states, depth)
                kl, state_gradient = _kl_and_gradient(self.model, translated, aim, scratch)
                gradient = state_gradient.to(weight.dtype)
                weight[depth].addmm_(gradient.T, states.to(weight.dtype))
                bias[depth] += gradient.sum(0)
                total[depth] += float(kl.sum(dtype=torch.float64))
        means = total / count
        if not means.isfinite().all():
            site = site_of(int((~means.isfinite()).nonzero()[0, 0]))
            raise ModelError(
                f"the loss at {site} is not finite in step {self.step + 1} of {len(self.steps)}: learning_rate="
                f"{self.settings.rate} is too large, or the model overflows (try dtype='float32')"
            )
        self.losses.append(round(float(means.mean()), 6))
        self.lens.weight.grad, self.lens.bias.grad = weight.div_(count), bias.div_(count)
        for group in self.optimizer.param_groups:
            group["lr"] = _rate(self.settings) * (1 - self.step / len(self.steps))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _identity(self, model: str) -> str:
        return digest(VERSION, asdict(self.settings), model, torch.tensor(self.train))

    def _save(self, file: Path) -> None:
        tensors = {f"lens.{name}": value for name, value in self.lens.state_dict().items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": torch.as_tensor(value) for name, value in state.items()}
        write_sealed(file, tensors, {"step": self.step, "losses": self.losses})

    def _load(self, file: Path) -> None:
        advice = "delete it to start again"
        tensors, metadata = read_sealed(file, advice)
        with reading(file, advice):
            self._restore(tensors, metadata)

    def _restore(self, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        """Restore translators, optimiser and progress from a checkpoint."""
        self.lens.load_state_dict({name[5:]: value for name, value in tensors.items() if name.startswith("lens.")})
        state = self.optimizer.state_dict()
        for name, value in tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "optimizer":
                number, _, key = rest.partition(".")
                state["state"].setdefault(int(number), {})[key] = value
        self.optimizer.load_state_dict(state)
        self.step, self.losses = metadata["step"], metadata["losses"]


def _optimizer(lens: Translators, settings: Settings) -> torch.optim.Optimizer:
    parameters = [lens.weight, lens.bias]
    if settings.optimizer == "adam":
        return torch.optim.Adam(parameters, _rate(settings), weight_decay=settings.weight_decay)
    return torch.optim.SGD(parameters, _rate(settings), momentum=0.9, nesterov=True, weight_decay=settings.weight_decay)


def _rate(settings: Settings) -> float:
    """The step size that torch is given: with momentum 0.9 a step adds up to ten times itself."""
    return settings.rate * (0.1 if settings.optimizer == "sgd" else 1.0)


def evaluate(
    model: OpenModel,
    lens: Translators,
    rows: Sequence[list[int]],
    chunk: int,
    *,
    progress: bool | Listener | None = None,
) -> list[dict[str, Any]]:
    """KL(final || layer) in nats, of a tuned lens and of the logit lens: means over sequences, with 95 % intervals.

    The intervals are Student's t over sequences: few are kept, and with two of them 1.96 would be a sixth of what is needed.

    Returns:
        A row a site: ``site``, ``kl``, ``logit_lens_kl``, ``kl_interval`` (plus or minus) and ``logit_lens_kl_interval``.
    """
    from scipy.stats import t

    kl_sums = torch.zeros(len(rows), len(lens.weight), 2, dtype=torch.float64)
    with guarded(torch.no_grad()), task("held-out text", len(rows), "sequences", show=progress) as bar:
        for number, row in enumerate(rows):
            for streams, aim in _chunks(model, [row], chunk):
                scratch = torch.empty_like(aim.probabilities)
                for depth, states in enumerate(streams[:-1]):
                    for lens_index, inputs in enumerate((lens(states, depth), states)):
                        logits = through_head(model, inputs.unsqueeze(1), wide=True)[:, 0]
                        kl = divergence(logits, aim, scratch).sum(dtype=torch.float64)
                        kl_sums[number, depth, lens_index] += float(kl) / len(row)
            bar.advance()
    factor = float(t.ppf(0.975, len(rows) - 1)) / math.sqrt(len(rows))
    means, half_widths = kl_sums.mean(0).tolist(), (kl_sums.std(0) * factor).tolist()
    names = ("kl", "logit_lens_kl", "kl_interval", "logit_lens_kl_interval")
    return [
        {"site": str(site_of(depth))} | dict(zip(names, (round(value, 6) for value in (*mean, *interval)), strict=True))
        for depth, (mean, interval) in enumerate(zip(means, half_widths, strict=True))
    ]


def site_of(depth: int) -> Site:
    """The site where the stream has passed ``depth`` layers."""
    return Site("resid_post", depth - 1) if depth else Site("resid_pre", 0)


def _chunks(model: OpenModel, rows: Sequence[list[int]], chunk: int) -> Iterator[tuple[list[Tensor], Aim]]:
    """Yield the stream at every depth, ``[row, d]``, and the final distribution, for ``chunk`` positions at once."""
    depths = [site_of(depth) for depth in range(model.sites.n_layers + 1)]
    batch_size = max(1, FORWARD_TOKENS // len(rows[0]))
    for start in range(0, len(rows), batch_size):
        prompts = [Prompt(tuple(row)) for row in rows[start : start + batch_size]]
        streams_by_site: dict[Site, Tensor] = {}
        taps = {site: _recorder(streams_by_site, site) for site in depths}
        forward(model, [Row(prompt) for prompt in prompts], taps=taps, logits=False)
        count = len(prompts) * len(rows[0])
        for first in range(0, count, chunk):
            part = slice(first, min(first + chunk, count))
            streams = [streams_by_site[site][part] for site in depths]
            with guarded(torch.no_grad()):
                final = through_head(model, streams[-1].unsqueeze(1), wide=True)[:, 0]
            aim = Aim.of(final)
            if not aim.mean_log.isfinite().all():
                raise ModelError("the model's own logits are not finite: try dtype='float32', or its weights hold NaN")
            yield streams, aim


def _recorder(streams_by_site: dict[Site, Tensor], site: Site) -> Any:
    return lambda value: streams_by_site.update({site: value.detach().flatten(0, 1)})


def _kl_and_gradient(model: OpenModel, translated: Tensor, aim: Aim, scratch: Tensor) -> tuple[Tensor, Tensor]:
    """KL of each row and its gradient with respect to what the head reads, ``[row]`` and ``[row, d]``."""
    leaf = translated.detach().requires_grad_()
    with guarded(torch.enable_grad()):
        logits = through_head(model, leaf.unsqueeze(1), wide=True)
    kl = divergence(logits.detach()[:, 0], aim, scratch)
    # the gradient of this leaf alone: none of the model's weights gets one, whatever its flags say
    (gradient,) = torch.autograd.grad(logits, leaf, scratch.unsqueeze(1))
    return kl, gradient

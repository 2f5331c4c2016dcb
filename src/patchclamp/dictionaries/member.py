"""One dictionary of a training job: its parameters, its optimiser's moments, and what it counts."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from patchclamp.core.plain import to_plain
from patchclamp.dictionaries.dictionary import Dictionary
from patchclamp.dictionaries.initial import initial_atoms, separate_weight, unit_rows
from patchclamp.dictionaries.linear import LinearEncoder, TrainingBatch
from patchclamp.dictionaries.revival import add_auxk, resample
from patchclamp.dictionaries.scaling import RowScaling
from patchclamp.dictionaries.schedule import RateSchedule
from patchclamp.dictionaries.sgd import SGD, TrainingSettings

AUXK_SHARE = 1 / 32
"""The weight of the loss of dead latents; that of Gao et al. 2024."""
FIRST_ROWS = 1024
"""The number of rows by whose pre-activations encoders begin."""
THRESHOLD_RATE = 0.01
"""The weight of a step in the running mean of the smallest value kept; it is larger at first."""
REVIVES_UNTIL = 0.8
"""The share of the steps after which no latent is replaced, so that the last ones can settle."""


class Member:
    """A dictionary in training."""

    def __init__(
        self, settings: TrainingSettings, fit: SGD, rows: Float[Tensor, "row d"], scaling: RowScaling, steps: int | None
    ) -> None:
        self.settings, self.fit, self.steps = settings, fit, steps
        self.encoder, self.width = settings.encoder, settings.width
        self.schedule = RateSchedule(settings.learning_rate, steps, settings.warmup, settings.decay)
        self.penalty_schedule = RateSchedule(1.0, steps, settings.warmup, 0.0)
        self.generator = torch.Generator().manual_seed(fit.random_state)
        bias = rows.mean(0) if settings.has_bias else torch.zeros_like(rows[0])
        atoms = initial_atoms(
            settings.initialisation,
            rows - bias,
            self.width,
            scaling=scaling,
            generator=self.generator,
            layer_weight=fit.layer_weight,
            noise=fit.noise,
        )
        offset = atoms.new_zeros(self.width)
        if settings.encoder_start == "separate":
            weight = separate_weight(atoms, self.generator)
            offset = separate_weight(atoms, self.generator)[:, 0].contiguous()
        else:
            weight = atoms.clone()
        self.parameters = {"weight": weight, "offset": offset, "atoms": atoms, "bias": bias}
        if settings.encoder_start == "scaled":
            weight *= best_scale(self.encoder, self.parameters, rows[:FIRST_ROWS])
        self.initial = self.encoder.initial(torch.addmm(offset, rows[:FIRST_ROWS] - bias, weight.T))
        self.parameters |= {name: value.clone() for name, value in self.initial.items()}
        self.trainable = [name for name in self.parameters if name != "bias" or settings.has_bias]
        self.moments = {
            name: (torch.zeros_like(value), torch.zeros_like(value)) for name, value in self.parameters.items()
        }
        self.updates = torch.zeros((), device=rows.device)
        self.idle = torch.zeros(self.width, device=rows.device)
        """The number of steps since each latent was active."""
        self.dead = torch.zeros(self.width, dtype=torch.bool, device=rows.device)
        """The latents that were idle for ``revive_every`` steps when that was last asked."""
        self._dead_latents: Tensor | None = None
        """Their numbers, if there are any."""
        self.threshold = rows.new_zeros(())
        self._sums = rows.new_zeros(2)
        """The squared error since the last review, and the number of active latents."""
        self.gradients: dict[str, Tensor] = {}
        self.loss = rows.new_zeros(())

    def compute(self, x: Tensor, scores: Tensor, number: int) -> None:
        """Losses and gradients of one step."""
        settings = self.settings
        penalty = settings.penalty_factor * self.penalty_schedule.factor(number)
        batch = TrainingBatch(x, scores, self.parameters, settings.error_factor, penalty)
        step = self.encoder.step(batch)
        if self._dead_latents is not None:
            step = add_auxk(batch, step, self._dead_latents, max(x.shape[1] // 2, 1), AUXK_SHARE)
        self._residual, self._smallest, self._active = step.residual, step.smallest, step.active
        self.gradients, self.loss = step.gradients, step.loss
        if settings.projected:
            atoms, gradient = self.parameters["atoms"], self.gradients["atoms"]
            self.gradients["atoms"] = gradient.addcmul_((gradient * atoms).sum(1, keepdim=True), atoms, value=-1)

    def settle(self, bad: Tensor, number: int) -> None:
        """Bring the atoms back to length 1 after step ``number``, and count."""
        atoms = self.parameters["atoms"]
        lengths = atoms.norm(dim=1, keepdim=True).clamp_min(torch.finfo(atoms.dtype).tiny)
        atoms.div_(torch.where(bad > 0, 1.0, lengths))
        self.idle.add_(1).mul_(self._active == 0)
        self._sums += torch.stack([self._residual.square().sum(), self._active.sum()])
        if self._smallest is not None:
            # the first steps, whose values are far from the last ones', must not linger in the mean of a short training
            mean = self.threshold.lerp(self._smallest, max(THRESHOLD_RATE, 4 / (number + 4)))
            usable = (bad == 0) & torch.isfinite(self._smallest)
            self.threshold.copy_(torch.where(usable, mean, self.threshold))

    def revives_at(self, steps_done: int) -> bool:
        """Whether latents are replaced, or the dead ones counted anew, after so many steps."""
        return self.settings.revival is not None and steps_done % self.fit.revive_every == 0

    def review(self, variance: float, rows: int, steps_done: int) -> dict[str, float]:
        """Revive latents; how good the dictionary was since the last review."""
        idle = self.idle >= self.fit.revive_every
        error, active, dead = torch.cat([self._sums, idle.sum().to(self._sums.dtype).reshape(1)]).tolist()
        self._sums.zero_()
        if self.revives_at(steps_done):
            self._revive(idle, steps_done)
        return {"ev": 1 - error / variance if variance > 0 else float("nan"), "l0": active / rows, "dead": dead}

    def _revive(self, idle: Tensor, steps_done: int) -> None:
        self.dead.copy_(idle)
        if self.settings.revival == "auxk":
            self._find_dead()
        elif self.steps is None or steps_done <= REVIVES_UNTIL * self.steps:
            resample(self.parameters, self.initial, self.moments, idle, self._residual, self.generator)
            self.idle.mul_(~idle)

    def _find_dead(self) -> None:
        latents = self.dead.nonzero()[:, 0]
        self._dead_latents = latents if len(latents) else None

    def dictionary(self, scaling: RowScaling, steps: int, rows: int) -> Dictionary:
        """The dictionary as it is now."""
        encoder, weights = self.encoder.for_inference(self.parameters, self.threshold)
        card: dict[str, Any] = {
            "fit": "SGD",
            "trained_as": to_plain(self.encoder, {}),
            "steps": steps,
            "rows": rows,
            "learning_rate": self.settings.learning_rate,
            "initialisation": self.settings.initialisation,
            "revival": self.settings.revival,
            "recipe": self.fit.recipe,
            "random_state": self.fit.random_state,
        }
        atoms = unit_rows(self.parameters["atoms"])
        return Dictionary(atoms, encoder, bias=self.parameters["bias"], weights=weights, scaling=scaling, card=card)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that decides how training goes on."""
        tensors = {f"parameters.{name}": value for name, value in self.parameters.items()}
        for name, (first, second) in self.moments.items():
            tensors |= {f"first.{name}": first, f"second.{name}": second}
        counts = {"updates": self.updates, "idle": self.idle, "dead": self.dead, "threshold": self.threshold}
        return tensors | counts | {"generator": self.generator.get_state()}

    def restore_generator(self, state: Tensor) -> None:
        """What a copy of :meth:`tensors` does not bring back."""
        self.generator.set_state(state)
        if self.settings.revival == "auxk":
            self._find_dead()


def best_scale(
    encoder: LinearEncoder, parameters: Mapping[str, Tensor], x: Float[Tensor, "row d"]
) -> Float[Tensor, ""]:
    """The number by which an encoder's weights reconstruct rows best, where no offset is learned yet.

    Args:
        encoder: The encoder.
        parameters: Its weights, zero offsets, the atoms and the bias.
        x: The rows, in the coordinates of the dictionary.
    """
    centred = x - parameters["bias"]
    scores = centred @ parameters["weight"].T
    step = encoder.step(TrainingBatch(x, scores, {**parameters, **encoder.initial(scores)}, penalty_factor=0.0))
    reconstruction = centred - step.residual
    power = reconstruction.square().sum()
    return torch.where(power > 0, (centred * reconstruction).sum() / power, 1.0)

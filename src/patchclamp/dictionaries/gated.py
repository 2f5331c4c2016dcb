"""Gated: one half of the encoder says which latents are active, the other how much."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from patchclamp.core.arguments import checked
from patchclamp.core.plain import savable
from patchclamp.dictionaries.codes import Codes
from patchclamp.dictionaries.linear import LinearEncoder, TrainingBatch, TrainingStep, check_positive, linear_gradients


@savable
@checked
@dataclass(frozen=True)
class Gated(LinearEncoder):
    """``relu(magnitude)`` where ``gate > 0``; both see the same linear map, with a scale and an offset of its own for magnitude.

    The loss is ``|x - reconstruction|^2 + penalty * |relu(gate)|_1 + |x - reconstruction by relu(gate)|^2``; atoms and bias
    are held fixed in the last term. The penalty shrinks the gate alone, not the magnitudes.

    Source: Rajamanoharan et al. 2024, "Improving dictionary learning with gated sparse autoencoders", arXiv 2404.16014,
    section 3.2 and appendix G.

    Args:
        penalty: The weight of the L1 norm of the gates, a penalty of each row, in the units of :class:`ReLU`'s. As magnitudes
            do not shrink, it may be larger: on toy rows of 5 features, 5 recovered the most of 1 to 15, with 8 to 10 active
            latents.

    Raises:
        InputError: The penalty is not above 0.
    """

    penalty: float = 5.0
    weight_names: ClassVar[tuple[str, ...]] = ("weight", "offset", "magnitude_scale", "magnitude_offset")

    def __post_init__(self) -> None:
        check_positive(self, penalty=self.penalty)

    def codes(self, x: Float[Tensor, "row d"], atoms: Float[Tensor, "width d"], weights: Mapping[str, Tensor]) -> Codes:
        """The codes of rows; without weights of its own it is a ReLU along the atoms. See :meth:`Encoder.codes`."""
        gate = self.scores(x, atoms, weights)
        if "magnitude_scale" not in weights:
            return Codes.of_dense(gate.relu())
        magnitude = (gate - weights["offset"]) * weights["magnitude_scale"].exp() + weights["magnitude_offset"]
        return Codes.of_dense(magnitude.relu() * (gate > 0))

    def initial(self, scores: Float[Tensor, "row width"]) -> dict[str, Tensor]:
        """Magnitudes that begin as the gates (the scale is a logarithm)."""
        zeros = scores.new_zeros(scores.shape[1])
        return {"magnitude_scale": zeros, "magnitude_offset": zeros.clone()}

    def step(self, batch: TrainingBatch) -> TrainingStep:
        """The three losses and their gradients."""
        parameters, rows = batch.parameters, len(batch.x)
        atoms, bias = parameters["atoms"], parameters["bias"]
        gate, scale = batch.scores, parameters["magnitude_scale"].exp()
        scaled = (gate - parameters["offset"]) * scale
        magnitude = scaled + parameters["magnitude_offset"]
        opened = gate > 0
        active = opened & (magnitude > 0)
        codes, gate_codes = magnitude * active, gate.relu()
        error, gate_error = codes @ atoms + bias - batch.x, gate_codes @ atoms + bias - batch.x
        factor, penalty = batch.error_factor / rows, self.penalty * batch.penalty_factor / rows
        to_error = error * (2 * factor)
        to_magnitude = (to_error @ atoms.T) * active
        to_gate = ((gate_error * (2 * factor)) @ atoms.T + penalty) * opened
        gradients = linear_gradients(batch, to_magnitude * scale + to_gate)
        gradients["offset"] = to_gate.sum(0)  # magnitudes do not see the offset of the gate
        gradients["atoms"] = codes.T @ to_error
        gradients["bias"] += to_error.sum(0)
        gradients["magnitude_scale"] = (to_magnitude * scaled).sum(0)
        gradients["magnitude_offset"] = to_magnitude.sum(0)
        loss = (error.square().sum() + gate_error.square().sum()) * factor + penalty * gate_codes.sum()
        return TrainingStep(gradients, loss, -error, active.sum(0, dtype=codes.dtype))

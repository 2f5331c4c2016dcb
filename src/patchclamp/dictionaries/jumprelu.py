"""JumpReLU: a threshold for each latent, learned with straight-through estimators."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from patchclamp.core.arguments import checked
from patchclamp.core.plain import savable
from patchclamp.dictionaries.codes import Codes
from patchclamp.dictionaries.encoder import Encoder
from patchclamp.dictionaries.linear import LinearEncoder, TrainingBatch, TrainingStep, check_positive, linear_gradients


@savable
@checked
@dataclass(frozen=True)
class JumpReLU(LinearEncoder):
    """A pre-activation where it is above the latent's threshold, and zero elsewhere.

    The loss is ``|x - reconstruction|^2 + penalty * d * (L0 / target_l0 - 1)^2``, where L0 is the mean over the rows of a batch,
    so that rows that need more latents may have more. Its step has no gradient with respect to the threshold; a rectangle
    around it stands for the derivative of the step.

    Source: Rajamanoharan et al. 2024, "Jumping ahead: improving reconstruction fidelity with JumpReLU sparse autoencoders",
    arXiv 2407.14435, sections 3 and 4 and appendix A; the penalty towards a target is that of appendix F, which has it for each
    row.

    Args:
        target_l0: The number of active latents towards which training goes.
        penalty: The weight of the penalty, as a share of the squared length ``d`` of scaled rows. Where one more latent
            would explain the share ``s`` of that length, the L0 that comes out is above the target by about the share
            ``target_l0 * s / (2 * penalty)`` of it.
        bandwidth: The width of the rectangle, as a share of the threshold.
        initial_threshold: The thresholds at the start; by default that by which the first rows have ``target_l0`` latents.

    Raises:
        InputError: A number that is not above 0.
    """

    target_l0: float = 32.0
    penalty: float = 1.0
    bandwidth: float = 0.5
    initial_threshold: float | None = None
    weight_names: ClassVar[tuple[str, ...]] = ("weight", "offset", "threshold")

    def __post_init__(self) -> None:
        check_positive(
            self,
            target_l0=self.target_l0,
            penalty=self.penalty,
            bandwidth=self.bandwidth,
            initial_threshold=1.0 if self.initial_threshold is None else self.initial_threshold,
        )

    def codes(self, x: Float[Tensor, "row d"], atoms: Float[Tensor, "width d"], weights: Mapping[str, Tensor]) -> Codes:
        """The codes of rows; without a learned threshold that is zero. See :meth:`Encoder.codes`."""
        scores = self.scores(x, atoms, weights)
        threshold = weights.get("threshold", scores.new_zeros(()))
        return Codes.of_dense(scores * (scores > threshold))

    def initial(self, scores: Float[Tensor, "row width"]) -> dict[str, Tensor]:
        """Equal thresholds, as logarithms, so that they stay above zero."""
        if self.initial_threshold is None:
            wanted = min(max(round(self.target_l0 * len(scores)), 1), scores.numel())
            threshold = scores.flatten().topk(wanted, sorted=False).values.min().clamp_min(1e-3)
        else:
            threshold = scores.new_tensor(self.initial_threshold)
        return {"log_threshold": threshold.log().repeat(scores.shape[1])}

    def for_inference(
        self, parameters: Mapping[str, Tensor], threshold: Float[Tensor, ""]
    ) -> tuple[Encoder, dict[str, Tensor]]:
        """Itself, with the thresholds."""
        del threshold
        weights = {"weight": parameters["weight"], "offset": parameters["offset"]}
        return self, {**weights, "threshold": parameters["log_threshold"].exp()}

    def step(self, batch: TrainingBatch) -> TrainingStep:
        """The loss and its gradients, the threshold's by a straight-through estimator."""
        atoms, rows = batch.parameters["atoms"], len(batch.x)
        threshold = batch.parameters["log_threshold"].exp()
        active = batch.scores > threshold
        codes = batch.scores * active
        error = codes @ atoms + batch.parameters["bias"] - batch.x
        counts = active.sum(0, dtype=codes.dtype)
        excess = counts.sum() / (rows * self.target_l0) - 1
        penalty = self.penalty * batch.penalty_factor * atoms.shape[1]
        to_error = error * (2 * batch.error_factor / rows)
        to_codes = to_error @ atoms.T
        gradients = linear_gradients(batch, to_codes * active)
        gradients["atoms"] = codes.T @ to_error
        gradients["bias"] += to_error.sum(0)
        near = (batch.scores - threshold).abs() < (self.bandwidth / 2) * threshold
        to_l0 = (penalty * 2 / (rows * self.target_l0)) * excess
        # the rectangle's height is 1 / (bandwidth * threshold), and the threshold is the derivative of itself by its logarithm
        gradients["log_threshold"] = (near * (to_codes * threshold + to_l0)).sum(0) / -self.bandwidth
        loss = error.square().sum() * (batch.error_factor / rows) + penalty * excess.square()
        return TrainingStep(gradients, loss, -error, counts)

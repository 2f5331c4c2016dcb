"""ReLU with an L1 penalty: the autoencoder of the first reports."""

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from patchclamp.core.arguments import checked
from patchclamp.core.plain import savable
from patchclamp.dictionaries.codes import Codes
from patchclamp.dictionaries.linear import LinearEncoder, TrainingBatch, TrainingStep, check_positive, linear_gradients


@savable
@checked
@dataclass(frozen=True)
class ReLU(LinearEncoder):
    """``relu(weight @ x + offset)``, trained with the L1 norm of the codes as penalty.

    The penalty is one of each row: ``|x - reconstruction|^2 + penalty * |codes|_1``, whatever the width. (The first report
    divided it by the width; ``SGD(recipe="post")`` does that.)

    Source: Sharkey, Braun & Millidge 2022, "Taking features out of superposition with sparse autoencoders"; Cunningham et al.
    2023, arXiv 2309.08600.

    Args:
        penalty: The weight of the L1 norm. In scaled rows (squared length ``d``) noise reads about 1 along any unit atom, so that
            one number serves rows of any width. On toy rows of 5 features, 2 recovered the most of 1 to 6, with 20 active
            latents; more penalty leaves fewer, and shrinks them (18 at 3, 12 at 5, where half of the variance is lost).

    Raises:
        InputError: The penalty is not above 0.
    """

    penalty: float = 2.0

    def __post_init__(self) -> None:
        check_positive(self, penalty=self.penalty)

    def codes(self, x: Float[Tensor, "row d"], atoms: Float[Tensor, "width d"], weights: Mapping[str, Tensor]) -> Codes:
        """The codes of rows; see :meth:`Encoder.codes`."""
        return Codes.of_dense(self.scores(x, atoms, weights).relu())

    def step(self, batch: TrainingBatch) -> TrainingStep:
        """The squared error with the penalty, and its gradients."""
        atoms, rows = batch.parameters["atoms"], len(batch.x)
        active, codes = batch.scores > 0, batch.scores.relu()
        error = codes @ atoms + batch.parameters["bias"] - batch.x
        penalty = self.penalty * batch.penalty_factor / rows
        to_error = error * (2 * batch.error_factor / rows)
        gradients = linear_gradients(batch, (to_error @ atoms.T + penalty) * active)
        gradients["atoms"] = codes.T @ to_error
        gradients["bias"] += to_error.sum(0)
        loss = error.square().sum() * (batch.error_factor / rows) + penalty * codes.sum()
        return TrainingStep(gradients, loss, -error, active.sum(0, dtype=codes.dtype))

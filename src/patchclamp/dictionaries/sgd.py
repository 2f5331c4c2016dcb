"""Dictionaries trained by gradient descent: the settings of one, as a scikit-learn estimator."""

import math
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor

from patchclamp.activations.stream import ActivationStream
from patchclamp.core.arguments import settle_held
from patchclamp.core.errors import InputError
from patchclamp.core.kinds import Array, Folder, Repeats, Seed
from patchclamp.core.progress import Listener
from patchclamp.dictionaries.dictionary import Dictionary
from patchclamp.dictionaries.fit import DictionaryFit
from patchclamp.dictionaries.initial import EncoderStart, Initialisation
from patchclamp.dictionaries.linear import LinearEncoder
from patchclamp.dictionaries.relu import ReLU
from patchclamp.dictionaries.revival import Revival
from patchclamp.dictionaries.scaling import Whiten
from patchclamp.dictionaries.schedule import default_learning_rate
from patchclamp.dictionaries.topk import BatchTopK

Precision = Literal["float32", "float64"]
Selection = Literal["auto", "float32", "bfloat16"]
_ENCODER = BatchTopK(32)


@dataclass(frozen=True)
class TrainingSettings:
    """What the arguments of a fit come to for rows of a certain width."""

    encoder: LinearEncoder
    width: int
    learning_rate: float
    warmup: float
    decay: float
    scaling: tuple[bool, bool, Whiten]
    """Whether rows are centred and scaled, and how they are whitened."""
    initialisation: Initialisation
    encoder_start: EncoderStart
    revival: Revival | None
    has_bias: bool
    projected: bool
    """Whether what would only lengthen an atom is taken out of its gradient."""
    error_factor: float
    penalty_factor: float
    dtype: torch.dtype


class SGD(DictionaryFit):
    """Atoms and encoder trained together by Adam, with unit atoms.

    The loss of a row is its squared error, plus the penalty of the encoder. Rows are centred and scaled to the mean squared
    length ``d``, so that learning rates and penalties mean the same for every model. Gradients are written by hand; encoders
    that choose latents (TopKEncoder, BatchTopK, Matryoshka) never hold a dense one. :func:`train` trains many on one stream.

    Args:
        encoder: The encoder that is trained.
        width: The number of latents; 8 times the width of a row by default.
        steps: The number of steps; by default all that the stream has.
        learning_rate: That of Adam; by default what :func:`default_learning_rate` says for the width.
        batch_size: The number of rows of a step where rows come as an array; a stream has its own.
        passes: How often the rows of an array are seen.
        warmup: The share of the steps in which the learning rate rises (and the penalty).
        decay: The share of the steps, at the end, in which the learning rate falls to 2 %.
        centre: Subtract the mean of the rows.
        scale: Divide rows by one number.
        whiten: Make the covariance of the rows the identity.
        initialisation: Where the atoms begin; see :func:`initial_atoms`.
        encoder_start: ``"scaled"``: the encoder begins as the atoms, times the one number by which the first rows are
            reconstructed best (atoms that share a direction would overshoot by far); ``"transpose"``: as the atoms;
            ``"separate"``: as ``torch.nn.Linear``.
        layer_weight: The weight ``[d, input]`` whose outputs the rows are, for ``initialisation="svd"``.
        noise: The length of the noise that is added to vectors with which the atoms begin.
        revival: What is done for latents that are never active: ``"resample"``, ``"auxk"`` or None.
        revive_every: The number of steps without activity after which a latent is replaced, or counts as dead.
        recipe: ``"post"`` for that of the first report, with a :class:`ReLU`: mean squared error over rows and ``d``, the
            penalty divided by the width, orthogonal initialisation, an encoder of its own, no decoder bias, no scaling, no
            revival, and Adam at a constant rate, 1e-3 unless another is given.
        dtype: The precision of the parameters.
        selection: The precision in which latents are chosen; ``"auto"`` measures once whether bfloat16 is faster here. Values
            are always those of ``dtype``.
        random_state: A seed.
        checkpoint: A folder from which an interrupted ``fit`` goes on.
        progress: Whether to show progress, or a function that receives it.

    Attributes:
        dictionary_: The dictionary.
        n_steps_: The number of steps.
    """

    n_steps_: int

    def __init__(
        self,
        encoder: LinearEncoder = _ENCODER,
        *,
        width: int | None = None,
        steps: int | None = None,
        learning_rate: float | None = None,
        batch_size: int = 4096,
        passes: Repeats = 1,
        warmup: float = 0.05,
        decay: float = 0.5,
        centre: bool = True,
        scale: bool = True,
        whiten: Whiten = "none",
        initialisation: Initialisation = "data",
        encoder_start: EncoderStart = "scaled",
        layer_weight: Tensor | None = None,
        noise: float = 0.1,
        revival: Revival | None = "resample",
        revive_every: int = 100,
        recipe: Literal["post"] | None = None,
        dtype: Precision = "float32",
        selection: Selection = "auto",
        random_state: Seed = 0,
        checkpoint: Folder | None = None,
        progress: bool | Listener | None = None,
    ) -> None:
        self.encoder = encoder
        self.width = width
        self.steps = steps
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.passes = passes
        self.warmup = warmup
        self.decay = decay
        self.centre = centre
        self.scale = scale
        self.whiten = whiten
        self.initialisation = initialisation
        self.encoder_start = encoder_start
        self.layer_weight = layer_weight
        self.noise = noise
        self.revival = revival
        self.revive_every = revive_every
        self.recipe = recipe
        self.dtype = dtype
        self.selection = selection
        self.random_state = random_state
        self.checkpoint = checkpoint
        self.progress = progress

    def partial_fit(self, X: Array | ActivationStream, y: Any = None) -> Self:  # noqa: ARG002
        """Go on training with more rows, one step for each batch, at a learning rate that does not fall.

        Args:
            X: Activations ``[row, d]``, or a stream of them. The first call measures the scaling.
            y: Not used.

        Raises:
            InputError: Rows of another width than before, none, or numbers that are not finite; or after :meth:`fit`, whose
                learning rate came to its end and whose optimiser is gone.
        """
        from patchclamp.dictionaries.training import Job

        settle_held(self)
        if hasattr(self, "dictionary_") and not hasattr(self, "_job"):
            raise InputError(
                "this SGD was trained by fit, which partial_fit cannot go on from: begin with sklearn.base.clone(it)"
            )
        stream = self._stream(X)
        if not hasattr(self, "_job"):
            self._job = Job.of(stream, [self], None)
        self._job.check_stream(stream)
        for batch in stream:
            self._job.step(batch.rows)
        self._job.review()
        self.dictionary_, self.n_steps_ = self._job.dictionaries()[0], self._job.steps_done
        self.n_features_in_ = self.dictionary_.d
        return self

    def settings(self, d: int) -> TrainingSettings:
        """What the arguments come to for rows of width ``d``.

        Raises:
            InputError: Settings that make no sense, alone or together.
        """
        settle_held(self)
        width = 8 * d if self.width is None else self.width
        for name, number in (("width", width), ("steps", self.steps), ("revive_every", self.revive_every)):
            if number is not None and number < 1:
                raise InputError(f"{name} is 1 or more; got {number!r}")
        for name, share in (("warmup", self.warmup), ("decay", self.decay)):
            if not 0 <= share <= 1:
                raise InputError(f"{name} is a share of the steps in 0..1; got {share!r}")
        rate = self.learning_rate
        if rate is not None and not (0 < rate < math.inf):
            raise InputError(f"learning_rate is a number above 0; got {rate!r}")
        if not 0 <= self.noise < math.inf:
            raise InputError(f"noise is 0 or more; got {self.noise!r}")
        self.encoder.check(width)
        if self.recipe is None:
            return TrainingSettings(
                self.encoder,
                width,
                rate or default_learning_rate(width),
                self.warmup,
                self.decay,
                (self.centre, self.scale, self.whiten),
                self.initialisation,
                self.encoder_start,
                self.revival,
                has_bias=True,
                projected=True,
                error_factor=1.0,
                penalty_factor=1.0,
                dtype=getattr(torch, self.dtype),
            )
        if not isinstance(self.encoder, ReLU):
            raise InputError(f'recipe="post" trains encoder=ReLU(penalty=...); got {self.encoder}')
        return TrainingSettings(
            self.encoder,
            width,
            rate or 1e-3,
            0.0,
            0.0,
            (False, False, "none"),
            "orthogonal",
            "separate",
            None,
            has_bias=False,
            projected=False,
            error_factor=1 / d,
            penalty_factor=1 / width,
            dtype=getattr(torch, self.dtype),
        )

    def _learn(self, stream: ActivationStream) -> Dictionary:
        from patchclamp.dictionaries.training import train

        dictionary = train(stream, [self], checkpoint=self.checkpoint, progress=self.progress)[0]
        self.n_steps_ = dictionary.card["steps"]
        self.__dict__.pop("_job", None)  # of partial_fit, whose dictionary this one replaces
        return dictionary

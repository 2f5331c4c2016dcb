"""Change what a model knows, by its weights."""

from collections.abc import Sequence
from typing import Any

from patchclamp.core.kinds import Repeats, Seed
from patchclamp.core.progress import Listener
from patchclamp.models.opened import OpenModel
from patchclamp.rewriting import rome as _rome
from patchclamp.rewriting.result import Rewrite
from patchclamp.rewriting.rome import Moment

Show = bool | Listener | None


class Rewriting(OpenModel):
    """Change what a model knows, by its weights."""

    def rewrite_fact(
        self,
        prompt: Any,
        subject: Any,
        target: str | int,
        *,
        layer: int | None = None,
        true: str | int | None = None,
        covariance: Moment = "gutenberg",
        ridge: float = _rome.RIDGE,
        prefixes: Repeats | Sequence[Any] = 5,
        essence: str | None = "{} is a",
        seed: Seed = 0,
        progress: Show = None,
        **how: Any,
    ) -> Rewrite:
        """Rewrite one fact in the down projection of one MLP (ROME); the model itself stays as it is.

        The subject's key is the mean input of the projection at the subject's last token, over the prompt alone and after
        prefixes. The value that makes the target likely is found by gradient. The update of rank one that stores it
        moves the corpus's other keys least.

        Source: Meng et al. 2022, "Locating and editing factual associations in GPT", arXiv 2202.05262, section 3.1.

        Args:
            prompt: One prompt that ends where the answer begins: with ``{}`` for the subject, or with the subject in it.
            subject: Its text (or positions).
            target: The new answer, one token, as ``" Rome"``.
            layer: Whose MLP; a sixth of the way up by default.
            true: The answer to be replaced, for the record; the likeliest other one by default.
            covariance: Second moment of the layer's keys: ``"gutenberg"`` (made once and kept), one made with
                :func:`patchclamp.rewriting.covariance`, or ``"identity"``, a control.
            ridge: Added to its diagonal, as a share of the mean.
            prefixes: How many beginnings to sample from the model, or texts.
            essence: What is asked of the subject to keep what it is; None leaves that out.
            seed: Of the sampling.
            progress: True for a bar, a function for events.
            **how: ``steps``, ``lr``, ``kl``, ``decay``, ``clamp`` and ``enough`` of the search; see
                :class:`patchclamp.rewriting.value.Search`.

        Raises:
            InputError: The target is not one token, no such layer, or a covariance of another layer or model.
            PositionError: The subject is not in the prompt, or not on token borders.
            SiteError: The MLP is a mixture of experts.
            ModelError: The model reads both ways, or the projection is shared or not finite.
        """
        return _rome.rewrite_fact(
            self, prompt, subject, target, layer=layer, true=true, covariance=covariance, ridge=ridge, prefixes=prefixes,
            essence=essence, seed=seed, progress=progress, **how,
        )  # fmt: skip

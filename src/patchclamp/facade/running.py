"""Run, record, generate: one call, one model, the edits given."""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from patchclamp.core.progress import Listener
from patchclamp.interventions import generate as _generate
from patchclamp.interventions import record as _record
from patchclamp.interventions import run as _run
from patchclamp.interventions.edits import Edit
from patchclamp.interventions.generate import Generation
from patchclamp.interventions.results import Activations
from patchclamp.interventions.run import Run
from patchclamp.models import weights as _weights
from patchclamp.models.opened import OpenModel

Show = bool | Listener | None

if TYPE_CHECKING:
    import pandas as pd


class Running(OpenModel):
    """Run, record, generate: one call, one model, the edits given."""

    def tokens(self, prompt: Any) -> list[str]:
        """The prompt's tokens as text, in order."""
        return list(self.prompts(prompt)[0].tokens)

    def top(self, prompt: Any, k: int = 10) -> "pd.DataFrame":
        """The ``k`` likeliest next tokens of each prompt, with their probabilities."""
        return _run.top(self, prompt, k)

    def weight(self, role: str) -> Tensor:
        """A weight matrix by role, ``[d_in, d_out]``, as in ``weight("mlp_out.5")`` or ``weight("q.5.h3")``."""
        return _weights.weight(self, role)

    def run(
        self,
        prompts: Any,
        edits: Iterable[Edit] | Edit = (),
        *,
        record: Any = (),
        at: Any = "all",
        logits: Literal["all", "last"] = "all",
        grad: bool = False,
    ) -> Run:
        """Run prompts under edits, all in one forward pass (or a few, if there are many prompts).

        Args:
            prompts: Text, lists of text, ids, tensors or a BatchEncoding.
            edits: Placed edits; at one site they act in list order.
            record: Sites to keep, in ``run.activations``.
            at: Positions to keep of them.
            logits: Of every position, or of the last one only (cheaper).
            grad: Keep the autograd graph, through the edits too, to every tensor of theirs that requires gradients.

        Raises:
            InputError: A site, position or vector does not fit; raised before the run.
            ModelError: The model gives NaN or infinity; names the first site where one arises.
            EditError: It does so under the edits.
            NotFiredError: An edit never met its site.
        """
        return _run.run(self, prompts, edits, record=record, at=at, logits=logits, grad=grad)

    def record(
        self,
        prompts: Any,
        sites: Any,
        at: Any = "all",
        *,
        edits: Iterable[Edit] | Edit = (),
        batch_tokens: int = _record.BATCH_TOKENS,
        grad: bool = False,
        progress: Show = None,
    ) -> Activations:
        """Record activations; the pass ends at the last site asked for, and no logits are computed.

        Args:
            prompts: As for :meth:`run`.
            sites: Names such as ``"resid_post"`` (every layer), ``"z.5.h3"``, ``"model.layers.7.mlp:out"``.
            at: Positions; the result has a ``position`` dimension if there are several.
            edits: Record under edits.
            batch_tokens: Padded tokens a forward pass: the memory knob.
            grad: Keep the autograd graph.
            progress: True for a bar, a function for events.
        """
        return _record.record(
            self, prompts, sites, at, edits=edits, batch_tokens=batch_tokens, grad=grad, progress=progress
        )

    def generate(
        self,
        prompts: Any,
        edits: Iterable[Edit] | Edit = (),
        *,
        max_new_tokens: int = 20,
        seed: int | None = None,
        **settings: Any,
    ) -> Generation:
        """Generate under edits, with the key-value cache.

        Args:
            prompts: As for :meth:`run`.
            edits: ``at="prompt"`` acts on prompt tokens, ``"generated"`` on each new token when it is fed back (so
                n new tokens give n-1 firings), ``"all"`` on both; ``-1`` is the last prompt token.
            max_new_tokens: How many.
            seed: For sampling; the global random state is then left alone.
            **settings: Anything else that ``transformers`` takes (``do_sample=True``, ``temperature``, ...); greedy by
                default. Beams and assisted decoding are refused.
        """
        return _generate.generate(self, prompts, edits, max_new_tokens=max_new_tokens, seed=seed, **settings)

    def editing(self, edits: Iterable[Edit] | Edit) -> AbstractContextManager[Any]:
        """Edits around your own calls: ``with model.editing(edit): model.module.generate(...)``."""
        return _generate.editing(self, edits)

"""Run, record, generate: one call, one model, the edits given."""

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from patchclamp.core.kinds import Seed
from patchclamp.core.progress import Listener
from patchclamp.interventions import generate as _generate
from patchclamp.interventions import record as _record
from patchclamp.interventions import run as _run
from patchclamp.interventions import stepping as _stepping
from patchclamp.interventions.edits import Edits
from patchclamp.interventions.generate import Generation
from patchclamp.interventions.positions import At
from patchclamp.interventions.results import Activations
from patchclamp.interventions.run import Run
from patchclamp.models import weights as _weights
from patchclamp.models.opened import OpenModel
from patchclamp.models.peers import Sites

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
        edits: Edits = (),
        *,
        record: Sites = (),
        at: At = "all",
        logits: Literal["all", "last"] = "all",
        grad: bool = False,
    ) -> Run:
        """Run prompts under edits, all in one forward pass (or a few, if there are many prompts).

        Args:
            prompts: Text, lists of text, ids, tensors or a BatchEncoding. Beside ``input_ids`` a mapping may hold what the model's
                forward takes with one entry a token (``position_ids``, ``token_type_ids``, ...) and the pictures or sounds of the
                prompt as a processor gives them (``pixel_values``, ...); all else is refused by name.
            edits: Placed edits; at one site they act in list order.
            record: Sites to keep, in ``run.activations``.
            at: Positions to keep of them.
            logits: Of every position, or of the last one only (cheaper).
            grad: Keep the autograd graph, through the edits too, to every tensor of theirs that requires gradients.

        Raises:
            InputError: A site, position or vector does not fit; raised before the run.
            PositionError: A position is outside a prompt, or the model gives one output for a whole prompt.
            ModelError: The model gives NaN or infinity; names the first site where one arises.
            EditError: It does so under the edits.
            NotFiredError: An edit never met its site.
        """
        return _run.run(self, prompts, edits, record=record, at=at, logits=logits, grad=grad)

    def record(
        self,
        prompts: Any,
        sites: Sites,
        at: At = "all",
        *,
        edits: Edits = (),
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
        edits: Edits = (),
        *,
        max_new_tokens: int | None = None,
        seed: Seed | None = None,
        **settings: Any,
    ) -> Generation:
        """Generate under edits.

        What is edited does not depend on how ``transformers`` cuts the work: with the key-value cache or without, the prompt in
        one call or in chunks, a prompt alone or in a batch.

        Each text is its prompt, positions 0 to p-1 without padding, and n new tokens at p to p+n-1, of which the last is never
        fed back and so has no activations. At the logits only those that choose a token exist: of p-1 and of what follows.

        Args:
            prompts: As for :meth:`run`.
            edits: Where ``at`` acts: ``"prompt"`` at 0 to p-1; ``"generated"`` at p to p+n-2 (n new tokens give n-1 firings);
                ``"all"`` at both, and ``"rest"`` at both but position 0; ``"last"`` and ``-1`` at p-1, whose logits give the
                first new token; a number, slice, ``pc.token`` or ``pc.per_prompt`` at those positions of the prompt alone.
                A position acts on every step that computes it anew, and is counted once in ``fired``.
            max_new_tokens: How many; 20 unless ``max_length`` or a ``generation_config`` says otherwise.
            seed: For sampling; the global random state is then left alone.
            **settings: What else ``transformers`` takes (``do_sample=True``, ``temperature``, ``num_return_sequences``,
                ``stop_strings``, ``output_logits``, ``generation_config``, ...); greedy by default. Beams, assisted decoding,
                settings without effect and inputs are refused by name.

        Raises:
            InputError: A setting, site, position or vector does not fit; raised before the run.
            NotFiredError: An edit never met its site.
        """
        return _generate.generate(self, prompts, edits, max_new_tokens=max_new_tokens, seed=seed, **settings)

    def editing(self, edits: Edits) -> AbstractContextManager[Any]:
        """Edits around your own calls: ``with model.editing(edit): model.module.generate(...)``.

        The module's own ``generate`` is edited as :meth:`generate` is. Of your calls of the module, each one without a cache, or
        with an empty one, begins a text: its tokens are the prompt. A call with the cache that such a call gave continues the
        text: its tokens are ``"generated"``, and count on. Texts may alternate; each keeps its positions.

        Raises:
            InputError: A call whose positions cannot be known: another batch size, a cache that was cut into the prompt or grew
                elsewhere, padding inside a row, or an edited module that is called by itself.
            PositionError: A position that a call cannot hold.
        """
        return _stepping.editing(self, edits)

"""The facade: what a user does with an open model, one line a method."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from patchclamp.core.progress import Listener
from patchclamp.interventions import generate as _generate
from patchclamp.interventions import patching as _patching
from patchclamp.interventions import record as _record
from patchclamp.interventions import run as _run
from patchclamp.interventions import sweep as _sweep
from patchclamp.interventions.cost import DEFAULT_BUDGET
from patchclamp.interventions.edits import Edit
from patchclamp.interventions.generate import Generation
from patchclamp.interventions.grid import Grid
from patchclamp.interventions.plan import Plan
from patchclamp.interventions.results import Activations
from patchclamp.interventions.run import Run
from patchclamp.interventions.verification import verify as _verify
from patchclamp.lenses import contributions as _contributions
from patchclamp.lenses import logit as _logit
from patchclamp.lenses.contributions import Contributions
from patchclamp.lenses.result import Lens
from patchclamp.models import loading as _loading
from patchclamp.models import weights as _weights
from patchclamp.models.opened import OpenModel
from patchclamp.rewriting import rome as _rome
from patchclamp.rewriting.result import Rewrite
from patchclamp.rewriting.rome import Moment
from patchclamp.tracing import attribution as _attribution
from patchclamp.tracing import causal as _causal
from patchclamp.tracing import neurons as _neurons
from patchclamp.tracing.attribution import Attribution
from patchclamp.tracing.causal import Window
from patchclamp.tracing.neurons import Neurons
from patchclamp.tracing.setting import Std
from patchclamp.tracing.trace import Trace

if TYPE_CHECKING:
    import pandas as pd

Show = bool | Listener | None


class Model(OpenModel):
    """An open model. Make one with :func:`patchclamp.load` or :func:`patchclamp.wrap`.

    Your module is used as it is: no weight, hook, mode or gradient flag of it is different after any call.
    """

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
            grad: Keep the autograd graph, through the edits too.

        Raises:
            InputError: A site, position or vector does not fit; raised before the run.
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

    def sweep(
        self,
        prompts: Any,
        edit: Edit | Sequence[Edit],
        *,
        sites: Any = None,
        at: Any = None,
        cumulative: bool = False,
        over: Mapping[str, Iterable[Any]] | None = None,
        read: Any = None,
        base: Iterable[Edit] = (),
        budget: int | str = DEFAULT_BUDGET,
        max_tokens: int | None = None,
        verify: int = 0,
        checkpoint: str | Path | None = None,
        progress: Show = None,
        rung: str | None = None,
    ) -> Grid:
        """Apply an edit at every site, layer and position, one cell each, sharing all the work that can be shared.

        Every number equals that of one hooked forward pass a cell.

        Args:
            prompts: As for :meth:`run`.
            edit: An unplaced edit, or a list of them to be placed together.
            sites: Names; ``"mlp_out"`` is every layer, ``"z.*.h*"`` every head.
            at: ``"each"`` for a cell a position; any other position is edited in every cell.
            cumulative: The cell at layer i edits every swept layer up to i.
            over: Values for parameters of the edit, as ``{"scale": [1, 2, 4]}``; each makes an axis.
            read: What to measure: :class:`Probability`, :class:`LogitDifference`, ..., a function of the logits, or several.
            base: Edits that every cell shares; the baseline is the run under them.
            budget: Memory beyond the model, as ``"1GB"``.
            max_tokens: Rows times positions alive at once, instead of what follows from the budget.
            verify: Run this many random cells again the slow way, and raise if they differ beyond the tolerance.
            checkpoint: A folder: a killed sweep goes on from there.
            progress: True for a bar, a function for events.
            rung: Force a rung of the ladder: wavefront, layers, rows or cell.

        Raises:
            InputError: Something does not fit; raised before any work.
            BudgetError: One cell needs more memory than the budget.
            ExactnessError: A verified cell differs.
        """
        return _sweep.sweep(
            self, prompts, edit, sites=sites, at=at, cumulative=cumulative, over=over, read=read, base=base, budget=budget,
            max_tokens=max_tokens, verify=verify, checkpoint=checkpoint, progress=progress, rung=rung,
        )  # fmt: skip

    def plan(self, prompts: Any, edit: Edit | Sequence[Edit], **options: Any) -> Plan:
        """What :meth:`sweep` with the same arguments would do and cost."""
        return _sweep.Prepared(self, prompts, edit, **options).plan

    def patch(
        self,
        source: Any,
        into: Any,
        *,
        sites: Any = "resid_post",
        at: Any = "each",
        read: Any = None,
        align: Literal["equal", "left", "right", "ends"] = "equal",
        source_edits: Sequence[Edit] = (),
        base: Sequence[Edit] = (),
        **options: Any,
    ) -> Grid:
        """Activation patching: one run's activations put into another, a cell a site and position.

        Args:
            source: The prompt whose activations are taken.
            into: The prompt that receives them.
            sites: Where; ``"z.*.h*"`` patches head by head.
            at: ``"each"`` for a cell a position, or positions that are patched together.
            read: What to measure.
            align: Rule for prompts of unequal length: ``"equal"`` refuses them; ``"left"`` and ``"right"`` count from the
                first and the last token; ``"ends"`` matches the common beginning and the common end.
            source_edits: The source runs under these.
            base: The target runs under these.
            **options: As for :meth:`sweep`.
        """
        return _patching.patch(
            self,
            source,
            into,
            sites=sites,
            at=at,
            read=read,
            align=align,
            source_edits=source_edits,
            base=base,
            **options,
        )

    def lens(
        self,
        prompts: Any,
        sites: Any = "resid_post",
        at: Any = "all",
        *,
        k: int = 5,
        targets: Any = "next",
        chunk: int = _logit.CHUNK,
        batch_tokens: int = _logit.BATCH_TOKENS,
        progress: Show = None,
    ) -> Lens:
        """The logit lens: what each layer would predict if it were the last one (nostalgebraist 2020).

        The model's own final norm and head are applied to the residual stream; logits are float32 also for a model in
        half precision. It streams: logits of ``chunk`` rows are alive at once, and only numbers are kept of them.

        Args:
            prompts: As for :meth:`run`.
            sites: ``resid_post``, ``resid_pre`` or ``resid_mid``, with layers or without, or a list of them.
            at: Positions.
            k: How many of the likeliest tokens to keep.
            targets: ``"next"`` for the prompt's own next tokens; or a token (text or id), or a list with one a prompt.
            chunk: Rows (positions times layers) that pass the head at once: the memory knob.
            batch_tokens: Padded tokens a forward pass, whose states are held: the other one.
            progress: True for a bar, a function for events.

        Raises:
            ModelError: The model has no final norm or head, or is an encoder.
            InputError: A site, position, target or ``k`` does not fit; raised before any work.
        """
        return _logit.look(
            self, prompts, sites, at, k=k, targets=targets, chunk=chunk, batch_tokens=batch_tokens, progress=progress
        )

    def contributions(self, prompt: Any, tokens: Any, at: Any = "last", *, heads: bool = False) -> Contributions:
        """Direct logit attribution: what each component adds to the logit of each token (Elhage et al. 2021).

        The residual stream is the sum of what the embedding, attention and MLP of each layer add; with the final norm's
        scale frozen at its value, the logit is linear in it, so the parts sum to the logit. Where the model caps its
        logits, they sum to the logit before the cap.

        Args:
            prompt: One prompt.
            tokens: A token (text or id) or several.
            at: Positions.
            heads: Split attention into heads.

        Raises:
            ModelError: The logit is not such a sum in this model, or it is in half precision.
            InputError: More than one prompt, or a token or position that does not fit.
        """
        return _contributions.contribute(self, prompt, tokens, at, heads=heads)

    def causal_trace(
        self,
        prompt: Any,
        subject: Any,
        answer: str | int | None = None,
        *,
        sites: Any = "resid_post",
        window: Window = None,
        samples: int = 10,
        noise: float = 3.0,
        std: Std = None,
        seed: int = 0,
        read: Any = None,
        method: Literal["exact", "gradient"] = "exact",
        integrate: int = 0,
        check: int = 20,
        **options: Any,
    ) -> Trace:
        """Causal tracing: corrupt the subject, set one state back to the clean run's, and see how much of the answer returns.

        Source: Meng et al. 2022 (ROME), arXiv 2202.05262, section 2.1.

        Args:
            prompt: One prompt.
            subject: Its subject as text (or any position): the tokens whose embeddings get noise.
            answer: One token; the clean run's likeliest by default. Its probability and log-odds are read.
            sites: What is restored, a cell a site, layer and position: ``["resid_post", "mlp_out", "attn_out"]``.
            window: Layers restored together, centred on the cell's: one number, or one a site. By default 10 for
                ``mlp_out`` and ``attn_out`` (from 5 below to 4 above, as in ROME), else 1.
            samples: How often noise is drawn; each sample has the same noise in all its cells.
            noise: Its size, in ``std``.
            std: The standard deviation that noise is measured by: a number, or texts over whose tokens' embedding entries
                it is taken (ROME: the subjects of all known facts); by default over the subject's own tokens.
            seed: Of the noise.
            read: Something else to measure than the answer: one number a run.
            method: ``"gradient"`` estimates all cells from one backward pass a read, with the error measured. (A window's
                estimate is the sum over its layers, which counts paths through several of them more than once.)
            integrate: For the estimate: average the gradient over so many points between the two runs.
            check: For the estimate: random cells that are run exactly.
            **options: ``budget``, ``max_tokens``, ``verify``, ``checkpoint``, ``progress``, as for :meth:`sweep`.

        Raises:
            PositionError: The subject is not in the prompt, or not on token borders; the message shows the tokens.
            InputError: The answer is not one token, there are no samples, or the model reads both ways.
        """
        return _causal.causal_trace(
            self, prompt, subject, answer, sites=sites, window=window, samples=samples, noise=noise, std=std, seed=seed,
            read=read, method=method, integrate=integrate, check=check, **options,
        )  # fmt: skip

    def attribution_patch(
        self,
        source: Any,
        into: Any,
        *,
        sites: Any = "resid_post",
        at: Any = "each",
        read: Any = None,
        align: Literal["equal", "left", "right", "ends"] = "equal",
        source_edits: Sequence[Edit] = (),
        base: Sequence[Edit] = (),
        integrate: int = 0,
        check: int = 20,
    ) -> Attribution:
        """Estimate :meth:`patch` from one backward pass, and measure how wrong the estimate is.

        A cell is estimated by ``(source's state - target's state) . gradient``, with the gradient of the read in the
        target's run: two forward passes and one backward pass for each number that is read, for all cells.

        Source: Nanda 2023, "Attribution patching"; with points, Hanna et al. 2024, arXiv 2403.17806.

        Args:
            source: The prompt whose activations are taken.
            into: The prompt that receives them.
            sites: Where; ``"z.*.h*"`` estimates head by head.
            at: ``"each"`` for a cell a position, or positions that are patched together.
            read: What to measure; it needs a gradient.
            align: As for :meth:`patch`.
            source_edits: The source runs under these.
            base: The target runs under these.
            integrate: Average the gradient over so many points between the two prompts' embeddings (they must be equally
                long).
            check: Random cells that are run exactly, for ``agreement``.

        Raises:
            InputError: The read has no gradient, or the prompts cannot be aligned.
        """
        return _attribution.attribution_patch(
            self, source, into, sites=sites, at=at, read=read, align=align, source_edits=source_edits, base=base,
            integrate=integrate, check=check,
        )  # fmt: skip

    def neuron_importances(
        self,
        prompt: Any,
        subject: Any,
        answer: str | int | None = None,
        *,
        samples: int = 10,
        noise: float = 3.0,
        std: Std = None,
        seed: int = 0,
        read: Any = None,
        integrate: int = 0,
        top: int = 10,
        verify: int = 20,
    ) -> Neurons:
        """The indirect effect of every single MLP neuron in a causal trace: restore one neuron's clean value in the corrupted run.

        All are estimated by gradient (two forward passes and one backward pass); the strongest are run exactly.

        Args:
            prompt: As for :meth:`causal_trace`.
            subject: As for :meth:`causal_trace`.
            answer: As for :meth:`causal_trace`.
            samples: How often noise is drawn.
            noise: Its size, in ``std``.
            std: As for :meth:`causal_trace`.
            seed: Of the noise.
            read: As for :meth:`causal_trace`; the first number is taken.
            integrate: Average the gradient over so many points between the corrupted run and the clean one.
            top: Neurons kept for each layer and token.
            verify: Strongest neurons that are run exactly.

        Raises:
            SiteError: The model has no ``mlp_act`` (experts are no single MLP).
        """
        return _neurons.neuron_importances(
            self, prompt, subject, answer, samples=samples, noise=noise, std=std, seed=seed, read=read,
            integrate=integrate, top=top, verify=verify,
        )  # fmt: skip

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
        prefixes: int | Sequence[Any] = 5,
        essence: str | None = "{} is a",
        seed: int = 0,
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


def load(
    name_or_path: str | Path,
    *,
    dtype: str | torch.dtype = "auto",
    device_map: Any = None,
    revision: str | None = None,
    attn_implementation: str | None = None,
) -> Model:
    """Open a model by name.

    Args:
        name_or_path: A name of the catalogue (``smollm2-135m``, ``stories15m``, ``resnet50-imagenet``), a Hugging Face
            id, or a folder.
        dtype: ``"auto"`` (as saved), ``"float32"``, ``"bfloat16"``, ...
        device_map: One device, as ``"cuda:0"``; models spread over devices are refused.
        revision: Of a Hugging Face repository.
        attn_implementation: ``"eager"`` shows attention patterns; the default is the model's own.

    Raises:
        ModelError: Unknown, broken, quantised or spread over devices.
    """
    opened = _loading.open_model(
        name_or_path, dtype=dtype, device_map=device_map, revision=revision, attn_implementation=attn_implementation
    )
    return _as_model(opened)


def wrap(module: Any, tokenizer: Any = None) -> Model:
    """Open a live model: any ``transformers`` model, or any ``nn.Module`` (whose sites are its module paths).

    Args:
        module: Used as it is, never modified.
        tokenizer: To pass text and find tokens.

    Raises:
        ModelError: Compiled, quantised or spread over devices.
    """
    return _as_model(_loading.wrap_module(module, tokenizer))


def _as_model(opened: OpenModel) -> Model:
    model = Model(opened.module, opened.tokenizer, opened.sites, opened.source)
    model.pending = _verify
    if not any(module.training for module in model.module.modules()):
        model.look()
    return model

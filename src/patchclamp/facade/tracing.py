"""Which parts made the model say what it said."""

from collections.abc import Sequence
from typing import Any, Literal

from patchclamp.core.kinds import Folder, Repeats, Seed
from patchclamp.core.progress import Listener
from patchclamp.models.opened import OpenModel
from patchclamp.models.peers import Sites
from patchclamp.tracing import causal as _causal
from patchclamp.tracing import facts as _facts
from patchclamp.tracing import heads as _heads
from patchclamp.tracing import neurons as _neurons
from patchclamp.tracing.average import TraceAverage
from patchclamp.tracing.causal import Window
from patchclamp.tracing.facts import Fact
from patchclamp.tracing.heads import HeadScores
from patchclamp.tracing.neurons import Neurons
from patchclamp.tracing.setting import Std
from patchclamp.tracing.trace import Trace

Show = bool | Listener | None


class Tracing(OpenModel):
    """Which parts made the model say what it said."""

    def causal_trace(
        self,
        prompt: Any,
        subject: Any,
        answer: str | int | None = None,
        *,
        sites: Sites = "resid_post",
        window: Window = None,
        samples: Repeats = 10,
        noise: float = 3.0,
        std: Std = None,
        seed: Seed = 0,
        read: Any = None,
        method: Literal["exact", "gradient"] = "exact",
        integrate: Repeats = 0,
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

    def trace_facts(
        self,
        facts: Sequence[Fact],
        *,
        sites: Sites = "resid_post",
        noise: float = 3.0,
        std: Std = None,
        samples: Repeats = 10,
        seed: Seed = 0,
        checkpoint: Folder | None = None,
        progress: Show = None,
        **options: Any,
    ) -> TraceAverage:
        """Causal traces of many facts, averaged by the role of the token: first, middle and last of the subject, and after.

        Source: Meng et al. 2022, arXiv 2202.05262, section 2.2 and figure 2.

        Args:
            facts: ``(prompt, subject)`` or ``(prompt, subject, answer)`` each.
            sites: As for :meth:`causal_trace`.
            noise: Size of the noise, in ``std``.
            std: As for :meth:`causal_trace`; by default over the tokens of all facts' subjects, as in ROME.
            samples: How often noise is drawn for each fact.
            seed: Of the noise.
            checkpoint: A folder: killed work goes on from there.
            progress: True for a bar, a function for events.
            **options: ``window``, ``read``, ``method``, ..., as for :meth:`causal_trace`.

        Raises:
            InputError: No facts, or one that cannot be traced; raised before any of them is run, with its number.
        """
        return _facts.trace_facts(
            self, facts, sites=sites, noise=noise, std=std, samples=samples, seed=seed, checkpoint=checkpoint,
            progress=progress, **options,
        )  # fmt: skip

    def neuron_importances(
        self,
        prompt: Any,
        subject: Any,
        answer: str | int | None = None,
        *,
        samples: Repeats = 10,
        noise: float = 3.0,
        std: Std = None,
        seed: Seed = 0,
        read: Any = None,
        integrate: Repeats = 0,
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

    def head_scores(
        self,
        text: Any = None,
        word: str | None = None,
        *,
        length: int = 32,
        samples: Repeats = 8,
        seed: Seed = 0,
        draws: Repeats = 100,
        progress: Show = None,
    ) -> HeadScores:
        """Score every head: does it go back to where a token stood before, and copy what followed? With controls.

        On random tokens that come twice, or on a text in which a word recurs. Any attention implementation will do: patterns
        are read off the values. The page on head scores has every definition.

        Source: Olsson et al. 2022, arXiv 2209.11895; Elhage et al. 2021.

        Args:
            text: A text with a word that recurs; without it, random tokens.
            word: The word, as ``" Dursley"``.
            length: Random tokens of a block, which comes twice.
            samples: How many such passages.
            seed: Of the tokens and of the shuffled targets.
            draws: How often targets are shuffled, for the control.
            progress: True for a bar, a function for events.

        Raises:
            ModelError: The model has no attention heads, or reads both ways.
            PositionError: The word does not recur, or not in the same tokens; the message shows them.
        """
        return _heads.head_scores(
            self, text, word, length=length, samples=samples, seed=seed, draws=draws, progress=progress
        )

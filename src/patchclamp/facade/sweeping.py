"""Many edited runs planned together: sweeps, patches, paths."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from patchclamp.core.kinds import Folder, Repeats
from patchclamp.core.progress import Listener
from patchclamp.interventions import patching as _patching
from patchclamp.interventions import sweep as _sweep
from patchclamp.interventions.cost import DEFAULT_BUDGET
from patchclamp.interventions.edits import Edits
from patchclamp.interventions.grid import Grid
from patchclamp.interventions.plan import Plan
from patchclamp.interventions.positions import At
from patchclamp.models.opened import OpenModel
from patchclamp.models.peers import Sites
from patchclamp.tracing import attribution as _attribution
from patchclamp.tracing import path as _path
from patchclamp.tracing.attribution import Attribution

Show = bool | Listener | None


class Sweeping(OpenModel):
    """Many edited runs planned together: sweeps, patches, paths."""

    def sweep(
        self,
        prompts: Any,
        edit: Edits,
        *,
        sites: Sites = None,
        at: At = None,
        cumulative: bool = False,
        over: Mapping[str, Iterable[Any]] | None = None,
        read: Any = None,
        base: Edits = (),
        budget: float | str = DEFAULT_BUDGET,
        max_tokens: int | None = None,
        verify: int = 0,
        checkpoint: Folder | None = None,
        progress: Show = None,
        rung: str | None = None,
    ) -> Grid:
        """Apply an edit at every site, layer and position, one cell each, sharing all the work that can be shared.

        Every number equals that of one hooked forward pass a cell.

        Args:
            prompts: As for :meth:`run`.
            edit: An unplaced edit, or a list of edits that act together in each cell, in this order. Those that name sites or
                positions of their own stay there; a list of edits that all name the same sites is swept over these.
            sites: Names; ``"mlp_out"`` is every layer, ``"z.*.h*"`` every head.
            at: ``"each"`` for a cell a position; any other position is edited in every cell. For the edits that say none.
            cumulative: The cell at layer i edits every swept layer up to i.
            over: Values for parameters of the edits that have them, as ``{"scale": [1, 2, 4]}``; each makes an axis.
            read: What to measure: :class:`Probability`, :class:`LogitDifference`, ..., a function of the logits, or several.
                The second of one name is called ``probability:2``.
            base: Edits that every cell shares; the baseline is the run under them.
            budget: Memory beyond the model, as ``"1GB"``.
            max_tokens: Rows times positions alive at once, instead of what follows from the budget.
            verify: Run this many random cells again the slow way, and raise if they differ beyond the tolerance.
            checkpoint: A folder: a killed sweep goes on from there. Functions are refused, unless you vouch for them with
                :func:`known_as`: what they do cannot be told.
            progress: True for a bar, a function for events.
            rung: Ask for a lower rung of the ladder (wavefront, layers, rows, cell) than the one that would be chosen.

        Raises:
            InputError: Something does not fit, or the rung would not be exact; raised before any work.
            EditError: ``sites``, ``at`` or ``over`` contradict what every edit says itself.
            BudgetError: One cell needs more memory than the budget.
            ExactnessError: A verified cell differs.
        """
        return _sweep.sweep(
            self, prompts, edit, sites=sites, at=at, cumulative=cumulative, over=over, read=read, base=base, budget=budget,
            max_tokens=max_tokens, verify=verify, checkpoint=checkpoint, progress=progress, rung=rung,
        )  # fmt: skip

    def plan(self, prompts: Any, edit: Edits, **options: Any) -> Plan:
        """What :meth:`sweep` with the same arguments would do and cost."""
        return _sweep.Prepared(self, prompts, edit, **options).plan

    def patch(
        self,
        source: Any,
        into: Any,
        *,
        sites: Sites = "resid_post",
        at: At = "each",
        read: Any = None,
        align: Literal["equal", "left", "right", "ends"] = "equal",
        source_edits: Edits = (),
        base: Edits = (),
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

    def path_patch(
        self,
        source: Any,
        into: Any,
        *,
        sender: Sites = "z.*.h*",
        receivers: Sites = "final_norm",
        at: At = "all",
        receive_at: At = "all",
        freeze: Sites = _path.FREEZABLE,
        read: Any = None,
        **options: Any,
    ) -> Grid:
        """Path patching: what a sender does to the read through the receivers alone, a cell a sender.

        The sender takes the source run's value; what lies between is frozen at the target run's; what then reaches the
        receivers is put into an otherwise clean target run.

        Source: Wang et al. 2022, arXiv 2211.00593, section 3.1; Goldowsky-Dill et al. 2023, arXiv 2304.05969.

        Args:
            source: The prompt from which senders are patched.
            into: The prompt that is run.
            sender: ``z`` (heads), ``attn_out``, ``mlp_out`` or ``embed``.
            receivers: What components read: ``q.9.h3``, ``mlp_in.5``, ..., or ``final_norm`` for the logits. Several act
                together.
            at: Positions of the sender; ``"each"`` for a cell a position.
            receive_at: Positions at which receivers take what reached them.
            freeze: ``attn_out`` and ``mlp_out`` (direct paths only), ``"attn_out"`` (MLPs belong to the path), or ``()``.
            read: What to measure.
            **options: ``align``, ``source_edits``, ``base`` as for :meth:`patch`; ``budget``, ``max_tokens``, ``verify``,
                ``checkpoint``, ``progress`` as for :meth:`sweep`.

        Raises:
            InputError: No sender lies below a receiver, or a site cannot send or receive.
        """
        return _path.path_patch(
            self, source, into, sender=sender, receivers=receivers, at=at, receive_at=receive_at, freeze=freeze, read=read,
            **options,
        )  # fmt: skip

    def attribution_patch(
        self,
        source: Any,
        into: Any,
        *,
        sites: Sites = "resid_post",
        at: At = "each",
        read: Any = None,
        align: Literal["equal", "left", "right", "ends"] = "equal",
        source_edits: Edits = (),
        base: Edits = (),
        integrate: Repeats = 0,
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

"""Path patching: what a sender does to a read through chosen receivers alone, everything between held in place."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from patchclamp.core.call import recorded
from patchclamp.core.errors import InputError, check_choice
from patchclamp.core.kinds import Folder
from patchclamp.core.progress import Listener
from patchclamp.interventions import (
    DEFAULT_BUDGET,
    Action,
    Activation,
    Align,
    At,
    Cell,
    Edits,
    Grid,
    Pair,
    PromptRun,
    Put,
    RunOptions,
    Source,
    SweepTask,
    positions,
    record_source,
    run_cells,
)
from patchclamp.models.components import ORDER
from patchclamp.models.opened import OpenModel
from patchclamp.models.peers import Sites
from patchclamp.models.sites import Site

SENDERS = ("embed", "z", "attn_out", "mlp_out")
RECEIVERS = (
    "resid_pre", "attn_in", "q", "k", "v", "resid_mid", "mlp_in", "mlp_pre", "mlp_act", "resid_post", "final_norm",
)  # fmt: skip
FREEZABLE = ("attn_out", "mlp_out")


@dataclass(frozen=True, eq=False)
class Route:
    """The route that a sender's change may take."""

    receivers: tuple[Site, ...]
    frozen: tuple[Site, ...]
    """Sites that are held at the target's values where they lie between a sender and a receiver."""
    at: tuple[int, ...]
    """Positions at which the receivers take what reached them."""

    @classmethod
    def of(cls, model: OpenModel, senders: Any, receivers: Sites, freeze: Sites, at: At, prompt: Any) -> "Route":
        """Read and check senders, receivers and what is frozen.

        Raises:
            InputError: A site that cannot send or receive, or no sender below any receiver.
            SiteError: A site is unknown.
        """
        names = (freeze,) if isinstance(freeze, str) else tuple(freeze)
        for name in names:
            check_choice("component to freeze", name, FREEZABLE)
        sender_sites, receiver_sites = model.sites.expand(senders), tuple(model.sites.expand(receivers))
        for name, site_list in (("sender", sender_sites), ("receivers", receiver_sites)):
            if not site_list:
                raise InputError(f"{name} names no site; name one, as in sender='z.*.h*' or receivers='final_norm'")
        for site in sender_sites:
            if site.component not in SENDERS or (site.unit is not None and site.unit.kind == "n"):
                raise InputError(
                    f"{site} cannot send: a sender writes to the residual stream; valid: {', '.join(SENDERS)} "
                    "(heads as z.*.h*)"
                )
        for site in receiver_sites:
            if site.component not in RECEIVERS:
                raise InputError(
                    f"{site} cannot receive: a receiver is what a component reads; valid: {', '.join(RECEIVERS)} "
                    "(final_norm is what the logits are made of)"
                )
        if not any(before(sender, receiver) for sender in sender_sites for receiver in receiver_sites):
            raise InputError(
                f"no sender lies below a receiver: the first sender is {min(sender_sites, key=order)}, the last receiver "
                f"{max(receiver_sites, key=order)}"
            )
        receive_positions = positions.resolve(at, prompt, 0, 1, model.tokenizer)
        if receive_positions is None:
            raise InputError("path patching needs prompts made of tokens")
        return cls(receiver_sites, tuple(model.sites.expand(list(names))), receive_positions)

    def receivers_above(self, sender: Site) -> tuple[Site, ...]:
        """The receivers that lie above a sender."""
        return tuple(site for site in self.receivers if before(sender, site))

    def frozen_below(self, sender: Site) -> tuple[Site, ...]:
        """The sites that are frozen between a sender and the last receiver."""
        last = max(self.receivers, key=order)
        return tuple(site for site in self.frozen if _above(sender, site) and before(site, last))


def order(site: Site) -> tuple[int, int]:
    """The place of a site in the forward pass."""
    layer = site.layer if site.layer is not None else 10**6 if site.component == "final_norm" else -1
    return (layer, ORDER[site.component])


def before(first: Site, second: Site) -> bool:
    """Whether what is written at one site can be read at another."""
    return order(first) < order(second)


def _above(sender: Site, other: Site) -> bool:
    """Whether a component reads the stream after a sender wrote to it (a head is part of its own layer's ``attn_out``)."""
    sender_layer, other_layer = order(sender)[0], order(other)[0]
    return other_layer > sender_layer or (
        other_layer == sender_layer and other.component == "mlp_out" and sender.component != "mlp_out"
    )


@recorded
def path_patch(
    model: OpenModel,
    source: Any,
    into: Any,
    *,
    sender: Sites = "z.*.h*",
    receivers: Sites = "final_norm",
    at: At = "all",
    receive_at: At = "all",
    freeze: Sites = FREEZABLE,
    read: Any = None,
    align: Align = "equal",
    source_edits: Edits = (),
    base: Edits = (),
    budget: float | str = DEFAULT_BUDGET,
    max_tokens: int | None = None,
    verify: int = 0,
    checkpoint: Folder | None = None,
    progress: bool | Listener | None = None,
) -> Grid:
    """Path patching: what a sender does to the read through the receivers alone, a cell a sender.

    The sender takes the source run's value; what lies between is frozen at the target run's; what then reaches the
    receivers is put into an otherwise clean target run.

    Source: Wang et al. 2022, arXiv 2211.00593, section 3.1; Goldowsky-Dill et al. 2023, arXiv 2304.05969.

    Args:
        model: The model.
        source: The prompt from which senders are patched.
        into: The prompt that is run.
        sender: ``z`` (heads), ``attn_out``, ``mlp_out`` or ``embed``.
        receivers: What components read: ``q.9.h3``, ``mlp_in.5``, ..., or ``final_norm`` for the logits. Several act
            together.
        at: The positions of the sender; ``"each"`` for a cell a position.
        receive_at: The positions at which receivers take what reached them.
        freeze: ``attn_out`` and ``mlp_out`` (direct paths only), ``"attn_out"`` (MLPs belong to the path), or ``()``.
        read: What to measure.
        align: As for :meth:`patchclamp.Model.patch`.
        source_edits: The source runs under these.
        base: The target runs under these.
        budget: As for :meth:`patchclamp.Model.sweep`, as are all that follow.
        max_tokens: The number of rows times positions alive at once.
        verify: Run this many random cells again the slow way.
        checkpoint: A folder: killed work goes on from there.
        progress: True for a bar, a function for events.

    Raises:
        InputError: No sender lies below a receiver, or a site cannot send or receive.
    """
    targets = model.prompts(into)
    route = Route.of(model, sender, receivers, freeze, receive_at, targets[0])
    pair = Pair.of(
        model, source, into, read=read, align=align, source_edits=source_edits, base=base, sites=sender, at=at
    )
    files = pair.sweep.files(checkpoint)
    options = RunOptions(budget=budget, max_tokens=max_tokens, verify=verify, files=files, progress=progress)
    job, reference = pair.run_source()
    arrivals = _receiver_values(job, Source(targets[0], pair.sweep.base), route, options.on_the_way())
    cells = [
        Cell(0, _receiving_actions(route, cell.actions, values))
        for cell, values in zip(job.cells, arrivals, strict=True)
    ]
    return pair.grid(
        *run_cells(SweepTask(model, job.lines, cells), options),
        reference,
        receivers=[str(site) for site in route.receivers],
        receive_at=list(route.at),
        freeze=[freeze] if isinstance(freeze, str) else list(freeze),
    )


def _receiver_values(
    sender_job: SweepTask, target: Source, route: Route, options: RunOptions
) -> list[dict[Site, Tensor]]:
    """Run what reaches the receivers, ``[position, d]`` at each, when each sender is patched and the rest is frozen."""
    model, line = sender_job.model, sender_job.lines[0]
    freezing_actions = _freezing_actions(model, target, route)
    reads = tuple(
        bound
        for site in route.receivers
        for bound in Activation(str(site), list(route.at)).bind(model, line.prompt, 0, 1)
    )
    cells = []
    for cell in sender_job.cells:
        site = cell.actions[0].site
        actions = (
            (*cell.actions, *(freezing_actions[frozen] for frozen in route.frozen_below(site)))
            if route.receivers_above(site)
            else ()
        )
        cells.append(Cell(0, actions))
    job = SweepTask(model, [PromptRun(line.prompt, line.base, reads)], cells)
    outcome, _ = run_cells(job, options)
    count = len(route.at)
    return [
        {}
        if run is None
        else {site: value.reshape(count, -1) for site, value in zip(route.receivers, outcome.values[run], strict=True)}
        for run in job.run_of
    ]


def _freezing_actions(model: OpenModel, target: Source, route: Route) -> dict[Site, Action]:
    """Edits that hold what is frozen at the target's own values."""
    if not route.frozen:
        return {}
    values = record_source(model, target, route.frozen)
    return {site: Action(site, tuple(range(len(rows[0]))), Put(rows[0])) for site, rows in values.items()}


def _receiving_actions(
    route: Route, sender_actions: tuple[Action, ...], receiver_values: dict[Site, Tensor]
) -> tuple[Action, ...]:
    """Edits that give the receivers what reached them, in an otherwise clean run."""
    if not receiver_values:
        return ()
    return tuple(
        Action(site, route.at, Put(receiver_values[site])) for site in route.receivers_above(sender_actions[0].site)
    )

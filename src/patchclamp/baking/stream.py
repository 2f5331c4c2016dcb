"""One edit at every state of the residual stream, or constants at some, as changes of what writes to the stream.

Let ``T(x) = x A + t`` act on every state that a sublayer or the head reads, and let it be idempotent: ``T(T(x)) = T(x)``,
that is ``A A = A`` and ``t A = 0`` (a projection about any point is; so is setting coordinates). The stream is the sum of
what is written to it, so a hooked model goes from the state ``T(s)`` to ``T(T(s) + w)``, where ``w`` is what a sublayer made of
``T(s)``. And ``T(T(s) + w) = T(T(s)) + w A = T(s) + w A``. So a model whose first state is ``T(s)`` and whose sublayers write
``w A`` has the same states, by induction, and the same output. ``w`` is ``key W + b``, whose linear image is ``key (W A) + b A``;
the first state is the sum of tables, so each table's rows are mapped by ``A`` and the constant ``t`` goes into one that every token
reads. No bias is needed. A map that is not idempotent is applied again to what earlier layers wrote, and a map at one layer
alone to what is written before it: neither is a change of the writers.

A constant alone (``x + t``) at a state is a constant added to the last thing written before it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from patchclamp.baking.affine import Affine
from patchclamp.baking.fold_targets import FoldTarget, Wiring, look_ahead, port, spots_of
from patchclamp.baking.folding import Folding
from patchclamp.core.arguments import checked
from patchclamp.core.errors import EditError, SiteError
from patchclamp.core.tolerances import ARCHITECTURE
from patchclamp.models.opened import OpenModel
from patchclamp.models.sites import Site

STREAM = ("resid_pre", "resid_mid", "resid_post")


@dataclass(frozen=True)
class State:
    """A state of the residual stream: the names of its tensor in the order of the pass, and what was written last."""

    sites: tuple[Site, ...]
    writer: Site | None

    def change(self, maps: Mapping[Site, Affine]) -> Affine | None:
        """Compose the maps at the state's sites; None if there is none."""
        combined: Affine | None = None
        for site in self.sites:
            if site in maps:
                combined = maps[site] if combined is None else combined.then(maps[site])
        return combined


@checked
def stream_sites(model: OpenModel) -> list[str]:
    """Every state of the residual stream that is read: where a projection has to act to be a change of weights.

    Raises:
        SiteError: A state between attention and MLP has no name.
    """
    return [str(state.sites[0]) for state in states_of(model)]


def states_of(model: OpenModel) -> list[State]:
    """Every state that a sublayer or the head reads, first to last.

    Raises:
        SiteError: A state between attention and MLP has no name.
    """
    sites, count = model.sites, model.sites.n_layers
    states = [State((Site("resid_pre", 0),), None)]
    for layer in range(count):
        try:
            sites.access(Site("resid_mid", layer))
            states.append(State((Site("resid_mid", layer),), Site("attn_out", layer)))
        except SiteError:
            if sites.family.residual != "parallel":
                raise
        names = (Site("resid_post", layer), *([Site("resid_pre", layer + 1)] if layer + 1 < count else []))
        states.append(State(names, Site("mlp_out", layer)))
    return states


def fold_stream(folding: Folding, wiring: Wiring, maps: Mapping[Site, Affine], embed: Affine | None) -> None:
    """Put maps of the residual stream into the weights that write to it.

    Args:
        folding: The new weights.
        wiring: The wiring of the model.
        maps: The map at each site of the stream.
        embed: The map at ``embed``, which is in the table already.

    Raises:
        EditError: The maps are no change of weights; the message says why, and what is near.
        SiteError: Something stands between a weight and the stream.
    """
    if set(maps) == {Site("resid_pre", 0)}:
        _fold_start(folding, wiring, maps[Site("resid_pre", 0)])
        return
    states = states_of(wiring.model)
    changes = [state.change(maps) for state in states]
    changes_by_state = {state: change for state, change in zip(states, changes, strict=True) if change is not None}
    if all(change.only_shifts for change in changes_by_state.values()):
        for state, change in changes_by_state.items():
            if state.writer is None:
                _fold_start(folding, wiring, change)
            else:
                _fold_constant(folding, wiring, state, change)
    else:
        _fold_everywhere(folding, wiring, states, changes_by_state, embed)


def _fold_everywhere(
    folding: Folding, wiring: Wiring, states: list[State], changes_by_state: dict[State, Affine], embed: Affine | None
) -> None:
    first, change = next(iter(changes_by_state.items()))
    if not change.then(change).equals(change):
        raise EditError(
            f"{first.sites[0]}: a layer's edit acts again on what earlier layers wrote, so only an edit that does nothing "
            "when repeated (ProjectOut) is one of weights; nearest: the same operation at what is written, "
            "site=['embed', 'attn_out', 'mlp_out']"
        )
    other = next((state for state, state_change in changes_by_state.items() if not state_change.equals(change)), None)
    if other is not None:
        raise EditError(
            f"{other.sites[0]} and {first.sites[0]} are edited in different ways, and the stream keeps what was written "
            "under both; nearest: one operation at all, site=['resid_pre', 'resid_mid', 'resid_post']"
        )
    if states[0] not in changes_by_state and embed is not None and embed.equals(change):
        share = wiring.shares(Site("resid_pre", 0), [Site("embed")])
        if share is not None and (not change.shifts or abs(share[0] - 1.0) < 1e-6):
            changes_by_state = {**changes_by_state, states[0]: change}
    missing = [str(state.sites[0]) for state in states if state not in changes_by_state]
    if missing:
        raise EditError(_single(wiring.model, first, missing))
    _fold_start(folding, wiring, change)
    linear = Affine(change.factor, change.reads, change.writes, 0.0 * change.constant)
    layers = range(wiring.model.sites.n_layers)
    wiring.look([Site(name, layer) for layer in layers for name in ("resid_pre", "resid_post")])
    look_ahead(wiring, [Site(name, layer) for layer in layers for name in ("attn_out", "mlp_out")])
    for layer in layers:
        parts = [Site(name, layer) for name in ("resid_pre", "attn_out", "mlp_out")]
        if wiring.sum_error(Site("resid_post", layer), parts) > ARCHITECTURE.of(wiring.model.dtype):
            raise SiteError(f"resid_post.{layer} is not the sum of resid_pre, attn_out and mlp_out in this model")
        for site in parts[1:]:
            for spot in spots_of(wiring, site):
                folding.fold(spot, linear, str(site))


def _single(model: OpenModel, first: State, missing: list[str]) -> str:
    writable = [row["site"] for row in model.sites.rows() if row["site"] in STREAM and row["write"]]
    near = f", or the edit at {str(first.writer)!r}, what is written last before it" if first.writer else ""
    return (
        f"an edit at {first.sites[0]} but not at {', '.join(missing[:4])}{', ...' if len(missing) > 4 else ''} is no change of "
        f"weights: what earlier layers wrote is read unedited elsewhere; nearest: the same operation at site={writable}{near}"
    )


def _fold_start(folding: Folding, wiring: Wiring, change: Affine) -> None:
    """Put a map of the first state into the tables whose sum it is."""
    for number, spot in enumerate(_tables(wiring)):
        only_linear = Affine(change.factor, change.reads, change.writes, 0.0 * change.constant)
        folding.fold(spot, change if number == 0 else only_linear, "resid_pre.0")


def _tables(wiring: Wiring) -> list[FoldTarget]:
    """Find the tables that the first state is the sum of, that of the tokens first.

    Raises:
        SiteError: It is no sum of tables.
    """
    model = wiring.model
    token_table = model.module.get_input_embeddings()  # type: ignore[operator]
    paths = [path for path, module in model.sites.modules.items() if isinstance(module, nn.Embedding)]
    paths.sort(key=lambda path: model.sites.modules[path] is not token_table)
    inner = tuple(f"{layer}." for layer in model.sites.layers)
    outer_paths = [path for path in paths if not path.startswith(inner)]
    shares = wiring.shares(Site("resid_pre", 0), [port(path, "out") for path in outer_paths])
    if shares is None:
        raise SiteError(
            f"resid_pre.0 is not the sum of {outer_paths}: a norm or another function stands between the tables and the "
            "residual stream"
        )
    (first,) = spots_of(wiring, port(outer_paths[0], "out"))
    return [
        FoldTarget(first.module, "out", None, first.factor * shares[0]),
        *(FoldTarget(path, "out") for path in outer_paths[1:]),
    ]


def _fold_constant(folding: Folding, wiring: Wiring, state: State, change: Affine) -> None:
    """Put a constant that is added to a state into the bias of what was written last before it."""
    assert state.writer is not None
    (spot,) = spots_of(wiring, state.writer)
    folding.fold(spot, change, str(state.sites[0]))

"""One hooked forward pass: the primitive under run, record, the sweep's slow path and every check.

Called by everything that runs the model whole; only the walk of a sweep through the layers (``wavefront.py``) and the module's
own ``generate`` go other ways, on the same hooks.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from patchclamp.core.errors import InputError, ModelError, NotFiredError, PatchclampError, PositionError, SiteError
from patchclamp.core.interrupts import Changes, within
from patchclamp.interventions.actions import Action, Tally, instructions
from patchclamp.interventions.finite import Watch
from patchclamp.interventions.float32_logits import WideLogits
from patchclamp.interventions.hooks import Instruction, Port, Session, Tap, bypassed, ports_of
from patchclamp.models.inputs import Batch, Prompt
from patchclamp.models.opened import OpenModel
from patchclamp.models.sitemap import columns_of
from patchclamp.models.sites import Site

UNKNOWN_WIDTH = 2**31
"""Positions of an input without tokens: whether one exists is seen when its activation is."""


@dataclass(frozen=True, eq=False)
class Row:
    """One batch row: a prompt and what is done to it."""

    prompt: Prompt
    actions: tuple[Action, ...] = ()


@dataclass(frozen=True, eq=False)
class Forwarded:
    """What one pass gave."""

    logits: Tensor | None
    """``[row, position, vocabulary]``, or the module's own output where it has no positions; None if not asked for."""
    tally: Tally
    output: Any


Sink = Callable[[Tensor], None]


def forward(
    model: OpenModel,
    rows: Sequence[Row],
    *,
    taps: Mapping[Site, Sink] | None = None,
    logits: bool = True,
    keep: Tensor | None = None,
    grad: bool = False,
    extra: Mapping[str, Any] | None = None,
    check: bool = True,
) -> Forwarded:
    """Run several rows at once through the model's own forward, with edits and taps in place.

    Args:
        model: The model.
        rows: What to run; prompts of different lengths are padded.
        taps: Sites to show, and who gets each ``[row, position, d]``.
        logits: Whether the output is wanted; without it the pass ends at the last hooked module.
        keep: ``[row, position]``: the only positions whose logits are wanted, which spares the rest of the head. Only for
            models whose head was seen to work position by position, and without taps or edits in it.
        grad: Keep the autograd graph.
        extra: More keyword arguments for the module.
        check: Refuse NaN and infinity in what is shown and returned.

    Raises:
        NotFiredError: An edit never met its site.
        SiteError: A site ran more than once in the pass, so that it does not name one tensor.
        ModelError: The model gives NaN or infinity; says where first.
        EditError: It does so under the edits.
    """
    if keep is not None and logits:
        return _narrowed(model, rows, taps or {}, keep, grad, extra, check)
    batch = model.batch([row.prompt for row in rows])
    watch = Watch([len(row.prompt.ids) for row in rows])
    if check:
        taps = {site: watch.sink(site, sink) for site, sink in (taps or {}).items()}
    tally = Tally.empty()
    actions = [row.actions for row in rows]
    todo = instructions(
        model.sites,
        actions,
        [0] * len(rows),
        batch.width or UNKNOWN_WIDTH,
        model.device,
        tally,
        whole=batch.width is not None,
    )
    tapped = ports_of(make_tap(model, site, _of_tokens(site, batch, sink)) for site, sink in (taps or {}).items())
    early = not logits and _each_runs_once(model, (*todo, *tapped))
    session = Session(model.sites.modules, len(rows), batch.width or 1, todo, tapped, stop_early=early)
    output = within((gradients(grad), session), call, model, batch, extra)
    _check_fired(session, rows, tally)
    if not early and model.sites.layers:
        model.capabilities.once.update(session.calls)
    scores = logits_of(output) if logits else None
    if scores is not None:
        model.capabilities.width_of_logits = scores.shape[-1]
        watch.look(scores)
    if check:
        _refuse_wrong(model, rows, watch)
    return Forwarded(scores, tally, output)


def _of_tokens(site: Site, batch: Batch, sink: Sink) -> Sink:
    """A sink that refuses vectors which are not the batch's tokens; of named sites it is known that they are."""
    width, rows = batch.width, batch.rows
    if width is None or not site.is_raw:
        return sink

    def checked(value: Tensor) -> None:
        if value.ndim == 3 and (value.shape[1] not in (1, width) or (len(value) != rows and width > 1)):
            raise PositionError(
                f"{site} has shape {tuple(value.shape)} in a call of {rows} rows of {width} tokens, so its vectors are not these "
                "tokens and cannot be read by their positions; read it with a hook of your own"
            )
        sink(value)

    return checked


@contextmanager
def gradients(enabled: bool) -> Iterator[None]:
    """Inside the block the autograd graph is kept, or not, whatever the caller's own mode.

    Raises:
        InputError: Gradients are wanted where torch tracks none.
    """
    if enabled and torch.is_inference_mode_enabled():
        raise InputError(
            "grad=True inside torch.inference_mode(), where torch keeps no graph; leave it, or use torch.no_grad()"
        )
    with torch.set_grad_enabled(enabled):
        yield


def last_logits(model: OpenModel, rows: Sequence[Row], *, grad: bool = False) -> Tensor:
    """Logits after each row's last token, ``[row, vocabulary]``; only they pass the head where that gives the same."""
    capabilities = model.capabilities
    if len(rows) > 1 and not (
        capabilities.pads or (capabilities.together and len({row.prompt.form for row in rows}) == 1)
    ):
        return torch.cat([last_logits(model, [row], grad=grad) for row in rows])
    ends = torch.tensor([[len(row.prompt.ids) - 1] for row in rows], device=model.device)
    narrow = capabilities.narrows and not edits_head(row.actions for row in rows)
    logits = forward(model, rows, keep=ends if narrow else None, grad=grad).logits
    assert logits is not None
    if narrow or logits.ndim == 2:
        return logits[:, 0] if narrow else logits
    return logits[torch.arange(len(rows), device=logits.device), ends[:, 0]]


def outputs_at(logits: Tensor, row: int, where: Sequence[int], length: int | None) -> Tensor:
    """What a row's reads see, ``[position, output]``.

    Args:
        logits: ``[row, position, output]``, or ``[row, output]`` of a model that gives one output a prompt.
        row: Which one.
        where: Positions to read.
        length: Tokens of the prompt, if it is made of tokens.

    Raises:
        PositionError: The model gives one output a prompt, and something else than that is read.
    """
    if logits.ndim > 2:
        return logits[row, list(where)]
    valid = (-1, 0) if length is None else (length - 1,)
    if wrong := [position for position in where if position not in valid]:
        raise PositionError(
            f"the model gives one output for a whole prompt, so a read of its logits is at='last'; got position {wrong[0]}"
        )
    return logits[row].expand(len(where), -1)


def edits_head(rows: Iterable[Iterable[Action]]) -> bool:
    """Whether some action lies after the last layer, where a narrowed pass would miss it."""
    return any(action.site.component in ("final_norm", "logits") for row in rows for action in row)


def call(model: OpenModel, batch: Batch, extra: Mapping[str, Any] | None = None) -> Any:
    """Call the user's module on a batch, without a key-value cache where it would make one."""
    kwargs: dict[str, Any] = {**batch.kwargs, **(extra or {})}
    # a cache, or none, decides how transformers reads positions that start again, so there the model's own default stays
    if "use_cache" in model.parameters_of_forward and "use_cache" not in kwargs and "position_ids" not in kwargs:
        kwargs["use_cache"] = False
    try:
        return model.module(*batch.args, **kwargs)
    except (IndexError, RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        if isinstance(error, PatchclampError | torch.OutOfMemoryError):
            raise
        kind, beside = type(model.module).__name__, ", ".join(name for name in batch.kwargs if name != "input_ids")
        if batch.width is not None and beside:
            what = "has no entry for a value of" if isinstance(error, IndexError) else "cannot read the prompt with its"
            raise InputError(f"{kind} {what} {beside}: {error}") from error
        if batch.width is not None and not model.sites.layers:
            raise InputError(
                f"{kind} cannot be run on token ids alone: {type(error).__name__}: {error}. Call it yourself, with all that it "
                "takes, inside model.editing(edits)"
            ) from error
        raise


def logits_of(output: Any) -> Tensor:
    """The logits of a model's output, or the output itself if it is a tensor.

    Raises:
        ModelError: The model gives neither.
    """
    if isinstance(output, Tensor):
        return output
    logits = getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    if isinstance(output, tuple) and output and isinstance(output[0], Tensor):
        return output[0]
    fields = f" (it has {', '.join(map(str, output))})" if isinstance(output, Mapping) else ""
    raise ModelError(
        f"the model returns {type(output).__name__} without logits{fields}; load it with a head that gives them, as "
        "AutoModelForCausalLM does, or record the sites you mean"
    )


def make_tap(model: OpenModel, site: Site, sink: Sink) -> Tap:
    """A tap on a site."""
    access = model.sites.access(site)
    if access.attention:
        columns = None if site.unit is None else slice(site.unit.index, site.unit.index + 1)
        return Tap(access, columns, sink)
    return Tap(access, columns_of(access, site.unit, model.sites.width(site.whole) or 0), sink)


def _narrowed(
    model: OpenModel,
    rows: Sequence[Row],
    taps: Mapping[Site, Sink],
    keep: Tensor,
    grad: bool,
    extra: Mapping[str, Any] | None,
    check: bool,
) -> Forwarded:
    """A pass that ends after the last layer, and the head on the wanted positions only."""
    last = Site("resid_post", model.sites.n_layers - 1)
    states: list[Tensor] = []
    user_sink = taps.get(last)

    def sink(value: Tensor) -> None:
        states.append(value)
        if user_sink is not None:
            user_sink(value)

    body = forward(model, rows, taps={**taps, last: sink}, logits=False, grad=grad, extra=extra, check=check)
    states_read = states[0][torch.arange(len(rows), device=keep.device).unsqueeze(1), keep]
    logits = within((gradients(grad),), through_head, model, states_read.flatten(0, 1).unsqueeze(1))
    logits = logits.reshape(len(rows), keep.shape[1], -1)
    if check:
        watch = Watch([keep.shape[1]] * len(rows))
        watch.look(logits)
        _refuse_wrong(model, rows, watch)
    return Forwarded(logits, body.tally, None)


def _refuse_wrong(model: OpenModel, rows: Sequence[Row], watch: Watch) -> None:
    if wrong := watch.wrong_rows():
        from patchclamp.interventions.overflow import refuse  # it runs passes of its own

        refuse(model, rows[wrong[0]])


def _each_runs_once(model: OpenModel, ports: Iterable[Port]) -> bool:
    """Whether a pass may end when every port was seen: none of them can run again after that.

    Named sites were counted when the model was opened, and raw module paths of such a model in an earlier whole pass. Of a
    plain module nothing is known.
    """
    known_ports = {access.port for key, access in model.sites.accesses.items() if key not in model.sites.refused}
    return bool(model.sites.layers) and all(port in known_ports or port in model.capabilities.once for port in ports)


def through_head(
    model: OpenModel, states: Tensor, todo: dict[Port, list[Instruction]] | None = None, *, wide: bool = False
) -> Tensor:
    """The model's own code after its last layer, on states of single positions: ``[row, 1, d] -> [row, 1, vocabulary]``.

    Args:
        model: The model.
        states: What the last layer is to return.
        todo: Edits in the head.
        wide: Logits in float32 also where the weights are in half precision, and few rows at the cost of many.
    """
    layers = [model.sites.modules[path] for path in model.sites.layers]
    ids = torch.zeros(len(states), 1, dtype=torch.long, device=model.device)
    around: list[AbstractContextManager[Any]] = [
        bypassed(layers, model.capabilities.arity, inject=states),
        Session(model.sites.modules, len(states), 1, todo or {}),
    ]
    batch = Batch((), {"input_ids": ids}, (1,) * len(states))
    if not wide:
        return logits_of(within(around, call, model, batch))
    # torch takes a mode off its stack for a moment at each function, in Python: an interrupt there would lose it
    with Changes(*around, WideLogits(model.module.get_output_embeddings().weight)):  # type: ignore[operator]
        output = call(model, batch)
    return logits_of(output)


def check_passes(session: Session) -> None:
    """Refuse a site that ran several times in one forward pass.

    Raises:
        SiteError: It does not name one tensor.
    """
    for port, count in session.calls.items():
        if count > 1:
            raise SiteError(
                f"{port[0]}:{port[1]} ran {count} times in one forward pass, so it does not name one tensor; choose a module that "
                "runs once, or give each pass a module of its own (they may share their weights)"
            )


def _check_fired(session: Session, rows: Sequence[Row], tally: Tally) -> None:
    check_passes(session)
    for port in (*session.instructions, *session.taps):
        if not session.calls[port]:
            what = "edited" if port in session.instructions else "read"
            raise NotFiredError(
                f"the site at {port[0]}:{port[1]} was to be {what}, but the forward pass never went there; nothing was returned"
            )
    expected = {action.edit for row in rows for action in row.actions if action.positions != ()}
    silent = sorted(edit for edit in expected if not tally.reached[edit])
    if silent:
        raise NotFiredError(f"edit number {silent[0]} of {len(expected)} did not fire on any row; nothing was returned")

"""The only file that touches the user's modules: it registers hooks, and takes every one of them away again.

Sessions are made by ``passes.py``, ``wavefront.py``, ``stepping.py`` and ``verification.py``, each for one call or one walk.
"""

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from patchclamp.core.errors import EditError, PositionError, SiteError
from patchclamp.interventions.gates import Gate
from patchclamp.interventions.operations import Operation
from patchclamp.models.sitemap import Access
from patchclamp.models.tensors import Keys, fetch, first_tensor, from_rows, input_keys, replace_at, to_rows

Port = tuple[str, str, Keys]


class Stop(BaseException):
    """Ends a forward pass once everything that was asked for has been seen."""


@dataclass(eq=False)
class Instruction:
    """One operation at some rows and columns of one module call."""

    access: Access
    columns: slice | Tensor | None
    """Part of the last dimension, for units and fused projections."""
    operation: Operation
    gate: Callable[[Tensor], Tensor] | None
    rows: Tensor | None
    """``[row]``, or None for every row."""
    positions: Tensor | None
    """``[row, position]`` columns of the call, or None for every column."""
    tally: Callable[[Tensor], None] | None
    """Told how many vectors were changed; None where nobody asks."""
    furthest: int = -1
    """The largest column, to be checked where the width of the call was not known before."""
    counted: Tensor | None = None
    """``[row, position]`` True where the vector is counted; None if all are."""
    call: tuple[int, int] | None = None
    """Rows and token positions of a call of the whole model; None where an activation cannot have others."""
    everywhere: bool = False
    """Whether it changes every vector of the call's activation, whatever they stand for."""

    def apply(self, x: Tensor) -> Tensor:
        """The activation ``[batch, position, d]`` with this instruction carried out; ``x`` is left as it is."""
        if self.call is not None and x.shape[:2] != self.call and (self.everywhere or x.shape[:2] != (self.call[0], 1)):
            return self._edit_other(x)
        if self.furthest >= x.shape[1]:
            hint = "; it has one vector for a whole prompt, which is edited at=0" if x.shape[1] == 1 else ""
            raise PositionError(
                f"position {self.furthest} is outside the activation at {self.access.module!r}, which has {x.shape[1]} "
                f"positions{hint}"
            )
        where = None
        if self.rows is not None and self.positions is not None:
            where = (self.rows.unsqueeze(1), self.positions)
        elif self.rows is not None:
            where = (self.rows,)  # type: ignore[assignment]
        elif self.positions is not None:
            where = (slice(None), self.positions[0])  # type: ignore[assignment]
        vectors = x if where is None else x[where]
        new = self._edit(vectors)
        if where is None:
            return new
        out = x.clone()
        out[where] = new
        return out

    def _edit_other(self, x: Tensor) -> Tensor:
        """An activation whose vectors are not the call's tokens: patches of a picture, another text, a state."""
        if self.everywhere:
            return replace(self, counted=None)._edit(x)
        raise PositionError(
            f"the activation at {self.access.module!r} has shape {tuple(x.shape)} in a call of {self.call[0]} rows of "  # type: ignore[index]
            f"{self.call[1]} tokens, so its vectors are not these tokens; it can be edited at='all', with one value for all"  # type: ignore[index]
        )

    def _edit(self, vectors: Tensor) -> Tensor:
        check_columns(self.access, self.columns, vectors.shape[-1])
        part = vectors if self.columns is None else vectors[..., self.columns]
        factor = self.access.factor
        value = part if factor == 1.0 else part * factor
        self._check_width(value.shape[-1])
        new = self.operation(value)
        if new.shape != value.shape:
            raise EditError(
                f"{type(self.operation).__name__} turned shape {tuple(value.shape)} into {tuple(new.shape)}"
            )
        if self.gate is not None:
            verdict = self.gate(value if isinstance(self.gate, Gate) else value.clone())
            if verdict.shape != value.shape[:-1] or verdict.dtype != torch.bool:
                raise EditError(
                    f"a gate must give one bool a vector, {tuple(value.shape[:-1])}; got {verdict.dtype} {tuple(verdict.shape)}"
                )
            new = torch.where(verdict.unsqueeze(-1), new, value)
        if self.tally is not None:
            differs = (new.detach() != value.detach()).any(-1)
            self.tally((differs if self.counted is None else differs & self.counted).sum())
        new = (new if factor == 1.0 else new / factor).to(vectors.dtype)
        if self.columns is None:
            return new
        out = vectors.clone()
        out[..., self.columns] = new
        return out

    def _check_width(self, width: int) -> None:
        for name, vector in self.operation.vectors():
            if vector.shape[-1] != width:
                raise EditError(
                    f"{name} has width {vector.shape[-1]}, but the activation at {self.access.module!r} has width {width}"
                )


@dataclass(eq=False)
class Tap:
    """Something that wants to see one tensor: it gets ``[batch, position, d]``, after every edit."""

    access: Access
    columns: slice | Tensor | None
    sink: Callable[[Tensor], None]

    def take(self, raw: Tensor, rows: int, width: int) -> None:
        """Pass the site's values on."""
        if self.access.attention:
            whole = raw.transpose(1, 2)  # [batch, query, head, key]
            if self.columns is not None:
                assert isinstance(self.columns, slice)
                whole = whole[:, :, self.columns.start : self.columns.start + 1]
            self.sink(whole)
            return
        view = to_rows(raw, rows, width)
        check_columns(self.access, self.columns, view.shape[-1])
        part = view if self.columns is None else view[..., self.columns]
        self.sink(part if self.access.factor == 1.0 else part * self.access.factor)


class Placed(ExitStack):
    """Changes of modules that are taken back when the block ends, also where it could not begin.

    What takes a change back is noted in the line that makes it, or before it; it is run by the standard library.
    """

    @abstractmethod
    def begin(self) -> None:
        """Make the changes."""

    @override
    def __enter__(self) -> Any:
        try:
            self.begin()
            return self
        except BaseException:
            self.close()
            raise


@dataclass(eq=False)
class Session(Placed):
    """Hooks on a set of ports, with what to do at each. Use as a context manager: leaving it removes every hook."""

    modules: Mapping[str, nn.Module]
    rows: int
    width: int
    """Positions of the call."""
    instructions: dict[Port, list[Instruction]] = field(default_factory=dict)
    taps: dict[Port, list[Tap]] = field(default_factory=dict)
    stop_early: bool = False
    """Raise :class:`Stop` once every port has been seen."""
    calls: Counter[Port] = field(default_factory=Counter)
    _watched: list[Port] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    @override
    def begin(self) -> None:
        self.enter_context(suppress(Stop))
        for port in dict.fromkeys((*self.instructions, *self.taps)):
            self.watch(port)

    @property
    def ports(self) -> set[Port]:
        """What is hooked."""
        return set(self._watched)

    def watch(self, port: Port) -> None:
        """Hook one port."""
        self._watched.append(port)
        module, side, _ = port
        target = self.modules[module]

        def before(_: nn.Module, args: Any, kwargs: Any) -> Any:
            return self._before(port, args, kwargs)

        def after(_: nn.Module, __: Any, output: Any) -> Any:
            return self._after(port, output)

        if side == "in":
            self.callback(target.register_forward_pre_hook(before, with_kwargs=True).remove)
        else:
            self.callback(target.register_forward_hook(after).remove)

    def _before(self, port: Port, args: Any, kwargs: Any) -> Any:
        keys = self._input(port, args, kwargs)
        new = self._visit(port, fetch((args, kwargs), keys))
        return None if new is None else replace_at((args, kwargs), keys, new)

    def _input(self, port: Port, args: Any, kwargs: Any) -> Keys:
        path = port[2]
        if not path:
            keys = input_keys(args, kwargs)
            if keys is None:
                raise SiteError(f"{port[0]}:in: the module is called without any tensor")
            return keys
        first = path[0]
        return (0 if isinstance(first, int) else 1, first, *path[1:])

    def _after(self, port: Port, output: Any) -> Any:
        keys = port[2] or first_tensor(output)
        if keys is None:
            raise SiteError(f"{port[0]}:out: the module returns no tensor, but {type(output).__name__}")
        new = self._visit(port, fetch(output, keys))
        return None if new is None else replace_at(output, keys, new)

    def _visit(self, port: Port, raw: Any) -> Tensor | None:
        """Edit, then show, one tensor; the new tensor, or None if it stays."""
        self.calls[port] += 1
        new = None
        if not isinstance(raw, Tensor):
            raise SiteError(
                f"{port[0]}:{port[1]}{list(port[2]) or ''}: there is {type(raw).__name__} instead of a tensor"
            )
        todo = self.instructions.get(port, ())
        if in_place := [item for item in todo if item.access.in_place]:
            # a clone, so that what autograd saves of the old values is not what we overwrite
            raw.copy_(self._carry_out(in_place, raw.clone() if torch.is_grad_enabled() else raw))
        if plain := [item for item in todo if not item.access.in_place]:
            new = self._carry_out(plain, raw)
        for tap in self.taps.get(port, ()):
            tap.take(raw if new is None or tap.access.in_place else new, self.rows, self.width)
        if self.stop_early and all(self.calls[p] for p in (*self.instructions, *self.taps)):
            raise Stop
        return new

    def _carry_out(self, todo: Sequence[Instruction], raw: Tensor) -> Tensor:
        view = to_rows(raw, self.rows, self.width)
        for instruction in todo:
            view = instruction.apply(view)
        return from_rows(view, raw)


@dataclass(eq=False)
class Tolerant(Session):
    """A session that notes where there is no tensor instead of ending the pass."""

    missing: dict[Port, str] = field(default_factory=dict)

    def _visit(self, port: Port, raw: Any) -> Tensor | None:
        if isinstance(raw, Tensor):
            return super()._visit(port, raw)
        self.missing[port] = f"the module gives {type(raw).__name__} there"
        return None

    def _after(self, port: Port, output: Any) -> Any:
        if not port[2] or hasattr(output, "__getitem__"):
            return super()._after(port, output)
        self.missing[port] = f"the module returns {type(output).__name__}"
        return None


class _Once(Placed):
    """Changes that a function makes."""

    def __init__(self, begin: Callable[[ExitStack], object]) -> None:
        super().__init__()
        self._begin = begin

    @override
    def begin(self) -> None:
        self._begin(self)


def bypassed(
    layers: Sequence[nn.Module],
    arity: int | None = None,
    inject: Tensor | None = None,
    calls: "list[tuple[tuple[Any, ...], dict[str, Any]]] | None" = None,
) -> AbstractContextManager[Any]:
    """Inside the block each layer returns its hidden states unchanged, so the model's own code around them still runs.

    Args:
        layers: The decoder layers.
        arity: Length of the tuple that a layer returns; None if it returns the tensor itself.
        inject: Hidden states to return instead.
        calls: A list that is filled with the arguments of each layer's call, in order.
    """

    def skip(*args: Any, **kwargs: Any) -> Any:
        if calls is not None:
            calls.append((args, kwargs))
        hidden = fetch((args, kwargs), input_keys(args, kwargs) or ()) if inject is None else inject
        return hidden if arity is None else (hidden, *(None,) * (arity - 1))

    def begin(stack: ExitStack) -> None:
        for layer in layers:
            _replace(stack, layer, "forward", skip)

    return _Once(begin)


def before_each_call(
    module: nn.Module, function: Callable[[tuple[Any, ...], dict[str, Any]], None]
) -> AbstractContextManager[Any]:
    """Inside the block ``function(args, kwargs)`` runs before every call of the module."""

    def tell(_: nn.Module, args: Any, kwargs: Any) -> None:
        function(args, kwargs)

    return _Once(lambda stack: stack.callback(module.register_forward_pre_hook(tell, with_kwargs=True).remove))


def after_each_call(module: nn.Module, function: Callable[[Any], None]) -> AbstractContextManager[Any]:
    """Inside the block ``function(output)`` runs after every call of the module."""

    def tell(_: nn.Module, __: Any, output: Any) -> None:
        function(output)

    return _Once(lambda stack: stack.callback(module.register_forward_hook(tell).remove))


def shadowed(module: nn.Module, name: str, make: Callable[[Any], Any]) -> AbstractContextManager[Any]:
    """Inside the block the attribute ``name`` of this one module is ``make(its value)``; class and weights stay."""
    return _Once(lambda stack: _replace(stack, module, name, make(getattr(module, name))))


def _replace(stack: ExitStack, module: nn.Module, name: str, value: Any) -> None:
    """Give one module an attribute of its own until the stack is left."""
    attributes = module.__dict__
    restore = (
        partial(attributes.__setitem__, name, attributes[name])
        if name in attributes
        else partial(attributes.pop, name, None)
    )
    stack.callback(restore)
    attributes[name] = value


def check_columns(access: Access, columns: slice | Tensor | None, width: int) -> None:
    """Refuse a neuron that the tensor lacks, where its width was not known before the run.

    Raises:
        SiteError: With the width.
    """
    if isinstance(columns, slice) and columns.stop > width:
        raise SiteError(
            f"{access.module}:{access.side} has width {width}, so neuron {columns.start} is outside 0..{width - 1}"
        )


def ports_of(taps: Iterable[Tap]) -> dict[Port, list[Tap]]:
    """Group taps by what has to be hooked."""
    grouped: dict[Port, list[Tap]] = {}
    for tap in taps:
        grouped.setdefault(tap.access.port, []).append(tap)
    return grouped

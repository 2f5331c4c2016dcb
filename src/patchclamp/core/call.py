"""The record of a public call: which function, with which arguments. It repeats a result and says what decided its numbers.

:func:`recorded` decorates a function that returns a result. While the function runs, :func:`current_call` is its call, from
which the result's provenance is written. :func:`recall` reads that back and gives the call, to be made again. Which functions
there are is handed in as a table of names, since this module knows none of them.
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from patchclamp.core.arguments import checked, present_name
from patchclamp.core.errors import InputError, PatchclampError, check_choice, unknown
from patchclamp.core.plain import UnsavableError, from_plain, savable_as, to_plain

Function = TypeVar("Function", bound=Callable[..., Any])
INCIDENTAL = frozenset({"progress", "checkpoint", "budget", "max_tokens", "batch_tokens", "chunk"})
"""Parameters that decide how the work is done, not what comes out: they are not in the record."""


@dataclass(frozen=True, eq=False)
class BoundCall:
    """A function's name, and its arguments by the names of its signature, defaults included."""

    name: str
    parameters: Mapping[str, Any]

    def as_record(self, tensors: dict[str, Tensor], instead: Mapping[str, Any]) -> dict[str, Any]:
        """The call as plain JSON.

        What cannot be written down (a function, a live module) is named, and ``not_repeatable`` says why.

        Args:
            tensors: Takes the tensors among the arguments, to which the record refers by name.
            instead: Arguments as the function read them, where that is easier to read or to make again than what was passed.
        """
        if strange := instead.keys() - self.parameters.keys():
            raise AssertionError(f"{self.name} has no parameter {min(strange)}")
        record: dict[str, Any] = {"call": self.name, "parameters": {}}
        for name, value in {**self.parameters, **instead}.items():
            if name in INCIDENTAL:
                continue
            trial = dict(tensors)
            try:
                record["parameters"][name] = to_plain(_marked(list(value) if type(value) is tuple else value), trial)
                tensors |= trial
            except PatchclampError as error:
                record["parameters"][name] = error.description if isinstance(error, UnsavableError) else str(value)
                record["not_repeatable"] = str(error) if isinstance(error, UnsavableError) else f"{name}: {error}"
        return record


_CURRENT: ContextVar[BoundCall | None] = ContextVar("call", default=None)


def current_call() -> BoundCall:
    """The innermost recorded call that is running."""
    call = _CURRENT.get()
    assert call is not None, "only what a recorded function does has a call"
    return call


@contextmanager
def running(call: BoundCall) -> Iterator[None]:
    """Let a call be the current one."""
    token = _CURRENT.set(call)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def recorded(function: Function) -> Function:
    """Read the arguments of a function whose first parameter is the model, and keep them as :func:`current_call`."""
    signature: inspect.Signature | None = None

    @functools.wraps(function)
    def recording(*args: Any, **kwargs: Any) -> Any:
        nonlocal signature
        signature = signature or inspect.signature(function)
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        _, *names = signature.parameters
        parameters: dict[str, Any] = {}
        for name in names:
            several = signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD
            parameters |= bound.arguments[name] if several else {name: bound.arguments[name]}
        with running(BoundCall(function.__name__, parameters)):
            return function(*args, **kwargs)

    door: Any = checked(recording)
    door.__recorded__ = True
    return door  # type: ignore[no-any-return]


def is_recorded(function: Any) -> bool:
    """Whether results of a function say which call made them."""
    return bool(getattr(function, "__recorded__", False))


def recall(
    record: Mapping[str, Any], tensors: Mapping[str, Tensor], table: Mapping[str, Callable[..., Any]], model: Any
) -> Callable[[], Any]:
    """A recorded call, to be made again.

    Args:
        record: What :meth:`BoundCall.as_record` wrote.
        tensors: Those that it refers to.
        table: The functions that may be called, by name.
        model: The open model.

    Raises:
        InputError: The record names another function or parameter.
    """
    name = record["call"]
    check_choice("recorded call", name, table)
    model_parameter, *accepted = inspect.signature(table[name]).parameters.values()
    valid = {parameter.name for parameter in accepted} - INCIDENTAL
    parameters = {present_name(parameter, valid): value for parameter, value in record["parameters"].items()}
    open_ended = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in accepted)
    for parameter in parameters:
        if parameter in (*INCIDENTAL, model_parameter.name) or not (parameter in valid or open_ended):
            raise InputError(unknown(f"recorded parameter of {name}", parameter, valid))
    arguments = {n: as_lists(from_plain(value, tensors, model)) for n, value in parameters.items()}
    return functools.partial(table[name], model, **arguments)


@dataclass(frozen=True)
class _Tuple:
    """A tuple inside an argument, which may mean something else than a list there, as a span of positions on an axis."""

    items: list[Any]


savable_as(
    "$tuple",
    _Tuple,
    lambda value, tensors: [to_plain(item, tensors) for item in value.items],
    lambda plain, tensors, model: _Tuple([from_plain(item, tensors, model) for item in plain]),
)


def _marked(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()  # the user may write into it later
    if type(value) is tuple:
        return _Tuple([_marked(item) for item in value])
    if type(value) is list:
        return [_marked(item) for item in value]
    return {name: _marked(item) for name, item in value.items()} if type(value) is dict else value


def as_lists(value: Any) -> Any:
    """Saved sequences as lists, the form in which people pass them; tuples where they were marked as such."""
    if isinstance(value, _Tuple):
        return tuple(as_lists(item) for item in value.items)
    if isinstance(value, tuple):
        return [as_lists(item) for item in value]
    if type(value) is dict:
        return {name: as_lists(item) for name, item in value.items()}
    return value

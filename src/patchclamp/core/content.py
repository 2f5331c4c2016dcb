"""What a thing does, as a digest of its content: its tensors, its settings and its code, the same in every process.

``id()`` tells apart objects that are alive; a file outlives them. So what decides the numbers in a file is known by its
content: a module by its class, parameters, buffers and attributes, any other object as ``pickle`` would store it, a class of
the user's by the code of its methods and by what that code refers to. What a library defines is known by its name and version.
"""

import copyreg
import dataclasses
import functools
import hashlib
import logging
import sys
import types
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from patchclamp.core.arguments import checked
from patchclamp.core.code import is_library, referenced_values, replacements
from patchclamp.core.digest import tensor_bytes
from patchclamp.core.errors import InputError

_LEAVES = (type(None), bool, int, float, complex, str, bytes, type(...), torch.dtype, torch.device)
_BUILTINS = (
    types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType, types.MethodWrapperType,
    types.ClassMethodDescriptorType, np.ufunc,
)  # fmt: skip
_OF_EVERY_MODULE = frozenset(vars(nn.Module())) | {"_compiled_call_impl"}
_DECIDES_NOTHING = frozenset({
    "generation_config", "warnings_issued", "max_seq_len_cached", "name_or_path", "_name_or_path", "_is_hf_initialized",
    "_commit_hash", "transformers_version", "architectures", "torch_dtype", "dtype", "problem_type",
})  # fmt: skip
"""Attributes of transformers' modules and configs: names, notes, settings of generation, and what grows while a model runs."""
_OF_EVERY_CLASS = frozenset({
    "__module__", "__qualname__", "__doc__", "__dict__", "__weakref__", "__annotations__", "__annotate__", "__slots__",
    "__firstlineno__", "__static_attributes__", "__abstractmethods__", "_abc_impl", "__parameters__", "__orig_bases__",
    "__dataclass_params__", "__dataclass_fields__", "__match_args__", "__annotations_cache__", "__annotate_func__",
    "_is_protocol", "__protocol_attrs__", "__non_callable_proto_members__", "_is_runtime_protocol",
})  # fmt: skip


@dataclass(frozen=True, eq=False)
class Known:
    """A function that its author vouches for by name; see :func:`known_as`."""

    function: Callable[..., Any]
    name: str

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return self.function(*args, **kwargs)

    @property
    def __name__(self) -> str:
        """The name by which a result calls the function."""
        return str(getattr(self.function, "__name__", "value"))

    def known_by(self) -> Any:
        """The name alone, which stands for the function's content."""
        return ("known as", self.name)


@checked
def known_as(function: Callable[..., Any], name: str) -> Known:
    """A function with a name that says what it does, so that numbers made with it can be kept with ``checkpoint=``.

    What a function does cannot be told from outside. So you say it: change the name whenever the function changes, or what
    it reads. It can be used wherever a function can: in :func:`Call`, as ``read=``, as ``where=``.

    Args:
        function: Any function.
        name: A name of what it does, as ``"halved, version 2"``.

    Raises:
        InputError: The name is empty.
    """
    if not name.strip():
        raise InputError(f"pc.known_as needs a name that says what the function does, got {name!r}")
    return Known(function, name)


@dataclass(frozen=True, eq=False)
class Given:
    """A function that the user passed in place of something built in."""

    function: Callable[..., Any]
    place: str
    """How the user passed it, as an error names it."""
    instead: str
    """What the user can pass that does the same and has a content."""

    def known_by(self) -> Any:
        """The callable, if it is more than code.

        Raises:
            InputError: It is code alone, of which nobody can say what it depends on.
        """
        inner = next((code for code in _layers(self.function) if not is_library(code)), None)
        if inner is None:
            return self.function
        name = inner.__name__.strip("<>")
        suggestion = "pc.known_as(function, 'what it does, version 1')"
        if inner.__name__.isidentifier():
            suggestion = f"pc.known_as({name}, '{name}, version 1')"
        raise InputError(
            f"checkpoint= keeps numbers under what decides them, and what the function {name!r} ({self.place}) does cannot be "
            f"told; pass {self.instead}, or vouch for it: {suggestion}"
        )


def _layers(function: Any) -> Iterator[types.FunctionType | types.MethodType]:
    """A function and those that it wraps, as far as they are Python's."""
    while function is not None:
        if isinstance(function, types.FunctionType | types.MethodType):
            yield function
        inner = function.func if isinstance(function, functools.partial) else None
        function = (
            getattr(function, "__wrapped__", None) if inner is None and not isinstance(function, nn.Module) else inner
        )


def content(value: Any, what: str) -> str:
    """A 64-digit hex digest of what decides what ``value`` does.

    Args:
        value: Plain values, tensors, modules, operations, functions, or any object that ``pickle`` can store.
        what: How an error calls it.

    Raises:
        InputError: Part of it has no content, as an open file; the message says which.
    """
    return Contents(what).of(value)


class Contents:
    """Digests of many values that share parts; each part is looked at once, so none may change meanwhile."""

    def __init__(self, what: str) -> None:
        self._path = [what]
        self._digests: dict[int, tuple[Any, str]] = {}
        self._open: dict[int, int] = {}

    def of(self, value: Any, step: str = "") -> str:
        """The digest of one value; ``step`` is where it was found."""
        if type(value) in _LEAVES:
            return f"{type(value).__name__}:{value!r}"
        key = id(value)
        if key in self._digests:
            return self._digests[key][1]
        if key in self._open:
            return f"within:{len(self._open) - self._open[key]}"
        self._open[key] = len(self._open)
        self._path.append(step)
        try:
            state = hashlib.sha256(type(value).__name__.encode())
            for part in self._parts(value):
                data = part.encode() if isinstance(part, str) else part
                state.update(b"%d:" % len(data))
                state.update(data)
        except RecursionError:
            raise self._refusal(value) from None
        finally:
            del self._open[key]
            self._path.pop()
        self._digests[key] = (value, state.hexdigest())
        return state.hexdigest()

    def _refusal(self, value: Any) -> InputError:
        return InputError(
            f"{''.join(self._path)} holds {type(value).__name__!r} of {type(value).__module__}, which has no content that numbers "
            "could be kept under; work without checkpoint=, or leave it out"
        )

    def _parts(self, value: Any) -> Iterator[str | bytes | memoryview]:
        if hasattr(type(value), "known_by"):
            yield self.of(value.known_by())
        elif isinstance(value, Tensor):
            yield from self._tensor(value)
        elif isinstance(value, np.ndarray) and value.dtype != object:
            yield f"{value.dtype.str}{value.shape}"
            yield value.tobytes()
        elif isinstance(value, nn.Module):
            yield from self._module(value)
        elif isinstance(value, type):
            yield from self._class(value)
        elif isinstance(value, dict | list | tuple | set | frozenset | types.MappingProxyType):
            yield from self._container(value)
        elif isinstance(value, Enum):
            yield f"{type(value).__qualname__}.{value.name}"
        elif isinstance(value, logging.Logger):
            yield value.name
        elif isinstance(value, types.ModuleType):
            yield value.__name__
        elif isinstance(value, weakref.ReferenceType):
            yield self.of(value())
        else:
            code = list(self._code(value))
            yield from code or self._object(value)

    def _tensor(self, value: Tensor) -> Iterator[str | bytes | memoryview]:
        if value.is_meta:
            raise self._refusal(value)
        yield f"{value.dtype}{tuple(value.shape)}"
        yield tensor_bytes(value if value.layout == torch.strided else value.to_dense())

    def _container(self, value: Any) -> Iterator[str]:
        if type(value) not in (dict, list, tuple, set, frozenset, types.MappingProxyType):
            yield self.of((type(value), getattr(value, "__dict__", None), getattr(value, "default_factory", None)))
        if isinstance(value, Mapping):
            yield from (self.of(key) + self.of(item, f"[{key!r}]") for key, item in value.items())
        elif isinstance(value, set | frozenset):
            yield from sorted(self.of(item, "{...}") for item in value)
        else:
            yield from (self.of(item, f"[{place}]") for place, item in enumerate(value))

    def _module(self, value: nn.Module) -> Iterator[str]:
        """Class, mode, weights, buffers, submodules, hooks of the forward pass, and whatever else was set on it."""
        yield self.of(type(value))
        yield str(value.training)
        attributes = vars(value)
        for kind in ("_parameters", "_buffers", "_modules"):
            for name, item in attributes[kind].items():
                yield f"{kind}.{name}"
                yield self.of(item, f".{name}")
        for kind in ("_forward_pre_hooks", "_forward_hooks"):
            for number, hook in attributes[kind].items():
                yield f"{kind}:{number in attributes[kind + '_with_kwargs']}"
                yield self.of(hook, f".{kind}")
        hidden = _OF_EVERY_MODULE | _notes(type(value))
        yield from self._attributes({name: item for name, item in attributes.items() if name not in hidden})

    def _attributes(self, attributes: Mapping[str, Any]) -> Iterator[str]:
        for name in sorted(attributes):
            yield name
            yield self.of(attributes[name], f".{name}")

    def _class(self, value: type) -> Iterator[str]:
        """A class's name and version if a library defines it, with whatever others have put into it; else its code."""
        yield f"{value.__module__}.{value.__qualname__}"
        if is_library(value):
            yield str(getattr(sys.modules[value.__module__.partition(".")[0]], "__version__", ""))
            for name, patch in replacements(value):
                yield name
                yield self.of(patch, f".{name}")
            return
        yield from (self.of(base) for base in value.__bases__)
        for name, member in sorted(vars(value).items()):
            is_descriptor = isinstance(member, types.MemberDescriptorType | types.GetSetDescriptorType)
            if name not in _OF_EVERY_CLASS and not is_descriptor:
                yield name
                yield self.of(member, f".{name}")

    def _code(self, value: Any) -> Iterator[str]:
        """What runs: functions and what wraps them; nothing for anything else."""
        if isinstance(value, types.FunctionType):
            yield from self._function(value)
        elif isinstance(value, types.CodeType):
            yield value.co_code.hex()
            yield self.of((value.co_names, value.co_varnames, value.co_freevars, value.co_cellvars, value.co_consts))
        elif isinstance(value, types.MethodType):
            yield self.of((value.__func__, value.__self__))
        elif isinstance(value, functools.partial):
            yield self.of((value.func, value.args, value.keywords))
        elif isinstance(value, property):
            yield self.of((value.fget, value.fset))
        elif isinstance(value, staticmethod | classmethod):
            yield self.of(value.__func__)
        elif isinstance(value, functools.cached_property):
            yield self.of(value.func)
        elif isinstance(value, torch.jit.ScriptFunction):
            yield str(value.code)
        elif isinstance(value, _BUILTINS):
            yield f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', value.__name__)}"
            holder = getattr(value, "__self__", None)
            if holder is not None and not isinstance(holder, types.ModuleType | type):
                yield self.of(holder)
        elif hasattr(value, "__wrapped__") and not isinstance(value, type):
            yield self.of(value.__wrapped__)

    def _function(self, value: types.FunctionType) -> Iterator[str]:
        """A function's code and the values that it closes over; for a user's function also the values that it refers to."""
        inner = getattr(value, "__wrapped__", None)
        if isinstance(inner, types.FunctionType) and inner.__module__.startswith("patchclamp."):
            yield self.of(inner)  # nothing but a check of types is ever wrapped around our own
            return
        yield self.of(value.__code__)
        yield self.of((value.__defaults__, value.__kwdefaults__), ".__defaults__")
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            try:
                variable = cell.cell_contents
            except ValueError:  # a name that is bound later, as a class within its own methods
                continue
            yield self.of(variable, f": {name}")
        if is_library(value):
            yield f"{value.__globals__['__name__']}.{value.__qualname__}"
            return
        yield self.of(vars(value))
        for name, variable in referenced_values(value):
            yield name
            yield self.of(variable, f": {name}")

    def _object(self, value: Any) -> Iterator[str]:
        """The fields of a dataclass; any other object as pickle would store it."""
        kind = type(value)
        yield self.of(kind)
        hidden = {name for base in kind.__mro__ for name, item in vars(base).items() if _is_cached(item)} | _notes(kind)
        if dataclasses.is_dataclass(value):
            attributes = vars(value) | {
                f.name: getattr(value, f.name) for f in dataclasses.fields(value) if hasattr(value, f.name)
            }
            in_patchclamp = kind.__module__.startswith(
                "patchclamp."
            )  # what begins with an underscore is kept, and can be made again
            yield from self._attributes(
                {
                    name: item
                    for name, item in attributes.items()
                    if name not in hidden and not (in_patchclamp and name.startswith("_"))
                }
            )
            return
        try:
            store: Callable[[Any], Any] = copyreg.dispatch_table.get(kind, _reduce)
            reduction = store(value)
        except Exception:
            raise self._refusal(value) from None
        if isinstance(reduction, str):
            yield reduction
            return
        constructor, arguments, state, items, pairs = (*reduction, None, None, None)[:5]
        yield self.of((constructor, arguments))
        if isinstance(state, dict):
            yield from self._attributes({name: item for name, item in state.items() if name not in hidden})
        else:
            yield self.of(state)
        yield self.of((list(items or ()), list(pairs or ())))


def _reduce(value: Any) -> Any:
    return value.__reduce_ex__(4)


def _notes(kind: type) -> frozenset[str]:
    """Attributes that decide nothing, of a class of transformers or one derived from it."""
    from_transformers = any(base.__module__.startswith("transformers") for base in kind.__mro__)
    return _DECIDES_NOTHING if from_transformers else frozenset()


def _is_cached(member: Any) -> bool:
    return isinstance(member, functools.cached_property)

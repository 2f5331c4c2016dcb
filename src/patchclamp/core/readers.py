"""What an annotation says of a value: a reader that gives the value as it is meant, or says what is valid."""

import inspect
import math
import numbers
import os
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import numpy as np

from patchclamp.core.errors import unknown

LARGEST = 2**63
_SEQUENCES = (Sequence, Iterable, Collection, list, tuple)
_PLAIN = (str, bytes, bytearray, memoryview, Mapping, set, frozenset)


class UnfitError(Exception):
    """A value that is not what the annotation says."""

    def __init__(self, valid: str, detail: str = "", choices: Sequence[str] = ()) -> None:
        super().__init__(detail or valid)
        self.valid, self.detail, self.choices = valid, detail, choices

    @property
    def reason(self) -> str:
        """The detail, if any, as an addition to a sentence."""
        return f"; {self.detail}" if self.detail else ""

    def message(self, label: str, name: str, value: Any) -> str:
        """The error message for the user."""
        if self.choices:
            return unknown(name, value, self.choices)
        if self.detail:
            return f"{label}: {name}={shown(value)}: {self.detail}"
        return f"{label}: {name}={shown(value)} cannot be used; valid: {self.valid}"


@dataclass(frozen=True)
class Reader:
    """Reads one kind of value."""

    valid: str
    """The kind in words."""
    read: Callable[[Any], Any]
    """The value as it is meant; raises :class:`UnfitError`, or an error of its own that says more."""


@dataclass(frozen=True)
class Rule:
    """Stands in ``Annotated[type, Rule(valid, read)]`` for a type whose values mean something: read by a function of its own."""

    valid: str
    read: Callable[[Any], Any]
    """The value as it is meant; raises :class:`UnfitError`, or an error of its own that says more."""

    def __repr__(self) -> str:
        return repr(self.valid)  # what ``help`` shows of a signature


def shown(value: Any) -> str:
    """A value in an error's message, in one short line."""
    if _is_tensor(value) or isinstance(value, np.ndarray):
        if getattr(value, "is_nested", False):
            return "a nested tensor"
        kind = "a tensor" if _is_tensor(value) else "an array"
        return f"{kind} of shape {tuple(value.shape)} and {value.dtype}"
    if isinstance(value, type):
        return value.__name__
    try:
        text = " ".join(repr(value).split())
    except Exception:
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."


def reader_of(kind: Any, default: Any = None) -> Reader | None:
    """How a parameter of a type is read; None if it takes anything.

    Args:
        kind: The type.
        default: The parameter's default; infinity is allowed where it is the default.
    """
    if kind is float and isinstance(default, float) and math.isinf(default):
        return Reader("a number", _number)
    return _reader(kind)


def _reader(kind: Any) -> Reader | None:
    if kind in _PLAIN_READERS:
        return _PLAIN_READERS[kind]
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return _rule_reader(inner)
    if origin in (Union, types.UnionType):
        return _union(inner)
    if origin is Literal:
        return Reader(", ".join(map(repr, inner)), lambda value: _choice(value, inner))
    if hasattr(kind, "array_type"):  # jaxtyping's Float[Tensor, "d"]
        return _instance(kind.array_type)
    base = origin or kind
    if base in _SEQUENCES:
        return _sequence(base, inner)
    if base in (Mapping, dict):
        return _mapping(inner)
    if base is Callable:
        return _function(inner[0] if inner and isinstance(inner[0], list) else None)
    return _instance(base) if isinstance(base, type) else None


def _rule_reader(inner: tuple[Any, ...]) -> Reader | None:
    rule = next((item for item in inner[1:] if isinstance(item, Rule)), None)
    return _reader(inner[0]) if rule is None else Reader(rule.valid, rule.read)


def _union(kinds: tuple[Any, ...]) -> Reader | None:
    readers = [_reader(kind) for kind in kinds if kind is not str or Path not in kinds]
    alternatives = [reader for reader in readers if reader is not None]
    if len(alternatives) < len(readers):
        return None  # one of them takes anything
    alternatives.sort(key=lambda reader: reader.valid != "None")
    valid = _enumeration([reader.valid for reader in alternatives])

    def read(value: Any) -> Any:
        reason = ""
        choices: list[str] = []
        for reader in alternatives:
            try:
                return reader.read(value)
            except UnfitError as error:
                reason = reason or error.detail
                choices += error.choices
        raise UnfitError(valid, reason, choices)

    return Reader(valid, read)


def _enumeration(items: Sequence[str]) -> str:
    """``a, b or c``, with None last."""
    unique_items = [*(item for item in dict.fromkeys(items) if item != "None"), *(["None"] if "None" in items else [])]
    return unique_items[0] if len(unique_items) == 1 else f"{', '.join(unique_items[:-1])} or {unique_items[-1]}"


def _is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def single(value: Any) -> Any:
    """A number of numpy or a tensor without axes as Python's own; anything else as it is."""
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        return value.item()
    if _is_tensor(value) and value.ndim == 0 and not _is_meta(value) and not value.requires_grad:
        return value.item()
    return value  # a tensor that requires gradients is no plain number: its gradient would be lost


def _is_meta(value: Any) -> bool:
    return _is_tensor(value) and value.device.type == "meta"


def _truth(value: Any) -> bool:
    plain: bool = _require(single(value), bool, "True or False")
    return plain


def _require(value: Any, kind: Any, what: str) -> Any:
    """The value itself, if it is of a kind."""
    if not isinstance(value, kind):
        raise UnfitError(what)
    return value


def _as_text(value: Any) -> Any:
    """Text of numpy as Python's own; anything else as it is."""
    return str(value) if isinstance(value, np.str_) else value


def whole_number(value: Any) -> int:
    """A whole number that 64 bits hold.

    Raises:
        UnfitError: It is none.
    """
    if type(value) is int and -LARGEST <= value < LARGEST:
        return value
    plain = single(value)
    if isinstance(plain, bool) or not isinstance(plain, numbers.Integral):
        raise UnfitError("a whole number")
    number = int(plain)
    if not -LARGEST <= number < LARGEST:
        raise UnfitError("a whole number that 64 bits hold")
    return number


def _number(value: Any) -> float:
    plain: Any = value if type(value) in (int, float) else single(value)
    real = isinstance(plain, numbers.Real)
    if isinstance(plain, bool) or not real:
        raise UnfitError("a number")
    try:
        size = float(plain)
    except OverflowError:
        raise UnfitError("a number that a float can hold") from None
    if math.isnan(size):
        raise UnfitError("a number, not NaN")
    return plain if type(plain) is int and abs(plain) < LARGEST else size


def _finite(value: Any) -> float:
    try:
        plain = _number(value)
    except UnfitError:
        raise UnfitError("a finite number") from None
    if math.isinf(plain):
        raise UnfitError("a finite number")
    return plain


def _text(value: Any) -> str:
    plain: str = _require(_as_text(value), str, "text")
    return plain


def path(value: Any) -> Any:
    """A path in text or as an object.

    Raises:
        UnfitError: It is none.
    """
    plain = _require(_as_text(value), str | os.PathLike, "a path")
    text = os.fspath(plain)
    if not text or not isinstance(text, str) or "\x00" in text:
        raise UnfitError("a path", "a path is text with at least one character and none of code 0")
    return plain


def _nothing(value: Any) -> None:
    if value is not None:
        raise UnfitError("None")


def _choice(value: Any, choices: tuple[Any, ...]) -> Any:
    plain = str.__str__(value) if isinstance(value, str) else single(value)
    for choice in choices:
        if type(choice) is type(plain) and choice == plain:
            return choice
    names = [choice for choice in choices if isinstance(choice, str)]
    raise UnfitError(", ".join(map(repr, choices)), choices=names if isinstance(plain, str) else ())


def _function(arguments: Sequence[Any] | None) -> Reader:
    """A function that takes so many arguments, if that can be told."""
    valid = "a function" + (f" of {len(arguments)} argument{'s'[: len(arguments) != 1]}" if arguments else "")

    def read(value: Any) -> Any:
        if not callable(value) or isinstance(value, type):
            raise UnfitError(valid)
        if arguments is not None and refuses(value, len(arguments)):
            raise UnfitError(valid, f"it does not take {len(arguments)} argument{'s'[: len(arguments) != 1]}")
        return value

    return Reader(valid, read)


def refuses(function: Callable[..., Any], count: int) -> bool:
    """Whether a function cannot be called with so many arguments by place."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a built-in function without one
        return False
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return True
    return False


def tensor(value: Any) -> Any:
    """Numbers as a dense tensor: a tensor itself, an array, or lists of numbers.

    Raises:
        UnfitError: It is none, or its numbers cannot be reached.
    """
    import torch

    if isinstance(value, torch.Tensor):
        if value.is_nested or value.layout != torch.strided:
            raise UnfitError("a tensor", "its layout is not dense; pass one dense tensor, as .to_dense() gives it")
        if value.device.type == "meta":
            raise UnfitError("a tensor", "it is on the meta device, so it has a shape and no numbers")
        if value.is_quantized or "float8" in str(value.dtype) or "float4" in str(value.dtype):
            raise UnfitError("a tensor", f"{value.dtype} is a format for storage; pass .float() of it")
        return value
    if not isinstance(value, np.ndarray | np.generic | list | tuple):
        raise UnfitError("a tensor")
    try:
        if isinstance(value, list | tuple) and _holds_tensors(value):
            return torch.stack([tensor(row) for row in value])
        if isinstance(value, np.ndarray) and (not value.dtype.isnative or any(step < 0 for step in value.strides)):
            value = np.array(value, value.dtype.newbyteorder("="), order="C")  # torch has no tensor of such memory
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise UnfitError("a tensor, or rows of numbers of equal length") from None


def _holds_tensors(value: Any) -> bool:
    return bool(value) and all(_is_tensor(row) and row.ndim for row in value)


def _instance(kind: type) -> Reader | None:
    if kind.__module__.partition(".")[0] == "torch" and kind.__name__ == "Tensor":
        return Reader("a tensor", tensor)
    if kind is object or (getattr(kind, "_is_protocol", False) and not getattr(kind, "_is_runtime_protocol", False)):
        return None
    name = "None" if kind is types.NoneType else _with_article(kind)

    def read(value: Any) -> Any:
        if not isinstance(value, kind):
            raise UnfitError(name)
        return value

    return Reader(name, read)


def _with_article(kind: type) -> str:
    article = "an" if kind.__name__[0] in "AEIOaeio" else "a"
    return f"{article} {kind.__name__}"


def _sequence(base: Any, inner: tuple[Any, ...]) -> Reader:
    is_fixed = base is tuple and inner and inner[-1] is not Ellipsis
    items = [_reader(kind) for kind in inner if kind is not Ellipsis] or [None]
    entry = items[0]
    valid = "a list" if entry is None or is_fixed else f"a list, each {entry.valid}"

    def read(value: Any) -> Any:
        if isinstance(value, _PLAIN) or not isinstance(value, Iterable) or isinstance(value, type):
            raise UnfitError(valid)
        if getattr(value, "ndim", 1) == 0:
            raise UnfitError(valid)
        if entry is None and not is_fixed:
            return value if isinstance(value, base) and hasattr(value, "__len__") else _as_base(base, _as_list(value))
        rows = value if isinstance(value, list | tuple) else _as_list(value)
        if is_fixed and len(rows) != len(items):
            raise UnfitError(valid, f"{len(items)} are needed, got {len(rows)}")
        each = items if is_fixed else [entry] * len(rows)
        entries = [
            _item(one, item, f"entry {number}") for number, (one, item) in enumerate(zip(each, rows, strict=True))
        ]
        if rows is value and all(new is old for new, old in zip(entries, rows, strict=True)):
            return _as_base(base, value)
        return _as_base(base, tuple(entries) if isinstance(rows, tuple) else entries)

    return Reader(valid, read)


def _as_base(base: Any, rows: Any) -> Any:
    """Entries as a list or a tuple, where one of them is asked for."""
    return base(rows) if base in (list, tuple) and not isinstance(rows, base) else rows


def _as_list(value: Iterable[Any]) -> list[Any]:
    """The entries in Python's own types."""
    if _is_tensor(value):
        value = tensor(value)
    array: Any = value
    return list(array.tolist()) if isinstance(value, np.ndarray) or _is_tensor(value) else list(value)


def _item(reader: Reader | None, item: Any, place: str) -> Any:
    if reader is None:
        return item
    try:
        return reader.read(item)
    except UnfitError as error:
        near = f"{unknown('name', item, error.choices)}" if error.choices else f"valid: {error.valid}"
        raise UnfitError(error.valid, f"{place} is {shown(item)}; {error.detail or near}") from None


def _mapping(inner: tuple[Any, ...]) -> Reader:
    keys, values = [_reader(kind) for kind in inner] if len(inner) == 2 else (None, None)

    def read(value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise UnfitError("a mapping, as a dict")
        entries = {
            _item(keys, key, f"key {i}"): _item(values, item, shown(key)) for i, (key, item) in enumerate(value.items())
        }
        same = all(a is c and b is d for (a, b), (c, d) in zip(entries.items(), value.items(), strict=False))
        return value if same and len(entries) == len(value) else entries

    return Reader("a mapping, as a dict", read)


_PLAIN_READERS: dict[Any, Reader | None] = {
    Any: None,
    None: Reader("None", _nothing),
    types.NoneType: Reader("None", _nothing),
    bool: Reader("True or False", _truth),
    int: Reader("a whole number", whole_number),
    float: Reader("a finite number", _finite),
    str: Reader("text", _text),
    Path: Reader("a path", path),
}

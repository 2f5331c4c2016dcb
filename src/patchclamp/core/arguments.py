"""The door of every public function: arguments are read by their annotations before any work is done.

:func:`checked` wraps a function or a class. What it refuses it names: the parameter, the value, what is valid and the nearest
name. What can stand for a plain value (a number of numpy, a tensor without axes) becomes that value.
"""

import functools
import inspect
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from patchclamp.core.errors import InputError, PatchclampError, unknown
from patchclamp.core.namespaces import types_of
from patchclamp.core.readers import Reader, UnfitError, reader_of, shown

Door = TypeVar("Door", bound=Callable[..., Any])
_RECEIVERS = ("self", "cls", "model")
"""First parameters that a call of a method does not name: a function of a model is also a method of it."""
RENAMED = {"rung": "strategy", "readers": "read_vectors"}
"""Parameters and saved fields that were called otherwise before, and what they are called now: the old names are accepted."""
_KEYWORD_KINDS = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True, eq=False)
class Reading:
    """How the arguments of one function are read."""

    label: str
    positional: tuple[str, ...]
    """Names of the arguments that may be passed by their place."""
    names: frozenset[str]
    required: frozenset[str]
    readers: dict[str, Reader | None]
    defaults: dict[str, Any]
    var_positional: bool
    """Whether the function takes ``*args``."""
    var_keyword: bool
    """Whether the function takes ``**kwargs``."""
    error: type[PatchclampError]
    hidden: tuple[str, ...]
    """Names of arguments that no user passes."""

    @classmethod
    def of(
        cls,
        function: Callable[..., Any],
        label: str,
        error: type[PatchclampError],
        hidden: Sequence[str] = (),
    ) -> "Reading":
        """Read a signature."""
        parameters, types = inspect.signature(function).parameters.values(), types_of(function)
        kinds = {parameter.kind for parameter in parameters}
        keywords = [parameter for parameter in parameters if parameter.kind in _KEYWORD_KINDS]
        positional = tuple(p.name for p in keywords if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD)
        return cls(
            label,
            positional,
            frozenset(p.name for p in keywords),
            frozenset(p.name for p in keywords if p.default is inspect.Parameter.empty),
            {p.name: reader_of(types.get(p.name, Any), p.default) for p in keywords},
            {p.name: p.default for p in keywords},
            inspect.Parameter.VAR_POSITIONAL in kinds,
            inspect.Parameter.VAR_KEYWORD in kinds,
            error,
            (*(name for name in positional[:1] if name in _RECEIVERS), *hidden),
        )

    def read(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """The arguments of a call as the function takes them.

        Raises:
            PatchclampError: One cannot be used, is unknown or missing.
        """
        if len(args) > len(self.positional) and not self.var_positional:
            visible = [name for name in self.positional if name not in self.hidden]
            extra = len(args) - len(self.positional)
            raise self.error(
                f"{self.label} takes {', '.join(visible) or 'nothing'} by place, and {extra} more "
                f"({shown(args[-1])}) {'was' if extra == 1 else 'were'} passed; name the others"
            )
        by_place = [self.value(name, value) for name, value in zip(self.positional, args, strict=False)]
        by_name: dict[str, Any] = {}
        for passed, value in kwargs.items():
            name = present_name(passed, self.names)
            if name in by_name or (name != passed and name in kwargs):
                raise self.error(f"{self.label} got {name} twice, also by its old name {passed}")
            by_name[name] = self.value(name, value)
        duplicates = by_name.keys() & self.positional[: len(args)]
        if duplicates:
            raise self.error(f"{self.label} got {min(duplicates)} twice, by place and by name")
        missing = self.required - by_name.keys() - set(self.positional[: len(args)])
        if missing:
            raise self.error(f"{self.label} needs {', '.join(name for name in self.readers if name in missing)}")
        return [*by_place, *args[len(self.positional) :]], by_name

    def value(self, name: str, value: Any) -> Any:
        """One argument.

        Raises:
            PatchclampError: It cannot be used, or there is no such parameter.
        """
        if name not in self.names:
            if self.var_keyword:
                return value
            raise self.error(
                unknown(f"argument of {self.label}", name, [n for n in self.readers if n not in self.hidden])
            )
        reader = self.readers[name]
        if reader is None or value is self.defaults[name]:
            return value
        try:
            return reader.read(value)
        except UnfitError as unfit:
            raise self.error(unfit.message(self.label, name, value)) from None


def present_name(name: str, names: Collection[str]) -> str:
    """What a parameter is called now, if ``name`` is what it was called before and no other has that name."""
    present = RENAMED.get(name, name)
    return present if name not in names and present in names else name


def checked(door: Door) -> Door:
    """Read the arguments of a function, or of a class's constructor, at each call."""
    return checked_as(InputError)(door)


def checked_as(error: type[PatchclampError], label: str = "", hidden: Sequence[str] = ()) -> Callable[[Door], Door]:
    """Make a decorator as :func:`checked`, for other messages.

    Args:
        error: The class of the exceptions that are raised.
        label: How messages call the function, if not by its name.
        hidden: Names of arguments that no user passes.
    """

    def decorate(door: Any) -> Any:
        title = label or door.__name__
        if inspect.isclass(door):
            setattr(door, "__no_type_check__", True)  # noqa: B010 - other checkers leave the constructor alone
            setattr(door, "__init__", _wrap(door.__init__, title, error, hidden))  # noqa: B010
            return door
        return _wrap(door, title, error, hidden)

    return decorate


def checked_methods(kind: type) -> None:
    """Read the arguments of every public method that a class defines."""
    for name, method in list(vars(kind).items()):
        if name.startswith("_"):
            continue
        if inspect.isfunction(method):
            setattr(kind, name, _wrap(method, name, InputError))
        elif isinstance(method, classmethod):
            setattr(kind, name, classmethod(_wrap(method.__func__, name, InputError)))


def check_held(holder: Any) -> None:
    """Refuse what an object holds of its constructor's arguments: estimators take anything, and are checked when they fit.

    Raises:
        InputError: One cannot be used.
    """
    kind: Any = type(holder)
    reading = _constructor(kind)
    for name in reading.names.difference(reading.hidden):
        reading.value(name, getattr(holder, name))


def settle_held(holder: Any) -> None:
    """Check what an object holds, as :func:`check_held`; a number of numpy or torch becomes the plain number that it is.

    Raises:
        InputError: One cannot be used.
    """
    kind: Any = type(holder)
    reading = _constructor(kind)
    for name in reading.names.difference(reading.hidden):
        held = getattr(holder, name)
        value = reading.value(name, held)
        if isinstance(value, bool | int | float) and type(value) is not type(held):
            setattr(holder, name, value)


@functools.cache
def _constructor(kind: type) -> Reading:
    return Reading.of(kind.__init__, kind.__name__, InputError)  # type: ignore[misc]


def _wrap(
    function: Callable[..., Any], label: str, error: type[PatchclampError], hidden: Sequence[str] = ()
) -> Callable[..., Any]:
    reading: Reading | None = None

    @functools.wraps(function)
    def door(*args: Any, **kwargs: Any) -> Any:
        nonlocal reading
        if reading is None:
            reading = Reading.of(function, label, error, hidden)
        places, names = reading.read(args, kwargs)
        return function(*places, **names)

    door.__checked__ = True  # type: ignore[attr-defined]
    return door


def is_checked(door: Any) -> bool:
    """Whether arguments of a public function or class are read at its door."""
    return bool(getattr(door.__init__ if inspect.isclass(door) else door, "__checked__", False))

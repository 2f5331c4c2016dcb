"""Every public callable as one line: its name and parameters, without annotations."""

import enum
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import patchclamp as pc

MODULES = ("catalogue", "directions", "metrics", "polytopes", "rewriting", "tracing")
"""The public modules of the reference."""


def text() -> str:
    """The lines of every public name, in order."""
    named = {name: getattr(pc, name) for name in pc.__all__ if not name.startswith("_")}
    for module in MODULES:
        named.pop(module)
        home = getattr(pc, module)
        named |= {f"{module}.{name}": getattr(home, name) for name in home.__all__}
    listed = [line for name in sorted(named) for line in lines(name, named[name])]
    return "\n".join(listed) + "\n"


def lines(name: str, value: Any) -> Iterator[str]:
    """The line of a function; of a class those of its constructor, methods and properties, too."""
    if not inspect.isclass(value):
        yield line(name, value) if callable(value) else f"{name} = a {type(value).__name__}"
        return
    if not issubclass(value, BaseException | enum.Enum):
        yield line(name, value)
    else:
        yield f"{name}: {', '.join(base.__name__ for base in value.__mro__[1:-1])}"
        return
    for attribute in sorted(dir(value)):
        if not attribute.startswith("_") and not _is_foreign(value, attribute):
            yield from _member(f"{name}.{attribute}", inspect.getattr_static(value, attribute))


def line(name: str, function: Callable[..., Any], drop: bool = False) -> str:
    """One line: ``name(a, b=1, *, c=None)``.

    Args:
        name: What it is called.
        function: What is called.
        drop: Leave out the first parameter: that of a method, whatever its name.
    """
    parameters = list(inspect.signature(function).parameters.values())[drop:]
    shown = [p.replace(annotation=p.empty, default=_shown(p.default)) for p in parameters if not p.name.startswith("_")]
    return f"{name}{inspect.Signature(shown)}"


def _member(name: str, value: Any) -> Iterator[str]:
    if isinstance(value, property) or hasattr(value, "__set_name__"):
        yield f"{name}: property"
    elif isinstance(value, staticmethod):
        yield line(name, value.__func__)
    elif isinstance(value, classmethod):
        yield line(name, value.__func__, drop=True)
    elif inspect.isfunction(value):
        yield line(name, value, drop=True)
    elif not inspect.isclass(value):
        yield f"{name}: attribute"


def _is_foreign(cls: type, attribute: str) -> bool:
    """Whether an attribute comes from a class of another library, as those of torch's modules do."""
    home = next(base for base in cls.__mro__ if attribute in vars(base))
    return not home.__module__.startswith("patchclamp")


def _shown(default: Any) -> Any:
    """A default that is written as in the source, without the place in memory or in the package that its value has."""
    plain = str | int | float | list | tuple | dict | set | type(None)
    if default is inspect.Parameter.empty or isinstance(default, plain):
        return default
    if inspect.isfunction(default) or inspect.isclass(default):
        return Written(default.__qualname__)
    return Written("<factory>" if "factory" in repr(default) else repr(default))


class Written(str):
    """A text that stands for itself."""

    __repr__ = str.__str__

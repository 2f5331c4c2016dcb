"""An ordinary call of a public function, and what its parameters can be told apart by."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Fresh:
    """Stands for a folder or file of its own, of a new name in each call."""

    def __init__(self, suffix: str = "") -> None:
        self.suffix = suffix


@dataclass(frozen=True)
class Beside:
    """Another value of a parameter that only matters beside others."""

    value: Any
    given: Mapping[str, Any]


@dataclass(frozen=True)
class Ordinary:
    """One public function."""

    call: Callable[..., Any]
    given: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of an ordinary call."""
    other: Mapping[str, Any] = field(default_factory=dict)
    """For every other parameter, and for those given too, a value that clearly changes the result."""
    inert: Mapping[str, str] = field(default_factory=dict)
    """Parameters that change no number, with the reason."""
    says: Callable[..., Any] | None = None
    """The function whose signature names the parameters, if it is not ``call``."""

    @property
    def parameters(self) -> tuple[str, ...]:
        """Every parameter that a user can name."""
        parameters = inspect.signature(self.says or self.call).parameters.values()
        return tuple(p.name for p in parameters if p.kind not in VARIABLE and p.name not in ("self", "model"))

    def __call__(self, folder: Path, /, **changes: Any) -> Any:
        """The ordinary call with some arguments changed; fresh paths lie in the folder."""
        arguments = {**self.given, **changes}
        for name, value in arguments.items():
            if isinstance(value, Fresh):
                arguments[name] = folder / f"{name}{len(list(folder.iterdir()))}{value.suffix}"
        return self.call(**arguments)


def method(name: str, given: Mapping[str, Any], other: Mapping[str, Any], **more: Any) -> Ordinary:
    """A method of the tiny language model."""
    import patchclamp as pc
    from tests.fuzz import world

    return Ordinary(getattr(world.model(), name), given, other, says=getattr(pc.Model, name), **more)

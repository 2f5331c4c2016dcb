"""The engine: edits, positions, gates and reads; and what runs them on the model's own modules.

This page is its door. Other packages import from here and from nothing behind it; the names stand in ``__init__.pyi``, by
what they are for, and each is imported when it is first used.
"""

import sys
from types import ModuleType
from typing import Any

import lazy_loader
from typing_extensions import override

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

_OPEN = ("operations", "positions")
"""Files that are names of the door themselves."""


class _Door(ModuleType):
    """A function hides the file that bears its name, whichever is imported first, as it would with plain imports."""

    @override
    def __setattr__(self, name: str, value: Any) -> None:
        if not isinstance(value, ModuleType) or name not in __all__ or name in _OPEN:
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Door

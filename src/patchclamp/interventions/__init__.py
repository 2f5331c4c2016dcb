"""The engine: edits, positions, gates and reads; and what runs them on the model's own modules.

This page is its door. Other packages import from here and from nothing behind it; the names stand in ``__init__.pyi``, by
what they are for, and each is imported when it is first used. ``docs/engine.md`` follows an example through the files.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

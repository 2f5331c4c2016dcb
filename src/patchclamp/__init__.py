"""patchclamp: open a PyTorch model, read its activations at named sites, edit them, and see what the edit did.

The public names stand on one page, ``__init__.pyi``; each is imported when it is first used, so that
``import patchclamp`` is immediate.
"""

from importlib.metadata import PackageNotFoundError, version

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

try:
    __version__ = version("patchclamp")
except PackageNotFoundError:
    __version__ = "0"

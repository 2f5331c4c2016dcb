"""Directions that stand for a concept: find them, erase them, swap, scale, add.

The public names stand in ``__init__.pyi``; each is imported when it is first used, because estimators need scikit-learn.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""Sparse dictionaries: atoms, encoders and fits, any with any; toy data with known truth, and how much of it is recovered.

The public names stand in ``__init__.pyi``; each is imported when it is first used, because fits need scikit-learn.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""The polytope lens: the regions on which a network is one affine map, their codes, and what crosses between them."""

from patchclamp.polytopes.network import Network as Network

__all__ = ["Network"]

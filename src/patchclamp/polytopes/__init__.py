"""Networks as linear maps chosen by region: how finely they cut their input, and what holds inside one piece."""

from patchclamp.polytopes.nearest_linear import NearestLinear as NearestLinear
from patchclamp.polytopes.voronoi import Pieces as Pieces

__all__ = ["NearestLinear", "Pieces"]

"""The polytope lens: the regions on which a network is one affine map, their codes, and what crosses between them."""

from patchclamp.polytopes.affine import AffineMap as AffineMap
from patchclamp.polytopes.affine import map_distance as map_distance
from patchclamp.polytopes.code_directions import CodeDirection as CodeDirection
from patchclamp.polytopes.code_directions import code_direction as code_direction
from patchclamp.polytopes.nearest_linear import NearestLinear as NearestLinear
from patchclamp.polytopes.network import Network as Network
from patchclamp.polytopes.segment import Segment as Segment
from patchclamp.polytopes.voronoi import Pieces as Pieces

__all__ = [
    "AffineMap",
    "CodeDirection",
    "NearestLinear",
    "Network",
    "Pieces",
    "Segment",
    "code_direction",
    "map_distance",
]

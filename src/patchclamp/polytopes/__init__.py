"""The polytope lens: the regions on which a network is one affine map, their codes, and what crosses between them."""

from patchclamp.polytopes.affine import AffineMap as AffineMap
from patchclamp.polytopes.affine import map_distance as map_distance
from patchclamp.polytopes.network import Network as Network
from patchclamp.polytopes.plane import Plane as Plane
from patchclamp.polytopes.raster import Raster as Raster
from patchclamp.polytopes.segment import Segment as Segment

__all__ = ["AffineMap", "Network", "Plane", "Raster", "Segment", "map_distance"]

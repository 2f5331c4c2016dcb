"""The polytope lens: the regions on which a network is one affine map, their codes, and what crosses between them."""

from patchclamp.polytopes.adversarial import AdversarialPaths as AdversarialPaths
from patchclamp.polytopes.affine import AffineMap as AffineMap
from patchclamp.polytopes.affine import map_distance as map_distance
from patchclamp.polytopes.boundaries import Boundaries as Boundaries
from patchclamp.polytopes.network import Network as Network
from patchclamp.polytopes.radial import RadialDensity as RadialDensity
from patchclamp.polytopes.scaling import Scaling as Scaling
from patchclamp.polytopes.segment import Segment as Segment

__all__ = [
    "AdversarialPaths",
    "AffineMap",
    "Boundaries",
    "Network",
    "RadialDensity",
    "Scaling",
    "Segment",
    "map_distance",
]

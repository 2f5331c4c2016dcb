"""The polytope lens: the regions on which a network is one affine map, their codes, and what crosses between them."""

from patchclamp.polytopes.adversarial import AdversarialPaths as AdversarialPaths
from patchclamp.polytopes.affine import AffineMap as AffineMap
from patchclamp.polytopes.affine import map_distance as map_distance
from patchclamp.polytopes.boundaries import Boundaries as Boundaries
from patchclamp.polytopes.clusters import Clusters as Clusters
from patchclamp.polytopes.clusters import cluster as cluster
from patchclamp.polytopes.code_directions import CodeDirection as CodeDirection
from patchclamp.polytopes.code_directions import code_direction as code_direction
from patchclamp.polytopes.codes import SplineCodes as SplineCodes
from patchclamp.polytopes.nearest_linear import NearestLinear as NearestLinear
from patchclamp.polytopes.network import Network as Network
from patchclamp.polytopes.plane import Plane as Plane
from patchclamp.polytopes.radial import RadialDensity as RadialDensity
from patchclamp.polytopes.raster import Raster as Raster
from patchclamp.polytopes.recording import soft_codes as soft_codes
from patchclamp.polytopes.recording import spline_codes as spline_codes
from patchclamp.polytopes.scaling import Scaling as Scaling
from patchclamp.polytopes.segment import Segment as Segment
from patchclamp.polytopes.soft import ACTIVATIONS as ACTIVATIONS
from patchclamp.polytopes.soft import activation as activation
from patchclamp.polytopes.soft import beta_code as beta_code
from patchclamp.polytopes.soft import swish as swish
from patchclamp.polytopes.voronoi import Pieces as Pieces

__all__ = [
    "ACTIVATIONS",
    "AdversarialPaths",
    "AffineMap",
    "Boundaries",
    "Clusters",
    "CodeDirection",
    "NearestLinear",
    "Network",
    "Pieces",
    "Plane",
    "RadialDensity",
    "Raster",
    "Scaling",
    "Segment",
    "SplineCodes",
    "activation",
    "beta_code",
    "cluster",
    "code_direction",
    "map_distance",
    "soft_codes",
    "spline_codes",
    "swish",
]

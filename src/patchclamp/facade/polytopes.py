"""The polytope lens: regions, their codes and their maps."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from patchclamp.core.kinds import Repeats
from patchclamp.core.progress import Listener
from patchclamp.interventions.positions import At
from patchclamp.models.opened import OpenModel
from patchclamp.models.peers import Sites

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from torch import Tensor

    from patchclamp.polytopes.adversarial import AdversarialPaths
    from patchclamp.polytopes.affine import AffineMap
    from patchclamp.polytopes.boundaries import Boundaries
    from patchclamp.polytopes.clusters import Clusters
    from patchclamp.polytopes.codes import SplineCodes
    from patchclamp.polytopes.plane import Plane
    from patchclamp.polytopes.radial import RadialDensity
    from patchclamp.polytopes.raster import Raster
    from patchclamp.polytopes.scaling import Scaling
    from patchclamp.polytopes.segment import Segment


class Polytopes(OpenModel):
    """The polytope lens: regions, their codes and their maps."""

    def segment(self, a: Any, b: Any, **how: Any) -> "Segment":
        """Every region that a straight line crosses, in order; see :func:`patchclamp.polytopes.segment.segment`."""
        from patchclamp.polytopes.segment import segment

        return segment(self, a, b, **how)

    def crossings(
        self, starts: Any, ends: Any, *, progress: bool | Listener | None = None, **how: Any
    ) -> "pd.DataFrame":
        """How many boundaries each of many segments crosses; see :func:`patchclamp.polytopes.segment.crossings`."""
        from patchclamp.polytopes.segment import crossings

        return crossings(self, starts, ends, progress=progress, **how)

    def affine_map(self, x: Any, **how: Any) -> "AffineMap":
        """The affine map of a point's region; see :func:`patchclamp.polytopes.affine.affine_map`."""
        from patchclamp.polytopes.affine import affine_map

        return affine_map(self, x, **how)

    def region_maps(self, line: "Segment") -> "list[AffineMap]":
        """The map of every region along an exact segment."""
        from patchclamp.polytopes.affine import region_maps

        return region_maps(self, line)

    def neighbour_distances(self, line: "Segment") -> "pd.DataFrame":
        """How far the maps of neighbouring regions along a segment are apart."""
        from patchclamp.polytopes.affine import neighbour_distances

        return neighbour_distances(self, line)

    def spline_codes(self, inputs: Any, sites: Sites = None, at: At = "all", **how: Any) -> "SplineCodes":
        """On which side of each gate inputs or tokens lie; see :func:`patchclamp.polytopes.recording.spline_codes`."""
        from patchclamp.polytopes.recording import spline_codes

        return spline_codes(self, inputs, sites, at, **how)

    def soft_codes(self, inputs: Any, sites: Sites = None, at: At = "all", **how: Any) -> "xr.Dataset":
        """Codes with entries between 0 and 1; see :func:`patchclamp.polytopes.recording.soft_codes`."""
        from patchclamp.polytopes.recording import soft_codes

        return soft_codes(self, inputs, sites, at, **how)

    def cluster(self, inputs: Any, layer: str | int, **how: Any) -> "Clusters":
        """Clusters of a layer's codes, beside its activations; see :func:`patchclamp.polytopes.clustering.cluster_layer`."""
        from patchclamp.polytopes.clustering import cluster_layer

        return cluster_layer(self, inputs, layer, **how)

    def plane(self, points: Any = None, **how: Any) -> "Plane":
        """Every region on a plane, as exact polygons; see :func:`patchclamp.polytopes.plane.plane`."""
        from patchclamp.polytopes.plane import plane

        return plane(self, points, **how)

    def raster(self, points: Any = None, **how: Any) -> "Raster":
        """Exact lines through a plane; see :func:`patchclamp.polytopes.raster.raster`."""
        from patchclamp.polytopes.raster import raster

        return raster(self, points, **how)

    def region_counts(self, plane: "Plane", samples: Repeats = 400) -> "pd.DataFrame":
        """The regions of a plane beside bounds and samples; see :func:`patchclamp.polytopes.region_counts.region_counts`."""
        from patchclamp.polytopes.region_counts import region_counts

        return region_counts(self, plane, samples)

    def boundaries(self, points: Any, **how: Any) -> "Boundaries":
        """How far points are from boundaries; see :func:`patchclamp.polytopes.boundaries.boundaries`."""
        from patchclamp.polytopes.boundaries import boundaries

        return boundaries(self, points, **how)

    def radial_density(self, points: Any, **how: Any) -> "RadialDensity":
        """Crossings on rays from a centre, by distance; see :func:`patchclamp.polytopes.radial.radial_density`."""
        from patchclamp.polytopes.radial import radial_density

        return radial_density(self, points, **how)

    def scaling(self, inputs: Any, sites: Sequence[str | Sequence[str]] | str, *args: Any, **how: Any) -> "Scaling":
        """What holds when activations are multiplied; see :func:`patchclamp.polytopes.scaling.scaling`."""
        from patchclamp.polytopes.scaling import scaling

        return scaling(self, inputs, sites, *args, **how)

    def attack(self, points: Any, labels: Any, *, eps: float, **how: Any) -> "Tensor":
        """Adversarial examples by FGSM or PGD; see :func:`patchclamp.polytopes.attacks.attack`."""
        from patchclamp.polytopes.attacks import attack

        return attack(self, points, labels, eps=eps, **how)

    def adversarial_paths(self, points: Any, labels: Any, **how: Any) -> "AdversarialPaths":
        """What paths to adversarial examples cross; see :func:`patchclamp.polytopes.adversarial.adversarial_paths`."""
        from patchclamp.polytopes.adversarial import adversarial_paths

        return adversarial_paths(self, points, labels, **how)

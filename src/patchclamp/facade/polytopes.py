"""The polytope lens: regions, their codes and their maps."""

from typing import TYPE_CHECKING, Any

from patchclamp.core.progress import Listener
from patchclamp.models.opened import OpenModel

if TYPE_CHECKING:
    import pandas as pd

    from patchclamp.polytopes.affine import AffineMap
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

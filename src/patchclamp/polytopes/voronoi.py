"""Regions given by points: which is nearest, where a line passes from one region into the next, where to put the points."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patchclamp.core.errors import InputError, unknown

PLACES = ("kmeans", "rows")
Place = Literal["kmeans", "rows"]
_CHUNK = 1 << 22
"""Numbers alive at once when distances are compared."""


@dataclass(frozen=True, eq=False)
class Pieces:
    """The regions that a straight line crosses, in order."""

    t: Float[Tensor, " crossing"]
    """Where each face is crossed: 0 at the start of the line, 1 at its end."""
    region: Int[Tensor, " piece"]
    """The region of each piece; one more than there are crossings, and none twice, since regions are convex."""

    def __len__(self) -> int:
        return len(self.region)


def offsets(points: Float[Tensor, "point d"], x: Float[Tensor, "row d"]) -> Float[Tensor, "row point"]:
    """``|x - p|^2 - |x - m|^2``, where ``m`` is the mean of the points: squared distances but for what all have in common."""
    middle = points.mean(0)
    centred = points - middle
    return torch.addmm(centred.square().sum(1), x - middle, centred.T, alpha=-2)


def nearest(
    points: Float[Tensor, "point d"], x: Float[Tensor, "row d"]
) -> tuple[Int[Tensor, " row"], Float[Tensor, " row"]]:
    """The nearest point of each row, and its squared distance."""
    found = torch.cat([offsets(points, part).argmin(1) for part in x.split(max(1, _CHUNK // len(points)))])
    return found, (x - points[found]).square().sum(1)


def crossings(
    points: Float[Tensor, "point d"], starts: Float[Tensor, "line d"], ends: Float[Tensor, "line d"]
) -> tuple[Float[Tensor, "line crossing"], Int[Tensor, "line piece"]]:
    """Every face that straight lines cross, in order and exactly, in float64.

    Along a line the squared distances from the points are parabolas, which differ by straight lines alone once the common
    ``|x|^2`` is left out; the regions are the lower envelope of those lines.

    Returns:
        ``t`` of each crossing, infinite after a line's last one; and the regions, the last one repeated.
    """
    points, starts, ends = points.double(), starts.double(), ends.double()
    height = offsets(points, starts)
    slope = -2 * (ends - starts) @ points.T
    now = slope.masked_fill(height > height.min(1, keepdim=True).values, torch.inf).argmin(1)
    before = height.new_zeros(len(height))
    times, regions = [], [now]
    while True:
        own_height, own_slope = (lines.gather(1, now[:, None]) for lines in (height, slope))
        t = ((height - own_height) / (own_slope - slope)).masked_fill(slope >= own_slope, torch.inf)
        t = t.maximum(before[:, None])
        when = t.min(1).values
        going_on = when < 1
        if not going_on.any():
            break
        steepest = slope.masked_fill(t > when[:, None], torch.inf).argmin(
            1
        )  # where several meet, it is the next to win
        now = torch.where(going_on, steepest, now)
        before = torch.where(going_on, when, before)
        times.append(when.masked_fill(~going_on, torch.inf))
        regions.append(now)
    return torch.stack(times, 1) if times else height.new_zeros(len(height), 0), torch.stack(regions, 1)


def neighbours_across(
    x: Float[Tensor, "row d"], region: Int[Tensor, " row"], most: int, seed: int
) -> tuple[Float[Tensor, "pair d"], Float[Tensor, "pair d"]]:
    """Rows chosen at random, and for each the nearest row of another region."""
    chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:most].to(x.device)
    found = []
    for rows in chosen.split(max(1, _CHUNK // len(x))):
        apart = offsets(x, x[rows])
        found.append(apart.masked_fill(region[rows, None] == region[None], torch.inf).argmin(1))
    return x[chosen], x[torch.cat(found)]


def chosen_points(x: Float[Tensor, "row d"], count: int, how: Place, seed: int) -> Float[Tensor, "point d"]:
    """Points where the data are: the centres of k-means, or rows chosen at random.

    Raises:
        InputError: No such way, or fewer different rows than points.
    """
    if how not in PLACES:
        raise InputError(unknown("way to place points", how, PLACES) + ", or the points themselves as a tensor")
    different: Tensor = torch.unique(x, dim=0)
    if len(different) < count:
        raise InputError(f"{count} points need as many different rows; the data have {len(different)}")
    if how == "rows":
        draw = torch.Generator().manual_seed(seed)
        return different[torch.randperm(len(different), generator=draw)[:count].to(x.device)]
    from sklearn.cluster import KMeans

    fitted = KMeans(count, n_init=1, max_iter=30, random_state=seed).fit(x.cpu().numpy())
    centres: Tensor = torch.as_tensor(fitted.cluster_centers_, dtype=x.dtype, device=x.device)
    return centres

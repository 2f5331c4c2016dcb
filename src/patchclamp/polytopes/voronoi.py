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
    centre = points.mean(0)
    centred = points - centre
    return torch.addmm(centred.square().sum(1), x - centre, centred.T, alpha=-2)


def nearest(
    points: Float[Tensor, "point d"], x: Float[Tensor, "row d"]
) -> tuple[Int[Tensor, " row"], Float[Tensor, " row"]]:
    """The nearest point of each row, and its squared distance."""
    region = torch.cat([offsets(points, part).argmin(1) for part in x.split(max(1, _CHUNK // len(points)))])
    return region, (x - points[region]).square().sum(1)


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
    current = slope.masked_fill(height > height.min(1, keepdim=True).values, torch.inf).argmin(1)
    last_time = height.new_zeros(len(height))
    times, regions = [], [current]
    while True:
        current_height, current_slope = (lines.gather(1, current[:, None]) for lines in (height, slope))
        t = ((height - current_height) / (current_slope - slope)).masked_fill(slope >= current_slope, torch.inf)
        t = t.maximum(last_time[:, None])
        earliest = t.min(1).values
        unfinished = earliest < 1
        if not unfinished.any():
            break
        steepest = slope.masked_fill(t > earliest[:, None], torch.inf).argmin(
            1
        )  # where several meet, it is the next to win
        current = torch.where(unfinished, steepest, current)
        last_time = torch.where(unfinished, earliest, last_time)
        times.append(earliest.masked_fill(~unfinished, torch.inf))
        regions.append(current)
    return torch.stack(times, 1) if times else height.new_zeros(len(height), 0), torch.stack(regions, 1)


def neighbours_across(
    x: Float[Tensor, "row d"], region: Int[Tensor, " row"], most: int, seed: int
) -> tuple[Float[Tensor, "pair d"], Float[Tensor, "pair d"]]:
    """Rows chosen at random, and for each the nearest row of another region."""
    samples = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:most].to(x.device)
    partners = []
    for rows in samples.split(max(1, _CHUNK // len(x))):
        distances = offsets(x, x[rows])
        partners.append(distances.masked_fill(region[rows, None] == region[None], torch.inf).argmin(1))
    return x[samples], x[torch.cat(partners)]


def choose_points(x: Float[Tensor, "row d"], count: int, how: Place, seed: int) -> Float[Tensor, "point d"]:
    """Points where the data are: the centres of k-means, or rows chosen at random.

    Raises:
        InputError: No such way, or fewer different rows than points.
    """
    if how not in PLACES:
        raise InputError(unknown("way to place points", how, PLACES) + ", or the points themselves as a tensor")
    distinct: Tensor = torch.unique(x, dim=0)
    if len(distinct) < count:
        raise InputError(f"{count} points need as many different rows; the data have {len(distinct)}")
    if how == "rows":
        generator = torch.Generator().manual_seed(seed)
        return distinct[torch.randperm(len(distinct), generator=generator)[:count].to(x.device)]
    from sklearn.cluster import KMeans

    clustering = KMeans(count, n_init=1, max_iter=30, random_state=seed).fit(x.cpu().numpy())
    centres: Tensor = torch.as_tensor(clustering.cluster_centers_, dtype=x.dtype, device=x.device)
    return centres

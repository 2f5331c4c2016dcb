"""A network whose regions are given by points: the nearest of N points picks the linear map."""

from collections.abc import Iterator
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from patchclamp.core import folders
from patchclamp.core.arguments import checked
from patchclamp.core.errors import InputError, ModelError
from patchclamp.core.interrupts import guarded
from patchclamp.core.kinds import Folder, Seed
from patchclamp.core.progress import Listener, task
from patchclamp.core.tensors import read_tensors, write_tensors
from patchclamp.polytopes.voronoi import Pieces, Place, choose_points, crossings, nearest, neighbours_across, offsets

if TYPE_CHECKING:
    import pandas as pd

CONFIG, WEIGHTS = "config.json", "model.safetensors"


MOST_NUMBERS = 2**31
"""Most numbers of all maps together: more would fill gigabytes before a row of data is seen."""


@checked
class NearestLinear(nn.Module):
    """``y = A_k x + b_k``, where ``k`` is the nearest of N points; its regions are Voronoi cells, so N, and readable.

    A network of N ReLUs chooses among up to 2^N linear maps, of which neighbours differ in rank one and agree on the face
    between them. Here the maps are free, so the output jumps at faces, and each must be stored: ``rank`` keeps one shared map
    and ``up_k down_k`` a region instead. In evaluation the choice is hard. In training the nearest ``neighbours`` are mixed
    by a softmax of their squared distances, which lets the points learn; before any training all regions have one map.

    Source: the discussion of Black et al. 2022 (arXiv 2211.12312), where a system of "N linear regions centred on N points"
    is named as another way to choose among linear maps.

    Args:
        d_in: Width of the input.
        d_out: Width of the output.
        regions: N.
        rank: The rank of each region's own part; None for a full map each, 0 for one map and an offset each.
        learn_points: Whether training moves the points.
        neighbours: Points mixed in training; 1 is the hard choice, through which points learn nothing.
        temperature: The temperature of the softmax, in units of ``spread``.
        seed: The seed of the first weights and points.

    Raises:
        InputError: A size that makes no sense.
    """

    points: nn.Parameter
    """``[regions, d_in]``."""
    bias: nn.Parameter
    """``[regions, d_out]``."""
    spread: Tensor
    """Mean squared distance of a row of data from its nearest point, as :meth:`place` found it; ``d_in`` before."""

    def __init__(
        self,
        d_in: int,
        d_out: int,
        regions: int,
        rank: int | None = None,
        *,
        learn_points: bool = False,
        neighbours: int = 4,
        temperature: float = 0.05,
        seed: Seed = 0,
    ) -> None:
        super().__init__()
        for name, size in {"d_in": d_in, "d_out": d_out, "regions": regions, "neighbours": neighbours}.items():
            if size < 1:
                raise InputError(f"{name} is at least 1; got {size}")
        if rank is not None and not 0 <= rank <= min(d_in, d_out):
            raise InputError(
                f"rank is None (full maps) or 0..{min(d_in, d_out)}, the smaller of d_in and d_out; got {rank}"
            )
        if not (isfinite(temperature) and temperature > 0):
            raise InputError(f"a temperature is a positive number; got {temperature!r}")
        region_numbers = d_in * d_out if rank is None else rank * (d_in + d_out)
        if (numbers := regions * (d_in + d_out + region_numbers) + d_in * d_out) > MOST_NUMBERS:
            raise InputError(
                f"{numbers:,} numbers are asked for, with d_in={d_in}, d_out={d_out}; valid: {MOST_NUMBERS:,} at most"
            )
        self.d_in, self.d_out, self.regions, self.rank = d_in, d_out, regions, rank
        self.neighbours, self.temperature = min(neighbours, regions), temperature
        generator = torch.Generator().manual_seed(seed)
        initial = (2 * torch.rand(d_out, d_in, generator=generator) - 1) / d_in**0.5
        self.points = nn.Parameter(torch.randn(regions, d_in, generator=generator), requires_grad=learn_points)
        self.bias = nn.Parameter(torch.zeros(regions, d_out))
        if rank is None:
            self.weight = nn.Parameter(initial.expand(regions, d_out, d_in).clone())
        else:
            self.shared = nn.Parameter(initial)
            self.up = nn.Parameter(torch.zeros(regions, d_out, rank))
            self.down = nn.Parameter(torch.randn(regions, rank, d_in, generator=generator) / d_in**0.5)
        self.register_buffer("spread", torch.tensor(float(d_in)))

    @property
    def parameter_count(self) -> int:
        """Numbers that it stores, points among them."""
        return sum(parameter.numel() for parameter in self.parameters())

    def extra_repr(self) -> str:
        """The sizes of the network, for ``print``."""
        maps = "full maps" if self.rank is None else f"one shared map and rank {self.rank} each"
        return f"{self.d_in} -> {self.d_out}, {self.regions} regions, {maps}"

    @checked
    def place(self, x: Float[Tensor, "row d_in"], how: Place | Tensor = "kmeans", *, seed: Seed = 0) -> Self:
        """Put the points where the data are, and measure their ``spread``.

        Args:
            x: Data.
            how: ``"kmeans"``, ``"rows"`` (chosen at random), or the points themselves ``[regions, d_in]``.
            seed: The seed of the choice.

        Raises:
            InputError: Too few different rows, another width, or NaN.
        """
        self._check(x)
        if isinstance(how, Tensor):
            self._check(how, "the points")
            if len(how) != self.regions:
                raise InputError(f"{self.regions} regions need as many points; got {len(how)}")
            points = how
        else:
            points = choose_points(x, self.regions, how, seed)
        with guarded(torch.no_grad()):
            self.points.copy_(points)
            limits = torch.finfo(x.dtype)
            # 0 where the points are the rows themselves: then the choice is all but hard, and its softmax stays finite
            floor = limits.eps * (x - x.mean(0)).square().sum(1).mean().clamp_min(limits.tiny / limits.eps)
            self.spread.copy_(nearest(self.points, x)[1].mean().maximum(floor))
        return self

    @checked
    def region(self, x: Float[Tensor, "row d_in"]) -> Int[Tensor, " row"]:
        """The nearest point of each row.

        Raises:
            InputError: Another width, or NaN.
        """
        self._check(x)
        with guarded(torch.no_grad()):
            return nearest(self.points, x)[0]

    def maps(self) -> tuple[Float[Tensor, "region d_out d_in"], Float[Tensor, "region d_out"]]:
        """Every region's ``A`` and ``b``."""
        if self.rank is None:
            return self.weight, self.bias
        return self.shared + self.up @ self.down, self.bias

    def forward(self, x: Float[Tensor, "row d_in"]) -> Float[Tensor, "row d_out"]:
        """The hard choice in evaluation, the softmax of the nearest in training.

        Raises:
            InputError: Another width, another type of number, or NaN.
        """
        self._check(x)
        return self._mix(x) if self.training else self._choose(x)

    def _choose(self, x: Tensor) -> Tensor:
        region = self.region(x)
        maps, bias = self.maps()
        order = region.argsort()
        region_ids, counts = region[order].unique_consecutive(return_counts=True)
        parts = [
            nn.functional.linear(rows, maps[k], bias[k])
            for k, rows in zip(region_ids.tolist(), x[order].split(counts.tolist()), strict=True)
        ]
        return torch.cat(parts)[order.argsort()]

    def _mix(self, x: Tensor) -> Tensor:
        distances, indices = offsets(self.points, x).topk(self.neighbours, dim=1, largest=False)
        weights = (-distances / (self.temperature * self.spread)).softmax(1)
        if self.rank is None:
            all_outputs = (x @ self.weight.flatten(0, 1).T).unflatten(1, (self.regions, self.d_out))
            parts = all_outputs.gather(1, indices.unsqueeze(2).expand(-1, -1, self.d_out)) + self.bias[indices]
            return torch.einsum("rm,rmo->ro", weights, parts)
        projections = (x @ self.down.flatten(0, 1).T).unflatten(1, (self.regions, self.rank))
        parts = projections.gather(1, indices.unsqueeze(2).expand(-1, -1, self.rank)) * weights.unsqueeze(2)
        offset = torch.einsum("rm,rmo->ro", weights, self.bias[indices])
        return x @ self.shared.T + torch.einsum("rmk,rmok->ro", parts, self.up[indices]) + offset

    @checked
    def fit(
        self,
        x: Float[Tensor, "row d_in"],
        y: Tensor,
        *,
        epochs: int = 4,
        batch: int = 100,
        rate: float = 1e-3,
        seed: Seed = 0,
        progress: bool | Listener | None = None,
    ) -> list[float]:
        """Train by Adam, in place; cross-entropy for labels (integers ``[row]``), squared error for numbers ``[row, d_out]``.

        Args:
            x: Rows.
            y: What to predict.
            epochs: Times through the rows, in a new order each.
            batch: Rows a step.
            rate: The learning rate of Adam.
            seed: The seed of the orders.
            progress: True for a bar, a function for events.

        Returns:
            The mean loss of each epoch.

        Raises:
            InputError: Rows and targets that do not fit, NaN, or settings that make no sense; before any work.
            ModelError: The loss is not finite.
        """
        self._check(x)
        targets, loss_of = self._targets(y, len(x))
        if epochs < 1 or batch < 1 or not (isfinite(rate) and rate > 0):
            raise InputError(f"epochs and batch are at least 1, a rate is positive; got {epochs}, {batch} and {rate!r}")
        generator = torch.Generator().manual_seed(seed)
        optimizer = torch.optim.Adam([p for p in self.parameters() if p.requires_grad], lr=rate)
        losses: list[float] = []
        with (
            guarded(_training(self)),
            task("fitting regions and maps", epochs, "epochs", show=progress) as bar,
        ):
            for _ in range(epochs):
                total = 0.0
                for rows in torch.randperm(len(x), generator=generator).split(batch):
                    loss = loss_of(self(x[rows]), targets[rows])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    total += loss.item() * len(rows)
                losses.append(total / len(x))
                if not isfinite(losses[-1]):
                    raise ModelError(f"the loss became {losses[-1]} in epoch {len(losses)}; a lower rate may help")
                bar.advance()
        return losses

    def _targets(self, y: Tensor, rows: int) -> tuple[Tensor, Any]:
        if len(y) != rows:
            raise InputError(f"{rows} rows need as many targets; got {len(y)}")
        if y.dtype in (torch.int64, torch.int32, torch.uint8) and y.ndim == 1:
            least, most = int(y.min()), int(y.max())
            if least < 0 or most >= self.d_out:
                raise InputError(f"labels are 0..{self.d_out - 1}, one an output; got {least}..{most}")
            return y.long(), nn.functional.cross_entropy
        if y.shape != (rows, self.d_out) or not y.is_floating_point():
            raise InputError(
                f"targets are integer labels [{rows}] or numbers [{rows}, {self.d_out}]; got {y.dtype} {list(y.shape)}"
            )
        if not y.isfinite().all():
            raise InputError("the targets hold NaN or infinity")
        return y, nn.functional.mse_loss

    @checked
    def segment(self, start: Float[Tensor, " d_in"], end: Float[Tensor, " d_in"]) -> Pieces:
        """Every region that the straight line from ``start`` to ``end`` crosses, exactly.

        Raises:
            InputError: Another width, NaN, or equal end points.
        """
        ends = torch.stack([start, end]) if start.shape == end.shape else start.new_zeros(0)
        self._check(ends, "the ends of a line")
        if torch.equal(start, end):
            raise InputError("a line needs two different end points")
        t, region = crossings(self.points.detach(), start[None], end[None])
        return Pieces(t[0], region[0])

    @checked
    def face_jumps(self, x: Float[Tensor, "row d_in"], *, most: int = 1000, seed: Seed = 0) -> "pd.DataFrame":
        """How far the output jumps at faces between neighbouring regions, where the data are.

        Rows chosen at random are joined to the nearest row of another region. Every face that such a line crosses is one that
        two regions really share, and the crossing is a point of it that lies between data.

        Args:
            x: Data.
            most: The largest number of rows to start from.
            seed: The seed of their choice.

        Returns:
            A row a crossing: the two regions; ``jump``, the distance of their two outputs there over the mean of the outputs'
            norms; ``map_distance``, the Frobenius norm of ``A_k - A_j`` over the mean of theirs.

        Raises:
            InputError: All rows are in one region.
        """
        import pandas as pd

        region = self.region(x)
        if bool((region == region[0]).all()):
            raise InputError("all rows are in one region, so no face lies between them")
        starts, ends = (side.double() for side in neighbours_across(x, region, most, seed))
        t, regions = crossings(self.points.detach(), starts, ends)
        line, step = t.isfinite().nonzero(as_tuple=True)
        points = starts[line] + t[line, step, None] * (ends - starts)[line]
        pairs = torch.stack([regions[line, step], regions[line, step + 1]], 1)
        jumps, distances = points.new_empty(len(points)), points.new_empty(len(points))
        maps, bias = (part.detach().double() for part in self.maps())
        faces, face_index = pairs.unique(dim=0, return_inverse=True)
        for number, (a, b) in enumerate(faces.tolist()):
            mask = face_index == number
            first, second = (points[mask] @ maps[k].T + bias[k] for k in (a, b))
            jumps[mask] = 2 * (first - second).norm(dim=1) / (first.norm(dim=1) + second.norm(dim=1))
            distances[mask] = 2 * (maps[a] - maps[b]).norm() / (maps[a].norm() + maps[b].norm())
        columns = {"region": pairs[:, 0], "neighbour": pairs[:, 1], "jump": jumps, "map_distance": distances}
        return pd.DataFrame({name: column.cpu().numpy() for name, column in columns.items()})

    @checked
    def low_rank(self, rank: int) -> "NearestLinear":
        """The nearest network with one shared map, the mean of all, and ``rank`` dimensions a region (truncated SVD).

        Equal to this one for ``rank = min(d_in, d_out)``.

        Raises:
            InputError: No such rank.
        """
        network = NearestLinear(self.d_in, self.d_out, self.regions, rank, **self._settings())
        network.to(self.points.device, self.points.dtype)
        with guarded(torch.no_grad()):
            maps, bias = self.maps()
            shared = maps.mean(0)
            u, s, v = torch.linalg.svd(maps - shared, full_matrices=False)
            network.up.copy_(u[..., :rank] * s[:, None, :rank])
            network.down.copy_(v[:, :rank])
            for parameter, value in ((network.shared, shared), (network.bias, bias), (network.points, self.points)):
                parameter.copy_(value)
            network.spread.copy_(self.spread)
        return network.train(self.training)

    def _settings(self) -> dict[str, Any]:
        return {
            "learn_points": self.points.requires_grad,
            "neighbours": self.neighbours,
            "temperature": self.temperature,
        }

    def _check(self, x: Tensor, what: str = "the data") -> None:
        if x.ndim != 2 or x.shape[1] != self.d_in or not len(x):
            raise InputError(f"{what} must have shape [row, {self.d_in}], with a row at least; got {list(x.shape)}")
        if x.dtype != self.points.dtype:
            raise InputError(f"{what} must be {self.points.dtype}, as the network is; got {x.dtype}")
        if not x.isfinite().all():
            raise InputError(f"{what} must be finite; row {int((~x.isfinite().all(1)).nonzero()[0])} is not")

    @checked
    def save_pretrained(self, folder: Folder, *, overwrite: bool = False) -> Path:
        """Write ``config.json`` and ``model.safetensors``; the folder then holds the network, or what it held before.

        Args:
            folder: Where; files of others in it are left alone.
            overwrite: Take the place of another thing of patchclamp's too. A file in the way that is not of an earlier network,
                or was changed since, becomes ``NAME.bak``.

        Raises:
            ModelError: A weight is not finite.
            InputError: Something else is in the way.
            StorageError: The system refused; the folder is as it was.
        """
        state = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        for name, value in state.items():
            if not value.isfinite().all():
                raise ModelError(f"{name} holds NaN or infinity, so {str(folder)!r} was not written")
        form, sizes = (
            folders.NEAREST_LINEAR,
            {name: getattr(self, name) for name in ("d_in", "d_out", "regions", "rank")},
        )
        record = {"format_version": form.version, "kind": form.kind, **sizes, **self._settings()}
        return folders.save(
            folder, form, record, lambda into: write_tensors(into / WEIGHTS, state), overwrite=overwrite
        )

    @classmethod
    @checked
    def from_pretrained(cls, folder: Folder) -> Self:
        """Open what :meth:`save_pretrained` wrote, in evaluation mode.

        Raises:
            InputError: The folder holds no such network, or a damaged one; nothing larger than its files is ever made.
        """
        path = Path(folder)
        with folders.opened(path, folders.NEAREST_LINEAR) as config:
            config = {name: value for name, value in config.items() if name not in ("files", "kind")}
            state = read_tensors(path / WEIGHTS)
            shapes = _shapes(config["d_in"], config["d_out"], config["regions"], config["rank"])
            if {name: tuple(value.shape) for name, value in state.items()} != shapes:
                raise ValueError(f"{CONFIG} and the shapes in {WEIGHTS} differ")
            network = cls(**config).to(state["points"].dtype)
            network.load_state_dict(state)
            return network.eval()


def _shapes(d_in: int, d_out: int, regions: int, rank: int | None) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors that are saved."""
    maps: dict[str, tuple[int, ...]] = {"weight": (regions, d_out, d_in)}
    if rank is not None:
        maps = {"shared": (d_out, d_in), "up": (regions, d_out, rank), "down": (regions, rank, d_in)}
    return {"points": (regions, d_in), "bias": (regions, d_out), "spread": (), **maps}


@contextmanager
def _training(module: nn.Module) -> Iterator[None]:
    """In training mode inside the block, and as before after it."""
    mode = module.training
    try:
        module.train()
        yield
    finally:
        module.train(mode)

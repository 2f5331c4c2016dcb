"""Adversarial paths: how many boundaries lie between a point and its adversarial example, against other paths as long."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from patchclamp.core.call import recorded
from patchclamp.core.errors import InputError, check_choice
from patchclamp.core.interrupts import guarded
from patchclamp.core.intervals import mean_row
from patchclamp.core.kinds import Labels, Points, Repeats, Seed
from patchclamp.core.progress import Listener, task
from patchclamp.core.result import DatasetResult
from patchclamp.interventions import provenance, to_numpy
from patchclamp.models.opened import OpenModel
from patchclamp.polytopes.attacks import Norm, attack, check_attack, classifier_inputs
from patchclamp.polytopes.gates import by_row
from patchclamp.polytopes.lines import decisions, whole_line
from patchclamp.polytopes.network import Network
from patchclamp.polytopes.points import prepare_network
from patchclamp.polytopes.segment import LIMIT

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

KINDS = ("pgd", "fgsm", "descent", "other class", "same class", "sign", "gauss")
PLACES = 11
"""Equally spaced points of a path at which later activations are read."""


@dataclass(eq=False)
class AdversarialPaths(DatasetResult):
    """Straight paths from points, by kind.

    ``data`` has dims ``path, point``: ``length`` (Euclidean), ``crossings``, ``bits`` (neurons that end on another piece than they
    began), ``first`` (distance to the first crossing), ``flip`` (distance to the first change of the verdict, NaN where there is
    none) and ``until_flip`` (crossings before it), ``flipped``, ``outside`` (coordinates of the end outside the box, which is 0 for
    clipped paths). With dims ``gate, place`` too: ``radius`` of what comes out of each gate, and its ``cosine`` to the start's.
    ``strip`` is every crossing of the first point: ``strip_path``, ``strip_layer``, and the distance ``strip_at``.
    """

    kind: ClassVar[str] = "paths"

    @property
    def density(self) -> "xr.DataArray":
        """Crossings a unit of length, ``[path, point]``."""
        return self.dataset["crossings"] / self.dataset["length"]

    def frame(self) -> "pd.DataFrame":
        """One row a path and point."""
        flat = self.dataset[[name for name, values in self.dataset.items() if values.dims == ("path", "point")]]
        return flat.assign(density=self.density).to_dataframe().reset_index()

    def summary(self, seed: Seed = 0) -> "pd.DataFrame":
        """One row a kind of path: means over points.

        ``density`` has a 95 % bootstrap interval over points (``least, most``); ``flip`` and ``density until flip`` are means over
        the points whose verdict changes; ``cosine`` and ``radius`` are of the last gate at the end, the radius over the start's.
        """
        import pandas as pd

        data, rows = self.dataset, []
        last = data.isel(gate=-1)
        for kind in data["path"].values:
            path_data, end = data.sel(path=kind), last.sel(path=kind)
            density = mean_row(self.density.sel(path=kind).values, seed)
            until = (path_data["until_flip"] / path_data["flip"]).values
            rows.append({
                "path": kind, "length": float(path_data["length"].mean()), "crossings": float(path_data["crossings"].mean()),
                "density": density["mean"], "least": density["low"], "most": density["high"],
                "re-crossings": 1 - float(path_data["bits"].sum()) / max(1, float(path_data["crossings"].sum())),
                "first": float(path_data["first"].mean()), "flipped": float(path_data["flipped"].mean()),
                "flip": _finite_mean(path_data["flip"].values), "density until flip": _finite_mean(until),
                "outside": float((path_data["outside"] > 0).mean()),
                "cosine": float(end["cosine"].isel(place=-1).mean()),
                "radius": float((end["radius"].isel(place=-1) / end["radius"].isel(place=0)).mean()),
            })  # fmt: skip
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        table = self.summary().drop(columns=["least", "most"])
        parameters = self.record["parameters"]
        head = f"{self.dataset.sizes['point']} points, eps {parameters['eps']:g} ({parameters['norm']})"
        return f"{head}\n" + table.to_string(index=False, float_format=lambda value: f"{value:.3g}")


@recorded
def adversarial_paths(
    model: OpenModel,
    points: Points,
    labels: Labels,
    *,
    eps: float = 0.15,
    norm: Norm = "linf",
    kinds: Sequence[str] = KINDS,
    steps: Repeats = 20,
    rate: float | None = None,
    box: tuple[float, float] | None = None,
    clip: bool = True,
    seed: Seed = 0,
    limit: int = LIMIT,
    progress: bool | Listener | None = None,
) -> AdversarialPaths:
    """Walk from points to their adversarial examples, and along other paths of the same length, and count what is crossed.

    The kinds: ``"pgd"`` and ``"fgsm"``, straight to what the attack finds; ``"descent"``, PGD that makes the loss smaller (as
    sensitive, and no attack); ``"other class"`` and ``"same class"``, as far toward
    another of the points; ``"sign"``, ``eps`` in each coordinate with random signs (for ``norm="l2"`` scaled to length ``eps``);
    ``"gauss"``, a Gaussian direction. The paths toward points and the Gaussian are as long as the point's PGD path.

    Args:
        model: A piecewise-linear classifier.
        points: ``[point, *shape]``.
        labels: The class of each point, ``[point]``.
        eps: Radius of the attacks' ball.
        norm: The norm of the ball, ``"linf"`` or ``"l2"``.
        kinds: The kinds of path to walk.
        steps: The number of steps of PGD.
        rate: Length of a step of PGD; ``2.5 eps / steps`` by default.
        box: Smallest and largest coordinate of valid points, as ``(0, 1)`` for images.
        clip: Whether ends are clipped to the box; else ``outside`` tells which leave it.
        seed: The seed of random directions and of the choice of the other point that is walked to.
        limit: The most crossings that one path may have.
        progress: True for a bar, a function for events.

    Raises:
        InputError: As for :meth:`patchclamp.Model.attack`; an unknown kind; no other point of the class that a path needs.
        ModelError: The network is not piecewise linear, or no classifier.
        BudgetError: A path crosses more than ``limit`` boundaries.
    """
    for name in kinds:
        check_choice("path", name, KINDS)
    if not len(kinds):
        raise InputError(f"no kind of path was given; valid: {', '.join(KINDS)}")
    check_attack(eps, "pgd", norm, steps, rate)
    x, truth = classifier_inputs(model, points, labels, box)
    network = prepare_network(model, x[:1], "exact crossings of a path")
    clip_box = box if clip else None
    ends = _ends(model, x, truth, kinds, eps, norm, steps, rate, clip_box, seed)
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in ends}
    strips: list[tuple[str, Any]] = []
    with guarded(torch.no_grad()), task("paths", len(ends) * len(x), "paths", show=progress) as bar:
        for name, targets in ends.items():
            for number, (point, target) in enumerate(zip(x.split(1), targets.split(1), strict=True)):
                row, events = _walk_path(network, point, target, box, limit)
                rows[name].append(row)
                if number == 0:
                    strips.append((name, events))
                bar.advance()
    record = provenance(model, (), points=x.cpu(), labels=truth.cpu())
    return AdversarialPaths(_dataset(rows, strips, [gate.name for gate in network.gates]), *record)


def _ends(
    model: OpenModel, x: Tensor, truth: Tensor, kinds: Sequence[str], eps: float, norm: Norm, steps: int, rate: float | None,
    box: tuple[float, float] | None, seed: int,
) -> dict[str, Tensor]:  # fmt: skip
    """Where each kind of path ends, ``[point, *shape]``."""
    generator = torch.Generator().manual_seed(seed)
    adversarial = attack(model, x, truth, eps=eps, norm=norm, steps=steps, rate=rate, box=box)
    length = (adversarial - x).flatten(1).norm(dim=1)
    stationary = (length == 0).nonzero()
    if len(stationary):
        raise InputError(f"the loss has no gradient at point {int(stationary[0])}, so that no attack moves it")
    ends: dict[str, Tensor] = {"pgd": adversarial}
    for name in kinds:
        if name == "fgsm":
            ends[name] = attack(model, x, truth, eps=eps, norm=norm, method="fgsm", box=box)
        elif name == "descent":
            ends[name] = attack(model, x, truth, eps=eps, norm=norm, steps=steps, rate=rate, box=box, lower=True)
        elif name in ("other class", "same class"):
            partners = x[_partners(truth, name == "same class", generator)]
            distance = (partners - x).flatten(1).norm(dim=1)
            fraction = (length / distance.clamp(min=1e-12)).clamp(max=1.0)
            ends[name] = x + fraction.reshape(-1, *[1] * (x.dim() - 1)) * (partners - x)
        elif name in ("sign", "gauss"):
            random = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)
            if name == "sign" and norm == "linf":
                offset = eps * random.sign()
            else:
                direction = random.sign() if name == "sign" else random
                unit = direction / direction.flatten(1).norm(dim=1).reshape(-1, *[1] * (x.dim() - 1))
                offset = unit * (length.reshape(-1, *[1] * (x.dim() - 1)) if name == "gauss" else eps)
            ends[name] = x + offset if box is None else (x + offset).clamp(*box)
    return {name: ends[name] for name in kinds}


def _partners(truth: Tensor, same: bool, generator: torch.Generator) -> Tensor:
    """For each point, another one of its class or of another class."""
    partners = []
    for number, label in enumerate(truth.tolist()):
        mask = (truth == label) if same else (truth != label)
        mask = mask.clone()
        mask[number] = False
        candidates = mask.nonzero().squeeze(1)
        if not len(candidates):
            description = f"other point of class {label}" if same else f"point of another class than {label}"
            raise InputError(f"there is no {description}; give more points, or leave this kind of path out")
        partners.append(candidates[int(torch.randint(len(candidates), (1,), generator=generator))])
    return torch.stack(partners)


def _walk_path(
    network: Network, a: Tensor, b: Tensor, box: tuple[float, float] | None, limit: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What one path crosses and how later activations move on it; and the distances of its crossings by layer."""
    length = float((b - a).double().norm())
    if length == 0:
        raise InputError("a path ends where it begins: two of the points are equal, or the box leaves no room")
    walk = whole_line(network, a, b, None, limit, "a path", "a smaller eps")
    changes, _ = decisions(walk.t, walk.values)
    distances = {name: to_numpy(event[0]) * length for name, event in walk.events.items()}
    all_distances = np.concatenate(list(distances.values())) if distances else np.zeros(0)
    flip = changes[0] * length if changes else np.nan
    t = torch.linspace(0, 1, PLACES, dtype=a.dtype, device=a.device).reshape(-1, *[1] * (a.dim() - 1))
    outputs = {name: by_row(out).double() for name, (_, out) in network.gated(torch.lerp(a, b, t)).items()}
    radius = {name: rows.norm(dim=1) for name, rows in outputs.items()}
    cosine = {
        name: (rows @ rows[0]) / (radius[name] * radius[name][0]).clamp(min=1e-300) for name, rows in outputs.items()
    }
    outside = 0 if box is None else int(((b < box[0]) | (b > box[1])).sum())
    row = {
        "length": length, "crossings": len(all_distances), "first": float(all_distances.min()) if len(all_distances) else np.nan,
        "bits": sum(int((walk.first[name] != walk.last[name]).sum()) for name in distances),
        "flip": flip, "until_flip": float((all_distances <= flip).sum()) if changes else np.nan, "flipped": bool(changes),
        "outside": outside,
        "radius": np.stack([to_numpy(values) for values in radius.values()]),
        "cosine": np.stack([to_numpy(values) for values in cosine.values()]),
        "layers": [len(values) for values in distances.values()],
    }  # fmt: skip
    return row, distances


def _dataset(rows: dict[str, list[dict[str, Any]]], strips: list[tuple[str, Any]], gates: list[str]) -> "xr.Dataset":
    import xarray as xr

    def table(name: str) -> Any:
        return np.array([[row[name] for row in path_rows] for path_rows in rows.values()])

    dims = ("path", "point")
    scalars = ("length", "crossings", "bits", "first", "flip", "until_flip", "flipped", "outside")
    arrays: dict[str, Any] = {name: (dims, table(name)) for name in scalars}
    arrays |= {name: ((*dims, "gate", "place"), table(name)) for name in ("radius", "cosine")}
    arrays["layer_crossings"] = ((*dims, "gate"), table("layers"))
    crossings = [
        (name, layer, value) for name, places in strips for layer, values in places.items() for value in np.sort(values)
    ]
    for column, (name, kind) in enumerate((("strip_path", object), ("strip_layer", object), ("strip_at", float))):
        arrays[name] = ("crossing", np.array([crossing[column] for crossing in crossings], dtype=kind))
    labels = {
        "path": np.array(list(rows), dtype=object), "gate": np.array(gates, dtype=object), "place": np.linspace(0, 1, PLACES),
    }  # fmt: skip
    return xr.Dataset(arrays, labels)


def _finite_mean(values: Any) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")

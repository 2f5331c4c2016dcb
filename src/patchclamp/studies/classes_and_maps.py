"""How much of a network's power is in its classes, how much in its maps?

The discussion of the polytope lens (Black, Sharkey et al. 2022, arXiv 2211.12312) says that a ReLU network learns two things at
once: to sort inputs into exponentially many classes, and a linear map for each. Could the two be had apart? "N linear regions
centred on N points" would be another way to choose among maps. And: "How much of the power of neural networks comes from their
ability to learn to classify something into exponentially many different classes vs from the linear transformations that each
class implements? Does this question even make sense?"

Here both are tried on pictures of ten classes. First, the nearest of N points picks the map, beside ReLU networks that store as
many numbers. Then a ReLU network is taken apart: the gates of one network, the linear maps of another, each random, trained or
taken from a trained network.
"""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

import patchclamp as pc
from patchclamp.core.errors import InputError
from patchclamp.core.files import read_record, write_record
from patchclamp.core.interrupts import guarded
from patchclamp.core.progress import Listener, task
from patchclamp.studies import digits
from patchclamp.studies.gated import Decoupled, bits, frozen
from patchclamp.studies.result import StudyFiles, StudyResult, as_text, records

REGIONS, RANK = (16, 64, 256), 4
PLACES: dict[str, tuple[Literal["kmeans", "rows"], bool]] = {
    "k-means": ("kmeans", False), "random images": ("rows", False), "learned": ("kmeans", True)
}  # fmt: skip
"""How points are chosen, and whether training moves them."""
FLOOR, NEAREST, TIED = "one linear map", "nearest points", "ReLU network"
DRAWN = "nearest points, 64, full, learned"
SHOWN = {
    "nearest points, 64, full, k-means": "64 points, k-means",
    DRAWN: "64 points, learned",
    "ReLU network, 64, full, k-means": "ReLU network of as many numbers",
}
"""Networks whose faces are measured."""
TABLES = ("points", "gates", "faces")
CONDITIONS = (
    (TIED, "trained", "trained"),
    ("gates and maps, two networks", "trained", "trained"),
    ("maps alone", "random", "trained"),
    ("gates alone", "trained", "random"),
    ("maps on a trained network's gates", "reused", "trained"),
    ("gates for a trained network's maps", "trained", "reused"),
    ("maps on gates of shuffled labels", "of shuffled labels", "trained"),
    ("gates of one, maps of another", "reused", "random"),
)
"""What is tried, where its gates come from, and its maps; the last two are controls. All but "trained" is frozen."""
CONTROLS = CONDITIONS[-2:]


@dataclass(frozen=True)
class NetworkSetting:
    """What the numbers hang on."""

    data: digits.Data = "mnist"
    seeds: int = 3
    train: int = 10_000
    """Images to learn from, drawn anew for each seed."""
    epochs: int = 5
    width: int = 256
    """Of the two hidden layers that are taken apart."""


@dataclass(frozen=True)
class ClassesAndMaps(StudyResult):
    """What the study found. Accuracy is that of the test images; a row a network and seed."""

    setting: NetworkSetting
    points: pd.DataFrame
    """Networks of nearest points, with what their regions alone say (``vote``), and ReLU networks of as many numbers."""
    gates: pd.DataFrame
    """Gates and maps of two networks; and what a linear read-out of the gates alone says."""
    faces: pd.DataFrame
    """Between each of some images and the nearest one of another class: faces crossed, and how the maps differ."""
    centres: Tensor
    """``[point, 784]``: the learned points of one network, seed 0."""
    says: pd.DataFrame
    """Of each of those points: the commonest class of its training images, its share, and how many they are."""

    def averages(self) -> dict[str, pd.DataFrame]:
        """Means over seeds, with 95 % intervals of the mean (Student's t)."""
        return {
            "points": _averaged(self.points, ["network", "regions", "maps", "points", "parameters"], ["accuracy", "vote", "jump"]),
            "gates": _averaged(self.gates, ["what", "gates", "maps"], ["accuracy"]),
            "faces": _averaged(self.faces, ["network"], ["faces", "at a face", "end to end", "jump"]),
        }  # fmt: skip

    def summary(self) -> dict[str, Any]:
        """The numbers, as plain JSON."""
        return {name: records(table) for name, table in self.averages().items()}

    def findings(self) -> list[str]:
        """What was found, in sentences."""
        found = self.averages()
        own = found["gates"].set_index("what")["accuracy"]
        controls = [what for what, _, _ in CONTROLS]
        parts = [f"{what} {own[what]:.3f}" for what, _, _ in CONDITIONS if what not in controls]
        nearest = found["points"][found["points"]["network"] == NEAREST]
        best = nearest.sort_values("accuracy").iloc[-1]
        relu = found["points"][found["points"]["network"] == TIED].set_index("parameters")["accuracy"]
        said = [
            f"{FLOOR} {own[FLOOR]:.3f}; {'; '.join(parts)}.",
            f"Controls: {'; '.join(f'{what} {own[what]:.3f}' for what in controls)}.",
            f"The best network of nearest points ({best['regions']:.0f} points, {best['points']}, {best['maps']}): "
            f"{best['accuracy']:.3f}; what its regions alone say: {best['vote']:.3f}; a ReLU network of as many numbers: "
            f"{relu[best['parameters']]:.3f}.",
        ]
        for row in found["faces"].to_dict("records"):
            said.append(
                f"{row['network']}, between an image and the nearest one of another class: {row['faces']:.1f} faces; distance of "
                f"maps {row['at a face']:.3f} at a face, {row['end to end']:.2f} from end to end; jump of the output "
                f"{row['jump']:.2f}."
            )
        return said

    def text(self) -> str:
        """The tables, for a terminal."""
        parts = [part for name, table in self.averages().items() for part in (name.capitalize(), table, "")]
        return as_text(*parts, *self.findings(), absent="")

    def files(self) -> StudyFiles:
        """Averages and what they are of, accuracies and learned points as pictures, and the report."""
        from patchclamp.studies.classes_and_maps_figures import curves, points

        drawn = {"figure": curves(self), "points": points(self)}
        tables = self.averages()
        return StudyFiles(
            "Classes and maps",
            [
                ("What was found", "\n\n".join(self.findings())),
                ("Accuracy", drawn["figure"]),
                ("Learned points", drawn["points"]),
                *((name.capitalize(), table) for name, table in tables.items()),
            ],
            tables=tables | {f"{name}-by-seed": getattr(self, name) for name in tables},
            figures=drawn,
            evidence={"setting": asdict(self.setting)},
        )


def _averaged(table: pd.DataFrame, by: list[str], what: list[str]) -> pd.DataFrame:
    """Means over seeds, the first with its interval."""
    from scipy.stats import t

    grouped = table.groupby(by, sort=False, dropna=False)
    found, count = grouped[what].mean(), grouped.size().to_numpy()
    reach = t.ppf(0.975, np.maximum(count - 1, 1)) * grouped[what[0]].std().to_numpy() / np.sqrt(count)
    found.insert(1, "low", found[what[0]] - reach)
    found.insert(2, "high", found[what[0]] + reach)
    return found.reset_index()


def measure_points(
    data: digits.Images, setting: NetworkSetting, seed: int
) -> Iterator[tuple[str, dict[str, Any], nn.Module]]:
    """Networks of nearest points, each sort followed by a ReLU network of one hidden layer that stores as many numbers.

    Yields:
        A name, the measurements, and the network.
    """
    plans: list[tuple[int, int | None, str]] = [(1, None, "k-means")]
    plans += [
        (n, rank, how) for n in REGIONS for rank in (None, RANK) for how in PLACES if rank or how != "random images"
    ]
    placed: dict[tuple[int, str], Tensor] = {}
    for count, rank, how in plans:
        place, learn = PLACES[how]
        network = pc.polytopes.NearestLinear(784, 10, count, rank, learn_points=learn, seed=seed)
        network.place(data.train, placed.get((count, place), place), seed=seed)
        placed[count, place] = network.points.detach().clone()
        sort = {"regions": count, "maps": "full" if rank is None else f"rank {rank}", "points": how}
        size = network.parameter_count
        row = {"parameters": size, "accuracy": _trained(network, data, setting, seed)}
        if count == 1:
            yield FLOOR, {"network": FLOOR, **sort, **row}, network
            continue
        row |= {"vote": vote(network, data), "jump": float(network.face_jumps(data.test, most=200)["jump"].median())}
        said = ", ".join(map(str, sort.values()))
        yield f"{NEAREST}, {said}", {"network": NEAREST, **sort, **row}, network
        if how == "k-means":
            relu = _shallow(size, seed)
            row = {"parameters": size, "accuracy": _trained(relu, data, setting, seed)}
            yield f"{TIED}, {said}", {"network": TIED, **row}, relu


def _trained(network: nn.Module, data: digits.Images, setting: NetworkSetting, seed: int) -> float:
    return digits.train(network, data, epochs=setting.epochs, seed=seed, progress=False).accuracy[-1]


def _shallow(numbers: int, seed: int) -> nn.Sequential:
    """784-w-10 with about so many weights."""
    with guarded(torch.random.fork_rng(devices=[])):
        torch.manual_seed(seed)
        width = round((numbers - 10) / 795)
        return nn.Sequential(nn.Linear(784, width), nn.ReLU(), nn.Linear(width, 10))


def _linear(width: int, seed: int) -> nn.Linear:
    """One affine map to the ten classes."""
    with guarded(torch.random.fork_rng(devices=[])):
        torch.manual_seed(seed)
        return nn.Linear(width, 10)


def vote(network: Any, data: digits.Images) -> float:
    """Accuracy of what regions alone say: the commonest class of the training images in each."""
    counts = counted(network, data)
    return float((counts.argmax(1)[network.region(data.test)] == data.test_labels).float().mean())


def counted(network: Any, data: digits.Images) -> Tensor:
    """Training images of each class in each region, ``[region, class]``."""
    counts = torch.zeros(network.regions, 10)
    counts.index_put_((network.region(data.train), data.train_labels), torch.ones(len(data.train)), accumulate=True)
    return counts


def measure_gates(data: digits.Images, setting: NetworkSetting, seed: int) -> list[dict[str, Any]]:
    """A network of two hidden layers, taken apart in every way of :data:`CONDITIONS`."""

    def new(number: int) -> nn.Sequential:
        return digits.network("mlp", width=setting.width, seed=1000 * seed + number)

    relu, confused = new(0), new(0)
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))
    shuffled = digits.Images(data.train, data.train_labels[order], data.test, data.test_labels, data.names)
    _trained(confused, shuffled, setting, seed)
    rows = [
        {"what": FLOOR, "maps": "trained", "accuracy": _trained(_linear(784, seed), data, setting, seed)},
        {"what": TIED, "gates": "trained", "maps": "trained", "accuracy": _trained(relu, data, setting, seed)},
    ]
    sources: dict[str, Callable[[int], nn.Sequential]] = {
        "trained": new,
        "random": lambda number: frozen(new(number)),
        "reused": lambda _: frozen(deepcopy(relu)),
        "of shuffled labels": lambda _: frozen(deepcopy(confused)),
    }
    for what, gates, maps in CONDITIONS[1:]:
        network = Decoupled(sources[gates](1), sources[maps](2)).eval()
        learns = any(parameter.requires_grad for parameter in network.parameters())
        accuracy = (
            _trained(network, data, setting, seed)
            if learns
            else digits.evaluate(network, data.test, data.test_labels)[1]
        )
        rows.append({"what": what, "gates": gates, "maps": maps, "accuracy": accuracy})
    for name, source in {"trained": relu, "random": new(1), "of shuffled labels": confused}.items():
        codes = digits.Images(
            bits(source, data.train), data.train_labels, bits(source, data.test), data.test_labels, data.names
        )
        readout = _linear(codes.train.shape[1], seed)
        rows.append(
            {"what": "linear read-out of gates", "gates": name, "accuracy": _trained(readout, codes, setting, seed)}
        )
    return [{"seed": seed, **row} for row in rows]


def measure_faces(network: nn.Module, data: digits.Images, most: int = 200) -> dict[str, float]:
    """Along lines from images to the nearest one of another class: faces crossed, and how maps and outputs differ.

    Distances of maps are Frobenius norms of differences over the mean of the two maps' norms: at the face nearest the middle of
    the line, and between its ends.

    Args:
        network: Of nearest points, or ``Linear, ReLU, Linear``.
        data: Whose test images are joined.
        most: Lines.
    """
    starts = data.test[:most]
    apart = torch.cdist(starts, data.test)
    apart[data.test_labels[:most, None] == data.test_labels[None]] = torch.inf
    ends = data.test[apart.argmin(1)]
    with guarded(torch.no_grad()):
        joined = _relu_faces if isinstance(network, nn.Sequential) else _nearest_faces
        found = joined(network, starts, ends)  # type: ignore[arg-type]
    counts, at_faces, whole, jumps = (np.array(values) for values in found)
    numbers = {"faces": counts.mean(), "at a face": np.median(at_faces), "end to end": np.median(whole)}
    return {name: float(value) for name, value in {**numbers, "jump": np.median(jumps)}.items()}


def _nearest_faces(network: Any, starts: Tensor, ends: Tensor) -> tuple[list[float], ...]:
    maps, bias = network.maps()
    counts: list[float] = []
    at_faces, whole, jumps = [], [], []
    for start, end in zip(starts, ends, strict=True):
        pieces = network.segment(start, end)
        counts.append(len(pieces) - 1)
        whole.append(_apart(maps[pieces.region[0]], maps[pieces.region[-1]]))
        if len(pieces) > 1:
            middle = int((pieces.t - 0.5).abs().argmin())
            a, b = pieces.region[middle : middle + 2].tolist()
            at = start + pieces.t[middle].to(start.dtype) * (end - start)
            at_faces.append(_apart(maps[a], maps[b]))
            jumps.append(_apart(maps[a] @ at + bias[a], maps[b] @ at + bias[b]))
    return counts, at_faces, whole, jumps


def _relu_faces(network: nn.Sequential, starts: Tensor, ends: Tensor) -> tuple[list[float], ...]:
    """At a face one neuron's ``w_out w_in`` comes or goes, and the output does not jump."""
    first, last = (layer.weight for layer in network if isinstance(layer, nn.Linear))
    z, later = network[0](starts), network[0](ends)
    crossed = (z > 0) != (later > 0)
    t = z / (z - later)
    neuron = (t - 0.5).abs().masked_fill(~crossed, torch.inf).argmin(1, keepdim=True)
    gates = (z + t.gather(1, neuron) * (later - z) > 0).to(z.dtype)
    at_faces, whole = [], []
    for line, open_ in enumerate(gates):
        if crossed[line].any():
            here = open_.scatter(0, neuron[line], 0.0)
            without = last @ (here[:, None] * first)
            at_faces.append(_apart(without, without + last[:, neuron[line]] @ first[neuron[line]]))
        whole.append(_apart(*(last @ ((end[line] > 0)[:, None] * first) for end in (z, later))))
    return crossed.sum(1).float().tolist(), at_faces, whole, [0.0]


def _apart(a: Tensor, b: Tensor) -> float:
    return float(2 * (a - b).norm() / (a.norm() + b.norm()))


def study(
    out: str | Path | None = None, setting: NetworkSetting | None = None, *, progress: bool | Listener | None = None
) -> ClassesAndMaps:
    """Run the experiment.

    Args:
        out: Folder for ``report.html``, figures and tables; a seed that is finished there is not measured again.
        setting: Data, seeds and sizes.
        progress: True for a bar.

    Raises:
        InputError: No seeds, or sizes that make no sense; before any work.
    """
    given = NetworkSetting() if setting is None else setting
    for name in ("seeds", "train", "epochs", "width"):
        if getattr(given, name) < 1:
            raise InputError(f"{name} is at least 1; got {getattr(given, name)}")
    data = digits.images(given.data)
    if given.train > len(data.train):
        raise InputError(f"{given.data} has {len(data.train)} images to train on; got train={given.train}")
    home = None if out is None else Path(out)
    with task("networks of each seed", given.seeds, "seeds", show=progress) as running:
        parts = []
        for seed in range(given.seeds):
            parts.append(_of_seed(data, given, seed, home))
            running.advance()
    tables = {name: pd.concat([pd.DataFrame(part[name]) for part in parts], ignore_index=True) for name in TABLES}
    centres = parts[0]["centres"]
    found = ClassesAndMaps(given, **tables, centres=torch.tensor(centres), says=pd.DataFrame(parts[0]["says"]))
    if home is not None:
        found.save(home)
    return found


def _of_seed(data: digits.Images, setting: NetworkSetting, seed: int, home: Path | None) -> dict[str, Any]:
    """All measurements of one seed, as plain lists; read from ``seed-N.json`` if it holds those of this setting."""
    asked = {**asdict(setting), "seeds": None}
    kept = None if home is None else home / "seeds" / f"seed-{seed}.json"
    if kept is not None and kept.is_file() and (said := read_record(kept)).get("asked") == asked:
        return dict(said["found"])
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))[: setting.train]
    own = digits.Images(data.train[order], data.train_labels[order], data.test, data.test_labels, data.names)
    found: dict[str, Any] = {"points": [], "gates": measure_gates(own, setting, seed), "faces": []}
    for name, row, network in measure_points(own, setting, seed):
        found["points"].append({"seed": seed, **row})
        if name in SHOWN:
            found["faces"].append({"seed": seed, "network": SHOWN[name], **measure_faces(network, own)})
        if name == DRAWN:
            counts = counted(network, own)
            found["centres"] = network.get_parameter("points").tolist()
            found["says"] = {
                "class": [own.names[k] for k in counts.argmax(1)],
                "share": (counts.max(1).values / counts.sum(1).clamp_min(1)).tolist(),
                "images": counts.sum(1).int().tolist(),
            }
    if kept is not None:
        write_record(kept, {"asked": asked, "found": found})
    return found

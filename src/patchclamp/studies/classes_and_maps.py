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
from patchclamp.studies.gated import Decoupled, bits, freeze
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
    """Each of the two hidden layers that are taken apart has this many neurons."""


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
    """Each row gives, for one of those points, the commonest class of its training images, its share, and how many they are."""

    def averages(self) -> dict[str, pd.DataFrame]:
        """Means over seeds, with 95 % intervals of the mean (Student's t)."""
        return {
            "points": _average(self.points, ["network", "regions", "maps", "points", "parameters"], ["accuracy", "vote", "jump"]),
            "gates": _average(self.gates, ["what", "gates", "maps"], ["accuracy"]),
            "faces": _average(self.faces, ["network"], ["faces", "at a face", "end to end", "jump"]),
        }  # fmt: skip

    def summary(self) -> dict[str, Any]:
        """The numbers, as plain JSON."""
        return {name: records(table) for name, table in self.averages().items()}

    def findings(self) -> list[str]:
        """What was found, in sentences."""
        averages = self.averages()
        accuracy = averages["gates"].set_index("what")["accuracy"]
        controls = [what for what, _, _ in CONTROLS]
        parts = [f"{what} {accuracy[what]:.3f}" for what, _, _ in CONDITIONS if what not in controls]
        nearest = averages["points"][averages["points"]["network"] == NEAREST]
        best = nearest.sort_values("accuracy").iloc[-1]
        relu = averages["points"][averages["points"]["network"] == TIED].set_index("parameters")["accuracy"]
        sentences = [
            f"{FLOOR} {accuracy[FLOOR]:.3f}; {'; '.join(parts)}.",
            f"Controls: {'; '.join(f'{what} {accuracy[what]:.3f}' for what in controls)}.",
            f"The best network of nearest points ({best['regions']:.0f} points, {best['points']}, {best['maps']}): "
            f"{best['accuracy']:.3f}; what its regions alone say: {best['vote']:.3f}; a ReLU network of as many numbers: "
            f"{relu[best['parameters']]:.3f}.",
        ]
        for row in averages["faces"].to_dict("records"):
            sentences.append(
                f"{row['network']}, between an image and the nearest one of another class: {row['faces']:.1f} faces; distance of "
                f"maps {row['at a face']:.3f} at a face, {row['end to end']:.2f} from end to end; jump of the output "
                f"{row['jump']:.2f}."
            )
        return sentences

    def text(self) -> str:
        """The tables, for a terminal."""
        parts = [part for name, table in self.averages().items() for part in (name.capitalize(), table, "")]
        return as_text(*parts, *self.findings(), absent="")

    def files(self) -> StudyFiles:
        """Averages and what they are of, accuracies and learned points as pictures, and the report."""
        from patchclamp.studies.classes_and_maps_figures import curves, points

        figures = {"figure": curves(self), "points": points(self)}
        tables = self.averages()
        return StudyFiles(
            "Classes and maps",
            [
                ("What was found", "\n\n".join(self.findings())),
                ("Accuracy", figures["figure"]),
                ("Learned points", figures["points"]),
                *((name.capitalize(), table) for name, table in tables.items()),
            ],
            tables=tables | {f"{name}-by-seed": getattr(self, name) for name in tables},
            figures=figures,
            evidence={"setting": asdict(self.setting)},
        )


def _average(table: pd.DataFrame, by: list[str], what: list[str]) -> pd.DataFrame:
    """Means over seeds, the first with its interval."""
    from scipy.stats import t

    groups = table.groupby(by, sort=False, dropna=False)
    means, count = groups[what].mean(), groups.size().to_numpy()
    half_width = t.ppf(0.975, np.maximum(count - 1, 1)) * groups[what[0]].std().to_numpy() / np.sqrt(count)
    means.insert(1, "low", means[what[0]] - half_width)
    means.insert(2, "high", means[what[0]] + half_width)
    return means.reset_index()


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
    points_by_plan: dict[tuple[int, str], Tensor] = {}
    for count, rank, how in plans:
        place, learn = PLACES[how]
        network = pc.polytopes.NearestLinear(784, 10, count, rank, learn_points=learn, seed=seed)
        network.place(data.train, points_by_plan.get((count, place), place), seed=seed)
        points_by_plan[count, place] = network.points.detach().clone()
        sort = {"regions": count, "maps": "full" if rank is None else f"rank {rank}", "points": how}
        size = network.parameter_count
        row = {"parameters": size, "accuracy": _train(network, data, setting, seed)}
        if count == 1:
            yield FLOOR, {"network": FLOOR, **sort, **row}, network
            continue
        row |= {"vote": vote(network, data), "jump": float(network.face_jumps(data.test, most=200)["jump"].median())}
        label = ", ".join(map(str, sort.values()))
        yield f"{NEAREST}, {label}", {"network": NEAREST, **sort, **row}, network
        if how == "k-means":
            relu = _shallow(size, seed)
            row = {"parameters": size, "accuracy": _train(relu, data, setting, seed)}
            yield f"{TIED}, {label}", {"network": TIED, **row}, relu


def _train(network: nn.Module, data: digits.Images, setting: NetworkSetting, seed: int) -> float:
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
    counts = count_classes(network, data)
    return float((counts.argmax(1)[network.region(data.test)] == data.test_labels).float().mean())


def count_classes(network: Any, data: digits.Images) -> Tensor:
    """Training images of each class in each region, ``[region, class]``."""
    counts = torch.zeros(network.regions, 10)
    counts.index_put_((network.region(data.train), data.train_labels), torch.ones(len(data.train)), accumulate=True)
    return counts


def measure_gates(data: digits.Images, setting: NetworkSetting, seed: int) -> list[dict[str, Any]]:
    """A network of two hidden layers, taken apart in every way of :data:`CONDITIONS`."""

    def new(number: int) -> nn.Sequential:
        return digits.network("mlp", width=setting.width, seed=1000 * seed + number)

    relu, relu_of_shuffled = new(0), new(0)
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))
    shuffled_data = digits.Images(data.train, data.train_labels[order], data.test, data.test_labels, data.names)
    _train(relu_of_shuffled, shuffled_data, setting, seed)
    rows = [
        {"what": FLOOR, "maps": "trained", "accuracy": _train(_linear(784, seed), data, setting, seed)},
        {"what": TIED, "gates": "trained", "maps": "trained", "accuracy": _train(relu, data, setting, seed)},
    ]
    sources: dict[str, Callable[[int], nn.Sequential]] = {
        "trained": new,
        "random": lambda number: freeze(new(number)),
        "reused": lambda _: freeze(deepcopy(relu)),
        "of shuffled labels": lambda _: freeze(deepcopy(relu_of_shuffled)),
    }
    for what, gates, maps in CONDITIONS[1:]:
        network = Decoupled(sources[gates](1), sources[maps](2)).eval()
        learns = any(parameter.requires_grad for parameter in network.parameters())
        accuracy = (
            _train(network, data, setting, seed) if learns else digits.evaluate(network, data.test, data.test_labels)[1]
        )
        rows.append({"what": what, "gates": gates, "maps": maps, "accuracy": accuracy})
    for name, source in {"trained": relu, "random": new(1), "of shuffled labels": relu_of_shuffled}.items():
        codes = digits.Images(
            bits(source, data.train), data.train_labels, bits(source, data.test), data.test_labels, data.names
        )
        readout = _linear(codes.train.shape[1], seed)
        rows.append(
            {"what": "linear read-out of gates", "gates": name, "accuracy": _train(readout, codes, setting, seed)}
        )
    return [{"seed": seed, **row} for row in rows]


def measure_faces(network: nn.Module, data: digits.Images, most: int = 200) -> dict[str, float]:
    """Along lines from images to the nearest one of another class: faces crossed, and how maps and outputs differ.

    Distances of maps are Frobenius norms of differences over the mean of the two maps' norms: at the face nearest the middle of
    the line, and between its ends.

    Args:
        network: The faces of this network are crossed; it is a network of nearest points, or ``Linear, ReLU, Linear``.
        data: Whose test images are joined.
        most: Lines.
    """
    starts = data.test[:most]
    distances = torch.cdist(starts, data.test)
    distances[data.test_labels[:most, None] == data.test_labels[None]] = torch.inf
    ends = data.test[distances.argmin(1)]
    with guarded(torch.no_grad()):
        measure = _relu_faces if isinstance(network, nn.Sequential) else _nearest_faces
        measurements = measure(network, starts, ends)  # type: ignore[arg-type]
    counts, at_faces, whole, jumps = (np.array(values) for values in measurements)
    numbers = {"faces": counts.mean(), "at a face": np.median(at_faces), "end to end": np.median(whole)}
    return {name: float(value) for name, value in {**numbers, "jump": np.median(jumps)}.items()}


def _nearest_faces(network: Any, starts: Tensor, ends: Tensor) -> tuple[list[float], ...]:
    maps, bias = network.maps()
    counts: list[float] = []
    at_faces, whole, jumps = [], [], []
    for start, end in zip(starts, ends, strict=True):
        pieces = network.segment(start, end)
        counts.append(len(pieces) - 1)
        whole.append(_relative_distance(maps[pieces.region[0]], maps[pieces.region[-1]]))
        if len(pieces) > 1:
            middle = int((pieces.t - 0.5).abs().argmin())
            a, b = pieces.region[middle : middle + 2].tolist()
            point = start + pieces.t[middle].to(start.dtype) * (end - start)
            at_faces.append(_relative_distance(maps[a], maps[b]))
            jumps.append(_relative_distance(maps[a] @ point + bias[a], maps[b] @ point + bias[b]))
    return counts, at_faces, whole, jumps


def _relu_faces(network: nn.Sequential, starts: Tensor, ends: Tensor) -> tuple[list[float], ...]:
    """At a face one neuron's ``w_out w_in`` comes or goes, and the output does not jump."""
    first, last = (layer.weight for layer in network if isinstance(layer, nn.Linear))
    z, z_end = network[0](starts), network[0](ends)
    crossings = (z > 0) != (z_end > 0)
    t = z / (z - z_end)
    neuron = (t - 0.5).abs().masked_fill(~crossings, torch.inf).argmin(1, keepdim=True)
    gates = (z + t.gather(1, neuron) * (z_end - z) > 0).to(z.dtype)
    at_faces, whole = [], []
    for line, open_gates in enumerate(gates):
        if crossings[line].any():
            other_gates = open_gates.scatter(0, neuron[line], 0.0)
            without = last @ (other_gates[:, None] * first)
            at_faces.append(_relative_distance(without, without + last[:, neuron[line]] @ first[neuron[line]]))
        whole.append(_relative_distance(*(last @ ((end[line] > 0)[:, None] * first) for end in (z, z_end))))
    return crossings.sum(1).float().tolist(), at_faces, whole, [0.0]


def _relative_distance(a: Tensor, b: Tensor) -> float:
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
    sizes = NetworkSetting() if setting is None else setting
    for name in ("seeds", "train", "epochs", "width"):
        if getattr(sizes, name) < 1:
            raise InputError(f"{name} is at least 1; got {getattr(sizes, name)}")
    data = digits.images(sizes.data)
    if sizes.train > len(data.train):
        raise InputError(f"{sizes.data} has {len(data.train)} images to train on; got train={sizes.train}")
    home = None if out is None else Path(out)
    with task("networks of each seed", sizes.seeds, "seeds", show=progress) as bar:
        parts = []
        for seed in range(sizes.seeds):
            parts.append(_measure_seed(data, sizes, seed, home))
            bar.advance()
    tables = {name: pd.concat([pd.DataFrame(part[name]) for part in parts], ignore_index=True) for name in TABLES}
    centres = parts[0]["centres"]
    result = ClassesAndMaps(sizes, **tables, centres=torch.tensor(centres), says=pd.DataFrame(parts[0]["says"]))
    if home is not None:
        result.save(home)
    return result


def _measure_seed(data: digits.Images, setting: NetworkSetting, seed: int, home: Path | None) -> dict[str, Any]:
    """All measurements of one seed, as plain lists; read from ``seed-N.json`` if it holds those of this setting."""
    parameters = {**asdict(setting), "seeds": None}
    path = None if home is None else home / "seeds" / f"seed-{seed}.json"
    if path is not None and path.is_file() and (record := read_record(path)).get("asked") == parameters:
        return dict(record["found"])
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))[: setting.train]
    images = digits.Images(data.train[order], data.train_labels[order], data.test, data.test_labels, data.names)
    measurements: dict[str, Any] = {"points": [], "gates": measure_gates(images, setting, seed), "faces": []}
    for name, row, network in measure_points(images, setting, seed):
        measurements["points"].append({"seed": seed, **row})
        if name in SHOWN:
            measurements["faces"].append({"seed": seed, "network": SHOWN[name], **measure_faces(network, images)})
        if name == DRAWN:
            counts = count_classes(network, images)
            measurements["centres"] = network.get_parameter("points").tolist()
            measurements["says"] = {
                "class": [images.names[k] for k in counts.argmax(1)],
                "share": (counts.max(1).values / counts.sum(1).clamp_min(1)).tolist(),
                "images": counts.sum(1).int().tolist(),
            }
    if path is not None:
        write_record(path, {"asked": parameters, "found": measurements})
    return measurements

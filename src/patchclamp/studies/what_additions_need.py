"""What must a network have for adding activations to work?

Garrett Baker (2023, "Activation additions in a small residual network") saw additions destroy a network of digits, while in GPT-2
they steer at little cost, and asked for the minimal set of properties that a network must have. Here one thing at a time is varied
around his network: width, depth, the residual connection, training, kind and task. A language model stands on the same axes, with
countries for digits and sentences about their capitals for images.

Effect is transfer: the share of b's inputs that are called a when a - b is added. Cost is retention, the share of the other
classes' inputs that keep their answer, and the loss. One number says how good a trade a network offers: the transfer at the
coefficient where retention has fallen to 90 % of what it is without an addition. Controls are random vectors of the same length;
beside the additions stand gated ones. Vectors and gates come from training inputs, all numbers from test inputs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

import patchclamp as pc
from patchclamp.core.errors import unknown
from patchclamp.core.progress import task
from patchclamp.studies import digits, word_additions
from patchclamp.studies import mnist_measures as measures
from patchclamp.studies import what_additions_need_figure as pictures
from patchclamp.studies.mnist_tables import Response, respond
from patchclamp.studies.mnist_vectors import Gated, activations, gates, head_aligned, stages, vectors
from patchclamp.studies.photograph_additions import photograph_additions
from patchclamp.studies.result import StudyFiles, StudyResult, as_text, records, with_titles

CASES: dict[str, dict[str, Any]] = {
    "residual, 512 wide": {},
    "16 wide": {"width": 16},
    "64 wide": {"width": 64},
    "128 wide": {"width": 128},
    "2 blocks": {"depth": 2},
    "4 blocks": {"depth": 4},
    "not residual": {"kind": "mlp"},
    "not residual, 2 deep": {"kind": "mlp", "depth": 2},
    "not residual, 4 deep": {"kind": "mlp", "depth": 4},
    "10 epochs": {"epochs": 10},
    "convolutions": {"kind": "cnn"},
    "Fashion-MNIST": {"data": "fashion-mnist"},
    "Fashion-MNIST, not residual": {"data": "fashion-mnist", "kind": "mlp"},
}
"""What differs from the residual network of one block, 512 wide, on MNIST."""
EPOCHS = 2
LEAST = 0.9
"""Share of the clean retention at which transfer is read off."""
PLACES: tuple[word_additions.Place, ...] = (("country", 0), ("country", 14), ("last", 28))
EARLY = (0.25, 0.5, 0.75, 1.0)
"""Coefficients where more than the head follows; every second one for random vectors."""
RISES = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
"""By how much a head-aligned vector raises a's logit."""


@dataclass(frozen=True)
class WhatAdditionsNeed(StudyResult):
    """What the study found."""

    networks: pd.DataFrame
    """Every network: test loss and accuracy, mean distance of the two highest logits."""
    curves: pd.DataFrame
    """One row for each network, stage, vector, gate and coefficient."""
    words: pd.DataFrame
    """The same of the language model; empty without one."""
    photographs: pd.DataFrame
    """Most likely class of photographs under additions; empty without them."""

    def front(self) -> pd.DataFrame:
        """Transfer at 90 % of the clean retention, mean, least and most over training seeds; loss ratio at coefficient 1."""
        rows = []
        for (case, seed, stage), part in self.curves.groupby(["case", "seed", "stage"], sort=False):
            rows.append({"case": case, "stage": stage, "seed": seed, **_fronts(part)})
        groups = pd.DataFrame(rows).groupby(["case", "stage"], sort=False)
        table = groups.mean(numeric_only=True).drop(columns="seed")
        table.insert(1, "least", groups["means"].min())
        table.insert(2, "most", groups["means"].max())
        return table.reset_index()

    def words_front(self) -> pd.DataFrame:
        """The same of the language model, for each place."""
        if self.words.empty:
            return self.words
        rows = [
            {"token": token, "layer": layer, **_fronts(part)}
            for (token, layer), part in self.words.groupby(["token", "layer"], sort=False)
        ]
        return pd.DataFrame(rows)

    def tables(self) -> dict[str, pd.DataFrame]:
        """Every table that is not empty, by title."""
        network_means = (
            self.networks.groupby("case", sort=False).mean(numeric_only=True).drop(columns="seed").reset_index()
        )
        all_tables = {
            "Networks, averaged over training seeds": network_means,
            "Transfer at 90 % of the clean retention": self.front(),
            "The same in the language model": self.words_front(),
            "The language model, every coefficient": self.words,
            "Photographs": self.photographs,
        }
        return {title: table for title, table in all_tables.items() if not table.empty}

    def summary(self) -> dict[str, Any]:
        """The numbers, as plain JSON."""
        frames = self._measured() | {"front": self.front(), "words_front": self.words_front()}
        return {name: records(frame) for name, frame in frames.items()}

    def text(self) -> str:
        """The tables, for a terminal."""
        return as_text(*with_titles(self.tables())).lstrip("\n")

    @classmethod
    def experiment(cls) -> str:
        """The whole docstring of this module."""
        return __doc__ or ""

    def files(self) -> StudyFiles:
        """The tables that are not empty, transfer against retention as a picture, and the report."""
        fig = pictures.figure(self)
        tables = {name: table for name, table in self._measured().items() if not table.empty}
        return StudyFiles(
            "What additions need",
            [("Effect and cost", fig), *self.tables().items()],
            tables={**tables, "front": self.front()},
            figures={"figure": fig},
        )

    def _measured(self) -> dict[str, pd.DataFrame]:
        return {name: getattr(self, name) for name in ("networks", "curves", "words", "photographs")}


def _fronts(part: pd.DataFrame) -> dict[str, float]:
    """The front of every vector and gate in a part, and what coefficient 1 of the means costs."""
    front = {}
    for (vector, gate), line in part.groupby(["vector", "gate"], sort=False):
        retention = line["retention"] / line["clean retention"]
        name = str(vector) if gate == "none" else f"gated by {gate}"
        front[name] = at_retention([line["clean transfer"].iloc[0], *line["transfer"]], [1.0, *retention])
    unscaled = part[(part["vector"] == "means") & (part["gate"] == "none") & (part["coefficient"] == 1)]
    for name in ("transfer", "retention"):
        front[f"{name} at 1"] = float(unscaled[name].mean())
    front["loss ratio at 1"] = float((unscaled["loss others"] / unscaled["clean loss others"]).mean())
    return front


def at_retention(transfer: Sequence[float], kept: Sequence[float], least: float = LEAST) -> float:
    """Transfer where a curve over growing coefficients first falls to a share of the retention; its highest if it never does.

    Args:
        transfer: At each coefficient, beginning with 0.
        kept: Retention as a share of the clean one, at the same coefficients.
        least: The share; between two coefficients the curve is a straight line.
    """
    for number in range(1, len(kept)):
        if kept[number] < least:
            ends = slice(number - 1, number + 1)
            return float(np.interp(least, kept[ends][::-1], transfer[ends][::-1]))
    return float(max(transfer))


def random_like(vectors: Tensor, seed: int = 0) -> Tensor:
    """Random directions, each as long as its vector; ``[..., d]``."""
    noise = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(seed))
    random_vectors: Tensor = noise * (vectors.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True))
    return random_vectors


def curves(net: nn.Sequential, data: digits.Images, rows: int, seed: int) -> pd.DataFrame:
    """Additions to the pixels, to the first hidden layer and before the head.

    Args:
        net: The network.
        data: Vectors and gates are made of its training images; measured is on its test images.
        rows: Test images, evenly spread, where more than the head follows; before the head five times as many.
        seed: The random vectors are drawn with this seed.
    """
    last, rows_of_table = len(net) - 2, []
    flat = [stage for stage in stages(net, data.test) if isinstance(net[stage], nn.ReLU | nn.Flatten)]
    for name, stage in {"pixels": -1, "first hidden": flat[0], "before the head": last}.items():
        step = max(1, len(data.test) // (rows * 5 if stage == last else rows))
        pixels, labels = data.test[::step], data.test_labels[::step]
        hidden = activations(net, stage, data.train)
        means = vectors("mean", net, stage, data, hidden)
        sizes, controls = (measures.COEFFICIENTS,) * 2 if stage == last else (EARLY, EARLY[1::2])
        plan: list[tuple[str, Gated, float, Tensor]] = [
            *(("means", gate, c, c * means) for gate in ("none", "code") for c in sizes),
            *(("random", "none", c, c * random_like(means, seed)) for c in controls),
        ]
        if stage == last:
            plan += [("head-aligned", "none", up, head_aligned(net, up, measures.DOWN)) for up in RISES]
        tests = {gate: gates(gate, net, stage, data, hidden) for gate in ("none", "code")}
        for vector, gate, coefficient, addition in plan:
            response = respond(net, stage, pixels, labels, addition, tests[gate])
            columns = {"stage": name, "vector": vector, "gate": gate, "coefficient": coefficient, "images": len(pixels)}
            rows_of_table.append({**columns, **response.summary(), "clean transfer": _clean_transfer(response)})
    return pd.DataFrame(rows_of_table).rename(columns={"clean others": "clean loss others"})


def _clean_transfer(response: Response) -> float:
    """Share of a class's images that are called one other class without an addition, mean over the 90 pairs."""
    share = response.clean_counts / response.sizes.unsqueeze(1)
    return float((share.sum() - share.diagonal().sum()) / (share.numel() - len(share)))


def small_networks(
    cases: Mapping[str, Mapping[str, Any]], seeds: Sequence[int], rows: int, progress: bool | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Train (or read) every network and measure it: networks, curves."""
    networks, lines = [], []
    with task("networks", len(cases) * len(seeds), "networks", show=progress) as bar:
        for case, changes in cases.items():
            options: dict[str, Any] = {"epochs": EPOCHS, **changes}
            data = digits.images(options.get("data", "mnist"))
            for seed in seeds:
                net = digits.trained(**options, seed=seed, progress=progress)
                loss, accuracy = digits.evaluate(net, data.test, data.test_labels)
                columns: dict[str, Any] = {"case": case, "seed": seed}
                margin = measures.margin(net, data.test)
                networks.append({**columns, "loss": loss, "accuracy": accuracy, "margin": margin})
                lines.append(curves(net, data, rows, seed).assign(**columns))
                bar.advance()
    return pd.DataFrame(networks), pd.concat(lines, ignore_index=True)


def study(
    out: str | Path | None = None,
    *,
    model: pc.Model | None = None,
    vision: pc.Model | None = None,
    cases: Sequence[str] | None = None,
    seeds: Sequence[int] = (0, 1),
    rows: int = 100,
    progress: bool | None = None,
) -> WhatAdditionsNeed:
    """Run the experiment. Networks that were trained before are read from the cache.

    Args:
        out: Folder for tables, pictures and the report; None to keep nothing.
        model: A language model that knows capitals, of at least 29 layers as SmolLM2-135M; None for small networks alone.
        vision: A ResNet of the catalogue; None for no photographs.
        cases: The small networks with these names in :data:`CASES` are measured; by default all of them are.
        seeds: Every network is trained and measured once for each seed, which also fixes the random vectors.
        rows: Test images where more than the head follows; before the head five times as many.
        progress: True for bars.

    Raises:
        InputError: No seed, no such case, or a language model of too few layers.
        MissingDependencyError: There are no photographs without scikit-image and scikit-learn.
    """
    case_names = list(CASES) if cases is None else list(cases)
    if unknown_cases := [case for case in case_names if case not in CASES]:
        raise pc.InputError(unknown("case", unknown_cases[0], CASES))
    if not seeds or not case_names or rows < 1:
        raise pc.InputError(f"give seeds, cases and at least 1 row; got {list(seeds)}, {case_names}, {rows}")
    if model is not None and model.sites.n_layers <= (deepest := max(layer for _, layer in PLACES)):
        raise pc.InputError(f"the model has {model.sites.n_layers} layers; the study adds after layer {deepest}")
    photographs = pd.DataFrame() if vision is None else photograph_additions(vision)
    words = pd.DataFrame() if model is None else word_additions.word_additions(model, PLACES, seed=seeds[0])
    networks, lines = small_networks({case: CASES[case] for case in case_names}, seeds, rows, progress)
    result = WhatAdditionsNeed(networks, lines, words, photographs)
    if out is not None:
        result.save(out)
    return result

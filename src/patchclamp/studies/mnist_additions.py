"""Adding `a - b` to a small network: does a b become an a, and do the other digits stay what they are?

Garrett Baker (2023, "Activation additions in a small residual network", and the post before it on a fully connected one) adds the
difference of two images' activations to every image of MNIST and sees the loss go from 0.086 to 6.31. The same here for several
images, for class means and for vectors aligned with the head, at every stage, at every coefficient, in several networks.

Beside the loss stand the two numbers that matter: transfer, the share of b's images that are now called a, and retention, the
share of the other eight classes' images that are still called right. A gated addition acts only where the activation, or the
pattern of neurons that are on, is nearest b's. Vectors and gates come from training images, all numbers from test images.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from patchclamp.core.errors import InputError
from patchclamp.core.progress import task
from patchclamp.studies import digits
from patchclamp.studies import mnist_measures as measures
from patchclamp.studies import mnist_pictures as pictures
from patchclamp.studies.mnist_tables import OVER, Response
from patchclamp.studies.result import StudyFiles, StudyResult, as_text, with_titles

EARLY = 2
"""Epochs of the networks that are as right as the others, and less sure of it."""
SEED = pd.DataFrame(
    [
        ["residual", "unpatched", 0.086], ["residual", "patched, all images", 6.31], ["residual", "patched, without b", 6.31],
        ["mlp", "unpatched", 0.089], ["mlp", "patched, without b", 7.4],
        *(["mlp", f"3-1 at stage {stage}", loss] for stage, loss in enumerate((7.80, 12.69, 12.69, 17.01, 17.01))),
    ],
    columns=["network", "loss", "the posts"],
)  # fmt: skip
"""These losses are from the two posts, which do not say over which images 6.31 is averaged, so it stands twice."""


@dataclass(frozen=True)
class Additions(StudyResult):
    """What the study found."""

    data: str
    names: tuple[str, ...]
    training: pd.DataFrame
    """Every network: loss and accuracy on test images, mean distance of the two highest logits, seconds an epoch."""
    stages: pd.DataFrame
    """Coefficient 1 at every stage. Where more than the head follows, all test images are used at the posts' stage alone."""
    doses: pd.DataFrame
    """Every stage, vector, gate and coefficient. Where more than the head follows, fewer images are used."""
    deciding: pd.DataFrame
    """At the posts' stage: image and epochs."""
    pair: pd.DataFrame
    """3-1 (class 3 minus class 1) at every stage, on images without b."""
    responses: dict[str, Response]
    """The full arrays at the posts' stage, by network, seed and vector."""
    pairs: Sequence[tuple[int, int]] = ()
    """Classes a and b whose outputs are drawn."""

    def thirds(self) -> pd.DataFrame:
        """Every case where most images of a class are called a third one."""
        tables = [response.thirds(self.names).assign(run=name) for name, response in self.responses.items()]
        table = pd.concat(tables, ignore_index=True)
        return table[["run", *(column for column in table if column != "run")]]

    def front(self) -> pd.DataFrame:
        """Transfer and retention before the head, averaged over seeds."""
        last = self.doses.groupby("network")["stage"].transform("max")
        rows = self.doses[self.doses["stage"] == last]
        keys = ["network", "vector", "gate", "coefficient"]
        columns = ["norm", "loss others", "transfer", "retention", "clean retention"]
        return rows.groupby(keys, sort=False)[columns].mean().reset_index()

    def beside_posts(self) -> pd.DataFrame:
        """The posts' losses, and ours: the posts' own image, least and most over five images and all seeds, the class mean."""
        rows = [
            self._ours(str(network), str(loss)) for network, loss in SEED[["network", "loss"]].itertuples(index=False)
        ]
        columns = ["image 0", "least", "most", "class mean"]
        return pd.concat([SEED, pd.DataFrame(rows, columns=columns)], axis=1)[[bool(row) for row in rows]]

    def _ours(self, network: str, loss: str) -> list[float]:
        if loss == "unpatched":
            losses = self.training[self.training["network"] == network]["loss"]
            return [losses.mean(), losses.min(), losses.max(), losses.mean()] if len(losses) else []
        if loss.startswith("3-1"):
            stage_rows, column = self.pair[self.pair["stage"] == int(loss[-1])], "loss"
            image_rows = stage_rows
        else:
            column = {"patched, all images": "loss all", "patched, without b": "loss others"}[loss]
            stage_rows, image_rows = (
                self.stages.merge(self.deciding[["network", "stage"]].drop_duplicates()),
                self.deciding,
            )
        stage_rows, image_rows = (table[table["network"] == network] for table in (stage_rows, image_rows))
        if image_rows.empty:
            return []
        first, mean = (_last(stage_rows[stage_rows["vector"] == name])[column].mean() for name in ("image 0", "mean"))
        images = _last(image_rows[image_rows["vector"] != "mean"])[column]
        return [float(first), float(images.min()), float(images.max()), float(mean)]

    def summary(self) -> dict[str, Any]:
        """The numbers, as plain JSON."""
        frames = {name: getattr(self, name).to_dict("records") for name in FRAMES}
        derived = {"front": self.front(), "thirds": self.thirds(), "beside_posts": self.beside_posts()}
        return {"data": self.data, **frames, **{name: frame.to_dict("records") for name, frame in derived.items()}}

    def text(self) -> str:
        """The tables, for a terminal."""
        keys = ["network", "stage", "vector"]
        stage_means = self.stages.groupby(keys, sort=False).mean(numeric_only=True).drop(columns=["seed"]).reset_index()
        deciding_means = self.deciding.groupby(["network", "epochs", "vector"], sort=False).mean(numeric_only=True)
        tables = {
            f"Networks trained on {self.data}": self.training,
            "Every stage, coefficient 1, averaged over training seeds": stage_means,
            "Before the head: coefficients and gates, averaged over training seeds": self.front(),
            "What decides the loss: the image, and how sure the network is": deciding_means.drop(
                columns=["seed", "stage"]
            ).reset_index(),
            **({"Beside the posts": self.beside_posts()} if self.data == "mnist" else {}),
            "A third class wins": self.thirds().head(20),
        }
        return as_text(*with_titles(tables)).lstrip("\n")

    @classmethod
    def experiment(cls) -> str:
        """The whole docstring of this module."""
        return (__doc__ or "").replace("`", "")

    def files(self) -> StudyFiles:
        """Every table, the posts' tables of every full array, pictures of losses and of outputs, and the report."""
        figures = {"figure": pictures.figure(self)} | self._bars()
        posts = [("Beside the posts", self.beside_posts())] if self.data == "mnist" else []
        tables = {name: getattr(self, name) for name in FRAMES} | {"thirds": self.thirds()}
        for name, response in self.responses.items():
            tables |= {f"tables/{_slug(name)}/{file}": table for file, table in _posts_tables(response, self.names)}
        return StudyFiles(
            f"Activation additions on {self.data}",
            [
                ("What was found", figures["figure"]),
                ("Networks", self.training),
                *posts,
                ("Every stage, coefficient 1", self.stages),
                ("Before the head: coefficients and gates", self.front()),
                ("What decides the loss", self.deciding),
                ("A third class wins", self.thirds()),
                *(("Outputs, normal and patched", picture) for name, picture in figures.items() if name != "figure"),
            ],
            tables=tables,
            figures=figures,
        )

    def _bars(self) -> dict[str, Any]:
        """Outputs of the networks of the first seed under the first image's additions, a picture a pair of classes."""
        last = f"seed {self.training['seed'].iloc[0]}, image 0"
        return {
            _slug(f"bars {name} {a} {b}"): pictures.bars(
                response, a, b, self.names, f"{name}: {self.names[a]} - {self.names[b]}"
            )
            for name, response in self.responses.items()
            if name.endswith(last)
            for a, b in self.pairs
        }


def _last(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of the networks that were trained to the end."""
    return table[table["epochs"] == table["epochs"].max()] if "epochs" in table else table


FRAMES = ("training", "stages", "doses", "deciding", "pair")


def study(
    out: str | Path | None = None,
    *,
    data: digits.Data = "mnist",
    kinds: Sequence[digits.Kind] = ("residual", "mlp"),
    seeds: Sequence[int] = (0, 1, 2),
    epochs: int = 10,
    width: int = 512,
    rows: int = 500,
    given: digits.Images | None = None,
    pairs: Sequence[tuple[int, int]] = (measures.PAIR, (1, 8)),
    progress: bool | None = None,
) -> Additions:
    """Run the experiment. Networks that were trained before are read from the cache.

    Args:
        out: Folder for tables, pictures and the report; None to keep nothing.
        data: Data set of the catalogue.
        kinds: Networks of :func:`patchclamp.studies.digits.network`.
        seeds: Every network is trained and measured once for each seed.
        epochs: Each network is trained for this many passes over the training images.
        width: The hidden layers of the networks have this many neurons.
        rows: Test images, evenly spread, wherever more than the head follows and many additions are compared.
        given: Images in place of the data set's, for vectors, gates and tests.
        pairs: Classes a and b whose outputs are drawn.
        progress: True for bars.

    Raises:
        InputError: No seed, no network, or a pair that is none.
    """
    if not seeds or not kinds or any(a == b or not {a, b} <= set(range(10)) for a, b in pairs):
        raise InputError(f"give seeds, kinds, and pairs of two classes from 0 to 9; got {seeds}, {kinds}, {pairs}")
    images = given or digits.images(data)
    tables: dict[str, list[pd.DataFrame]] = {name: [] for name in FRAMES}
    responses: dict[str, Response] = {}
    with task("networks", len(kinds) * len(seeds), "networks", show=progress) as bar:
        for kind in kinds:
            for seed in seeds:
                runs = {
                    count: digits.trained(kind, data, seed=seed, epochs=count, width=width, progress=progress)
                    for count in sorted({min(EARLY, epochs), epochs})
                }
                net = runs[epochs]
                history = digits.training(kind, data, seed=seed, epochs=epochs, width=width)
                measurements, new_responses = measures.measure_network(kind, net, images, rows)
                measurements["training"] = measures.training_row(net, images, history)
                measurements["deciding"] = pd.concat(
                    [
                        measures.deciding_rows(kind, network, images, rows).assign(epochs=count)
                        for count, network in runs.items()
                    ]
                )
                measurements["pair"] = pd.concat(
                    [measures.pair_rows(network, images).assign(epochs=count) for count, network in runs.items()]
                )
                for name, frame in measurements.items():
                    frame.insert(0, "network", kind)
                    frame.insert(1, "seed", seed)
                    tables[name].append(frame)
                responses |= {f"{kind}, seed {seed}, {name}": response for name, response in new_responses.items()}
                bar.advance()
    frames = {name: pd.concat(parts, ignore_index=True) for name, parts in tables.items()}
    result = Additions(data, images.names, **frames, responses=responses, pairs=pairs)
    if out is not None:
        result.save(out)
    return result


def _posts_tables(response: Response, names: Sequence[str]) -> Iterator[tuple[str, pd.DataFrame]]:
    """The posts' CSVs: for each a (row) and b (column) the mean loss, patched and unpatched, and the full array."""
    for over in OVER:
        for word, values in (("patched", response.table(over)), ("unpatched", response.clean_table(over))):
            frame = pd.DataFrame(values.numpy(), index=pd.Index(names, name="a"), columns=pd.Index(names, name="b"))
            yield f"{word}-{over}", frame.reset_index()
    yield "array", response.frame(names)


def _slug(name: str) -> str:
    return re.sub(r"[ ,]+", "-", name)

"""``patchclamp dictionary``: train sparse dictionaries, measure them, and make toy data whose features are known."""

import inspect
import shlex
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from patchclamp.cli.options import Json, Opening, Shared
from patchclamp.cli.output import remember, say, show
from patchclamp.cli.rows import CORPUS_HELP, SOURCE_HELP, open_rows
from patchclamp.core import folders
from patchclamp.core.errors import InputError

if TYPE_CHECKING:
    import patchclamp as pc

app = App(
    name="dictionary",
    help="Sparse dictionaries: train them, measure them, and make toy data whose features are known.",
)
Source = Annotated[str, Parameter(help=SOURCE_HELP)]
Corpus = Annotated[list[str] | None, Parameter(help=CORPUS_HELP, negative="")]
Many = Parameter(negative="")
EncoderName = Literal["batch-topk", "topk", "matryoshka", "jumprelu", "gated", "relu"]
HELD_OUT_BATCHES = 8
FitName = Literal["sgd", "mod", "online", "ksvd", "pca", "ica", "nmf", "kmeans"]


@app.command
def toy(
    kind: Literal["post", "zipf", "correlated", "hierarchical", "trained-encoder"] = "post",
    *,
    out: Annotated[Path, Parameter(help="Folder for the toy data.")],
    features: int = 512,
    width: int = 256,
    active: float = 5.0,
    mode: Literal["correlated", "uncorrelated", "corrected"] = "correlated",
    seed: int = 0,
    as_json: Json = False,
) -> None:
    """Make toy data: features, and the rule by which they are on together. Rows are drawn from it when they are needed.

    Args:
        kind: The original post's recipe, rows whose features follow Zipf's law (also correlated, or on only with their parents),
            or features of an encoder that was trained to hold more of them than it has dimensions.
        out: Folder for the toy data.
        features: The number of true features.
        width: The number of dimensions that hold them.
        active: The mean number of features that are on in a row.
        mode: Which form of the post's recipe; corrected draws every row's features anew.
        seed: Where random numbers begin.
    """
    import patchclamp as pc

    folders.check(out, folders.TOY, *folders.COMMAND)
    if kind == "post":
        data = pc.dictionaries.ToyData.post(mode=mode, G=features, d=width, active=active, seed=seed)
    else:
        make = getattr(pc.dictionaries.ToyData, kind.replace("-", "_"))
        data = make(features, width, active=active, seed=seed)
    data.save_pretrained(out)
    values = {"features": data.G, "width": data.d, "active": data.active, **pc.dictionaries.coherence(data.features)}
    show(values, as_json=as_json)
    options = {
        "kind": kind,
        "out": out,
        "features": features,
        "width": width,
        "active": active,
        "mode": mode,
        "seed": seed,
    }
    remember(out, shlex.join(["patchclamp", *sys.argv[1:]]), "dictionary.toy", options)
    say(f"saved to {out}")


@app.command
def train(
    source: Source,
    *,
    out: Annotated[Path, Parameter(help="Folder for the dictionary; for several, each has a folder in it.")],
    site: str | None = None,
    corpus: Corpus = None,
    fit: FitName = "sgd",
    encoder: EncoderName | None = None,
    width: Annotated[list[int] | None, Many] = None,
    k: Annotated[list[int] | None, Many] = None,
    penalty: Annotated[list[float] | None, Many] = None,
    seed: Annotated[list[int] | None, Many] = None,
    steps: int = 1000,
    batch: int = 4096,
    learning_rate: float | None = None,
    initialisation: Literal["data", "orthogonal", "pca", "unit", "random"] | None = None,
    revival: Literal["resample", "auxk", "none"] | None = None,
    recipe: Literal["post"] | None = None,
    whiten: Literal["none", "pca", "zca"] | None = None,
    checkpoint: Path | None = None,
    opening: Opening = Opening(),  # noqa: B008
    as_json: Json = False,
) -> None:
    """Train dictionaries: each combination of the widths, k, penalties and seeds, all on the same rows as one job.

    Args:
        out: Folder for the dictionary.
        site: Where the rows lie, of a model or a recording.
        fit: How atoms are learned; sgd trains an encoder with them.
        encoder: Which encoder sgd trains; batch-topk by default.
        width: The number of atoms; 8 times the width of a row by default.
        k: How many latents are active in a row, where the encoder takes it.
        penalty: The weight of sparsity in the loss, where the encoder takes it.
        seed: Where random numbers begin.
        steps: How many batches are read.
        batch: The number of rows of a batch.
        learning_rate: By default one that fits the width.
        initialisation: What the atoms of sgd are at first; rows of the data by default.
        revival: What sgd does about latents that are never active; resample by default.
        recipe: The original post's loss and optimiser, for relu.
        whiten: Whether rows are whitened; folded into the dictionary when it is exported.
        checkpoint: Folder from which a killed training goes on.
    """
    import patchclamp as pc

    several = max((len(values) for values in (width, k, penalty, seed) if values), default=1) > 1
    if not several:
        folders.check(out, folders.DICTIONARY, *folders.COMMAND)
    rows, held_out = open_rows(source, opening, site=site, corpus=corpus, batch_size=batch, steps=steps)
    grid: dict[str, Sequence[Any]] = {
        "width": width or (8 * rows.d,), "k": k or (None,), "penalty": penalty or (None,), "seed": seed or (0,)
    }  # fmt: skip
    settings = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    places = [_place(out, grid, one) for one in settings]
    for place in places if several else ():
        folders.check(place, folders.DICTIONARY, *folders.COMMAND)
    options = {
        "learning_rate": learning_rate, "initialisation": initialisation, "revival": revival, "recipe": recipe, "whiten": whiten,
    }  # fmt: skip
    if fit == "sgd":
        fits = [_sgd(encoder, one, {**options, "steps": steps}) for one in settings]
        dictionaries = pc.dictionaries.train(rows, fits, checkpoint=checkpoint)
    else:
        estimators = [
            _estimator(fit, one, {**options, "encoder": encoder, "checkpoint": checkpoint}) for one in settings
        ]
        dictionaries = []
        for estimator in estimators:
            rows.restart()
            dictionaries.append(estimator.fit(rows).dictionary_)
    table = []
    for folder, dictionary in zip(places, dictionaries, strict=True):
        dictionary.save_pretrained(folder)
        evaluation = pc.dictionaries.evaluate(dictionary, held_out, batches=HELD_OUT_BATCHES)
        table.append({"dictionary": str(folder), **evaluation.summary()})
    shown = ("dictionary", "width", "explained_variance", "l0", "dead", "dense")
    short = [{name.replace("_", " "): row[name] for name in shown} for row in table]
    show(table, as_json=as_json, table=short, title=f"On {table[0]['rows']:,.0f} held-out rows")
    config = {
        "source": source, "out": out, "site": site, "corpus": corpus, "fit": fit, "encoder": encoder, "width": width, "k": k,
        "penalty": penalty, "seed": seed, "steps": steps, "batch": batch, **options, "checkpoint": checkpoint,
    }  # fmt: skip
    for place in places:  # each folder says how it came about, and the same command may take its place
        remember(
            place, shlex.join(["patchclamp", *sys.argv[1:]]), "dictionary.train", {**config, **opening.as_config()}
        )
    say(f"saved to {out}")


@app.command(name="eval")
def evaluate(
    dictionary: Annotated[str, Parameter(help="The folder of a dictionary.")],
    source: Source,
    *,
    site: str | None = None,
    corpus: Corpus = None,
    encoder: Literal["own", "omp", "nnomp", "threshold"] = "own",
    k: int | None = None,
    batch: int = 4096,
    batches: int = 8,
    truth: bool = False,
    shared: Shared = Shared(),  # noqa: B008
) -> None:
    """Measure a dictionary on held-out rows; with --truth, how much of the toy data's features it recovered.

    Args:
        site: Where the rows lie, of a model or a recording.
        corpus: See above.
        encoder: The dictionary's own, or another on the same atoms, which tells what is the encoder's fault.
        k: How many latents another encoder may use in a row.
        batch: The number of rows of a batch.
        batches: How many of them.
        truth: Compare the atoms with the features of the toy data that the source is.
    """
    import patchclamp as pc

    opened = pc.dictionaries.Dictionary.from_pretrained(dictionary)
    rule = _rule(encoder, k)
    result: pc.dictionaries.Recovery | pc.dictionaries.DictionaryEvaluation
    if truth:
        if site is not None or corpus is not None:
            raise InputError("--truth compares with the features of toy data, which have no site and no corpus")
        result = pc.dictionaries.recovery(opened, pc.dictionaries.ToyData.from_pretrained(source), encoder=rule)
    else:
        _, rows = open_rows(source, shared.opening, site=site, corpus=corpus, batch_size=batch, steps=1)
        result = pc.dictionaries.evaluate(opened, rows, encoder=rule, batches=batches)
    show(result.summary() if shared.as_json else repr(result), as_json=shared.as_json)
    options = {
        "dictionary": dictionary, "source": source, "site": site, "corpus": corpus, "encoder": encoder, "k": k, "batch": batch,
        "batches": batches, "truth": truth,
    }  # fmt: skip
    shared.keep(result, "dictionary.eval", options)


def _place(out: Path, grid: dict[str, Sequence[Any]], one: dict[str, Any]) -> Path:
    """The folder of one combination: that for all where there is one alone."""
    varied = [f"{name}{one[name]}" for name, values in grid.items() if len(values) > 1]
    return out / "-".join(varied) if varied else out


def _sgd(encoder: str | None, one: dict[str, Any], options: dict[str, Any]) -> "pc.dictionaries.SGD":
    """The training that a combination of settings asks for.

    Raises:
        InputError: A setting that its encoder does not have.
    """
    import patchclamp as pc

    kinds: dict[str, Any] = {
        "batch-topk": pc.dictionaries.BatchTopK, "topk": pc.dictionaries.TopKEncoder, "gated": pc.dictionaries.Gated,
        "matryoshka": pc.dictionaries.MatryoshkaBatchTopK, "jumprelu": pc.dictionaries.JumpReLU, "relu": pc.dictionaries.ReLU,
    }  # fmt: skip
    rule = _make(kinds[encoder or "batch-topk"], {"k": one["k"], "penalty": one["penalty"]})
    values = {name: value for name, value in options.items() if value is not None}
    if values.get("revival") == "none":
        values["revival"] = None
    return pc.dictionaries.SGD(rule, width=one["width"], random_state=one["seed"], **values)


def _estimator(name: str, one: dict[str, Any], options: dict[str, Any]) -> "pc.dictionaries.DictionaryFit":
    import patchclamp as pc

    kinds: dict[str, Any] = {
        "mod": pc.dictionaries.MOD, "online": pc.dictionaries.OnlineDictionaryLearning, "ksvd": pc.dictionaries.KSVD,
        "pca": pc.dictionaries.PCA, "ica": pc.dictionaries.ICA, "nmf": pc.dictionaries.NMF, "kmeans": pc.dictionaries.KMeans,
    }  # fmt: skip
    values = {"width": one["width"], "k": one["k"], "penalty": one["penalty"], "random_state": one["seed"]}
    estimator: pc.dictionaries.DictionaryFit = _make(kinds[name], {**values, **options})
    return estimator


def _make(kind: Any, values: dict[str, Any]) -> Any:
    """An object of some settings; those that are None are its defaults.

    Raises:
        InputError: It has no such setting.
    """
    valid = inspect.signature(kind).parameters
    if kind.__name__ == "JumpReLU" and values.get("k") is not None:
        values = {"target_l0": float(values["k"]), "penalty": values["penalty"]}
    for name, value in values.items():
        if value is not None and name not in valid:
            raise InputError(
                f"--{name.replace('_', '-')} {value}: {kind.__name__} has no such setting; it takes {', '.join(valid)}"
            )
    return kind(**{name: value for name, value in values.items() if value is not None})


def _rule(name: str, k: int | None) -> "pc.dictionaries.Encoder | None":
    import patchclamp as pc

    if name == "own":
        if k is not None:
            raise InputError(f"--k {k} is for another encoder than the dictionary's own; see --encoder")
        return None
    if k is None:
        raise InputError(f"--encoder {name} needs --k, the number of latents that it may use in a row")
    if name == "threshold":
        return pc.dictionaries.Threshold(k=k)
    return pc.dictionaries.OMP(k=k, nonnegative=name == "nnomp")

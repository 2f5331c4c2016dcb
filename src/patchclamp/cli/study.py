"""``patchclamp study``: the experiments of the documents that patchclamp grew from."""

import random
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from patchclamp.cli.options import Home, Json, ModelName, Opening, StudyOut
from patchclamp.cli.output import remember, show
from patchclamp.core.errors import InputError
from patchclamp.core.files import read_text

if TYPE_CHECKING:
    from patchclamp.studies.result import StudyResult

app = App(name="study", help="Run an experiment from beginning to end and leave its tables, pictures and report.")


@app.command
def activation_addition(
    *,
    model: ModelName = "smollm2-135m",
    out: StudyOut = Path("out/activation-addition"),
    opening: Opening = Opening(),  # noqa: B008
    as_json: Json = False,
) -> None:
    """Add the embedding of " Rome" to a model that completes "The capital of Spain is"."""
    from patchclamp.studies.activation_addition import study

    _tell(study(opening.load(model), out), out, "activation-addition", {"model": model, **opening.as_config()}, as_json)


@app.command
def facts(
    *,
    model: ModelName = "smollm2-135m",
    template: str = "The capital of {} is the city of",
    most: int = 40,
    samples: int = 4,
    seed: int = 0,
    out: StudyOut = Path("out/facts"),
    opening: Opening = Opening(),  # noqa: B008
    as_json: Json = False,
) -> None:
    """Trace the capitals that a model knows, as in ROME, and average over them. Killed work goes on from its folder.

    Args:
        template: A prompt with {} for the country.
        most: How many facts.
        samples: Draws of noise for each fact.
        seed: Of the noise.
    """
    from patchclamp.studies.facts import study

    options = {"template": template, "most": most, "samples": samples, "seed": seed}
    study_result = study(opening.load(model), out, **options, progress=True)  # type: ignore[arg-type]
    _tell(study_result, out, "facts", {"model": model, **options, **opening.as_config()}, as_json)


@app.command
def dursley(
    *,
    model: ModelName = "smollm2-135m",
    text: Path | None = None,
    name: str = " Dursley",
    other: str | None = None,
    passages: int = 12,
    samples: int = 4,
    seed: int = 0,
    out: StudyOut = Path("out/dursley"),
    opening: Opening = Opening(),  # noqa: B008
    as_json: Json = False,
) -> None:
    """A name that comes again: lens, neuron importances and their means side by side; what earlier occurrences are worth; darkness.

    Args:
        text: A text file in which the name recurs; the study's own by default.
        name: The name, with its leading space.
        other: A name of as many tokens that takes its place; by default one is found.
        passages: How many passages of novels to test on.
        samples: Draws of noise for the neurons.
        seed: Of noise, random heads, places and passages.
    """
    from patchclamp.studies import dursley as experiment

    source_text = experiment.TEXT if text is None else read_text(text)
    options = {"name": name, "other": other, "passages": passages, "samples": samples, "seed": seed}
    study_result = experiment.study(opening.load(model), out, text=source_text, **options)  # type: ignore[arg-type]
    _tell(study_result, out, "dursley", {"model": model, "text": text, **options, **opening.as_config()}, as_json)


@app.command
def rome_capitals(
    *,
    model: ModelName = "smollm2-135m",
    out: StudyOut = Path("out/rome-capitals"),
    opening: Opening = Opening(),  # noqa: B008
    as_json: Json = False,
) -> None:
    """Rewrite the capitals that a model knows, as in ROME, and measure what was learnt and what was broken."""
    from patchclamp.studies.rome_capitals import study

    _tell(study(opening.load(model), out), out, "rome-capitals", {"model": model, **opening.as_config()}, as_json)


@app.command
def gender_erasure(
    *,
    model: ModelName = "smollm2-135m",
    layer: Annotated[list[int] | None, Parameter(negative="", consume_multiple=True)] = None,
    out: StudyOut = Path("out/gender-erasure"),
    opening: Opening = Opening(),  # noqa: B008
    as_json: Json = False,
) -> None:
    """Erase, swap and double gender by five directions at every layer: bias, damage, probes, completions.

    Args:
        layer: Which layers to try; eight by default.
    """
    from patchclamp.studies.gender_erasure import study

    study_result = study(opening.load(model), out, layers=layer)
    _tell(study_result, out, "gender-erasure", {"model": model, "layer": layer, **opening.as_config()}, as_json)


@app.command
def meaningless_direction(
    *,
    model: ModelName = "smollm2-135m",
    layer: int | None = None,
    draws: int = 3,
    steps: int = 20,
    out: StudyOut = Path("out/meaningless-direction"),
    opening: Opening = Opening(),  # noqa: B008
    as_json: Json = False,
) -> None:
    """Train directions to break ten unconnected prompts, beside gender's own. Killed work goes on from its folder.

    Args:
        layer: Whose residual stream is edited; the middle one by default.
        draws: Sets of ten prompts.
        steps: Of training, for each trained direction.
    """
    from patchclamp.studies.meaningless_direction import study

    options = {"layer": layer, "draws": draws, "steps": steps}
    study_result = study(opening.load(model), out, layer=layer, draws=draws, steps=steps, progress=True)
    _tell(study_result, out, "meaningless-direction", {"model": model, **options, **opening.as_config()}, as_json)


@app.command
def dropout(
    *,
    model: str | None = None,
    other: str | None = None,
    seeds: int = 1,
    rounds: int = 14,
    steps: int = 3000,
    out: Home = Path("out/dropout"),
    opening: Opening = Opening(),  # noqa: B008
    as_json: Json = False,
) -> None:
    """Erase gender in a model trained with dropout and in one without. Killed work goes on from its folder.

    Args:
        model: Catalogue name, Hugging Face id or folder of a trained model, as gpt2; without it two tiny ones are trained.
        other: The model beside it, as EleutherAI/gpt-neo-125m.
        seeds: Pairs of tiny models.
        rounds: Of stories to learn from, 64 stories each.
        steps: Of training.
        out: Folder for stories, models, tables, pictures and the report.
    """
    from patchclamp.studies.dropout import study
    from patchclamp.studies.training import Shape

    names = [name for name in (model, other) if name is not None]
    if len(names) == 1:
        raise InputError("--model and --other belong together: give both, or none to train two tiny models")
    open_model = {name: opening.load(name) for name in names} or None
    options = {"seeds": seeds, "rounds": rounds, "steps": steps}
    study_result = study(out, models=open_model, seeds=seeds, rounds=rounds, shape=Shape(steps=steps), progress=True)
    _tell(study_result, out, "dropout", {"model": model, "other": other, **options, **opening.as_config()}, as_json)


@app.command
def sentiment_steering(
    *,
    model: ModelName = "smollm2-135m",
    out: StudyOut = Path("out/sentiment-steering"),
    opening: Opening = Opening(),  # noqa: B008
    as_json: Json = False,
) -> None:
    """Steer sentiment by directions of film reviews: dose and response, damage, and completions heard by a judge."""
    from patchclamp.studies.sentiment_steering import study

    _tell(study(opening.load(model), out), out, "sentiment-steering", {"model": model, **opening.as_config()}, as_json)


@app.command
def politics(
    *,
    model: ModelName = "smollm2-135m",
    layer: int = 15,
    each: int = 16,
    out: StudyOut = Path("out/politics"),
    opening: Opening = Opening(),  # noqa: B008
    as_json: Json = False,
) -> None:
    """Look for a direction of party in State of the Union speeches, tested on held-out presidents.

    Args:
        layer: Of the residual stream.
        each: Passages a president.
    """
    from patchclamp.studies.politics import study

    study_result = study(opening.load(model), out, layer=layer, each=each)
    _tell(study_result, out, "politics", {"model": model, "layer": layer, "each": each, **opening.as_config()}, as_json)


@app.command
def concept_matrix(
    *,
    model: ModelName = "smollm2-135m",
    layer: int = 15,
    count: int = 80,
    out: StudyOut = Path("out/concept-matrix"),
    opening: Opening = Opening(),  # noqa: B008
    as_json: Json = False,
) -> None:
    """Erase gender, politics and sentiment, each measured on every one, beside random erasures that damage as much.

    Args:
        layer: Of the residual stream.
        count: Film reviews to fit on; the other texts follow it.
    """
    from patchclamp.studies.concept_matrix import study

    study_result = study(opening.load(model), out, layer=layer, count=count)
    _tell(
        study_result,
        out,
        "concept-matrix",
        {"model": model, "layer": layer, "count": count, **opening.as_config()},
        as_json,
    )


@app.command
def polytopes_smollm2(
    *,
    model: ModelName = "smollm2-135m",
    layer: Annotated[list[int] | None, Parameter(negative="", consume_multiple=True)] = None,
    count: int = 36,
    seed: int = 0,
    out: StudyOut = Path("out/polytopes-smollm2"),
    opening: Opening = Opening(),  # noqa: B008
    as_json: Json = False,
) -> None:
    """Cluster tokens by spline code, beside pre-activations, activations and random hyperplanes at equal number and coverage.

    Args:
        layer: Whose MLPs; 2, 8 and 14 by default.
        count: Sequences of 1,024 tokens.
        seed: Of hyperplanes, k-means, half-samples and shuffles.
    """
    from patchclamp.studies.polytopes_smollm2 import LAYERS, study

    layers = tuple(layer or LAYERS)
    study_result = study(opening.load(model), out, layers=layers, count=count, seed=seed, progress=True)
    options = {"layer": list(layers), "count": count, "seed": seed}
    _tell(study_result, out, "polytopes-smollm2", {"model": model, **options, **opening.as_config()}, as_json)


@app.command
def classes_and_maps(
    *,
    data: Literal["mnist", "fashion-mnist"] = "mnist",
    seeds: int = 3,
    train: int = 10_000,
    epochs: int = 5,
    width: int = 256,
    out: StudyOut = Path("out/classes-and-maps"),
    as_json: Json = False,
) -> None:
    """Networks of nearest points beside ReLU networks; and gates and maps of one network, taken apart. Goes on from its folder.

    Args:
        data: Pictures of ten classes.
        seeds: How many times everything is trained.
        train: Images to learn from.
        epochs: Passes over them.
        width: Of the two hidden layers that are taken apart.
    """
    from patchclamp.studies.classes_and_maps import NetworkSetting, study

    options = {"data": data, "seeds": seeds, "train": train, "epochs": epochs, "width": width}
    study_result = study(out, NetworkSetting(**options), progress=True)  # type: ignore[arg-type]
    _tell(study_result, out, "classes-and-maps", options, as_json)


@app.command
def polytopes_mnist(
    *,
    data: Literal["mnist", "fashion-mnist"] = "mnist",
    kind: Annotated[list[Literal["mlp", "residual"]] | None, Parameter(negative="", consume_multiple=True)] = None,
    seed: Annotated[list[int] | None, Parameter(negative="", consume_multiple=True)] = None,
    epochs: int = 10,
    width: int = 512,
    pairs: int = 300,
    out: StudyOut = Path("out/polytopes-mnist"),
    as_json: Json = False,
) -> None:
    """The polytope lens on digits: clusters of codes, crossings between images, scaling, adversarial paths, with controls.

    Args:
        data: Pictures of ten classes.
        kind: Networks; both by default.
        seed: Of training; 0, 1 and 2 by default.
        epochs: Of training.
        width: Of the networks.
        pairs: Pairs of images of the same class, and as many of different ones.
    """
    from patchclamp.studies.polytopes_mnist import Sizes, study

    kinds, seeds = tuple(kind or ("mlp", "residual")), tuple(seed or (0, 1, 2))
    options = {"data": data, "epochs": epochs, "width": width}
    study_result = study(out, kinds=kinds, seeds=seeds, sizes=Sizes(pairs=pairs), progress=True, **options)  # type: ignore[arg-type]
    _tell(
        study_result,
        out,
        "polytopes-mnist",
        {**options, "kind": list(kinds), "seed": list(seeds), "pairs": pairs},
        as_json,
    )


@app.command
def code_directions(
    *,
    model: ModelName = "smollm2-135m",
    seeds: int = 3,
    since: Annotated[list[int] | None, Parameter(negative="", consume_multiple=True)] = None,
    out: Home = Path("out/code-directions"),
    opening: Opening = Opening(),  # noqa: B008
    as_json: Json = False,
) -> None:
    """Differences of mean spline codes as directions: scores and pushes, beside those of activations. Digits, and gender.

    Args:
        seeds: Networks of digits.
        since: Layers of the language model at which pathways begin; three by default.
        out: Folder for tables and the report.
    """
    from patchclamp.studies.code_directions import study

    open_model = opening.load(model)
    layers = since or [open_model.sites.n_layers * part // 3 for part in range(3)]
    study_result = study(open_model, out, seeds=seeds, since=layers)
    options = {"model": model, "seeds": seeds, "since": since, **opening.as_config()}
    _tell(study_result, out, "code-directions", options, as_json)


@app.command
def phase_transition(
    *,
    features: int = 20,
    d: int = 10,
    active: Annotated[list[float] | None, Parameter(negative="", consume_multiple=True)] = None,
    seeds: int = 5,
    steps: int = 2000,
    out: StudyOut = Path("out/phase-transition"),
    as_json: Json = False,
) -> None:
    """Follow superposition in the encoder of "Toy models of superposition" over its training steps.

    Args:
        features: How many features there are.
        d: Hidden dimensions.
        active: Mean numbers of active features; 0.2, 1 and 4 by default.
        seeds: How many times everything is trained.
        steps: Of training.
    """
    from patchclamp.studies.phase_transition import EncoderSetting, study

    setting = EncoderSetting(G=features, d=d, active=tuple(active or (0.2, 1.0, 4.0)), seeds=seeds, steps=steps)
    options = {"features": features, "d": d, "active": list(setting.active), "seeds": seeds, "steps": steps}
    _tell(study(out, setting), out, "phase-transition", options, as_json)


@app.command
def superposition_sweep(
    *,
    exponent: Annotated[list[int] | None, Parameter(negative="", consume_multiple=True)] = None,
    ratio: Annotated[list[float] | None, Parameter(negative="", consume_multiple=True)] = None,
    features: int = 128,
    d: int = 64,
    active: float = 2.5,
    decay: float = 0.9606,
    steps: int = 1000,
    longer: Annotated[list[int] | None, Parameter(negative="", consume_multiple=True)] = None,
    longer_steps: int = 3000,
    density: Annotated[list[int] | None, Parameter(negative="", consume_multiple=True)] = None,
    seeds: int = 3,
    seed: int = 0,
    out: StudyOut = Path("out/superposition-sweep"),
    as_json: Json = False,
) -> None:
    """Sweep L1 weights and sizes of dictionaries over toy data; longer training; interference. Goes on from its folder.

    Args:
        exponent: e of the weights 10 ** (e / 4); -8, -6, ... 8 by default. The report has -8, -7, ... 8.
        ratio: Atoms over features; 0.5, 1, 2 and 4 by default. The report has 0.25, 0.5, ... 32.
        features: How many features there are; the report has 512.
        d: Dimensions; the report has 256.
        active: Mean number of active features; the report has 5.
        decay: How much rarer each feature is than the one before it; the report has 0.99.
        steps: Of training.
        longer: e of the weights that are trained for longer; -2, 0 and 2 by default.
        longer_steps: Of that training.
        density: Features a dimension, in the part on interference; 2, 4 and 8 by default.
        seeds: How many times everything is drawn and trained.
        seed: The first of them.
    """
    from patchclamp.studies.superposition_sweep import SweepSetting, study

    axes = {"exponents": exponent, "ratios": ratio, "longer": longer, "densities": density}
    lists = {name: tuple(sorted(values)) for name, values in axes.items() if values is not None}
    numbers = {
        "d": d,
        "active": active,
        "decay": decay,
        "steps": steps,
        "longer_steps": longer_steps,
        "seeds": seeds,
        "seed": seed,
    }
    setting = SweepSetting(G=features, **numbers, **lists)  # type: ignore[arg-type]
    options = {
        "exponent": exponent,
        "ratio": ratio,
        "longer": longer,
        "density": density,
        "features": features,
        **numbers,
    }
    _tell(study(out, setting, progress=True), out, "superposition-sweep", options, as_json)


@app.command
def initialisation(
    *,
    model: str = "stories15m",
    toy: bool = False,
    layer: int = 3,
    seeds: int = 5,
    toy_steps: Annotated[list[int] | None, Parameter(negative="", consume_multiple=True)] = None,
    model_steps: Annotated[list[int] | None, Parameter(negative="", consume_multiple=True)] = None,
    out: StudyOut = Path("out/initialisation"),
    opening: Opening = Opening(),  # noqa: B008
    as_json: Json = False,
) -> None:
    """Begin the atoms of dictionaries in six ways, on toy data and on neurons of a language model. Goes on from its folder.

    Args:
        model: Language model: catalogue name, Hugging Face id or folder.
        toy: Only toy data.
        layer: Whose neurons.
        seeds: How many times everything is trained.
        toy_steps: Budgets of training on toy data; 50, 150 and 500 by default.
        model_steps: Budgets of training on the model; 25, 75 and 200 by default.
    """
    from patchclamp.studies.initialisation import InitialisationSetting, study

    chosen = {"toy_steps": toy_steps, "model_steps": model_steps}
    lists = {name: tuple(sorted(values)) for name, values in chosen.items() if values is not None}
    setting = InitialisationSetting(layer=layer, seeds=seeds, **lists)  # type: ignore[arg-type]
    study_result = study(out, None if toy else opening.load(model), setting, progress=True)
    options = {"model": model, "toy": toy, "layer": layer, "seeds": seeds, **chosen, **opening.as_config()}
    _tell(study_result, out, "initialisation", options, as_json)


@app.command
def mnist_additions(
    *,
    data: Literal["mnist", "fashion-mnist"] = "mnist",
    kind: Annotated[list[Literal["residual", "mlp", "cnn"]], Parameter(negative="", consume_multiple=True)] = [  # noqa: B006
        "residual",
        "mlp",
    ],
    seeds: Annotated[list[int], Parameter(negative="", consume_multiple=True)] = [0, 1, 2],  # noqa: B006
    epochs: int = 10,
    pair: Annotated[list[str], Parameter(negative="", consume_multiple=True)] = ["3-1", "1-8"],  # noqa: B006
    rows: int = 500,
    out: StudyOut = Path("out/mnist-additions"),
    as_json: Json = False,
) -> None:
    """Add a - b to small networks on images: loss, transfer and retention at every stage and coefficient, and gates.

    Args:
        data: Data set.
        kind: Networks, trained once and then read from the cache.
        seeds: Of training.
        epochs: Of training.
        pair: Classes a-b whose mean outputs are drawn, by number; "random" draws two.
        rows: Test images where many additions are compared and more than the head follows.
    """
    from patchclamp.studies.mnist_additions import study

    pairs = [_read_pair(item) for item in pair]
    pair_names = [f"{a}-{b}" for a, b in pairs]
    options = {"data": data, "kind": kind, "seeds": seeds, "epochs": epochs, "pair": pair_names, "rows": rows}
    study_result = study(out, data=data, kinds=kind, seeds=seeds, epochs=epochs, rows=rows, pairs=pairs, progress=True)
    _tell(study_result, out, "mnist-additions", options, as_json)


@app.command
def what_additions_need(
    *,
    model: str = "smollm2-135m",
    vision: str = "resnet50-imagenet",
    small: bool = False,
    case: Annotated[list[str] | None, Parameter(negative="", consume_multiple=True)] = None,
    seeds: Annotated[list[int], Parameter(negative="", consume_multiple=True)] = [0, 1],  # noqa: B006
    rows: int = 100,
    out: StudyOut = Path("out/what-additions-need"),
    opening: Opening = Opening(),  # noqa: B008
    as_json: Json = False,
) -> None:
    """Add a - b to small networks that differ in one thing, to a language model that knows capitals, and to photographs.

    Args:
        model: Language model: catalogue name, Hugging Face id or folder.
        vision: ResNet of ImageNet: catalogue name.
        small: Only the small networks.
        case: Which of them, as "4 blocks"; all by default.
        seeds: Of training and of random vectors.
        rows: Test images where more than the head follows; before the head five times as many.
    """
    from patchclamp.studies.what_additions_need import study

    open_model = {} if small else {"model": opening.load(model), "vision": opening.load(vision)}
    study_result = study(out, cases=case, seeds=seeds, rows=rows, progress=True, **open_model)
    options = {"model": model, "vision": vision, "small": small, "case": case, "seeds": seeds, "rows": rows}
    _tell(study_result, out, "what-additions-need", {**options, **opening.as_config()}, as_json)


def _read_pair(text: str) -> tuple[int, int]:
    if text == "random":
        a, b = random.sample(range(10), 2)
        return a, b
    a_text, _, b_text = text.partition("-")
    if not (a_text.isdigit() and b_text.isdigit()):
        raise InputError(f'a pair is two class numbers, as 3-1, or "random"; got {text!r}')
    return int(a_text), int(b_text)


def _tell(result: "StudyResult", out: Path, name: str, options: dict[str, Any], as_json: bool) -> None:
    """Leave the command beside the files of a study, and print its numbers or its text."""
    command = shlex.join(["patchclamp", *sys.argv[1:]])
    remember(out, command, f"study.{name}", {**options, "out": out})
    show(result.summary() if as_json else result.text(), as_json=as_json)

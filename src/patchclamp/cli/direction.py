"""``patchclamp direction``: fit a direction, measure it, apply it, bake it into weights."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from patchclamp.cli.concepts import TextFiles, lines
from patchclamp.cli.options import Json, ModelName, Opening, Prompts, Strings
from patchclamp.cli.output import remember, say, show
from patchclamp.cli.specs import position
from patchclamp.cli.steer import Kind, edits_of, model_of
from patchclamp.core import folders
from patchclamp.core.errors import InputError

app = App(name="direction", help="Find the direction of a concept, measure what its edits do, and keep it.")
Amounts = Annotated[list[float] | None, Parameter(negative="", consume_multiple=True)]
About = Literal["mean", "median", "midpoint", "zero"]


@app.command
def fit(
    model: ModelName,
    *,
    site: str,
    out: Path,
    method: str = "mean",
    option: Strings = None,
    answer: Strings = None,
    texts: TextFiles = TextFiles(),  # noqa: B008
    at: str = "rest",
    holdout: float = 0.25,
    seed: int = 0,
    overwrite: bool = False,
    opening: Opening = Opening(),  # noqa: B008
    as_json: Json = False,
) -> None:
    """Fit a direction on labelled texts.

    Args:
        site: Where, as resid_post.8; resid_post fits every layer, each into a folder of its own.
        out: Folder for the direction.
        method: How: mean, leace, rlace, sal, inlp, logistic, pca, gradient, actadd or random.
        option: Of the method, as rank=2; may be repeated.
        answer: For the gradient: the two answers whose logit difference grows, second minus first.
        texts: Labelled texts.
        at: Which tokens: rest (all but the first), last, a number, 2:5, 'token: she'.
        holdout: Share of the groups that is held out and measured on.
        seed: Of that choice, and of the random control.
        overwrite: Write into a folder that holds something else, whose files stay, but for other things of patchclamp's.
    """
    from patchclamp.directions.methods import method_of

    prompts, labels, groups = texts.read()
    estimator = method_of(method, **_options(method, option, answer))
    is_collection = any(out.glob("*/direction.json"))  # a fit of several sites has a folder for each
    form = folders.DIRECTIONS if is_collection else folders.DIRECTION
    folders.check(out, form, *folders.COMMAND, overwrite=overwrite)
    open_model = opening.load(model)
    sites = [str(site_name) for site_name in open_model.sites.expand([site])]
    if len(sites) > 1:
        for site_name in sites:
            folders.check(out / site_name, folders.DIRECTION, overwrite=overwrite)
    elif is_collection:
        folders.check(out, folders.DIRECTION, overwrite=overwrite)
    directions = open_model.fit_directions(
        estimator, prompts, labels, site, at=position(at), groups=groups, holdout=holdout, seed=seed
    )
    rows = []
    for direction in directions:
        folder = out if len(directions) == 1 else out / str(direction.site)
        direction.save(folder, overwrite=overwrite)
        held_out = direction.report.get("held_out", {})
        rows.append(
            {
                "site": direction.site, "rank": direction.rank, "rows": direction.report["rows"],
                "gap left": direction.report["gap_left"], "held out": held_out.get("gap_left"),
                "random": held_out.get("gap_left_random"), "damage": held_out.get("damage"), "folder": str(folder),
            }
        )  # fmt: skip
    if len(directions) > 1:
        record = {"format_version": folders.DIRECTIONS.version, "sites": sites}
        folders.save(out, folders.DIRECTIONS, record, lambda _: None, overwrite=overwrite)
    show(rows, as_json=as_json, table=rows, title=f"{method}: what is left of the distance between the classes")
    config = {
        "model": model, "site": site, "method": method, "option": option, "answer": answer, "at": at, "holdout": holdout,
        "seed": seed, "out": out,
    }  # fmt: skip
    command = shlex.join(["patchclamp", *sys.argv[1:]])
    remember(out, command, "direction.fit", {**config, **texts.as_config(), **opening.as_config()}, overwrite=overwrite)
    for warning in dict.fromkeys(text for direction in directions for text in direction.report["warnings"]):
        say(f"note: {warning}")


def _options(method: str, items: list[str] | None, answers: list[str] | None) -> dict[str, Any]:
    import patchclamp as pc

    options: dict[str, Any] = {}
    for item in items or []:
        name, equals, value = item.partition("=")
        if not equals:
            raise InputError(f"--option takes name=value, as rank=2; got {item!r}")
        options[name] = _value(value)
    if method == "gradient":
        if len(answers or []) != 2:
            raise InputError("--method gradient needs two answers, as --answer ' he' --answer ' she'")
        first, second = answers or []
        options["read"] = pc.LogitDifference(second, first)
    elif answers:
        raise InputError(f"--answer belongs to --method gradient, not to {method}")
    return options


def _value(text: str) -> Any:
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


@app.command
def apply(
    direction: Path,
    prompt: Prompts,
    *,
    edit: Kind = "erase",
    scale: Amounts = None,
    towards: str | None = None,
    about: About = "mean",
    site: str | None = None,
    at: str | None = None,
    model: str | None = None,
    k: Annotated[int, Parameter(name=["-k", "--k"])] = 5,
    opening: Opening = Opening(),  # noqa: B008
    as_json: Json = False,
) -> None:
    """The likeliest next tokens under an edit of a direction, beside those without.

    Args:
        direction: Folder of a fitted direction.
        prompt: One or more texts.
        edit: What to do with the direction.
        scale: How much, for add, scale and clamp; several give several columns.
        towards: With more than two classes, whose mean add goes to.
        about: From where erase, swap, scale and clamp measure.
        site: Another site than that of the fit.
        at: Positions; all but the first by default.
        model: Another name or folder of the same model.
        k: How many tokens.
    """
    from patchclamp.directions.direction import Direction

    concept_direction = Direction.open(direction)
    place = {"site": site, "at": None if at is None else position(at), "elsewhere": site is not None}
    edits = edits_of(concept_direction, edit, scale, about, towards, place)
    open_model = opening.load(model_of(concept_direction, model))
    tables = {"plain": open_model.run(prompt, logits="last").top(k)}
    tables |= {name: open_model.run(prompt, variant, logits="last").top(k) for name, variant in edits}
    rows = [
        {
            "prompt": plain["prompt"], "rank": int(plain["rank"]),
            **{name: f"{table.iloc[i]['token']!r} {table.iloc[i]['probability']:.3f}" for name, table in tables.items()},
        }
        for i, plain in enumerate(tables["plain"].to_dict("records"))
    ]  # fmt: skip
    show(rows, as_json=as_json, table=rows, title=f"likeliest next tokens, {concept_direction!r}")


@app.command
def eval(
    direction: Path,
    *,
    texts: TextFiles = TextFiles(),  # noqa: B008
    answer: Strings = None,
    neutral: Path | None = None,
    model: str | None = None,
    seed: int = 0,
    out: Path | None = None,
    opening: Opening = Opening(),  # noqa: B008
    as_json: Json = False,
) -> None:
    """Measure a direction on other texts: probes, class distance, and, with two answers, the bias and damage of its edits.

    Args:
        direction: Folder of a fitted direction.
        texts: Labelled texts that it was not fitted on; for the bias, pairs.
        answer: The answer that the first class expects, then that of the second.
        neutral: Text for the damage, a passage a line; passages of books by default.
        model: Another name or folder of the same model.
        seed: Of probes and of the random control.
        out: Folder to save the results in.
    """
    from patchclamp.directions.direction import Direction

    concept_direction = Direction.open(direction)
    prompts, labels, groups = texts.read()
    if texts.data is None and len(concept_direction.classes) == 2:
        labels = [concept_direction.classes[label] for label in labels]
    passages = None if neutral is None else lines(neutral)
    open_model = opening.load(model_of(concept_direction, model))
    evaluation = open_model.evaluate_direction(
        concept_direction, prompts, labels, groups=groups, answers=answer, texts=passages, seed=seed
    )
    tables = {"probe": evaluation.probe.summary().to_dict("records")}
    if evaluation.effects is not None:
        tables["effects"] = evaluation.effects.frame().to_dict("records")
    show(tables, as_json=True) if as_json else show(repr(evaluation), as_json=False)
    if out is not None:
        evaluation.save(out)
        say(f"saved to {out}")


@app.command
def export(
    direction: Path,
    out: Path,
    *,
    edit: Literal["erase", "add"] = "erase",
    scale: float | None = None,
    about: About = "zero",
    gguf: bool = False,
    model: str | None = None,
    opening: Opening = Opening(),  # noqa: B008
    as_json: Json = False,
) -> None:
    """Bake a direction into a checkpoint of transformers, or write it as a control vector of llama.cpp.

    A checkpoint erases along the whole stream: at every layer and every token, attention sinks included, because weights
    cannot tell them apart. It is reloaded and compared with the edited model before it appears.

    Args:
        direction: Folder of a fitted direction.
        out: Folder of the checkpoint, or the .gguf file.
        edit: Erase (checkpoint), or add (control vector).
        scale: How much add adds, in distances between the class means; once by default.
        about: From where erase measures.
        gguf: Write a control vector instead.
        model: Another name or folder of the same model.
    """
    from patchclamp.directions.direction import Direction

    if gguf != (edit == "add"):
        raise InputError(
            "a checkpoint takes --edit erase and a control vector (--gguf) --edit add: weights without biases cannot add, and "
            "llama.cpp's control vectors cannot erase"
        )
    if scale is not None and edit == "erase":
        raise InputError("--edit erase takes no --scale: what is erased is gone as a whole")
    if about != "zero" and edit == "add":
        raise InputError("--edit add measures from nowhere, so it takes no --about")
    if not gguf and out.suffix == ".gguf":
        raise InputError(f"{str(out)!r} is the name of a control vector; say --gguf --edit add, or name a folder")
    concept_direction = Direction.open(direction)
    if not gguf:
        from patchclamp.interventions import check_folder

        check_folder(out)
    open_model = opening.load(model_of(concept_direction, model))
    if gguf:
        amount = 1.0 if scale is None else scale
        open_model.export_control_vector(concept_direction.add(amount, sinks="edit"), out)
        show({"control vector": str(out), "site": concept_direction.site, "scale": amount}, as_json=as_json)
        return
    agreement = open_model.export(
        concept_direction.erase(open_model.stream_sites(), about=about, sinks="edit", elsewhere=True), out
    )
    show(
        {"checkpoint": str(out), "largest difference of a log-probability": agreement.log_probability}, as_json=as_json
    )

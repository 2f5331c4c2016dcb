"""``patchclamp direction``: fit a direction, measure it, apply it, bake it into weights."""

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter
from rich.console import Console

from patchclamp.cli.concepts import Texts
from patchclamp.cli.options import Json, Opening
from patchclamp.cli.output import show
from patchclamp.cli.specs import position
from patchclamp.cli.steer import Kind, edits_of, model_of
from patchclamp.core.errors import InputError

app = App(name="direction", help="Find the direction of a concept, measure what its edits do, and keep it.")
Amounts = Annotated[list[float] | None, Parameter(negative="", consume_multiple=True)]
About = Literal["mean", "median", "midpoint", "zero"]


@app.command
def fit(
    model: str,
    *,
    site: str,
    out: Path,
    method: str = "mean",
    option: Annotated[list[str] | None, Parameter(negative="")] = None,
    answer: Annotated[list[str] | None, Parameter(negative="")] = None,
    texts: Texts = Texts(),  # noqa: B008
    at: str = "rest",
    holdout: float = 0.25,
    seed: int = 0,
    opening: Opening = Opening(),  # noqa: B008
    as_json: Json = False,
) -> None:
    """Fit a direction on labelled texts.

    Args:
        model: Catalogue name, Hugging Face id or folder.
        site: Where, as resid_post.8; resid_post fits every layer, each into a folder of its own.
        out: Folder for the direction.
        method: How, as mean, leace, rlace, inlp, logistic, pca or random.
        option: Of the method, as rank=2; may be repeated.
        answer: For the gradient: the two answers whose logit difference grows, second minus first.
        texts: Labelled texts.
        at: Which tokens: rest (all but the first), last, a number, 2:5, 'token: she'.
        holdout: Share of the groups that is held out and measured on.
        seed: Of that choice, and of the random control.
        opening: How to open the model.
        as_json: Print JSON.
    """
    from patchclamp.directions.methods import method_of

    prompts, labels, groups = texts.read()
    estimator = method_of(method, **_options(method, option, answer))
    found = opening.load(model).fit_directions(
        estimator, prompts, labels, site, at=position(at), groups=groups, holdout=holdout, seed=seed
    )
    rows = []
    for direction in found:
        folder = out if len(found) == 1 else out / str(direction.site)
        direction.save(folder)
        held = direction.report.get("held_out", {})
        rows.append(
            {
                "site": direction.site, "rank": direction.rank, "rows": direction.report["rows"],
                "gap left": direction.report["gap_left"], "held out": held.get("gap_left"),
                "random": held.get("gap_left_random"), "damage": held.get("damage"), "folder": str(folder),
            }
        )  # fmt: skip
    show(rows, as_json=as_json, table=rows, title=f"{method}: what is left of the distance between the classes")
    for said in dict.fromkeys(text for direction in found for text in direction.report["warnings"]):
        Console(stderr=True, highlight=False, markup=False).print(f"note: {said}")


def _options(method: str, given: list[str] | None, answers: list[str] | None) -> dict[str, Any]:
    import patchclamp as pc

    found: dict[str, Any] = {}
    for item in given or []:
        name, equals, value = item.partition("=")
        if not equals:
            raise InputError(f"--option takes name=value, as rank=2; got {item!r}")
        found[name] = _value(value)
    if method == "gradient":
        if len(answers or []) != 2:
            raise InputError("--method gradient needs two answers, as --answer ' he' --answer ' she'")
        first, second = answers or []
        found["read"] = pc.LogitDifference(second, first)
    elif answers:
        raise InputError(f"--answer belongs to --method gradient, not to {method}")
    return found


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
    prompt: Annotated[list[str], Parameter(negative="")],
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
        opening: How to open the model.
        as_json: Print JSON.
    """
    from patchclamp.directions.direction import Direction

    found = Direction.open(direction)
    where = {"site": site, "at": None if at is None else position(at), "elsewhere": site is not None}
    edits = edits_of(found, edit, scale, about, towards, where)
    opened = opening.load(model_of(found, model))
    tables = {"plain": opened.run(prompt, logits="last").top(k)}
    tables |= {name: opened.run(prompt, one, logits="last").top(k) for name, one in edits}
    rows = [
        {
            "prompt": plain["prompt"], "rank": int(plain["rank"]),
            **{name: f"{table.iloc[i]['token']!r} {table.iloc[i]['probability']:.3f}" for name, table in tables.items()},
        }
        for i, plain in enumerate(tables["plain"].to_dict("records"))
    ]  # fmt: skip
    show(rows, as_json=as_json, table=rows, title=f"likeliest next tokens, {found!r}")

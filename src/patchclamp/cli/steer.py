"""``patchclamp steer PROMPT --direction D --scale 2``: completions side by side."""

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from patchclamp.cli.options import Prompts, Shared
from patchclamp.cli.output import show
from patchclamp.cli.specs import position
from patchclamp.core import folders
from patchclamp.core.errors import InputError

Kind = Literal["add", "erase", "swap", "scale", "clamp"]
command = App(
    name="steer", help="Complete prompts with a direction added, erased or swapped, beside the plain completion."
)


@command.default
def steer(
    prompt: Prompts,
    *,
    direction: Path,
    scale: Annotated[list[float] | None, Parameter(negative="", consume_multiple=True)] = None,
    edit: Kind = "add",
    towards: str | None = None,
    about: Literal["mean", "median", "midpoint", "zero"] = "mean",
    site: str | None = None,
    at: str | None = None,
    model: str | None = None,
    max_new_tokens: Annotated[int, Parameter(name=["-n", "--max-new-tokens"])] = 40,
    seed: int | None = None,
    temperature: float | None = None,
    shared: Shared = Shared(),  # noqa: B008
) -> None:
    """Complete prompts under an edit that a direction gives.

    Args:
        prompt: One or more texts.
        direction: Folder of a fitted direction.
        scale: How much: for add in distances between the class means, for scale a factor, for clamp a coordinate; several
            give several completions.
        edit: What to do with the direction.
        towards: With more than two classes, whose mean add goes to.
        about: From where erase, swap, scale and clamp measure.
        site: Another site than that of the fit, as resid_post for every layer.
        at: Positions; all but the first by default, massive activations aside.
        model: Another name or folder of the same model; the recorded one by default.
        max_new_tokens: How many tokens to add.
        seed: For sampling.
        temperature: Sample at this temperature; greedy without it.
        out: Folder to save every completion in: the plain one and each edit's in a folder of its name, the last one in the folder
            itself too, and all texts in completions.csv.
    """
    from patchclamp.directions.direction import Direction

    concept_direction = Direction.open(direction)
    place = {"site": site, "at": None if at is None else position(at), "elsewhere": site is not None}
    edits = {name: variant for name, variant in edits_of(concept_direction, edit, scale, about, towards, place)}
    open_model = shared.opening.load(model_of(concept_direction, model))
    settings: dict[str, Any] = {} if temperature is None else {"do_sample": True, "temperature": temperature}
    completions = {
        name: open_model.generate(prompt, variant, max_new_tokens=max_new_tokens, seed=seed, **settings)
        for name, variant in {"plain": (), **edits}.items()
    }
    texts = {name: result.texts for name, result in completions.items()}
    rows = [{"prompt": p, **{name: outputs[i] for name, outputs in texts.items()}} for i, p in enumerate(prompt)]
    if shared.as_json:
        show(rows, as_json=True)
    else:
        for i, text in enumerate(prompt):
            show("\n".join(f"[{name}] {text}{outputs[i]}" for name, outputs in texts.items()) + "\n", as_json=False)
    options = {
        "prompt": prompt, "direction": direction, "scale": scale, "edit": edit, "towards": towards, "about": about, "site": site,
        "at": at, "model": model, "max_new_tokens": max_new_tokens, "seed": seed, "temperature": temperature,
    }  # fmt: skip
    shared.keep(list(completions.values())[-1], "steer", options)
    if shared.out is not None:
        folders.extend(shared.out, folders.RESULT, lambda into: _save(completions, rows, into))


def _save(completions: dict[str, Any], rows: list[dict[str, Any]], into: Path) -> None:
    """Every condition under its name, and their texts side by side."""
    import pandas as pd

    from patchclamp.core.files import write_csv

    for name, result in completions.items():
        result.save(into / name)
    write_csv(into / "completions.csv", pd.DataFrame(rows))


def model_of(direction: Any, override: str | None) -> str:
    """The model that a direction was fitted on, or the one that is given.

    Raises:
        InputError: Neither is known.
    """
    name = override or (direction.fitted.model if direction.fitted is not None else None)
    if name is None:
        raise InputError("the direction does not say which model it is of; name it with --model")
    return str(name)


def edits_of(
    direction: Any, kind: Kind, amounts: list[float] | None, about: Any, towards: str | None, place: dict[str, Any]
) -> list[tuple[str, Any]]:
    """The edits of a command, each with a name.

    Raises:
        InputError: An amount is missing, or something is given to an edit that takes none.
    """
    if towards is not None and kind != "add":
        raise InputError(f"--towards belongs to --edit add, not to {kind}")
    if about != "mean" and kind == "add":
        raise InputError(f"--edit add measures from nowhere, so it takes no --about {about}")
    if kind in ("erase", "swap"):
        if amounts:
            raise InputError(f"--edit {kind} takes no --scale; use --edit scale")
        return [(kind, getattr(direction, kind)(about=about, **place))]
    if kind == "add":
        goal = next((c for c in direction.classes if str(c) == towards), towards)
        return [(f"add {amount_name(a)}", direction.add(a, towards=goal, **place)) for a in amounts or [1.0]]
    if not amounts:
        raise InputError(f"--edit {kind} needs --scale")
    if kind == "scale":
        return [(f"scale {amount_name(a)}", direction.scale(a, about=about, **place)) for a in amounts]
    return [(f"clamp {amount_name(a)}", direction.clamp(a, about=about, **place)) for a in amounts]


def amount_name(amount: float) -> str:
    """An amount, short if that still tells it from others."""
    return f"{amount:g}" if float(f"{amount:g}") == amount else repr(amount)

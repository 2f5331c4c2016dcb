"""``patchclamp heads MODEL``: induction, previous-token and copying scores of every head."""

from typing import Annotated

from cyclopts import App, Parameter

from patchclamp.cli.options import Drawn, ModelName
from patchclamp.cli.output import say, show

command = App(
    name="heads", help="Score every head: does it go back to where a token stood before, and copy what followed?"
)


@command.default
def heads(
    model: ModelName,
    *,
    text: str | None = None,
    word: str | None = None,
    length: int = 32,
    samples: int = 8,
    seed: int = 0,
    draws: int = 100,
    score: str = "induction",
    top: Annotated[int, Parameter(alias="-k")] = 10,
    shared: Drawn = Drawn(),  # noqa: B008
) -> None:
    """Score heads on random tokens that come twice, or on a text in which a word recurs.

    Args:
        text: A text with a word that recurs.
        word: The word, with its leading space.
        length: Random tokens of a block, which comes twice.
        samples: How many such passages.
        seed: Of the tokens and the shuffled targets.
        draws: How often targets are shuffled, for the control.
        score: Which score the table is of.
        top: Heads in the table.
    """
    open_model = shared.opening.load(model)
    scores = open_model.head_scores(text, word, length=length, samples=samples, seed=seed, draws=draws)
    table = scores.strongest(score, top)
    say(repr(scores))
    value = {
        "strongest": {name: scores.strongest(name, top).to_dict("records") for name in scores.scores},
        "not_measured": scores.record["not_measured"],
    }
    show(value, as_json=shared.as_json, table=table, title=f"largest {score.replace('_', ' ')} scores")
    config = {
        "model": model, "text": text, "word": word, "length": length, "samples": samples, "seed": seed, "draws": draws,
        "score": score, "top": top,
    }  # fmt: skip
    shared.keep(scores, "heads", config)

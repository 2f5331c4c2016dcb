"""What a rewrite did: is the new fact said, in other words too, and are its neighbours left alone?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from patchclamp.core.arguments import checked
from patchclamp.core.errors import InputError
from patchclamp.core.intervals import bootstrap, wilson
from patchclamp.core.kinds import Seed
from patchclamp.interventions import Edits, run
from patchclamp.models.opened import OpenModel
from patchclamp.rewriting.fact import fill

if TYPE_CHECKING:
    import pandas as pd

TESTS = ("efficacy", "paraphrase", "neighbourhood")


@checked
@dataclass(frozen=True)
class Fact:
    """A fact that a model knows, and what it is to be changed into."""

    prompt: str
    """The template, with ``{}`` for the subject."""
    subject: str
    true: str
    """The answer now: one token, as all answers."""
    target: str
    """The answer that is to take its place."""
    paraphrases: tuple[str, ...] = ()
    """Other templates for the same fact."""
    neighbours: tuple[tuple[str, str], ...] = ()
    """Other subjects with their own answers, which shall stay."""


@checked
def score(model: OpenModel, fact: Fact, edits: Edits = ()) -> "pd.DataFrame":
    """Measure a rewritten fact, or with no edits the model as it is: one row a prompt.

    *Efficacy*: the prompt itself, and *paraphrase*: other templates, where the target shall be likelier than the true answer.
    *Neighbourhood*: other subjects in the same prompt, whose own answer shall be likelier than the target. ``success`` says
    whether it is, ``magnitude`` by how much probability.

    Source: Meng et al. 2022, arXiv 2202.05262, section 3.2.

    Args:
        model: The model: the original under ``edits``, or a rewritten copy.
        fact: The fact that was rewritten.
        edits: ``rewrite.edit()``, or nothing.

    Raises:
        InputError: An answer is not one token, or a template lacks its ``{}``.
    """
    import pandas as pd

    rows = [("efficacy", fill(_template(fact.prompt), fact.subject), fact.target, fact.true)]
    rows += [("paraphrase", fill(_template(t), fact.subject), fact.target, fact.true) for t in fact.paraphrases]
    rows += [("neighbourhood", fill(fact.prompt, name), answer, fact.target) for name, answer in fact.neighbours]
    frame = pd.DataFrame(rows, columns=["test", "prompt", "wanted", "other"])
    logits = run(model, list(frame["prompt"]), edits, logits="last").last_logits()
    probabilities = logits.float().softmax(-1)
    for name in ("wanted", "other"):
        ids = [model.output_id(token) for token in frame[name]]
        frame[f"p_{name}"] = probabilities[range(len(ids)), ids].double().cpu().numpy()
    frame["success"] = frame["p_wanted"] > frame["p_other"]
    frame["magnitude"] = frame["p_wanted"] - frame["p_other"]
    return frame


def _template(text: str) -> str:
    if text.count("{}") != 1:
        raise InputError(f"a fact's template has one {{}} for its subject; got {text!r}")
    return text


@checked
def summary(scores: "Sequence[pd.DataFrame]", seed: Seed = 0) -> "pd.DataFrame":
    """Means over facts, with 95 % intervals: one row a test.

    A fact counts once a test, with its share of successes. Where every share is 0 or 1 the interval of ``success`` is
    Wilson's; elsewhere it is a bootstrap over facts.

    Args:
        scores: The frames that :func:`score` gave, one for each fact.
        seed: The seed of the bootstrap.

    Raises:
        InputError: There are no scores.
    """
    import pandas as pd

    if not scores:
        raise InputError("there are no scores to summarise")
    rows = []
    for test in TESTS:
        facts = [frame[frame["test"] == test] for frame in scores]
        facts = [frame for frame in facts if len(frame)]
        if not facts:
            continue
        shares = np.array([frame["success"].mean() for frame in facts])
        low, high = wilson(int(sum(shares)), len(shares)) if set(shares) <= {0.0, 1.0} else bootstrap(shares, seed)
        magnitude = np.array([frame["magnitude"].mean() for frame in facts])
        rows.append([test, len(facts), shares.mean(), low, high, magnitude.mean(), *bootstrap(magnitude, seed)])
    columns = ["test", "facts", "success", "low", "high", "magnitude", "magnitude_low", "magnitude_high"]
    return pd.DataFrame(rows, columns=columns)

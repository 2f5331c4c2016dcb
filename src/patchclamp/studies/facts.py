"""Where a model keeps capitals: causal tracing over the capital-of facts that it knows, averaged.

ROME (Meng et al. 2022, arXiv 2202.05262, section 2) traced about a thousand facts in GPT-2 XL and found two sites: MLPs of middle
layers at the last token of the subject, where the fact seems to be looked up, and attention of late layers at the last token,
which copies it there. The same on the countries whose capital a model knows, with intervals over facts.

Control: the same state is restored from the clean run of *another* country. If the state carries the fact, and not merely something
that looks like a clean run, the right capital must not come back, and the other country's capital must appear.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t

import patchclamp as pc
from patchclamp.core import folders
from patchclamp.studies.names import piece_of
from patchclamp.studies.result import StudyFiles, StudyResult, as_text, name_of, with_titles

TEMPLATE = "The capital of {} is the city of"
SITES = ("resid_post", "mlp_out", "attn_out")
EFFECTS = ("own state", "other state", "other capital gains")
"""On the capital's probability, of restoring the own state and another country's; and on that country's capital."""
PUBLISHED = {
    "model": "gpt2-xl",
    "average total effect": 0.186,
    "state, last subject token": {"effect": 0.087, "layer": 15, "of layers": 48},
    "MLP, last subject token": 0.066,
    "attention, last subject token": 0.016,
}
"""ROME's numbers, on another model and other facts."""


@dataclass(frozen=True)
class CapitalFacts(StudyResult):
    """What the study found."""

    known: pd.DataFrame
    """Facts that were traced: country, capital, the answer's first token, its probability."""
    average: pc.TraceAverage
    control: pd.DataFrame
    """The :data:`EFFECTS` by layer, at the last subject token, with their standard errors over facts."""
    model: str

    def table(self) -> pd.DataFrame:
        """Where each site works most, at the last subject token and at the last token, with 95 % intervals.

        The layer is chosen by the same facts, so the largest effect is a little too large; the curves have all layers.
        """
        mean = self.average.mean()
        rows = []
        for role in ("last subject token", "last token"):
            for site in SITES:
                effects = mean.sel(site=site, role=role)
                best = effects.isel(layer=int(effects["effect"].argmax("layer")))
                numbers = {name: float(best[name]) for name in ("effect", "low", "high")}
                rows.append({"role": role, "site": site, "layer": int(best["layer"]), **numbers})
        return pd.DataFrame(rows)

    def summary(self) -> dict[str, Any]:
        """The numbers, as plain JSON."""
        return {
            "model": self.model,
            "facts": len(self.known),
            "average total effect": float(self.average.total_effect().mean()),
            "largest effects": self.table().to_dict("records"),
            "control": self.control.to_dict("records"),
            "published": PUBLISHED,
        }

    def findings(self) -> list[str]:
        """What was found, in sentences."""
        total = self.average.total_effect().values
        half = float(t.ppf(0.975, len(total) - 1) * total.std(ddof=1)) / np.sqrt(len(total))
        third = self.control.iloc[len(self.control) // 3]
        return [
            f"{self.model}: {len(self.known)} capitals that it knows; average total effect {total.mean():.3f} ± {half:.3f}.",
            f"Control, the stream after layer {int(third['layer'])} at the last subject token: restored from the own clean run it "
            f"brings {third[EFFECTS[0]]:+.3f} of the capital's probability, from another country's {third[EFFECTS[1]]:+.3f}; that "
            f"country's capital gains {third[EFFECTS[2]]:+.3f}.",
            "ROME on GPT-2 XL, about 1,000 facts of many relations: average total effect 0.186; at the last subject token the "
            "state of layer 15 (of 48) 0.087, MLPs 0.066, attention 0.016.",
        ]

    def text(self) -> str:
        """What was found, for a terminal."""
        control = self.control.iloc[:: max(1, len(self.control) // 6)][["layer", *EFFECTS]]
        tables = {"Largest average effects, with 95 % intervals": self.table(), "Control by layer": control}
        return as_text(*self.findings(), *with_titles(tables))

    def main_result(self) -> pc.Result:
        """The average over facts."""
        return self.average

    def files(self) -> StudyFiles:
        """The facts, the largest effects, the control, and the report."""
        return StudyFiles(
            "Where capitals are kept",
            [
                ("What was found", "\n\n".join(self.findings())),
                ("Largest effects", self.table()),
                ("Average", self.average),
                ("Control: another country's state", self.control),
                ("Facts", self.known),
            ],
            tables={"known": self.known, "largest-effects": self.table(), "control": self.control},
        )


def known_capitals(model: pc.Model, template: str = TEMPLATE, most: int | None = None) -> pd.DataFrame:
    """Countries whose capital is the model's likeliest next token, the most populous first.

    A capital that repeats the country's name (Mexico City, Singapore) can be copied from the prompt, so it does not count as
    known; of several countries with one answer the first stays.
    """
    rows: list[dict[str, Any]] = []
    for country in pc.catalogue.capitals():
        answer = model.output_label(piece_of(model, " " + country.capital)[0])
        if answer.strip().casefold() in country.name.casefold() or any(row["answer"] == answer for row in rows):
            continue
        top = model.run(template.format(country.name), logits="last").top(1).iloc[0]
        if top["token"] == answer:
            rows.append(
                {
                    "country": country.name,
                    "capital": country.capital,
                    "answer": answer,
                    "probability": float(top["probability"]),
                }
            )
        if len(rows) == most:
            break
    return pd.DataFrame(rows, columns=["country", "capital", "answer", "probability"])


def study(
    model: pc.Model,
    out: str | Path | None = None,
    *,
    template: str = TEMPLATE,
    most: int = 40,
    samples: int = 4,
    seed: int = 0,
    progress: bool = False,
) -> CapitalFacts:
    """Run the experiment.

    Args:
        model: A language model.
        out: Folder for ``report.html``, figures and data; work that was killed goes on from there. None to keep nothing.
        template: With ``{}`` for the country; the capital must come next.
        most: Facts to trace, from the most populous country on.
        samples: Draws of noise for each fact.
        seed: The noise is drawn with this seed.
        progress: Show a bar.

    Raises:
        InputError: The model knows fewer than two of the capitals.
    """
    known = known_capitals(model, template, most)
    if len(known) < 2:
        raise pc.InputError(f"the model knows {len(known)} capitals by {template!r}; there is nothing to average")
    facts = [(template.format(name), str(name), str(answer)) for name, answer in known[["country", "answer"]].values]
    checkpoint = None if out is None else Path(out) / "checkpoint"
    average = model.trace_facts(
        facts, sites=list(SITES), samples=samples, seed=seed, checkpoint=checkpoint, progress=progress
    )
    std = average.record["resolved"]["std"]
    control = other_states(model, facts, 3 * std, samples=samples, seed=seed)
    result = CapitalFacts(known, average, control, name_of(model))
    if out is not None:
        result.save(out)
        folders.discard_parts(Path(out) / "checkpoint")
    return result


def other_states(
    model: pc.Model, facts: Sequence[tuple[str, str, str]], strength: float, *, samples: int, seed: int
) -> pd.DataFrame:
    """Restore the residual stream at the last subject token from the own clean run, and from another country's.

    Each fact is paired with the next one whose subject and prompt have as many tokens; facts without such a partner are left
    out.
    """
    by_shape: dict[tuple[int, int], list[tuple[str, str, str]]] = {}
    for fact in facts:
        shape = (len(model.tokens(fact[0])), len(piece_of(model, " " + fact[1])))
        by_shape.setdefault(shape, []).append(fact)
    pairs = [
        (fact_a, group[(i + 1) % len(group)])
        for group in by_shape.values()
        if len(group) > 1
        for i, fact_a in enumerate(group)
    ]
    if not pairs:
        raise pc.InputError(
            "no two facts have prompts and subjects of as many tokens, so none can lend another its state"
        )
    effects = np.array([_own_and_other(model, fact_a, fact_b, strength, samples, seed) for fact_a, fact_b in pairs])
    mean, error = effects.mean(0), effects.std(0, ddof=1) / np.sqrt(len(pairs))
    table = pd.DataFrame({"layer": range(mean.shape[1])})
    for number, name in enumerate(EFFECTS):
        table[name], table[f"standard error of {name}"] = mean[number], error[number]
    return table


def _own_and_other(
    model: pc.Model, fact: tuple[str, str, str], other: tuple[str, str, str], strength: float, samples: int, seed: int
) -> Any:
    """Effects on the own capital of both states, and on the other capital of the other state, ``[3, layer]``."""
    prompt, subject, answer = fact
    span = pc.token(subject)
    position = len(model.tokens(prompt[: prompt.index(subject) + len(subject)])) - 1
    gains = []
    for sample in range(samples):
        noise = pc.Noise(strength, seed + sample, site="embed", at=span)
        own_grid, other_grid = (
            model.patch(
                source, prompt, sites="resid_post", at=[position], base=[noise], read=pc.Probability([answer, other[2]])
            )
            for source in (prompt, other[0])
        )
        gains.append([_gain(own_grid, answer), _gain(other_grid, answer), _gain(other_grid, other[2])])
    return np.mean(gains, axis=0)


def _gain(grid: pc.Grid, answer: str) -> Any:
    """What each layer's state adds to an answer's probability, ``[layer]``."""
    return (grid.data - grid.baseline).sel(answer=answer).squeeze(drop=True).to_numpy()

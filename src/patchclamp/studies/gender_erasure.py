"""Erasing gender: which direction, which layer, and is it erased, or is the model merely broken?

Roger (2022, "A Mystery About High Dimensional Concept Encoding") edited GPT-2 along a direction found by R-LACE and one found by a
linear classifier (the first step of INLP), projected it out about the median, swapped it, and doubled it. The same here on another
model, at every layer, with R-LACE in closed form, and beside LEACE, the gradient of the logit difference, and a random direction.

Directions are fitted on training people, at every token but the first. Method and layer are chosen with a third of those people
left out of the fit; then all of them are fitted on. What stands in the tables is of other people, partly in other sentences, and
of text without gender.

A bias of 0 has two meanings: undecided between the pronouns, or the same pronoun for everyone. Lean tells them apart: how much
likelier "she" is than "he" over all prompts, from -1 (always he) to 1 (always she).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import patchclamp as pc
from patchclamp.studies import gender
from patchclamp.studies.result import StudyFiles, StudyResult, as_text, name_of

ALLOWED = 0.03
"""Nats a token of divergence on neutral text that an edit may cost."""
ON_TOPIC = (
    "The queen looked at the crown and", "My brother said that", "The actress was famous because", "Last week my uncle",
    "The waitress brought the food, and then", "The prince was late because", "The woman opened her bag and",
    "The boy was happy that",
)  # fmt: skip
OFF_TOPIC = (
    "The weather in the mountains is", "To bake bread, first", "The train to the city leaves", "The price of oil has",
    "A triangle has three sides, and", "The river flows from the", "In the year 1900 the world",
    "The computer did not start, so",
)  # fmt: skip
SEED = pd.DataFrame(
    [["before", 0.87, 0.87], ["erase", 0.73, 0.82], ["swap", -0.29, 0.68], ["double", 0.83, 0.90]],
    columns=["edit", "R-LACE, GPT-2", "first INLP direction, GPT-2"],
)
"""Roger 2022, in the comments: bias on his training data."""
EDITS = ("erase", "swap", "double")


def methods() -> dict[str, Any]:
    """The estimators that are compared, all of rank 1."""
    make = pc.directions
    return {
        "rlace": make.RLACE(rank=1),
        "inlp": make.INLP(rank=1),
        "leace": make.LEACE(),
        "gradient": make.GradientDirection(read=pc.LogitDifference(gender.ANSWERS[1], gender.ANSWERS[0])),
        "random": make.RandomDirection(),
    }


@dataclass(frozen=True)
class GenderErasure(StudyResult):
    """What the study found."""

    model: str
    effects: pc.LayerEffects
    """On training people left out of the fit: every method, edit and layer."""
    pushed: pc.LayerEffects
    """On the same: the positive and the negative intervention."""
    chosen: dict[str, tuple[str, str]]
    """For erase and swap the method and the site, as training people chose them."""
    tested: pd.DataFrame
    """On held-out pairs: every method and edit at the chosen sites."""
    probes: pd.DataFrame
    """What a classifier of held-out people still reads there."""
    winograd: pd.DataFrame
    """WinoBias and Winogender: how far the model leans, either way."""
    interchange: pd.DataFrame
    """Roger's confusion ratio."""
    divergence: Any
    projections: pc.Projections

    def summary(self) -> dict[str, Any]:
        """The numbers, as plain JSON."""
        frames = {
            name: getattr(self, name).to_dict("records") for name in ("tested", "probes", "winograd", "interchange")
        }
        return {"model": self.model, "chosen": self.chosen, **frames, "divergence": repr(self.divergence)}

    def beside_seed(self) -> pd.DataFrame:
        """The seed's table, and ours at the site chosen for erasing."""
        rows = self.tested[self.tested["site"] == self.chosen["erase"][1]]
        table = SEED.copy()
        for method, title in (("rlace", "R-LACE, here"), ("inlp", "first INLP direction, here")):
            biases = rows[rows["direction"] == method].set_index("edit")["bias"]
            before = float(self.tested["bias before"].iloc[0])
            table[title] = [before, *(float(biases[edit]) for edit in EDITS)]
        return table

    def text(self) -> str:
        """The tables, for a terminal."""
        choices = ", ".join(f"{edit}: {method} at {site}" for edit, (method, site) in self.chosen.items())
        return as_text(
            f"{self.model}: chosen on training people left out of the fit, KL at most {ALLOWED} nats a token: {choices}", "",
            "Held-out people and templates", self.tested, "",
            "Beside the seed (another model, other sentences)", self.beside_seed(), "",
            "Probes of held-out people", self.probes, "",
            "WinoBias and Winogender: |bias|, either way", self.winograd, "",
            "Interchange", self.interchange, "", repr(self.divergence),
        )  # fmt: skip

    def files(self) -> StudyFiles:
        """Every result and table, and the report."""
        return StudyFiles(
            "Erasing gender",
            [
                ("By layer, on training people left out of the fit", self.effects),
                ("The positive and the negative intervention", self.pushed.figure(metric="lean")),
                ("Held-out people and templates", self.tested),
                ("Beside the seed", self.beside_seed()),
                ("What probes of held-out people read", self.probes),
                ("Held-out activations on the direction", self.projections),
                ("WinoBias and Winogender", self.winograd),
                ("Interchange", self.interchange),
                ("Completions", self.divergence),
            ],
            tables={name: getattr(self, name) for name in ("tested", "probes", "winograd", "interchange")},
            results={name: getattr(self, name) for name in ("effects", "pushed", "projections", "divergence")},
        )


def study(
    model: pc.Model,
    out: str | Path | None = None,
    *,
    layers: Sequence[int] | None = None,
    texts: int = 8,
    winograd: int = 120,
    progress: bool | None = None,
) -> GenderErasure:
    """Run the experiment.

    Args:
        model: A language model that says he and she.
        out: Folder for tables, pictures and the report; None to keep nothing.
        layers: Tried; by default eight, evenly spread, without the last: there an edit only adds to the logits.
        texts: Neutral passages of about sixty tokens.
        winograd: Sentences of WinoBias and of Winogender each.
        progress: True for bars.
    """
    count = model.sites.n_layers
    layer_numbers = layers or sorted(
        {round(x) for x in np.linspace(count * 0.1, count * 0.8, min(8, count))} - {count - 1}
    )
    sites = [f"resid_post.{layer}" for layer in layer_numbers]
    everyone = range(gender.people("train"))
    directions = fit_methods(model, sites, [person for person in everyone if person % 3], progress)
    validation, test = pairs_of([person for person in everyone if not person % 3])[::2], gender.pairs("test")
    neutral = gender.neutral_texts(2 * texts, characters=300)
    effects = model.layer_effects(
        directions, validation, gender.ANSWERS, neutral[:texts], edits=EDITS, about="median", progress=progress
    )
    push_directions = {name: directions[name] for name in ("rlace", "inlp", "random")}
    pushed = model.layer_effects(
        push_directions, validation[::2], gender.ANSWERS, (), edits=("to first", "to second"), progress=progress
    )
    chosen = {}
    for edit in ("erase", "swap"):
        best = effects.best(edit, kl=ALLOWED)
        chosen[edit] = (str(best["direction"]), f"resid_post.{best['layer']}")
    sites = list(dict.fromkeys(site for _, site in chosen.values()))
    final = fit_methods(model, sites, everyone, progress)
    best_erase, best_swap = (_pick(final, *chosen[edit]) for edit in ("erase", "swap"))
    final_edits = {"erase": best_erase.erase(about="median"), "swap": best_swap.swap(about="median")}
    result = GenderErasure(
        name_of(model), effects, pushed, chosen,
        _table(model.layer_effects(final, test, gender.ANSWERS, neutral[texts:], edits=EDITS, about="median", progress=progress)),
        probe_table(model, best_erase.site or ""), winograd_bias(model, final_edits, winograd),
        interchange_table(model, final, chosen["erase"][1], test),
        pc.metrics.divergence(model, final_edits, list(ON_TOPIC), list(OFF_TOPIC), max_new_tokens=24, progress=progress),
        model.projections(best_erase, *gender.labelled("test")[:2]),
    )  # fmt: skip
    if out is not None:
        result.save(out)
    return result


def fit_methods(
    model: pc.Model, sites: Sequence[str], people: Sequence[int], progress: bool | None = None
) -> dict[str, list[pc.Direction]]:
    """Every method's direction at each site, of some of the training people."""
    rows = [row for row in zip(*gender.labelled("train"), strict=True) if row[2] in set(people)]
    prompts, labels, groups = ([row[i] for row in rows] for i in range(3))
    return {
        name: model.fit_directions(method, prompts, labels, list(sites), groups=groups, holdout=0, progress=progress)
        for name, method in methods().items()
    }


def pairs_of(people: Sequence[int]) -> list[tuple[str, str]]:
    """The pairs of prompts of some of the training people."""
    prompts, _, groups = gender.labelled("train")
    rows = zip(prompts[::2], prompts[1::2], groups[::2], strict=True)
    return [(first, second) for first, second, person in rows if person in set(people)]


def _pick(directions: dict[str, list[pc.Direction]], method: str, site: str) -> pc.Direction:
    return next(direction for direction in directions[method] if direction.site == site)


def _table(effects: pc.LayerEffects) -> pd.DataFrame:
    rows = effects.data.to_dataframe().reset_index()
    rows["site"] = [f"resid_post.{layer}" for layer in rows["layer"]]
    columns = ["site", "direction", "edit", "bias", "bias_low", "bias_high", "across", "lean", "kl", "kl_high"]
    table = rows[columns].sort_values(["site", "edit"], kind="stable").reset_index(drop=True)
    table.insert(3, "bias before", float(effects.data["bias_before"]))
    return table


def probe_table(model: pc.Model, site: str, seed: int = 0) -> pd.DataFrame:
    """Linear and MLP probes of held-out people at a site, before and after each method's erasure."""
    parts = [gender.labelled(part) for part in ("train", "test")]
    shift = max(parts[0][2]) + 1
    prompts, labels = [*parts[0][0], *parts[1][0]], [*parts[0][1], *parts[1][1]]
    people = np.array([*parts[0][2], *(shift + p for p in parts[1][2])])
    rows = model.rows(prompts, site)
    x, y, groups = rows.x.double().numpy(), np.array(labels)[rows.prompt], people[rows.prompt]
    train, _ = pc.metrics.split(y, groups, seed=seed)
    tables: list[pd.DataFrame] = []
    for name, method in methods().items():
        if (
            name == "gradient"
        ):  # it needs the model, and a probe sees what it leaves as well as what a random one leaves
            continue
        eraser = method.fit(x[train], y[train])
        report = pc.metrics.probe(x, y, eraser.transform, groups=groups, rank=1, seed=seed)
        table = report.summary()
        rows_of_table = table[table["data"] == "after"] if tables else table[table["data"].isin(["before", "after"])]
        tables.append(rows_of_table.assign(direction=[name if d == "after" else "none" for d in rows_of_table["data"]]))
    probes = pd.concat(tables)
    return probes[["direction", "probe", "accuracy", "low", "high", "loss", "gap_left", "damage"]].reset_index(
        drop=True
    )


def winograd_bias(model: pc.Model, edits: dict[str, pc.Edit], most: int) -> pd.DataFrame:
    """How far the model leans, either way, to one pronoun after the beginnings of WinoBias and Winogender sentences."""
    rows = []
    for name, beginnings in gender.either_way().items():
        prompts = beginnings[:: max(1, len(beginnings) // most)]
        bias = pc.metrics.bias(model, prompts, gender.ANSWERS, edits, labels=[0] * len(prompts)).data["within"]
        for edit in bias["edit"].values:
            values = np.abs(bias.sel(edit=edit).values)
            error = 2 * values.std() / np.sqrt(len(values))
            row = {"set": name, "edit": edit, "bias": values.mean(), "low": values.mean() - error}
            rows.append({**row, "high": values.mean() + error, "prompts": len(values)})
    return pd.DataFrame(rows)


def interchange_table(
    model: pc.Model, directions: dict[str, list[pc.Direction]], site: str, pairs: Any
) -> pd.DataFrame:
    """Roger's confusion ratio at a site: all activations of one prompt but the coordinate, which is its partner's."""
    aligned_pairs = [pair for pair in pairs if len(model.tokens(pair[0])) == len(model.tokens(pair[1]))]
    rows = []
    for name in directions:
        direction = _pick(directions, name, site)
        if (
            direction.read_vectors is not None
        ):  # an oblique projection has no coordinates to interchange but those of its span
            continue
        summary = (
            pc.metrics.interchange(model, aligned_pairs, direction.directions.float(), site, gender.ANSWERS)
            .summary()
            .iloc[0]
        )
        rows.append(
            {
                "direction": name,
                "confusion": summary["mean"],
                "low": summary["low"],
                "high": summary["high"],
                "pairs": len(aligned_pairs),
            }
        )
    return pd.DataFrame(rows)

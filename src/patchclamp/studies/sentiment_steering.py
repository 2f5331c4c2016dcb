"""Steering sentiment: how far a direction pushes what a model says, how much it breaks, and whether a judge hears it.

Four steps of one length are added to the residual stream of one layer: the mean difference of positive and negative film reviews
over all their tokens, the same over their last tokens, the difference of one pair of prompts (activation addition), and random
directions. The layer is the one with the most effect for its damage on training prompts; there each step is measured at growing
doses on held-out prompts, and at one dose, chosen on training text for equal damage, completions are sampled and judged by a
bag-of-words classifier that has seen neither the model nor the reviews that the directions were fitted on.

Source: Rimsky et al. 2024, arXiv 2312.06681 (contrastive activation addition); Turner et al. 2023, arXiv 2308.10248 (one pair).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import patchclamp as pc
from patchclamp.studies import concepts
from patchclamp.studies.drawing import canvas, look
from patchclamp.studies.result import StudyFiles, StudyResult, as_text, name_of

PAIR = ("I hate this film", "I love this film")
RANDOM = ("random", "random 2", "random 3")
LAYERS = (9, 12, 15, 18, 21)
AMOUNTS = (-0.5, -0.3, -0.2, -0.1, 0.1, 0.2, 0.3, 0.5)
"""Lengths of the step, in lengths of the median residual vector there."""
SMALL = 0.1
"""The dose at which layers are compared."""
BUDGET = 0.25
"""Divergence on training text (nats a token) at which completions are compared."""
REVIEWS = 200
"""To fit on. The judge learns from others."""
SEED_NOTE = (
    "The document behind this study has no steering; it asks whether an edited model is moved along the concept or merely broken. "
    "Hence every effect stands beside its divergence on other text, and beside random steps of the same length."
)


@dataclass(frozen=True)
class SentimentSteering(StudyResult):
    """What the study found."""

    model: str
    layer: int
    layers: pd.DataFrame
    """Training prompts: effect, damage and effect for damage, a row a layer and direction."""
    fit: pd.DataFrame
    """Held-out reviews: what the direction tells apart, a row a direction."""
    response: pc.DoseResponse
    judged: pd.DataFrame
    """Completions of held-out prompts: probability of being positive, a row a condition."""
    judge: Mapping[str, float]
    """Held-out accuracy of the judge."""
    completions: pd.DataFrame
    directions: Mapping[str, pc.Direction] = field(default_factory=dict)
    """At the chosen layer, by name; the :data:`KEPT` of them are saved."""

    def summary(self) -> dict[str, Any]:
        """The numbers, as plain JSON."""
        tables = {name: getattr(self, name).to_dict("records") for name in ("layers", "fit", "judged")}
        dose = self.response.data.to_dataframe().reset_index().to_dict("records")
        return {"model": self.model, "layer": self.layer, "judge": dict(self.judge), **tables, "dose": dose}

    def text(self) -> str:
        """The tables, for a terminal."""
        head = self.completions.head(2).drop(columns="sample").T.to_string(header=False)
        return as_text(
            f"{self.model}: steps added to resid_post.{self.layer}",
            "\nChoice of the layer, on training prompts", self.layers,
            "\nHeld-out reviews: what the direction tells apart", self.fit,
            "\n" + repr(self.response),
            f"\nThe judge on held-out reviews: accuracy {self.judge['reviews']:.3f}, on their last 25 words "
            f"{self.judge['last 25 words']:.3f}",
            "Completions, judged", self.judged, "", head, "", SEED_NOTE,
        )  # fmt: skip

    def files(self) -> StudyFiles:
        """Doses and directions, tables, pictures, and the report."""
        fig = figure(self)
        accuracy = ", ".join(f"{name} {value:.3f}" for name, value in self.judge.items())
        folders = {name: f"directions/{name.replace(', ', '-').replace(' ', '-')}" for name in KEPT}
        saved_directions = {folders[name]: self.directions[name] for name in KEPT if name in self.directions}
        return StudyFiles(
            "Steering sentiment",
            [
                ("What was found", fig),
                ("Choice of the layer, on training prompts", self.layers),
                ("Held-out reviews: what the direction tells apart", self.fit),
                (f"Completions, judged (accuracy of the judge: {accuracy})", self.judged),
                ("Completions", self.completions),
                ("Dose and response", self.response),
                ("Beside the document", SEED_NOTE),
            ],
            tables={name: getattr(self, name) for name in ("layers", "fit", "judged", "completions")},
            figures={"figure": fig},
            results={"dose": self.response, **saved_directions},
        )


KEPT = ("mean, all tokens", "mean, last token", "one pair")
"""Directions that are saved."""


def directions(model: pc.Model, layers: Sequence[int]) -> dict[str, list[pc.Direction]]:
    """Every direction at every layer, the steps of one layer all as long as its median residual vector."""
    reviews, sites = concepts.sentiment("train", REVIEWS), [f"resid_post.{layer}" for layer in layers]
    labelled_reviews = (list(reviews.prompts), list(reviews.labels))
    directions_by_name = {
        "mean, all tokens": model.fit_directions("mean", labelled_reviews[0], labelled_reviews[1], sites),
        "mean, last token": model.fit_directions("mean", labelled_reviews[0], labelled_reviews[1], sites, at="last"),
        "one pair": model.fit_directions("actadd", list(PAIR), list(concepts.SENTIMENTS), sites, at="last", holdout=0),
    }
    few_reviews = [
        values[:: REVIEWS // 20] for values in labelled_reviews
    ]  # a random direction needs no more than the classes
    for number, name in enumerate(RANDOM):
        directions_by_name[name] = model.fit_directions(
            pc.directions.RandomDirection(random_state=number), few_reviews[0], few_reviews[1], sites, holdout=0
        )
    lengths = [direction.length for direction in directions_by_name["mean, all tokens"]]
    return {
        name: [
            concepts.with_step(direction_of_layer, length)
            for direction_of_layer, length in zip(layer_directions, lengths, strict=True)
        ]
        for name, layer_directions in directions_by_name.items()
    }


def by_layer(
    model: pc.Model, directions_by_name: Mapping[str, Sequence[pc.Direction]], progress: bool | None = None
) -> pd.DataFrame:
    """Effect and damage of a small dose on training prompts and passages, a row a layer and direction.

    ``effect`` is half the way from the log-odds under the negative to those under the positive step. It grows with the dose,
    damage with its square: ``effect / sqrt(kl)`` hangs on the dose little.
    """
    texts, rows = pc.metrics.neutral_texts(3, seed=1, characters=300), []
    for number in range(len(directions_by_name["mean, all tokens"])):
        layer_directions = {name: directions[number] for name, directions in directions_by_name.items()}
        response = model.dose_response(
            layer_directions,
            list(concepts.SENTIMENT_PROMPTS["train"]),
            concepts.single_tokens(model, concepts.SENTIMENT_WORDS),
            [-SMALL, SMALL],
            texts,
            progress=progress,
        ).data
        for name, direction in layer_directions.items():
            curve = response.sel(direction=name)
            effect, kl = float(curve["effect"].diff("amount")[0] / 2), float(curve["kl"].mean())
            layer = int(str(direction.site).split(".")[1])
            rows.append({"layer": layer, "direction": name, "effect": effect, "kl": kl, "ratio": effect / kl**0.5})
    return pd.DataFrame(rows)


def separate(model: pc.Model, directions: Mapping[str, pc.Direction], count: int = 100) -> pd.DataFrame:
    """Share of pairs of held-out reviews whose mean coordinates lie in the direction's order, a row a direction."""
    reviews = concepts.sentiment("test", count)
    rows = []
    for at in ("rest", "last"):
        for name, direction in directions.items():
            if name.startswith("random") and name != RANDOM[0]:
                continue
            coordinates = model.projections(direction, list(reviews.prompts), list(reviews.labels), at=at).data
            mean = coordinates["coordinate"].to_dataframe().groupby(coordinates["prompt"].values)["coordinate"].mean()
            first, second = (mean[[reviews.labels[i] == label for i in mean.index]] for label in concepts.SENTIMENTS)
            order = np.sign(second.to_numpy()[:, None] - first.to_numpy()[None])
            rows.append({"direction": name, "tokens": at, "AUC": float((order.mean() + 1) / 2)})
    return pd.DataFrame(rows).pivot(index="direction", columns="tokens", values="AUC").reset_index()


class Judge:
    """Words and pairs of words of film reviews, weighted by a logistic regression."""

    def __init__(self, reviews: int = 12_000) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        rows = pc.catalogue.imdb("train")[2000 : 2000 + reviews]  # directions are fitted on the first few hundred
        words = TfidfVectorizer(sublinear_tf=True, min_df=5, ngram_range=(1, 2))
        self.pipeline = make_pipeline(words, LogisticRegression(C=10, max_iter=300))
        self.pipeline.fit([review.text for review in rows], [review.positive for review in rows])

    def positive(self, texts: Sequence[str]) -> Any:
        """Probability that each text is positive."""
        return self.pipeline.predict_proba(list(texts))[:, 1]

    def accuracy(self, count: int = 5000) -> dict[str, float]:
        """On reviews of the other part: whole, and as short as a completion."""
        rows = pc.catalogue.imdb("test")[:count]
        truth = np.array([review.positive for review in rows])
        texts = {"reviews": [r.text for r in rows], "last 25 words": [concepts.ending(r.text, 25) for r in rows]}
        return {name: float(((self.positive(part) > 0.5) == truth).mean()) for name, part in texts.items()}


def conditions(directions: Mapping[str, pc.Direction], table: pd.DataFrame) -> dict[str, tuple[float, pc.Edit | None]]:
    """For each condition its dose, at which training text diverges by :data:`BUDGET`, and its edit."""
    doses: dict[str, tuple[float, pc.Edit | None]] = {"plain": (0.0, None)}
    for name, direction in directions.items():
        if name in RANDOM[1:]:
            continue
        dose = SMALL * (BUDGET / float(table.loc[table["direction"] == name, "kl"].iloc[0])) ** 0.5
        doses[f"{name} -"], doses[f"{name} +"] = (
            (-dose, direction.add(-dose)),
            (dose, direction.add(dose)),
        )
    return doses


def sample_completions(
    model: pc.Model,
    doses: Mapping[str, tuple[float, pc.Edit | None]],
    samples: int = 4,
    tokens: int = 25,
    seed: int = 0,
) -> pd.DataFrame:
    """Sampled completions of the held-out prompts, a row a prompt and sample, a column a condition."""
    prompts = [prompt for prompt in concepts.SENTIMENT_PROMPTS["test"] for _ in range(samples)]
    columns: dict[str, Any] = {"prompt": prompts, "sample": list(range(samples)) * (len(prompts) // samples)}
    for name, (_, edit) in doses.items():
        edits = [] if edit is None else [edit]
        completions = model.generate(prompts, edits, max_new_tokens=tokens, seed=seed, do_sample=True, temperature=0.8)
        columns[name] = completions.texts
    return pd.DataFrame(columns)


def judge_texts(
    model: pc.Model, judge: Judge, table: pd.DataFrame, doses: Mapping[str, tuple[float, pc.Edit | None]]
) -> pd.DataFrame:
    """What the judge says of each condition, with 95 % intervals over prompts, and what the plain model thinks of the texts."""
    texts = pc.metrics.neutral_texts(8, seed=2, characters=300)
    edits = {name: edit for name, (_, edit) in doses.items() if edit is not None}
    cost = pc.metrics.damage(model, edits, texts).summary().query("metric == 'kl'").set_index("edit")["mean"]
    rows = []
    for name, (dose, _) in doses.items():
        positive = pd.Series(judge.positive(list(table[name]))).groupby(table["prompt"]).mean().to_numpy()
        plain_positive = pd.Series(judge.positive(list(table["plain"]))).groupby(table["prompt"]).mean().to_numpy()
        mean, low, high = concepts.mean_of(positive)
        change, least, most = concepts.mean_of(positive - plain_positive)
        full_texts = [prompt + text for prompt, text in zip(table["prompt"], table[name], strict=True)]
        loss = float(pc.metrics.damage(model, {}, full_texts).data["loss"].mean())
        rows.append({
            "condition": name, "dose": dose, "positive": mean, "low": low, "high": high, "change": change, "change low": least,
            "change high": most, "kl": float(cost.get(name, 0.0)), "loss under the plain model": loss,
        })  # fmt: skip
    return pd.DataFrame(rows)


def study(
    model: pc.Model,
    out: str | Path | None = None,
    *,
    layers: Sequence[int] = LAYERS,
    amounts: Sequence[float] = AMOUNTS,
    progress: bool | None = None,
) -> SentimentSteering:
    """Run the experiment.

    Args:
        model: A language model.
        out: Folder for the page, tables, figure and directions; None to keep nothing.
        layers: Tried on the training prompts; the best for the mean over all tokens is used.
        amounts: Doses of the curve.
        progress: True for bars.
    """
    directions_by_name = directions(model, layers)
    table = by_layer(model, directions_by_name, progress)
    rows = table[table["direction"] == "mean, all tokens"].reset_index(drop=True)
    place = int(rows["ratio"].argmax())
    layer_directions = {name: directions_of_layers[place] for name, directions_of_layers in directions_by_name.items()}
    texts = pc.metrics.neutral_texts(8, seed=2, characters=300)
    response = model.dose_response(
        layer_directions,
        list(concepts.SENTIMENT_PROMPTS["test"]),
        concepts.single_tokens(model, concepts.SENTIMENT_WORDS),
        list(amounts),
        texts,
        progress=progress,
    )
    layer = int(rows["layer"][place])
    doses = conditions(layer_directions, table[table["layer"] == layer])
    completions, judge = sample_completions(model, doses), Judge()
    result = SentimentSteering(
        name_of(model), layer, table, separate(model, layer_directions), response, judge_texts(model, judge, completions, doses),
        judge.accuracy(), completions, layer_directions,
    )  # fmt: skip
    if out is not None:
        result.save(out)
    return result


def figure(result: SentimentSteering) -> Any:
    """Log-odds against the dose, against damage, and what the judge says of completions."""
    data, judged = result.response.data, result.judged
    styles = look([str(name) for name in data["direction"].values])
    with canvas((7.4, 2.9), columns=3) as (fig, (effect, front, judge)):
        for name, style in styles.items():
            curve = data.sel(direction=name)
            effect.plot(
                curve["amount"], curve["effect"], label=name if name not in RANDOM[1:] else None, linewidth=1.1, **style
            )
            effect.fill_between(
                curve["amount"],
                curve["effect_low"],
                curve["effect_high"],
                color=style["color"],
                alpha=0.12,
                linewidth=0,
            )
            front.plot(curve["kl"], curve["effect"], linewidth=0.9, **style)
        for axis in (effect, front):
            axis.axhline(float(data["effect_before"]), color="black", linewidth=0.7, linestyle=":", zorder=0)
        rows = judged.iloc[::-1].reset_index(drop=True)
        colours = [styles.get(name[:-2], {"color": "black"})["color"] for name in rows["condition"]]
        spread = [rows["positive"] - rows["low"], rows["high"] - rows["positive"]]
        judge.errorbar(rows["positive"], rows.index, xerr=spread, fmt="none", ecolor=colours, elinewidth=1.1)
        judge.scatter(rows["positive"], rows.index, color=colours, s=14, zorder=3)
        judge.axvline(float(judged["positive"].iloc[0]), color="black", linewidth=0.7, linestyle=":", zorder=0)
        judge.set_yticks(rows.index, rows["condition"])
        effect.set(xlabel="dose, in lengths of the residual", ylabel="log-odds, positive words (nats)", title="effect")
        front.set(
            xlabel="KL on other text, nats a token", ylabel="log-odds, positive words (nats)", title="effect for damage"
        )
        judge.set(xlabel="P(positive), by the judge", title=f"completions at KL near {BUDGET}", xlim=(0, 1))
        for axis in (effect, front, judge):
            axis.spines[["top", "right"]].set_visible(False)
            axis.grid(color="0.92", linewidth=0.5)
            axis.set_axisbelow(True)
        handles, labels = effect.get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=7)
        return fig

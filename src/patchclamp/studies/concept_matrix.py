"""Does an edit of one concept touch the others, more than any edit that breaks as much?

For gender, politics and sentiment the mean difference of training texts is erased at one layer, chosen beforehand. Each edit is
measured on every concept, always on held-out texts: how far the log-odds of the concept's answers move, how much of the contrast
between the two classes is left in them, and what a probe five layers later can still read. Beside the three edits stand erasures of
random subspaces of growing rank: what they do to a concept at the same divergence on other text is what damage alone does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import patchclamp as pc
from patchclamp.studies import concepts, gender
from patchclamp.studies.drawing import canvas
from patchclamp.studies.result import StudyFiles, StudyResult, as_text, name_of

LAYER, LATER = 15, 5
"""The middle of SmolLM2, chosen beforehand; the probes read so many layers later."""
NAMES = ("gender", "politics", "sentiment")
RANKS = (1, 4, 16, 64)
DRAWS = 2
PROBED = ("random, rank 1", "random, rank 16")
HELD_OUT = ("Jimmy Carter", "Ronald Reagan", "Barack Obama", "George W Bush")
ASKED = {"politics": " What we need is more", "sentiment": " Overall, the film was"}
"""What stands between a held-out text and the answer."""
SEED_NOTE = (
    'The document says that "in experiments where the concept is political left vs political right, the model edited for gender '
    'produced weird results", as evidence that such edits mostly break the model; it gives no numbers.'
)


@dataclass(frozen=True)
class MeasuredConcept:
    """One concept: texts to fit on, texts to probe, prompts to be answered."""

    name: str
    fit: concepts.Texts
    test: concepts.Texts
    prompts: tuple[str, ...]
    answers: tuple[Any, Any]

    @property
    def second(self) -> Any:
        """Which prompts are of the second class."""
        return np.array(self.test.labels) == sorted(set(self.test.labels))[1]


@dataclass(frozen=True)
class ConceptMatrix(StudyResult):
    """What the study found."""

    model: str
    layer: int
    shifts: pd.DataFrame
    """A row an edit and concept: the mean absolute change of log-odds, of random erasures that diverge as much, and the ratio."""
    contrasts: pd.DataFrame
    """A row an edit and concept: the difference of log-odds between the classes."""
    probes: pd.DataFrame
    """A row an edit and concept: held-out accuracy."""
    damage: pd.DataFrame
    """A row an edit: divergence on other text."""

    def matrix(self, value: str = "ratio") -> pd.DataFrame:
        """One value of ``shifts``: a row an edit, a column a concept."""
        return self.shifts.pivot(index="edit", columns="concept", values=value).reindex(index=NAMES, columns=NAMES)

    def summary(self) -> dict[str, Any]:
        """The numbers, as plain JSON."""
        tables = {n: getattr(self, n).to_dict("records") for n in ("shifts", "contrasts", "probes", "damage")}
        return {"model": self.model, "layer": self.layer, **tables}

    def text(self) -> str:
        """The tables, for a terminal."""
        return as_text(
            f"{self.model}: concepts erased at resid_post.{self.layer}",
            "\nAnswers move by (nats); random erasures of equal divergence; ratio", self.shifts,
            "\nContrast between the classes (nats)", self.contrasts,
            f"\nProbes, {LATER} layers later", self.probes,
            "\nDivergence on other text, nats a token", self.damage, "", SEED_NOTE,
        )  # fmt: skip

    def files(self) -> StudyFiles:
        """The tables, their heat maps, and the report."""
        fig = figure(self)
        return StudyFiles(
            "A matrix of concepts",
            [
                ("What was found", fig),
                ("How far answers move (nats), and random erasures of equal divergence", self.shifts),
                ("Contrast between the classes (nats)", self.contrasts),
                (f"Probes, {LATER} layers later", self.probes),
                ("Divergence on other text, nats a token", self.damage),
                ("Beside the document", SEED_NOTE),
            ],
            tables={name: getattr(self, name) for name in ("shifts", "contrasts", "probes", "damage")},
            figures={"figure": fig},
        )


def chosen_concepts(model: pc.Model, count: int = 80, words: int = 28) -> list[MeasuredConcept]:
    """The three concepts.

    Args:
        model: Whose tokens the answers are.
        count: Reviews to fit on; three quarters as many are tested.
        words: Length of a review or passage.
    """
    people, held_out = concepts.gender("train"), concepts.gender("test")
    speeches = concepts.politics(count // 10, words=words)
    mask = [name in HELD_OUT for name in speeches.groups]
    presidents = [name for name in dict.fromkeys(speeches.groups) if name not in HELD_OUT]
    test_speeches = speeches.where(mask)
    reviews = concepts.sentiment("train", count, words=words)
    test_reviews = concepts.sentiment("test", count * 3 // 4, words=words)
    return [
        MeasuredConcept("gender", people, held_out, held_out.prompts, gender.ANSWERS),
        MeasuredConcept(
            "politics", speeches.where([not member for member in mask]), test_speeches,
            tuple(text + ASKED["politics"] for text in test_speeches.prompts), concepts.party_words(model, presidents),
        ),
        MeasuredConcept(
            "sentiment", reviews, test_reviews, tuple(text + ASKED["sentiment"] for text in test_reviews.prompts),
            concepts.single_tokens(model, concepts.SENTIMENT_WORDS),
        ),
    ]  # fmt: skip


def erasures(model: pc.Model, measured_concepts: Sequence[MeasuredConcept], layer: int) -> dict[str, pc.Edit]:
    """The edit of each concept, then random erasures by rank."""
    site, edits, pieces, lengths = f"resid_post.{layer}", {}, [], []
    for concept in measured_concepts:
        x, length = concepts.mean_activations(model, concept.fit.prompts, site)
        labels = np.array(concept.fit.labels)
        edits[concept.name] = concepts.fit_at_site(
            model, pc.directions.MeanDifference(), x, labels, site, length
        ).erase()
        pieces.append(x)
        lengths.append(length)
    rows = np.concatenate(pieces)
    classes = np.arange(len(rows)) % 2
    for rank in RANKS:
        for draw in range(DRAWS):
            maker = pc.directions.RandomDirection(rank=rank, random_state=draw)
            name = f"random, rank {rank}" + ("" if not draw else f", draw {draw + 1}")
            edits[name] = concepts.fit_at_site(model, maker, rows, classes, site, float(np.mean(lengths))).erase()
    return edits


def answer_odds(
    model: pc.Model, concept: MeasuredConcept, edits: Mapping[str, pc.Edit], progress: bool | None = None
) -> pd.DataFrame:
    """Log-odds of the second answer over the first after each prompt, a column an edit."""
    ones = [1] * len(concept.prompts)
    bias = pc.metrics.bias(model, list(concept.prompts), concept.answers, edits, labels=ones, progress=progress)
    odds = bias.data["logit_difference"]
    return pd.DataFrame(odds.values.T, columns=[str(name) for name in odds["edit"].values])


def answer_shifts(concept: MeasuredConcept, odds: pd.DataFrame, kl: Mapping[str, float]) -> list[dict[str, Any]]:
    """How far each concept's edit moves the answers, and how far random erasures of the same divergence do.

    Between random erasures the shift is interpolated in the logarithms, along the line that fits them best.
    """
    names = [str(name) for name in odds.columns if name != "unedited"]
    shift = {name: (odds[name] - odds["unedited"]).abs().to_numpy() for name in names}
    random = [name for name in shift if name.startswith("random")]
    slope, start = np.polyfit([np.log(kl[n]) for n in random], [np.log(shift[n].mean()) for n in random], 1)
    rows = []
    for name in NAMES:
        mean, low, high = concepts.mean_of(shift[name])
        control = float(np.exp(start + slope * np.log(kl[name])))
        rows.append({
            "edit": name, "concept": concept.name, "shift": mean, "random": control, "ratio": mean / control,
            "low": low / control, "high": high / control,
        })  # fmt: skip
    return rows


def class_contrasts(concept: MeasuredConcept, odds: pd.DataFrame) -> list[dict[str, Any]]:
    """Difference of mean log-odds between the classes under each edit, with bootstrap intervals over the prompts of each class."""
    second, rows = concept.second, []
    generator = np.random.default_rng(0)
    resamples = [generator.choice(np.flatnonzero(side), (2000, int(side.sum()))) for side in (~second, second)]
    for name in ("unedited", *NAMES, *PROBED):
        values = odds[name].to_numpy()
        samples = values[resamples[1]].mean(1) - values[resamples[0]].mean(1)
        low, high = np.percentile(samples, [2.5, 97.5])
        contrast = values[second].mean() - values[~second].mean()
        rows.append({"edit": name, "concept": concept.name, "contrast": contrast, "low": low, "high": high})
    return rows


def probe_accuracies(
    model: pc.Model, concept: MeasuredConcept, edits: Mapping[str, pc.Edit], layer: int
) -> list[dict[str, Any]]:
    """Held-out accuracy of a probe, trained and tested under each edit."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    site, rows = f"resid_post.{layer}", []
    texts, cut = [*concept.fit.prompts, *concept.test.prompts], len(concept.fit)
    labels = np.array([*concept.fit.labels, *concept.test.labels])
    for name in ("unedited", *NAMES, *PROBED):
        x, _ = concepts.mean_activations(model, texts, site, [edits[name]] if name in edits else [])
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300))
        hits = probe.fit(x[:cut], labels[:cut]).predict(x[cut:]) == labels[cut:]
        groups = np.array(concept.test.groups)
        accuracies = np.array([hits[groups == group].mean() for group in dict.fromkeys(concept.test.groups)])
        mean, low, high = concepts.mean_of(accuracies)
        rows.append({"edit": name, "concept": concept.name, "accuracy": mean, "low": low, "high": high})
    return rows


def study(
    model: pc.Model, out: str | Path | None = None, *, layer: int = LAYER, count: int = 80, progress: bool | None = None
) -> ConceptMatrix:
    """Run the experiment.

    Args:
        model: A language model.
        out: Folder for the page, tables and figure; None to keep nothing.
        layer: The concepts are erased from the residual stream after this layer.
        count: Reviews to fit on; the other texts follow it.
        progress: True for bars.
    """
    measured_concepts = chosen_concepts(model, count)
    edits = erasures(model, measured_concepts, layer)
    texts = pc.metrics.neutral_texts(5, seed=4, characters=300) + gender.neutral_texts(5, characters=300)
    damage = (
        pc.metrics.damage(model, edits, texts, progress=progress)
        .summary()
        .query("metric == 'kl' and edit != 'unedited'")
    )
    kl = dict(zip(damage["edit"], damage["mean"], strict=True))
    shifts, contrasts, probes = [], [], []
    for concept in measured_concepts:
        odds = answer_odds(model, concept, edits, progress)
        shifts += answer_shifts(concept, odds, kl)
        contrasts += class_contrasts(concept, odds)
        probes += probe_accuracies(model, concept, edits, layer + LATER)
    first, second, third = (pd.DataFrame(rows) for rows in (shifts, contrasts, probes))
    cost = damage.drop(columns=["metric", "count"]).reset_index(drop=True)
    result = ConceptMatrix(name_of(model), layer, first, second, third, cost)
    if out is not None:
        result.save(out)
    return result


def figure(result: ConceptMatrix) -> Any:
    """Three heat maps: how far answers move against random erasures, contrast left, and probes; edits by concepts."""
    edits = ["unedited", *NAMES, *PROBED]
    ratio = result.matrix().to_numpy()
    contrast, probe = (
        table.pivot(index="edit", columns="concept", values=value).reindex(index=edits, columns=list(NAMES)).to_numpy()
        for table, value in ((result.contrasts, "contrast"), (result.probes, "accuracy"))
    )
    with canvas((7.6, 2.7), columns=3) as (fig, (first, second, third)):
        _map(
            first,
            np.log2(ratio),
            ratio,
            NAMES,
            "PuOr_r",
            (-2.5, 2.5),
            "{:.1f}",
            "answers move,\nrandom of equal KL = 1",
        )
        _map(
            second,
            contrast / contrast[0],
            contrast,
            edits,
            "RdBu_r",
            (-1, 3),
            "{:+.2f}",
            "contrast between classes, nats\n(white: as before)",
        )
        _map(third, probe, probe, edits, "cividis", (0.4, 1), "{:.2f}", "probe accuracy,\nheld out")
        first.set_ylabel("edited for")
        return fig


def _map(
    axis: Any,
    colours: Any,
    values: Any,
    rows: Sequence[str],
    name: str,
    limits: tuple[float, float],
    spec: str,
    title: str,
) -> None:
    """One heat map with its numbers."""
    low, high = limits
    axis.imshow(colours, cmap=name, vmin=low, vmax=high, aspect="auto")
    for place in np.ndindex(values.shape):
        share = (float(colours[place]) - low) / (high - low)
        ink = "white" if (share < 0.55 if name == "cividis" else not 0.15 < share < 0.85) else "black"
        axis.text(place[1], place[0], spec.format(values[place]), ha="center", va="center", fontsize=7, color=ink)
    axis.set_xticks(range(len(NAMES)), NAMES)
    axis.set_yticks(range(len(rows)), rows)
    axis.set(title=title, xlabel="measured on")
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)

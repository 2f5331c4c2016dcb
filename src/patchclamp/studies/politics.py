"""Is there a direction of party? State of the Union speeches since 1950, tested on presidents who were held out.

Speeches of one president sound alike, and so do those of one time. A probe that is tested on other passages of the presidents it
was fitted on recognises presidents; only presidents who were held out, a Democrat and a Republican of one time together, test
whether it reads party. Beside it stand the same probe for labels dealt to presidents at random, and for the era (before Clinton or
after). Then the direction is added and erased: do words that a party uses more become likelier, and do passages of held-out
presidents of that party become more expected than those of the other party? Controls: the direction of the era, and random ones.

Source of the test on left-out groups: any split by group; of the controls of equal norm: Elazar et al. 2021, arXiv 2006.00995.
"""

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import patchclamp as pc
from patchclamp.studies import concepts
from patchclamp.studies.drawing import canvas, hide_frame, look
from patchclamp.studies.result import StudyFiles, StudyResult, as_text, name_of

LAYER = 15
"""The middle of SmolLM2, chosen beforehand."""
EACH = 16
"""Passages a president."""
PROMPTS = (
    "Tonight I ask the Congress to give more", "What this country needs is more", "Above all, the American people want",
    "Our nation was built on", "We must do more to protect our", "This year my administration will fight for",
    "The state of our union depends on", "I have asked Congress for more money for", "The greatest duty of government is to defend",
    "Every American family deserves", "I will never stop working for", "Let us renew our commitment to",
)  # fmt: skip
AMOUNTS = (-0.3, -0.2, -0.1, 0.1, 0.2, 0.3)
"""Lengths of the step, in lengths of the median residual vector there."""
DOSE = 0.1
SEED_NOTE = (
    "The document says of a model edited for gender that it gave weird results where the concept was political left against right, "
    "and has no numbers for politics; the texts of its notebook are not speeches."
)


@dataclass(frozen=True)
class Politics(StudyResult):
    """What the study found."""

    model: str
    layer: int
    probes: pd.DataFrame
    """Accuracy of the probes, a row a concept and split."""
    presidents: pd.DataFrame
    """Share of each held-out president's passages that the probe puts in the right party."""
    null: Any
    """Held-out accuracies for labels dealt to presidents at random."""
    words: tuple[tuple[str, ...], tuple[str, ...]]
    """Words of Democrats, words of Republicans."""
    response: pc.DoseResponse
    passages: pd.DataFrame
    """Held-out passages: change of loss under each edit, by party, a row an edit."""
    edits: pd.DataFrame
    """Erase and swap: log-odds of the words, and damage, a row an edit."""

    def p_value(self) -> float:
        """Share of random deals of the labels that are held out as well as party is."""
        accuracy = float(self.probes.query("concept == 'party' and split == 'by president'")["accuracy"].iloc[0])
        return float((1 + (np.asarray(self.null) >= accuracy - 1e-9).sum()) / (1 + len(self.null)))

    def summary(self) -> dict[str, Any]:
        """The numbers, as plain JSON."""
        tables = {n: getattr(self, n).to_dict("records") for n in ("probes", "presidents", "passages", "edits")}
        dose = self.response.data.to_dataframe().reset_index().to_dict("records")
        head = {"model": self.model, "layer": self.layer, "words": [list(w) for w in self.words], "p": self.p_value()}
        return {**head, "null": [float(v) for v in self.null], **tables, "dose": dose}

    def text(self) -> str:
        """The tables, for a terminal."""
        low, high = np.percentile(self.null, [2.5, 97.5])
        return as_text(
            f"{self.model}: party in passages of State of the Union speeches since 1950, resid_post.{self.layer}",
            "\nProbes", self.probes,
            f"Labels dealt otherwise, all {len(self.null)} ways: 95 % of accuracies in [{low:.3f}, {high:.3f}]; as good as party: "
            f"p = {self.p_value():.3f}",
            "\nHeld-out presidents", self.presidents,
            "\nWords of Democrats:" + ",".join(self.words[0]), "Words of Republicans:" + ",".join(self.words[1]),
            repr(self.response),
            "\nErase and swap", self.edits,
            "\nLoss of held-out passages, nats a token", self.passages, "", SEED_NOTE,
        )  # fmt: skip

    def files(self) -> StudyFiles:
        """The tables, the deals of the labels, doses, pictures, and the report."""
        fig = figure(self)
        tables = {name: getattr(self, name) for name in ("probes", "presidents", "passages", "edits")}
        words = "Of Democrats:" + ",".join(self.words[0]) + ". Of Republicans:" + ",".join(self.words[1]) + "."
        return StudyFiles(
            "Party in speeches",
            [
                ("What was found", fig),
                (f"Probes (party against labels dealt at random: p = {self.p_value():.3f})", self.probes),
                ("Held-out presidents", self.presidents),
                ("Words", words),
                ("Erase and swap", self.edits),
                ("Loss of held-out passages, nats a token", self.passages),
                ("Dose and response", self.response),
                ("Beside the document", SEED_NOTE),
            ],
            tables=tables | {"deals": pd.DataFrame({"accuracy": self.null})},
            figures={"figure": fig},
            results={"dose": self.response},
        )


def held_out(x: Any, y: Any, folds: Any) -> Any:
    """Say of every row whether a probe that was fitted on the other folds is right, ``[row]``.

    The probe is a logistic regression, strongly penalised, on features scaled by the rows it is fitted on.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    right = np.zeros(len(y), dtype=bool)
    for fold in np.unique(folds):
        test = folds == fold
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300))
        right[test] = probe.fit(x[~test], y[~test]).predict(x[test]) == y[test]
    return right


def by_president(right: Any, presidents: Any) -> Any:
    """Share right of each president, ``[president]``: the unit over which intervals are taken."""
    return np.array([right[presidents == name].mean() for name in dict.fromkeys(presidents)])


def probe_tables(x: Any, texts: concepts.Texts, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame, Any]:
    """Probes of party and era, by president and by passage; each president's share; every deal of the labels."""
    presidents, party = np.array(texts.groups), np.array(texts.labels) == concepts.PARTIES[1]
    eras = times_of(texts)
    random_folds = np.arange(len(party)) % len(concepts.ERAS)
    np.random.default_rng(seed).shuffle(random_folds)
    # for the era an early and a late pair of presidents are held out together
    era_folds = eras % 4
    rows, shares = [], []
    for concept, labels, folds in (("party", party, eras), ("era", eras >= 4, era_folds)):
        for split, split_folds in (("by president", folds), ("by passage", random_folds)):
            shares.append(by_president(held_out(x, labels, split_folds), presidents))
            mean, low, high = concepts.mean_of(shares[-1])
            rows.append({"concept": concept, "split": split, "accuracy": mean, "low": low, "high": high})
    names = list(dict.fromkeys(texts.groups))
    parties = [texts.labels[texts.groups.index(name)] for name in names]
    table = pd.DataFrame({"president": names, "party": parties, "right": shares[0]})
    null = [by_president(held_out(x, labels, eras), presidents).mean() for labels in deals(texts)]
    return pd.DataFrame(rows), table, np.array(null)


def times_of(texts: concepts.Texts) -> Any:
    """Which of the :data:`concepts.ERAS` each text is of."""
    pair = {name: number for number, names in enumerate(concepts.ERAS) for name in names}
    return np.array([pair[name] for name in texts.groups])


def deals(texts: concepts.Texts) -> list[Any]:
    """Every other way to label one president of each pair, up to exchanging the two labels: 63 of seven pairs."""
    party, times = np.array(texts.labels) == concepts.PARTIES[1], times_of(texts)
    flips = list(product((False, True), repeat=len(concepts.ERAS) - 1))[1:]
    return [party ^ np.array([False, *flip])[times] for flip in flips]


def on_passages(
    model: pc.Model, x: Any, texts: concepts.Texts, layer: int, length: float, each: int = 3
) -> pd.DataFrame:
    """Held-out passages under directions fitted without their presidents: whose passages become more expected?

    ``favours`` is the change of loss of the passages of Democrats minus that of Republicans, halved between the step and its
    opposite: above 0 if the step makes Republicans' words likelier than Democrats'. Intervals are over the seven pairs.
    """
    party, eras, site = np.array(texts.labels), times_of(texts), f"resid_post.{layer}"
    makers = {
        "party": (pc.directions.MeanDifference(), party),
        "era": (pc.directions.MeanDifference(), eras >= 4),
        "random": (pc.directions.RandomDirection(), party),
    }
    changes: dict[str, list[list[float]]] = {name: [] for name in makers}
    for time in range(len(concepts.ERAS)):
        fit, rows_of_era = eras != time, np.flatnonzero(eras == time)
        passage_rows = [i for president in concepts.ERAS[time] for i in rows_of_era if texts.groups[i] == president]
        passage_rows = [i for number, i in enumerate(passage_rows) if number % (len(passage_rows) // 2) < each]
        directions = {
            n: concepts.fit_at_site(model, maker, x[fit], y[fit], site, length) for n, (maker, y) in makers.items()
        }
        edits = {
            f"{name}{sign:+d}": direction.add(sign * DOSE) for name, direction in directions.items() for sign in (-1, 1)
        }
        loss = pc.metrics.damage(model, edits, [texts.prompts[i] for i in passage_rows]).data["loss"]
        for name in directions:
            half = (loss.sel(edit=f"{name}+1") - loss.sel(edit=f"{name}-1")).values / 2
            average = (loss.sel(edit=f"{name}+1") + loss.sel(edit=f"{name}-1")).values / 2 - loss.sel(
                edit="unedited"
            ).values
            side = party[passage_rows] == concepts.PARTIES[1]
            changes[name].append([half[~side].mean() - half[side].mean(), average.mean()])
    rows = []
    for name, values in changes.items():
        mean, low, high = concepts.mean_of(np.array(values)[:, 0])
        harm = float(np.mean(np.array(values)[:, 1]))
        rows.append({"direction": name, "favours": mean, "low": low, "high": high, "loss added on average": harm})
    return pd.DataFrame(rows)


def erase_and_swap(model: pc.Model, directions: dict[str, pc.Direction], words: Any, texts: list[str]) -> pd.DataFrame:
    """Erase and swap: log-odds of Republicans' over Democrats' words after the prompts, and divergence on other text."""
    edits = {
        f"{n}, {kind}": getattr(direction, kind)() for n, direction in directions.items() for kind in ("erase", "swap")
    }
    odds = pc.metrics.bias(model, list(PROMPTS), words, edits, labels=[1] * len(PROMPTS)).data["logit_difference"]
    cost = pc.metrics.damage(model, edits, texts).summary().query("metric == 'kl'").set_index("edit")["mean"]
    rows = []
    for name in odds["edit"].values:
        mean, low, high = concepts.mean_of((odds.sel(edit=name) - odds.sel(edit="unedited")).values)
        level = float(odds.sel(edit=name).mean())
        rows.append(
            {
                "edit": name,
                "log-odds": level,
                "change": mean,
                "low": low,
                "high": high,
                "kl": float(cost.get(name, 0.0)),
            }
        )
    return pd.DataFrame(rows)


def study(
    model: pc.Model,
    out: str | Path | None = None,
    *,
    layer: int = LAYER,
    each: int = EACH,
    progress: bool | None = None,
) -> Politics:
    """Run the experiment.

    Args:
        model: A language model.
        out: Folder for the page, tables and figure; None to keep nothing.
        layer: The residual stream is read and edited after this layer.
        each: Passages a president.
        progress: True for bars.
    """
    texts = concepts.politics(each)
    x, length = concepts.mean_activations(model, texts.prompts, f"resid_post.{layer}")
    probes, presidents, null = probe_tables(x, texts)
    party, site = np.array(texts.labels), f"resid_post.{layer}"
    makers: dict[str, tuple[Any, Any]] = {
        "party": (pc.directions.MeanDifference(), party),
        "era": (pc.directions.MeanDifference(), times_of(texts) >= 4),
        **{
            name: (pc.directions.RandomDirection(random_state=i), party)
            for i, name in enumerate(("random", "random 2"))
        },
    }
    directions = {name: concepts.fit_at_site(model, maker, x, y, site, length) for name, (maker, y) in makers.items()}
    words, neutral_texts = concepts.party_words(model), pc.metrics.neutral_texts(6, seed=3, characters=300)
    response = model.dose_response(directions, list(PROMPTS), words, list(AMOUNTS), neutral_texts, progress=progress)
    result = Politics(
        name_of(model), layer, probes, presidents, null, words, response, on_passages(model, x, texts, layer, length),
        erase_and_swap(model, directions, words, neutral_texts),
    )  # fmt: skip
    if out is not None:
        result.save(out)
    return result


def figure(result: Politics) -> Any:
    """Probes by split with the deals of the labels, each president's share, and the log-odds of words against the dose."""
    data = result.response.data
    with canvas((7.6, 2.9), columns=3, width_ratios=(1, 1.25, 1)) as (fig, (probe, each, dose)):
        probe.hist(result.null, bins=np.arange(0.2, 0.85, 0.03), color="0.8", label="labels dealt otherwise")
        for row, colour in zip(result.probes.itertuples(), ("#1f3b73", "#4a90b8", "#c2571a", "#e0a070"), strict=True):
            probe.axvline(row.accuracy, color=colour, linewidth=1.4, label=f"{row.concept}, {row.split}")
        probe.set(xlabel="held-out accuracy", ylabel="deals", title="probes")
        rows = result.presidents.iloc[::-1].reset_index(drop=True)
        colours = ["#1f3b73" if party == concepts.PARTIES[0] else "#b03a48" for party in rows["party"]]
        each.barh(rows.index, rows["right"], color=colours, height=0.7)
        each.set_yticks(
            rows.index, [name.split()[-1] if name != "George W Bush" else "G W Bush" for name in rows["president"]]
        )
        each.axvline(0.5, color="black", linewidth=0.7, linestyle=":")
        each.set(xlabel="passages put in the right party", xlim=(0, 1), title="each president held out")
        for name, style in look([str(n) for n in data["direction"].values]).items():
            curve = data.sel(direction=name)
            dose.plot(
                curve["amount"], curve["effect"], label=name if name != "random 2" else None, linewidth=1.1, **style
            )
        dose.axhline(float(data["effect_before"]), color="black", linewidth=0.7, linestyle=":", zorder=0)
        dose.set(xlabel="dose, in lengths of the residual", ylabel="log-odds, Republicans' words (nats)", title="words")
        dose.legend(frameon=False, fontsize=6)
        hide_frame(probe, each, dose)
        handles, labels = probe.get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=6.5)
        return fig

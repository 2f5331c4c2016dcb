"""Can a direction without a meaning break ten prompts? Directions trained to do so, beside gender's and random ones.

The doubt (Nanda, in the discussion of Roger's "A Mystery About High Dimensional Concept Encoding", 2022): for any ten prompts
without a connection one could learn a direction that breaks them all, since it is not hard to break a model with access to its
activations; and breaking is easier than inserting. So directions are trained on ten unconnected prompts: that erasing breaks
them, that swapping breaks them, that swapping makes each say another one's answer. Beside them: one trained in the same way to
swap the pronoun of ten gendered prompts, the mean difference (rank-1 R-LACE's optimum) of the ten prompts under random labels
and of gendered sentences under shuffled ones, that of gender, and random directions. All are measured on the ten prompts, on
twenty others, on neutral text, and on the bias between " he" and " she" after other people than were fitted on.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t

import patchclamp as pc
from patchclamp.core.digest import digest
from patchclamp.core.files import read_record, write_record
from patchclamp.core.interrupts import resumable
from patchclamp.core.progress import Listener, task
from patchclamp.studies import gender, trained
from patchclamp.studies.drawing import canvas
from patchclamp.studies.gender_erasure import SEED
from patchclamp.studies.result import StudyFiles, StudyResult, as_text, name_of, records

PROMPTS = (
    "The capital of France is", "The opposite of hot is", "Water freezes at zero degrees", "A week has seven",
    "Shakespeare wrote Romeo and", "The Great Wall of", "A triangle has three", "The United States of", "Thank you very",
    "Ice cream melts in the", "The train to London was delayed by an", "Spring, summer, autumn and",
    "The keys of a piano are black and", "Ladies and", "The stock market fell by ten per",
    "The quick brown fox jumps over the lazy", "To be or not to", "The patient was taken to the",
    "The first president of the United States was George", "Please pay with your credit", "The moon orbits the",
    "Twinkle, twinkle, little", "The speed of", "Open the window to let in some fresh", "Monday, Tuesday, Wednesday,",
    "The chemical symbol for gold is", "The sun rises in the", "The clock struck twelve at", "Better late than", "The Statue of",
)  # fmt: skip
TRAINED = 10
"""Prompts to train on; the others are held out."""
GENDER_PAIRS, TEST_PAIRS, TEXTS = 5, 16, 6
BREAK, BREAK_SWAP, INSERT, INSERT_GENDER = (
    "trained: erasing breaks", "trained: swapping breaks", "trained: swapping inserts", "trained: swaps pronouns",
)  # fmt: skip
RANDOM_LABELS, SHUFFLED, GENDER, RANDOM = "mean, random labels", "mean, shuffled gender", "gender", "random"
NAMES = (BREAK, BREAK_SWAP, INSERT, INSERT_GENDER, RANDOM_LABELS, SHUFFLED, GENDER, RANDOM)
MEASURES = ("broken", "broken, held out", "said", "kl", "bias")


@dataclass(frozen=True)
class MeaninglessDirection(StudyResult):
    """What the study found."""

    model: str
    site: str
    before: float
    """Bias without an edit."""
    draws: pd.DataFrame
    """A row a draw, direction and edit, with the :data:`MEASURES`: shares of prompts whose likeliest next token is another
    than before (the ten, the held-out ones), share of the ten that say the token they were trained to say, divergence on neutral
    text in nats a token, bias on held-out people."""

    def table(self) -> pd.DataFrame:
        """Means over draws with 95 % t intervals, and the bias taken away for each nat of divergence."""
        rows = []
        for (name, edit), part in self.draws.groupby(["direction", "edit"], sort=False):
            row: dict[str, Any] = {"direction": name, "edit": edit}
            for measure in MEASURES:
                row[measure] = float(part[measure].mean())
                half = _half(part[measure].to_numpy())
                row[f"± {measure}"] = half
            row["bias per nat"] = (self.before - row["bias"]) / row["kl"] if row["kl"] > 0 else np.nan
            rows.append(row)
        return pd.DataFrame(rows)

    def row(self, direction: str, edit: str) -> "pd.Series[Any]":
        """One row of :meth:`table`."""
        rows = self.table()
        return rows[(rows["direction"] == direction) & (rows["edit"] == edit)].iloc[0]

    def summary(self) -> dict[str, Any]:
        """The numbers, as plain JSON."""
        return {
            "model": self.model,
            "site": self.site,
            "bias before": self.before,
            "directions": records(self.table()),
            "published": SEED.to_dict("records"),
        }

    def findings(self) -> list[str]:
        """What was found, in sentences."""
        erase_row, swap, insert_row = (
            self.row(BREAK, "erase"),
            self.row(BREAK_SWAP, "swap"),
            self.row(INSERT, "swap"),
        )
        true, noise = self.row(GENDER, "swap"), self.row(RANDOM, "swap")
        return [
            f"A direction trained on ten unconnected prompts breaks {erase_row['broken']:.0%} of them when it is erased and "
            f"{swap['broken']:.0%} when it is swapped, and {erase_row['broken, held out']:.0%} and "
            f"{swap['broken, held out']:.0%} of twenty others.",
            f"Trained to make each of the ten say another one's answer, it succeeds with {insert_row['said']:.0%} of them.",
            f"Bias between he and she, {self.before:.2f} before: swapped, gender's direction makes it {true['bias']:+.2f} at a KL "
            f"of {true['kl']:.3f} nats a token of neutral text, the trained one {swap['bias']:+.2f} at {swap['kl']:.3f}, a "
            f"random one {noise['bias']:+.2f} at {noise['kl']:.4f}.",
        ]

    def text(self) -> str:
        """The tables and what they say, for a terminal."""
        columns = ["direction", "edit", *(c for m in MEASURES for c in (m, f"± {m}")), "bias per nat"]
        head = f"{self.model}, {self.site}, {self.draws['draw'].nunique()} draws; ± is a 95 % interval over draws"
        seed_table = SEED.to_string(index=False)
        title = "The seed's biases (its training data)"
        return as_text(head, self.table()[columns], "", *self.findings(), "", title, seed_table, absent="")

    def files(self) -> StudyFiles:
        """Every draw, the means over draws, their picture, and the report."""
        fig = figure(self)
        return StudyFiles(
            "A direction without a meaning",
            [
                ("What was found", "\n\n".join(self.findings())),
                ("Directions", fig),
                ("Means over draws, with 95 % intervals", self.table()),
                ("The seed's biases, of another model and other sentences", SEED),
            ],
            tables={"draws": self.draws, "table": self.table()},
            figures={"figure": fig},
        )


def _half(values: Any) -> float:
    """Half the 95 % t interval of a mean."""
    count = int(np.isfinite(values).sum())
    return float(t.ppf(0.975, count - 1) * values.std(ddof=1) / np.sqrt(count)) if count > 1 else float("nan")


@dataclass(frozen=True)
class DrawReference:
    """What every draw is measured against."""

    site: str
    own: list[int]
    """The model's own next token after each of :data:`PROMPTS`."""
    answers: tuple[int, int]
    pairs: list[tuple[str, str]]
    texts: list[str]


def setting(model: pc.Model, site: str) -> DrawReference:
    """What is held fixed over draws."""
    next_tokens = model.run(list(PROMPTS), logits="last").logits.argmax(-1).tolist()
    pairs = random.Random(0).sample(gender.pairs("test"), TEST_PAIRS)
    he, she = (model.token_id(answer) for answer in gender.ANSWERS)
    return DrawReference(site, next_tokens, (he, she), pairs, gender.neutral_texts(TEXTS, characters=250))


def directions(
    model: pc.Model, reference: DrawReference, seed: int, steps: int
) -> tuple[dict[str, pc.Direction], list[int], list[int]]:
    """One draw: which prompts are trained on, every direction, and the tokens that the ten are trained to say."""
    generator = random.Random(seed)
    numbers = generator.sample(range(len(PROMPTS)), TRAINED)
    prompts, answers = [PROMPTS[i] for i in numbers], [reference.own[i] for i in numbers]
    other_answers = answers[1:] + answers[:1]
    pairs = generator.sample(gender.pairs("train"), GENDER_PAIRS)
    gender_prompts = [prompt for pair in pairs for prompt in pair]
    opposite_answers = list(reversed(reference.answers)) * GENDER_PAIRS
    labels, genders, people = gender.labelled("train")
    shuffled_genders = generator.sample(genders, len(genders))
    fit: dict[str, Any] = {"site": reference.site, "seed": seed}
    start = model.fit_direction("random", prompts, [0, 1] * (TRAINED // 2), holdout=0, **fit)
    gender_start = model.fit_direction("random", gender_prompts, [0, 1] * GENDER_PAIRS, holdout=0, **fit)
    learn: dict[str, Any] = {"steps": steps, "seed": seed}
    return (
        {
            BREAK: trained.train(model, start, prompts, answers, kind="erase", goal="avoid", **learn),
            BREAK_SWAP: trained.train(model, start, prompts, answers, kind="swap", goal="avoid", **learn),
            INSERT: trained.train(model, start, prompts, other_answers, kind="swap", goal="say", **learn),
            INSERT_GENDER: trained.train(
                model, gender_start, gender_prompts, opposite_answers, kind="swap", goal="say", **learn
            ),
            RANDOM_LABELS: model.fit_direction("mean", prompts, [0, 1] * (TRAINED // 2), holdout=0, **fit),
            SHUFFLED: model.fit_direction("mean", labels, shuffled_genders, holdout=0, **fit),
            GENDER: model.fit_direction("mean", labels, genders, groups=people, holdout=0.25, **fit),
            RANDOM: start,
        },
        numbers,
        other_answers,
    )


def measure(
    model: pc.Model,
    reference: DrawReference,
    directions: dict[str, pc.Direction],
    numbers: Sequence[int],
    answers: Sequence[int],
) -> list[dict[str, Any]]:
    """The :data:`MEASURES` of every direction, erased and swapped."""
    edits = {
        f"{name}|{kind}": getattr(entry, kind)() for name, entry in directions.items() for kind in ("erase", "swap")
    }
    bias = _means(pc.metrics.bias(model, reference.pairs, gender.ANSWERS, edits).summary(), "within")
    kl = _means(pc.metrics.damage(model, edits, reference.texts).summary(), "kl")
    rows = []
    for name, edit in edits.items():
        direction, kind = name.split("|")
        top = model.run(list(PROMPTS), edit, logits="last").logits.argmax(-1).tolist()
        changes = np.array([after != before for after, before in zip(top, reference.own, strict=True)])
        held_out = [i for i in range(len(PROMPTS)) if i not in numbers]
        success = np.mean([top[i] == token for i, token in zip(numbers, answers, strict=True)])
        rows.append({
            "direction": direction, "edit": kind, "broken": float(changes[list(numbers)].mean()),
            "broken, held out": float(changes[held_out].mean()), "said": float(success), "kl": kl[name], "bias": bias[name],
        })  # fmt: skip
    return rows


def _means(summary: pd.DataFrame, metric: str) -> dict[str, float]:
    """One metric's mean by edit."""
    rows = summary[summary["metric"] == metric]
    return {str(edit): float(mean) for edit, mean in zip(rows["edit"], rows["mean"], strict=True)}


def study(
    model: pc.Model,
    out: str | Path | None = None,
    *,
    layer: int | None = None,
    draws: int = 3,
    steps: int = 20,
    progress: bool | Listener | None = None,
) -> MeaninglessDirection:
    """Run the experiment.

    Args:
        model: A language model.
        out: Folder for the page, the figure and the tables; killed work goes on from there. None to keep nothing.
        layer: Whose residual stream is edited; the middle one by default.
        draws: Sets of ten prompts, and of everything that is random.
        steps: Each trained direction is trained for this many steps.
        progress: True for a bar.

    Raises:
        InputError: No draws or steps.
    """
    if draws < 1 or steps < 1:
        raise pc.InputError(f"at least 1 draw and 1 step; got draws={draws}, steps={steps}")
    site = f"resid_post.{model.sites.n_layers // 2 if layer is None else layer}"
    reference = setting(model, site)
    (before,) = _means(pc.metrics.bias(model, reference.pairs, gender.ANSWERS, {}).summary(), "within").values()
    checkpoint = None if out is None else Path(out) / "checkpoint"
    rows: list[dict[str, Any]] = []
    with resumable(checkpoint), task("draws", draws, "draws", show=progress) as bar:
        for seed in range(draws):
            rows += [{"draw": seed, **row} for row in _draw(model, reference, seed, steps, checkpoint)]
            bar.advance()
    result = MeaninglessDirection(name_of(model), site, before, pd.DataFrame(rows))
    if out is not None:
        result.save(out)
    return result


def _draw(
    model: pc.Model, reference: DrawReference, seed: int, steps: int, checkpoint: Path | None
) -> list[dict[str, Any]]:
    """One draw's rows, from the checkpoint if they are there."""
    sentences = digest(PROMPTS, gender.pairs("train"), reference.pairs, reference.texts)
    parameters = {"model": model.identity(), "site": reference.site, "steps": steps, "sentences": sentences}
    path = None if checkpoint is None else checkpoint / f"draw-{seed}.json"
    if path is not None and path.is_file():
        record = read_record(path)
        if record.get("asked") == parameters:
            return list(record["rows"])
    rows = measure(model, reference, *directions(model, reference, seed, steps))
    if path is not None:
        write_record(path, {"asked": parameters, "rows": rows})
    return rows


def figure(result: MeaninglessDirection) -> Any:
    """What each direction breaks, and what it does to the bias at which cost."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

    table = result.table()
    with canvas((8.6, 3.2), columns=2, width_ratios=(1.15, 1)) as (fig, (left, right)):
        for number, edit in enumerate(("erase", "swap")):
            part = table[table["edit"] == edit].set_index("direction").loc[list(NAMES)]
            y = np.arange(len(NAMES)) + (number - 0.5) * 0.3
            for column, colour in (("broken", "#b2182b"), ("broken, held out", "#4d4d4d")):
                left.errorbar(
                    part[column], y, xerr=part[f"± {column}"].fillna(0), fmt="o" if edit == "erase" else "s", color=colour,
                    markerfacecolor="white" if edit == "erase" else colour, markersize=4, elinewidth=0.7,
                    label=f"{'its ten' if column == 'broken' else 'twenty others'}, {edit}",
                )  # fmt: skip
        left.set_yticks(range(len(NAMES)), NAMES)
        left.invert_yaxis()
        left.set_xlim(-0.05, 1.05)
        left.set_xlabel("share of prompts with another next token")
        left.legend(frameon=False, fontsize=6, loc="lower right")
        for number, name in enumerate(NAMES):
            rows = table[table["direction"] == name].set_index("edit")
            for edit, marker in (("erase", "o"), ("swap", "s")):
                row, colour = rows.loc[edit], f"C{number}"
                right.errorbar(
                    row["kl"], row["bias"], yerr=np.nan_to_num(row["± bias"]), fmt=marker, color=colour, markersize=4,
                    markerfacecolor="white" if edit == "erase" else colour, elinewidth=0.7,
                    label=name if edit == "swap" else None,
                )  # fmt: skip
        right.axhline(result.before, color="0.6", linewidth=0.7, linestyle="--")
        right.axhline(0, color="0.8", linewidth=0.7)
        right.set_xscale("log")
        right.set_xlabel("KL on neutral text (nats a token)")
        right.set_ylabel("bias between he and she")
        right.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        right.xaxis.set_major_formatter(FormatStrFormatter("%g"))
        right.xaxis.set_minor_locator(NullLocator())
        right.legend(frameon=False, fontsize=6, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return fig

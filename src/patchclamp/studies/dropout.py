"""Does dropout teach a model to cope with ablations? The same study of gender on a model trained with dropout and on one without.

The doubt (Nanda, in the discussion of Roger's "A Mystery About High Dimensional Concept Encoding", 2022): GPT-2 was trained with
dropout on the residual stream, so it may have learned redundancy, and a single erased direction may be restored later. Roger
found "qualitatively similar" results on GPT-Neo 125M, which had none; but the two differ in much else. Here two tiny GPT-2s
have the same initial weights and see the same batches, one with GPT-2's dropout of 0.1, the other without.
They learn stories that a larger model tells of people whose gender their noun or name says, and made-up tales in which a pronoun
follows such a person again and again; then gender is erased, swapped and doubled at every layer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import patchclamp as pc
from patchclamp.core.progress import Listener, task
from patchclamp.studies.drawing import canvas
from patchclamp.studies.result import StudyFiles, StudyResult, as_text, records
from patchclamp.studies.tales import NOUN_OPENING, OPENINGS, TEST_NOUNS, TRAIN_NOUNS, tales
from patchclamp.studies.training import Shape, make_tokenizer, sample_stories, stream, train_gpt2

TEMPLATES = (NOUN_OPENING, "One day, the {} went to the park.", "The {} was very happy.", "Then the {} came home.")
ANSWERS = (" He", " She")
HELD_OUT, TEXTS, CHARACTERS = 64, 16, 160
"""Stories that no model learns from; how many of them divergence is measured on, and how much of each."""
TALES = 2
"""Tales to learn from for each story; both have about as many tokens in all."""
METHODS = ("mean", "leace", "random")
STEPS = (0.25, 0.5, 1.0)
"""Random vectors that are added, in lengths of the median activation."""


LEARNT = 0.2
"""Bias below which a model has not learnt gender, so that nothing follows from erasing it."""


def pairs(nouns: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Pairs of prompts (male, female)."""
    return [(template.format(a), template.format(b)) for a, b in nouns for template in TEMPLATES]


@dataclass(frozen=True)
class Dropout(StudyResult):
    """What the study found. Every table has a column ``model``."""

    models: pd.DataFrame
    """A row a model: how it was trained, if it was here; bias before any edit with its 95 % interval over pairs."""
    effects: pd.DataFrame
    """Bias and divergence after each method's edit at each layer."""
    depth: pd.DataFrame
    """Bias after erasing at the first layers, each direction fitted with those before it already erased."""
    regained: pd.DataFrame
    """Erased at one layer, how much of the classes' distance there is at a later one, as a share of the unedited distance."""
    ablations: pd.DataFrame
    """Divergence after taking out one component, and after adding a random vector."""

    def summary(self) -> dict[str, Any]:
        """The numbers, as plain JSON."""
        return {name: records(getattr(self, name)) for name in TABLES}

    def compared(self) -> pd.DataFrame:
        """A row a model: what one number each says of every table."""
        rows = []
        for row in self.models.to_dict("records"):
            name = row["model"]
            effects = self.effects[self.effects["model"] == name]
            mean = effects[effects["direction"] == "mean"].set_index("edit")
            chance = effects[effects["direction"] == "random"].set_index("edit")
            regained = self.regained[(self.regained["model"] == name) & (self.regained["to the last layer"])]
            cuts = self.ablations[self.ablations["model"] == name].groupby("what", sort=False)["kl"].mean()
            depth = self.depth[self.depth["model"] == name]
            rows.append({
                "model": name, "bias": row["bias"], "erased, mean over layers": mean.loc[["erase"], "bias"].mean(),
                "erased, least": mean.loc[["erase"], "bias"].abs().min(),
                "random erased": chance.loc[["erase"], "bias"].mean(), "all layers erased": depth["bias"].iloc[-1],
                "swapped, least": mean.loc[["swap"], "bias"].min(), "gap regained": regained["share"].mean(),
                "random erased, KL": chance.loc[["erase"], "kl"].mean(), **{f"{what}, KL": kl for what, kl in cuts.items()},
            })  # fmt: skip
        return pd.DataFrame(rows)

    def findings(self) -> list[str]:
        """What was found, in sentences."""
        table = self.compared().set_index("model")
        sentences = []
        for name, row in table.iterrows():
            opening = f"{name}: bias {row['bias']:.3f} before any edit"
            if row["bias"] < LEARNT:
                sentences.append(
                    f"{opening}. It has not learnt gender, so nothing follows from erasing it; what ablations cost can be compared."
                )
                continue
            sentences.append(
                f"{opening}; erased at one layer {row['erased, mean over layers']:.2f} on average, at every layer "
                f"{row['all layers erased']:.2f}; of an erased distance {row['gap regained']:.0%} is back at the end."
            )
        costs = [column for column in table if str(column).endswith(", KL")]
        sentences += [f"{c}: " + ", ".join(f"{kl:.3f} ({name})" for name, kl in table[c].items()) for c in costs]
        return sentences

    def text(self) -> str:
        """The tables, for a terminal."""
        comparison = self.compared().set_index("model").T
        edit_effects = self.effects[self.effects["edit"].isin(["erase", "swap"])]
        return as_text(
            self.models, "", comparison.to_string(float_format=lambda value: f"{value:.3f}"), "", "By layer", edit_effects, "",
            "The first layers erased", self.depth, "", *self.findings(), PUBLISHED, absent="",
        )  # fmt: skip

    def files(self) -> StudyFiles:
        """The tables, their curves, and the report."""
        fig = figure(self)
        return StudyFiles(
            "Dropout and redundancy",
            [
                ("What was found", "\n\n".join(self.findings())),
                ("Models", self.models),
                ("Compared", self.compared()),
                ("Curves", fig),
                *((name.capitalize(), getattr(self, name)) for name in TABLES if name != "models"),
                ("Published", PUBLISHED),
            ],
            tables={name: getattr(self, name) for name in TABLES},
            figures={"figure": fig},
        )


TABLES = ("models", "effects", "depth", "regained", "ablations")
PUBLISHED = "Roger: GPT-2 and GPT-Neo 125M gave qualitatively similar results (no numbers were given)."


def measure(model: pc.Model, texts: Sequence[str], *, seed: int = 0) -> dict[str, pd.DataFrame]:
    """The study of one model.

    Args:
        model: Any language model for which :data:`ANSWERS` are single tokens.
        texts: On which divergence is measured.
        seed: The random directions and vectors are drawn with this seed.

    Returns:
        The tables ``before, effects, depth, regained, ablations``.
    """
    prompts = [prompt for pair in pairs(TRAIN_NOUNS) for prompt in pair]
    labels = ["1 male", "2 female"] * len(pairs(TRAIN_NOUNS))
    test = pairs(TEST_NOUNS)
    directions = {
        name: model.fit_directions(name, prompts, labels, "resid_post", holdout=0, seed=seed) for name in METHODS
    }
    effects = model.layer_effects(directions, test, ANSWERS, list(texts))
    columns = ["direction", "edit", "layer", "bias", "bias_low", "bias_high", "kl", "kl_low", "kl_high"]
    erased_directions = model.sequential_erasure("mean", prompts, labels)
    erasures = {
        str(count): [d.erase() for d in erased_directions[:count]] for count in range(1, len(erased_directions) + 1)
    }
    bias = pc.metrics.bias(model, test, ANSWERS, erasures).summary()
    bias = bias[bias["metric"] == "within"].reset_index(drop=True)
    depth = bias[["mean", "low", "high"]].rename(columns={"mean": "bias"})
    depth.insert(0, "layers erased", range(len(depth)))
    return {
        "before": depth.iloc[:1].drop(columns="layers erased"),
        "effects": effects.data.to_dataframe().reset_index()[columns],
        "depth": depth,
        "regained": _regained_gaps(model, directions["mean"], prompts, labels),
        "ablations": _ablations(model, directions["mean"], texts, seed),
    }


def _regained_gaps(
    model: pc.Model, directions: Sequence[pc.Direction], prompts: Sequence[str], labels: Sequence[str]
) -> pd.DataFrame:
    """Distances of the class means at later layers when gender is erased at one."""
    rows = []
    last = len(directions) - 1
    for layer, direction in enumerate(directions):
        sites = [f"resid_post.{number}" for number in range(layer + 1, last + 1)]
        if not sites:
            continue
        later_directions = model.fit_directions("mean", prompts, labels, sites, edits=direction.erase(), holdout=0)
        for read, later_direction in zip(range(layer + 1, last + 1), later_directions, strict=True):
            share = later_direction.report["gap_before"] / directions[read].report["gap_before"]
            rows.append({"erased at": layer, "read at": read, "share": share, "to the last layer": read == last})
    return pd.DataFrame(rows)


def _ablations(model: pc.Model, directions: Sequence[pc.Direction], texts: Sequence[str], seed: int) -> pd.DataFrame:
    """Each component taken out; random vectors of some lengths added after each layer."""
    edits: dict[str, pc.Edit] = {}
    generator = torch.Generator().manual_seed(seed)
    for layer, direction in enumerate(directions):
        for what in ("attn_out", "mlp_out"):
            edits[f"{what} taken out|{layer}"] = pc.Zero(site=f"{what}.{layer}", at="rest")
        vector = torch.randn(direction.d, generator=generator)
        for step in STEPS:
            add = pc.Add(vector / vector.norm() * direction.length * step, site=f"resid_post.{layer}", at="rest")
            edits[f"random vector of {step:g}|{layer}"] = add
    table = pc.metrics.damage(model, edits, list(texts)).summary()
    table = table[(table["metric"] == "kl") & (table["edit"] != "unedited")]
    split = table["edit"].str.split("|")
    rows = table[["mean", "low", "high"]].rename(columns={"mean": "kl"})
    rows.insert(0, "layer", split.str[1].astype(int))
    rows.insert(0, "what", split.str[0])
    return rows.reset_index(drop=True)


def compare(
    models: Mapping[str, pc.Model], texts: Sequence[str], *, seed: int = 0, progress: bool | Listener | None = None
) -> Dropout:
    """The study of several models, by name."""
    tables: dict[str, list[pd.DataFrame]] = {}
    with task("models", len(models), "models", show=progress) as bar:
        for name, model in models.items():
            for what, table in measure(model, texts, seed=seed).items():
                tables.setdefault(what, []).append(table.assign(model=name))
            bar.advance()
    frames = {what: pd.concat(parts, ignore_index=True) for what, parts in tables.items()}
    for what, frame in frames.items():
        frames[what] = frame[["model", *(column for column in frame if column != "model")]]
    return Dropout(frames["before"], frames["effects"], frames["depth"], frames["regained"], frames["ablations"])


def study(
    out: str | Path,
    *,
    models: Mapping[str, pc.Model] | None = None,
    teller: pc.Model | None = None,
    rounds: int = 14,
    seeds: int = 1,
    shape: Shape = Shape(),  # noqa: B008
    progress: bool | Listener | None = None,
) -> Dropout:
    """Train the models, unless some are given, and run the experiment.

    Args:
        out: Folder for stories, models, the page, the figure and the tables; killed work goes on from there.
        models: Use these, by name, as GPT-2 and GPT-Neo 125M, and train none.
        teller: Who tells the stories; stories15m by default.
        rounds: The stories are told in this many rounds, each of which gives two stories for every opening.
        seeds: Pairs of models, each with other initial weights and batches.
        shape: This says how large the tiny models are and how long they are trained.
        progress: True for bars.

    Raises:
        InputError: Fewer than one seed, or too few stories to hold some out.
    """
    folder = Path(out)
    if seeds < 1 or rounds * len(OPENINGS) * 2 <= HELD_OUT:
        raise pc.InputError(f"at least 1 seed, and 2 rounds of stories; got seeds={seeds}, rounds={rounds}")
    if models is not None:
        texts = [text[:CHARACTERS].rsplit(None, 1)[0] for text in pc.metrics.neutral_texts(TEXTS)]
        result = compare(models, texts, progress=progress)
    else:
        storyteller = teller or pc.load("stories15m", dtype="float32")
        stories = sample_stories(storyteller, OPENINGS, rounds, folder / "stories", progress=progress)
        train_stories, test_stories = stories[:-HELD_OUT], stories[-HELD_OUT:]
        extra_tales = tales(TALES * len(stories))
        reports = _train_models(
            folder / "models",
            [*train_stories, *extra_tales[HELD_OUT:]],
            [*test_stories, *extra_tales[:HELD_OUT]],
            seeds,
            shape,
            progress,
        )
        texts = [text[:CHARACTERS].rsplit(None, 1)[0] for text in test_stories[:: HELD_OUT // TEXTS]]
        open_models = {name: pc.load(folder / "models" / name, dtype="float32") for name in reports}
        result = compare(open_models, texts, progress=progress)
        rows = pd.DataFrame([{"model": name, **report} for name, report in reports.items()])
        result = replace(result, models=rows.merge(result.models, on="model"))
    result.save(folder)
    return result


def _train_models(
    folder: Path, train_texts: Sequence[str], test_texts: Sequence[str], seeds: int, shape: Shape, progress: Any
) -> dict[str, dict[str, Any]]:
    """The models of every seed, with and without dropout; those that are there already are read."""
    tokenizer = make_tokenizer(train_texts, shape.vocabulary)
    tokens, rest = stream(tokenizer, train_texts), stream(tokenizer, test_texts)
    return {
        f"dropout-{dropout:g}-{seed}": train_gpt2(
            folder / f"dropout-{dropout:g}-{seed}", tokenizer, tokens, rest, shape, dropout=dropout, seed=seed, progress=progress
        )
        for seed in range(seeds)
        for dropout in (0.1, 0.0)
    }  # fmt: skip


def figure(result: Dropout) -> Any:
    """Bias by the layer that is edited, by how many are erased, and what ablations cost."""
    with canvas((9.0, 2.9), columns=3) as (fig, (left, middle, right)):
        for number, name in enumerate(result.models["model"]):
            effects = result.effects[result.effects["model"] == name]
            colour = f"C{number}"
            lines = (("mean", "erase", "-"), ("mean", "swap", "--"), ("random", "erase", ":"))
            for direction, edit, style in lines:
                rows = effects[(effects["direction"] == direction) & (effects["edit"] == edit)]
                left.plot(
                    rows["layer"], rows["bias"], style, color=colour, marker=".", label=f"{name}: {direction}, {edit}"
                )
                left.fill_between(
                    rows["layer"], rows["bias_low"], rows["bias_high"], color=colour, alpha=0.1, linewidth=0
                )
            rows = result.depth[result.depth["model"] == name]
            middle.plot(rows["layers erased"], rows["bias"], color=colour, marker=".", label=name)
            middle.fill_between(rows["layers erased"], rows["low"], rows["high"], color=colour, alpha=0.15, linewidth=0)
            rows = result.ablations[result.ablations["model"] == name]
            for what, style in (
                ("attn_out taken out", "-"),
                ("mlp_out taken out", "--"),
                ("random vector of 0.5", ":"),
            ):
                part = rows[rows["what"] == what]
                right.plot(part["layer"], part["kl"], style, color=colour, marker=".", label=f"{name}: {what}")
        left.set(xlabel="edited after layer", ylabel="bias between He and She")
        middle.set(xlabel="layers erased, from the first", ylabel="bias between He and She")
        right.set(xlabel="layer", ylabel="KL (nats a token)", yscale="log")
        for axis in (left, middle, right):
            axis.legend(frameon=False, fontsize=5.5)
            axis.xaxis.get_major_locator().set_params(integer=True)
        for axis in (left, middle):
            axis.axhline(0, color="0.8", linewidth=0.7, zorder=0)
    return fig

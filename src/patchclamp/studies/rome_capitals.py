"""Rewriting capitals: ROME on facts that a small model knows, against doing nothing and against two controls.

Each country that the model knows the capital of is given another country's. Was it learnt (efficacy), is it said in other
words (paraphrase), do other countries keep theirs (neighbourhood), and does unrelated text stay as it was? The layer is
chosen on validation facts, which are not among the test facts; beside it stands what causal tracing says of the layers.

Source: Meng et al. 2022, "Locating and editing factual associations in GPT", arXiv 2202.05262; Hase et al. 2023, "Does
localization inform editing?", arXiv 2301.04213.
"""

import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import patchclamp as pc
from patchclamp.studies.result import StudyFiles, StudyResult, as_text, name_of

TEMPLATE = "The capital of {} is"
PARAPHRASES = (
    "The capital city of {} is",
    "In {}, the capital is",
    "The city that is the capital of {} is",
    "The government of {} sits in the capital,",
)
HELD_OUT = ("carroll-alice", "bryant-stories", "burgess-busterbrown", "chesterton-brown")
"""Books whose last pages are the unrelated text; the covariance has seen their first pages only."""
VALIDATION, TEST, NEIGHBOURS = 11, 30, 10
TRIED, READ = 4, 10
"""Validation facts tried at every layer, and test facts for which the unrelated text is read."""
LAYERS = (0, 2, 5, 8, 11, 14, 18, 22)
CONDITIONS = ("rome", "identity", "random key")
PUBLISHED = pd.DataFrame(
    [
        ["nothing", 22.2, 24.7, 78.1, 30.5],
        ["ROME", 100.0, 96.4, 75.4, 89.2],
    ],
    columns=["GPT-2 XL, CounterFact", "efficacy %", "paraphrase %", "neighbourhood %", "score"],
)
"""Meng et al. 2022, table 4 (ES, PS, NS, S), quoted from memory: another model and other facts."""
AGREEMENT = (
    "Rank correlation over layers of the traced effect of MLPs (subject's last token) with the score of rewriting there"
)


@dataclass(frozen=True)
class RomeCapitals(StudyResult):
    """What the study found."""

    model: str
    layer: int
    scores: pd.DataFrame
    """Share of successes and magnitude with 95 % intervals, a row a condition and test."""
    unrelated: pd.DataFrame
    """Unrelated text: divergence from the unedited model and loss, a row a condition."""
    layers: pd.DataFrame
    """Validation facts: scores by layer, and the indirect effect that causal tracing finds there."""
    facts: pd.DataFrame
    """Every test fact under every condition."""
    example: pc.Rewrite
    seconds: float
    """One rewrite takes this many seconds on average."""

    def share(self, condition: str, test: str) -> float:
        """Share of successes of one condition and test."""
        rows = self.scores[(self.scores["condition"] == condition) & (self.scores["test"] == test)]
        return float(rows["success"].iloc[0])

    def agreement(self) -> float:
        """Spearman correlation, over layers, of the traced effect of MLPs with the score of rewriting there."""
        return float(self.layers["traced mlp_out"].corr(self.layers["score"], method="spearman"))

    def summary(self) -> dict[str, Any]:
        """The numbers, as plain JSON."""
        frames = {name: getattr(self, name).to_dict("records") for name in ("scores", "unrelated", "layers")}
        return {
            "model": self.model,
            "layer": self.layer,
            "agreement": self.agreement(),
            "seconds": self.seconds,
            **frames,
        }

    def text(self) -> str:
        """The tables, for a terminal."""
        facts = self.facts["subject"].nunique()
        return as_text(
            f"{self.model}: {facts} capitals rewritten at layer {self.layer}, {self.seconds:.1f} s each",
            self.scores, "", "Unrelated text", self.unrelated, "", "By layer, on validation facts", self.layers, "",
            f"{AGREEMENT}: {self.agreement():.2f}",
        )  # fmt: skip

    def files(self) -> StudyFiles:
        """The tables, one rewrite, and the report."""
        return StudyFiles(
            "Rewriting capitals",
            [
                ("Scores on test facts", self.scores),
                ("Unrelated text (nats a token)", self.unrelated),
                ("By layer, on validation facts", self.layers),
                ("Does tracing say where to rewrite?", f"{AGREEMENT}: {self.agreement():.2f}."),
                ("Published (quoted from memory), of another model on other facts", PUBLISHED),
                ("One rewrite", self.example),
            ],
            tables={name: getattr(self, name) for name in ("scores", "unrelated", "layers", "facts")},
            results={"example": self.example},
        )


def known_facts(model: pc.Model, seed: int = 0) -> tuple[list[pc.rewriting.Fact], list[pc.rewriting.Fact]]:
    """Capitals that the model prefers to all others, each with another as its target: validation facts and test facts.

    A capital is one token, and not part of its country's name.

    Raises:
        InputError: The model knows too few.
    """
    single = []
    for country in pc.catalogue.capitals():
        try:
            model.token_id(f" {country.capital}")
        except pc.InputError:
            continue
        if country.capital.split()[0] not in country.name:
            single.append(country)
    columns = [model.token_id(f" {country.capital}") for country in single]
    logits = model.run([TEMPLATE.format(c.name) for c in single], logits="last").logits[:, columns]
    known = [c for c, best in zip(single, logits.argmax(-1).tolist(), strict=True) if single[best] is c]
    if len(known) < VALIDATION + TEST:
        raise pc.InputError(
            f"{model.source.name or 'this model'} knows {len(known)} capitals (of {len(single)} that are one token), and the study "
            f"needs {VALIDATION + TEST}: {VALIDATION} validation and {TEST} test facts"
        )
    generator = random.Random(seed)
    generator.shuffle(known)
    facts = []
    for country in known:
        others = [c for c in known if c is not country]
        target = generator.choice(others)
        selection = generator.sample([c for c in others if c is not target], min(NEIGHBOURS, len(others) - 1))
        neighbours = tuple((c.name, f" {c.capital}") for c in selection)
        answers = (f" {country.capital}", f" {target.capital}")
        facts.append(pc.rewriting.Fact(TEMPLATE, country.name, *answers, PARAPHRASES, neighbours))
    return facts[:VALIDATION], facts[VALIDATION : VALIDATION + TEST]


def by_layer(
    model: pc.Model,
    facts: Sequence[pc.rewriting.Fact],
    layers: Iterable[int],
    prefixes: Any,
    progress: bool | None = None,
) -> pd.DataFrame:
    """Scores of rewriting the facts at each layer, with what tracing says of it."""
    layers = list(layers)
    pc.rewriting.covariances(model, layers, progress=progress)
    traces = [
        model.causal_trace(f.prompt.format(f.subject), f.subject, f.true, sites=["mlp_out", "resid_post"], samples=3)
        for f in facts
    ]
    effect_by_layer = pc.tracing.average(traces).mean()["effect"].sel(role="last subject token")
    rows = []
    for layer in layers:
        scores = []
        for fact in facts:
            rewrite = rewrite_with_defaults(model, fact, layer, prefixes)
            scores.append(pc.rewriting.score(model, fact, rewrite.edit()))
        success = pc.rewriting.summary(scores).set_index("test")["success"]
        effects = {
            f"traced {site}": float(effect_by_layer.sel(site=site, layer=layer)) for site in ("mlp_out", "resid_post")
        }
        rows.append(
            {
                "layer": layer,
                **{str(name): float(share) for name, share in success.items()},
                "score": harmonic(success),
                **effects,
            }
        )
    return pd.DataFrame(rows)


def harmonic(success: "pd.Series[float]") -> float:
    """ROME's score: the harmonic mean of the three shares."""
    return 0.0 if float(success.min()) == 0 else float(len(success) / (1 / success).sum())


def rewrite_with_defaults(model: pc.Model, fact: pc.rewriting.Fact, layer: int, prefixes: Any) -> pc.Rewrite:
    """One fact, rewritten with the library's defaults."""
    return model.rewrite_fact(fact.prompt, fact.subject, fact.target, true=fact.true, layer=layer, prefixes=prefixes)


def edits_of(rewrite: pc.Rewrite, seed: int) -> dict[str, pc.Edit]:
    """The rewrite, and its controls: the same value written for the key alone, or for a random key (of the same size)."""
    key, rome = rewrite.key, rewrite.edit()
    noise = torch.randn(key.shape, generator=torch.Generator().manual_seed(seed), dtype=key.dtype)
    reads = {
        "rome": rewrite.read,
        "identity": key / (key @ key),
        "random key": noise * rewrite.read.norm() / noise.norm(),
    }
    return {name: rome.using(read=read) for name, read in reads.items()}


def unrelated_text(model: pc.Model, rewrite: pc.Rewrite, seed: int) -> pd.DataFrame:
    """What each condition does to the last pages of the held-out books: nats a token."""
    pages = [pc.catalogue.gutenberg(title)[title][-1500:-1000] for title in HELD_OUT]
    rows = []
    for condition, edit in edits_of(rewrite, seed).items():
        grid = model.sweep(pages, edit, read=[pc.Loss(), pc.KL(at="all")])
        loss, before = float(grid.data["loss"].mean()), float(grid.baseline["loss"].mean())
        rows.append({"condition": condition, "kl": float(grid.data["kl"].mean()), "loss": loss, "loss before": before})
    return pd.DataFrame(rows)


def study(
    model: pc.Model, out: str | Path | None = None, *, layers: Sequence[int] = LAYERS, progress: bool | None = None
) -> RomeCapitals:
    """Run the experiment.

    Args:
        model: A language model that knows capitals.
        out: Folder for the page, the tables as CSV, and one rewrite; None to keep nothing.
        layers: Tried on the validation facts; the best is used.
        progress: True for bars.
    """
    validation, test = known_facts(model)
    prefixes = pc.rewriting.sample_prefixes(model)
    table = by_layer(model, validation[:TRIED], layers, prefixes, progress)
    layer = int(table["layer"].iloc[int(table["score"].argmax())])
    rows, drift, example, seconds = [], [], None, 0.0
    for number, fact in enumerate(test):
        start = time.perf_counter()
        rewrite = rewrite_with_defaults(model, fact, layer, prefixes)
        seconds += time.perf_counter() - start
        example = example or rewrite
        rows.append(score_conditions(model, fact, rewrite, number))
        if number < READ:
            drift.append(unrelated_text(model, rewrite, number))
    assert example is not None
    facts = pd.concat(rows)
    scores, unrelated = summary_table(facts), average_drift(drift)
    result = RomeCapitals(name_of(model), layer, scores, unrelated, table, facts, example, seconds / len(test))
    if out is not None:
        result.save(out)
    return result


def score_conditions(model: pc.Model, fact: pc.rewriting.Fact, rewrite: pc.Rewrite, seed: int) -> pd.DataFrame:
    """One fact's scores under every condition."""
    conditions: dict[str, Any] = {"nothing": (), **edits_of(rewrite, seed)}
    columns = {"subject": fact.subject, "target": fact.target, "true": fact.true}
    scores = [pc.rewriting.score(model, fact, e).assign(condition=name, **columns) for name, e in conditions.items()]
    return pd.concat(scores)


def summary_table(facts: pd.DataFrame) -> pd.DataFrame:
    """Means and intervals over facts, a row a condition and test."""
    tables = []
    for condition, rows in facts.groupby("condition", sort=False):
        table = pc.rewriting.summary([frame for _, frame in rows.groupby("subject", sort=False)])
        table.insert(0, "condition", condition)
        tables.append(table)
    return pd.concat(tables)


def average_drift(drift: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Means over facts of what unrelated text lost, a row a condition."""
    return pd.concat(drift).groupby("condition", sort=False).mean().reset_index()

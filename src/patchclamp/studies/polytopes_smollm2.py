"""Are polytopes of a language model monosemantic? Clusters of tokens by spline code, beside everything that codes have to beat.

The polytope lens (Black, Sharkey et al. 2022, arXiv 2211.12312) predicts that regions of the polytopes of a network have one
meaning each, and shows clusters of the spline codes of GPT-2's MLPs. The code was not released. The author's account of the
sampling: six tokens of each sequence of 1,024, evenly spaced, none of the first hundred, and the whole hidden vector of the MLP.

Here: the same sampling, and a denser one of the same sequences, on an MLP with a smooth gate, whose code is soft. The texts are
books and State of the Union speeches. Codes stand beside pre-activations, activations, and activations of unit norm, at the same
number of clusters and the same coverage. Controls: labels shuffled; the codes of as many random hyperplanes through what the MLP
reads; what the MLP reads itself; and, for the first of the layers, the same clusters in an untrained model of the same shape.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

import patchclamp as pc
from patchclamp.core.interrupts import guarded
from patchclamp.studies.result import StudyFiles, StudyResult, as_text, name_of, with_titles

LENGTH, FIRST = 1024, 100
"""Tokens of a sequence, and the first that may be sampled."""
SEED_GRID, STEP = 6, 10
"""Tokens of a sequence in the seed's sampling; the dense one has ten for each step between them."""
LAYERS = (2, 8, 14)
ROWS_A_CLUSTER = 10
"""On average: how many clusters k-means and Ward make."""
RANDOM, READS = "random hyperplanes", "MLP input"
PUBLISHED = {"model": "gpt2-small", "what": "clusters shown, without scores; the code was not released"}
FUNCTION_WORDS = frozenset({
    "the", "a", "an", "of", "to", "in", "and", "or", "but", "for", "nor", "with",
    "on", "at", "by", "from", "as", "that", "which", "who", "whom", "this", "these", "those",
    "is", "are", "was", "were", "be", "been", "being", "have", "has", "had", "do", "does",
    "did", "not", "no", "he", "she", "it", "they", "we", "you", "i", "his", "her",
    "its", "their", "our", "your", "my", "him", "them", "us", "me", "if", "so", "than",
    "then", "there", "when", "where", "will", "would", "shall", "should", "can", "could", "may", "might",
    "must", "upon", "into", "all", "any", "some", "such", "what",
})  # fmt: skip


@dataclass(frozen=True)
class Tokens:
    """The sampled tokens of every sequence."""

    labels: dict[str, list[str]]
    """For each row its ``token`` and its ``class``."""
    contexts: tuple[str, ...]
    """For each row the text around it, the token in brackets."""
    sequence: tuple[int, ...]
    sparse: tuple[bool, ...]
    """Whether a row belongs to the seed's sampling."""


@dataclass(frozen=True)
class TokenPolytopes(StudyResult):
    """What the study found."""

    dense: dict[int, pc.polytopes.Clusters]
    """Clusters of the dense sampling, by layer."""
    sparse: dict[int, pc.polytopes.Clusters]
    """These are the clusters of the seed's own sampling, by layer."""
    untrained: pc.polytopes.Clusters
    """These are the clusters of the dense sampling in an untrained model, at the first layer."""
    nearest: pd.DataFrame
    """For each layer and form: the share of rows whose nearest row of another sequence has the same token, or class."""
    codes: pc.polytopes.SplineCodes
    """Hard codes of all rows and layers."""
    model: str

    def table(self, labels: str = "token") -> pd.DataFrame:
        """Ward's scores on the dense sampling: a row a layer and form; ``shuffled`` is the purity of shuffled labels."""
        rows: list[pd.DataFrame] = []
        untrained = f"{next(iter(self.dense))}, untrained"
        clusters_by_name = {str(layer): clusters for layer, clusters in self.dense.items()} | {
            untrained: self.untrained
        }
        for layer, clusters in clusters_by_name.items():
            scores = clusters.frame()
            scores = scores[(scores["algorithm"] == "ward") & (scores["labels"] == labels)]
            wide = scores.pivot(index="form", columns="score", values="value").loc[list(clusters.forms)].reset_index()
            shuffled = float(scores.query("score == 'purity'")["shuffled"].mean())
            rows.append(wide.assign(layer=layer, rows=clusters.matched("ward")[1], shuffled=shuffled))
        return pd.concat(rows, ignore_index=True)[["layer", "form", "purity", "entropy", "ami", "shuffled", "rows"]]

    def advantages(self, form: str = "soft code") -> pd.DataFrame:
        """What a form's clusters have over those of each other form: mean difference with its 95 % interval over sequences."""
        rows = []
        for layer, clusters in self.dense.items():
            for other in clusters.forms:
                if other != form:
                    differences = clusters.differences(other)
                    rows_of_form = differences[(differences["form"] == form) & (differences["labels"] == "token")]
                    rows.append(rows_of_form.assign(layer=layer, over=other))
        return pd.concat(rows, ignore_index=True)[["layer", "algorithm", "over", "score", "value", "low", "high"]]

    def summary(self) -> dict[str, Any]:
        """The numbers, as plain JSON."""
        distinct = len(self.codes.unique().rows)
        return {
            "model": self.model,
            "rows": len(self.codes),
            "distinct hard codes": distinct,
            "ward, token": self.table("token").to_dict("records"),
            "ward, class": self.table("class").to_dict("records"),
            "soft code over": self.advantages().to_dict("records"),
            "untrained": self.untrained.frame().query("algorithm == 'ward'").to_dict("records"),
            "nearest row": self.nearest.to_dict("records"),
            "published": PUBLISHED,
        }

    def findings(self) -> list[str]:
        """What was found, in sentences."""
        layer_codes = [self.codes.layer(layer.name) for layer in self.codes.layers]
        distinct = ", ".join(str(len(codes.unique().rows)) for codes in layer_codes)
        advantages = self.advantages().query("algorithm == 'ward' and score == 'purity'")
        sentences = [
            f"{self.model}: {len(self.codes)} tokens; distinct hard codes by layer: {distinct}. A single polytope holds one token, "
            "so only groups of polytopes can have a meaning."
        ]
        for layer, rows in advantages.groupby("layer"):
            parts = [
                f"{row['over']} {row['value']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
                for _, row in rows.iterrows()
            ]
            sentences.append(
                f"Layer {layer}, Ward: token purity of the soft code's clusters less that of: {'; '.join(parts)}."
            )
        return sentences

    def text(self) -> str:
        """What was found, for a terminal."""
        tables = {
            "Ward, equal numbers of clusters and rows; the label is the token": self.table("token"),
            "The same; the label is the class of the token": self.table("class"),
            "Share of rows whose nearest row of another sequence has the same label": self.nearest,
        }
        return as_text(*self.findings(), *with_titles(tables))

    def files(self) -> StudyFiles:
        """Codes and clusters, tables, and the report."""
        results: dict[str, pc.Result] = {"codes": self.codes, "untrained": self.untrained}
        sections: list[tuple[str, Any]] = [
            ("What was found", "\n\n".join(self.findings())),
            ("Ward, the label is the token", self.table("token")),
            ("Ward, the label is the class", self.table("class")),
            ("Nearest row of another sequence", self.nearest),
            ("The soft code's clusters against the others'", self.advantages()),
        ]
        for layer, clusters in self.dense.items():
            results |= {f"layer-{layer}": clusters, f"layer-{layer}-seed-sampling": self.sparse[layer]}
            cards = clusters.figure(view="cards", algorithm="ward", form="soft code")
            sections += [(f"Layer {layer}: cards of the soft code", cards), (f"Layer {layer}", clusters)]
        tables = {name: self.table(name) for name in ("token", "class")}
        return StudyFiles(
            "Polytopes of tokens",
            sections,
            tables=tables | {"nearest": self.nearest, "advantages": self.advantages()},
            results=results,
        )


def sequences(model: pc.Model, count: int) -> list[list[int]]:
    """Token ids of books and speeches by turns, :data:`LENGTH` each, from the middle of each text.

    Raises:
        InputError: There are fewer texts of that length.
    """
    books = list(pc.catalogue.gutenberg().values())
    speeches = [speech.text for speech in pc.catalogue.state_of_the_union()][:: max(1, 360 // count)]
    texts = [text for pair in zip(books, speeches, strict=False) for text in pair]
    all_ids = []
    for text in texts:
        middle = text[len(text) // 3 :][: LENGTH * 8]
        ids = model.tokenizer(middle)["input_ids"][:LENGTH]
        if len(ids) == LENGTH:
            all_ids.append(ids)
        if len(all_ids) == count:
            return all_ids
    raise pc.InputError(f"{count} sequences of {LENGTH} tokens: the catalogue's books and speeches give {len(all_ids)}")


def positions() -> list[int]:
    """The dense sampling, which contains the seed's."""
    return [int(place) for place in np.linspace(FIRST, LENGTH - 2, (SEED_GRID - 1) * STEP + 1)]


def class_of(token: str) -> str:
    """A coarse class of a token by its letters."""
    word = token.strip()
    if not word:
        return "space"
    if re.fullmatch(r"[\d.,]*\d[\d.,]*", word):
        return "number"
    if not re.search(r"\w", word):
        return "punctuation"
    if word.lower() in FUNCTION_WORDS:
        return "function word"
    if not token.startswith((" ", "\n", "Ġ")):
        return "piece of a word"
    return "capitalised word" if word[0].isupper() else "word"


def sample_tokens(model: pc.Model, ids: Sequence[Sequence[int]], around: int = 5) -> Tokens:
    """Labels and surroundings of the sampled tokens."""
    sample_positions = positions()
    labels: dict[str, list[str]] = {"token": [], "class": []}
    contexts, numbers, sparse = [], [], []
    for number, row in enumerate(ids):
        for place, position in enumerate(sample_positions):
            token = model.tokenizer.decode([row[position]])
            before, after = (
                model.tokenizer.decode(part)
                for part in (row[position - around : position], row[position + 1 : position + around])
            )
            labels["token"].append(token.strip() or repr(token))
            labels["class"].append(class_of(token))
            contexts.append(re.sub(r"\s+", " ", f"{before}[{token}]{after}").strip())
            numbers.append(number)
            sparse.append(place % STEP == 0)
    return Tokens(labels, tuple(contexts), tuple(numbers), tuple(sparse))


def record_tokens(
    model: pc.Model, ids: Sequence[Sequence[int]], components: Sequence[str], layers: Sequence[int], progress: bool
) -> dict[str, Tensor]:
    """Activations of the sampled tokens at ``component.layer``, ``[row, d]``."""
    sites = [f"{component}.{layer}" for layer in layers for component in components]
    acts = model.record([list(row) for row in ids], sites, at=positions(), progress=progress)
    return {site: acts[site].flatten(0, 1).float() for site in sites}


def untrained_model(model: pc.Model) -> pc.Model:
    """A model of the same shape with weights as they are before training."""
    with guarded(torch.random.fork_rng()):
        torch.manual_seed(0)
        module = type(model.module)(model.config)
    return pc.wrap(module.float().eval(), model.tokenizer)


def hyperplanes(x: Tensor, count: int, seed: int) -> Tensor:
    """On which side of random hyperplanes through the origin rows lie, ``[row, hyperplane]`` of 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    return (x @ torch.randn(x.shape[1], count, generator=generator) > 0).float()


def agreement(forms: Mapping[str, Tensor], tokens: Tokens) -> pd.DataFrame:
    """For each form: does the nearest row of another sequence have the same label?"""
    sequence = np.array(tokens.sequence)
    same = torch.from_numpy(sequence[:, None] == sequence)
    rows = []
    for form, values in forms.items():
        distances = torch.cdist(values.double(), values.double()).masked_fill(same, torch.inf)
        nearest = distances.argmin(1).numpy()
        shares = {
            name: float((np.array(row_labels)[nearest] == np.array(row_labels)).mean())
            for name, row_labels in tokens.labels.items()
        }
        rows.append({"form": form, **shares})
    return pd.DataFrame(rows)


def study(
    model: pc.Model,
    out: str | Path | None = None,
    *,
    layers: Sequence[int] = LAYERS,
    count: int = 36,
    seed: int = 0,
    progress: bool = False,
) -> TokenPolytopes:
    """Run the experiment.

    Args:
        model: A language model with ``mlp_pre``.
        out: Folder for ``report.html``, figures and data; None to keep nothing.
        layers: Whose MLPs; the untrained control is run up to the first.
        count: Sequences.
        seed: The random hyperplanes, k-means, the half-samples and the shuffles are drawn with this seed.
        progress: Show bars.

    Raises:
        InputError: More sequences than the texts give.
    """
    ids = sequences(model, count)
    tokens = sample_tokens(model, ids)
    values = record_tokens(model, ids, ("mlp_pre", "mlp_act", "mlp_in"), layers, progress)
    untrained_values = record_tokens(untrained_model(model), ids, ("mlp_pre", "mlp_act"), layers[:1], progress)
    name = str(model.config.hidden_act)
    all_rows = np.ones(len(tokens.sequence), dtype=bool)
    untrained_clusters = _cluster(
        untrained_values[f"mlp_pre.{layers[0]}"],
        untrained_values[f"mlp_act.{layers[0]}"],
        {},
        tokens,
        all_rows,
        name,
        seed,
        progress,
    )
    dense, sparse, nearest = {}, {}, []
    for layer in layers:
        z, act, mlp_in = (values[f"{name}.{layer}"] for name in ("mlp_pre", "mlp_act", "mlp_in"))
        others = {RANDOM: hyperplanes(mlp_in, z.shape[1], seed), READS: mlp_in}
        dense[layer] = _cluster(z, act, others, tokens, all_rows, name, seed, progress)
        sparse[layer] = _cluster(z, act, others, tokens, np.array(tokens.sparse), name, seed, progress)
        unit = act / act.norm(dim=1, keepdim=True)
        forms = {
            "hard code": (z > 0).float(),
            "soft code": pc.polytopes.activation(name).code(z),
            "pre-activation": z,
            "activation": act,
            "unit norm": unit,
        }
        nearest.append(agreement({**forms, **others}, tokens).assign(layer=layer))
    codes = pc.polytopes.SplineCodes.from_preactivations(
        {f"mlp_pre.{layer}": values[f"mlp_pre.{layer}"] for layer in layers}, tokens.labels
    )
    table = pd.concat(nearest, ignore_index=True)[["layer", "form", "token", "class"]]
    result = TokenPolytopes(dense, sparse, untrained_clusters, table, codes, name_of(model))
    if out is not None:
        result.save(out)
    return result


def _cluster(
    z: Tensor, act: Tensor, others: dict[str, Tensor], tokens: Tokens, mask: Any, name: str, seed: int, progress: bool
) -> pc.polytopes.Clusters:
    indices = np.flatnonzero(mask)
    rows = torch.from_numpy(indices)
    labels = {label: [row_labels[i] for i in indices] for label, row_labels in tokens.labels.items()}
    return pc.polytopes.cluster(
        z[rows],
        act[rows],
        labels,
        name=name,
        others={form: values[rows] for form, values in others.items()},
        k=max(2, len(rows) // ROWS_A_CLUSTER),
        examples=[tokens.contexts[i] for i in indices],
        groups=[tokens.sequence[i] for i in indices],
        seed=seed,
        progress=progress,
    )

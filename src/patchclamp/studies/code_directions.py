"""Is the difference of mean spline codes a direction like any other?

Sharkey proposed "directions in spline-code space" after the polytope lens (Black, Sharkey et al. 2022, arXiv 2211.12312): not a
vector of activations but a change of the pathway, of which gates are open. Here the difference of two classes' mean codes is used
twice. As a classifier of held-out rows, beside differences of mean activations and pre-activations. And as a push: the
pre-activations of all gates from a layer on are moved along it, beside the difference of mean pre-activations and random
directions of the same length at every layer. The networks are the digits' (pairs of digits) and a language model (the gender of a
person, other people held out).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

import patchclamp as pc
from patchclamp.studies import digits, gender
from patchclamp.studies.result import StudyFiles, StudyResult, as_text, records

PUSHED = ((1, 3), (4, 9), (7, 2), (5, 6), (8, 0), (3, 5))
"""Pairs of digits, from and to."""
DOSES = (0.125, 0.25, 0.5, 1.0)
"""Lengths of pushes on digits, in those of the difference of mean pre-activations at each layer."""
WORD_DOSES = (1.0, 2.0, 4.0)
Layers = dict[str, Tensor]


@dataclass(frozen=True)
class CodeDirections(StudyResult):
    """What the study found."""

    scores: pd.DataFrame
    """AUC on held-out rows, for each kind of rows and from which layer on; the least and the mean over tasks."""
    pushes: pd.DataFrame
    """What a push of each kind does: to rows of its class, and to others."""

    def kept(self, shares: Sequence[float] = (0.5, 0.9)) -> pd.DataFrame:
        """Say what share of the other digits is still called right where a push moves these shares of a class of digits.

        It is read off straight lines between the doses, and is NaN where no dose moves as many.
        """
        rows = []
        of_digits = self.pushes[self.pushes["model"] == "digits"]
        for (since, kind), pushes in of_digits.groupby(["since", "kind"], sort=False):
            line = pushes.sort_values("moved")
            values = np.interp(shares, line["moved"], line["kept"], left=np.nan, right=np.nan)
            rows.append(
                {
                    "since": since,
                    "kind": kind,
                    **{f"kept at {s:g} moved": v for s, v in zip(shares, values, strict=True)},
                }
            )
        return pd.DataFrame(rows)

    def summary(self) -> dict[str, Any]:
        """The numbers, as plain JSON."""
        return {"scores": records(self.scores), "pushes": records(self.pushes), "kept": records(self.kept())}

    def text(self) -> str:
        """The tables, for a terminal."""
        return as_text(self.scores, "", self.pushes, "", self.kept(), digits=4, absent="")

    def files(self) -> StudyFiles:
        """The tables and the report."""
        return StudyFiles(
            "Directions of spline codes",
            [
                ("Scores of held-out rows (AUC)", self.scores),
                ("Pushes", self.pushes),
                ("Digits: what is kept where so many are moved", self.kept()),
            ],
            tables={"scores": self.scores, "pushes": self.pushes},
        )


def kinds(pre: Mapping[str, Tensor], act: Mapping[str, Tensor]) -> dict[str, Layers]:
    """The same rows as codes, as pre-activations, as activations, and as activations of norm 1 at each layer."""
    return {
        "codes": {name: (z > 0).double() for name, z in pre.items()},
        "pre-activations": {name: z.double() for name, z in pre.items()},
        "activations": {name: h.double() for name, h in act.items()},
        "activations of norm 1": {name: torch.nn.functional.normalize(h.double()) for name, h in act.items()},
    }


def auc(scores: Tensor, positive: Tensor) -> float:
    """The share of pairs (a positive row, another) in which the positive one scores higher; ties count half."""
    from scipy.stats import rankdata

    ranks, truth = rankdata(scores.numpy()), positive.numpy()
    count = int(truth.sum())
    return float((ranks[truth].sum() - count * (count + 1) / 2) / (count * (len(truth) - count)))


def difference(rows: Layers, a: Tensor, b: Tensor) -> Layers:
    """From the mean of rows ``a`` to that of rows ``b``, at each layer."""
    return {name: values[b].mean(0) - values[a].mean(0) for name, values in rows.items()}


def project(rows: Layers, direction: Layers, layers: Sequence[str]) -> Tensor:
    """Coordinates of rows along a direction, over some layers together."""
    return torch.stack([rows[name].flatten(1) @ direction[name].flatten() for name in layers]).sum(0)


def pushes(pre: Layers, a: Tensor, b: Tensor, seed: int) -> dict[str, pc.polytopes.CodeDirection]:
    """Directions in which to push pre-activations: of codes, of pre-activations, and a random one."""
    code_direction = pc.polytopes.code_direction(*({name: z[mask] > 0 for name, z in pre.items()} for mask in (a, b)))
    generator = torch.Generator().manual_seed(seed)
    random_vectors = {
        name: torch.randn(v.shape, generator=generator, dtype=v.dtype) for name, v in code_direction.vectors.items()
    }
    vectors = {"codes": code_direction.vectors, "pre-activations": difference(pre, a, b), "random": random_vectors}
    return {kind: pc.polytopes.CodeDirection(mask, code_direction.middle) for kind, mask in vectors.items()}


def measure_digits(seed: int, data: digits.Images, train: int = 10_000) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All pairs of digits, scored; some of them pushed."""
    network = digits.trained("mlp", seed=seed)
    train_rows, labels = _preactivations(network, data.train[:train]), data.train_labels[:train]
    test_rows = _preactivations(network, data.test)
    train_kinds, rows = (kinds(pre, {name: z.relu() for name, z in pre.items()}) for pre in (train_rows, test_rows))
    scores = []
    for a, b in combinations(range(10), 2):
        mask = (data.test_labels == a) | (data.test_labels == b)
        for kind, layer_rows in train_kinds.items():
            direction = difference(layer_rows, labels == a, labels == b)
            for since in train_rows:
                later = list(train_rows)[list(train_rows).index(since) :]
                value = auc(project(rows[kind], direction, later)[mask], data.test_labels[mask] == b)
                scores.append({"model": "digits", "kind": kind, "since": since, "auc": value})
    model, effects = pc.wrap(network), []
    inputs, truth = data.test[:2000], data.test_labels[:2000]
    for a, b in PUSHED:
        lengths = {name: float(v.norm()) for name, v in difference(train_rows, labels == a, labels == b).items()}
        for kind, push in pushes(train_rows, labels == a, labels == b, seed).items():
            for since in train_rows:
                for dose in DOSES:
                    edits = push.since(since).edits({name: dose * length for name, length in lengths.items()})
                    predictions = model.run(inputs, edits).logits.argmax(-1)
                    others = (truth != a) & (truth != b)
                    effects.append({
                        "model": "digits", "kind": kind, "since": since, "dose": dose,
                        "moved": float((predictions[truth == a] == b).float().mean()),
                        "kept": float((predictions[others] == truth[others]).float().mean()),
                    })  # fmt: skip
    return pd.DataFrame(scores), pd.DataFrame(effects)


def _preactivations(network: Any, x: Tensor) -> Layers:
    preactivations = pc.polytopes.Network(network).preactivations(x)
    return {name: z.detach() for name, z in preactivations.items()}


def measure_gender(model: pc.Model, sinces: Sequence[int], texts: int = 12) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Sentences about a man or a woman, at the last token; pushes from men to women.

    ``moved`` is the mean gain of the log-odds of " she" against " he" after held-out men; ``kl`` is measured on neutral text.
    """
    rows, positive = {}, {}
    for part in ("train", "test"):
        prompts, labels, _ = gender.labelled(part)
        acts = model.record(prompts, ["mlp_pre", "mlp_act"], at="last")
        pre, act = ({f"{c}.{k}": acts[c][k] for k in range(model.sites.n_layers)} for c in ("mlp_pre", "mlp_act"))
        rows[part] = kinds(pre, {f"mlp_pre.{k}": values for k, values in enumerate(act.values())})
        positive[part] = torch.tensor([label == "2 female" for label in labels])
    scores, effects, woman = [], [], positive["train"]
    names = list(rows["train"]["codes"])
    for kind, values in rows["train"].items():
        direction = difference(values, ~woman, woman)
        for since in sinces:
            value = auc(project(rows["test"][kind], direction, names[since:]), positive["test"])
            scores.append({"model": "gender", "kind": kind, "since": names[since], "auc": value})
    pre = rows["train"]["pre-activations"]
    lengths = {name: float(v.norm()) for name, v in difference(pre, ~woman, woman).items()}
    men = [prompt for prompt, _ in gender.pairs("test")]
    edits = {}
    for kind, direction_from_start in pushes(pre, ~woman, woman, 0).items():
        for since in sinces:
            path = direction_from_start.since(names[since])
            for dose in WORD_DOSES:
                edits[kind, names[since], dose] = path.edits({n: dose * lengths[n] for n in path.vectors}, at="rest")
    edits_by_name = {str(key): values for key, values in edits.items()}
    damage = pc.metrics.damage(model, edits_by_name, gender.neutral_texts(texts)).summary()
    kl = damage[damage["metric"] == "kl"].set_index("edit")["mean"]
    before = _log_odds(model, men, [])
    for (kind, since_name, dose), edit in edits.items():
        gain = float((_log_odds(model, men, edit) - before).mean())
        cost = kl[str((kind, since_name, dose))]
        effects.append({"model": "gender", "kind": kind, "since": since_name, "dose": dose, "moved": gain, "kl": cost})
    return pd.DataFrame(scores), pd.DataFrame(effects)


def _log_odds(model: pc.Model, prompts: Sequence[str], edits: Sequence[pc.Edit]) -> Tensor:
    he, she = (model.token_id(answer) for answer in gender.ANSWERS)
    logits = model.run(list(prompts), list(edits), logits="last").logits.double()
    return logits[:, she] - logits[:, he]


def study(
    model: pc.Model | None = None, out: str | Path | None = None, *, seeds: int = 3, since: Sequence[int] = (0, 10, 20)
) -> CodeDirections:
    """Run the experiment.

    Args:
        model: A language model with ``mlp_pre``; without one, only the networks of digits.
        out: Folder for ``report.html`` and tables.
        seeds: Networks of digits.
        since: Layers of the language model at which pathways begin.

    Raises:
        InputError: No seeds, or a layer that the model does not have.
    """
    if seeds < 1:
        raise pc.InputError(f"at least 1 seed; got {seeds}")
    if model is not None and (invalid := [k for k in since if not 0 <= k < model.sites.n_layers]):
        raise pc.InputError(f"the model has layers 0..{model.sites.n_layers - 1}; got {invalid[0]}")
    data = digits.images()
    parts = [measure_digits(seed, data) for seed in range(seeds)]
    parts += [] if model is None else [measure_gender(model, since)]
    scores, effects = (pd.concat(tables, ignore_index=True) for tables in zip(*parts, strict=True))
    by = ["model", "since", "kind"]
    means = scores.groupby(by, sort=False)["auc"].agg(["mean", "min"]).reset_index()
    result = CodeDirections(means, effects.groupby([*by, "dose"], sort=False).mean().reset_index())
    if out is not None:
        result.save(out)
    return result

"""Ordinary calls of measures, estimators, files and whole models."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

import patchclamp as pc
from tests import tiny
from tests.fuzz import world
from tests.fuzz.ordinary import Beside, Fresh, Ordinary
from tests.fuzz.table_running import CUT, TWICE
from tests.fuzz.world import IDS, OTHER, PAIRS, vector

X, Y = vector(0, 6, rows=60), [i % 2 for i in range(60)]
X = X + 2.0 * torch.tensor(Y, dtype=torch.float64)[:, None] * vector(1, 6)
X2 = vector(2, 6, rows=60) + torch.tensor(Y, dtype=torch.float64)[:, None] * vector(3, 6)
GROUPS = [i // 2 for i in range(60)]
MANY = [i % 4 for i in range(60)]


def metrics() -> dict[str, Ordinary]:
    """Name -> ordinary call."""
    m, bound = pc.metrics, {"model": world.model()}
    edits, others = {"added": [TWICE]}, {"zeroed": [pc.Zero(site="mlp_out.1")]}
    cut = {"batch_tokens": 16, "progress": False}
    return {
        "metrics.bias": Ordinary(m.bias, {**bound, "prompts": PAIRS, "edits": edits},
                                 {"prompts": PAIRS[:1], "answers": (" king", " queen"), "edits": others,
                                  "labels": Beside([0, 1, 0, 1], {"labels": [1, 0, 1, 0], "prompts": [t for p in PAIRS for t in p]}), **cut}, inert=CUT),
        "metrics.confusion": Ordinary(m.confusion, {"start": -1.0, "mixed": -2.0, "worst": -5.0}, {"start": -0.5, "mixed": -3.0, "worst": -9.0}),
        "metrics.ratio": Ordinary(m.ratio, {"p": 0.2, "q": 0.3}, {"p": 0.4, "q": 0.6}),
        "metrics.damage": Ordinary(m.damage, {**bound, "edits": edits, "texts": [IDS]}, {"edits": others, "texts": [OTHER], **cut}, inert=CUT),
        "metrics.divergence": Ordinary(m.divergence, {**bound, "edits": edits, "on_topic": [IDS], "max_new_tokens": 2},
                                       {"edits": others, "on_topic": [OTHER], "off_topic": [OTHER], "max_new_tokens": 3, "progress": False}, inert=CUT),
        "metrics.interchange": Ordinary(m.interchange, {**bound, "pairs": [(IDS, OTHER)], "directions": vector(0, rows=2), "site": "resid_post.1", "answers": (5, 9)},
                                        {"pairs": [(OTHER, IDS[::-1])], "directions": vector(1), "site": "resid_post.0", "answers": (6, 9), "at": -1, "batch_tokens": 16}, inert=CUT),
        "metrics.neutral_texts": Ordinary(m.neutral_texts, {"count": 2, "characters": 200}, {"count": 3, "seed": 5, "characters": 250}),
        "metrics.probe": Ordinary(m.probe, {"X": X, "z": Y, "transform": _halved, "probes": ("linear",)},
                                  {"X": X2, "z": Y[::-1], "transform": np.zeros_like, "groups": GROUPS, "types": [i % 5 for i in range(60)], "rank": 2,
                                   "probes": ("mlp",), "test_size": 0.5, "seed": 5}),
        "metrics.split": Ordinary(m.split, {"z": Y}, {"z": Y[::-1] + Y, "groups": GROUPS, "test_size": 0.5, "seed": 5}),
    }  # fmt: skip


def _halved(x: Any) -> Any:
    return (
        x * torch.tensor([0.0, 1, 1, 1, 1, 1], dtype=torch.float64)
        if isinstance(x, torch.Tensor)
        else x * np.array([0.0, 1, 1, 1, 1, 1])
    )


ESTIMATORS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, str]]] = {
    "INLP": ({"rank": 2}, {"rank": 3, "stop": Beside(True, {"rank": 5}), "C": 0.001, "tol": 1.0, "max_iter": 1}, {}),
    "LEACE": ({}, {"shrinkage": 0.5}, {}),
    "RLACE": ({"steps": 5, "starts": 2}, {"rank": 2, "C": 0.001, "starts": 5, "steps": 1, "random_state": 5}, {"random_state": "of the search"}),
    "SAL": ({}, {"rank": 3}, {}),
    "ActivationAddition": ({}, {}, {}),
    "GradientDirection": ({"read": pc.LogitDifference(3, 4)}, {"read": pc.LogitDifference(5, 9), "rank": 2}, {}),
    "LogisticDirection": ({}, {"C": 0.001, "tol": 10.0, "max_iter": 1}, {}),
    "MeanDifference": ({}, {"balanced": True, "paired": True}, {}),
    "OracleLEACE": ({}, {}, {}),
    "PCADifference": ({}, {"rank": 2, "centred": True}, {}),
    "QuadraticLEACE": ({}, {}, {}),
    "RandomDirection": ({"rank": 1}, {"rank": 2, "random_state": 5}, {}),
}  # fmt: skip
CONCEPT = {"concept": "how labels are read: here all ways agree"}


def estimators() -> dict[str, Ordinary]:
    """Name -> ordinary call."""
    found = {}
    for name, (given, other, inert) in ESTIMATORS.items():
        kind = getattr(pc.directions, name)

        def used(kind: Any = kind, **how: Any) -> Any:
            if kind is pc.directions.GradientDirection:
                return world.model().fit_direction(kind(**how), world.LABELLED, world.LABELS, "resid_post.1", holdout=0)
            x, y = (
                (X[:2], Y[:2])
                if kind is pc.directions.ActivationAddition
                else (X, MANY if kind is pc.directions.RLACE else Y)
            )
            fitted = kind(**how).fit(x, y, groups=GROUPS if how.get("paired") is True else None)
            return fitted.direction_ if hasattr(fitted, "direction_") else fitted.transform(x, y)

        found[f"directions.{name}"] = Ordinary(used, given, other, says=kind, inert={**inert, **CONCEPT})

        def fits(kind: Any = kind, **data: Any) -> Any:
            fitted = kind().fit(**data)
            return fitted.direction_ if hasattr(fitted, "direction_") else fitted.transform(X, Y)

        more = {"gradients": vector(5, 6, rows=60)} if name == "GradientDirection" else {}
        few = name == "ActivationAddition"
        usual = {"X": X[:2], "y": Y[:2]} if few else {"X": X, "y": Y}
        others = {"X": X2[:2], "y": Y[1:3]} if few else {"X": X2, "y": Y[:30] + Y[:30][::-1]}
        others |= {"sample_weight": [1.0, 2.0] if few else [1.0, 2.0, 9.0] * 20, "groups": Y[:2] if few else GROUPS}
        other_more = {"gradients": vector(6, 6, rows=60)} if more else {}
        found[f"directions.{name}.fit"] = Ordinary(
            fits, {**usual, **more}, {**others, **other_more}, says=kind.fit,
            inert={} if name == "PCADifference" else {"groups": "no pairs are asked for"},
        )  # fmt: skip
    found["directions.fit_layers"] = Ordinary(
        pc.directions.fit_layers, {"estimator": pc.directions.LEACE(), "X": torch.stack([X, X2]), "y": Y},
        {"estimator": pc.directions.MeanDifference(), "X": torch.stack([X2, X]), "y": Y[:30] + Y[:30][::-1], "sample_weight": [1.0, 2.0, 9.0] * 20, "groups": GROUPS},
        inert={"groups": "no pairs are asked for"},
    )  # fmt: skip
    return found


def rewriting() -> dict[str, Ordinary]:
    """Name -> ordinary call."""
    r, bound = pc.rewriting, {"model": world.model()}
    corpus = {"corpus": world.LABELLED * 4, "tokens": 200, "context": 12, "cache": False}
    other = {"corpus": world.LABELLED[:4] * 9, "tokens": 60, "context": 7, "cache": False, "progress": False}
    fact = r.Fact("{} is the capital of", "Rome", " Italy", " Spain", ("The {} is of",), (("Madrid", " Spain"),))
    inert = {**CUT, "cache": "where it is kept", "context": "the texts are shorter"}
    said = {"prompt": "{} is the capital of", "subject": "Rome", "true": " Italy", "target": " Spain"}
    return {
        "rewriting.covariance": Ordinary(r.covariance, {**bound, "layer": 1, **corpus}, {"layer": 2, **other}, inert=inert),
        "rewriting.covariances": Ordinary(r.covariances, {**bound, "layers": [1], **corpus}, {"layers": [0, 2], **other}, inert=inert),
        "rewriting.sample_prefixes": Ordinary(r.sample_prefixes, {**bound, "prefixes": 2}, {"prefixes": 3, "seed": 5}),
        "rewriting.score": Ordinary(r.score, {**bound, "fact": fact}, {"fact": r.Fact("{} is the capital of", "Paris", " France", " Spain"), "edits": [TWICE]}),
        "rewriting.summary": Ordinary(r.summary, {"scores": [r.score(world.model(), fact)] * 3}, {"scores": [r.score(world.model(), fact, [TWICE])] * 2, "seed": 5},
                                      inert={"seed": "equal facts have no spread"}),
        "rewriting.Fact": Ordinary(lambda **how: r.score(world.model(), r.Fact(**how)), said,
                                   {"prompt": "{} is a city of", "subject": "Paris", "true": " France", "target": " Rome", "paraphrases": ("The {} is of",), "neighbours": (("Madrid", " Spain"),)}, says=r.Fact),
    }  # fmt: skip


class Saved(Fresh):
    """Stands for a folder that holds a saved result."""


def _saved(result: pc.Result) -> Any:
    def into(call: Any) -> Any:
        def used(folder: Any = None, **more: Any) -> Any:
            if (
                hasattr(folder, "parent")
                and not folder.exists()
                and folder.parent.exists()
                and folder.name.startswith("folder")
            ):
                result.save(folder)
            return call(folder, **more)

        return used

    return into  # fmt: skip


def files() -> dict[str, Ordinary]:
    """Name -> ordinary call."""
    recorded = world.model().record(IDS, "resid_post.1")
    lens = world.model().lens(IDS)
    module, other = tiny.shared("llama"), tiny.shared("gpt2")
    wrapped = Ordinary(
        lambda **how: pc.wrap(**how).run(IDS),
        {"module": module},
        {"module": other, "tokenizer": world.tokenizer()},
        says=pc.wrap,
    )
    catalogue = {"fetch": "stories15m", "where": "stories15m", "is_model": "stories15m", "verify": "stories15m"}
    return {
        "wrap": wrapped,
        "load": Ordinary(lambda **how: pc.load(**how).run(IDS), {"name_or_path": _folder("llama")},
                         {"name_or_path": _folder("gpt2"), "dtype": "bfloat16", "device_map": "cpu", "revision": "main", "attn_implementation": "eager"},
                         says=pc.load, inert={"device_map": "there is a processor only", "revision": "the catalogue has one", "attn_implementation": "the same numbers"}),
        "open": Ordinary(_saved(recorded)(pc.open), {"folder": Fresh()}, {"check": False}, says=pc.open, inert={"folder": "where", "check": "nothing was changed"}),
        "repeat": Ordinary(_saved(recorded)(pc.repeat), {"folder": Fresh(), "model": world.model()}, {"model": pc.wrap(other)}, says=pc.repeat, inert={"folder": "where"}),
        "report": Ordinary(pc.report, {"path": Fresh(".html"), "title": "A title", "contents": [("Words", "text")]}, {"title": "Other", "contents": [("Words", "more")]}, inert={"path": "where"}),
        "aligned": Ordinary(pc.aligned, {"results": [lens, lens]}, {"results": [lens], "share": "tokens", "layers": "up"}),
        "listening": Ordinary(_listened, {"listener": None}, {"listener": print}, says=pc.listening, inert={"listener": "what is shown"}),
        "control_vector": Ordinary(pc.control_vector, {"path": _vector_file()}, {"scale": 2.0}),
        **{f"catalogue.{name}": Ordinary(getattr(pc.catalogue, name), {"name": value}, {"name": "smollm2-135m" if name != "is_model" else "no", "progress": False}, inert=CUT) for name, value in catalogue.items()},
    }  # fmt: skip


def _folder(name: str) -> Path:
    folder = Path(tempfile.mkdtemp()) / name
    tiny.shared(name, torch.float32).save_pretrained(folder)
    return folder


def _listened(listener: Any) -> Any:
    with pc.listening(listener):
        return world.model().record(IDS, "resid_post.1")


def _vector_file() -> Any:
    return world.model().export_control_vector(
        pc.Add(vector(), site="resid_post.1"), Path(tempfile.mkdtemp()) / "vector.gguf"
    )

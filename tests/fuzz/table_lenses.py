"""Ordinary calls of traces, lenses, directions, rewriting and baking."""

import patchclamp as pc
from tests import tiny
from tests.fuzz import world
from tests.fuzz.ordinary import Beside, Fresh, Ordinary, method
from tests.fuzz.table_running import CUT, HOW, TWICE
from tests.fuzz.world import IDS, LABELLED, LABELS, OTHER, PAIRS, vector

TRACED = {"prompt": IDS, "subject": [1, 2], "answer": 7, "samples": 2}
TRACE = {
    "prompt": OTHER, "subject": [0], "answer": 8, "samples": 3, "noise": 1.0, "std": 0.1, "seed": 5,
    "read": Beside(pc.Logits([3]), {"answer": None}),
}  # fmt: skip
MORE, HALVES = tiny.ids(30, 3), [i // 2 for i in range(30)]
PAIRED = [i // 2 for i in range(12)]
NO_SINKS = {**CUT, "sinks": "a tiny model has no massive activations"}
KEYS = {"layer": 1, "covariance": "identity", "prefixes": [[4, 5], [6, 7]], "steps": 2, "essence": None}


def tracing() -> dict[str, Ordinary]:
    """Name -> ordinary call."""
    gradient = {"method": "gradient", "check": 2}
    how = {name: HOW[name] for name in ("budget", "max_tokens", "verify", "checkpoint", "progress")}
    return {
        "Model.causal_trace": method(
            "causal_trace", {**TRACED, "sites": ["resid_post", "mlp_out"]},
            {**TRACE, "sites": "attn_out", "window": 3, "method": "gradient", "integrate": Beside(3, gradient), "check": Beside(5, gradient), **how},
            inert={**CUT, "check": "how well the estimate is known"},
        ),
        "Model.trace_facts": method(
            "trace_facts", {"facts": [(IDS, [1, 2], 7)], "samples": 2},
            {**{k: v for k, v in TRACE.items() if k not in ("prompt", "subject", "answer", "read")}, "read": Beside(pc.Logits([3]), {"facts": [(IDS, [1, 2])]}), "facts": [(OTHER, [1, 2], 7)],
             "sites": "mlp_out", "window": 3, "method": "gradient", "integrate": Beside(3, gradient), "check": Beside(5, gradient), **how},
            inert={**CUT, "check": "an average keeps no agreement"},
        ),
        "Model.neuron_importances": method(
            "neuron_importances", {**TRACED, "top": 2, "verify": 2}, {**TRACE, "integrate": 3, "top": 3, "verify": 4},
        ),
        "Model.head_scores": method(
            "head_scores", {"length": 6, "samples": 2, "draws": 3},
            {"text": Beside("The king sees a dog and The king runs", {"text": "a dog and king see a dog and king run of dog king dog", "word": " king"}),
             "word": Beside(" dog", {"word": " king", "text": "a dog and king see a dog and king run of dog king dog"}),
             "length": 7, "samples": 3, "seed": 5, "draws": 9, "batch_tokens": 64, "progress": False},
            inert=CUT,
        ),
        "tracing.average": Ordinary(
            pc.tracing.average,
            {"traces": [world.model().causal_trace(world.TEXT, " Spain", " Rome", samples=2)]},
            {"traces": [world.model().causal_trace(world.TEXT, " capital", " Rome", samples=2)]},
        ),
    }  # fmt: skip


def lenses() -> dict[str, Ordinary]:
    """Name -> ordinary call."""
    cut = {"chunk": 9, "batch_tokens": 16, "progress": False}
    texts = world.LABELLED
    return {
        "Model.lens": method(
            "lens", {"prompts": IDS}, {"prompts": OTHER, "sites": "resid_pre", "at": 1, "k": 3, "targets": 7, "tuned": world.lens(), **cut},
            inert=CUT,
        ),
        "Model.lens_curves": method(
            "lens_curves", {"texts": texts, "length": 8, "tokens": 64},
            {"texts": texts[::-1], "sites": "resid_pre", "at": 1, "length": 9, "tokens": 24, "targets": 7, "tuned": world.lens(), **cut},
            inert=CUT,
        ),
        "Model.tune_lens": method(
            "tune_lens", {"corpus": texts * 2, "tokens": 100, "length": 12, "batch": 16},
            {"corpus": texts[::-1] * 2, "tokens": 60, "length": 10, "passes": 2, "held_out": 0.4, "optimizer": "sgd", "learning_rate": 0.1,
             "weight_decay": 0.1, "batch": 32, "seed": 5, "chunk": 9, "checkpoint": Fresh(), "progress": False},
            inert={**CUT, "held_out": "whole sequences: here one at least"},
        ),
        "Model.contributions": method(
            "contributions", {"prompt": IDS, "tokens": [3]}, {"prompt": OTHER, "tokens": [4], "at": 1, "heads": True},
        ),
        "Model.patchscope": method(
            "patchscope", {"prompts": IDS, "target": [9, 8, 7]},
            {"prompts": OTHER, "sites": "resid_pre", "at": 1, "target": [3, 8, 7], "into": "resid_post.2", "into_at": 1, "k": 3,
             "max_new_tokens": 2, "progress": False}, inert=CUT,
        ),
        "Model.weight_lens": method(
            "weight_lens", {"matrices": "ov.1.h1", "directions": 2, "k": 3, "draws": 2},
            {"matrices": "ov.1.h2", "directions": 3, "k": 4, "through": "unembedding", "draws": 3, "seed": 5, "progress": False}, inert=CUT,
        ),
    }  # fmt: skip


def concepts() -> dict[str, Ordinary]:
    """Name -> ordinary call."""
    fit = {"method": "mean", "prompts": LABELLED, "labels": LABELS, "at": "last", "holdout": 0.25, "groups": PAIRED}
    other = {
        "method": "leace", "prompts": LABELLED[::-1], "labels": LABELS[::-1], "at": [1, 2], "groups": [i // 4 for i in range(12)],
        "sample_weight": [1.0, 5.0, 2.0] * 4, "edits": [TWICE], "holdout": 0.5, "seed": 5, "progress": False,
    }  # fmt: skip
    directions = {"mean": [world.direction(0), world.direction(1)]}
    ask = {"answers": (" he", " she"), "texts": [IDS]}
    return {
        "Model.fit_direction": method("fit_direction", {**fit, "site": "resid_post.1"}, {**other, "site": "resid_post.2"},
                                      inert=NO_SINKS),
        "Model.fit_directions": method("fit_directions", {**fit, "sites": "resid_post.0-1"}, {**other, "sites": "resid_post.1-2"}, inert=NO_SINKS),
        "Model.sequential_erasure": method(
            "sequential_erasure", {"method": "leace", "prompts": LABELLED, "labels": LABELS},
            {"method": "mean", "prompts": LABELLED[::-1], "labels": LABELS[:6] + LABELS[:6][::-1], "layers": [1], "at": "last", "progress": False},
            inert=CUT,
        ),
        "Model.evaluate_direction": method(
            "evaluate_direction", {"direction": world.direction(), "prompts": MORE, "labels": [0, 1] * 15, "texts": [IDS]},
            {"direction": world.direction(2), "prompts": MORE[::-1], "labels": [1, 0] * 15, "groups": HALVES,
             "answers": Beside((" he", " she"), {"groups": HALVES}),
             "texts": Beside([OTHER], {"groups": HALVES, "answers": (" he", " she")}), "seed": 5, "progress": False},
            inert=CUT,
        ),
        "Model.layer_effects": method(
            "layer_effects", {"directions": directions, "pairs": PAIRS, **ask},
            {"directions": {"mean": [world.direction(1), world.direction(2)]}, "pairs": PAIRS[:1], "answers": (" he", " king"), "texts": [OTHER],
             "edits": ("swap",), "about": "median", "progress": False}, inert=CUT,
        ),
        "Model.dose_response": method(
            "dose_response", {"directions": {"mean": world.direction()}, "prompts": [IDS], "amounts": [1.0, 2.0], **ask},
            {"directions": {"mean": world.direction(2)}, "prompts": [OTHER], "amounts": [3.0], "answers": (" he", " king"), "texts": [OTHER],
             "edit": "scale", "about": Beside("median", {"edit": "scale"}), "progress": False}, inert=CUT,
        ),
        "Model.projections": method(
            "projections", {"direction": world.direction(), "prompts": LABELLED, "labels": LABELS},
            {"direction": world.direction(2), "prompts": LABELLED[::-1], "labels": LABELS[::-1], "at": 1, "edits": [TWICE]},
        ),
        "Model.rows": method(
            "rows", {"prompts": LABELLED, "site": "resid_post.1"},
            {"prompts": LABELLED[::-1], "site": "resid_post.2", "at": "last", "edits": [TWICE], "sinks": "keep"}, inert=NO_SINKS,
        ),
        "Model.reference": method(
            "reference", {"text": LABELLED, "site": "resid_post.1"}, {"text": LABELLED[::2], "site": "resid_post.2", "at": "last"},
        ),
        "Model.rewrite_fact": method(
            "rewrite_fact", {"prompt": IDS, "subject": [1, 2], "target": 9, **KEYS},
            {"prompt": OTHER, "subject": [1], "target": 11, "layer": 2, "true": 12, "covariance": world.covariance(), "ridge": 0.5,
             "prefixes": [[9, 5]], "essence": Beside("{} is", {"prompt": "{} is the", "subject": "Spain", "target": " Rome"}),
             "seed": Beside(5, {"prefixes": 2}), "progress": False, "steps": 4, "lr": 0.1, "kl": Beside(5.0, {"essence": "{} is", "prompt": "{} is the", "subject": "Spain", "target": " Rome"}), "decay": 3.0,
             "clamp": 0.01, "enough": 5.0}, inert={**CUT, "ridge": "the identity needs none"},
        ),
    }  # fmt: skip


def baking() -> dict[str, Ordinary]:
    """Name -> ordinary call."""
    edits, others = pc.ProjectOut(vector(), site="mlp_out.1"), pc.ProjectOut(vector(1), site="mlp_out.1")
    added, moved = pc.Add(vector(), site="resid_post.1"), pc.Add(vector(1), site="resid_post.1")
    check = {"prompts": Beside([IDS], {}), "tolerance": 1e-3}
    inert = {"prompts": "the edit is checked on them", "tolerance": "of the check"}
    bound = {"model": world.model()}
    return {
        "Model.baked": method("baked", {"edits": edits}, {"edits": others, **check}, inert=inert),
        "Model.export": method("export", {"edits": edits, "folder": Fresh()}, {"edits": others, "folder": Fresh(), **check},
                               inert={**inert, "folder": "where"}),
        "Model.export_control_vector": method(
            "export_control_vector", {"edits": added, "path": Fresh(".gguf")}, {"edits": moved, "path": Fresh(".gguf")}, inert={"path": "where"}),
        "baked": Ordinary(pc.baked, {**bound, "edits": edits}, {"edits": others, **check}, inert=inert),
        "export": Ordinary(pc.export, {**bound, "edits": edits, "folder": Fresh()}, {"edits": others, "folder": Fresh(), **check},
                           inert={**inert, "folder": "where"}),
        "export_control_vector": Ordinary(
            pc.export_control_vector, {**bound, "edits": added, "path": Fresh(".gguf")}, {"edits": moved, "path": Fresh(".gguf")}, inert={"path": "where"}),
    }  # fmt: skip

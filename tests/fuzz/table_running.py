"""Ordinary calls of what runs a model: run, record, generate, sweep, patch, path_patch, and what they are made of."""

from typing import Any

import torch

import patchclamp as pc
from tests.fuzz import world
from tests.fuzz.ordinary import Beside, Fresh, Ordinary, method
from tests.fuzz.world import IDS, OTHER, RAGGED, vector

ADD = pc.Add(vector(), site="mlp_out.1", at=-1)
TWICE = pc.Add(vector(1), site="attn_out.1", at=-1)
PLACED = {"sites": ["mlp_out", "attn_out.1"], "at": -1, "read": pc.Logits([3, 4])}
CUT = {
    "budget": "how much memory the work may take",
    "max_tokens": "how the work is cut",
    "verify": "cells that are run again",
    "checkpoint": "where parts are kept",
    "progress": "what is shown",
    "strategy": "how the work is shared",
    "batch_tokens": "how the work is cut",
    "chunk": "how the work is cut",
}
HOW = {
    "budget": "10MB", "max_tokens": 64, "verify": 1, "checkpoint": Fresh(), "progress": False, "strategy": "rows",
}  # fmt: skip


def _swept(**options: Any) -> Any:
    return world.model().sweep(**options)


def _edited(edits: Any) -> Any:
    with world.model().editing(edits):
        return world.model().module(torch.tensor([IDS])).logits


def _generated(**options: Any) -> Any:
    return world.model().generate(**options)


def lines() -> dict[str, Ordinary]:
    """Name -> ordinary call."""
    prompts = {"prompts": OTHER, "edits": [TWICE]}
    return {
        "Model.tokens": method("tokens", {"prompt": IDS}, {"prompt": OTHER}),
        "Model.top": method("top", {"prompt": IDS}, {"prompt": OTHER, "k": 3}),
        "Model.weight": method("weight", {"role": "mlp_out.1"}, {"role": "mlp_out.2"}),
        "Model.run": method(
            "run", {"prompts": IDS, "edits": [ADD], "record": ["resid_post.1"]},
            {**prompts, "record": ["resid_post.0"], "at": -1, "logits": "last", "grad": True, "batch_tokens": 16}, inert=CUT,
        ),
        "Model.record": method(
            "record", {"prompts": IDS, "sites": ["resid_post.1"]},
            {**prompts, "sites": ["resid_post.2"], "at": -1, "batch_tokens": 16, "grad": True, "progress": False}, inert=CUT,
        ),
        "Model.generate": Ordinary(
            _generated, {"prompts": IDS, "edits": [ADD], "max_new_tokens": 3},
            {"prompts": [40, 41], "edits": [pc.Add(vector(3), 50.0, site="resid_post.2")], "max_new_tokens": 5,
             "seed": Beside(3, {"do_sample": True, "seed": 1, "temperature": 3.0, "max_new_tokens": 8})},
            says=pc.Model.generate,
        ),
        "Model.editing": Ordinary(_edited, {"edits": [ADD]}, {"edits": [TWICE]}),
        "Model.embedding": method("embedding", {"text": 5}, {"text": 6}),
        "Model.token_id": method("token_id", {"text": " he"}, {"text": " she"}),
        "Model.output_id": method("output_id", {"name": " he"}, {"name": " she"}),
        "Model.output_label": method("output_label", {"identity": 5}, {"identity": 6}),
        "Model.prompts": method("prompts", {"inputs": IDS}, {"inputs": OTHER}),
        "Model.batch": method(
            "batch", {"prompts": world.model().prompts(IDS)}, {"prompts": world.model().prompts(OTHER)}),
        "Model.describe": method("describe", {}, {}),
        "Model.identity": method("identity", {}, {}),
        "Model.check_predicts": method("check_predicts", {"ids": IDS}, {"ids": OTHER}, inert={"ids": "a check"}),
        "Model.fingerprint": method("fingerprint", {}, {}),
        "Model.weights_digest": method("weights_digest", {}, {}),
        "Model.weights_version": method("weights_version", {}, {}),
        "Model.look": method("look", {}, {}),
        "Model.stream_sites": method("stream_sites", {}, {}),
        "Model.sweep": method(
            "sweep", {"prompts": IDS, "edit": pc.Add(vector()), **PLACED},
            {"prompts": OTHER, "edit": pc.Zero(), "sites": "mlp_out.2", "at": 1, "read": pc.Logits([5, 6]), "cumulative": True,
             "over": {"scale": [1.0, 2.0]}, "base": [TWICE], **HOW}, inert=CUT,
        ),
        "Model.plan": Ordinary(
            world.model().plan, {"prompts": IDS, "edit": pc.Add(vector()), **PLACED},
            {"prompts": RAGGED, "edit": pc.Call(torch.sin), "sites": "mlp_out.2", "at": "each", "read": pc.Logits([5]), "cumulative": True,
             "over": {"scale": [1.0, 2.0]}, "base": [TWICE], "max_tokens": 64, "strategy": "rows", "budget": "10MB"},
            says=pc.Model.plan,
            inert={**CUT, "read": "the same work", "base": "the same work",
                   "at": "the same work at any one position", "cumulative": "the same rows", "edit": "the same work"},
        ),
        "Model.patch": method(
            "patch", {"source": OTHER, "into": IDS, "sites": "resid_post", "read": pc.Logits([3])},
            {"source": [9, 9, 9, 9, 9], "into": [3, 4, 5, 6, 7], "sites": "resid_post.1", "at": 2, "read": pc.Logits([4]),
             "align": Beside("right", {"source": [6, 17, 8, 9], "align": "left"}), "source_edits": [TWICE], "base": [TWICE],
             "cumulative": True, **HOW},
            inert=CUT,
        ),
        "Model.path_patch": method(
            "path_patch", {"source": OTHER, "into": IDS, "sender": "z.0.h*", "receivers": "mlp_in.2", "read": pc.Logits([3])},
            {"source": [9, 9, 9, 9, 9], "into": [3, 4, 5, 6, 7], "sender": "mlp_out.0", "receivers": "final_norm", "at": 1,
             "receive_at": 2, "freeze": "attn_out", "read": pc.Logits([4]), "align": Beside("right", {"source": [6, 17, 8, 9], "align": "left", "at": 1, "receivers": "v.2", "receive_at": 1}),
             "source_edits": [TWICE], "base": [TWICE], **{k: v for k, v in HOW.items() if k != "strategy"}},
            inert=CUT,
        ),
        "Model.attribution_patch": method(
            "attribution_patch", {"source": OTHER, "into": IDS, "sites": "resid_post", "read": pc.Logits([3]), "check": 2},
            {"source": [9, 9, 9, 9, 9], "into": [3, 4, 5, 6, 7], "sites": "mlp_out", "at": 1, "read": pc.Logits([4]),
             "align": Beside("right", {"source": [6, 17, 8, 9], "align": "left"}), "source_edits": [TWICE], "base": [TWICE],
             "integrate": 3, "check": 5}, inert={"check": "how well the estimate is known"},
        ),
    }  # fmt: skip

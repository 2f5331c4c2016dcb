"""Ordinary calls of everything public here, for the tests of odd and of ignored arguments."""

from typing import Any

import torch

import patchclamp as pc
from tests.fuzz.ordinary import Beside, Fresh, Ordinary
from tests.fuzz.world import IDS, OTHER

d = pc.dictionaries
TOY = d.ToyData.zipf(12, 6, active=2.0, seed=1)
OTHER_TOY = d.ToyData.zipf(12, 6, active=2.0, seed=2)
X, CODES = TOY.sample(300, seed=3)
X2, _ = OTHER_TOY.sample(300, seed=4)
FEW, COEFFICIENTS = TOY.sample(40, seed=5)
DICTIONARY = d.Dictionary(TOY.features, d.OMP(2))
DUPLICATES = d.Dictionary(torch.cat([TOY.features, TOY.features + 0.1 * torch.roll(TOY.features, 1, 0)]), d.OMP(1))
OTHER_DICTIONARY = d.Dictionary(OTHER_TOY.features[:9], d.OMP(3))
HOW = {"checkpoint": "where it is kept", "progress": "how the work is shown"}

ENCODERS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, str]]] = {
    "OMP": ({"k": 2}, {"k": 3, "nonnegative": False, "tolerance": 0.5}, {}),
    "FISTA": ({"penalty": 0.1}, {"penalty": 0.9, "nonnegative": False, "iterations": 1, "tolerance": 0.5}, {}),
    "Threshold": ({"k": 2}, {"k": 3, "value": Beside(0.9, {"k": None, "value": 0.1}), "nonnegative": False}, {}),
    "LinearCoordinates": ({}, {}, {}),
    "NearestAtom": ({}, {}, {}),
    "TopKEncoder": ({"k": 2}, {"k": 3}, {}),
    "BatchTopK": ({"k": 2}, {"k": 3}, {}),
    "MatryoshkaBatchTopK": ({"k": 2}, {"k": 3, "groups": (0.5, 0.5)}, {"groups": "only training has groups"}),
    "ReLU": ({}, {"penalty": 2.0}, {"penalty": "only training has a penalty"}),
    "Gated": ({}, {"penalty": 2.0}, {"penalty": "only training has a penalty"}),
    "JumpReLU": (
        {}, {"target_l0": 3.0, "penalty": 2.0, "bandwidth": 0.1, "initial_threshold": 0.1},
        dict.fromkeys(("target_l0", "penalty", "bandwidth", "initial_threshold"), "only training has it"),
    ),
}  # fmt: skip
SIZES = {"centre": False, "scale": False, "whiten": "zca"}
FITS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, str]]] = {
    "MOD": (
        {"width": 12, "k": 2, "batch_size": 100},
        {"width": 9, "k": 3, "nonnegative": False, "tolerance": 0.5, "batch_size": 50, "passes": 2, "forgetting": 0.1, "damping": 2.0,
         "duplicate": 0.1, "idle": 1, "settle": 1.0, **SIZES, "checkpoint": Fresh(), "random_state": 5},
        {**HOW, "idle": "every atom is used"},
    ),
    "OnlineDictionaryLearning": (
        {"width": 12, "penalty": 0.3, "batch_size": 100},
        {"width": 9, "penalty": 1.0, "nonnegative": False, "iterations": 1, "tolerance": 0.5, "batch_size": 50, "passes": 2, "rho": 0.1, "sweeps": 3,
         **SIZES, "checkpoint": Fresh(), "random_state": 5},
        HOW,
    ),
    "KSVD": ({"width": 8, "k": 2, "iterations": 2}, {"width": 9, "k": 3, "iterations": 1, "rows": 40, "centre": False, "random_state": 5}, {}),
    "PCA": ({"width": 4}, {"width": 3, "rows": 40, "random_state": 5}, {"random_state": "of the solver, which is exact here"}),
    "ICA": ({"width": 4, "max_iter": 3}, {"width": 3, "rows": 40, "max_iter": 1, "tol": 10.0, "random_state": 5}, {}),
    "NMF": ({"width": 4, "max_iter": 3}, {"width": 3, "rows": 40, "max_iter": 1, "tol": 1e9, "random_state": 5}, {"tol": "too few steps to end early"}),
    "KMeans": ({"width": 4}, {"width": 3, "rows": 40, "batch_size": 10, "max_iter": 1, "random_state": 5}, {"max_iter": "it converges at once"}),
    "SGD": (
        {"encoder": d.TopKEncoder(2), "width": 12, "batch_size": 100, "learning_rate": 0.01},
        {"encoder": d.ReLU(0.1), "width": 9, "steps": 2, "learning_rate": 0.1, "batch_size": 50, "passes": 2, "warmup": 1.0, "decay": 0.0, **SIZES,
         "initialisation": "random", "encoder_start": "separate",
         "layer_weight": Beside(torch.eye(6), {"initialisation": "svd", "layer_weight": torch.ones(6, 3) + torch.eye(6)[:, :3]}),
         "noise": Beside(2.0, {"initialisation": "unit"}), "revival": Beside(None, {"revive_every": 1}), "revive_every": 1,
         "recipe": Beside("post", {"encoder": d.ReLU(0.1)}), "dtype": "float64", "selection": "bfloat16", "checkpoint": Fresh(), "progress": False,
         "random_state": 5},
        {**HOW, "selection": "the same latents are chosen", "revival": "no latent dies so soon", "revive_every": "no latent dies so soon"},
    ),
}  # fmt: skip


def ordinary() -> dict[str, Any]:
    found = {}
    for name, (given, other, inert) in ENCODERS.items():
        kind = getattr(d, name)

        def codes(kind: Any = kind, **settings: Any) -> Any:
            return d.Dictionary(TOY.features, kind(**settings)).encode(X)

        found[f"dictionaries.{name}"] = Ordinary(codes, given, other, says=kind, inert=inert)
    for name, (given, other, inert) in FITS.items():
        kind = getattr(d, name)

        def atoms(kind: Any = kind, **settings: Any) -> Any:
            return kind(**settings).fit(X.abs() if kind is d.NMF else X).dictionary_.atoms

        found[f"dictionaries.{name}"] = Ordinary(atoms, given, other, says=kind, inert=inert)
    evaluation = d.evaluate(DICTIONARY, X)
    return found | {
        "dictionaries.agreement": Ordinary(
            lambda **how: d.agreement(DICTIONARY, OTHER_DICTIONARY, **how), {}, {"names": ["a", "b"]}, says=d.agreement
        ),
        "dictionaries.coherence": Ordinary(d.coherence, {"directions": TOY.features}, {"directions": OTHER_TOY.features[:9]}),
        "dictionaries.evaluate": Ordinary(
            d.evaluate, {"dictionary": DICTIONARY, "rows": X},
            {"dictionary": OTHER_DICTIONARY, "rows": X2, "encoder": d.OMP(1),
             "batches": Beside(1, {"rows": pc.ActivationStream.from_array(X, batch_size=100)})},
        ),
        "dictionaries.frontier": Ordinary(
            d.frontier, {"evaluations": {"a": [evaluation]}}, {"evaluations": {"a": [evaluation, d.evaluate(DICTIONARY, X2)]}}
        ),
        "dictionaries.prune": Ordinary(
            d.prune, {"dictionary": DUPLICATES, "X": X},
            {"dictionary": OTHER_DICTIONARY, "X": X2, "duplicate": 1.0, "firing": 0.05, "strength": 0.9},
        ),
        "dictionaries.recovery": Ordinary(
            d.recovery, {"dictionary": DICTIONARY, "truth": TOY, "samples": 50},
            {"dictionary": OTHER_DICTIONARY, "truth": OTHER_TOY, "encoder": d.OMP(1), "samples": 90, "seed": 5,
             "rows": Beside(FEW.flip(0), {"rows": FEW, "coefficients": COEFFICIENTS.dense(), "truth": TOY.features}),
             "coefficients": Beside(COEFFICIENTS.dense().flip(0), {"rows": FEW, "coefficients": COEFFICIENTS.dense(), "truth": TOY.features})},
        ),
        "dictionaries.superposition": Ordinary(
            d.superposition, {"G": 4, "d": 2, "active": [0.5], "seeds": [0], "steps": 4, "points": 2, "batch_size": 8},
            {"G": 5, "d": 3, "active": [1.0], "seeds": [1], "steps": 5, "points": 3, "batch_size": 9, "lr": 0.1},
        ),
        "dictionaries.train": Ordinary(
            lambda **how: d.train(pc.ActivationStream.from_array(X, batch_size=100) if "stream" not in how else how.pop("stream"), **how)[0].atoms,
            {"fits": [d.SGD(d.TopKEncoder(2), width=12)]},
            {"fits": [d.SGD(d.TopKEncoder(3), width=12)], "checkpoint": Fresh(), "checkpoint_every": 1, "progress": False},
            says=d.train, inert={**HOW, "checkpoint_every": "how often it is kept", "stream": "used up by a call"},
        ),
        "Model.activation_stream": Ordinary(
            _streamed, {"corpus": [[*IDS, *OTHER]], "site": "mlp_act.1", "length": 4, "batch_size": 3},
            {"corpus": [[*OTHER, *IDS]], "site": "mlp_act.0", "length": 5, "tokens": 6, "pack": False, "skip_special": False, "batch_size": 2, "passes": 2,
             "shuffle": False, "buffer": 2, "seed": 5, "batch_tokens": 4},
            says=pc.Model.activation_stream, inert={"batch_tokens": "the memory knob", "pack": "of one text that fits"},
        ),
    }  # fmt: skip


def _streamed(**how: Any) -> Any:
    from tests.fuzz import world

    stream = world.model().activation_stream(**how)
    batches = [next(iter(stream)) for _ in range(2)]
    return [*(batch.rows for batch in batches), stream.remaining]


def test_everything_public_has_a_line() -> None:
    assert {name.removeprefix("dictionaries.") for name in ordinary()} >= {*ENCODERS, *FITS}

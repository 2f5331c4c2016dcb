"""Values of every class that a user might pass for a parameter, by accident or from another library."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

Draw = Callable[[random.Random, Any], Any]
"""A value of a class, drawn beside an ordinary one."""


def _typed(rng: random.Random, text: str) -> str:
    place = rng.randrange(max(1, len(text)))
    return rng.choice(
        [
            text[:place] + text[place + 1 :] + "x",
            text + " ",
            text.upper() + "S",
            text + rng.choice("._-:sx"),
            "x" + text,
        ]
    )


def _near(rng: random.Random, ordinary: Any) -> Any:
    if isinstance(ordinary, str):
        return _typed(rng, ordinary)
    if isinstance(ordinary, list | tuple) and ordinary and isinstance(ordinary[0], str):
        return [_typed(rng, ordinary[0]), *ordinary[1:]]
    return rng.choice(
        [str(ordinary)[:20], "5", "last ", "resid_pst.1", "True", "1e3", "None", "auto", "yes", "\x00", "é" * 40]
    )


def _tensor(rng: random.Random, ordinary: Any) -> Any:
    shape = rng.choice([(), (1,), (3,), (31,), (32,), (33,), (1, 32), (2, 32), (32, 2), (2, 3, 32), (0, 32), (5, 0)])
    plain = torch.randn(shape, generator=torch.Generator().manual_seed(rng.randrange(99)), dtype=torch.float64)
    kinds = [
        lambda: plain, lambda: plain.float(), lambda: plain.half(), lambda: plain.to(torch.bfloat16), lambda: plain.to(torch.complex64),
        lambda: (10 * plain).long(), lambda: plain > 0, lambda: plain.to("meta"), lambda: plain.requires_grad_(), lambda: plain.numpy(),
        lambda: plain.to_sparse(), lambda: plain.to(torch.uint8),
    ]  # fmt: skip
    if isinstance(ordinary, torch.Tensor):
        kinds += [
            lambda: ordinary[..., :-1], lambda: ordinary.unsqueeze(0), lambda: ordinary.float(), lambda: ordinary.long(), lambda: ordinary.to("meta"),
            lambda: ordinary.flatten()[:1], lambda: ordinary.half(), lambda: ordinary.to(torch.complex128), lambda: torch.zeros_like(ordinary),
        ]  # fmt: skip
    return rng.choice(kinds)()


def _with_nan(rng: random.Random, ordinary: Any) -> Any:
    bad = rng.choice([float("nan"), float("inf"), -float("inf")])
    if isinstance(ordinary, torch.Tensor) and ordinary.is_floating_point() and ordinary.numel():
        new = ordinary.clone()
        new.flatten()[rng.randrange(new.numel())] = bad
        return new
    if isinstance(ordinary, list | tuple) and ordinary:
        return [*ordinary[:-1], bad]
    return rng.choice(
        [torch.full((32,), bad, dtype=torch.float64), [bad], np.array([bad, 1.0]), {"scale": [bad]}, {1: bad}]
    )


def _prompt(rng: random.Random, ordinary: Any) -> Any:
    del ordinary
    return rng.choice([
        [True, False], [-1], [97], [10**9], [10**30], [1.5, 2.5], ["5"], [[5], []], [[]], [5, None], [None], [[5, 6], 7], [5, [6]], [5, "he"],
        {}, {"input_ids": [5, 6]}, {"input_ids": torch.tensor([[5, 6]]), "attention_mask": torch.zeros(1, 2)}, {"input_ids": torch.ones(1, 2)},
        {"input_ids": torch.tensor([[5, 6]]), "attention_mask": torch.ones(1, 3)}, {"ids": [5]}, {"input_ids": None}, {"input_ids": "he"},
        {"input_ids": torch.tensor([[5, 6]]), "labels": torch.tensor([[5, 6]])}, {"input_ids": torch.tensor([[5, 6]]), "pixel_values": torch.ones(1, 3, 2, 2)},
        {"input_ids": torch.tensor([[5, 6, 7]]), "attention_mask": torch.tensor([[1, 0, 1]])}, torch.tensor(5), torch.ones(2, 3, dtype=torch.bool),
        torch.tensor([[[5, 6]]]), np.array([5, 6]), [np.int64(5), np.int64(6)], [np.array([5, 6])], "", " ", "zzz", ["he", [5, 6]], [[5] * 65], [5] * 64,
        {"inputs_embeds": torch.ones(1, 2, 32, dtype=torch.float64)}, [torch.tensor([5, 6]), torch.tensor([7])], (5, 6), range(5, 8), {5, 6}, iter([5, 6]),
        torch.randn(3, 3, dtype=torch.float64), torch.full((2, 3), torch.nan), [torch.randn(3)], torch.randn(2, 4), torch.zeros(0, 3),
    ])  # fmt: skip


def _several(rng: random.Random, ordinary: Any) -> Any:
    return rng.choice(
        [[ordinary], [ordinary] * 2, [ordinary] * 5, (ordinary,), [[ordinary]], {"a": ordinary}, {0: ordinary}]
    )


def _generator(rng: random.Random, ordinary: Any) -> Any:
    items = list(ordinary) if isinstance(ordinary, list | tuple) else [ordinary]
    return rng.choice(
        [
            lambda: (i for i in items),
            lambda: iter(items),
            lambda: map(lambda i: i, items),
            lambda: zip(items, items, strict=True),
        ]
    )()


CLASSES: dict[str, Draw] = {
    "zero": lambda rng, _: rng.choice([0, 0.0, -0.0, np.int64(0), torch.zeros(()), [0], [0.0]]),
    "negative": lambda rng, _: rng.choice([-1, -2, -7, -0.5, -100, -(10**6), [-1], [-5, 2], -1e-9]),
    "huge": lambda rng, _: rng.choice([10**6, 10**9, 2**31, 2**63, 10**30, 1e20, 1e300, -(10**20), -(2**63), [2**70], [1e308, 1e308]]),
    "not finite": lambda rng, _: rng.choice([float("nan"), float("inf"), -float("inf"), np.float64("nan"), torch.tensor(float("nan"))]),
    "NaN inside": _with_nan,
    "empty": lambda rng, _: rng.choice([[], (), "", {}, torch.empty(0), np.array([]), slice(0, 0), set(), [[]], torch.empty(0, 32)]),
    "wrong type": lambda rng, _: rng.choice([
        object(), lambda: 0, {1: 2}, b"bytes", 3 + 4j, {1}, range(3), int, ..., NotImplemented, slice(None), ValueError("x"), torch.nn.ReLU(), torch.float32, 1.5, "text",
    ]),
    "none": lambda rng, _: rng.choice([None, [None], (None, None)]),
    "near": _near,
    "tensor": _tensor,
    "bool": lambda rng, _: rng.choice([True, False, np.True_, [True], [True, False]]),
    "numpy": lambda rng, _: rng.choice([np.int64(2), np.int8(1), np.float32(0.5), np.float64(2.0), np.array([1, 2]), np.array(3), np.array("a"), np.str_("last"), np.array([[1.0]])]),
    "generator": _generator,
    "several": _several,
    "small": lambda rng, _: rng.choice([1, 2, 3, 5, 1.0, 0.25, [1, 2], [2], 1e-12, 1e-300]),
    "prompt": _prompt,
}  # fmt: skip

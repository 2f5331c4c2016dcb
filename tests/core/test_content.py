"""A thing is known by what decides what it does: equal things made twice have one digest, and any difference another one."""

import functools
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import patchclamp as pc
from patchclamp.core.content import Given, content
from tests import tiny

FACTOR = 2.0


def digest_of(value: Any) -> str:
    return content(value, "it")


class Half(nn.Module):
    """A module with every kind of thing that decides a number."""

    def __init__(self, **changed: Any) -> None:
        super().__init__()
        usual = {
            "weight": 1.0,
            "kept": 1.0,
            "lost": 1.0,
            "plain": 1.0,
            "factor": 0.5,
            "names": ("a", "b"),
            "function": torch.tanh,
        }
        for name, value in {**usual, **changed}.items():
            if name == "weight":
                self.weight = nn.Parameter(torch.tensor([value, 2.0]))
            elif name in ("kept", "lost"):
                self.register_buffer(name, torch.tensor([value]), persistent=name == "kept")
            else:
                setattr(self, name, torch.tensor(value) if name == "plain" else value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x) * self.factor


def scaled(by: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def scale(x: torch.Tensor) -> torch.Tensor:
        return x * by

    return scale


def reading_a_global(x: torch.Tensor) -> Any:
    return sum(FACTOR * row for row in x)


def class_of(body: str) -> type:
    """A class as a notebook defines it, again and again under one name."""
    there: dict[str, Any] = {"nn": nn, "__name__": "__main__"}
    exec(f"class Cell(nn.Module):\n    bias = 1\n    def forward(self, x):\n        {body}\n", there)
    found: type = there["Cell"]
    return found


def hooked(by: float) -> nn.Module:
    module = nn.Linear(2, 2)
    nn.init.ones_(module.weight)
    nn.init.ones_(module.bias)
    module.register_forward_hook(lambda _, __, out: out * by)
    return module


def replaced(by: float | None) -> nn.Module:
    """A module whose method was replaced on the object."""
    module = Half()
    if by is not None:
        module.forward = lambda x: x * by  # type: ignore[method-assign]
    return module


@dataclass
class Sizes:
    width: int
    name: str = "a"


DIFFER: dict[str, list[Callable[[], Any]]] = {
    "numbers": [lambda: 1, lambda: 1.0, lambda: True, lambda: "1", lambda: b"1", lambda: None, lambda: 1j, lambda: np.float32(1)],
    "tensors": [
        lambda: torch.ones(4), lambda: torch.ones(2, 2), lambda: torch.ones(4).double(), lambda: torch.zeros(4),
        lambda: np.ones(4), lambda: np.ones(4, "f4"), lambda: torch.eye(2).to_sparse(), lambda: torch.eye(2) * 2,
    ],
    "long arrays": [lambda: np.arange(5000), lambda: np.where(np.arange(5000) == 2500, 0, np.arange(5000))],
    "containers": [
        lambda: [1, 2], lambda: (1, 2), lambda: [2, 1], lambda: {1, 2}, lambda: {1: 2}, lambda: {2: 1}, lambda: [[1], 2],
        lambda: OrderedDict([(1, 2)]), lambda: {1: 2, 2: 1}, lambda: {2: 1, 1: 2}, lambda: range(3), lambda: slice(1, 2),
    ],
    "modules": [
        Half, lambda: Half(weight=1.5), lambda: Half(kept=2.0), lambda: Half(lost=2.0), lambda: Half(plain=2.0),
        lambda: Half(factor=0.25), lambda: Half(names=("a", "c")), lambda: Half(function=torch.relu), lambda: Half().train(False),
        lambda: Half(function=scaled(2.0)), lambda: Half(function=scaled(3.0)), lambda: replaced(2.0), lambda: replaced(3.0),
    ],
    "library modules": [
        lambda: nn.LayerNorm(3), lambda: nn.LayerNorm(3, eps=1e-3), lambda: nn.ReLU(), lambda: nn.GELU(),
        lambda: nn.GELU("tanh"), lambda: nn.Sequential(nn.ReLU(), nn.GELU()), lambda: nn.Sequential(nn.GELU(), nn.ReLU()),
    ],
    "hooks": [lambda: hooked(1.0), lambda: hooked(2.0)],
    "classes of one name": [lambda: class_of("return x")(), lambda: class_of("return x * self.bias")(), lambda: class_of("return -x")()],
    "subspaces": [lambda: pc.Subspace(4, 2), lambda: pc.Subspace(4, 2, seed=1), lambda: pc.Subspace(4, 1)],
    "functions": [
        lambda: scaled(2.0), lambda: scaled(3.0), lambda: torch.relu, lambda: torch.tanh, lambda: functools.partial(torch.clamp, min=0),
        lambda: functools.partial(torch.clamp, min=1), lambda: (lambda x: x + 1), lambda: (lambda x: x + 2), lambda: (lambda x, y=2: x),
        lambda: functools.wraps(torch.relu)(lambda x: x), lambda: torch.vmap(torch.relu, 0), lambda: torch.vmap(torch.relu, 1),
        lambda: Half().double, lambda: nn.Linear(1, 1, bias=False).requires_grad_,
    ],
    "objects": [
        lambda: Sizes(1), lambda: Sizes(2), lambda: SimpleNamespace(width=1), lambda: SimpleNamespace(width=2),
        lambda: SimpleNamespace(table=torch.ones(2)), lambda: SimpleNamespace(table=torch.zeros(2)),
    ],
    "vouched for": [lambda: pc.known_as(scaled(2.0), "one"), lambda: pc.known_as(scaled(2.0), "two")],
}  # fmt: skip


@pytest.mark.parametrize("kind", DIFFER)
def test_what_differs_has_another_digest_and_what_is_made_again_the_same(kind: str) -> None:
    with torch.random.fork_rng():
        found = []
        for make in DIFFER[kind]:
            torch.manual_seed(0)
            first = digest_of(make())
            torch.manual_seed(0)
            assert digest_of(make()) == first, "the first is gone, and the second may even lie in its place"
            found.append(first)
    assert len(set(found)) == len(found)


def test_a_vouched_function_is_known_by_its_name_alone() -> None:
    one, other = pc.known_as(scaled(2.0), "scaled"), pc.known_as(scaled(3.0), "scaled")
    assert digest_of(one) == digest_of(other)
    assert one(torch.ones(1)) == 2.0
    assert one.__name__ == "scale"
    for wrong, said in (("", "needs a name"), ("  ", "needs a name"), (3, "name=3 cannot be used; valid: text")):
        with pytest.raises(pc.InputError, match=said):
            pc.known_as(scaled(2.0), wrong)  # type: ignore[arg-type]
    with pytest.raises(pc.InputError, match="function=3 cannot be used; valid: a function"):
        pc.known_as(3, "three")  # type: ignore[arg-type]


def test_code_is_known_by_the_globals_it_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest_of(reading_a_global)
    assert digest_of(reading_a_global) == before
    monkeypatch.setitem(globals(), "FACTOR", 3.0)
    assert digest_of(reading_a_global) != before


def test_a_library_that_somebody_has_changed_is_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.shared("llama")
    before = digest_of(model)
    norm = type(model.model.norm)
    monkeypatch.setattr(norm, "forward", lambda self, x: x)
    replaced = digest_of(model)
    monkeypatch.undo()
    assert digest_of(model) == before != replaced
    monkeypatch.setattr(f"{norm.__module__}.rotate_half", lambda x: x)
    assert digest_of(model) not in (before, replaced)


def test_a_notebook_class_with_a_method_that_names_itself_has_a_digest() -> None:
    class Loop(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if isinstance(self, Loop) else super().forward(x)

    loop = Loop()
    loop.itself = [loop]
    assert digest_of(loop) == digest_of(loop)


def test_notes_and_what_grows_while_a_model_runs_decide_nothing() -> None:
    model = tiny.build("llama")
    before = digest_of(model)
    model.config._name_or_path, model.config.transformers_version = "elsewhere", "9.9"
    model.model.rotary_emb.max_seq_len_cached = 10**6
    assert digest_of(model) == before
    model.config.hidden_act = "relu"
    assert digest_of(model) != before
    mine = Half()
    before = digest_of(mine)
    mine.dtype = torch.float16  # type: ignore[assignment]
    assert digest_of(mine) != before, "of the user's own modules every attribute counts"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Half(lock=threading.Lock()), r"it\.lock holds 'lock'"),
        (lambda: Half(rows=(x for x in [1])), r"it\.rows holds 'generator'"),
        (lambda: {"deep": [Half(lock=threading.Lock())]}, r"it\['deep'\]\[0\]\.lock"),
        (lambda: torch.empty(2, device="meta"), "holds 'Tensor'"),
    ],
)
def test_what_has_no_content_is_named(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(pc.InputError, match=message):
        digest_of(make())
    assert digest_of(Half(log=logging.getLogger("a"))) != digest_of(Half(log=logging.getLogger("b")))


@pytest.mark.parametrize(
    "make",
    [
        lambda: scaled(2.0), lambda: (lambda x: x), lambda: Half().forward, lambda: functools.partial(scaled(2.0)),
        lambda: torch.no_grad()(scaled(2.0)), lambda: functools.lru_cache(scaled(2.0)),
        lambda: functools.wraps(torch.relu)(scaled(2.0)), lambda: torch.vmap(scaled(2.0)),
    ],
)  # fmt: skip
def test_a_function_given_in_place_of_something_built_in_is_refused(make: Callable[[], Any]) -> None:
    function = make()
    with pytest.raises(pc.InputError, match=r"the function '.*' \(here\).*pass a module.*pc\.known_as\("):
        digest_of(Given(function, "here", "a module"))
    assert digest_of(Given(pc.known_as(function, "f"), "here", "a module"))
    for known in (torch.relu, functools.partial(torch.clamp, min=0), Half(), nn.functional.gelu):
        assert digest_of(Given(known, "here", "a module")) == digest_of(Given(known, "here", "a module"))


@given(
    st.recursive(
        st.integers() | st.floats(allow_nan=False) | st.text() | st.none(),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x),
    )
)
def test_plain_values_have_one_digest_if_and_only_if_they_read_the_same(value: Any) -> None:
    copied = eval(repr(value), {"inf": float("inf")})
    assert digest_of(value) == digest_of(copied)
    assert digest_of(value) != digest_of([value])
    assert digest_of([value, 0]) != digest_of([0, value]) or repr(value) == "0"

"""Ctrl-C at any line leaves nothing behind: no hook, no replaced forward, no mode of torch, no handler."""

import dis
import signal
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest
import torch

import patchclamp as pc
from patchclamp.core.progress import Progress
from tests import tiny
from tests.effort import FULL
from tests.traces import no_trace

OURS = ("core/interrupts.py", *(f"interventions/{name}.py" for name in (
    "hooks", "forward", "stepping", "generate", "wavefront", "head", "execute", "verification", "record", "run", "overflow",
)))  # fmt: skip
THEIRS = (
    "contextlib.py",
    "torch/autograd/grad_mode.py",
    "torch/utils/hooks.py",
    "torch/random.py",
    "torch/overrides.py",
)
IDS = tiny.ids(1, 6)
OTHER = tiny.ids(1, 6, seed=1)
DIFFERENCE: dict[str, Any] = {"read": pc.LogitDifference(5, 6), "sites": "resid_post.1"}
V = torch.ones(32, dtype=torch.float64)


@cache
def watched(code: CodeType) -> bool:
    name = code.co_filename
    return name.endswith(THEIRS) or ("patchclamp/" in name and name.endswith(OURS))


@cache
def never_looked_at(code: CodeType) -> frozenset[int]:
    """Instructions between the end of a ``with`` block and the call of ``__exit__``: Python looks for no signal there."""
    found, steps = set(), list(dis.get_instructions(code))
    for three in zip(steps, steps[1:], steps[2:], strict=False):
        if all(step.opname == "LOAD_CONST" and step.argval is None for step in three):
            found |= {step.offset for step in three}
    return frozenset(found)


class AtLine:
    """Sends the signal at one line that is executed; with ``at=None`` counts them, by the line and how often it came."""

    def __init__(self, at: tuple[str, int, int] | None) -> None:
        self.at = at
        self.lines: dict[tuple[str, int], int] = {}
        self.sent = False

    def __call__(self, frame: FrameType, event: str, _: object) -> Any:
        if not watched(frame.f_code):
            return None
        if event == "line" and frame.f_lasti not in never_looked_at(frame.f_code):
            place = frame.f_code.co_filename, frame.f_lineno
            self.lines[place] = count = self.lines.get(place, 0) + 1
            if self.at == (*place, count):
                sys.settrace(None)
                self.sent = True
                signal.raise_signal(signal.SIGINT)
        return self

    def run(self, work: Callable[[], object]) -> None:
        before = sys.gettrace()
        sys.settrace(self)
        try:
            work()
        finally:
            sys.settrace(before)


@pytest.fixture(autouse=True)
def _heard() -> Iterator[None]:
    """Python's own handler, also where the process that runs the tests ignores the signal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@cache
def llama() -> pc.Model:
    return pc.wrap(tiny.shared("llama"))


def edited_call() -> None:
    model = llama()
    with model.editing(pc.Add(V, site="mlp_out.1", at=-1)):
        model.module(torch.tensor(IDS))


def sweep(**more: Any) -> None:
    edit = pc.Call(lambda x: 2 * x) if more.pop("opaque", False) else pc.Scale(2.0)
    llama().sweep(IDS, edit, **{"sites": ["mlp_out.1", "resid_post.0"], "at": [1, 4], "read": pc.KL(), **more})


CALLS: dict[str, Callable[[], object]] = {
    "run": lambda: llama().run(IDS, pc.Add(V, site="mlp_out.1", at=-1), record="resid_post", logits="last"),
    "run with gradients": lambda: llama().run(IDS, pc.Scale(2.0, site="attn_out"), grad=True),
    "record": lambda: llama().record(IDS, ["resid_post", "z.1.h2"], at="last"),
    "generate": lambda: llama().generate(
        IDS, pc.Add(V, site="mlp_out.1", at="generated"), max_new_tokens=3, do_sample=True, seed=1
    ),
    "editing": edited_call,
    "sweep": sweep,
    "sweep of rows": lambda: sweep(opaque=True, at=-1),
    "patch": lambda: llama().patch(IDS, OTHER, at=[1, 2], **DIFFERENCE),
    "attribution": lambda: llama().attribution_patch(IDS, OTHER, check=0, **DIFFERENCE),
    "lens": lambda: llama().lens(IDS),
}


def lines_of(name: str) -> list[tuple[str, int, int]]:
    """The lines that a call executes, each the first or the last time; in the short form a few of them."""
    CALLS[name]()
    counter = AtLine(None)
    counter.run(CALLS[name])
    places = [(*place, count if number % 2 else 1) for number, (place, count) in enumerate(counter.lines.items())]
    if (
        name == "editing"
    ):  # the call is the user's own: what transformers wraps in torch's no_grad there is torch's to take back
        places = [place for place in places if not place[0].endswith("grad_mode.py")]
    return places if FULL else places[sum(map(ord, name)) % 7 :: len(places) // 4]


IN_SHORT = ("run", "generate", "editing", "sweep")


@pytest.mark.parametrize(
    "name", [name if name in IN_SHORT else pytest.param(name, marks=pytest.mark.slow) for name in CALLS]
)
def test_an_interrupt_at_any_line_leaves_nothing(name: str) -> None:
    model = llama()
    handler, modes = signal.default_int_handler, torch.overrides._len_torch_function_stack()
    places = lines_of(name)
    for place in places:
        trace = AtLine(place)
        with no_trace(model.module):
            try:
                trace.run(CALLS[name])
            except KeyboardInterrupt:
                assert trace.sent
            else:
                assert not trace.sent, f"the interrupt at {place} was swallowed"
            assert signal.getsignal(signal.SIGINT) is handler, place
            assert torch.overrides._len_torch_function_stack() == modes, place


def test_an_interrupt_while_torch_has_a_mode_off_its_stack_leaves_the_stack_as_it_was() -> None:
    """torch takes the mode of float32 logits off and puts it back around each function, in Python, where a signal can come."""
    counter = AtLine(None)
    counter.run(CALLS["lens"])
    code = torch.overrides._pop_mode_temporarily.__wrapped__.__code__  # type: ignore[attr-defined]
    numbers = {line for _, _, line in code.co_lines()} - {code.co_firstlineno}
    places = [(*place, 1) for place in counter.lines if place[0] == code.co_filename and place[1] in numbers]
    assert len(places) >= 3
    for place in places:
        with no_trace(llama().module), pytest.raises(KeyboardInterrupt):
            AtLine(place).run(CALLS["lens"])
        assert torch.overrides._len_torch_function_stack() == 0, place


def test_an_interrupted_sweep_goes_on_from_its_checkpoint_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    """Interrupted again and again, each time further on, from what the last interrupt left."""

    def kept(folder: str) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()}

    def work(folder: str, stop: float) -> None:
        def told(event: Progress) -> None:
            if event.done > stop and not event.finished:
                signal.raise_signal(signal.SIGINT)

        sweep(checkpoint=tmp_path / folder, max_tokens=6, at="each", progress=told)

    work("whole", float("inf"))
    whole, held = kept("whole"), 0
    assert len(whole) > 3
    for stop in (3, 9):
        with pytest.raises(KeyboardInterrupt) as error:
            work("cut", stop)
        assert error.value.__notes__ == [
            f"what was finished is kept in {str(tmp_path / 'cut')!r}, and the same call goes on from there"
        ]
        assert held < len(kept("cut")) < len(whole)
        held = len(kept("cut"))
        assert kept("cut").items() <= whole.items()
    work("cut", float("inf"))
    assert kept("cut") == whole

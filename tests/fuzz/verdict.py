"""Whether a call with an odd value ended well: refused by name, or with a result that can be right."""

import resource
import signal
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

import patchclamp as pc
from tests.fuzz.ordinary import Ordinary
from tests.fuzz.outcome import broken, same

SECONDS, BYTES = 20, 3 << 30
CARRIED = ("labels",)
"""What a result shows as it was given."""
PADDED = {
    ("Model.lens", "prompts"): "the last token of a prompt has no next one",
    ("Model.lens", "at"): "the last token of a prompt has no next one",
    ("Model.lens_curves", "at"): "the last token of a prompt has no next one",
    ("Model.patchscope", "prompts"): "a prompt of one token has no next one",
    ("Model.patchscope", "at"): "the last token of a prompt has no next one",
    ("Model.run", "prompts"): "prompts of unequal length are padded",
    ("Model.neuron_importances", "samples"): "one sample has no interval",
    ("Model.head_scores", "samples"): "one passage has no standard error",
    ("Model.cluster", "inputs"): "fewer distinct points than clusters have no numbers",
    ("Model.adversarial_paths", "seed"): "points without an adversarial example have no path",
    ("polytopes.cluster", "k"): "an algorithm with fewer clusters has no numbers of the others",
    ("Model.cluster", "k"): "an algorithm with fewer clusters has no numbers of the others",
}
"""Where NaN says that there is nothing, with the reason."""


class TooLongError(BaseException):
    """The call did not end."""


@contextmanager
def bounded() -> Iterator[None]:
    """Bound the processor seconds and the memory of a call."""

    def stop(*_: Any) -> None:
        raise TooLongError

    before = signal.signal(signal.SIGPROF, stop)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + BYTES, limits[1]))
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        resource.setrlimit(resource.RLIMIT_AS, limits)


def judged(line: Ordinary, parameter: str, value: Any, folder: Path, usual: Any, name: str = "") -> tuple[str, str]:
    """What kind of end a call with one odd value came to, and what was said: "refused", "right", or a finding.

    Findings are "raw" (an error that is not patchclamp's, nor raised in the user's own function), "endless" (it did not end in time), "unnamed" (refused without a word
    of the value), "broken" (NaN or infinite without a warning) and "ignored" (the odd value changed nothing).
    """
    with warnings.catch_warnings(record=True) as said, bounded():
        warnings.simplefilter("always")
        try:
            result = line(folder, **{parameter: value})
        except pc.PatchclampError as error:
            return ("refused" if names(str(error), parameter, value) else "unnamed"), f"{type(error).__name__}: {error}"
        except TooLongError:
            return "endless", f"more than {SECONDS} processor seconds"
        except Exception as error:
            if _is_users(error, value):
                return "own", f"{type(error).__name__}: {error}"
            places = [frame for frame in traceback.extract_tb(error.__traceback__) if "/patchclamp/" in frame.filename]
            where = f"{Path(places[-1].filename).name}:{places[-1].lineno}" if places else "at the door"
            return "raw", f"{type(error).__name__}: {str(error)[:200]} ({where})"
        warned = any(issubclass(one.category, UserWarning) for one in said)
        if (
            parameter not in CARRIED
            and (name, parameter) not in PADDED
            and broken(result) > broken(usual)
            and not warned
        ):
            return "broken", f"{broken(result):.0%} of the numbers are NaN or infinite"
        if parameter not in line.inert and not warned and same(result, usual):
            return "same", "the result is that of the ordinary call"
    return "right", ""


def _is_users(error: BaseException, value: Any) -> bool:
    """Whether an error arose in a function that the user passed: one of the tables, or a module that is called."""
    frames = traceback.extract_tb(error.__traceback__)
    doors = [
        number
        for number, frame in enumerate(frames)
        if "/patchclamp/" in frame.filename and "/tests/" not in frame.filename
    ]
    inside = [frame.filename for frame in frames[doors[-1] + 1 :]] if doors else []
    return any(
        "/tests/fuzz/" in name or (isinstance(value, torch.nn.Module) and "/nn/modules/" in name) for name in inside
    )


def names(message: str, parameter: str, value: Any) -> bool:
    """Whether a message says which value it is about."""
    shown = [repr(value), str(value), type(value).__name__, parameter, parameter.rstrip("s")]
    if isinstance(value, torch.Tensor | np.ndarray):
        shown += [
            str(tuple(value.shape)),
            str(value.dtype),
            *map(str, value.shape[-1:]),
            "NaN",
            "finite",
            "device",
            "shape",
        ]
    if isinstance(value, list | tuple | dict | set):
        shown += ["empty", "no ", str(len(value))]
        shown += [text for item in list(value)[:6] for text in (repr(item), str(item), type(item).__name__)]
    if isinstance(value, float | np.floating):
        shown += ["NaN", "finite", f"{value:g}"]
    if value is None or (isinstance(value, str) and not value.strip()):
        shown += ["need", "no ", "empty", "none"]
    return any(text and text.lower() in message.lower() for text in shown)

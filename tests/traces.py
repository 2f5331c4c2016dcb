"""What must be the same after every call: hooks, gradient flags, mode, weights, attributes, random and global state."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_PLAIN = (bool, int, float, complex, str, bytes, torch.dtype, torch.device, type)


class Same:
    """An object that is compared by identity, and kept alive so that no other one takes its place."""

    def __init__(self, held: object) -> None:
        self.held = held

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other.held is self.held

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Same({type(self.held).__name__} {id(self.held):#x})"


def described(value: Any, depth: int = 3) -> Any:
    """What of a value a call could change: plain values themselves, containers by content, other objects by identity.

    A configuration (anything of transformers with a ``to_dict``) is looked into; a tensor is the same if it is the same
    object with the same storage, version, gradient and gradient flag.
    """
    if value is None or isinstance(value, _PLAIN):
        return value
    if isinstance(value, Tensor):
        return (
            Same(value),
            value.data_ptr(),
            value._version,
            value.requires_grad,
            Same(value.grad) if value.is_leaf else None,
        )
    if depth and isinstance(value, Mapping):
        return [(key, described(item, depth - 1)) for key, item in value.items()]
    if depth and isinstance(value, list | tuple):
        return [described(item, depth - 1) for item in value]
    if isinstance(value, set | frozenset):
        return frozenset(value)
    if depth and hasattr(value, "to_dict") and not isinstance(value, nn.Module):
        return Same(value), described(vars(value), depth - 1)
    return Same(value)


def fingerprint(module: nn.Module) -> dict[str, object]:
    """Everything about a module that a call could leave changed: each attribute of each of its modules, by its path.

    The attributes hold the hooks, the parameters and buffers (with their gradients), the mode, the configuration, and what
    an instance has of its own in place of its class (accelerate sets a ``forward``). Python's own random state is left out:
    the checks of types at run time draw from it.
    """
    known: dict[int, object] = {}
    found: dict[str, object] = {}
    for path, part in module.named_modules():
        for name, value in vars(part).items():
            if hasattr(value, "to_dict"):  # one configuration is shared by many modules
                if id(value) not in known:
                    known[id(value)] = described(value)
                found[f"{path}.{name}"] = known[id(value)]
            else:
                found[f"{path}.{name}"] = described(value)
    return found | {
        "torch's random state": torch.random.get_rng_state().tolist(),
        "numpy's random state": str(np.random.get_state()),  # noqa: NPY002
        "torch's settings": (torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()),
    }


@contextmanager
def passes(module: nn.Module) -> Iterator[list[int]]:
    """A list that gets an item at every forward pass of the module inside the block."""
    calls: list[int] = []
    handle = module.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        yield calls
    finally:
        handle.remove()


@contextmanager
def no_trace(module: nn.Module) -> Iterator[None]:
    """Assert that the block leaves the module as it was, also if it raises."""
    before = fingerprint(module)
    try:
        yield
    finally:
        after = fingerprint(module)
        changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        changed += sorted(name for name in before.keys() ^ after.keys() if name not in changed)
        assert not changed, f"{changed[:5]} changed"

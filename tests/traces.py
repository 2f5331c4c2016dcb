"""What must be the same after every call: hooks, gradient flags, mode, weights, random state."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def fingerprint(module: nn.Module) -> dict[str, object]:
    """Everything about a module that a call could leave changed."""
    return {
        "hooks": {
            name: (tuple(m._forward_hooks), tuple(m._forward_pre_hooks), tuple(m._backward_hooks))
            for name, m in module.named_modules()
        },
        "attributes": {name: sorted(k for k in vars(m) if not k.startswith("_")) for name, m in module.named_modules()},
        "requires_grad": {name: p.requires_grad for name, p in module.named_parameters()},
        "grad": {name: p.grad is None for name, p in module.named_parameters()},
        "training": {name: m.training for name, m in module.named_modules()},
        "weights": {name: (t.data_ptr(), t._version) for name, t in module.state_dict().items()},
        "rng": torch.random.get_rng_state().tolist(),
    }


@contextmanager
def no_trace(module: nn.Module) -> Iterator[None]:
    """Assert that the block leaves the module as it was, also if it raises."""
    before = fingerprint(module)
    try:
        yield
    finally:
        after = fingerprint(module)
        for part, value in before.items():
            assert after[part] == value, f"{part} changed"

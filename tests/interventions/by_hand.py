"""Edits written out with PyTorch's own hooks: the independent witness of what an edit means."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

Change = Callable[[Tensor], Tensor]


def run(module: nn.Module, ids: list[int], changes: list[tuple[str, str, Change]]) -> Tensor:
    """Logits ``[position, vocabulary]`` of one prompt with some modules' inputs or outputs changed by hand."""
    with ExitStack() as stack, torch.no_grad():
        for path, side, change in changes:
            stack.callback(hook(module.get_submodule(path), side, change).remove)
        logits: Tensor = module(torch.tensor([ids])).logits[0]
    return logits


def hook(target: nn.Module, side: str, change: Change) -> Any:
    """Register a change of a module's main input or output."""

    def after(_: nn.Module, __: Any, output: Any) -> Any:
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    def before(_: nn.Module, args: Any, kwargs: Any) -> Any:
        if args:
            return (change(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}

    return (
        target.register_forward_hook(after)
        if side == "out"
        else target.register_forward_pre_hook(before, with_kwargs=True)
    )


def at(position: int, function: Change) -> Change:
    """Change one position of ``[batch, position, d]``."""

    def change(x: Tensor) -> Tensor:
        new = x.clone()
        new[:, position] = function(x[:, position])
        return new

    return change

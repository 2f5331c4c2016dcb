"""Models that cannot be used as they are: refused by name, before any work, and never changed."""

from typing import Any

import torch
from torch import nn

from patchclamp.core.errors import ModelError

_QUANTISED = ("quantized", "bitsandbytes", "bnb", "gptq", "awq", "hqq", "torchao")

_SCRIPTED = (torch.jit.ScriptFunction, torch._C.ScriptMethod)


def check_kind(module: Any) -> None:
    """Refuse what can never be hooked exactly: not a module, compiled, scripted, quantised, spread over devices.

    Raises:
        ModelError: With the reason and what to do instead.
    """
    if not isinstance(module, nn.Module):
        raise ModelError(f"a torch.nn.Module is needed, got {type(module).__name__}")
    check_eager(module)
    quantised_module = next((m for m in module.modules() if any(q in type(m).__module__ for q in _QUANTISED)), None)
    if quantised_module is not None or getattr(module, "is_quantized", False):
        what = type(quantised_module).__name__ if quantised_module is not None else "its config"
        raise ModelError(
            f"this model is quantised ({what}): its kernels give other numbers for other batch sizes, so no sweep of it "
            "could be exact; load it with dtype='bfloat16' or 'float32'"
        )
    devices = {str(parameter.device) for parameter in module.parameters()}
    if "meta" in devices:
        raise ModelError(
            "some weights are offloaded or were never loaded (device 'meta'); load the whole model on one device"
        )
    if len(devices) > 1:
        raise ModelError(
            f"the model is spread over {sorted(devices)}; patchclamp needs it on one device: device_map={{'': 0}}"
        )


def check_eager(module: nn.Module, *, again: bool = False) -> None:
    """Refuse a model of which some part is compiled, in whichever way, or TorchScript.

    Args:
        module: The model.
        again: Whether the model was checked before, so that only what can be changed in a live module is looked at.

    Raises:
        ModelError: With the part and what to do instead.
    """
    for path, part in module.named_modules():
        if again and part._compiled_call_impl is None and "forward" not in part.__dict__:
            continue
        what = f"its module {path!r} is" if path else "this model is"
        if isinstance(part, torch.jit.ScriptModule) or isinstance(part.forward, _SCRIPTED):
            raise ModelError(f"{what} TorchScript, whose inner modules take no Python hooks; pass the eager module")
        if undo := _way_to_eager(part):
            raise ModelError(f"{what} compiled, and compiled code ignores hooks set later; {undo}")


def _way_to_eager(module: nn.Module) -> str | None:
    """Say how to get back the eager code of a compiled module; None if it is not compiled."""
    if hasattr(module, "_orig_mod"):
        return "pass the original, model._orig_mod"
    if module._compiled_call_impl is not None:
        return "it was compiled in place by module.compile(); pass a copy that was not (copy.deepcopy leaves it behind)"
    forward = module.forward
    # torch marks what it was told not to compile in the same way
    if hasattr(forward, "_torchdynamo_orig_callable") and not getattr(forward, "_torchdynamo_disable", False):
        return "its forward was replaced by torch.compile(forward); give it back, forward._torchdynamo_orig_callable"
    return None


def check_ready(module: nn.Module) -> None:
    """Refuse a model in training mode, where dropout would make every run different, or compiled since it was opened.

    Raises:
        ModelError: Call ``model.eval()`` first; patchclamp never switches the mode of your model.
    """
    check_eager(module, again=True)
    training = next((name for name, m in module.named_modules() if m.training), None)
    if training is not None:
        where = f"its module {training!r} is" if training else "it is"
        raise ModelError(f"the model cannot be used while {where} in training mode; call model.eval() first")


def foreign_hooks(module: nn.Module) -> str | None:
    """The path of a module that carries a forward hook of the user's (transformers' own recorders do not count)."""
    for name, child in module.named_modules():
        for hook in (*child._forward_hooks.values(), *child._forward_pre_hooks.values()):
            if not (getattr(hook, "__module__", None) or "").startswith("transformers."):
                return name or "the model itself"
    return None

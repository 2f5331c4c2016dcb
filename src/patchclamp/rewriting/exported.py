"""A rewritten model as a module, and as a checkpoint that any program of transformers opens."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from patchclamp.catalogue.quiet import quiet_transformers
from patchclamp.core.errors import ExactnessError, InputError, ModelError
from patchclamp.core.files import atomic_folder, write_json
from patchclamp.interventions.edits import Edit
from patchclamp.interventions.execute import TOLERANCE
from patchclamp.interventions.run import run
from patchclamp.models.loading import wrap_module
from patchclamp.models.opened import OpenModel
from patchclamp.models.weights import oriented
from patchclamp.rewriting.projection import Projection


def with_weight(model: OpenModel, projection: Projection, matrix: Tensor) -> nn.Module:
    """A copy of a model whose projection is ``matrix`` ``[d_mlp, d_model]``; every other tensor is the original's own."""
    held = [*model.module.parameters(), *model.module.buffers()]
    shared: dict[int, Any] = {id(tensor): tensor for tensor in held}
    copied: nn.Module = copy.deepcopy(model.module, shared)
    target = copied.get_submodule(projection.path)
    old = projection.parameter
    target.weight = nn.Parameter(old.detach().clone(), requires_grad=old.requires_grad)
    with torch.no_grad():
        oriented(target).copy_(matrix)
    return copied


def check_folder(folder: Path) -> None:
    """Refuse a folder that holds something.

    Raises:
        InputError: It does, or is none.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{str(folder)!r} is not empty; a checkpoint is written into a folder of its own")


def export(
    model: OpenModel,
    module: nn.Module,
    edits: Sequence[Edit] | None,
    prompts: Sequence[Any],
    folder: Path,
    said: dict[str, Any],
) -> Path:
    """Write a checkpoint; see :meth:`patchclamp.Rewrite.export`.

    Args:
        model: The original.
        module: The rewritten copy.
        edits: What makes the original say the same; None to compare with the copy alone.
        prompts: Where logits are compared.
        folder: Where to.
        said: Evidence that is laid beside the weights.
    """
    if not hasattr(module, "save_pretrained"):
        raise ModelError(f"{type(module).__name__} is no model of transformers, so it has no checkpoint format")
    check_folder(folder)
    with atomic_folder(folder) as temporary, quiet_transformers():
        module.save_pretrained(temporary)  # type: ignore[operator]
        if model.tokenizer is not None:
            model.tokenizer.save_pretrained(temporary)
        write_json(temporary / "rewrite.json", said)
        _compare(model, module, edits, prompts, temporary)
    return folder


def _compare(
    model: OpenModel, module: nn.Module, edits: Sequence[Edit] | None, prompts: Sequence[Any], folder: Path
) -> None:
    """Reload a checkpoint: its weights must be the copy's, bit for bit, and its logits those of the edited model."""
    import transformers

    again = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=model.dtype, attn_implementation=getattr(model.config, "_attn_implementation", None)
    )
    again = again.to(model.device).eval()
    kept, wanted = again.state_dict(), module.state_dict()
    lost = [name for name, value in wanted.items() if name not in kept or not torch.equal(value, kept[name])]
    if lost:
        raise ExactnessError(f"the checkpoint does not give back {lost[0]!r} ({len(lost)} tensors differ)")
    if edits is None:
        return
    opened = wrap_module(again, model.tokenizer)
    logits = run(model, prompts, edits).last_logits()
    error = float((run(opened, prompts).last_logits() - logits).abs().max() / logits.abs().max())
    if not error <= TOLERANCE[model.dtype]:
        raise ExactnessError(
            f"the reloaded checkpoint's logits differ from the edited model's by {error:.2g} of the largest, more than "
            f"{TOLERANCE[model.dtype]:g}"
        )

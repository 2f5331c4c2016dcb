"""The global stream of random numbers, from which torch draws the first weights of networks, begins anew in every test."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True, scope="module")
def _seeded_for_what_a_module_shares() -> Iterator[None]:
    """What the tests of a file share is drawn before any of them, and its seeds reach no other file."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """The same networks whatever ran before, in any order and in any worker."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield

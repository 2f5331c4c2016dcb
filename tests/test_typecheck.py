"""The tests run with checks of types and shapes: what is wrong is noticed where it is passed."""

from typing import Any

import pytest
import torch
from beartype.roar import BeartypeCallHintParamViolation
from jaxtyping import TypeCheckError

from patchclamp.interventions.operations import dual
from patchclamp.interventions.positions import spelled_out


def test_a_wrong_type_is_noticed() -> None:
    wrong: Any = "first"
    with pytest.raises(BeartypeCallHintParamViolation, match="first"):
        spelled_out(-1, wrong)
    assert spelled_out(-1, 0) == [-1]


def test_shapes_that_do_not_agree_are_noticed() -> None:
    with pytest.raises(TypeCheckError, match="read_vectors"):
        dual(torch.ones(1, 3), torch.ones(1, 4))
    assert dual(torch.eye(3)[:1], torch.eye(3)[:1]).shape == (1, 3)

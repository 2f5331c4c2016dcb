"""The record of a call: what was passed comes back, what decides nothing stays out, and nothing else can be called."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import patchclamp as pc
from patchclamp.core.call import BoundCall, as_lists, current_call, recall, recorded
from patchclamp.core.errors import InputError
from patchclamp.core.plain import from_plain, to_plain
from tests.effort import examples

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.integers(0, 3), inner, max_size=3)
    ),
    max_leaves=8,
)


@recorded
def method(
    model: Any, first: Any, second: Any = 2, *, checkpoint: Any = None, progress: Any = None, **settings: Any
) -> BoundCall:
    del model, first, second, checkpoint, progress, settings
    return current_call()


def written(call: BoundCall, **instead: Any) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    tensors: dict[str, torch.Tensor] = {}
    return json.loads(json.dumps(call.as_record(tensors, instead))), tensors


@settings(max_examples=examples(25, 200), deadline=None)
@given(PLAIN, PLAIN, PLAIN)
def test_what_was_passed_comes_back(first: Any, second: Any, other: Any) -> None:
    call = method("model", first, second, extra=other)
    again = recall(*written(call), {"method": method}, "model")()
    assert again.parameters == call.parameters
    assert list(again.parameters) == ["first", "second", "checkpoint", "progress", "extra"]


def test_defaults_are_recorded_and_what_decides_nothing_is_not() -> None:
    record, _ = written(method("model", 1, checkpoint="folder", progress=True))
    assert record == {"call": "method", "parameters": {"first": 1, "second": 2}}


def test_vectors_arrays_and_edits_come_back() -> None:
    vector, edit = torch.randn(3), pc.Add([1.0, 2.0], site="mlp_out.1", at=slice(0, 2))
    call = method("model", {"a": vector, 7: [edit, pc.Probability(" a")]}, np.arange(4.0))
    again = recall(*written(call), {"method": method}, "model")().parameters
    assert torch.equal(again["first"]["a"], vector)
    assert again["first"][7] == [edit, pc.Probability(" a")]
    assert torch.equal(again["second"], torch.arange(4.0, dtype=torch.float64))


def test_what_is_written_into_a_tensor_later_does_not_change_the_record() -> None:
    vector = torch.ones(3)
    call = method("model", [vector])
    _, tensors = written(call)
    vector.zero_()
    assert torch.equal(tensors["tensor.0"], torch.ones(3))


def test_a_tuple_inside_an_argument_is_no_list() -> None:
    again = recall(*written(method("model", {"at": [0, (0, 1)]}, (2, 3))), {"method": method}, "model")()
    assert again.parameters["first"] == {"at": [0, (0, 1)]}
    assert again.parameters["second"] == [2, 3]


def test_what_cannot_be_written_is_named_with_the_reason() -> None:
    record, _ = written(method("model", 1, second=lambda x: x))
    assert record["not_repeatable"].startswith("second: function cannot be saved")
    assert "lambda" in record["parameters"]["second"]
    assert record["parameters"]["first"] == 1


def test_arguments_can_be_recorded_as_they_were_read() -> None:
    record, _ = written(method("model", "sites"), first=["mlp_out.0", "mlp_out.1"])
    assert record["parameters"]["first"] == ["mlp_out.0", "mlp_out.1"]
    with pytest.raises(AssertionError, match="no parameter thrid"):
        written(method("model", 1), thrid=3)


def test_the_innermost_call_is_the_current_one_and_none_is_left() -> None:
    @recorded
    def outer(model: Any, fails: bool) -> tuple[str, str]:
        inner = method(model, 1).name
        if fails:
            raise KeyError("inside")
        return inner, current_call().name

    assert outer("model", False) == ("method", "outer")
    with pytest.raises(KeyError):
        outer("model", True)
    with pytest.raises(AssertionError, match="recorded function"):
        current_call()


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"call": "system", "parameters": {}}, "unknown recorded call 'system'"),
        ({"call": "method", "parameters": {"first": 1, "checkpoint": "/tmp/x"}}, "parameter of method 'checkpoint'"),
        ({"call": "method", "parameters": {"first": 1, "model": "other"}}, "parameter of method 'model'"),
        ({"call": "closed", "parameters": {"frist": 1}}, "parameter of closed 'frist'; did you mean 'first'"),
    ],
)
def test_a_record_can_call_nothing_else(record: dict[str, Any], message: str) -> None:
    def closed(model: Any, first: Any) -> None:
        raise AssertionError("it was called")

    with pytest.raises(InputError, match=message):
        recall(record, {}, {"method": method, "closed": closed}, "model")


def test_a_class_that_is_called_like_one_of_ours_is_not_ours() -> None:
    import dataclasses

    other = dataclasses.make_dataclass("Probability", ["answers"])
    with pytest.raises(pc.EditError, match="cannot be saved"):
        to_plain(other("a"), {})
    assert as_lists(from_plain(to_plain(((1, 2), {"a": (3,)}), {}), {})) == [[1, 2], {"a": [3]}]

from collections import namedtuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from patchclamp.models.tensors import fetch, first_tensor, from_rows, input_keys, replace_at, to_rows

leaf = st.builds(lambda n: torch.arange(float(n)), st.integers(1, 4))
nested = st.recursive(
    leaf | st.none() | st.integers(),
    lambda inner: (
        st.tuples(inner, inner)
        | st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(nested)
def test_the_first_tensor_is_found_and_only_it_is_replaced(value: object) -> None:
    keys = first_tensor(value)
    if keys is None:
        assert "tensor" not in repr(value)
        return
    old = fetch(value, keys)
    assert isinstance(old, Tensor)
    before = repr(value)
    new = torch.full((2,), -1.0)
    changed = replace_at(value, keys, new)
    assert fetch(changed, keys) is new
    assert repr(value) == before, "the original is left as it was"
    assert repr(replace_at(changed, keys, old)) == before


def test_paths_that_do_not_exist_give_none() -> None:
    assert fetch((1, 2), (5,)) is None
    assert fetch({"a": 1}, ("b", 0)) is None


def test_model_outputs_keep_their_kind() -> None:
    from transformers.modeling_outputs import CausalLMOutput

    output = CausalLMOutput(logits=torch.zeros(2))
    changed = replace_at(output, ("logits",), torch.ones(2))
    assert isinstance(changed, CausalLMOutput)
    assert torch.equal(changed.logits, torch.ones(2))
    assert torch.equal(changed["logits"], torch.ones(2))
    assert torch.equal(output.logits, torch.zeros(2))


def test_named_tuples_keep_their_kind_and_their_other_fields() -> None:
    pair = namedtuple("pair", ["a", "b"])
    value = pair(torch.zeros(1), [torch.ones(1), torch.ones(2)])
    changed = replace_at(value, (1, 0), torch.full((1,), 5.0))
    assert isinstance(changed, pair)
    assert changed.a is value.a
    assert changed.b[1] is value.b[1]
    assert (float(changed.b[0]), float(value.b[0])) == (5, 1)


def test_the_main_input() -> None:
    x, y = torch.zeros(1), torch.ones(1)
    assert input_keys((x,), {"hidden_states": y}) == (0, 0)
    assert input_keys((), {"mask": x, "hidden_states": y}) == (1, "hidden_states")
    assert input_keys((3,), {"mask": x}) == (1, "mask")
    assert input_keys((3, x), {"mask": x}) == (0, 1)
    assert input_keys((3, x), {"mask": x, "hidden_states": y}) == (1, "hidden_states")
    assert input_keys(((x,),), {}) == (0, 0, 0)
    assert input_keys((), {}) is None


@pytest.mark.parametrize(
    ("shape", "rows", "columns", "view"),
    [
        ((2, 5, 7), 2, 5, (2, 5, 7)),
        ((10, 7), 2, 5, (2, 5, 7)),
        ((2, 7), 2, 1, (2, 1, 7)),
        ((9, 7), 2, 5, (9, 1, 7)),
        ((2, 3, 4, 5, 6), 2, 1, (2, 120, 3)),
        ((2, 7, 3, 4), 2, 1, (2, 12, 7)),
    ],
)
def test_activations_as_rows_and_back(shape: tuple[int, ...], rows: int, columns: int, view: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    seen = to_rows(x, rows, columns)
    assert seen.shape == view
    assert torch.equal(from_rows(seen, x), x)
    if shape == (10, 7):
        assert torch.equal(seen[1, 2], x[7]), "row by row"
    if len(shape) == 4:
        assert torch.equal(seen[1, 5], x[1, :, 1, 1]), "position 5 of a 3 x 4 map is row 1, column 1"

import hashlib
from collections import OrderedDict

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from patchclamp.core.digest import digest, tensor_bytes, weights_digest

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def by_hand(*pieces: bytes) -> str:
    return hashlib.sha256(b"".join(pieces)).hexdigest()


@given(plain, plain)
def test_equal_contents_equal_digests(a: object, b: object) -> None:
    assert digest(a) == digest(a)
    if repr(a) != repr(b):
        assert digest(a) != digest(b)


def test_contents_and_not_their_writing_decide() -> None:
    assert digest({"a": 1, "b": [2]}) == digest(OrderedDict(b=[2], a=1)), "the order of a mapping is no content"
    assert digest([1, 2]) == digest((1, 2))
    different = [[1, 2], [[1], 2], [1, [2]], [[1, 2]], [2, 1], {1: 2}, {2: 1}, [1.0, 2], [True, 2], ["1", 2], [12]]
    assert len({digest(value) for value in different}) == len(different)
    assert len({digest(1, 2), digest([1, 2]), digest(1), digest()}) == 4, "several parts are not one list of them"


def test_tensors_count_by_content_shape_and_dtype() -> None:
    x = torch.arange(6.0)
    assert digest(x) == digest(x.clone())
    assert digest(x) == digest(torch.arange(12.0)[::2] / 2)
    assert digest(x.view(2, 3).T) == digest(x.view(2, 3).T.contiguous()) != digest(x.view(3, 2))
    assert digest(x.clone().requires_grad_()) == digest(x)
    different = [x.double(), x.view(2, 3), x + 1e-6, x.int()]
    assert len({digest(x), *(digest(y) for y in different)}) == 5
    assert digest(torch.zeros(4)) != digest(torch.zeros(4, dtype=torch.int32)), "the same bytes of another type"
    assert digest(torch.zeros(0, 3)) != digest(torch.zeros(0, 4))
    assert bytes(tensor_bytes(x.view(2, 3).T)) == np.arange(6, dtype="float32").reshape(2, 3).T.tobytes()


def test_a_digest_is_the_beginning_of_the_hash_of_its_contents() -> None:
    x = torch.tensor([1.5, -2.0])
    pieces = (b"[", b"int:3;", b"[", b"str:'a';", b"]", b"Ttorch.float32(2,)", x.numpy().tobytes(), b"]")
    assert digest(3, ["a"], x) == by_hand(*pieces)[:16]


def test_the_weights_digest_is_the_hash_of_names_types_shapes_and_bytes() -> None:
    weights = {"b": torch.ones(2, 1), "a": torch.tensor([0.1, 2.0])}
    pieces = (
        b"a:torch.float32:(2,);", weights["a"].numpy().tobytes(), b"b:torch.float32:(2, 1);", weights["b"].numpy().tobytes(),
    )  # fmt: skip
    assert weights_digest(weights.items()) == by_hand(*pieces)
    assert weights_digest(reversed(weights.items())) == by_hand(*pieces), "in the order of the names"
    others = [
        {"b": weights["b"], "c": weights["a"]},  # another name
        {"a": weights["b"], "b": weights["a"]},  # the same tensors, each under the other's name
        {**weights, "b": torch.ones(2)},  # another shape
        {**weights, "b": weights["b"].view(torch.int32)},  # the same bytes of another type
        {"a": weights["a"]},
    ]
    assert len({weights_digest(given.items()) for given in [weights, *others]}) == 6


def test_the_weights_digest_sees_one_changed_bit() -> None:
    weights = {"a": torch.zeros(3, dtype=torch.bfloat16), "b": torch.ones(2)}
    before = weights_digest(weights.items())
    weights["a"][1] = 1e-30
    assert weights_digest(weights.items()) != before


def test_rounded_weights_have_one_digest_in_every_type_that_holds_them() -> None:
    weights = {"w": torch.tensor([1.0, 0.1, -3.3]), "steps": torch.tensor([7])}
    halves = {"w": weights["w"].bfloat16(), "steps": weights["steps"]}
    rounded = {
        weights_digest(w.items(), torch.bfloat16) for w in (weights, halves, {**weights, "w": weights["w"].double()})
    }
    assert rounded == {weights_digest(halves.items())}, "and whole numbers keep their type"
    assert weights_digest(weights.items()) != weights_digest(halves.items())
    assert weights_digest({**weights, "w": weights["w"] + 1}.items(), torch.bfloat16) not in rounded

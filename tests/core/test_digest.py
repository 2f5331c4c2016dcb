import torch
from hypothesis import given
from hypothesis import strategies as st

from patchclamp.core.digest import digest, weights_digest

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(plain, plain)
def test_equal_contents_equal_digests(a: object, b: object) -> None:
    assert digest(a) == digest(a)
    if repr(a) != repr(b):
        assert digest(a) != digest(b)


def test_tensors_count_by_content_shape_and_dtype() -> None:
    x = torch.arange(6.0)
    assert digest(x) == digest(x.clone())
    assert digest(x) == digest(torch.arange(12.0)[::2] / 2)
    different = [x.double(), x.view(2, 3), x + 1e-6, x.int()]
    assert len({digest(x), *(digest(y) for y in different)}) == 5


def test_the_weights_digest_sees_one_changed_bit() -> None:
    weights = {"a": torch.zeros(3, dtype=torch.bfloat16), "b": torch.ones(2)}
    before = weights_digest(weights.items())
    assert before == weights_digest(reversed(weights.items()))
    weights["a"][1] = 1e-30
    assert weights_digest(weights.items()) != before

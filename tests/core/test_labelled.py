import numpy as np
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from patchclamp.core.labelled import pack, unpack

values = hnp.arrays(st.sampled_from([np.float64, np.float32, np.int64]), (2, 3), elements=st.integers(-5, 5))
words = st.lists(st.text(max_size=5), min_size=3, max_size=3)


@given(values, words, st.booleans())
def test_packing_is_undone_exactly(array: np.ndarray, labels: list[str], with_attrs: bool) -> None:
    coords = {"x": np.array(labels, dtype=object), "n": ("y", np.array([1.5, 2.5])), "two": (("y", "x"), array)}
    dataset = xr.Dataset({"v": (("y", "x"), array)}, coords=coords, attrs={"a": [1, "b"]} if with_attrs else {})
    assert unpack(*pack(dataset)).identical(dataset)


def test_nan_and_empty_survive() -> None:
    dataset = xr.Dataset({"v": ("x", np.array([np.nan, 1.0])), "e": ("z", np.zeros(0))})
    assert unpack(*pack(dataset)).identical(dataset)

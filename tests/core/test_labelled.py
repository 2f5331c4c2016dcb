import json

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


def test_nan_empty_and_attributes_survive() -> None:
    dataset = xr.Dataset(
        {
            "v": ("x", np.array([np.nan, 1.0]), {"unit": "nats"}),
            "e": ("z", np.zeros(0)),
            "w": ("x", np.array(["a", "bc"])),
        },
        coords={"x": ("x", [3, 4], {"of": "layers"})},
    )
    found = unpack(*pack(dataset))
    assert found.identical(dataset)
    assert (found["v"].attrs, found["x"].attrs, found["e"].attrs) == ({"unit": "nats"}, {"of": "layers"}, {})


def test_numbers_become_tensors_of_their_own_and_text_becomes_json() -> None:
    values = np.arange(3.0)
    dataset = xr.Dataset({"v": ("x", values)}, coords={"x": ["a", "b", "c"]}, attrs={"k": 1})
    arrays, described = pack(dataset)
    assert list(arrays) == ["v"]
    assert json.loads(json.dumps(described)) == {
        "variables": {"v": {"dims": ["x"]}}, "coords": {"x": {"dims": ["x"], "text": ["a", "b", "c"]}}, "attrs": {"k": 1},
    }  # fmt: skip
    arrays["v"][0] = 9
    described["attrs"]["k"] = 2
    assert (values[0], dataset.attrs["k"]) == (0, 1)

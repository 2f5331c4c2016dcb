"""The picture of a kind that has none of its own shows every number once."""

from typing import Any

import numpy as np
import pytest
import xarray as xr

from patchclamp.core.errors import InputError
from patchclamp.core.result import DatasetResult
from patchclamp.figures.summary import figure


class Odd(DatasetResult):
    kind = "odd"


def drawn(**variables: Any) -> Any:
    return figure(Odd(xr.Dataset(variables)))


def test_curves_maps_and_single_numbers_are_drawn_as_they_are() -> None:
    curves, colours = np.arange(6.0).reshape(2, 3), np.arange(24.0).reshape(8, 3)
    axes = drawn(
        one=7.0, curves=(("kind", "x"), curves), colours=(("row", "x"), colours),
        text=("x", list("abc")),
    ).axes  # fmt: skip
    titled = {axis.get_title(): axis for axis in axes if axis.get_title()}
    assert list(titled) == ["one", "curves", "colours"]
    assert titled["one"].patches[0].get_height() == 7.0
    assert [line.get_ydata().tolist() for line in titled["curves"].lines] == curves.tolist()
    assert titled["colours"].images[0].get_array().tolist() == colours.tolist()


def test_both_axes_of_a_map_are_labelled_by_their_coordinates() -> None:
    data = xr.Dataset({"effect": (("layer", "x"), np.ones((8, 3)))}, {"layer": range(5, 85, 10), "x": list("abc")})
    axis = figure(Odd(data)).axes[0]
    assert [tick.get_text() for tick in axis.get_yticklabels()] == [str(layer) for layer in range(5, 85, 10)]
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["a", "b", "c"]


def test_leading_dimensions_are_averaged() -> None:
    values = np.random.default_rng(0).normal(size=(4, 2, 3))
    (axis,) = drawn(values=(("sample", "kind", "x"), values)).axes
    assert np.allclose([line.get_ydata() for line in axis.lines], values.mean(0))


def test_a_result_without_numbers_is_refused() -> None:
    with pytest.raises(InputError, match="no numbers"):
        drawn(text=("x", ["a"]))

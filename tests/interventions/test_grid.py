"""A grid's numbers relative to its baseline and to its source, by hand; and what is shown of it."""

import numpy as np
import pytest
import xarray as xr

import patchclamp as pc
from patchclamp.interventions.planning import Plan

PLAN = Plan(
    strategy="wavefront", cells=2, runs=2, groups=1, rows=3, naive_rows=6, flops=2_500_000, naive_flops=10_000_000, memory=1_500,
    budget=10**9, seconds=0.5,
)  # fmt: skip


def grid(**more: tuple[str, list[float]]) -> pc.Grid:
    cells = np.array([[[5.0, 1.0]], [[4.0, 9.0]]])
    return pc.Grid(
        xr.Dataset({"kl": (("prompt", "site", "layer"), cells), "baseline:kl": ("prompt", [1.0, 8.0]), **more}), PLAN
    )


def test_relative_numbers_by_hand() -> None:
    found = grid(**{"reference:kl": ("prompt", [3.0, 4.0])})
    assert found.reads == ("kl",)
    assert found.relative().values.tolist() == [[[4.0, 0.0]], [[-4.0, 1.0]]]
    assert found.relative("ratio").values.tolist() == [[[5.0, 1.0]], [[0.5, 9 / 8]]]
    assert found.relative("recovery").values.tolist() == [[[2.0, 0.0]], [[1.0, -0.25]]]
    assert found.reference.values.tolist() == [3.0, 4.0]
    assert found.baseline.values.tolist() == [1.0, 8.0]
    assert [part.name for part in (found.data, found.baseline, found.reference)] == ["kl", "kl", "kl"]


def test_several_reads_are_a_dataset() -> None:
    found = grid(**{"loss": ("prompt", [1.0, 2.0]), "baseline:loss": ("prompt", [0.5, 0.5])})
    assert found.reads == ("kl", "loss")
    assert list(found.data.data_vars) == ["kl", "loss"]
    assert found.relative()["loss"].values.tolist() == [0.5, 1.5]
    with pytest.raises(pc.InputError, match="only the result of model.patch has a reference"):
        found.relative("recovery")


def test_what_is_shown_of_a_grid_and_its_plan() -> None:
    shown = repr(grid())
    assert shown.startswith("Grid of kl: prompt 2, site 1, layer 2\nstrategy   wavefront: ")
    assert "cells      2: 2 run, 0 cannot reach the read, 0 repeat another" in shown
    assert "row-layers 3 in 1 groups (one forward a cell: 6)" in shown
    assert "FLOPs      2.5 M (one forward a cell: 10 M, 4.0x)" in shown
    assert "memory     1.5 kB beyond the model (budget 1 GB)" in shown
    assert "time       about 0.5 s" in shown
    assert "verified" not in shown
    assert "verified   3 cells against one forward each: difference 1e-09" in str(PLAN.checked(3, 1e-9))
    assert Plan.from_record(PLAN.as_record()) == PLAN

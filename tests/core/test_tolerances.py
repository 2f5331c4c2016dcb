"""The one table of tolerances: every type has a number, and half precision is refused where it would say nothing."""

import torch

from patchclamp.core import tolerances

ROWS = [row for row in vars(tolerances).values() if isinstance(row, tolerances.Tolerance)]


def test_a_coarser_type_is_never_held_to_more() -> None:
    assert len(ROWS) >= 4
    for row in ROWS:
        assert 0 < row.of(torch.float64) < row.of(torch.float32) < 1
        for half in (torch.float16, torch.bfloat16):
            assert not row.covers(half) or row.of(torch.float32) < row.of(half) < 1


def test_a_type_without_a_column_is_held_to_float32_and_not_covered() -> None:
    for row in ROWS:
        assert row.covers(torch.float32)
        assert not row.covers(torch.float8_e4m3fn)
        assert row.of(torch.float8_e4m3fn) == row.of(torch.float32)
    assert not tolerances.SUM.covers(torch.bfloat16)

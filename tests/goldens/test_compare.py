"""What counts as the same text: spaces and last digits do not, everything else does."""

import pytest

from tests.goldens import compare


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("p 0.123456", "p  0.123459"),
        ("1.5e-07 x", "-2e-08 x"),
        ("| 0.0123", "| 0.0124"),
        ("1.0", "0.99999"),
        ("[0.5, 12]", "[0.50001, 12]"),
    ],
)
def test_last_digits_and_spaces_are_no_difference(before: str, after: str) -> None:
    assert not compare.differences(before, after)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("p 0.123456", "q 0.123456"),
        ("p 0.123456", "p 0.1236"),
        ("p 12", "p 13"),
        ("layer 2", "layer 2.5"),
        ("0.5 0.25", "0.25 0.5"),
        ("0.5", "nan"),
        ("one\ntwo", "one"),
    ],
)
def test_everything_else_is(before: str, after: str) -> None:
    assert compare.differences(before, after)


def test_sections_are_read_as_they_are_written() -> None:
    parts = {"a --json": "1\n2", "b": "x === y"}
    assert compare.sections(compare.joined(parts)) == {"a --json": "1\n2\n\n", "b": "x === y\n"}

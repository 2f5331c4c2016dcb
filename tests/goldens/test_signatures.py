"""Every public signature is what it was; new ones may come."""

import pytest

from tests.goldens import compare, signatures


def test_signatures_are_those_of_the_golden() -> None:
    golden = (compare.DATA / "signatures.txt").read_text(encoding="utf-8")
    known = {line.partition("(")[0] for line in golden.splitlines()}
    now = [line for line in signatures.text().splitlines() if line.partition("(")[0] in known]
    assert not compare.differences(golden, "\n".join([*now, ""]))


def test_the_first_parameter_of_a_method_may_have_any_name() -> None:
    class Bound:
        def one(self, a: int, *, b: "str | None" = None) -> None: ...

        def two(model, a: "int", *, b: str | None = None) -> None: ...  # noqa: N805

    lines = [
        text.removeprefix(f"m.{name}")
        for name in ("one", "two")
        for text in signatures._member(f"m.{name}", vars(Bound)[name])
    ]
    assert lines == ["(a, *, b=None)"] * 2


@pytest.mark.parametrize("function", [lambda a, b=2: 0, lambda a, *, b=1: 0, lambda a, c=1: 0, lambda a: 0])
def test_another_default_kind_or_name_is_another_line(function: object) -> None:
    """The negative control."""
    assert compare.differences(signatures.line("f", lambda a, b=1: 0), signatures.line("f", function))

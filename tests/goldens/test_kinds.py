"""Every kind of result holds the arrays, coordinates and rows that it held."""

import pytest

from patchclamp.core import registry
from patchclamp.core.result import Result
from tests.goldens import compare, kinds

pytestmark = pytest.mark.sensitive
GOLDEN = compare.sections((compare.DATA / "kinds.txt").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def results() -> dict[str, Result]:
    return kinds.made()


def test_every_kind_has_a_golden(results: dict[str, Result]) -> None:
    assert set(results) == set(GOLDEN)
    assert set(GOLDEN) <= set(registry.kinds())


@pytest.mark.parametrize("kind", GOLDEN)
def test_a_kind_holds_what_it_held(results: dict[str, Result], kind: str) -> None:
    assert not compare.differences(GOLDEN[kind], kinds.described(results[kind]))


def test_another_value_coordinate_or_dimension_is_seen(results: dict[str, Result]) -> None:
    """The negative control."""
    data = results["grid"]._dataset()
    before = kinds.arrays(data)
    assert not compare.differences("\n".join(before), "\n".join(kinds.arrays(data.copy(deep=True))))
    moved = data["kl"].copy()
    moved[1, 1, 2, 3, 1] += 0.05
    for changed in (
        data.assign({"kl": moved}),
        data.assign_coords(layer=[0, 1, 3]),
        data.rename({"layer": "block"}),
        data.assign({"kl": data["kl"].astype("float32")}),
        data.drop_vars("kl"),
    ):
        assert compare.differences("\n".join(before), "\n".join(kinds.arrays(changed)))

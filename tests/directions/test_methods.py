"""Methods by name."""

import pytest

import patchclamp as pc
from patchclamp import directions
from patchclamp.directions.base import DirectionEstimator
from patchclamp.directions.methods import METHODS, method_of


@pytest.mark.parametrize("name", METHODS)
def test_every_name_gives_its_estimator_with_its_own_defaults(name: str) -> None:
    made = method_of(name)
    maker = getattr(directions, METHODS[name].partition(":")[2])
    assert type(made) is maker
    assert isinstance(made, DirectionEstimator)
    assert repr(made) == repr(maker())
    changed = method_of(name, concept="continuous")
    assert changed.concept == "continuous" != made.concept
    with pytest.raises(pc.InputError, match=f"unknown option of {maker.__name__} 'concpt'; did you mean 'concept'"):
        method_of(name, concpt="classes")


def test_options_and_instances() -> None:
    made = method_of("rlace", rank=2, C=0.5)
    assert (made.rank, made.C) == (2, 0.5)
    assert method_of(made) is made
    for method, options, message in (
        ("leac", {}, "unknown method 'leac'; did you mean 'leace'"),
        (made, {"rank": 3}, "RLACE is made already, so it takes no options; got rank"),
        (directions.LEACE, {}, r"a method is an estimator, as LEACE\(\), or one of the names"),
        (["leace"], {}, r"a method is an estimator, as LEACE\(\), or one of the names"),
        (None, {}, "a method is an estimator"),
    ):
        with pytest.raises(pc.InputError, match=message):
            method_of(method, **options)


def test_a_class_name_is_a_method_too() -> None:
    assert type(method_of("MeanDifference")) is type(method_of("mean"))
    assert type(method_of("LEACE", shrinkage=0.5)) is type(method_of("leace"))
    assert method_of("LEACE", shrinkage=0.5).shrinkage == 0.5
    assert type(method_of("Mean")) is type(method_of("mean"))

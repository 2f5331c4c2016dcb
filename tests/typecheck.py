"""The run-time type checker of the tests: an int is a float, as PEP 484 says; annotations of local variables are mypy's alone."""

from beartype import BeartypeConf, BeartypeDecorPlace, beartype

CONF = BeartypeConf(
    is_pep484_tower=True,
    claw_is_pep526=False,
    claw_decor_place_func=BeartypeDecorPlace.FIRST,  # behind the door of public functions, which has messages of its own
    claw_skip_package_names=("patchclamp.models.peers",),  # an annotation there exists for mypy only
)
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))

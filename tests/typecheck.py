"""The run-time type checker of the tests: an int is a float, as PEP 484 says; annotations of local variables are mypy's alone."""

from beartype import BeartypeConf, beartype

CONF = BeartypeConf(is_pep484_tower=True, claw_is_pep526=False)
checked = beartype(conf=CONF)

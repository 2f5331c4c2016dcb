"""How much the tests try: `make test` takes the short form, `make test-all` the full one (``PATCHCLAMP_TESTS=full``)."""

import os

FULL = os.environ.get("PATCHCLAMP_TESTS") == "full"


def examples(short: int, full: int) -> int:
    """The number of examples that hypothesis draws, in the short form and in the full one."""
    return full if FULL else short

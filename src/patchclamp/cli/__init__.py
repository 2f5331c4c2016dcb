"""The command line: ``patchclamp VERB``, one file a verb."""

from patchclamp.cli.app import main

__all__ = ["main"]

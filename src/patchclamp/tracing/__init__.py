"""Which parts of a model made it say what it said: causal traces, and their estimates by gradient."""

from patchclamp.tracing.average import average as average

__all__ = ["average"]

"""The rows of a recorded result, with the prompts and positions that they are of."""

import torch

from patchclamp.activations.sources import ArraySource
from patchclamp.core.errors import InputError
from patchclamp.interventions import Activations


def recorded_rows(activations: Activations, site: str | None) -> ArraySource:
    """One site of a recording as rows ``[row, d]``, without padding.

    Raises:
        InputError: A site that was not recorded, several of them, or attention patterns.
    """
    if site is None:
        if len(activations.values) > 1:
            raise InputError(f"several sites were recorded; name one of {', '.join(activations.values)}")
        site = next(iter(activations.values))
    values = activations[site]
    dims = activations.dims.get(site, tuple(d for d in _dims(activations, site) if d != "layer"))
    if "layer" in dims:
        raise InputError(f"{site!r} was recorded at several layers, and a stream is of one; name it, as in '{site}.0'")
    if "key" in dims:
        raise InputError(f"{site!r} is attention patterns, whose rows are as wide as their prompts are long")
    if "position" not in dims:
        return ArraySource(values.flatten(1).detach(), torch.arange(len(values)))
    lengths = [len(where) for where in activations.positions]
    if max(lengths, default=0) == 0:  # an input without tokens has as many vectors as its activation has
        lengths = [values.shape[1]] * len(values)
    rows = torch.cat([row[:length].flatten(1) for row, length in zip(values.detach(), lengths, strict=True)])
    documents = torch.repeat_interleave(torch.arange(len(values)), torch.tensor(lengths))
    places = [w or range(n) for w, n in zip(activations.positions, lengths, strict=True)]
    return ArraySource(rows, documents, torch.tensor([place for where in places for place in where]))


def _dims(activations: Activations, site: str) -> tuple[str, ...]:
    """The axes of the recorded name that one site is part of."""
    return next(d for name, d in activations.dims.items() if site.startswith(name.split(".")[0]))

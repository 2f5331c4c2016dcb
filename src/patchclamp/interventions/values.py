"""The parameters of operations as users pass them: vectors, directions, numbers and latents, each read in one place.

Called by the constructors of ``edits.py`` and ``gates.py``.
"""

from collections.abc import Callable, Mapping
from functools import partial
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from patchclamp.core import readers as argument_readers
from patchclamp.core.errors import EditError
from patchclamp.interventions import operations


def held(value: Tensor) -> Tensor:
    """A copy, which later changes do not reach; a tensor that requires gradients itself, so that training is seen."""
    return value if value.requires_grad else value.detach().clone()


def _tensor(value: Any, name: str, form: str) -> Tensor:
    if isinstance(value, str):
        raise EditError(f"{name} is the text {value!r}; pass a vector, as in model.embedding({value!r})")
    try:
        result: Tensor = argument_readers.tensor(value)
    except argument_readers.UnfitError as unfit:
        raise EditError(
            f"{name} must be {form}, got {argument_readers.shown(value)} ({type(value).__name__}){unfit.reason}"
        ) from None
    return result


def vector(value: Any, name: str) -> Tensor:
    """One vector ``[d]``.

    Raises:
        EditError: It is none.
    """
    tensor = _tensor(value, name, "a vector [d]")
    if tensor.ndim != 1:
        raise EditError(
            f"{name} must be one vector [d], got shape {tuple(tensor.shape)}; vectors are never broadcast by shape"
        )
    if not tensor.is_floating_point():
        raise EditError(f"{name} has dtype {tensor.dtype}; a floating dtype is needed")
    return held(tensor)


def rows(value: Any, name: str = "directions") -> Tensor:
    """One vector ``[d]`` or several ``[rank, d]``, finite, as they are.

    Raises:
        EditError: They are none.
    """
    tensor = _tensor(value, name, "[d] or [rank, d]")
    if tensor.ndim not in (1, 2):
        raise EditError(f"{name} must be [d] or [rank, d], got shape {tuple(tensor.shape)}")
    if not tensor.numel():
        raise EditError(f"{name} of shape {tuple(tensor.shape)} hold no direction, so an edit along them does nothing")
    wrong = int((~torch.isfinite(tensor)).sum())
    if wrong or not tensor.is_floating_point():
        raise EditError(
            f"{name} must be finite and of a floating dtype, got {tensor.dtype} with {wrong} NaN or infinite values"
        )
    return tensor


def directions(value: Any) -> Tensor | None:
    """Orthonormal rows ``[rank, d]`` in float64; the tensor itself if it requires gradients (see ``Spanned``).

    Raises:
        EditError: They are no directions, or linearly dependent.
    """
    if value is None:
        return None
    tensor = rows(value)
    basis = operations.orthonormal(torch.atleast_2d(tensor.detach()))
    return tensor if tensor.requires_grad else basis


def span(basis_values: Any, about: Any, read_vectors: Any) -> dict[str, Any]:
    """Directions, their origin and their read vectors as operations take them.

    Raises:
        EditError: They do not fit each other.
    """
    basis = directions(basis_values)
    origin = None if about is None else vector(about, "about")
    if basis is not None and origin is not None and basis.shape[-1] != origin.shape[-1]:
        raise EditError(
            f"about has {origin.shape[-1]} entries and the directions {basis.shape[-1]}; it is a point where they act"
        )
    fields = {"directions": basis, "about": origin}
    if read_vectors is None:
        return fields
    if basis is None:
        raise EditError("read_vectors need directions, whose coordinates they read")
    reads = rows(read_vectors, "read_vectors")
    expected, shape = (tuple(torch.atleast_2d(tensor).shape) for tensor in (basis, reads))
    if expected != shape:
        raise EditError(f"read_vectors must have the shape of the directions, {expected}; got {shape}")
    unit = operations.orthonormal(torch.atleast_2d(basis.detach())) if basis.requires_grad else basis
    fixed = operations.dual(torch.atleast_2d(reads.detach()), unit)
    return fields | {"read_vectors": held(reads) if basis.requires_grad or reads.requires_grad else fixed}


def number(value: Any, name: str) -> float | Tensor:
    """A number; a tensor that requires gradients itself.

    Raises:
        EditError: It is none.
    """
    if isinstance(value, Tensor) and value.ndim == 0 and value.is_floating_point() and value.requires_grad:
        return value
    single = isinstance(value, Tensor) and value.numel() == 1 and value.ndim == 0 and value.dtype != torch.bool
    if isinstance(value, bool) or not (single or isinstance(value, Real)):
        what = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise EditError(f"{name} must be one number, got {what}")
    try:
        return float(value)
    except OverflowError:
        raise EditError(f"{name} must be a number that a float can hold, got {value!r}") from None


def whole(value: Any, name: str) -> int:
    """A whole number.

    Raises:
        EditError: It is none.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise EditError(f"{name} must be a whole number, got {value!r}")
    return int(value)


def latents(value: Any) -> dict[int, float | Tensor]:
    """Numbers of latents, each with what it is set to.

    Raises:
        EditError: A latent has no such number, or its value is none.
    """
    if not isinstance(value, Mapping):
        raise EditError(f"latents must map numbers of latents to values, as in {{12: 5.0}}; got {value!r}")
    for index in value:
        if isinstance(index, bool) or not isinstance(index, Integral) or int(index) < 0:
            raise EditError(f"a latent goes by its number, 0 or more; got {index!r}")
    return {int(index): number(item, f"latent {index}") for index, item in value.items()}


def codec(value: Any) -> operations.Codec:
    """A sparse dictionary.

    Raises:
        EditError: It cannot encode and decode.
    """
    if not isinstance(value, operations.Codec):
        raise EditError(f"pc.Splice needs a dictionary with encode and decode, got {type(value).__name__}")
    return value


def function(value: Any) -> Callable[[Tensor], Any]:
    """What :func:`patchclamp.Call` calls.

    Raises:
        EditError: It is no function.
    """
    if not callable(value):
        raise EditError(f"pc.Call needs a function, got {type(value).__name__}")
    checked_function: Callable[[Tensor], Any] = value
    return checked_function


_READERS: dict[str, Callable[[Any], Any]] = {
    **{name: partial(vector, name=name) for name in ("vector", "read", "write", "value", "about")},
    **{name: partial(number, name=name) for name in ("scale", "factor", "low", "high", "std")},
    "seed": partial(whole, name="seed"),
    "directions": directions,
    "latents": latents,
    "dictionary": codec,
    "function": function,
}
"""How each parameter is read when an edit is made again with another one."""
_OPTIONAL = ("about", "low", "high")


def parameter(operation: Any, name: str, value: Any) -> Any:
    """Another value for a parameter of an operation.

    Raises:
        EditError: It does not fit.
    """
    if name == "directions" and value is None and getattr(operation, "needs_directions", False):
        raise EditError(f"pc.{type(operation).__name__} needs directions: a vector [d], or [rank, d]")
    if name == "source":
        return operation.read_source(value)
    if (name in _OPTIONAL and value is None) or name not in _READERS:
        return value
    return _READERS[name](value)

"""Points of a network's input or activation space, and the network that they are put through."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from patchclamp.core.errors import InputError, ModelError, unknown
from patchclamp.core.interrupts import guarded
from patchclamp.interventions import record
from patchclamp.models.opened import OpenModel
from patchclamp.polytopes.gates import by_row
from patchclamp.polytopes.network import Network

DTYPES = {"float32": torch.float32, "float64": torch.float64}
_ACTIVATIONS = (
    nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.ELU, nn.SELU, nn.CELU, nn.Softplus, nn.Tanh,
    nn.Sigmoid, nn.Hardswish, nn.Mish,
)  # fmt: skip


def as_points(
    model: OpenModel, given: Sequence[Any], dtype: str | None = None, box: tuple[float, float] | None = None
) -> Tensor:
    """Points as rows ``[point, *shape]``, checked.

    Args:
        model: Whose precision and device they get.
        given: Each ``[*shape]``, as tensors, arrays or lists.
        dtype: ``"float32"``, ``"float64"`` or None for the weights' own.
        box: Smallest and largest coordinate allowed.

    Raises:
        InputError: Shapes differ, a coordinate is not finite or outside the box, or the weights are of half precision.
    """
    precise_dtype = precision(model, dtype)
    if not len(given):
        raise InputError("no points were given")
    rows = [
        torch.as_tensor(np.asarray(point) if isinstance(point, list | tuple) else point).detach() for point in given
    ]
    shapes = [tuple(row.shape) for row in rows]
    if len(set(shapes)) > 1:
        raise InputError(f"points have the shapes {', '.join(map(str, dict.fromkeys(shapes)))}; they must be equal")
    if not shapes[0]:
        raise InputError("a point must be an array [*shape], not one number; several points are rows [row, *shape]")
    if 0 in shapes[0]:
        raise InputError(f"a point of shape {shapes[0]} holds no coordinates; the shape of its numbers must have no 0")
    for number, row in enumerate(rows):
        count = int((~torch.isfinite(row)).sum()) if row.is_floating_point() else 0
        if count:
            raise InputError(f"point {number} has {count} coordinates that are not finite")
    x = torch.stack([row.to(device=model.device, dtype=precise_dtype) for row in rows])
    if box is not None:
        low, high = box
        outside = (x < low) | (x > high)
        if bool(outside.any()):
            number = int(outside.flatten(1).any(1).nonzero()[0])
            worst = x[number][outside[number]]
            raise InputError(
                f"point {number} has {len(worst)} coordinates outside the box [{low:g}, {high:g}], as {float(worst[0]):.4g}"
            )
    return x


def precision(model: OpenModel, dtype: str | None) -> torch.dtype:
    """What to compute in.

    Raises:
        InputError: Unknown, or the weights are of half precision and nothing else was asked for.
    """
    if dtype is not None:
        if dtype not in DTYPES:
            raise InputError(unknown("dtype", dtype, DTYPES))
        return DTYPES[dtype]
    if model.dtype not in DTYPES.values():
        raise InputError(
            f"the weights are {str(model.dtype).removeprefix('torch.')}, too coarse for boundaries; pass dtype='float32' to "
            "compute with these weights in single precision"
        )
    return model.dtype


def prepare_network(
    model: OpenModel, x: Tensor, what: str, start: str | None = None, dtype: str | None = None
) -> Network:
    """The traced network that takes points, piecewise linear and in their precision.

    Raises:
        ModelError: It cannot be traced, or is not piecewise linear.
        InputError: The points do not fit.
    """
    if model.sites.layers and model.causal:
        raise ModelError(
            f"{what} needs a piecewise-linear network, and a language model is none; its spline codes (spline_codes), their "
            "clusters (cluster) and scaling work"
        )
    network = Network.of(model).cast(precision(model, dtype))
    network.require_exact(what, start)
    check_fit(network, x, start)
    return network


def check_fit(network: Network, x: Tensor, start: str | None = None) -> None:
    """Run points once, so that a wrong shape is an error before any work.

    Raises:
        InputError: The network does not take them, or makes of them what is not finite.
        ModelError: The trace is not what the module computes.
    """
    network.after(start)
    try:
        with guarded(torch.no_grad()):
            out = network.run(x, start)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        place = "" if start is None else f" at {start!r}"
        raise InputError(f"the network does not take points of shape {tuple(x.shape[1:])}{place}: {reason}") from error
    if not bool(torch.isfinite(out).all()):
        raise InputError("the network's output is not finite at these points; are its weights?")
    if start is None:
        network.check(x)


def gate_pieces(model: OpenModel, x: Tensor, start: str | None = None) -> tuple[dict[str, Tensor], Tensor]:
    """Which piece every neuron of every gate is on, ``[point, neuron]`` integers by gate, and the outputs, of any network.

    A smooth gate is on piece 1 where its pre-activation is positive. Where torch.fx cannot follow the network, its activation
    modules are recorded.

    Raises:
        ModelError: There is no gate to be found.
    """
    try:
        network = Network.of(model).cast(x.dtype)
    except ModelError:
        if start is not None:
            raise
        return _record_pieces(model, x)
    check_fit(network, x[:2], start)
    gates = {gate.name: gate for gate in network.gates}
    pieces = {
        name: by_row(gates[name].state(z) if gates[name].exact else gates[name].bits(z).long())
        for name, z in network.preactivations(x, start).items()
    }
    if not pieces:
        raise ModelError("the network has no gates: it is affine, or all its operations are unknown")
    return pieces, network.run(x, start)


def activation_modules(model: OpenModel) -> list[str]:
    """Paths of the modules whose pre-activation is positive or not, for networks that torch.fx cannot follow."""
    return [name for name, module in model.module.named_modules() if isinstance(module, _ACTIVATIONS)]


def _record_pieces(model: OpenModel, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    names = activation_modules(model)
    if not names:
        module_names = ", ".join(module.__name__ for module in _ACTIVATIONS)
        raise ModelError(
            f"torch.fx cannot follow the network, and it has no activation module ({module_names}) to record"
        )
    acts = record(model, x.to(model.dtype), [f"{name}:in" for name in names])
    pieces = {name: by_row((acts[f"{name}:in"] > 0).long()) for name in names}
    out = model.module(x.to(model.dtype))
    values = out if isinstance(out, Tensor) else next(iter(out.values()))
    return pieces, values

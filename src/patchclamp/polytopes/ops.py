"""What each operation of a traced network is: affine, a gate, bookkeeping about shapes, or neither."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from patchclamp.polytopes.gates import Bend, MaxPool, NetworkGate, Smooth, elementwise
from patchclamp.polytopes.soft import activation

Nature = Literal["affine", "gate", "product", "shape", "other"]

_AFFINE_MODULES = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
    nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
    nn.Flatten, nn.Unflatten, nn.Identity, nn.ConstantPad1d, nn.ConstantPad2d, nn.ZeroPad2d, nn.ReflectionPad1d,
    nn.ReflectionPad2d, nn.ReplicationPad1d, nn.ReplicationPad2d, nn.PixelShuffle, nn.PixelUnshuffle, nn.Upsample,
)  # fmt: skip
_AFFINE_IN_EVAL = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_AFFINE_NAMES = frozenset({
    "add", "sub", "neg", "iadd", "isub", "flatten", "reshape", "view", "permute", "transpose", "squeeze", "unsqueeze", "cat",
    "concat", "stack", "mean", "sum", "getitem", "pad", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d",
    "adaptive_avg_pool2d", "adaptive_avg_pool3d", "contiguous", "clone", "movedim", "swapaxes", "positive", "detach",
})  # fmt: skip
_WITH_CONSTANT = frozenset({
    "mul", "imul", "multiply", "div", "divide", "truediv", "itruediv", "matmul", "linear", "conv1d", "conv2d", "conv3d",
})  # fmt: skip
"""Affine when all but one of their tensors are constants."""
_SHAPE_NAMES = frozenset({"size", "dim", "numel", "ndimension", "shape", "ndim"})
_GATE_MODULES = {
    nn.ReLU: "relu", nn.LeakyReLU: "leaky_relu", nn.RReLU: "rrelu", nn.PReLU: "prelu", nn.ReLU6: "relu6",
    nn.Hardtanh: "hardtanh", nn.Hardsigmoid: "hardsigmoid", nn.SiLU: "silu", nn.GELU: "gelu",
    nn.MaxPool1d: "max_pool1d", nn.MaxPool2d: "max_pool2d",
}  # fmt: skip
_GATE_NAMES = frozenset({
    "relu", "relu_", "leaky_relu", "leaky_relu_", "rrelu", "prelu", "relu6", "hardtanh", "hardtanh_", "hardsigmoid", "silu",
    "gelu", "abs", "absolute", "clamp", "clip", "clamp_min", "clamp_max", "max_pool1d", "max_pool2d",
})  # fmt: skip
_BEND_MODULES = {
    nn.Tanh: "tanh", nn.Sigmoid: "sigmoid", nn.ELU: "elu", nn.SELU: "selu", nn.CELU: "celu", nn.Softplus: "softplus",
    nn.Mish: "mish", nn.Hardswish: "hardswish",
}  # fmt: skip
"""Smooth, or not affine on either side of 0: they have a side, and no affine map."""
_POOL_OPTIONS = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")


@dataclass(frozen=True)
class Op:
    """One operation: what it is, and the gate if it is one."""

    nature: Nature
    label: str
    """Its name for error messages."""
    gate: NetworkGate | None = None


def classify(node: fx.Node, name: str, root: nn.Module, varies: Callable[[Any], bool]) -> Op:
    """What a node of a graph is.

    Args:
        node: A node of the traced graph.
        name: The name of the module or function, for the gate.
        root: The traced module.
        varies: Whether an argument depends on the input.
    """
    if node.op == "call_module":
        module = root.get_submodule(str(node.target))
        return _classify_module(module, name)
    label = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    base_name = label.strip("_")
    if node.target is getattr or label in _SHAPE_NAMES:
        return Op("shape", label)
    if label in _GATE_NAMES:
        return _classify_function(node, label.rstrip("_"), name, varies)
    if label == "dropout":
        return Op("other" if _argument(node, 2, "training", True) else "affine", "dropout in training mode")
    if base_name in _AFFINE_NAMES or label in _AFFINE_NAMES:
        return Op("affine", label)
    if base_name in _WITH_CONSTANT or label in _WITH_CONSTANT:
        varying = [argument for argument in (*node.args, *node.kwargs.values()) if varies(argument)]
        divides = "div" in base_name and len(node.args) > 1 and varies(node.args[1])
        if len(varying) == 1 and not divides and node.kwargs.get("rounding_mode") is None:
            return Op("affine", label)
        return Op("product" if base_name in ("mul", "imul", "multiply") and len(varying) == 2 else "other", label)
    return Op("other", label, Bend(name, base_name) if base_name in _BEND_MODULES.values() else None)


def _classify_module(module: nn.Module, name: str) -> Op:
    label = type(module).__name__
    if isinstance(module, (*_AFFINE_IN_EVAL, nn.RReLU)) and module.training:
        return Op("other", f"{label} in training mode (call .eval() on the network)")
    if isinstance(module, _AFFINE_MODULES + _AFFINE_IN_EVAL):
        return Op("affine", label)
    kind = next((kind for module_type, kind in _GATE_MODULES.items() if type(module) is module_type), None)
    if kind is None:
        bend = next((bend for module_type, bend in _BEND_MODULES.items() if type(module) is module_type), None)
        return Op("other", label, None if bend is None else Bend(name, bend))
    if kind.startswith("max_pool") and module.return_indices:
        return Op("other", f"{label} that returns indices")
    return _gate_op(kind, name, label, _options(module))


def _options(module: nn.Module) -> dict[str, Any]:
    """The constants of a gate's module."""
    match module:
        case nn.PReLU():
            return {"slope": module.weight.detach()}
        case nn.RReLU():
            return {"slope": (module.lower + module.upper) / 2}
        case nn.LeakyReLU():
            return {"slope": float(module.negative_slope)}
        case nn.Hardtanh():
            return {"low": float(module.min_val), "high": float(module.max_val)}
        case nn.GELU():
            return {"approximate": module.approximate}
        case nn.MaxPool1d() | nn.MaxPool2d():
            return {part: getattr(module, part) for part in _POOL_OPTIONS}
    return {}


def _classify_function(node: fx.Node, kind: str, name: str, varies: Callable[[Any], bool]) -> Op:
    if any(varies(argument) for argument in (*node.args[1:], *(v for k, v in node.kwargs.items() if k != "input"))):
        return Op("other", f"{kind} with bounds that depend on the input")
    options: dict[str, Any] = {}
    if kind in ("leaky_relu", "rrelu"):
        options = {"slope": float(_argument(node, 1, "negative_slope", 0.01))}
    if kind in ("rrelu", "prelu"):
        return Op("other", f"functional {kind} (use the module)")
    if kind == "hardtanh":
        options = {"low": float(_argument(node, 1, "min_val", -1.0)), "high": float(_argument(node, 2, "max_val", 1.0))}
    if kind in ("clamp", "clip", "clamp_min", "clamp_max"):
        low = None if kind == "clamp_max" else _argument(node, 1, "min", None)
        high = _argument(node, 1 if kind == "clamp_max" else 2, "max", None) if kind != "clamp_min" else None
        if any(isinstance(edge, fx.Node | Tensor) for edge in (low, high)):
            return Op("other", f"{kind} with tensor bounds")
        if low is not None and high is not None and low > high:
            return Op("other", f"{kind} with bounds that are crossed")
        options = {"low": None if low is None else float(low), "high": None if high is None else float(high)}
        kind = "clamp"
    if kind == "gelu":
        options = {"approximate": _argument(node, 1, "approximate", "none")}
    if kind.startswith("max_pool"):
        settings = {part: _argument(node, number + 1, part, None) for number, part in enumerate(_POOL_OPTIONS)}
        if _argument(node, 6, "return_indices", False):
            return Op("other", f"{kind} that returns indices")
        defaults = {"stride": settings["kernel_size"], "padding": 0, "dilation": 1, "ceil_mode": False}
        options = {part: defaults.get(part) if value is None else value for part, value in settings.items()}
    return _gate_op("abs" if kind == "absolute" else kind, name, kind, options)


def _argument(node: fx.Node, place: int, name: str, default: Any) -> Any:
    if name in node.kwargs:
        return node.kwargs[name]
    return node.args[place] if len(node.args) > place else default


def _gate_op(kind: str, name: str, label: str, options: dict[str, Any]) -> Op:
    if kind.startswith("max_pool"):
        if options["ceil_mode"]:
            return Op("other", f"{label} with ceil_mode")
        return Op("gate", label, _max_pool(name, 1 if kind == "max_pool1d" else 2, options))
    if kind == "relu6":
        options = {"low": 0.0, "high": 6.0}
    if kind in ("silu", "gelu"):
        smooth = "gelu_tanh" if options.get("approximate") == "tanh" else kind
        return Op("gate", label, Smooth(name, smooth, activation(smooth).code))
    return Op("gate", label, elementwise(name, kind, **options))


def _max_pool(name: str, dims: int, options: dict[str, Any]) -> MaxPool:
    def per_axis(value: Any) -> tuple[int, int]:
        """One number an axis; a pool of one dimension is one of two with a height of 1."""
        sizes = (value,) * dims if isinstance(value, int) else tuple(value)
        return sizes if dims == 2 else (0, *sizes)  # type: ignore[return-value]

    kernel, padding = per_axis(options["kernel_size"]), per_axis(options["padding"])
    stride, dilation = per_axis(options["stride"]), per_axis(options["dilation"])
    if dims == 1:
        kernel, stride, dilation = (1, kernel[1]), (1, stride[1]), (1, dilation[1])

    def windows(z: Tensor) -> Tensor:
        channels = z if z.dim() == dims + 2 else z.unsqueeze(1)
        planes = channels if dims == 2 else channels.unsqueeze(-2)
        padded = F.pad(planes, (padding[1], padding[1], padding[0], padding[0]), value=-torch.inf)
        lowest = torch.finfo(z.dtype).min
        patches = F.unfold(padded.clamp(min=lowest), kernel, dilation=dilation, stride=stride)
        values: Tensor = patches.reshape(len(z), planes.shape[1], kernel[0] * kernel[1], -1).transpose(1, 2).flatten(2)
        return values

    def out_shape(z: Tensor) -> tuple[int, ...]:
        sizes = z.shape[-dims:]
        axes = (1,) if dims == 1 else (0, 1)
        spans = [
            (size + 2 * padding[axis] - dilation[axis] * (kernel[axis] - 1) - 1) // stride[axis] + 1
            for size, axis in zip(sizes, axes, strict=True)
        ]
        return (*z.shape[1:-dims], *spans)

    return MaxPool(name, "max_pool", windows, out_shape)

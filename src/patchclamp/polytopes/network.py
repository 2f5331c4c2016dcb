"""A network as a list of steps, so that exact methods can walk through it and add rows on the way."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn

from patchclamp.core.arguments import checked
from patchclamp.core.errors import InputError, ModelError, unknown
from patchclamp.core.interrupts import guarded
from patchclamp.models.opened import OpenModel
from patchclamp.polytopes.gates import LineGate, NetworkGate
from patchclamp.polytopes.ops import Op, classify

Live = dict[str, Tensor]
"""Every tensor that a later step needs, by the step that made it; their rows are the same points."""
Refine = Callable[["NetworkStep", Live], Live]
Rows = Float[Tensor, "row ..."]

INPUT = "input"


@dataclass(frozen=True, eq=False)
class NetworkStep:
    """One operation on rows of live tensors."""

    name: str
    """Path of its module, or of the module in whose ``forward`` the function stands."""
    key: str
    """The key of its output among the live tensors."""
    op: Op
    reads: tuple[str, ...]
    """Keys of the tensors that it reads."""
    call: Callable[[Mapping[str, Any]], Any]
    last: tuple[str, ...] = ()
    """Keys that no later step reads."""

    @property
    def gate(self) -> NetworkGate | None:
        """The gate, if the step is one."""
        return self.op.gate

    @property
    def source(self) -> str:
        """Key of a gate's pre-activation."""
        return self.reads[0]


@checked
class Network:
    """A traced ``nn.Module``: its steps, its gates, and ways to run it.

    The module is used as it is: its own submodules are called, so that training it changes the network too.

    Args:
        module: Any module of one tensor argument whose ``forward`` torch.fx can follow.

    Raises:
        ModelError: It cannot be traced, or reads several inputs.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.steps, self.output = _trace_steps(module)
        self._modes = _modes(module)
        self._agrees = False

    @classmethod
    def of(cls, module: "nn.Module | OpenModel | Network") -> "Network":
        """The network of a module or of an open model, which is traced once.

        Raises:
            ModelError: As for the constructor.
        """
        if isinstance(module, Network):
            return module
        if not isinstance(module, OpenModel):
            return cls(module)
        network = _NETWORKS.get(module)
        if network is None or network._modes != _modes(module.module):
            network = _NETWORKS[module] = cls(module.module)
        return network

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return next((p.dtype for p in self.module.parameters() if p.is_floating_point()), torch.float32)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next((p.device for p in self.module.parameters()), torch.device("cpu"))

    @cached_property
    def gates(self) -> tuple[NetworkGate, ...]:
        """The gates, in the order in which they act."""
        return tuple(step.gate for step in self.steps if step.gate is not None)

    def __repr__(self) -> str:
        return f"<Network of {len(self.steps)} steps, gates: {', '.join(gate.name for gate in self.gates)}>"

    def run(self, x: Rows, start: str | None = None) -> Tensor:
        """The output for rows of inputs, or of activations at ``start``."""
        return self.walk(x, None, start)

    def walk(self, x: Rows, refine: Refine | None = None, start: str | None = None) -> Tensor:
        """Run step by step; before each piecewise-linear gate ``refine`` may add rows to all live tensors.

        Args:
            x: Points, ``[row, *shape]``.
            refine: Gets the step and the live tensors, and returns the live tensors with the rows that it wants.
            start: Where ``x`` lies: the name of a step (its output), or with ``:in`` what goes into it.
        """
        steps, entry = self.after(start)
        live: Live = {entry: x}
        for step in steps:
            if refine is not None and isinstance(step.gate, LineGate):
                live = refine(step, live)
            live[step.key] = step.call(live)
            for key in step.last:
                live.pop(key, None)
        return live[self.output]

    def preactivations(self, x: Rows, start: str | None = None) -> dict[str, Tensor]:
        """What goes into every gate, ``[row, *shape]`` by the gate's name."""
        return {name: preactivation for name, (preactivation, _) in self.gated(x, start).items()}

    def gated(self, x: Rows, start: str | None = None) -> dict[str, tuple[Tensor, Tensor]]:
        """What goes into every gate and what comes out of it, ``[row, *shape]`` by the gate's name."""
        steps, entry = self.after(start)
        live: Live = {entry: x}
        gate_values = {}
        for step in steps:
            preactivation = live[step.source] if step.gate is not None else x
            live[step.key] = step.call(live)
            if step.gate is not None:
                gate_values[step.gate.name] = (preactivation, live[step.key])
            for key in step.last:
                live.pop(key, None)
        return gate_values

    def states(self, x: Rows, start: str | None = None) -> dict[str, Tensor]:
        """What freezes every gate at one point ``[1, *shape]``, by the gate's name."""
        gates = {gate.name: gate for gate in self.gates}
        return {name: gates[name].state(z) for name, z in self.preactivations(x, start).items()}

    def frozen(
        self,
        x: Rows,
        states: dict[str, Tensor],
        start: str | None = None,
        seen: Callable[[NetworkGate, Tensor], None] | None = None,
    ) -> Tensor:
        """The output were every gate's code that of one point: an affine function of ``x``.

        Args:
            x: Points, ``[row, *shape]``.
            states: The states of the gates at that point, as :meth:`states` gives them.
            start: As for :meth:`walk`.
            seen: Is shown every gate and its pre-activations, which are affine in ``x`` too.
        """
        steps, entry = self.after(start)
        live: Live = {entry: x}
        gate_values: Live = {}
        for step in steps:
            if step.gate is not None:
                if seen is not None:
                    seen(step.gate, live[step.source])
                state = states[step.gate.name]
                live[step.key] = step.gate.frozen(live[step.source], state)
                if not step.gate.exact:
                    gate_values[step.key] = step.gate.frozen(state, state)
            elif step.op.nature == "product":
                live[step.key] = step.call(
                    {**live, **{key: gate_values[key] for key in step.reads if key in gate_values}}
                )
            else:
                live[step.key] = step.call(live)
        return live[self.output]

    def is_exact(self, start: str | None = None) -> bool:
        """Whether the network is piecewise linear."""
        return all(_is_exact(step) for step in self.after(start)[0])

    def require_exact(self, what: str, start: str | None = None) -> None:
        """Refuse a network that is not piecewise linear.

        Raises:
            ModelError: With every such operation, and what to do instead.
        """
        obstacles = [f"{step.op.label} ({step.name})" for step in self.after(start)[0] if not _is_exact(step)]
        if obstacles:
            raise ModelError(
                f"{what} needs a piecewise-linear network, but {_with_verb(obstacles)} not piecewise linear; "
                "method='sampled' works for any network"
            )

    def require_frozen(self, start: str | None = None) -> None:
        """Refuse a network that is not affine once its gates are frozen.

        Raises:
            ModelError: With every operation that stands in the way.
        """
        steps = self.after(start)[0]
        smooth = {step.key for step in steps if step.gate is not None and not step.gate.exact}
        obstacles = [
            f"{step.op.label} ({step.name})"
            for step in steps
            if step.op.nature == "other" or (step.op.nature == "product" and not smooth & set(step.reads))
        ]
        if obstacles:
            raise ModelError(f"a network is affine for frozen gates only without {', '.join(obstacles)}")

    def after(self, start: str | None) -> tuple[tuple[NetworkStep, ...], str]:
        """The steps that follow a place, and the key of the tensor that enters them.

        Raises:
            InputError: There is no such step, or the network goes round it.
        """
        if start is None:
            return self.steps, INPUT
        first, entry = self._entry(start)
        steps, available, needed = [], {entry}, {entry}
        for step in self.steps[first:]:
            if any(key in available for key in step.reads):
                steps.append(step)
                available.add(step.key)
                needed.update(step.reads)
        if needed - available or self.output not in available:
            sources = ", ".join(sorted(needed - available)) or "its input"
            raise InputError(
                f"the output is not a function of {start!r} alone: the network goes round it (from {sources}); "
                "choose a place where all paths meet"
            )
        return _with_last(steps, self.output), entry

    def _entry(self, start: str) -> tuple[int, str]:
        name, _, port = start.partition(":")
        if port not in ("", "in", "out"):
            raise InputError(f"{start!r}: a place ends in :in or :out")
        indices = [i for i, step in enumerate(self.steps) if step.name == name or step.name.startswith(f"{name}.")]
        if not indices:
            raise InputError(unknown("place", name, [step.name for step in self.steps]))
        if port == "in":
            return indices[0], self.steps[indices[0]].reads[0]
        return indices[-1] + 1, self.steps[indices[-1]].key

    def cast(self, dtype: torch.dtype) -> "Network":
        """The network of a copy of the module in another precision; this one if it has that precision."""
        return self if dtype == self.dtype else Network(copy.deepcopy(self.module).to(dtype))

    def check(self, x: Rows) -> None:
        """Compare the steps with the module itself, once: rows must not depend on each other, nor a branch on the input.

        Raises:
            ModelError: The traced network computes something else, or not a row of outputs for each point.
        """
        if self._agrees:
            return
        rows = torch.cat([x, _other_row(x[:1])])
        with guarded(torch.no_grad()):
            outputs = self.run(rows)
            slices = slice(1), slice(len(x), None), slice(None)
            references = [(part, self.module(rows[part])) for part in slices]
        tolerance = 1e-4 if x.dtype != torch.float64 else 1e-9
        size = float(outputs.abs().nan_to_num(posinf=0).max()) if outputs.numel() else 0.0
        for part, out in references:
            count = len(rows[part])
            if not isinstance(out, Tensor) or out.shape != (count, *outputs.shape[1:]) or len(outputs) != len(rows):
                shape = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
                raise ModelError(
                    f"the network does not give a row of outputs for each point: for {count} it gives {shape}"
                )
            gap = float((out - outputs[part]).abs().nan_to_num(posinf=torch.inf).max()) if out.numel() else 0.0
            if gap > tolerance * size:
                raise ModelError(
                    f"the traced network differs from the module by {gap:.2g}: rows depend on each other, or a branch of its code "
                    "on the input; method='sampled' works for any network"
                )
        self._agrees = True


_NETWORKS: "WeakKeyDictionary[OpenModel, Network]" = WeakKeyDictionary()


def _is_exact(step: NetworkStep) -> bool:
    return step.op.nature == "affine" or (step.gate is not None and step.gate.exact)


def _other_row(x: Rows) -> Rows:
    """Another row of the same size, so that one point is enough to see whether rows depend on each other."""
    size = x.abs().mean()
    wave = torch.cos(torch.arange(x.numel(), dtype=x.dtype, device=x.device)).reshape(x.shape)
    return x + torch.where(size > 0, size, torch.ones_like(size)) * wave


def _with_verb(names: list[str]) -> str:
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'}"


def _modes(module: nn.Module) -> tuple[Any, ...]:
    """What a trace depends on beside the code: the modes and the parts of the module."""
    return tuple((id(part), part.training) for part in module.modules())


def _trace_steps(module: nn.Module) -> tuple[tuple[NetworkStep, ...], str]:
    graph = _trace(module)
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    if len(inputs) != 1:
        raise ModelError(
            f"the network reads {len(inputs)} inputs ({', '.join(map(str, inputs))}); it must be one tensor"
        )
    keys = {inputs[0]: INPUT}
    shapes: dict[fx.Node, tuple[fx.Node, ...]] = {}
    steps: list[NetworkStep] = []
    names: dict[str, int] = {}
    output = INPUT
    for node in graph.nodes:
        if node.op == "output":
            if node.args[0] not in keys:
                raise ModelError("the network must give one tensor")
            output = keys[node.args[0]]
        elif node.op not in ("placeholder", "get_attr"):
            name = _step_name(node, names)
            op = classify(node, name, module, lambda argument: _varies(argument, keys))
            shape_inputs = [part for part in node.all_input_nodes if part in shapes]
            if op.nature == "shape" or (shape_inputs and not any(part in keys for part in node.all_input_nodes)):
                shapes[node] = tuple(node.all_input_nodes)
                continue
            keys[node] = node.name
            steps.append(_step(node, name, op, module, dict(keys), shapes))
            if _is_in_place(node, module):
                # who reads the tensor from here on, by whatever name, finds it overwritten
                old_key = keys.get(node.all_input_nodes[0])
                keys.update({part: node.name for part, key in keys.items() if key == old_key})
    return _with_last(steps, output), output


def _varies(argument: Any, keys: Mapping[fx.Node, str]) -> bool:
    if isinstance(argument, list | tuple):
        return any(_varies(part, keys) for part in argument)
    return isinstance(argument, fx.Node) and argument in keys


def _step(
    node: fx.Node, name: str, op: Op, module: nn.Module, keys: dict[fx.Node, str], shapes: Mapping[fx.Node, Any]
) -> NetworkStep:
    """The step of a node; sizes that it reads are worked out anew, since rows may have been added."""
    reads: list[str] = []

    def gather(part: fx.Node) -> None:
        if part in keys and keys[part] not in reads:
            reads.append(keys[part])
        for other in shapes.get(part, ()):
            gather(other)

    for part in node.all_input_nodes:
        gather(part)

    def value(part: fx.Node, live: Mapping[str, Any]) -> Any:
        if part in keys:
            return live[keys[part]]
        if part.op == "get_attr":
            return _attribute(module, str(part.target))
        return _evaluate(part, lambda other: value(other, live), module)

    if node.op == "call_module" and len(node.args) == 1 and not node.kwargs:
        submodule, key = module.get_submodule(str(node.target)), keys[node.args[0]]  # type: ignore[index]
        if _is_in_place(node, module):
            return NetworkStep(name, node.name, op, tuple(reads), lambda live: submodule(live[key].clone()))
        return NetworkStep(name, node.name, op, tuple(reads), lambda live: submodule(live[key]))
    if _is_in_place(node, module):
        # the user's tensor stays as it is
        first = reads[0]
        return NetworkStep(
            name, node.name, op, tuple(reads),
            lambda live: _evaluate(node, lambda part: value(part, {**live, first: live[first].clone()}), module),
        )  # fmt: skip
    return NetworkStep(
        name, node.name, op, tuple(reads), lambda live: _evaluate(node, lambda part: value(part, live), module)
    )


def _evaluate(node: fx.Node, value: Callable[[fx.Node], Any], module: nn.Module) -> Any:
    args = fx.node.map_arg(node.args, value)
    kwargs = fx.node.map_arg(node.kwargs, value)
    if node.op == "call_module":
        return module.get_submodule(str(node.target))(*args, **kwargs)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    return node.target(*args, **kwargs)  # type: ignore[operator]


def _is_in_place(node: fx.Node, module: nn.Module) -> bool:
    if node.op == "call_module":
        return bool(getattr(module.get_submodule(str(node.target)), "inplace", False))
    function_name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return (
        function_name in ("iadd", "isub", "imul", "itruediv")
        or function_name.endswith("_")
        or bool(node.kwargs.get("inplace"))
    )


def _attribute(module: nn.Module, path: str) -> Any:
    for part in path.split("."):
        module = getattr(module, part)
    return module


def _trace(module: nn.Module) -> fx.Graph:
    try:
        return fx.Tracer().trace(module)
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(
            f"torch.fx cannot follow {type(module).__name__} ({lines[0]}); method='sampled' works for any network"
        ) from error


def _step_name(node: fx.Node, names: dict[str, int]) -> str:
    """The module's path; for a function the path of the module around it and the function's name, numbered when it comes again."""
    if node.op == "call_module":
        name = str(node.target)
    else:
        stack = list(node.meta.get("nn_module_stack", {}).values())
        around = str(stack[-1][0]) if stack else ""
        function_name = (
            node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
        )
        name = ".".join(part for part in (around, function_name) if part)
    names[name] = names.get(name, 0) + 1
    return name if names[name] == 1 else f"{name}#{names[name]}"


def _with_last(steps: list[NetworkStep], output: str) -> tuple[NetworkStep, ...]:
    """The same steps, each with the keys that nothing reads after it."""
    later_reads: set[str] = {output}
    reversed_steps = []
    for step in reversed(steps):
        reversed_steps.append(replace(step, last=tuple(key for key in step.reads if key not in later_reads)))
        later_reads.update(step.reads)
    return tuple(reversed(reversed_steps))

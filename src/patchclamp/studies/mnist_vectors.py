"""What is added and where: stages of a small network, vectors between classes, and gates that know one class.

Everything here is made from training images alone.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

import patchclamp as pc
from patchclamp.core.errors import InputError, check_choice, unknown
from patchclamp.core.interrupts import guarded
from patchclamp.studies.digits import CLASSES, Images

Gated = Literal["none", "code", "activation", "verdict"]
GATES: tuple[Gated, ...] = ("none", "code", "activation", "verdict")
Test = Callable[[Tensor], Tensor]


def stages(net: nn.Sequential, pixels: Tensor) -> list[int]:
    """Numbers of the layers whose output is one vector an image: where something can be added."""
    numbers, x = [], pixels[:1]
    with guarded(torch.no_grad()):
        for number, layer in enumerate(net):
            x = layer(x)
            if x.ndim == 2:
                numbers.append(number)
    return numbers


def activations(net: nn.Sequential, stage: int, pixels: Tensor) -> Tensor:
    """What stage number ``stage`` gives, ``[row, d]``."""
    head = net[: stage + 1]
    with guarded(torch.no_grad()):
        return torch.cat([head(part) for part in pixels.split(2000)])


def of_image(number: int, net: nn.Sequential, stage: int, data: Images) -> Tensor:
    """Activations ``[class, d]`` of the n-th training image of each class; the seed takes number 0."""
    rows = [int((data.train_labels == label).nonzero()[number]) for label in range(CLASSES)]
    return activations(net, stage, data.train[rows])


def class_means(x: Tensor, labels: Tensor) -> Tensor:
    """Mean rows ``[class, d]``."""
    return torch.stack([x[labels == label].mean(0) for label in range(CLASSES)])


def differences(points: Tensor) -> Tensor:
    """``a - b`` for every two classes: ``[a, b, d]`` of points ``[class, d]``. The diagonal is 0."""
    return points.unsqueeze(1) - points.unsqueeze(0)


def head_aligned(net: nn.Sequential, up: float, down: float) -> Tensor:
    """Vectors ``[a, b, d]`` that, before the linear head W, raise a's logit by ``up``, lower b's by ``down``, and leave the others.

    They are ``pinv(W) (up e_a - down e_b)``, the shortest that do so, and 0 on the diagonal.

    Raises:
        InputError: The network does not end in a linear head.
    """
    head = net[-1]
    if not isinstance(head, nn.Linear):
        raise InputError(f"a head-aligned vector needs a linear head, not {type(head).__name__}")
    columns = torch.linalg.pinv(head.weight.detach().double()).T
    exact = up * columns.unsqueeze(1) - down * columns.unsqueeze(0)
    exact[torch.arange(CLASSES), torch.arange(CLASSES)] = 0
    aligned: Tensor = exact.to(head.weight.dtype)
    return aligned


def vectors(name: str, net: nn.Sequential, stage: int, data: Images, hidden: Tensor | None = None) -> Tensor:
    """Vectors ``[a, b, d]`` by name: ``mean``, or ``image N`` for the N-th training image of each class.

    Args:
        name: Which.
        net: The network.
        stage: Where they are added.
        data: Whose training images they come from.
        hidden: Activations of all training images there, if they are known.

    Raises:
        InputError: There are none of this name.
    """
    if name == "mean":
        x = activations(net, stage, data.train) if hidden is None else hidden
        return differences(class_means(x, data.train_labels))
    kind, _, number = name.partition(" ")
    if kind != "image" or not number.isdigit():
        raise InputError(unknown("vector", name, ["mean", "image 0", "image 1"]))
    return differences(of_image(int(number), net, stage, data))


def gates(
    kind: Gated, net: nn.Sequential, stage: int, data: Images, hidden: Tensor | None = None
) -> Sequence[Test | None]:
    """For each class a test that opens for its activations; None is always open.

    ``code`` opens where the spline code is nearest the class's mean code, ``activation`` where the activation is nearest the
    class's mean. ``verdict`` opens where the network itself is about to name the class: a control that needs no centres.

    Args:
        kind: Which.
        net: The network.
        stage: Where they test.
        data: Whose training images give the centres.
        hidden: Activations of all training images there, if they are known.

    Raises:
        InputError: There is no such gate.
    """
    check_choice("gate", kind, GATES)
    if kind == "none":
        return [None] * CLASSES
    if kind == "verdict":
        return [_verdict(net[stage + 1 :], label) for label in range(CLASSES)]
    x = activations(net, stage, data.train) if hidden is None else hidden
    if kind == "code":
        codes = class_means((x > 0).to(x.dtype), data.train_labels)
        return [pc.NearestCode(codes, label) for label in range(CLASSES)]
    means = class_means(x, data.train_labels)
    return [pc.Nearest(means, label) for label in range(CLASSES)]


def _verdict(rest: nn.Module, label: int) -> Test:
    def test(x: Tensor) -> Tensor:
        with guarded(torch.no_grad()):
            answers: Any = rest(x).argmax(-1)
        verdict: Tensor = answers == label
        return verdict

    return test

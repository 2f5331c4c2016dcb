"""What additions do to a network, class by class, and the numbers that are read off it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd
import torch
from torch import Tensor, nn

from patchclamp.core.interrupts import guarded
from patchclamp.studies.digits import CLASSES
from patchclamp.studies.mnist_vectors import Test, activations

Over = Literal["all", "b", "others"]
OVER: tuple[Over, ...] = ("all", "b", "others")
"""Images that a loss is averaged over: all, those of class b, those not of class b. The seed leaves open which."""


@dataclass(frozen=True, eq=False)
class Response:
    """Outputs of the network under the addition ``a - b``, averaged over the images of each class."""

    sizes: Tensor
    """``[input]``: images of each class."""
    loss: Tensor
    """``[a, b, input]``: mean cross-entropy, in nats."""
    counts: Tensor
    """``[a, b, input, output]``: images of a class that are called so."""
    probability: Tensor
    """``[a, b, input, output]``: mean probability."""
    clean_loss: Tensor
    """``[input]``: without an addition."""
    clean_counts: Tensor
    """``[input, output]``: without an addition."""
    clean_probability: Tensor
    """``[input, output]``: without an addition."""

    def table(self, over: Over = "all") -> Tensor:
        """Mean loss ``[a, b]`` over some of the images."""
        return _average(self.loss, self.sizes, over)

    def clean_table(self, over: Over = "all") -> Tensor:
        """The same without an addition: alike for every a."""
        return _average(self.clean_loss.expand(CLASSES, CLASSES, -1), self.sizes, over)

    @property
    def transfer(self) -> Tensor:
        """``[a, b]``: share of b's images now called a; NaN on the diagonal."""
        diagonal = torch.arange(CLASSES)
        confusions = torch.stack([self.counts[:, b, b].diagonal() for b in range(CLASSES)], 1)
        share = confusions / self.sizes
        share[diagonal, diagonal] = torch.nan
        return share

    @property
    def retention(self) -> Tensor:
        """``[a, b]``: share of the images of the other eight classes that are still called right; NaN on the diagonal."""
        return _retention(self.counts.diagonal(dim1=-2, dim2=-1), self.sizes)

    @property
    def clean_retention(self) -> Tensor:
        """The same without an addition."""
        right = self.clean_counts.diagonal().expand(CLASSES, CLASSES, -1)
        return _retention(right, self.sizes)

    def summary(self) -> dict[str, float]:
        """Averages: losses over all 100 combinations of a and b, transfer and retention over the 90 of two classes."""
        losses = {f"loss {over}": float(self.table(over).mean()) for over in OVER}
        clean = {f"clean {over}": float(self.clean_table(over).mean()) for over in OVER}
        shares = {"transfer": self.transfer, "retention": self.retention, "clean retention": self.clean_retention}
        return {**clean, **losses, **{name: float(values.nanmean()) for name, values in shares.items()}}

    def thirds(self, names: Sequence[str], least: float = 0.5) -> pd.DataFrame:
        """Every case where most images of a class are called a class that is neither theirs nor a.

        Args:
            names: The classes are called by these names in the table.
            least: Share of the images from which on it counts as most.
        """
        share = self.counts / self.sizes[:, None]
        winner, rows = share.max(-1), []
        for a, b, image_class in torch.cartesian_prod(*[torch.arange(CLASSES)] * 3).tolist():
            output, value = int(winner.indices[a, b, image_class]), float(winner.values[a, b, image_class])
            if a != b and output not in (a, image_class) and value > least:
                before = float(self.clean_counts[image_class, output] / self.sizes[image_class])
                rows.append([names[a], names[b], names[image_class], names[output], value, before])
        table = pd.DataFrame(rows, columns=["a", "b", "image of", "called", "share", "share before"])
        return table.sort_values("share", ascending=False, kind="stable").reset_index(drop=True)

    def frame(self, names: Sequence[str]) -> pd.DataFrame:
        """The full array, one row an ``[a, b, input, output]``."""
        index = pd.MultiIndex.from_product([names] * 4, names=["a", "b", "input", "output"])
        columns = {
            "count": self.counts.flatten().numpy(),
            "count before": self.clean_counts.expand(CLASSES, CLASSES, -1, -1).flatten().numpy(),
            "probability": self.probability.flatten().numpy(),
            "probability before": self.clean_probability.expand(CLASSES, CLASSES, -1, -1).flatten().numpy(),
        }
        return pd.DataFrame(columns, index=index).reset_index()


def _average(loss: Tensor, sizes: Tensor, over: Over) -> Tensor:
    identity = torch.eye(CLASSES, dtype=loss.dtype)
    weight = sizes * {"all": torch.ones_like(identity), "b": identity, "others": 1 - identity}[over]
    return (loss * weight).sum(-1) / weight.sum(-1)


def _retention(right: Tensor, sizes: Tensor) -> Tensor:
    identity = torch.eye(CLASSES, dtype=sizes.dtype)
    other = (1 - identity.unsqueeze(1)) * (1 - identity.unsqueeze(0))
    share = (right * other).sum(-1) / (sizes * other).sum(-1)
    share[torch.arange(CLASSES), torch.arange(CLASSES)] = torch.nan
    return share


def respond(
    net: nn.Sequential,
    stage: int,
    pixels: Tensor,
    labels: Tensor,
    vectors: Tensor,
    gates: Sequence[Test | None] | None = None,
) -> Response:
    """Add every vector ``a - b`` to what a stage gives, for every image, and see what comes out.

    Plain tensor algebra: the layers up to the stage run once, a linear layer after it is passed by ``W (h + v) = W h + W v``, and
    where a gate is shut nothing runs. It equals runs of ``pc.Add`` (tested), at a fraction of their time.

    Args:
        net: The network.
        stage: After which layer.
        pixels: Images, ``[row, 784]``.
        labels: The images belong to these classes, ``[row]``.
        vectors: ``[a, b, d]``.
        gates: For each b a test of the activation; the addition acts where it is open.
    """
    hidden, after = activations(net, stage, pixels), stage + 1
    masks = [None if test is None else test(hidden) for test in gates or [None] * CLASSES]
    tally = _Tally(labels)
    with guarded(torch.no_grad()):
        logits = net[after:](hidden)
        clean = tally(logits)
        while after < len(net) and isinstance(layer := net[after], nn.Linear):
            hidden, vectors, after = layer(hidden), vectors @ layer.weight.T, after + 1
        rest, rows = net[after:], []
        for a in range(CLASSES):
            for b, mask in enumerate(masks):
                rows.append(tally(_logits_under_addition(rest, hidden, vectors[a, b], mask, logits)))
    loss, counts, probability = (torch.stack(part).unflatten(0, (CLASSES, CLASSES)) for part in zip(*rows, strict=True))
    return Response(tally.sizes, loss, counts, probability, *clean)


def _logits_under_addition(
    rest: nn.Module, hidden: Tensor, vector: Tensor, mask: Tensor | None, clean: Tensor
) -> Tensor:
    """Logits under an addition, which acts in the rows of the mask."""
    if mask is None:
        logits_of_all: Tensor = rest(hidden + vector)
        return logits_of_all
    logits = clean.clone()
    logits[mask] = rest(hidden[mask] + vector)
    return logits


class _Tally:
    """Averages logits over the images of each class."""

    def __init__(self, labels: Tensor) -> None:
        self.labels = labels
        self.one_hot = nn.functional.one_hot(labels, CLASSES).double()
        self.sizes = self.one_hot.sum(0)

    def __call__(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Loss ``[input]``, counts ``[input, output]``, probability ``[input, output]``."""
        log_probabilities = logits.double().log_softmax(-1)
        losses = -log_probabilities.gather(1, self.labels.unsqueeze(1)).squeeze(1)
        predictions = nn.functional.one_hot(logits.argmax(-1), CLASSES).double()
        class_sums = self.one_hot.T
        return (
            (class_sums @ losses) / self.sizes,
            class_sums @ predictions,
            (class_sums @ log_probabilities.exp()) / self.sizes.unsqueeze(1),
        )

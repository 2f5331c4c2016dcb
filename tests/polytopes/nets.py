"""Small networks of every kind that the polytope lens takes, with random weights."""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Residual(nn.Module):
    """A linear layer, blocks relu(Wx + b + x), and a head."""

    def __init__(self, d_in: int = 5, width: int = 12, depth: int = 2, out: int = 3) -> None:
        super().__init__()
        self.first = nn.Linear(d_in, width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.head = nn.Linear(width, out)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        for block in self.blocks:
            x = torch.relu(block(x) + x)
        return self.head(x)


class Conv(nn.Module):
    """Convolution, batch norm, leaky ReLU, max pool, a residual convolution, average pool, head."""

    def __init__(self, pool: type = nn.MaxPool2d) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.pool = pool(2, 2)
        self.block = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.head = nn.Linear(3 * 4, 3)
        with torch.no_grad():
            self.norm.running_mean.normal_(0, 0.3)
            self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.leaky_relu(self.norm(self.conv(x)), 0.1))
        x = x + F.relu(self.block(x))
        x = F.avg_pool2d(x, 2)
        return self.head(x.view(x.size(0), -1))


class Overlapping(nn.Module):
    """A max pool whose padded windows overlap, straight on a convolution: no ReLU before it makes ties."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(2 * 9, 6), nn.ReLU(), nn.Linear(6, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.conv(x)))


def mlp(d_in: int = 5, widths: tuple[int, ...] = (14, 11), out: int = 3, gate: type = nn.ReLU) -> nn.Sequential:
    sizes = (d_in, *widths)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), gate()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], out))


def of_layer(weights: list[list[float]], biases: list[float], *after: nn.Module) -> nn.Sequential:
    """Neurons on the plane with these weights and biases, and what follows."""
    net = nn.Sequential(nn.Linear(2, len(biases)), *after).double().eval()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor(weights, dtype=torch.float64))
        net[0].bias.copy_(torch.tensor(biases, dtype=torch.float64))
    return net


GATES = {
    "relu": nn.ReLU, "leaky": lambda: nn.LeakyReLU(0.2), "falling": lambda: nn.LeakyReLU(-0.5), "relu6": nn.ReLU6,
    "hardtanh": nn.Hardtanh, "hardsigmoid": nn.Hardsigmoid, "prelu": lambda: nn.PReLU(1, 0.3), "in place": lambda: nn.ReLU(True),
}  # fmt: skip


def networks(seed: int = 0) -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """Networks by name, each with the shape of a point; float64, in evaluation mode."""
    torch.manual_seed(seed)
    made: dict[str, tuple[nn.Module, tuple[int, ...]]] = {name: (mlp(gate=gate), (5,)) for name, gate in GATES.items()}
    made["residual"] = (Residual(), (5,))
    made["conv"] = (Conv(), (1, 8, 8))
    made["conv with average pools"] = (Conv(nn.AvgPool2d), (1, 8, 8))
    made["overlapping pools"] = (Overlapping(), (1, 6, 6))
    return {name: (net.double().eval(), shape) for name, (net, shape) in made.items()}

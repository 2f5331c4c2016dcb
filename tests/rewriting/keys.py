"""Keys of uneven size along uneven directions, and the update written out in numpy."""

import torch
from torch import Tensor

Update = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def problem(seed: int, inputs: int = 7, outputs: int = 4) -> Update:
    """A matrix ``[in, out]``, keys ``[n, in]``, their second moment, the key to rewrite, and its new value."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    mixing = normal(inputs, inputs) * torch.logspace(1, -1, inputs, dtype=torch.float64)[:, None]
    keys = normal(400, inputs) @ mixing + normal(inputs)
    return normal(inputs, outputs), keys, keys.T @ keys / len(keys), normal(inputs) @ mixing, normal(outputs)

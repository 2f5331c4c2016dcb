"""A random sweep, and each of its cells by hand."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor

import patchclamp as pc
from tests import tiny
from tests.fuzz import draws, formulas, oracle, readings
from tests.fuzz.places import TINY, components

STRATEGIES = ("cell", "rows", "layers", "wavefront")


@dataclass
class Swept:
    """Arguments of ``model.sweep``, and what is needed to do the same by hand."""

    family: str
    inputs: Any
    rows: draws.Ids
    operations: list[formulas.Operation]
    components: list[str]
    layers: list[int]
    at: Any
    resolve: Any
    cumulative: bool
    base: list[draws.Drawn]
    readings: list[readings.Reading]
    scales: tuple[float, ...] = ()
    vector: Tensor = field(default_factory=lambda: torch.zeros(1))
    how: dict[str, Any] = field(default_factory=dict)

    def arguments(self) -> dict[str, Any]:
        """What the user writes."""
        made = [pc.Add(self.vector)] if self.scales else [operation.make() for operation in self.operations]
        reads = [reading.read for reading in self.readings]
        how = dict(self.how)
        if self.shares_nothing and how.get("strategy") in ("layers", "wavefront"):
            how["strategy"] = "rows"  # those that share more are refused
        return {
            "prompts": self.inputs, "edit": made if len(made) > 1 else made[0], "sites": [f"{c}.{self.layers[0]}-{self.layers[-1]}" for c in self.components],
            "at": self.at, "cumulative": self.cumulative, "base": [one.edit for one in self.base], "read": reads if len(reads) > 1 else reads[0],
            **({"over": {"scale": list(self.scales)}} if self.scales else {}), **how,
        }  # fmt: skip

    @property
    def shares_nothing(self) -> bool:
        """Whether an edit is a function of which nothing is known."""
        acting = [] if self.scales else self.operations
        return any(one.name == "Call" for one in (*acting, *(one.operation for one in self.base)))

    def formulas(self, scale: float, scene: formulas.Scene) -> list[oracle.Formula]:
        """What the edits of a cell do."""
        if self.scales:
            return [lambda x: x + scale * self.vector]
        return [operation.formula(scene) for operation in self.operations]


def sweep(rng: Random, family: str) -> Swept:
    """A random one."""
    inputs, rows = draws.prompts(rng, most=2)
    module = tiny.shared(family)
    kinds = rng.sample(components(family), rng.choice([1, 1, 2]))
    widths = {formulas.width_of(module, family, f"{kind}.0") for kind in kinds}
    kinds = kinds if len(widths) == 1 else kinds[:1]
    width = formulas.width_of(module, family, f"{kinds[0]}.0")
    source = [rng.randrange(3, 97) for _ in range(max(map(len, rows)))]
    first = rng.randrange(3)
    at, resolve = ("each", None) if rng.random() < 0.5 else draws.position(rng, [len(r) for r in rows])
    strategy = rng.choice([None, *STRATEGIES[: 4 if TINY[family].generates else 3]])
    reads: list[readings.Reading] = []
    while len(reads) < rng.choice([1, 1, 2, 3]):
        one = readings.reading(rng, components(family))
        if not {name for other in reads for name in other.names} & set(one.names):
            reads.append(one)
    scales = rng.choice([(), (), (1.0, -2.0)])
    operations = [formulas.operation(rng, width, [source]) for _ in range(rng.choice([1, 1, 2]))]
    return Swept(
        family, inputs, rows, operations, kinds, list(range(first, rng.randrange(first, 3) + 1)), at, resolve, rng.random() < 0.25,
        [draws.edit(rng, family, rows) for _ in range(rng.choice([0, 0, 1]))], reads, scales, formulas.gaussian(rng, width),
        {"strategy": strategy, "max_tokens": rng.choice([None, 16, 40]), "budget": rng.choice(["1GB", "8MB"]), "verify": rng.choice([0, 0, 2])},
    )  # fmt: skip


def cells(swept: Swept, module: Any = None) -> Iterator[tuple[dict[str, int], list[list[Tensor]], list[list[Tensor]]]]:
    """For each cell its place in the result, each reading by hand, and each reading of the baseline."""
    module = module or tiny.shared(swept.family)
    sites = tuple(site for one in swept.readings for site in one.sites)
    for number, ids in enumerate(swept.rows):
        shared = [one.change(ids, number, module) for one in swept.base]
        clean = oracle.run(module, swept.family, ids, shared, sites)
        before = [one.by_hand(clean, clean, ids) for one in swept.readings]
        for place in _places(swept, number, len(ids)):
            changes = list(shared)
            below = swept.layers[: place["layer"] + 1] if swept.cumulative else [swept.layers[place["layer"]]]
            for layer in below:
                site = f"{swept.components[place['site']]}.{layer}"
                spot = (place["position"],) if "position" in place else tuple(swept.resolve(len(ids), number))
                scene = formulas.Scene(module, swept.family, tuple(ids), site, spot)
                scale = swept.scales[place["scale"]] if swept.scales else 1.0
                changes += [oracle.Change(site, spot, formula) for formula in swept.formulas(scale, scene)]
            seen = oracle.run(module, swept.family, ids, changes, sites)
            yield {"prompt": number, **place}, [one.by_hand(seen, clean, ids) for one in swept.readings], before


def _places(swept: Swept, number: int, length: int) -> Iterator[dict[str, int]]:
    del number
    for site in range(len(swept.components)):
        for layer in range(len(swept.layers)):
            for position in range(length) if swept.resolve is None else [None]:
                for scale in range(len(swept.scales)) if swept.scales else [None]:
                    yield {
                        "site": site, "layer": layer, **({} if position is None else {"position": position}), **({} if scale is None else {"scale": scale}),
                    }  # fmt: skip


def differing(swept: Swept, grid: pc.Grid, module: Any = None) -> list[str]:
    """Cells of a grid that are not what they are by hand."""
    wrong = []
    for place, values, before in cells(swept, module):
        for one, edited, clean in zip(swept.readings, values, before, strict=True):
            for name, value, base in zip(one.names, edited, clean, strict=True):
                for kind, found, wanted in (
                    ("", grid.dataset[name], value),
                    ("baseline:", grid.dataset[f"baseline:{name}"], base),
                ):
                    here = found.isel({dim: i for dim, i in place.items() if dim in found.dims}).values
                    here = here[tuple(slice(0, n) for n in wanted.shape)] if here.ndim else here
                    loose = 1e-7 if name.startswith("top_") else 0.0
                    if here.shape != tuple(wanted.shape) or not np.allclose(
                        here, wanted.numpy(), rtol=0, atol=max(loose, 1e-9 * max(1.0, float(wanted.abs().max())))
                    ):
                        wrong.append(f"{kind}{name} at {place}: {here.ravel()[:3]} is not {wanted.numpy().ravel()[:3]}")
    return wrong

"""The other libraries, each used as its own documentation recommends, each on its own copy of the model.

Whatever an API allows to be built beforehand is built when a cell is first met, which the comparison of the numbers does
before any clock runs.
"""

import copy
import importlib
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr
from functools import cache, cached_property
from io import StringIO
from typing import Any

import torch
from experiment import Cell, Experiment
from loops import Hooks, HooksLastLogits, HooksRows, Loop
from torch import Tensor
from typing_extensions import override


class Pyvene(Loop):
    """``IntervenableModel``, built once for each set of sites and used again for every position."""

    name = "pyvene"
    components = {"mlp_out": "mlp_output", "attn_out": "attention_output"}  # noqa: RUF012

    def __init__(self, experiment: Experiment) -> None:
        super().__init__(experiment)
        self.pyvene = importlib.import_module("pyvene")
        self.adding = cache(self._adding)
        self.patching = cache(self._patching)

    def _adding(self, site: str, layer: int) -> Any:
        shared = {
            "component": self.components[site],
            "intervention_type": self.pyvene.AdditionIntervention,
            "source_representation": self.experiment.vector,
        }
        return self.pyvene.IntervenableModel([{"layer": i, **shared} for i in range(layer + 1)], model=self.module)

    def _patching(self, layer: int) -> Any:
        kind = self.pyvene.VanillaIntervention
        return self.pyvene.IntervenableModel(
            [{"layer": layer, "component": "block_output", "intervention_type": kind}], model=self.module
        )

    @override
    def added(self, cell: Cell) -> Tensor:
        with torch.no_grad():
            _, done = self.adding(cell.site, cell.layer)(
                {"input_ids": self.experiment.ids}, unit_locations={"base": cell.position}
            )
        return done.logits[0, -1]

    @override
    def patched(self, cell: Cell) -> Tensor:
        source = self.source[cell.layer][:, cell.position : cell.position + 1]
        with torch.no_grad():
            _, done = self.patching(cell.layer)(
                {"input_ids": self.experiment.ids},
                unit_locations={"sources->base": (cell.position, cell.position)},
                source_representations=source,
            )
        return done.logits[0, -1]


class Nnsight(Loop):
    """``TransformersModel.trace``."""

    name = "nnsight"

    def __init__(self, experiment: Experiment) -> None:
        super().__init__(experiment)
        nnsight = importlib.import_module("nnsight")
        tokenizer = copy.deepcopy(experiment.model.tokenizer)
        self.traced = nnsight.TransformersModel(self.module, tokenizer=tokenizer, task="text-generation")

    def edit(self, cell: Cell) -> None:
        """The additions of a cell, within a trace."""
        for layer in self.traced.model.layers[: cell.layer + 1]:
            if cell.site == "mlp_out":
                layer.mlp.output[:, cell.position] += self.experiment.vector
            else:
                layer.self_attn.output[0][:, cell.position] += self.experiment.vector

    @override
    def added(self, cell: Cell) -> Tensor:
        with torch.no_grad(), self.traced.trace(self.experiment.ids):
            self.edit(cell)
            logits = self.traced.lm_head.output[0, -1].save()
        return logits  # noqa: RET504  a trace has no value: what it saves is found under its name

    @override
    def patched(self, cell: Cell) -> Tensor:
        source = self.source[cell.layer][:, cell.position]
        with torch.no_grad(), self.traced.trace(self.experiment.ids):
            self.traced.model.layers[cell.layer].output[:, cell.position] = source
            logits = self.traced.lm_head.output[0, -1].save()
        return logits  # noqa: RET504  a trace has no value: what it saves is found under its name


class NnsightInvokes(Nnsight):
    """nnsight, with cells as invokes of one trace."""

    name = "nnsight, 32 invokes"
    batch = 32

    @override
    def add(self, cells: Sequence[Cell]) -> Tensor:
        found: list[Tensor] = []
        for begin in range(0, len(cells), self.batch):
            found += self._invokes(cells[begin : begin + self.batch])
        return torch.stack([logits.softmax(-1)[self.experiment.answers] for logits in found])

    def _invokes(self, cells: Sequence[Cell]) -> list[Tensor]:
        found: list[Tensor] = []
        with torch.no_grad(), self.traced.trace() as tracer:
            for cell in cells:
                with tracer.invoke(self.experiment.ids):
                    self.edit(cell)
                    found.append(self.traced.lm_head.output[0, -1].save())
        return found


class TransformerLens(Loop):
    """``TransformerBridge.run_with_hooks``, and the library's own loop for activation patching."""

    name = "TransformerLens"

    def __init__(self, experiment: Experiment) -> None:
        super().__init__(experiment)
        bridge = importlib.import_module("transformer_lens.model_bridge").TransformerBridge
        self.bridge = bridge.boot_transformers(
            self.module.config._name_or_path, hf_model=self.module, device="cpu", dtype=torch.float32,
            tokenizer=copy.deepcopy(experiment.model.tokenizer),
        )  # fmt: skip

    @override
    def added(self, cell: Cell) -> Tensor:
        def hook(value: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
            value[:, cell.position] += self.experiment.vector
            return value

        hooks = [(f"blocks.{layer}.hook_{cell.site}", hook) for layer in range(cell.layer + 1)]
        with torch.no_grad():
            return self.bridge.run_with_hooks(self.experiment.ids, fwd_hooks=hooks)[0, -1]

    @override
    def patch(self, cells: Sequence[Cell]) -> Tensor:
        import pandas as pd

        patching = importlib.import_module("transformer_lens.patching")
        rows = pd.DataFrame([{"layer": cell.layer, "pos": cell.position} for cell in cells])
        with torch.no_grad(), redirect_stderr(StringIO()):  # without its progress bar
            return patching.generic_activation_patch(
                self.bridge, self.experiment.ids, self.clean_cache, lambda logits: self.difference(logits[0, -1]),
                patching.layer_pos_patch_setter, "resid_post", index_df=rows,
            )  # fmt: skip

    @cached_property
    def clean_cache(self) -> Any:
        """Every activation of the source prompt."""
        with torch.no_grad():
            return self.bridge.run_with_cache(self.experiment.source_ids)[1]

    @override
    def patched(self, cell: Cell) -> Tensor:
        raise NotImplementedError("the library has its own loop")


LOOPS: tuple[type[Loop], ...] = (Hooks, HooksLastLogits, Pyvene, Nnsight, TransformerLens)
BATCHED: tuple[type[Loop], ...] = (HooksRows, NnsightInvokes)


def build(kinds: Sequence[type[Loop]], experiment: Experiment) -> dict[str, Loop]:
    """Those that are installed; the others are reported."""
    found: dict[str, Loop] = {}
    for kind in kinds:
        try:
            found[kind.name] = kind(experiment)
        except ImportError as error:
            print(f"{kind.name}: left out, {error}", file=sys.stderr)
    return found

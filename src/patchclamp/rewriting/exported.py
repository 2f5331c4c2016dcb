"""A rewritten model as a module, and as a checkpoint that any program of transformers opens."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from patchclamp.core import folders
from patchclamp.core.tolerances import EXACT
from patchclamp.interventions import Agreement, Edit, with_parameters, write_checkpoint
from patchclamp.models.opened import OpenModel
from patchclamp.models.weights import stored
from patchclamp.rewriting.projection import Projection


def with_weight(model: OpenModel, projection: Projection, matrix: Tensor) -> nn.Module:
    """A copy of a model whose projection is ``matrix`` ``[d_mlp, d_model]``; every other tensor is the original's own."""
    module = model.sites.modules[projection.path]
    return with_parameters(model.module, {f"{projection.path}.weight": stored(module, matrix)})


def export(
    model: OpenModel,
    module: nn.Module,
    edits: Sequence[Edit] | None,
    prompts: Sequence[Any],
    folder: Path,
    record: dict[str, Any],
) -> Path:
    """Write a checkpoint with its evidence; see :meth:`patchclamp.Rewrite.export`."""

    def write_record(into: Path, _: Agreement) -> None:
        folders.seal(into, folders.REWRITTEN, record)

    write_checkpoint(model, module, edits, prompts, folder, write_record, EXACT.of(model.dtype))
    return folder

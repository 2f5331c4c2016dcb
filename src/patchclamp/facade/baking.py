"""Edits in the weights themselves, for programs that know no hooks."""

from pathlib import Path
from typing import Any

from torch import nn

from patchclamp.baking import bake as _bake
from patchclamp.baking import llama_cpp as _llama_cpp
from patchclamp.baking.stream import states_of
from patchclamp.core.kinds import File, Folder
from patchclamp.interventions.checkpoint import Agreement
from patchclamp.interventions.edits import Edits
from patchclamp.models.opened import OpenModel


class Baking(OpenModel):
    """Edits in the weights themselves, for programs that know no hooks."""

    def baked(self, edits: Edits, *, prompts: Any = (), tolerance: float | None = None) -> nn.Module:
        """A copy of the module with edits in its weights; see :func:`patchclamp.baked`."""
        return _bake.baked(self, edits, prompts=prompts, tolerance=tolerance)

    def stream_sites(self) -> list[str]:
        """Every state of the residual stream that is read: where a projection has to act to be a change of weights.

        Raises:
            SiteError: A state between attention and MLP has no name.
        """
        return [str(state.sites[0]) for state in states_of(self)]

    def export(
        self,
        edits: Edits,
        folder: Folder,
        *,
        prompts: Any = (),
        tolerance: float | None = None,
    ) -> Agreement:
        """Write a plain ``transformers`` checkpoint with edits in its weights; see :func:`patchclamp.export`."""
        return _bake.export(self, edits, folder, prompts=prompts, tolerance=tolerance)

    def export_control_vector(self, edits: Edits, path: File) -> Path:
        """Write additions to the residual stream for llama.cpp; see :func:`patchclamp.export_control_vector`."""
        return _llama_cpp.export_control_vector(self, edits, path)

"""The result of a rewrite: its rank-one factors, how they were found, and what they did."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from patchclamp.core.errors import InputError, ModelError
from patchclamp.core.kinds import Folder
from patchclamp.core.result import DatasetResult
from patchclamp.interventions import Edit, RankOne
from patchclamp.models.opened import OpenModel
from patchclamp.rewriting import exported
from patchclamp.rewriting.projection import Projection

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

WIDEST = 1e-6
"""The largest relative error of the written direction at which :meth:`Rewrite.edit` is taken to be the update."""


@dataclass(eq=False)
class Rewrite(DatasetResult):
    """One fact, rewritten in one MLP: ``W' = W + (v* - W k*) read^T`` with ``read = C^-1 k* / (k*^T C^-1 k*)``.

    The model it was made with is unchanged. :meth:`edit` is the rewrite as an edit, :meth:`module` a copy of the model with
    the new weight, :meth:`export` a checkpoint.

    Source: Meng et al. 2022, "Locating and editing factual associations in GPT", arXiv 2202.05262, section 3.1.
    """

    kind: ClassVar[str] = "rewrite"

    @property
    def layer(self) -> int:
        """The layer whose down projection is rewritten."""
        return int(self.record["parameters"]["layer"])

    @property
    def probability(self) -> "xr.DataArray":
        """The probability of the target and of the likeliest other answer, before and after, ``[context, moment, answer]``."""
        return self.dataset["probability"]

    @property
    def key(self) -> Tensor:
        """``k*``, the subject's key, ``[d_mlp]`` float64."""
        return self._vector("key")

    @property
    def value(self) -> Tensor:
        """``v*``, what the projection gives for ``k*`` now, ``[d_model]`` float64."""
        return self._vector("value")

    @property
    def change(self) -> Tensor:
        """``v* - W k*``, the update's left factor, ``[d_model]`` float64."""
        return self._vector("change")

    @property
    def read(self) -> Tensor:
        """The update's right factor, with ``read . k* = 1``, ``[d_mlp]`` float64."""
        return self._vector("read")

    def _vector(self, name: str) -> Tensor:
        return torch.from_numpy(self.dataset[name].values.copy())

    def edit(self) -> Edit:
        """The rewrite as an edit at ``mlp_act``, for runs, sweeps and generation.

        The keys are moved by ``(k . read) write`` with ``W write = v* - W k*``, so that the unchanged projection gives what the
        rewritten one would.

        Raises:
            ModelError: No ``write`` exists, because the projection cannot give every value; use :meth:`module`.
        """
        error = float(self.record["checks"]["written"])
        if not error <= WIDEST:
            raise ModelError(
                f"the projection cannot give the new value (relative error {error:.1g}), so the rewrite is no edit of "
                "its input; use rewrite.module(model)"
            )
        return RankOne(self.read, self._vector("write"), site=f"mlp_act.{self.layer}", at="all")

    def weight(self, model: OpenModel) -> Tensor:
        """The rewritten matrix ``[d_mlp, d_model]`` in float64.

        Raises:
            InputError: The model's projection is not the one that was rewritten.
        """
        return self._projection(model).matrix + torch.outer(self.read, self.change)

    def _projection(self, model: OpenModel) -> Projection:
        projection = Projection.of(model, self.layer)
        if projection.key != self.record["checks"]["projection"]:
            raise InputError(
                f"this rewrite is of {self.record['checks']['of']}; the down projection of layer {self.layer} of "
                f"{model.source.name or 'this live model'} has other weights"
            )
        return projection

    def module(self, model: OpenModel) -> nn.Module:
        """A copy of the model with the rewritten projection; all other weights are shared with the original.

        Open it with ``pc.wrap(rewrite.module(model), model.tokenizer)``.

        Raises:
            InputError: The model's projection is not the one that was rewritten.
        """
        return exported.with_weight(model, self._projection(model), self.weight(model))

    def export(self, model: OpenModel, folder: Folder) -> Path:
        """Write a plain ``transformers`` checkpoint with its tokenizer, reload it, and compare.

        Args:
            model: The model that was rewritten; it is left as it is.
            folder: The folder to write, which appears complete or not at all.

        Raises:
            InputError: The folder is not empty, or the model is another one.
            ModelError: The model is none of ``transformers``.
            ExactnessError: The reloaded checkpoint's logits are not those of :meth:`edit`, or of :meth:`module` where
                there is no edit.
        """
        edits = [self.edit()] if self.record["checks"]["written"] <= WIDEST else None
        prompts = [row["ids"] for row in self.record["prompts"]]
        return exported.export(model, self.module(model), edits, prompts, Path(folder), self.plain_record())

    def curve(self) -> "pd.DataFrame":
        """The search for the value: one row a step."""
        names = [name for name, variable in self.dataset.data_vars.items() if variable.dims == ("step",)]
        return self.dataset[names].to_dataframe().reset_index()

    @override
    def frame(self) -> "pd.DataFrame":
        """Probabilities as a table: one row a context and answer."""
        table = self.probability.to_series().unstack("moment")[["before", "after"]]
        return table.reset_index().rename_axis(columns=None)

    def __repr__(self) -> str:
        parameters: Mapping[str, Any] = self.record["parameters"]
        checks = self.record["checks"]
        prompt_probability = self.probability.isel(context=0)
        rows = [
            f"P({answer!r}) {float(prompt_probability.sel(answer=answer, moment='before')):.3g} -> "
            f"{float(prompt_probability.sel(answer=answer, moment='after')):.3g}"
            for answer in prompt_probability["answer"].values
        ]
        return "\n".join(
            [
                f"Rewrite of {self.record['said']!r}: layer {self.layer}, target {self.record['target']!r}",
                f"after the prompt   {', '.join(rows)}",
                f"update    rank one, {checks['update']:.2g} of the weight's norm; |v* - Wk*| = {checks['change']:.2g} |Wk*|",
                f"search    {self.dataset.sizes['step'] - 1} steps, {self.probability.sizes['context']} contexts; "
                f"covariance {checks['covariance']}, ridge {parameters['ridge']:g}, condition {checks['condition']:.2g}",
            ]
        )

"""What a lens saw: per prompt, layer and position a few numbers and the likeliest tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from patchclamp.core.errors import InputError, ModelError
from patchclamp.core.result import DatasetResult
from patchclamp.lenses.metrics import METRICS
from patchclamp.models.inputs import Prompt
from patchclamp.models.opened import OpenModel
from patchclamp.models.sites import Site

if TYPE_CHECKING:
    import pandas as pd


@dataclass(eq=False)
class Table:
    """The buffers that a lens fills: ``[prompt, layer, position]``, and ``[..., k]`` for the likeliest tokens."""

    sites: list[Site]
    positions: list[tuple[int, ...]]
    values: dict[str, Tensor]

    @classmethod
    def empty(cls, sites: list[Site], positions: list[tuple[int, ...]], k: int, dtype: torch.dtype) -> "Table":
        """Make buffers that hold nothing yet: NaN, and -1 for token ids."""
        shape = (len(positions), len(sites), max(map(len, positions)))
        names = ("log_probability", "rank", "entropy", "kl", "final_probability", "agreement")
        values = {name: torch.full(shape, torch.nan, dtype=dtype) for name in names}
        values["top_id"] = torch.full((*shape, k), -1, dtype=torch.long)
        values["top_probability"] = torch.full((*shape, k), torch.nan, dtype=dtype)
        return cls(sites, positions, values)

    def put(self, site: Site, places: Sequence[tuple[int, int]], metrics: dict[str, Tensor]) -> None:
        """Keep one layer's metrics at some (prompt, index of position); a layer that was not asked for is dropped."""
        if site not in self.sites:
            return
        prompt, position = torch.tensor(places).unbind(-1)
        for name, value in metrics.items():
            self.values[name][prompt, self.sites.index(site), position] = value.cpu().to(self.values[name].dtype)

    def check(self) -> None:
        """Refuse logits that are not numbers.

        Raises:
            ModelError: A logit is not a number; the message says where the first one is.
        """
        is_nan = self.values["entropy"].isnan()
        for prompt, at in enumerate(self.positions):
            is_nan[prompt, :, len(at) :] = False
        if is_nan.any():
            prompt, row, position = is_nan.nonzero()[0].tolist()
            raise ModelError(
                f"the logits at {self.sites[row]}, position {self.positions[prompt][position]} of prompt number {prompt} are not "
                "finite: the model overflows there (try dtype='float32'), or its weights hold NaN"
            )


@dataclass(eq=False)
class Lens(DatasetResult):
    """What each layer would predict.

    ``data`` is a Dataset with dims ``prompt, layer, position``: the metrics of :data:`METRICS` (``surprisal``, ``entropy``
    and ``kl`` in nats, ``kl`` unclipped; ``rank`` counts the tokens with a strictly larger logit), and ``top_id``,
    ``top_token``, ``top_probability`` with a dim ``top``. Coordinates: ``site`` of each layer; ``at``, ``token``, ``target``
    of each position. A position without a target (the last one, for ``targets="next"``) has NaN.
    """

    kind: ClassVar[str] = "lens"

    @classmethod
    def build(
        cls,
        model: OpenModel,
        prompts: Sequence[Prompt],
        table: Table,
        targets: Sequence[Sequence[int]],
        record: dict[str, Any],
        tensors: dict[str, Tensor],
    ) -> Self:
        """Make a result of the buffers, with their labels."""
        import xarray as xr

        dims = ("prompt", "layer", "position")
        arrays = {name: value.numpy() for name, value in table.values.items()}
        arrays["probability"] = np.exp(arrays["log_probability"])
        arrays["surprisal"] = -arrays["log_probability"]
        variables: dict[str, Any] = {name: (dims, arrays[name]) for name in METRICS}
        variables |= {name: ((*dims, "top"), arrays[name]) for name in ("top_id", "top_probability")}
        variables["top_token"] = ((*dims, "top"), _texts(model, arrays["top_id"]))
        coords: dict[str, Any] = {
            "prompt": np.array([prompt.name for prompt in prompts], dtype=object),
            "layer": np.array([site.layer for site in table.sites]),
            "site": ("layer", np.array([str(site) for site in table.sites], dtype=object)),
            "at": (("prompt", "position"), _pad(table.positions, -1)),
            "token": (("prompt", "position"), _tokens(prompts, table.positions)),
            "target_id": (("prompt", "position"), _pad(targets, -1)),
        }
        coords["target"] = (("prompt", "position"), _texts(model, coords["target_id"][1]))
        return cls(xr.Dataset(variables, coords), record, tensors)

    def frame(self) -> "pd.DataFrame":
        """One row a prompt, layer and position: its metrics and its likeliest token."""
        top_data = self.dataset.isel(top=0).drop_vars(["top_id", "target_id"])
        table = top_data.to_dataframe().reset_index()
        return table[table["at"] >= 0].reset_index(drop=True)

    def top(self, position: int = -1, prompt: int = 0) -> "pd.DataFrame":
        """The likeliest tokens of every layer (rows) at one of the positions looked at, best first.

        Args:
            position: Index among the positions that were looked at.
            prompt: Index of the prompt.

        Raises:
            InputError: There is no such prompt or position.
        """
        import pandas as pd

        if not -self.dataset.sizes["prompt"] <= prompt < self.dataset.sizes["prompt"]:
            raise InputError(f"prompt number {prompt} is outside 0..{self.dataset.sizes['prompt'] - 1}")
        prompt_data = self.dataset.isel(prompt=prompt)
        count = int((prompt_data["at"].values >= 0).sum())
        if not -count <= position < count:
            raise InputError(f"position {position} is outside the {count} positions that were looked at")
        table = prompt_data["top_token"].isel(position=position % count)
        return pd.DataFrame(table.values, index=pd.Index(prompt_data["site"].values, name="site"))

    def __repr__(self) -> str:
        sizes = ", ".join(f"{dim} {size}" for dim, size in self.dataset.sizes.items())
        return f"{type(self).__name__} of {', '.join(METRICS)}: {sizes}"


def _pad(rows: Sequence[Sequence[int]], fill: int) -> Any:
    length = max(map(len, rows))
    return np.array([[*row, *[fill] * (length - len(row))] for row in rows])


def _tokens(prompts: Sequence[Prompt], positions: Sequence[tuple[int, ...]]) -> Any:
    width = max(map(len, positions))
    rows = [[p.tokens[i] for i in at] + [""] * (width - len(at)) for p, at in zip(prompts, positions, strict=True)]
    return np.array(rows, dtype=object)


def _texts(model: OpenModel, ids: Any) -> Any:
    """Token text of an array of ids; '' for -1."""
    names = {int(i): model.output_label(int(i)) for i in np.unique(ids) if i >= 0}
    return np.array([names.get(int(i), "") for i in ids.flat], dtype=object).reshape(ids.shape)

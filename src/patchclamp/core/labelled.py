"""Labelled arrays to and from plain tensors and JSON, so that results are saved without pickle."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    import xarray as xr


def pack(dataset: "xr.Dataset") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split a dataset into numeric arrays and a JSON description (dims, text coordinates, attributes)."""
    arrays: dict[str, Tensor] = {}
    description: dict[str, Any] = {"variables": {}, "coords": {}, "attrs": dict(dataset.attrs)}
    for group, items in (("variables", dataset.data_vars), ("coords", dataset.coords)):
        for name, variable in items.items():
            entry: dict[str, Any] = {"dims": list(variable.dims)}
            if variable.attrs:
                entry["attrs"] = dict(variable.attrs)
            values = variable.values
            if values.dtype.kind in "OUS":
                entry["text"] = values.astype(object).tolist()
            else:
                arrays[str(name)] = torch.from_numpy(np.array(values))
            description[group][str(name)] = entry
    return arrays, description


def unpack(arrays: dict[str, Tensor], description: dict[str, Any]) -> "xr.Dataset":
    """Give the dataset that :func:`pack` split."""
    import xarray as xr

    def variable(name: str, entry: dict[str, Any]) -> Any:
        values = np.array(entry["text"], dtype=object) if "text" in entry else arrays[name].numpy()
        return xr.Variable(entry["dims"], values, attrs=entry.get("attrs"))

    return xr.Dataset(
        {name: variable(name, entry) for name, entry in description["variables"].items()},
        coords={name: variable(name, entry) for name, entry in description["coords"].items()},
        attrs=description["attrs"],
    )

"""Spline codes: which side of each gate every row lies on, as packed bits with names for layers and labels for rows."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from patchclamp.core import kinds
from patchclamp.core.digest import digest
from patchclamp.core.errors import InputError, check_choice, unknown
from patchclamp.core.result import DatasetResult, record_of_arrays
from patchclamp.polytopes import neighbours
from patchclamp.polytopes.neighbours import Metric, Neighbours, Packed

if TYPE_CHECKING:
    import pandas as pd

Labels = Mapping[str, kinds.Labels] | kinds.Labels | None
"""For each row: one label, or several by name."""
LABEL = "label"
"""Name of labels that were given without one."""
RESERVED = ("code", "row", "byte")
COMPARED_ROWS = 2000
"""Rows, evenly spaced, of which :meth:`SplineCodes.separation` compares all pairs."""


@dataclass(frozen=True)
class CodeLayer:
    """Where the bits of a layer are; each layer begins at a byte."""

    name: str
    shape: tuple[int, ...]
    """The shape of one row."""
    offset: int
    """The first byte of the layer."""

    @property
    def bits(self) -> int:
        """The number of bits of a row in this layer."""
        return prod(self.shape)

    @property
    def bytes(self) -> slice:
        """The bytes in which they lie."""
        return slice(self.offset, self.offset + -(-self.bits // 8))


@dataclass(frozen=True, eq=False)
class Distinct:
    """The different codes among the rows, in the order of their first rows."""

    rows: Tensor
    """``[code]`` the first row that has it."""
    counts: Tensor
    """``[code]`` how many rows have it."""
    inverse: Tensor
    """``[row]`` which code it has."""


@dataclass(eq=False)
class SplineCodes(DatasetResult):
    """Binary codes of rows (inputs, tokens, places of an image): for each gate, on which side of it a row lies.

    ``data["code"]`` is ``[row, byte]`` uint8; what labels the rows are coordinates. Made by :meth:`from_preactivations`,
    :meth:`from_bits` or :func:`patchclamp.polytopes.spline_codes`.

    Source: Balestriero and Baraniuk 2018 (the code); Black, Sharkey et al. 2022, arXiv 2211.12312 (codes from a layer to the end,
    "pathways").
    """

    kind: ClassVar[str] = "spline_codes"

    @classmethod
    def from_preactivations(cls, values: Mapping[str, Tensor], labels: Labels = None) -> Self:
        """Codes of gates that change at 0 (ReLU and its kin, SiLU, GELU).

        Args:
            values: Pre-activations of each layer, ``[row, *shape]``, in the order of the forward pass.
            labels: One a row, or several by name.

        Raises:
            InputError: No layer, no rows, numbers of rows that differ, or NaN.
        """
        for name, value in values.items():
            if bool(torch.isnan(value).any()):
                raise InputError(f"pre-activations of {name!r} hold NaN, which lies on no side of a gate")
        return cls.from_bits({name: value.detach() > 0 for name, value in values.items()}, labels)

    @classmethod
    def from_bits(
        cls,
        bits: Mapping[str, Tensor],
        labels: Labels = None,
        record: dict[str, Any] | None = None,
        tensors: dict[str, Tensor] | None = None,
    ) -> Self:
        """Codes of bits; a gate with several breakpoints, or a max-pool, has several.

        Args:
            bits: Booleans of each layer, ``[row, *shape]``, in the order of the forward pass.
            labels: One a row, or several by name.
            record: The evidence, where a model made the bits.
            tensors: The tensors that the record refers to.

        Raises:
            InputError: No layer, no rows, numbers of rows or of labels that differ, or values that are no booleans.
        """
        import xarray as xr

        count = _count(bits)
        label_columns = named_labels(labels, count)
        packed, layers, offset = [], [], 0
        for name, value in bits.items():
            layer_bytes = np.packbits(value.detach().cpu().numpy().reshape(count, -1), axis=1)
            packed.append(layer_bytes)
            layers.append([name, list(value.shape[1:]), offset])
            offset += layer_bytes.shape[1]
        dataset = xr.Dataset(
            {"code": (("row", "byte"), np.concatenate(packed, axis=1))},
            {name: ("row", values) for name, values in label_columns.items()},
            {"layers": layers},
        )
        if record is None:
            parameters = {
                "rows": count,
                "digest": digest(
                    torch.from_numpy(dataset["code"].values), {k: v.tolist() for k, v in label_columns.items()}
                ),
            }
            record = record_of_arrays(parameters)
        return cls(dataset, record, tensors or {})

    def __len__(self) -> int:
        return int(self.dataset.sizes["row"])

    def __repr__(self) -> str:
        distinct = len(self.unique().rows)
        sizes = ", ".join(f"{layer.name} {'x'.join(map(str, layer.shape))}" for layer in self.layers[:6])
        more = f", ... ({len(self.layers) - 6} more)" if len(self.layers) > 6 else ""
        return f"SplineCodes of {len(self)} rows, {self.bits} bits, {distinct} distinct: {sizes}{more}"

    @property
    def layers(self) -> tuple[CodeLayer, ...]:
        """In the order of the forward pass."""
        return tuple(CodeLayer(name, tuple(shape), offset) for name, shape, offset in self.dataset.attrs["layers"])

    @property
    def bits(self) -> int:
        """Bits of a row, over all layers."""
        return sum(layer.bits for layer in self.layers)

    @property
    def packed(self) -> Packed:
        """``[row, byte]`` uint8."""
        values: Packed = self.dataset["code"].values
        return values

    def labels(self, name: str | None = None) -> Any:
        """The labels of the rows as an array; the first ones without a name.

        Raises:
            InputError: There are none, or none of this name.
        """
        names = [str(coord) for coord in self.dataset.coords]
        if not names:
            raise InputError("these codes have no labels; give them when the codes are made")
        if name is not None and name not in names:
            raise InputError(unknown("labels", name, names))
        return self.dataset[name or names[0]].values

    def layer(self, name: str) -> "SplineCodes":
        """The codes of one layer.

        Raises:
            InputError: There is no such layer.
        """
        return self._select([self._find(name)])

    def since(self, name: str) -> "SplineCodes":
        """The codes from a layer to the end: the pathways that rows take from there.

        Raises:
            InputError: There is no such layer.
        """
        first = self._find(name)
        return self._select([layer for layer in self.layers if layer.offset >= first.offset])

    def at(self, height: int, width: int) -> "SplineCodes":
        """The codes of one place of a convolutional layer of shape ``[channel, height, width, ...]``.

        Raises:
            InputError: There are several layers, the layer has no places, or not this one.
        """
        if len(self.layers) != 1:
            names = ", ".join(layer.name for layer in self.layers)
            raise InputError(f"choose a layer first, as in codes.layer(name).at(...); layers: {names}")
        (layer,) = self.layers
        if len(layer.shape) < 3:
            raise InputError(f"{layer.name!r} has shape {layer.shape}: no channels, height and width")
        if not (0 <= height < layer.shape[1] and 0 <= width < layer.shape[2]):
            raise InputError(f"place {(height, width)} is outside the {layer.shape[1:3]} places of {layer.name!r}")
        return self._from_bits({f"{layer.name}[{height},{width}]": self.dense(layer.name)[:, :, height, width]})

    def rows(self, chosen: Any) -> "SplineCodes":
        """Some of the rows, by index or by truth values.

        Raises:
            InputError: None is chosen, or one that there is not.
        """
        try:
            index = np.arange(len(self))[np.asarray(chosen)].reshape(-1)
        except IndexError as error:
            raise InputError(f"rows are chosen from {len(self)} by whole numbers or truth values: {error}") from error
        if not len(index):
            raise InputError("no rows were chosen; codes have one at least")
        return SplineCodes(self.dataset.isel(row=index), self._derived("rows"), self.tensors)

    def dense(self, name: str | None = None) -> Tensor:
        """The bits as booleans: ``[row, *shape]`` of one layer, or ``[row, bit]`` of all.

        Raises:
            InputError: There is no such layer.
        """
        if name is None:
            return torch.cat([self.dense(layer.name).flatten(1) for layer in self.layers], dim=1)
        layer = self._find(name)
        bits = np.unpackbits(self.packed[:, layer.bytes], axis=1, count=layer.bits)
        return torch.from_numpy(bits).bool().reshape(len(self), *layer.shape)

    def hamming(self, other: "SplineCodes | None" = None) -> Tensor:
        """Bits that differ, ``[row, row of the other]`` int32; to all own rows without another.

        Raises:
            InputError: The layers differ.
        """
        return neighbours.hamming(self.packed, self._packed_of(other))

    def jaccard(self, other: "SplineCodes | None" = None) -> Tensor:
        """1 - (bits set in both) / (bits set in either), ``[row, row of the other]`` float64.

        Raises:
            InputError: The layers differ.
        """
        return neighbours.jaccard(self.packed, self._packed_of(other))

    def knn(self, queries: "SplineCodes | None" = None, k: int = 5, metric: Metric = "hamming") -> Neighbours:
        """The nearest of these rows for each query; without queries, the nearest other row of each of these.

        Args:
            queries: Codes of the same layers.
            k: The number of neighbours of each query.
            metric: ``"hamming"`` or ``"jaccard"``.

        Raises:
            InputError: The layers differ, or there are fewer rows than neighbours.
        """
        if queries is not None:
            return neighbours.knn(self.packed, self._packed_of(queries), k, metric)
        if not 1 <= k < len(self):
            raise InputError(f"k = {k}: each of {len(self)} codes has {len(self) - 1} others")
        nearest = neighbours.knn(self.packed, self.packed, k + 1, metric)
        others = nearest.index != torch.arange(len(self))[:, None]
        # a row with more than k equals before it is not among its own neighbours: the last one goes instead
        others[others.all(dim=1), -1] = False
        return Neighbours(nearest.index[others].reshape(-1, k), nearest.distance[others].reshape(-1, k))

    def unique(self) -> Distinct:
        """The different codes, and how many rows have each."""
        row_bytes = np.ascontiguousarray(self.packed).view(np.dtype((np.void, self.packed.shape[1])))[:, 0]
        _, first, inverse, counts = np.unique(row_bytes, return_index=True, return_inverse=True, return_counts=True)
        order = np.argsort(first)
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        return Distinct(*(torch.from_numpy(values) for values in (first[order], counts[order], place[inverse])))

    def separation(self, label: str | None = None) -> "pd.DataFrame":
        """For each layer: its share of set bits, and the mean share of differing bits within and between labels.

        Of more than :data:`COMPARED_ROWS` rows, evenly spaced ones are compared.

        Args:
            label: The labels by name; the first by default, and without any, the columns ``within`` and ``between`` are missing.
        """
        import pandas as pd

        sample = np.unique(np.linspace(0, len(self) - 1, min(len(self), COMPARED_ROWS)).round().astype(int))
        row_labels = self.labels(label)[sample] if self.dataset.coords else None
        rows = []
        for layer in self.layers:
            layer_codes = self.layer(layer.name)
            row = {"layer": layer.name, "shape": "x".join(map(str, layer.shape)), "bits": layer.bits}
            row |= {"set": float(neighbours.counts(layer_codes.packed).sum()) / (len(layer_codes) * layer.bits)}
            row |= {"distinct": len(layer_codes.unique().rows)}
            if row_labels is not None:
                differences = (
                    neighbours.hamming(layer_codes.packed[sample], layer_codes.packed[sample]).numpy() / layer.bits
                )
                same = row_labels[:, None] == row_labels
                pairs = np.triu(np.ones_like(same), 1)
                row |= {"within": _mean(differences, same & pairs), "between": _mean(differences, ~same & pairs)}
            rows.append(row)
        return pd.DataFrame(rows)

    def frame(self) -> "pd.DataFrame":
        """One row a row: its labels, the number of set bits of each layer, and which of the distinct codes it has."""
        import pandas as pd

        columns = {str(name): values.values for name, values in self.dataset.coords.items()}
        columns |= {
            f"set in {layer.name}": neighbours.counts(self.packed[:, layer.bytes]).numpy() for layer in self.layers
        }
        return pd.DataFrame(columns | {"distinct code": self.unique().inverse.numpy()})

    def _find(self, name: str) -> CodeLayer:
        layers = {layer.name: layer for layer in self.layers}
        check_choice("layer", name, layers)
        return layers[name]

    def _select(self, layers: list[CodeLayer]) -> "SplineCodes":
        """The codes of layers that follow one another."""
        first, last = layers[0].offset, layers[-1].bytes.stop
        dataset = self.dataset.isel(byte=slice(first, last))
        dataset.attrs = {"layers": [[layer.name, list(layer.shape), layer.offset - first] for layer in layers]}
        return SplineCodes(dataset, self._derived(", ".join(layer.name for layer in layers)), self.tensors)

    def _from_bits(self, bits: dict[str, Tensor]) -> "SplineCodes":
        labels = {str(name): values.values for name, values in self.dataset.coords.items()}
        return SplineCodes.from_bits(bits, labels, self._derived(", ".join(bits)), self.tensors)

    def _derived(self, part: str) -> dict[str, Any]:
        reason = self.record.get("not_repeatable", f"it is a part ({part}) of other codes")
        return self.record | {"parameters": self.record["parameters"] | {"part": part}, "not_repeatable": reason}

    def _packed_of(self, other: "SplineCodes | None") -> Packed:
        if other is None:
            return self.packed
        shapes, other_shapes = ([layer.shape for layer in codes.layers] for codes in (self, other))
        if shapes != other_shapes:
            raise InputError(f"codes of layers {other_shapes} cannot be compared with codes of layers {shapes}")
        return other.packed


def _count(bits: Mapping[str, Tensor]) -> int:
    """The number of rows of bits, which are checked."""
    if not bits:
        raise InputError("spline codes need at least one layer; got none")
    counts = {name: value.shape[0] if value.dim() > 1 else 0 for name, value in bits.items()}
    for name, value in bits.items():
        if value.dtype != torch.bool:
            raise InputError(f"bits of {name!r} must be booleans; got {value.dtype}")
        if not counts[name] or not value.numel():
            raise InputError(f"{name!r} must be [row, *shape] with rows and bits; got shape {tuple(value.shape)}")
    if len(set(counts.values())) > 1:
        raise InputError(f"layers have different numbers of rows: {counts}")
    return next(iter(counts.values()))


def named_labels(labels: Labels, count: int, reserved: Collection[str] = RESERVED) -> dict[str, Any]:
    """Labels by name, as arrays with one a row.

    Args:
        labels: One a row, or several by name.
        count: Rows.
        reserved: Names that they may not have.

    Raises:
        InputError: They are not one a row, or have a name that is taken.
    """
    columns: Mapping[str, Sequence[Any]] = (
        {} if labels is None else {LABEL: labels} if not isinstance(labels, Mapping) else labels
    )
    arrays: dict[str, Any] = {}
    for name, values in columns.items():
        array = np.asarray(values)
        if array.shape != (count,):
            raise InputError(f"{name!r}: one label for each of {count} rows is wanted; got shape {array.shape}")
        if name in reserved:
            raise InputError(f"labels cannot be called {name!r}; that name is taken")
        arrays[name] = array.astype(object) if array.dtype.kind in "US" else array
    return arrays


def _mean(values: Any, mask: Any) -> float:
    return float(values[mask].mean()) if mask.any() else float("nan")

"""A sparse dictionary: atoms, the encoder that goes with them, and the coordinates in which both are meant."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from patchclamp import dictionaries
from patchclamp.core import folders
from patchclamp.core.arguments import checked
from patchclamp.core.errors import InputError
from patchclamp.core.kinds import Folder
from patchclamp.core.plain import from_plain, to_plain
from patchclamp.core.tensors import read_tensors, write_tensors
from patchclamp.dictionaries.codes import Codes
from patchclamp.dictionaries.encoder import Encoder
from patchclamp.dictionaries.scaling import RowScaling

_TENSORS = "model.safetensors"
BLOCK = 4096
"""The number of rows whose codes are held at once where a call may get any number of rows."""


@checked
class Dictionary(nn.Module):
    """Atoms of which rows of activations are sparse sums: ``row = undo(codes @ atoms + bias)``.

    Three parts that go with any other: the atoms with their bias, the encoder (a rule, with the weights that it learned, if
    any), and the scaling of rows. ``encode`` and ``decode`` read and write activations of the model, whatever the scaling;
    ``transform`` and ``inverse_transform`` are their names in scikit-learn. :func:`patchclamp.Splice` takes a dictionary.

    Args:
        atoms: The atoms, ``[width, d]``.
        encoder: The rule that makes codes of rows.
        bias: What is added to every sum of atoms, ``[d]``; nothing by default.
        weights: The tensors that the encoder learned, by name.
        scaling: The coordinates of the atoms; those of the model by default.
        card: Where it comes from, as plain JSON: the fit, the model, the site.

    Raises:
        InputError: Shapes that do not fit, numbers that are not finite, or an encoder that makes no sense for this width.
    """

    def __init__(
        self,
        atoms: Tensor,
        encoder: Encoder,
        *,
        bias: Tensor | None = None,
        weights: Mapping[str, Tensor] | None = None,
        scaling: RowScaling | None = None,
        card: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if atoms.ndim != 2 or not atoms.numel() or not atoms.is_floating_point():
            raise InputError(f"atoms are [width, d] of a floating type; got {tuple(atoms.shape)} {atoms.dtype}")
        encoder.check(len(atoms))
        self.encoder = encoder
        self.atoms = _fixed(atoms)
        self.bias = _fixed(atoms.new_zeros(atoms.shape[1]) if bias is None else bias)
        self.learned = nn.ParameterDict({name: _fixed(value) for name, value in (weights or {}).items()})
        self.scaling = scaling or RowScaling.identity(atoms.shape[1], atoms.dtype)
        self.card = dict(card or {})
        self._check_shapes()

    @property
    def width(self) -> int:
        """The number of latents."""
        return len(self.atoms)

    @property
    def d(self) -> int:
        """The width of the activations."""
        return self.atoms.shape[1]

    @property
    def weights(self) -> dict[str, Tensor]:
        """The tensors that the encoder learned, by name."""
        return dict(self.learned.items())

    def codes(self, x: Float[Tensor, "row d"], encoder: Encoder | None = None) -> Codes:
        """The codes of rows without their zeros.

        Args:
            x: Activations of the model.
            encoder: Another rule than the dictionary's own, for instance ``OMP(k=32)``.

        Raises:
            InputError: Rows of another width, or numbers that are not finite.
        """
        self._check_rows(x)
        rule = self.encoder if encoder is None else encoder
        if not isinstance(rule, Encoder):
            raise InputError(f"encoder is a rule, as OMP(k=32); got {rule!r}")
        rule.check(self.width)
        return rule.codes(self.scaling(x.to(self.atoms.dtype)) - self.bias, self.atoms, self.weights)

    def encode(self, x: Tensor, encoder: Encoder | None = None) -> Tensor:
        """The codes of activations ``[..., d]`` as ``[..., width]``, zeros included.

        Args:
            x: Activations of the model.
            encoder: Another rule than the dictionary's own.

        Raises:
            InputError: Activations of another width, or numbers that are not finite.
        """
        self._check_rows(x)
        rows = x.reshape(-1, self.d)
        parts = [self.codes(block, encoder).dense() for block in rows.split(BLOCK)] or [rows.new_zeros(0, self.width)]
        return torch.cat(parts).reshape(*x.shape[:-1], self.width)

    def decode(self, latents: Tensor | Codes) -> Tensor:
        """Activations ``[..., d]`` of the model that codes ``[..., width]`` stand for.

        Raises:
            InputError: Codes of a dictionary of another width.
        """
        if isinstance(latents, Codes):
            return self.scaling.undo(latents.decode(self.atoms) + self.bias)
        if not latents.ndim or latents.shape[-1] != self.width:
            raise InputError(
                f"codes of shape {tuple(latents.shape)} are not of this dictionary of {self.width} latents"
            )
        return self.scaling.undo(latents.to(self.atoms.dtype) @ self.atoms + self.bias)

    transform, inverse_transform = encode, decode

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction of activations ``[..., d]``."""
        self._check_rows(x)
        rows = x.reshape(-1, self.d)
        parts = [self.decode(self.codes(block)) for block in rows.split(BLOCK)] or [rows]
        return torch.cat(parts).reshape(x.shape)

    def folded(self) -> "Dictionary":
        """The same dictionary in the coordinates of the model: equal codes and reconstructions, and no scaling.

        Raises:
            InputError: Its encoder has no weights and the rows are whitened: then its codes would change.
        """
        scaling, weights = self.scaling, dict(self.weights)
        if "weight" in weights:
            weight = weights["weight"] * scaling.scale
            weights["weight"] = weight if scaling.whitening is None else weight @ scaling.whitening.T
        elif scaling.whitening is not None:
            raise InputError(
                f"{type(self.encoder).__name__} chooses atoms by their angles, which whitening changes: keep the scaling"
            )
        elif float(scaling.scale) != 1:
            weights["weight"] = self.atoms * scaling.scale  # a rule without weights reads along the atoms as they were
        return Dictionary(
            scaling.undo_linear(self.atoms),
            self.encoder.rescaled(1 / float(scaling.scale)),
            bias=scaling.undo(self.bias),
            weights=weights,
            card={**self.card, "folded": True},
        )

    @checked
    def save_pretrained(self, folder: Folder, *, overwrite: bool = False) -> Path:
        """Write ``config.json`` (encoder, card) and ``model.safetensors``; the folder then holds it, or what it held before.

        Args:
            folder: The folder to write, in which files of others are left alone.
            overwrite: Take the place of another thing of patchclamp's too.

        Raises:
            InputError: Something else is in the way.
            StorageError: The system refused; the folder is as it was.
        """
        record = {
            "format_version": folders.DICTIONARY.version,
            "kind": folders.DICTIONARY.kind,
            "width": self.width,
            "d": self.d,
            "encoder": to_plain(self.encoder, {}),
            "card": to_plain(self.card, {}),
        }
        tensors = dict(self.state_dict())
        return folders.save(
            folder,
            folders.DICTIONARY,
            record,
            lambda into: write_tensors(into / _TENSORS, tensors),
            overwrite=overwrite,
        )

    @classmethod
    @checked
    def from_pretrained(cls, folder: Folder) -> Self:
        """Read what :meth:`save_pretrained` wrote.

        Raises:
            InputError: The folder holds no dictionary, or one of a newer format; or a file was changed, is damaged or missing.
        """
        path = Path(folder)
        with folders.opened(path, folders.DICTIONARY) as record:
            tensors = read_tensors(path / _TENSORS)
            _import_encoder(record["encoder"])
            encoder = from_plain(record["encoder"], {})
            if not isinstance(encoder, Encoder):
                raise ValueError(f"{record['encoder']!r} is no encoder")
            scaling = RowScaling(
                tensors.pop("scaling.mean"),
                float(tensors.pop("scaling.scale")),
                tensors.pop("scaling.whitening", None),
                tensors.pop("scaling.unwhitening", None),
            )
            atoms, bias = tensors.pop("atoms"), tensors.pop("bias")
            weights = {name.removeprefix("learned."): value for name, value in tensors.items()}
            return cls(atoms, encoder, bias=bias, weights=weights, scaling=scaling, card=record["card"])

    def __repr__(self) -> str:
        scaling = "centred and scaled" if self.scaling.whitening is None else "whitened"
        rows = f", rows {scaling}" if self.scaling.changes else ""
        return f"Dictionary({self.width} atoms of width {self.d}, {self.encoder}{rows})"

    def _check_rows(self, x: Tensor) -> None:
        if not x.ndim or x.shape[-1] != self.d or not x.is_floating_point():
            raise InputError(
                f"activations of shape {tuple(x.shape)} {x.dtype} do not fit this dictionary, [..., {self.d}]"
            )
        if not bool(torch.isfinite(x.sum())) and not bool(torch.isfinite(x).all()):
            raise InputError(
                f"activations hold {int((~torch.isfinite(x)).sum())} NaN or infinite values of {x.numel()}"
            )

    def _check_shapes(self) -> None:
        expected = {"bias": (self.d,), "mean": (self.d,)}
        for name, value in {"bias": self.bias, "mean": self.scaling.mean}.items():
            if tuple(value.shape) != expected[name]:
                raise InputError(
                    f"{name} has the shape {tuple(value.shape)}; atoms of width {self.d} need {expected[name]}"
                )
        for name, value in self.weights.items():
            shapes = [(), (self.width,), (self.width, self.d)]
            if tuple(value.shape) not in (shapes[2:] if name == "weight" else shapes):
                raise InputError(
                    f"{name} has the shape {tuple(value.shape)}; this dictionary needs "
                    + ("" if name == "weight" else f"[{self.width}] or ")
                    + f"[{self.width}, {self.d}]"
                )
        for name, value in self.state_dict().items():
            if value.dtype != self.atoms.dtype:
                raise InputError(f"{name} of a dictionary is {value.dtype}, and its atoms are {self.atoms.dtype}")
            if not bool(torch.isfinite(value).all()):
                raise InputError(f"{name} of a dictionary holds NaN or infinite values")


def _fixed(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.detach().clone(), requires_grad=False)


def _import_encoder(plain: Any) -> None:
    """Import the public class of this package that a saved encoder names, so that it is known; others, the user imports."""
    name = plain.get("$type") if isinstance(plain, dict) else None
    if name in dictionaries.__all__:
        getattr(dictionaries, name)

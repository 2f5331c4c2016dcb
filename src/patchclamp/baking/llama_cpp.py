"""Control vectors of llama.cpp: constants added to the residual stream after some layers.

The file is a GGUF of the architecture ``controlvector`` with one-dimensional float32 tensors ``direction.N``, all of the same
width. llama.cpp adds ``direction.N`` to what layer ``N`` (from 0) gives to the next one, at every position, and refuses
``direction.0``. repeng writes the same file, with the same numbers.

Source: llama.cpp, ``common_control_vector_load`` and ``llama_adapter_cvec``; repeng, ``ControlVector.export_gguf``.
"""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from patchclamp.core.arguments import checked
from patchclamp.core.digest import weights_digest
from patchclamp.core.errors import EditError, InputError, missing_dependency
from patchclamp.core.files import MALFORMED, atomic_file, reading
from patchclamp.core.kinds import File
from patchclamp.interventions import Add, Edit, Edits, as_edits, operations, place
from patchclamp.models.inputs import Prompt
from patchclamp.models.opened import OpenModel

ARCHITECTURE = "controlvector"
_SEAL = f"{ARCHITECTURE}.patchclamp_sha256"
"""The field that holds the digest of the vectors; llama.cpp passes over fields that it does not know."""
_NAME = re.compile(r"^direction\.(\d+)$")


@checked
def export_control_vector(model: OpenModel, edits: Edits, path: File) -> Path:
    """Write additions to the residual stream as a control vector for ``llama-cli --control-vector``.

    Args:
        model: The model whose sites the edits name.
        edits: ``pc.Add`` at ``resid_post`` of layers from 1 on, at all positions; several at one layer are summed, each times
            its scale.
        path: The file to write, which appears complete or not at all.

    Raises:
        EditError: An edit is no such addition; the message says why and what is near.
        InputError: The file is there and is no control vector.
        MissingDependencyError: Without the package ``gguf``.
    """
    gguf = _gguf("writing a control vector")
    if Path(path).is_file() and ARCHITECTURE.encode() not in Path(path).read_bytes()[:4096]:
        raise InputError(f"{str(path)!r} is there and is no control vector; name another file")
    edit_list = list(as_edits(edits))
    vectors = _vectors(model, edit_list)
    with atomic_file(path) as temporary:
        writer = gguf.GGUFWriter(temporary, ARCHITECTURE)
        writer.add_string(f"{ARCHITECTURE}.model_hint", str(getattr(model.config, "model_type", "")))
        writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(vectors))
        writer.add_string(_SEAL, _digest({layer: vector.to(torch.float32) for layer, vector in vectors.items()}))
        for layer, vector in sorted(vectors.items()):
            writer.add_tensor(f"direction.{layer}", vector.to(torch.float32).numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return Path(path)


@checked
def control_vector(path: File, scale: float = 1.0) -> list[Edit]:
    """Read a control vector, of llama.cpp or repeng, as edits: ``direction.N`` is added at ``resid_post.N``.

    Args:
        path: A GGUF file.
        scale: The scale of the edits.

    Raises:
        InputError: The file is no control vector.
        MissingDependencyError: Without the package ``gguf``.
    """
    gguf = _gguf("reading a control vector")
    if not Path(path).is_file():
        raise InputError(f"there is no file {str(path)!r}")
    try:
        reader = gguf.GGUFReader(path)
    except (OSError, *MALFORMED) as error:
        raise InputError(f"{str(path)!r} is no GGUF file: {error}") from error
    vectors: dict[int, Tensor] = {}
    with reading(path, "export it again"):
        kind, seal = (_field(reader, name) for name in ("general.architecture", _SEAL))
        if kind != ARCHITECTURE:
            raise InputError(f"{str(path)!r} is a GGUF of {kind!r}, not of a {ARCHITECTURE!r}")
        for tensor in reader.tensors:
            match = _NAME.match(tensor.name)
            if match is None or int(match[1]) == 0 or tensor.data.ndim != 1 or tensor.tensor_type.name != "F32":
                raise InputError(f"{str(path)!r}: {tensor.name!r} is no float32 vector direction.1, direction.2, ...")
            vectors[int(match[1])] = torch.from_numpy(tensor.data.copy())
        if seal is not None and seal != _digest(vectors):
            raise ValueError("its numbers are not those that were written")
    return [Add(vector, scale, site=f"resid_post.{layer}") for layer, vector in sorted(vectors.items())]


def _field(reader: Any, name: str) -> Any:
    field = reader.get_field(name)
    return None if field is None else field.contents()


def _digest(vectors: dict[int, Tensor]) -> str:
    return weights_digest((f"{layer:08d}", vector) for layer, vector in vectors.items())


def _vectors(model: OpenModel, edits: list[Edit]) -> dict[int, Tensor]:
    """Sum the vectors that are added after each layer, in float64."""
    if not edits:
        raise EditError("no edits were given, so there is no control vector to write")
    for edit in edits:
        name = type(edit.operation).__name__
        if not isinstance(edit.operation, operations.Add):
            raise EditError(
                f"pc.{name} at {', '.join(edit.sites) or 'no site'}: llama.cpp only adds vectors; nearest: pc.Add, or pc.export "
                "(a checkpoint, which can be converted)"
            )
        if edit.at != "all" or edit.where is not None:
            raise EditError(
                f"pc.Add at {', '.join(edit.sites)} acts at some positions (at={edit.at!r}, where={edit.where!r}), and llama.cpp "
                "adds at all; nearest: the same edit at='all' without where="
            )
    vectors: dict[int, Tensor] = {}
    for action in place(model, edits, [Prompt((0,))])[0]:
        site, operation = action.site, action.operation
        assert isinstance(operation, operations.Add)
        if site.component != "resid_post" or site.unit is not None or not site.layer:
            raise EditError(
                f"pc.Add at {site}: llama.cpp adds after the layers 1..{model.sites.n_layers - 1}, and refuses others; nearest: "
                f"'resid_post.{max(site.layer or 0, 1)}'"
                + ("" if site.layer else ", or pc.export of the edit at 'embed'")
            )
        vector = operation.scale * operation.vector.detach().to("cpu", torch.float64)
        vectors[site.layer] = vectors[site.layer] + vector if site.layer in vectors else vector
    return vectors


def _gguf(what: str) -> Any:
    try:
        import gguf
    except ImportError:
        raise missing_dependency(what, "gguf", "assets") from None
    return gguf

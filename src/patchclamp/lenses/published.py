"""Lenses of the ``tuned-lens`` package (Belrose et al. 2023): where they lie, what they hold, and how they are read safely."""

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from patchclamp.core.errors import InputError, ModelError, warn
from patchclamp.core.files import MALFORMED, read_json, reading
from patchclamp.models.opened import OpenModel
from patchclamp.models.sites import Site

_CONFIG, _OURS, _THEIRS = "config.json", "model.safetensors", "params.pt"
_AGAIN = "fetch it again"


def locate(place: str | Path, revision: str | None) -> Path:
    """The folder of a lens, fetched if it is not one already.

    Published lenses lie in folders of one repository: ``owner/repository/name`` is ``lens/name`` of that Space.

    Raises:
        InputError: There is none.
    """
    folder = Path(place)
    if folder.is_dir():
        if not (folder / _CONFIG).is_file() or not any((folder / name).is_file() for name in (_OURS, _THEIRS)):
            raise InputError(f"{str(place)!r} holds no complete lens: {_CONFIG} and {_OURS} (or {_THEIRS}) are needed")
        return folder
    owner, _, rest = str(place).partition("/")
    repository, _, name = rest.partition("/")
    if not owner or not rest or owner.startswith((".", "~")):
        raise InputError(
            f"there is no lens {str(place)!r}: not a folder, and a Hugging Face id is owner/name "
            "(a published lens: 'AlignmentResearch/tuned-lens/gpt2')"
        )
    config = _fetch(f"{owner}/{repository}", _CONFIG, revision, name)
    _fetch(f"{owner}/{repository}", _THEIRS if name else _OURS, revision, name)
    return config.parent


def _fetch(repository: str, file: str, revision: str | None, name: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        where, kind = (f"lens/{name}", "space") if name else (None, None)
        return Path(hf_hub_download(repository, file, revision=revision, subfolder=where, repo_type=kind))
    except (HfHubHTTPError, LocalEntryNotFoundError, ValueError, OSError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"no lens in {repository!r}: {file} was not found: {said}") from None


def read(
    folder: Path, model: OpenModel, given: dict[str, Any], force: bool
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Tensor]]:
    """What a published lens was trained for, its report, and its translators, stacked.

    Its translator ``i`` reads ``hidden_states[i]``, the input of layer i, so it is the one of depth i.

    Args:
        folder: Holds ``config.json`` and ``params.pt``.
        model: The model to use it on.
        given: That model's identity.
        force: Take it although it was trained for another unembedding.

    Raises:
        InputError: It is damaged, or holds anything but tensors.
        ModelError: It was trained for another unembedding, or is of another size.
    """
    with reading(folder / _CONFIG, _AGAIN):
        config = dict(read_json(folder / _CONFIG))
    layers, width = config.get("num_hidden_layers"), config.get("d_model")
    if not isinstance(layers, int) or not isinstance(width, int):
        raise InputError(
            f"{str(folder / _CONFIG)!r} is not that of a tuned lens: it lacks num_hidden_layers or d_model"
        )
    name, wanted = config.get("base_model_name_or_path"), config.get("unembed_hash")
    trained_for = {**given, "dtype": None, "name": name, "revision": config.get("base_model_revision")}
    if wanted is None:
        message = f"the lens for {name} does not say which weights it was trained for; only its size was compared"
        warn(message)
    elif wanted != unembedding_hash(model):
        trained_for = {**trained_for, "class": None, "weights": f"unembed_hash {wanted}"}
        if not force:
            raise ModelError(
                f"the lens was trained for {name}, whose unembedding is not that of {given['name'] or 'this live model'}; "
                "force=True takes it all the same"
            )
    report = {"source": "tuned-lens", **{key: config.get(key) for key in ("base_model_revision", "lens_type")}}
    state = _tensors(folder / _THEIRS)
    _check(state, layers, width, str(folder))
    lens = (layers, width)
    own = (model.sites.n_layers, model.sites.width(Site("resid_post", model.sites.n_layers - 1)))
    if lens != own:
        raise ModelError(f"the lens in {str(folder)!r} has (translators, width) {lens}, and this model {own}")
    return trained_for, report, _stack(state, layers, width)


def unembedding_hash(model: OpenModel) -> str:
    """The package's ``unembed_hash``: SHA-256 of numpy's summary of the matrix (its corners), with one decimal."""
    head: Any = model.module.get_output_embeddings()  # type: ignore[operator]
    weight = head.weight.detach().cpu().float()
    return hashlib.sha256(np.array_str(weight.numpy(), precision=1).encode()).hexdigest()


def _tensors(file: Path) -> dict[str, Tensor]:
    try:
        # mapped, so that a file which promises more numbers than it holds is refused before any memory is taken
        found = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, OSError, *MALFORMED) as error:
        said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{str(file)!r} was not loaded: it is damaged, or holds more than tensors: {said}") from error
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise InputError(f"{str(file)!r} is no state of a lens: it holds {type(found).__name__}")
    return found


def _check(state: dict[str, Tensor], layers: int, width: int, place: str) -> None:
    """Refuse a state that its config does not describe, before anything of the size that the config says is made."""
    known = {f"{i}.{part}" for i in range(min(layers, len(state))) for part in ("weight", "bias")}
    extra = sorted(map(str, set(state) - known))
    absent = [f"{i}.weight" for i in range(min(layers, len(state) + 1)) if f"{i}.weight" not in state]
    if extra or absent:
        raise InputError(f"the lens in {place!r} is not one of {layers} translators: extra {extra}, missing {absent}")
    wrong = [name for name, value in state.items() if value.shape != (width,) * (2 if "weight" in name else 1)]
    if wrong:
        shape = tuple(state[wrong[0]].shape)
        raise InputError(f"the lens in {place!r} is damaged: {wrong[0]} has shape {shape}, and d_model is {width}")


def _stack(state: dict[str, Tensor], layers: int, width: int) -> dict[str, Tensor]:
    blank = torch.zeros(width)
    return {
        "weight": torch.stack([state[f"{i}.weight"].float() for i in range(layers)]),
        "bias": torch.stack([state.get(f"{i}.bias", blank).float() for i in range(layers)]),
    }

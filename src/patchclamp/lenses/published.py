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

_CONFIG_FILE, _WEIGHTS_FILE, _PARAMS_FILE = "config.json", "model.safetensors", "params.pt"
_ADVICE = "fetch it again"


def locate(place: str | Path, revision: str | None) -> Path:
    """Find the folder of a lens, and fetch it if it is not one already.

    Published lenses lie in folders of one repository: ``owner/repository/name`` is ``lens/name`` of that Space.

    Raises:
        InputError: There is none.
    """
    folder = Path(place)
    if folder.is_dir():
        if not (folder / _CONFIG_FILE).is_file() or not any(
            (folder / name).is_file() for name in (_WEIGHTS_FILE, _PARAMS_FILE)
        ):
            raise InputError(
                f"{str(place)!r} holds no complete lens: {_CONFIG_FILE} and {_WEIGHTS_FILE} (or {_PARAMS_FILE}) are needed"
            )
        return folder
    owner, _, rest = str(place).partition("/")
    repository, _, name = rest.partition("/")
    if not owner or not rest or owner.startswith((".", "~")):
        raise InputError(
            f"there is no lens {str(place)!r}: not a folder, and a Hugging Face id is owner/name "
            "(a published lens: 'AlignmentResearch/tuned-lens/gpt2')"
        )
    config = _fetch(f"{owner}/{repository}", _CONFIG_FILE, revision, name)
    _fetch(f"{owner}/{repository}", _PARAMS_FILE if name else _WEIGHTS_FILE, revision, name)
    return config.parent


def _fetch(repository: str, file: str, revision: str | None, name: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        subfolder, kind = (f"lens/{name}", "space") if name else (None, None)
        return Path(hf_hub_download(repository, file, revision=revision, subfolder=subfolder, repo_type=kind))
    except (HfHubHTTPError, LocalEntryNotFoundError, ValueError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"no lens in {repository!r}: {file} was not found: {reason}") from None


def read(
    folder: Path, model: OpenModel, model_identity: dict[str, Any], force: bool
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Tensor]]:
    """Read what a published lens was trained for, its report, and its translators, stacked.

    Its translator ``i`` reads ``hidden_states[i]``, the input of layer i, so it is the one of depth i.

    Args:
        folder: The folder, which holds ``config.json`` and ``params.pt``.
        model: The model to use it on.
        model_identity: The identity of that model.
        force: Take it although it was trained for another unembedding.

    Raises:
        InputError: It is damaged, or holds anything but tensors.
        ModelError: It was trained for another unembedding, or is of another size.
    """
    with reading(folder / _CONFIG_FILE, _ADVICE):
        config = dict(read_json(folder / _CONFIG_FILE))
    layers, width = config.get("num_hidden_layers"), config.get("d_model")
    if not isinstance(layers, int) or not isinstance(width, int):
        raise InputError(
            f"{str(folder / _CONFIG_FILE)!r} is not that of a tuned lens: it lacks num_hidden_layers or d_model"
        )
    name, expected_hash = config.get("base_model_name_or_path"), config.get("unembed_hash")
    trained_for = {**model_identity, "dtype": None, "name": name, "revision": config.get("base_model_revision")}
    if expected_hash is None:
        message = f"the lens for {name} does not say which weights it was trained for; only its size was compared"
        warn(message)
    elif expected_hash != unembedding_hash(model):
        trained_for = {**trained_for, "class": None, "weights": f"unembed_hash {expected_hash}"}
        if not force:
            raise ModelError(
                f"the lens was trained for {name}, whose unembedding is not that of {model_identity['name'] or 'this live model'}; "
                "force=True takes it all the same"
            )
    report = {"source": "tuned-lens", **{key: config.get(key) for key in ("base_model_revision", "lens_type")}}
    state = _tensors(folder / _PARAMS_FILE)
    _check(state, layers, width, str(folder))
    lens_size = (layers, width)
    model_size = (model.sites.n_layers, model.sites.width(Site("resid_post", model.sites.n_layers - 1)))
    if lens_size != model_size:
        raise ModelError(
            f"the lens in {str(folder)!r} has (translators, width) {lens_size}, and this model {model_size}"
        )
    return trained_for, report, _stack(state, layers, width)


def unembedding_hash(model: OpenModel) -> str:
    """The package's ``unembed_hash``: SHA-256 of numpy's summary of the matrix (its corners), with one decimal."""
    head: Any = model.module.get_output_embeddings()  # type: ignore[operator]
    weight = head.weight.detach().cpu().float()
    return hashlib.sha256(np.array_str(weight.numpy(), precision=1).encode()).hexdigest()


def _tensors(file: Path) -> dict[str, Tensor]:
    try:
        # mapped, so that a file which promises more numbers than it holds is refused before any memory is taken
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, OSError, *MALFORMED) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{str(file)!r} was not loaded: it is damaged, or holds more than tensors: {reason}"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{str(file)!r} is no state of a lens: it holds {type(state).__name__}")
    return state


def _check(state: dict[str, Tensor], layers: int, width: int, place: str) -> None:
    """Refuse a state that its config does not describe, before anything of the size that the config says is made."""
    expected_names = {f"{i}.{part}" for i in range(min(layers, len(state))) for part in ("weight", "bias")}
    extra_names = sorted(map(str, set(state) - expected_names))
    missing_names = [f"{i}.weight" for i in range(min(layers, len(state) + 1)) if f"{i}.weight" not in state]
    if extra_names or missing_names:
        raise InputError(
            f"the lens in {place!r} is not one of {layers} translators: extra {extra_names}, missing {missing_names}"
        )
    misshapen = [name for name, value in state.items() if value.shape != (width,) * (2 if "weight" in name else 1)]
    if misshapen:
        shape = tuple(state[misshapen[0]].shape)
        raise InputError(f"the lens in {place!r} is damaged: {misshapen[0]} has shape {shape}, and d_model is {width}")


def _stack(state: dict[str, Tensor], layers: int, width: int) -> dict[str, Tensor]:
    zeros = torch.zeros(width)
    return {
        "weight": torch.stack([state[f"{i}.weight"].float() for i in range(layers)]),
        "bias": torch.stack([state.get(f"{i}.bias", zeros).float() for i in range(layers)]),
    }

"""Opening a model: by catalogue name, Hugging Face id or folder, or one that is live already."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from patchclamp.catalogue.quiet import quiet_transformers
from patchclamp.core import folders
from patchclamp.core.errors import InputError, ModelError, missing_dependency, nearest, unknown
from patchclamp.models.discovery import PLAIN, discover
from patchclamp.models.families import all_families
from patchclamp.models.guard import check_kind
from patchclamp.models.opened import OpenModel, Source
from patchclamp.models.sitemap import SiteMap, resolve
from patchclamp.models.trust import check_attention, check_config, check_message

DTYPES = {
    "auto": "auto",
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def open_model(
    name_or_path: str | Path,
    *,
    dtype: str | torch.dtype = "auto",
    device_map: Any = None,
    revision: str | None = None,
    attn_implementation: str | None = None,
) -> OpenModel:
    """Load a model and its tokenizer; see :func:`patchclamp.load`."""
    from patchclamp import catalogue

    name = str(name_or_path)
    chosen = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if chosen is None:
        raise InputError(unknown("dtype", dtype, DTYPES))
    if device_map is not None and _spreads(device_map):
        raise ModelError(
            f"device_map={device_map!r} may spread the model over devices; name one: 'cuda:0', 'cpu' or {{'': 0}}"
        )
    if device_map is not None:
        _need_accelerate()
    check_attention(attn_implementation)
    folder = catalogue.fetch(name) if catalogue.is_model(name) else None
    if folder is None and not Path(name).exists() and "/" not in name and (close := nearest(name, catalogue.models())):
        raise ModelError(
            f"unknown model {name!r}; in the catalogue, {close!r} is near. "
            f"(A model of the Hugging Face hub goes by its full id, as in 'openai-community/gpt2'; a folder must exist.)"
        )
    options: dict[str, Any] = {"dtype": chosen}
    for key, value in (
        ("device_map", device_map),
        ("revision", revision),
        ("attn_implementation", attn_implementation),
    ):
        if value is not None:
            options[key] = value
    if folder is None and Path(name).is_dir():
        folders.verify(Path(name))
    module, tokenizer = _from_pretrained(str(folder or name), name, options)
    said = {"dtype": dtype if isinstance(dtype, str) else str(dtype).removeprefix("torch."), "revision": revision}
    said["attn_implementation"] = attn_implementation
    return wrap_module(module.eval(), tokenizer, Source(name, {k: v for k, v in said.items() if v is not None}))


def _spreads(device_map: Any) -> bool:
    if isinstance(device_map, str):
        return device_map in ("auto", "balanced", "balanced_low_0", "sequential")
    return isinstance(device_map, dict) and len(set(map(str, device_map.values()))) > 1


def _need_accelerate() -> None:
    try:
        import accelerate  # noqa: F401
    except ImportError:
        raise missing_dependency("device_map", "accelerate", "assets") from None


def _from_pretrained(place: str, name: str, options: dict[str, Any]) -> tuple[nn.Module, Any]:
    import transformers

    revision = {"revision": options["revision"]} if "revision" in options else {}
    try:
        config = transformers.AutoConfig.from_pretrained(place, trust_remote_code=False, **revision)
    except (OSError, ValueError) as error:
        check_message(error, name)
        raise ModelError(
            f"unknown model {name!r}: not in the catalogue, not a folder, and the Hugging Face hub gave: {_first_line(error)}"
        ) from None
    check_config(config, name)
    auto = auto_class(config)
    try:
        with quiet_transformers():
            module = auto.from_pretrained(place, trust_remote_code=False, weights_only=True, **options)
    except (OSError, ValueError, ImportError) as error:
        check_message(error, name)
        raise ModelError(f"the model {name!r} could not be loaded: {_first_line(error)}") from error
    tokenizer = None
    if getattr(module, "main_input_name", "") == "input_ids":
        try:
            found = transformers.AutoTokenizer.from_pretrained(place, trust_remote_code=False, **revision)
            tokenizer = (
                found if found.vocab_size else None
            )  # without tokenizer files transformers makes up an empty one
        except (OSError, ValueError) as error:
            check_message(error, name)
            tokenizer = None
    return module, tokenizer


def auto_class(config: Any) -> Any:
    """The transformers auto class for what the checkpoint was saved as; a causal language model if it does not say."""
    import transformers

    saved = next(iter(getattr(config, "architectures", None) or []), "")
    by_ending = {
        "ForMaskedLM": transformers.AutoModelForMaskedLM,
        "ForImageClassification": transformers.AutoModelForImageClassification,
        "ForSequenceClassification": transformers.AutoModelForSequenceClassification,
    }
    for ending, auto in by_ending.items():
        if saved.endswith(ending):
            return auto
    if type(config) in transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING:
        return transformers.AutoModelForCausalLM
    return transformers.AutoModel


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def wrap_module(module: Any, tokenizer: Any = None, source: Source | None = None) -> OpenModel:
    """Find the sites of a live module; see :func:`patchclamp.wrap`."""
    if isinstance(module, OpenModel):
        return module
    check_kind(module)
    return OpenModel(module, tokenizer, _sites(module), source or Source(None))


def _sites(module: nn.Module) -> SiteMap:
    config = getattr(module, "config", None)
    if config is None or not hasattr(module, "base_model_prefix"):
        return resolve(module, PLAIN, None, "")
    prefix = module.base_model_prefix
    base = str(prefix) if prefix and hasattr(module, str(prefix)) else ""
    family = all_families().get(getattr(config, "model_type", ""))
    if family is None:
        try:
            family = discover(module.get_submodule(base), config)
        except ModelError:
            family = PLAIN
    return resolve(module, family, config, base)

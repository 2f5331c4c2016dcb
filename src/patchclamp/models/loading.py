"""Opening a model: by catalogue name, Hugging Face id or folder, or one that is live already."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from patchclamp.catalogue.quiet import quiet_transformers
from patchclamp.core import folders
from patchclamp.core.errors import InputError, ModelError, PatchclampError, missing_dependency, nearest, unknown
from patchclamp.models.checkpoints import check_weights, has_tokenizer
from patchclamp.models.discovery import PLAIN, discover, plain, text_stack
from patchclamp.models.families import all_families
from patchclamp.models.guard import check_kind
from patchclamp.models.opened import ModelSource, OpenModel
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
    torch_dtype = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if torch_dtype is None:
        raise InputError(unknown("dtype", dtype, DTYPES))
    if device_map is not None and _spreads(device_map):
        raise ModelError(
            f"device_map={device_map!r} spreads the model over devices; name one: 'cuda:0', 'cpu' or {{'': 0}}"
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
    options: dict[str, Any] = {"dtype": torch_dtype}
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
    settings = {"dtype": dtype if isinstance(dtype, str) else str(dtype).removeprefix("torch."), "revision": revision}
    settings["attn_implementation"] = attn_implementation
    return wrap_module(
        module.eval(), tokenizer, ModelSource(name, {k: v for k, v in settings.items() if v is not None})
    )


def _spreads(device_map: Any) -> bool:
    """Whether a map names several devices; where ``"auto"`` puts a model is seen when it is loaded."""
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
    except Exception as error:  # broken files raise whatever reads them raises
        check_message(error, name)
        raise ModelError(_unknown(place, name, error)) from None
    check_config(config, name)
    try:
        with quiet_transformers():
            module, report = auto_class(config).from_pretrained(
                place,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                trust_remote_code=False,
                weights_only=True,
                **options,
            )
    except Exception as error:
        check_message(error, name)
        raise ModelError(f"the model {name!r} could not be loaded: {_describe(error)}") from error
    check_weights(module, report, name)
    return module, _tokenizer(place, name, revision) if getattr(module, "main_input_name", "") == "input_ids" else None


def _unknown(place: str, name: str, error: Exception) -> str:
    if Path(place).is_dir() and (Path(place) / "config.json").is_file():
        return f"the model {name!r} could not be loaded: its config.json is damaged or of no known kind: {_describe(error)}"
    if Path(place).is_dir():
        return f"unknown model {name!r}: the folder holds no config.json, so it is no saved model"
    return (
        f"unknown model {name!r}: not in the catalogue, not a folder, and the Hugging Face hub gave: {_describe(error)}"
    )


def _tokenizer(place: str, name: str, revision: dict[str, str]) -> Any:
    """The tokenizer of a checkpoint; None if it has none."""
    import transformers

    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(place, trust_remote_code=False, **revision)
    except Exception as error:
        check_message(error, name)
        if isinstance(error, OSError | ValueError) and not has_tokenizer(place):
            return None
        raise ModelError(
            f"the tokenizer of {name!r} could not be read: {_describe(error)}. Mend it, or open the model with transformers and "
            "pass it to pc.wrap, which needs no tokenizer where prompts are token ids"
        ) from error
    return tokenizer if tokenizer.vocab_size else None  # without tokenizer files transformers makes up an empty one


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


def auto_class(config: Any) -> Any:
    """The class of transformers that a checkpoint was saved as; if it does not say, the auto class for its kind."""
    import transformers

    names = getattr(config, "architectures", None)
    first = names[0] if isinstance(names, list) and names else None
    saved_class: Any = getattr(transformers, first, None) if isinstance(first, str) else None
    is_model_class = isinstance(saved_class, type) and issubclass(saved_class, transformers.PreTrainedModel)
    if is_model_class and getattr(saved_class, "config_class", None) is type(config):
        return saved_class
    mappings = transformers.models.auto.modeling_auto
    if type(config) in mappings.MODEL_FOR_CAUSAL_LM_MAPPING and not getattr(config, "is_encoder_decoder", False):
        return transformers.AutoModelForCausalLM
    if type(config) in mappings.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING:
        return transformers.AutoModelForSeq2SeqLM
    return transformers.AutoModel


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def wrap_module(module: Any, tokenizer: Any = None, source: ModelSource | None = None) -> OpenModel:
    """Find the sites of a live module; see :func:`patchclamp.wrap`."""
    if isinstance(module, OpenModel):
        return module
    check_kind(module)
    return OpenModel(module, tokenizer, _sites(module), source or ModelSource(None))


def _sites(module: nn.Module) -> SiteMap:
    if getattr(module, "config", None) is None or not hasattr(module, "base_model_prefix"):
        return resolve(module, PLAIN, None, "")
    try:
        base, config = text_stack(module)
        family = all_families().get(getattr(config, "model_type", "")) or discover(module.get_submodule(base), config)
        sites = resolve(module, family, config, base)
        if not sites.layers:
            raise ModelError(f"{type(module).__name__} has no layers where its family {family.name} has them")
        return sites
    except Exception as error:  # whatever an unknown architecture raises, it opens by its module paths
        return without_names(module, error)


def without_names(module: nn.Module, error: Exception) -> SiteMap:
    """The sites of a model whose structure could not be read: its module paths, and why there are no names."""
    is_expected = isinstance(error, PatchclampError)
    reason = (
        first_line(error)
        if is_expected
        else f"looking at {type(module).__name__} failed with {type(error).__name__}: {first_line(error)}"
    )
    return resolve(module, plain(reason.rstrip(".")), None, "")

"""What a checkpoint may ask for: a received one is data, so none of its Python runs, and no code is fetched for it."""

from importlib.util import find_spec
from typing import Any

from patchclamp.core.errors import ModelError, unknown

ATTENTION = ("eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3")
_PACKAGES = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_3"}


def check_attention(value: Any) -> None:
    """Refuse an implementation of attention that transformers would fetch: a hub's kernel, or one that is not installed.

    Raises:
        ModelError: With the valid names.
    """
    if value is None:
        return
    if value not in ATTENTION:
        raise ModelError(
            f"{unknown('attn_implementation', value, ATTENTION)}. (Kernels of a hub are code: to use one, open the model "
            "with transformers and give it to pc.wrap.)"
        )
    package = _PACKAGES.get(value)
    if package is not None and find_spec(package) is None:
        raise ModelError(f"attn_implementation={value!r} needs {package}, which is not installed; valid: eager, sdpa")


def check_config(config: Any, name: str) -> None:
    """Refuse a checkpoint whose config asks for an implementation of attention or experts that is fetched as code.

    Raises:
        ModelError: It names the entry.
    """
    parts = [config, *(getattr(config, part, None) for part in getattr(config, "sub_configs", {}))]
    for part in parts:
        for entry in ("_attn_implementation", "_experts_implementation"):
            value = getattr(part, entry, None)
            implementations = (
                [value] if isinstance(value, str) else list(value.values()) if isinstance(value, dict) else []
            )
            if any(set("/:@") & set(str(implementation)) for implementation in implementations):
                raise ModelError(
                    f"the config of {name!r} asks for {entry.removeprefix('_')}={value!r}, code of a hub, which is not "
                    "fetched; if you trust it, open the model with transformers and give it to pc.wrap"
                )


def check_message(error: BaseException, name: str) -> None:
    """Refuse a checkpoint that transformers cannot open without running the Python in it.

    Raises:
        ModelError: It says how to open it all the same.
    """
    if "trust_remote_code" in str(error):
        raise ModelError(
            f"the model {name!r} needs Python code that comes with it, and a received checkpoint's code is never run here; "
            "if you trust it, open it with transformers (trust_remote_code=True) and give it to pc.wrap"
        ) from None

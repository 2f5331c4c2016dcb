"""An open model: the user's own module, its tokenizer, its sites, and where it came from."""

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from patchclamp.core.arguments import checked_methods
from patchclamp.core.content import Contents
from patchclamp.core.digest import digest, weights_digest
from patchclamp.core.errors import InputError, ModelError, check_choice
from patchclamp.core.interrupts import guarded
from patchclamp.core.result import Deferred
from patchclamp.models import tokens
from patchclamp.models.beside import Beside, is_whole, measured_default
from patchclamp.models.capabilities import Capabilities, Ladder
from patchclamp.models.discovery import input_embeddings
from patchclamp.models.guard import check_ready
from patchclamp.models.inputs import Batch, Prompt, make_batch, make_prompts
from patchclamp.models.sitemap import SiteMap


@dataclass(frozen=True)
class ModelSource:
    """Where a model came from, so that a saved result can open it again."""

    name: str | None
    """Catalogue name, Hugging Face id or folder; None for a live model."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What ``pc.load`` was called with."""


_FOR_THE_ENGINE = {
    "batch", "beside", "check_predicts", "core", "describe", "encoder", "look", "outputs", "parameters_of_forward", "prompts",
    "takes_tokens", "text_config", "weights_version",
}  # fmt: skip


@dataclass(eq=False, repr=False)
class OpenModel:
    """A model whose sites are known. Nothing of the user's module is changed."""

    module: nn.Module
    """The user's own module."""
    tokenizer: Any
    """What makes tokens of text; None if the model was opened without one."""
    sites: SiteMap
    """Every site that can be read or edited; ``print(model.sites)`` shows them."""
    source: ModelSource
    """Where the model came from."""
    _verify: "Callable[[OpenModel], None] | None" = None
    """Observes what the model can do: when it is opened, or in training mode when it is first used after ``eval()``."""
    capabilities: Capabilities = field(default_factory=Capabilities, init=False)
    """What was observed of the model."""
    _defaults: dict[str, tuple[Any, bool]] = field(default_factory=dict, init=False)
    _fingerprint: tuple[Any, str] | None = field(default=None, init=False)

    def __repr__(self) -> str:
        size = sum(parameter.numel() for parameter in self.module.parameters())
        where = self.source.name or "live"
        return (
            f"<{type(self.module).__name__} {where}: {self.sites.n_layers} layers, {size:,} parameters, {self.dtype}>"
        )

    def __dir__(self) -> list[str]:
        """What a user does with a model; what the engine asks of it works all the same."""
        return sorted(name for name in super().__dir__() if name not in _FOR_THE_ENGINE)

    @property
    def ladder(self) -> Ladder:
        """How far a sweep of this model may share work."""
        return self.capabilities.ladder

    @property
    def config(self) -> Any:
        """The transformers config, or None for a plain module."""
        return getattr(self.module, "config", None)

    @cached_property
    def core(self) -> nn.Module:
        """The model of transformers that an adapter library wraps; the module itself where there is none."""
        inner = (part for part in self.module.modules() if hasattr(type(part), "base_model_prefix"))
        return next(inner, self.module) if hasattr(self.module, "base_model_prefix") else self.module

    @cached_property
    def encoder(self) -> str | None:
        """Path of the module that reads ``input_ids`` in an encoder-decoder; None for any other model."""
        core: Any = self.core
        if not getattr(self.config, "is_encoder_decoder", False) or not hasattr(core, "get_encoder"):
            return None
        own = core.get_encoder()
        return next((path for path, part in self.module.named_modules() if part is own and path), None)

    @property
    def text_config(self) -> Any:
        """The part of the config that describes the language model, where the model takes more than text."""
        try:
            return self.config.get_text_config()
        except (AttributeError, ValueError):  # no config of transformers', or one with several text models
            return self.config

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        first = next(self.module.parameters(), None)
        return first.device if first is not None else torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """Floating dtype of the weights."""
        return next((p.dtype for p in self.module.parameters() if p.is_floating_point()), torch.float32)

    @property
    def causal(self) -> bool:
        """True if a position cannot see later ones: as seen on the model, or as its family says if it was not looked at."""
        seen = self.capabilities.seen_causal
        return self.sites.family.causal if seen is None else seen

    @property
    def takes_tokens(self) -> bool:
        """True if the model's input is token ids."""
        return getattr(self.module, "main_input_name", "") == "input_ids" or self.tokenizer is not None

    @property
    def context(self) -> int | None:
        """Longest prompt, in tokens."""
        found = getattr(self.text_config, "max_position_embeddings", None)
        return found if isinstance(found, int) and found > 0 else None

    @property
    def vocabulary(self) -> int | None:
        """Number of token ids: rows of the embedding, or what the config says where there is no such table."""
        table = input_embeddings(self.module)
        found = (
            table.num_embeddings if isinstance(table, nn.Embedding) else getattr(self.text_config, "vocab_size", None)
        )
        return found if isinstance(found, int) else None

    def weights_digest(self) -> str:
        """SHA-256 of the weights as they are now."""
        return weights_digest(self.module.state_dict().items())

    def fingerprint(self) -> str:
        """SHA-256 of the weights rounded to bfloat16: the same in float64, float32 and bfloat16; kept until they change.

        Weights in float16 have been rounded once more, so theirs is another one.
        """
        version = self.weights_version()
        if self._fingerprint is None or self._fingerprint[0] != version:
            found = weights_digest(self.module.state_dict().items(), torch.bfloat16)
            self._fingerprint = (version, found)
        return self._fingerprint[1]

    def identity(self) -> str:
        """Digest of everything that decides the model's numbers, as it is now and in any process.

        Weights, buffers, attributes and code of its modules, config, the kind of device, the versions of what runs it, and
        torch's own settings. How many threads share the work is not in it: they can move last bits.

        Raises:
            InputError: A part of the module has no content, as an open file.
        """
        kinds = sorted({tensor.device.type for tensor in chain(self.module.parameters(), self.module.buffers())})
        versions = [
            (name, getattr(sys.modules.get(name), "__version__", ""))
            for name in ("torch", "transformers", "patchclamp")
        ]
        settings = (
            torch.get_float32_matmul_precision(),
            str(torch.get_default_dtype()),
            [(kind, torch.is_autocast_enabled(kind), str(torch.get_autocast_dtype(kind))) for kind in kinds],
        )
        held = Contents(f"the model ({type(self.module).__name__})")
        return digest(held.of(self.module), held.of(self._attention()), kinds, versions, settings)

    def _attention(self) -> Any:
        """The function that computes attention, where transformers looks it up by a name that anyone may register."""
        registry = getattr(sys.modules.get("transformers.modeling_utils"), "ALL_ATTENTION_FUNCTIONS", {})
        return registry.get(getattr(self.config, "_attn_implementation", None))

    def weights_version(self) -> tuple[tuple[int, int], ...]:
        """Changes when a weight is replaced or written to in place: cheap, and good enough to notice training."""
        held = chain(self.module.parameters(), self.module.buffers())
        return tuple((tensor.data_ptr(), tensor._version) for tensor in held)

    @cached_property
    def parameters_of_forward(self) -> set[str]:
        """Names that the module's forward takes."""
        return set(inspect.signature(self.core.forward).parameters)

    def prompts(self, inputs: Any) -> list[Prompt]:
        """Read the user's inputs as unpadded rows; see :func:`patchclamp.models.inputs.make_prompts`."""
        self.look()
        return make_prompts(inputs, self.tokenizer, self.context, self.vocabulary, self.takes_tokens, self.beside)

    @cached_property
    def beside(self) -> Beside:
        """What the module takes beside token ids."""
        return Beside.of(self.core, self.context, self._is_default)

    def _is_default(self, name: str) -> bool:
        version = self.weights_version()
        if name not in self._defaults or self._defaults[name][0] != version:
            self._defaults[name] = version, measured_default(self.module, name, self.vocabulary, self.context)
        return self._defaults[name][1]

    def look(self) -> None:
        """Verify a model that was in training mode when it was wrapped.

        Raises:
            ModelError: It still is.
        """
        if self._verify is not None:
            check_ready(self.module)
            verify, self._verify = self._verify, None
            verify(self)

    def batch(self, prompts: "list[Prompt] | tuple[Prompt, ...]") -> Batch:
        """Pad prompts into one call; refuses a model in training mode."""
        check_ready(self.module)
        if not prompts:
            raise InputError("a batch is made of one prompt or more; the list is empty")
        pictures = any(map(is_whole, prompts[0].tensors))
        batch = make_batch(prompts, self.device, self.dtype if pictures or not self.takes_tokens else None)
        if self.beside.needs_mask and "input_ids" in batch.kwargs and "attention_mask" not in batch.kwargs:
            batch.kwargs["attention_mask"] = torch.ones_like(batch.kwargs["input_ids"])
        return batch

    @property
    def outputs(self) -> int:
        """Width of the logits: the vocabulary, or the number of classes."""
        if self.capabilities.width_of_logits is None:
            raise ModelError("the width of this model's output is not known yet; run it once with model.run(inputs)")
        return self.capabilities.width_of_logits

    def check_predicts(self, ids: Iterable[int]) -> None:
        """Refuse a model whose outputs are no next tokens, where tokens are to be predicted.

        Raises:
            InputError: A token has no output.
        """
        if (highest := max(ids, default=0)) >= self.outputs:
            raise InputError(
                f"token {highest} has no output: {type(self.module).__name__} gives {self.outputs} outputs, which are no next "
                "tokens; read its outputs by number, as in pc.Probability(0)"
            )

    def output_id(self, name: str | int) -> int:
        """Column of the logits: a token's id, or a class by name or number.

        Raises:
            InputError: There is no such token or class.
        """
        names = getattr(self.config, "label2id", None) or {}
        if isinstance(name, str) and self.tokenizer is None and len(names) == self.outputs:
            check_choice("class", name, names)
            return int(names[name])
        identity = self.token_id(name)
        if not 0 <= identity < self.outputs:
            raise InputError(f"output {identity} is outside 0..{self.outputs - 1}")
        return identity

    def output_label(self, identity: int) -> str:
        """A token or class as text.

        Raises:
            InputError: There is no such output.
        """
        most = max(self.capabilities.width_of_logits or 0, self.vocabulary or 0)
        if most and not 0 <= identity < most:
            raise InputError(f"output {identity} is outside 0..{most - 1}")
        if self.tokenizer is not None:
            return tokens.labels(self.tokenizer, [identity])[0]
        return str((getattr(self.config, "id2label", None) or {}).get(identity, identity))

    def tokens(self, prompt: Any) -> list[str]:
        """The prompt's tokens as text, in order."""
        return list(self.prompts(prompt)[0].tokens)

    def token_id(self, text: str | int) -> int:
        """The one token that stands for ``text`` inside a sentence."""
        return tokens.token_id(self.tokenizer, text)

    def embedding(self, text: str | int) -> Tensor:
        """What the token embedding gives for one token (scaled where the model scales it), ``[d_model]``.

        Raises:
            InputError: The model has no token embedding, or no such token.
        """
        table = input_embeddings(self.module)
        if table is None:
            raise InputError(f"{type(self.module).__name__} has no token embedding")
        identity, rows = self.token_id(text), int(getattr(table, "num_embeddings", self.vocabulary or 0))
        if not 0 <= identity < rows:
            raise InputError(f"token id {identity} is outside the vocabulary 0..{rows - 1}")
        with guarded(torch.no_grad()):
            found: Tensor = table(torch.tensor([[identity]], device=self.device))[0, 0]
        return found.clone()

    def describe(self) -> Deferred:
        """What a saved result says about its model; the weights are hashed when the result is saved."""
        then = self.weights_version()
        said = {
            "name": self.source.name,
            "options": dict(self.source.options),
            "class": type(self.module).__name__,
            "family": self.sites.family.name,
            "revision": getattr(self.config, "_commit_hash", None),
            "dtype": str(self.dtype).removeprefix("torch."),
            "attention": getattr(self.config, "_attn_implementation", None),
        }

        def finish() -> dict[str, Any]:
            if self.weights_version() != then:
                return {
                    **said,
                    "weights_sha256": None,
                    "note": "the weights were changed between the run and its saving",
                }
            return {**said, "weights_sha256": self.weights_digest()}

        return Deferred(finish)


checked_methods(OpenModel)

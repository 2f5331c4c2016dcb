"""How a text is decoded: which settings of transformers are used, which are refused and why, and when a row ends.

Called by ``generation.py`` before a generation begins.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, StoppingCriteria
from transformers.generation import StopStringCriteria

from patchclamp.core.errors import InputError, unknown
from patchclamp.core.readers import single

_BEAMS = "beam search reorders rows between steps, so a row is no longer its prompt"
_ASSISTED = "assisted decoding runs several tokens and takes some back"
_GUIDED = "classifier-free guidance runs the model on a second text, whose positions are not the prompt's"
_OTHER = "it replaces the decoding loop, so it is not known which positions a call holds"

REFUSED: dict[str, tuple[Any, str]] = {
    "num_beams": (1, _BEAMS),
    "num_beam_groups": (1, _BEAMS),
    "constraints": (None, _BEAMS),
    "force_words_ids": (None, _BEAMS),
    "assistant_model": (None, _ASSISTED),
    "prompt_lookup_num_tokens": (None, _ASSISTED),
    "assistant_early_exit": (None, _ASSISTED),
    "use_mtp": (False, _ASSISTED),
    "penalty_alpha": (None, "contrastive search runs candidates that are not kept"),
    "dola_layers": (None, _OTHER),
    "custom_generate": (None, _OTHER),
    "guidance_scale": (1, _GUIDED),
    "negative_prompt_ids": (None, _GUIDED),
    "negative_prompt_attention_mask": (None, _GUIDED),
    "token_healing": (False, "it changes the last token of the prompt"),
}
"""Ways of decoding under which a row does not stay one prompt: the value that turns each off, and the reason."""

_CACHES = (None, "dynamic", "offloaded", "quantized", "hybrid")
_OBJECTS = (
    "generation_config",
    "logits_processor",
    "stopping_criteria",
    "prefix_allowed_tokens_fn",
    "streamer",
    "tokenizer",
)
_INPUTS = (
    *("inputs", "input_ids", "attention_mask", "inputs_embeds", "position_ids", "token_type_ids", "labels"),
    *("past_key_values", "cache_params", "logits_to_keep", "synced_gpus"),
)
_KEPT = ("output_attentions", "output_hidden_states")
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
_OF_BEAMS = ("early_stopping", "length_penalty", "diversity_penalty")
_READS_THE_TEXT = (
    *("max_length", "min_length", "repetition_penalty", "encoder_repetition_penalty", "no_repeat_ngram_size"),
    *("encoder_no_repeat_ngram_size", "bad_words_ids", "sequence_bias", "logits_processor", "stopping_criteria"),
    "prefix_allowed_tokens_fn",
)


def effective(module: nn.Module, settings: Mapping[str, Any], name: str) -> Any:
    """The value of a setting as transformers resolves it: the call's, else the given config's, else the checkpoint's."""
    if name in settings:
        return settings[name]
    value = getattr(settings.get("generation_config"), name, None)
    return getattr(getattr(module, "generation_config", None), name, None) if value is None else value


def check_generation(module: nn.Module, settings: Mapping[str, Any]) -> None:
    """Refuse ways of decoding under which a row does not stay one prompt.

    Raises:
        InputError: With the reason.
    """
    for name, (plain, why) in REFUSED.items():
        value = effective(module, settings, name)
        if value is not None and (isinstance(value, Tensor) or value != plain):
            raise InputError(f"{name}={value!r} cannot be combined with edits: {why}")
    cache = effective(module, settings, "cache_implementation")
    if cache not in _CACHES:
        raise InputError(
            f"cache_implementation={cache!r} cannot be combined with edits: a static cache compiles the forward pass, and "
            "compiled code ignores hooks; valid: 'dynamic', 'offloaded', 'quantized'"
        )


def read_settings(module: nn.Module, tokenizer: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a generation, each of them used: greedy and one text a prompt unless they say otherwise.

    Raises:
        InputError: A setting is unknown, would have no effect, or cannot be combined with edits.
    """
    settings = {name: single(value) for name, value in options.items()}
    config = settings.get("generation_config")
    if config is not None and not isinstance(config, GenerationConfig):
        raise InputError(f"generation_config must be a GenerationConfig or a mapping, got {type(config).__name__}")
    _check_names(settings)
    check_generation(module, settings)
    sampling = settings.get("do_sample", getattr(settings.get("generation_config"), "do_sample", None))
    settings["do_sample"] = bool(sampling)
    if not sampling:
        _check_greedy(settings)
    samples = effective(module, settings, "num_return_sequences") if sampling else settings.get("num_return_sequences")
    samples = 1 if samples is None else samples
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise InputError(f"num_return_sequences must be 1 or more, got {samples!r}")
    settings["num_return_sequences"] = samples
    if "tokenizer" in settings and settings["tokenizer"] is None:
        del settings["tokenizer"]
    if (strings := effective(module, settings, "stop_strings")) is not None:
        settings.setdefault("tokenizer", tokenizer)
        if settings["tokenizer"] is None:
            raise InputError(
                f"stop_strings={strings!r} needs a tokenizer: open the model as pc.wrap(module, tokenizer)"
            )
    if settings.get("output_logits") or settings.get("output_scores"):
        settings["return_dict_in_generate"] = True
    return settings


def _check_names(settings: Mapping[str, Any]) -> None:
    names = [name for name in vars(GenerationConfig()) if not name.startswith("_") and name != "transformers_version"]
    for name, value in settings.items():
        if name in _INPUTS:
            raise InputError(
                f"{name} is no setting of model.generate, which makes the inputs of its prompts; for inputs of your own "
                "write: with model.editing(edits): model.module.generate(...)"
            )
        if name not in (*names, *_OBJECTS, *REFUSED):
            raise InputError(unknown("setting of a generation", name, [*names, *_OBJECTS]))
        if name in _KEPT and value:
            raise InputError(f"{name}={value!r} is not kept by model.generate; use model.record on the text")


def _check_greedy(settings: Mapping[str, Any]) -> None:
    for name in _SAMPLING:
        value = settings.get(name)
        if value is not None and value not in (0, 1):
            raise InputError(f"{name}={value!r} has no effect on greedy decoding; pass do_sample=True with it")
    for name in _OF_BEAMS:
        if settings.get(name):
            raise InputError(f"{name}={settings[name]!r} belongs to beam search, which cannot be combined with edits")
    samples = settings.get(
        "num_return_sequences", getattr(settings.get("generation_config"), "num_return_sequences", 1)
    )
    if samples is not None and samples != 1:
        raise InputError(
            f"num_return_sequences={samples!r}: greedy decoding gives the same text each time; pass do_sample=True with it"
        )


def new_tokens(settings: Mapping[str, Any], limit: int | None) -> int | None:
    """How many new tokens a call is limited to, or None where ``max_length`` limits the whole text.

    Raises:
        InputError: Not a number from 1 on, or both limits are given.
    """
    config = settings.get("generation_config")
    longest = settings.get("max_length", getattr(config, "max_length", None))
    count = getattr(config, "max_new_tokens", None) if limit is None else limit
    if count is not None and settings.get("max_length") is not None:
        raise InputError(f"max_new_tokens={count} and max_length={longest} are both given; give one of them")
    for name, value in (("max_new_tokens", count), ("max_length", longest)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise InputError(f"{name} must be 1 or more, got {value!r}")
    return count if count is not None else None if longest is not None else 20


def reads_the_text(module: nn.Module, settings: Mapping[str, Any]) -> bool:
    """Whether decoding looks at the ids of the whole row, so that padding beside a prompt would change it."""
    plain: dict[str, Any] = {"repetition_penalty": 1.0, "encoder_repetition_penalty": 1.0}
    values = ((name, effective(module, settings, name)) for name in _READS_THE_TEXT)
    return any(bool(value) and value != plain.get(name) for name, value in values)


def end_ids(module: nn.Module, settings: Mapping[str, Any]) -> set[int]:
    """The end-of-text tokens of a call: those that the user named, else the model's own."""
    ends = effective(module, settings, "eos_token_id")
    return set() if ends is None else set(torch.as_tensor(ends).flatten().tolist())


def until_end(row: Iterable[int], ends: set[int]) -> tuple[int, ...]:
    """New tokens up to the end-of-text token: what follows is padding."""
    tokens = tuple(row)
    return tokens[: next((i for i, token in enumerate(tokens) if token in ends), len(tokens))]


class RowEnds(StoppingCriteria):  # type: ignore[misc]
    """Carries the caller's criteria, and remembers after how many new tokens each row ended.

    A row that has ended goes on as padding while others are written; that padding is no part of its text.
    """

    def __init__(self, module: nn.Module, settings: Mapping[str, Any]) -> None:
        self.own = list(settings.get("stopping_criteria") or ())
        self.ends = end_ids(module, settings)
        strings = effective(module, settings, "stop_strings")
        tokenizer = settings.get("tokenizer")
        self.strings = None if strings is None or tokenizer is None else StopStringCriteria(tokenizer, strings)
        self.steps = 0
        self.lengths: list[int | None] = []
        """New tokens of each row that has ended."""
        if (marked := next((item for item in self.own if hasattr(item, "eos_token_id")), None)) is not None:
            self.eos_token_id = marked.eos_token_id  # transformers pads ended rows where it sees this

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Which rows the caller's criteria end here."""
        self.steps += 1
        ends_by_criteria = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        for criterion in self.own:
            ends_by_criteria = ends_by_criteria | criterion(input_ids, scores, **kwargs)
        ends_by_any = ends_by_criteria if self.strings is None else ends_by_criteria | self.strings(input_ids, scores)
        last = input_ids[:, -1].tolist()
        self.lengths = self.lengths or [None] * len(last)
        for row, (ended, token) in enumerate(zip(ends_by_any.tolist(), last, strict=True)):
            if self.lengths[row] is None and (ended or token in self.ends):
                self.lengths[row] = self.steps
        return ends_by_criteria

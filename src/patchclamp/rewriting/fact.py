"""A fact as prompts: the prompt alone and after prefixes, the subject's last token in each, and the tokens at stake."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from patchclamp.core.arguments import checked
from patchclamp.core.errors import InputError
from patchclamp.core.kinds import Repeats, Seed
from patchclamp.interventions import Row, Token, generate, last_logits, positions
from patchclamp.models import tokens
from patchclamp.models.inputs import Prompt
from patchclamp.models.opened import OpenModel

PREFIX_TOKENS = 8
BRIDGE = ". "
"""The text between a prefix and the prompt."""


@dataclass(frozen=True, eq=False)
class Context:
    """A prompt, and the position where the subject ends in it."""

    prompt: Prompt
    subject: int


@dataclass(frozen=True, eq=False)
class FactPrompts:
    """A fact that is to be rewritten, as prompts and tokens."""

    contexts: tuple[Context, ...]
    """The contexts: the prompt alone first, then after each prefix."""
    essences: tuple[Context, ...]
    """Prompts for what the subject is, which shall stay as it is."""
    positions: tuple[int, ...]
    """The positions of the subject in the prompt."""
    essence: str | None
    target: int
    true: int
    """The token of the answer now."""


def read_fact(
    model: OpenModel,
    prompt: Any,
    subject: Any,
    target: str | int,
    true: str | int | None,
    prefixes: int | Sequence[Any],
    essence: str | None,
    seed: int,
) -> FactPrompts:
    """Read and check a fact.

    Raises:
        InputError: Not one prompt, a template that the subject is not in, or a target of several tokens.
        PositionError: The subject is not in the prompt, or not on token borders.
    """
    full_prompt = fill(prompt, subject)
    prompts = model.prompts(full_prompt)
    if len(prompts) != 1 or not prompts[0].ids:
        raise InputError(f"a fact is one prompt made of tokens, got {len(prompts)} inputs")
    plain_prompt = prompts[0]
    if plain_prompt.tensors:
        raise InputError(
            f"a fact is put after other texts, where {sorted(plain_prompt.tensors)} of its prompt say nothing; leave them out"
        )
    subject_positions = _subject_positions(model, plain_prompt, subject)
    logits = last_logits(model, [Row(plain_prompt)])[0]
    target_id = model.output_id(target)
    top_ids = [int(i) for i in logits.topk(2).indices]
    true_id = model.output_id(true) if true is not None else top_ids[1] if top_ids[0] == target_id else top_ids[0]
    if true_id == target_id:
        raise InputError(f"the target {target!r} is the answer that is to be replaced")
    template = essence if model.tokenizer is not None and isinstance(subject, str) else None
    essences = _essences(model, template, subject)
    contexts = [Context(plain_prompt, subject_positions[-1])]
    for prefix in sample_prefixes(model, prefixes, seed):
        joined_prompt = _join(model, prefix, plain_prompt)
        contexts.append(Context(joined_prompt, len(joined_prompt.ids) - len(plain_prompt.ids) + subject_positions[-1]))
        if model.tokenizer is not None:  # a word may be cut otherwise inside a text
            span = _subject_positions(
                model, joined_prompt, Token(subject, -1) if isinstance(subject, str) else contexts[-1].subject
            )
            contexts[-1] = Context(joined_prompt, span[-1])
    return FactPrompts(tuple(contexts), essences, subject_positions, template, target_id, true_id)


def fill(prompt: Any, subject: Any) -> Any:
    """Fill a template with the subject in place of ``{}``.

    Raises:
        InputError: Several places, or a subject that is no text.
    """
    if not isinstance(prompt, str) or "{}" not in prompt:
        return prompt
    if prompt.count("{}") > 1 or not isinstance(subject, str) or not subject.strip():
        raise InputError(f"the template {prompt!r} takes one subject, a text, in place of one {{}}; got {subject!r}")
    return prompt.replace("{}", subject)


def _subject_positions(model: OpenModel, prompt: Prompt, subject: Any) -> tuple[int, ...]:
    at = Token(subject) if isinstance(subject, str) else positions.read_at(subject)
    resolved = positions.resolve(at, prompt, 0, 1, model.tokenizer)
    assert resolved is not None
    return tuple(sorted(resolved))


def _join(model: OpenModel, prefix: Sequence[int], plain_prompt: Prompt) -> Prompt:
    if model.tokenizer is None or plain_prompt.text is None:
        ids = (*prefix, *plain_prompt.ids)
    else:
        ids = (*prefix, *model.tokenizer(BRIDGE + plain_prompt.text, add_special_tokens=False)["input_ids"])
    return Prompt(ids, None, tokens.labels(model.tokenizer, ids))


def _essences(model: OpenModel, essence: str | None, subject: Any) -> tuple[Context, ...]:
    if essence is None:
        return ()
    if essence.count("{}") != 1:
        raise InputError(f"essence is a template with one {{}} for the subject, or None; got {essence!r}")
    (prompt,) = model.prompts(essence.replace("{}", subject))
    return (Context(prompt, _subject_positions(model, prompt, subject)[-1]),)


@checked
def sample_prefixes(model: OpenModel, prefixes: Repeats | Sequence[Any] = 5, seed: Seed = 0) -> list[tuple[int, ...]]:
    """Make beginnings that a prompt may follow: those that are passed, or samples of the model.

    Args:
        model: The model.
        prefixes: Texts or lists of ids; or how many to sample.
        seed: The seed of the sampling.

    Raises:
        InputError: A negative number, or nothing to begin sampling with.
    """
    if not isinstance(prefixes, int):
        prompt_lists = [model.prompts([prefix]) for prefix in prefixes]
        bad_index = next((i for i, prompts in enumerate(prompt_lists) if len(prompts) != 1 or prompts[0].tensors), None)
        if bad_index is not None:
            raise InputError(f"prefix number {bad_index} is not one text or list of ids: {prefixes[bad_index]!r:.80}")
        return [prompts[0].ids for prompts in prompt_lists]
    if prefixes < 0 or isinstance(prefixes, bool):
        raise InputError(f"prefixes is how many to sample, 0 or more, or a list of texts; got {prefixes!r}")
    if not prefixes:
        return []
    config = getattr(model.module, "generation_config", None)
    first = next(
        (i for i in (_token_id(config, "bos_token_id"), _token_id(config, "eos_token_id")) if i is not None), None
    )
    if first is None:
        raise InputError("the model has no token to begin a text with; pass prefixes=[...] as texts, or prefixes=0")
    generation = generate(
        model, [[first]] * prefixes, max_new_tokens=PREFIX_TOKENS, min_new_tokens=PREFIX_TOKENS, do_sample=True, top_k=20, seed=seed
    )  # fmt: skip
    return [(first, *ids) for ids in generation.ids]


def _token_id(config: Any, name: str) -> int | None:
    token_id = getattr(config, name, None)
    token_id = token_id[0] if isinstance(token_id, list) and token_id else token_id
    return token_id if isinstance(token_id, int) else None

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
"""Between a prefix and the prompt."""


@dataclass(frozen=True, eq=False)
class Context:
    """A prompt and where the subject ends in it."""

    prompt: Prompt
    subject: int


@dataclass(frozen=True, eq=False)
class Said:
    """What is to be rewritten."""

    contexts: tuple[Context, ...]
    """The prompt alone first, then after each prefix."""
    essences: tuple[Context, ...]
    """What the subject is, which shall stay as it is."""
    where: tuple[int, ...]
    """Positions of the subject in the prompt."""
    essence: str | None
    target: int
    true: int
    """The answer now."""


def say(
    model: OpenModel,
    prompt: Any,
    subject: Any,
    target: str | int,
    true: str | int | None,
    prefixes: int | Sequence[Any],
    essence: str | None,
    seed: int,
) -> Said:
    """Read and check a fact.

    Raises:
        InputError: Not one prompt, a template that the subject is not in, or a target of several tokens.
        PositionError: The subject is not in the prompt, or not on token borders.
    """
    whole = filled(prompt, subject)
    found = model.prompts(whole)
    if len(found) != 1 or not found[0].ids:
        raise InputError(f"a fact is one prompt made of tokens, got {len(found)} inputs")
    bare = found[0]
    if bare.tensors:
        raise InputError(
            f"a fact is put after other texts, where {sorted(bare.tensors)} of its prompt say nothing; leave them out"
        )
    where = _where(model, bare, subject)
    logits = last_logits(model, [Row(bare)])[0]
    wanted = model.output_id(target)
    best = [int(i) for i in logits.topk(2).indices]
    now = model.output_id(true) if true is not None else best[1] if best[0] == wanted else best[0]
    if now == wanted:
        raise InputError(f"the target {target!r} is the answer that is to be replaced")
    asked = essence if model.tokenizer is not None and isinstance(subject, str) else None
    essences = _essences(model, asked, subject)
    contexts = [Context(bare, where[-1])]
    for prefix in sample_prefixes(model, prefixes, seed):
        joined = _joined(model, prefix, bare)
        contexts.append(Context(joined, len(joined.ids) - len(bare.ids) + where[-1]))
        if model.tokenizer is not None:  # a word may be cut otherwise inside a text
            span = _where(model, joined, Token(subject, -1) if isinstance(subject, str) else contexts[-1].subject)
            contexts[-1] = Context(joined, span[-1])
    return Said(tuple(contexts), essences, where, asked, wanted, now)


def filled(prompt: Any, subject: Any) -> Any:
    """A template with the subject in place of ``{}``.

    Raises:
        InputError: Several places, or a subject that is no text.
    """
    if not isinstance(prompt, str) or "{}" not in prompt:
        return prompt
    if prompt.count("{}") > 1 or not isinstance(subject, str) or not subject.strip():
        raise InputError(f"the template {prompt!r} takes one subject, a text, in place of one {{}}; got {subject!r}")
    return prompt.replace("{}", subject)


def _where(model: OpenModel, prompt: Prompt, subject: Any) -> tuple[int, ...]:
    at = Token(subject) if isinstance(subject, str) else positions.read_at(subject)
    found = positions.resolve(at, prompt, 0, 1, model.tokenizer)
    assert found is not None
    return tuple(sorted(found))


def _joined(model: OpenModel, prefix: Sequence[int], bare: Prompt) -> Prompt:
    if model.tokenizer is None or bare.text is None:
        row = (*prefix, *bare.ids)
    else:
        row = (*prefix, *model.tokenizer(BRIDGE + bare.text, add_special_tokens=False)["input_ids"])
    return Prompt(row, None, tokens.labels(model.tokenizer, row))


def _essences(model: OpenModel, essence: str | None, subject: Any) -> tuple[Context, ...]:
    if essence is None:
        return ()
    if essence.count("{}") != 1:
        raise InputError(f"essence is a template with one {{}} for the subject, or None; got {essence!r}")
    (prompt,) = model.prompts(essence.replace("{}", subject))
    return (Context(prompt, _where(model, prompt, subject)[-1]),)


@checked
def sample_prefixes(model: OpenModel, prefixes: Repeats | Sequence[Any] = 5, seed: Seed = 0) -> list[tuple[int, ...]]:
    """Beginnings that a prompt may follow: given, or sampled from the model.

    Args:
        model: The model.
        prefixes: Texts or lists of ids; or how many to sample.
        seed: Of the sampling.

    Raises:
        InputError: A negative number, or nothing to begin sampling with.
    """
    if not isinstance(prefixes, int):
        found = [model.prompts([prefix]) for prefix in prefixes]
        wrong = next((i for i, own in enumerate(found) if len(own) != 1 or own[0].tensors), None)
        if wrong is not None:
            raise InputError(f"prefix number {wrong} is not one text or list of ids: {prefixes[wrong]!r:.80}")
        return [own[0].ids for own in found]
    if prefixes < 0 or isinstance(prefixes, bool):
        raise InputError(f"prefixes is how many to sample, 0 or more, or a list of texts; got {prefixes!r}")
    if not prefixes:
        return []
    config = getattr(model.module, "generation_config", None)
    first = next((i for i in (_first(config, "bos_token_id"), _first(config, "eos_token_id")) if i is not None), None)
    if first is None:
        raise InputError("the model has no token to begin a text with; pass prefixes=[...] as texts, or prefixes=0")
    made = generate(
        model, [[first]] * prefixes, max_new_tokens=PREFIX_TOKENS, min_new_tokens=PREFIX_TOKENS, do_sample=True, top_k=20, seed=seed
    )  # fmt: skip
    return [(first, *ids) for ids in made.ids]


def _first(config: Any, name: str) -> int | None:
    found = getattr(config, name, None)
    found = found[0] if isinstance(found, list) and found else found
    return found if isinstance(found, int) else None

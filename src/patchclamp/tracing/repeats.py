"""Text in which something recurs, and which attention counts as going back to it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from patchclamp.core.digest import digest
from patchclamp.core.errors import InputError, PositionError
from patchclamp.models import tokens
from patchclamp.models.inputs import Prompt
from patchclamp.models.opened import OpenModel

INDUCTION, PREVIOUS, DUPLICATE = "induction", "previous_token", "duplicate_token"
ATTENTION_SCORES = (INDUCTION, PREVIOUS, DUPLICATE)


@dataclass(frozen=True)
class Pairs:
    """The positions that a score looks from, and those that it looks at."""

    queries: tuple[int, ...]
    targets: tuple[tuple[int, ...], ...]
    """The targets of each query, all before it (or at it)."""

    def shuffle(self, first: int, generator: torch.Generator) -> "Pairs":
        """Draw as many other earlier positions at random for each query.

        Args:
            first: The first position that may be drawn.
            generator: The generator of the draws.

        Raises:
            InputError: A query has too few earlier positions.
        """
        control_targets = []
        for query, targets in zip(self.queries, self.targets, strict=True):
            others = [position for position in range(first, query) if position not in targets]
            if len(others) < len(targets):
                raise InputError(
                    f"position {query} has {len(others)} earlier positions to draw a control for its {len(targets)} targets "
                    "from; put more text before the repeats"
                )
            order = torch.randperm(len(others), generator=generator)[: len(targets)]
            control_targets.append(tuple(others[i] for i in order.tolist()))
        return Pairs(self.queries, tuple(control_targets))


@dataclass(frozen=True, eq=False)
class Passage:
    """One prompt, and the pairs that each score looks at."""

    prompt: Prompt
    pairs: Mapping[str, Pairs]
    first: int
    """The first position that is no special token of the tokenizer's."""


def prefix_of(model: OpenModel) -> tuple[int, ...]:
    """Special tokens that the tokenizer puts before every text."""
    if model.tokenizer is None:
        return ()
    text_ids = tokens.need_tokenizer(model.tokenizer, "random tokens")("a", add_special_tokens=False)["input_ids"]
    prompt_ids = tokens.encode(model.tokenizer, "a")
    start = next((i for i in range(len(prompt_ids)) if prompt_ids[i : i + len(text_ids)] == text_ids), 0)
    return tuple(prompt_ids[:start])


def random_passages(model: OpenModel, length: int, samples: int, seed: int, *, repeated: bool = True) -> list[Passage]:
    """Random tokens, ``length`` of them twice over; or as many that do not repeat, with the same pairs.

    No token stands twice in a block. Special tokens are not drawn; those that the tokenizer puts before a text are there.

    Args:
        model: The model.
        length: The number of tokens of a block.
        samples: The number of passages.
        seed: The seed of the draws; each passage depends on it and on its number alone.
        repeated: Whether the second block is the first one again.

    Raises:
        InputError: There are too few tokens to draw from, or the length does not fit.
    """
    prefix, pool = prefix_of(model), _drawable_ids(model)
    if length < 3 or samples < 1:
        raise InputError(f"random tokens need a length of 3 or more and 1 sample or more; got {length} and {samples}")
    if 2 * length > len(pool):
        raise InputError(
            f"two blocks of {length} different tokens do not fit the vocabulary, which has {len(pool)} to draw from"
        )
    first, total = len(prefix), len(prefix) + 2 * length
    if model.context is not None and total > model.context:
        raise InputError(f"length={length} makes passages of {total} tokens; the model's context is {model.context}")
    queries = tuple(range(first + length, total))
    pairs = {
        INDUCTION: Pairs(queries, tuple((query - length + 1,) for query in queries)),
        DUPLICATE: Pairs(queries, tuple((query - length,) for query in queries)),
        PREVIOUS: Pairs(queries, tuple((query - 1,) for query in queries)),
    }
    passages = []
    for sample in range(samples):
        generator = torch.Generator().manual_seed(int(digest("heads", seed, sample), 16) % 2**63)
        random_ids = [pool[i] for i in torch.randperm(len(pool), generator=generator)[: 2 * length].tolist()]
        ids = (*prefix, *random_ids[:length], *(random_ids[:length] if repeated else random_ids[length:]))
        prompt = Prompt(ids, None, tokens.labels(model.tokenizer, ids))
        passages.append(Passage(prompt, pairs, first))
    return passages


def _drawable_ids(model: OpenModel) -> list[int]:
    """The ids that may be drawn."""
    size = model.vocabulary or 0
    special = {getattr(model.config, f"{name}_token_id", None) for name in ("pad", "bos", "eos")}
    if model.tokenizer is not None:
        size = min(size, len(model.tokenizer)) or len(model.tokenizer)
        special |= set(model.tokenizer.all_special_ids)
    return [i for i in range(size) if i not in special]


@dataclass(frozen=True, eq=False)
class Word:
    """The places of a word in a text, each time in the same tokens."""

    occurrences: tuple[tuple[int, ...], ...]
    other: int
    """The number of places where it stands in other tokens, which are left out."""


def find_word(model: OpenModel, prompt: Prompt, word: str) -> Word:
    """The occurrences of a word.

    Raises:
        PositionError: It does not recur, or not in the same tokens; the message shows them.
    """
    text, _ = tokens.spans(tokens.need_tokenizer(model.tokenizer, f"word={word!r}"), prompt.ids, prompt.text)
    count = sum(text.startswith(word, i) for i in range(len(text)))
    token_list = list(prompt.tokens)
    if count < 2:
        raise PositionError(
            f"the word {word!r} does not recur: occurrences in the text: {count}; its tokens are {token_list}"
        )
    spans: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for number in range(count):
        try:
            span = tokens.find_span(model.tokenizer, prompt.ids, prompt.text, word, number)
        except PositionError:
            continue
        spans.setdefault(tuple(prompt.ids[i] for i in span), []).append(span)
    longest = max(spans.values(), key=len, default=[])
    if len(longest) < 2:
        raise PositionError(
            f"the word {word!r} stands {count} times in the text, but not twice on token borders and in the same tokens "
            f"(a leading space makes another token): {token_list}"
        )
    return Word(tuple(longest), count - len(longest))


def word_passages(model: OpenModel, inputs: Any, word: str) -> tuple[list[Passage], Word]:
    """A text in which a word recurs, once for each later occurrence: each of its tokens looks back at every earlier one.

    Raises:
        InputError: More than one text.
        PositionError: The word does not recur.
    """
    prompts = model.prompts(inputs)
    if len(prompts) != 1 or not prompts[0].ids:
        raise InputError(f"a word recurs in one text made of tokens; {len(prompts)} inputs were given")
    if not word:
        raise InputError("word is empty; name the text that recurs")
    prompt, recurrence = prompts[0], find_word(model, prompts[0], word)
    first = len(prefix_of(model))
    passages = []
    for number, span in enumerate(recurrence.occurrences[1:], start=1):
        earlier = [
            tuple(span_before[place] for span_before in recurrence.occurrences[:number]) for place in range(len(span))
        ]
        pairs = {
            INDUCTION: Pairs(span, tuple(tuple(position + 1 for position in targets) for targets in earlier)),
            DUPLICATE: Pairs(span, tuple(earlier)),
            PREVIOUS: Pairs(span, tuple((query - 1,) for query in span)),
        }
        passages.append(Passage(prompt, pairs, first))
    return passages, recurrence

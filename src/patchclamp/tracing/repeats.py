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
    """From which positions a score looks, and where to."""

    queries: tuple[int, ...]
    targets: tuple[tuple[int, ...], ...]
    """For each query its targets, all before it (or at it)."""

    def shuffled(self, first: int, generator: torch.Generator) -> "Pairs":
        """As many other earlier positions for each query, drawn at random.

        Args:
            first: The first position that may be drawn.
            generator: Of the draws.

        Raises:
            InputError: A query has too few earlier positions.
        """
        drawn = []
        for query, targets in zip(self.queries, self.targets, strict=True):
            others = [position for position in range(first, query) if position not in targets]
            if len(others) < len(targets):
                raise InputError(
                    f"position {query} has {len(others)} earlier positions to draw a control for its {len(targets)} targets "
                    "from; put more text before the repeats"
                )
            order = torch.randperm(len(others), generator=generator)[: len(targets)]
            drawn.append(tuple(others[i] for i in order.tolist()))
        return Pairs(self.queries, tuple(drawn))


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
    bare = tokens.need_tokenizer(model.tokenizer, "random tokens")("a", add_special_tokens=False)["input_ids"]
    whole = tokens.encode(model.tokenizer, "a")
    start = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), 0)
    return tuple(whole[:start])


def random_passages(model: OpenModel, length: int, samples: int, seed: int, *, repeated: bool = True) -> list[Passage]:
    """Random tokens, ``length`` of them twice over; or as many that do not repeat, with the same pairs.

    No token stands twice in a block. Special tokens are not drawn; those that the tokenizer puts before a text are there.

    Args:
        model: The model.
        length: Tokens of a block.
        samples: How many passages.
        seed: Of the draws; each passage depends on it and on its number alone.
        repeated: Whether the second block is the first one again.

    Raises:
        InputError: Too few tokens to draw from, or a length that does not fit.
    """
    prefix, pool = prefix_of(model), _pool(model)
    if length < 3 or samples < 1:
        raise InputError(f"random tokens need a length of 3 or more and 1 sample or more; got {length} and {samples}")
    if 2 * length > len(pool):
        raise InputError(
            f"two blocks of {length} different tokens do not fit the vocabulary, which has {len(pool)} to draw from"
        )
    begin, total = len(prefix), len(prefix) + 2 * length
    if model.context is not None and total > model.context:
        raise InputError(f"length={length} makes passages of {total} tokens; the model's context is {model.context}")
    late = tuple(range(begin + length, total))
    pairs = {
        INDUCTION: Pairs(late, tuple((query - length + 1,) for query in late)),
        DUPLICATE: Pairs(late, tuple((query - length,) for query in late)),
        PREVIOUS: Pairs(late, tuple((query - 1,) for query in late)),
    }
    found = []
    for sample in range(samples):
        generator = torch.Generator().manual_seed(int(digest("heads", seed, sample), 16) % 2**63)
        drawn = [pool[i] for i in torch.randperm(len(pool), generator=generator)[: 2 * length].tolist()]
        ids = (*prefix, *drawn[:length], *(drawn[:length] if repeated else drawn[length:]))
        prompt = Prompt(ids, None, tokens.labels(model.tokenizer, ids))
        found.append(Passage(prompt, pairs, begin))
    return found


def _pool(model: OpenModel) -> list[int]:
    """Ids that may be drawn."""
    size = model.vocabulary or 0
    special = {getattr(model.config, f"{name}_token_id", None) for name in ("pad", "bos", "eos")}
    if model.tokenizer is not None:
        size = min(size, len(model.tokenizer)) or len(model.tokenizer)
        special |= set(model.tokenizer.all_special_ids)
    return [i for i in range(size) if i not in special]


@dataclass(frozen=True, eq=False)
class Word:
    """Where a word stands in a text, each time in the same tokens."""

    occurrences: tuple[tuple[int, ...], ...]
    other: int
    """How often it stands there in other tokens, which are left out."""


def find_word(model: OpenModel, prompt: Prompt, word: str) -> Word:
    """The occurrences of a word.

    Raises:
        PositionError: It does not recur, or not in the same tokens; the message shows them.
    """
    whole, _ = tokens.spans(tokens.need_tokenizer(model.tokenizer, f"word={word!r}"), prompt.ids, prompt.text)
    count = sum(whole.startswith(word, i) for i in range(len(whole)))
    shown = list(prompt.tokens)
    if count < 2:
        raise PositionError(
            f"the word {word!r} does not recur: occurrences in the text: {count}; its tokens are {shown}"
        )
    spans: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for number in range(count):
        try:
            where = tokens.find_span(model.tokenizer, prompt.ids, prompt.text, word, number)
        except PositionError:
            continue
        spans.setdefault(tuple(prompt.ids[i] for i in where), []).append(where)
    best = max(spans.values(), key=len, default=[])
    if len(best) < 2:
        raise PositionError(
            f"the word {word!r} stands {count} times in the text, but not twice on token borders and in the same tokens "
            f"(a leading space makes another token): {shown}"
        )
    return Word(tuple(best), count - len(best))


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
    prompt, found = prompts[0], find_word(model, prompts[0], word)
    first = len(prefix_of(model))
    passages = []
    for number, span in enumerate(found.occurrences[1:], start=1):
        earlier = [tuple(before[place] for before in found.occurrences[:number]) for place in range(len(span))]
        pairs = {
            INDUCTION: Pairs(span, tuple(tuple(position + 1 for position in found) for found in earlier)),
            DUPLICATE: Pairs(span, tuple(earlier)),
            PREVIOUS: Pairs(span, tuple((query - 1,) for query in span)),
        }
        passages.append(Passage(prompt, pairs, first))
    return passages, found

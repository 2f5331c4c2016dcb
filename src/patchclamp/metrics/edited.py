"""Several lists of edits by name, each run beside the unedited model; and the tables of what was measured."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from patchclamp.core.errors import InputError
from patchclamp.interventions.actions import Action
from patchclamp.interventions.edits import Edit
from patchclamp.interventions.forward import Row, last_logits
from patchclamp.interventions.record import batches, may_share, place
from patchclamp.models.inputs import Prompt
from patchclamp.models.opened import OpenModel

if TYPE_CHECKING:
    import pandas as pd

UNEDITED, EDITED = "unedited", "edited"

Edits = Edit | Iterable[Edit] | Mapping[str, Edit | Iterable[Edit]]
"""One edit, several that act together, or a mapping of names to either."""

Answer = str | int | Sequence[str | int]
"""A token, as text or id, or several whose probabilities are added."""


def named(edits: Edits) -> dict[str, list[Edit]]:
    """Lists of edits by name; one without a name is called "edited".

    Raises:
        InputError: Something is no edit, or has the name of the unedited model.
    """
    given: Mapping[Any, Any] = edits if isinstance(edits, Mapping) else {EDITED: edits}
    found = {str(name): _listed(value) for name, value in given.items()}
    if len(found) < len(given):
        raise InputError(f"two lists of edits have one name: {[str(name) for name in given]}; name them apart")
    if UNEDITED in found:
        raise InputError(f"{UNEDITED!r} names the model without edits, which is measured always; choose another name")
    return found if isinstance(edits, Mapping) or found[EDITED] else {}


def _listed(value: Any) -> list[Edit]:
    chosen = [value] if isinstance(value, Edit) or not isinstance(value, Iterable) else list(value)
    for item in chosen:
        if not isinstance(item, Edit):
            raise InputError(
                "edits are what pc.Add(...) and its like give, several of them, or a mapping of names to them; got "
                f"{type(item).__name__}"
            )
    return chosen


def paired(model: OpenModel, given: Any) -> list[Prompt]:
    """Prompts in one row, those of a pair next to each other.

    Raises:
        InputError: They are no pairs.
    """
    pairs = list(given) if isinstance(given, list | tuple) else []
    if not pairs or any(
        not isinstance(pair, list | tuple) or len(pair) != 2 or isinstance(pair[0], int) for pair in pairs
    ):
        raise InputError("pairs of prompts are wanted: [(prompt of the first class, prompt of the second class), ...]")
    flat = model.prompts([prompt for pair in pairs for prompt in pair])
    if len(flat) != 2 * len(pairs):
        raise InputError(f"{len(pairs)} pairs hold {len(flat)} prompts; each half of a pair is one prompt")
    return flat


def placed(
    model: OpenModel, chosen: Mapping[str, Sequence[Edit]], prompts: Sequence[Prompt]
) -> dict[str, list[tuple[Action, ...]]]:
    """The actions of every prompt under every list of edits, the unedited model first."""
    lists = {UNEDITED: (), **chosen}
    return {name: place(model, list(edits), prompts) for name, edits in lists.items()}


def answers_after(
    model: OpenModel,
    prompts: Sequence[Prompt],
    actions: Sequence[tuple[Action, ...]],
    answers: Sequence[tuple[int, ...]],
    batch_tokens: int,
) -> Iterator[tuple[list[int], Tensor]]:
    """Log-probabilities of some answers after each prompt, in nats and float64, batch by batch.

    Yields:
        Which prompts, and ``[prompt, answer]``.
    """
    for members in batches(prompts, batch_tokens, *may_share(model)):
        logits = last_logits(model, [Row(prompts[i], actions[i]) for i in members])
        logs = logits.to(torch.float64).log_softmax(-1)
        # of one token the sum is the token itself, to the bit
        found = [logs[:, ids[0]] if len(ids) == 1 else logs[:, list(ids)].logsumexp(-1) for ids in answers]
        yield members, torch.stack(found, -1).cpu()


def answer_ids(model: OpenModel, answers: Sequence[Answer], prompt: Prompt) -> list[tuple[int, ...]]:
    """Tokens of two answers.

    Raises:
        InputError: There are not two, they share a token, or a word is no single token.
    """
    if isinstance(answers, str) or len(answers) != 2:
        raise InputError(f"two answers are compared, as in answers=(' he', ' she'); got {answers!r}")
    if model.width_of_logits is None:
        last_logits(model, [Row(prompt)])
    words = [[answer] if isinstance(answer, str | int) else list(answer) for answer in answers]
    if not all(words):
        raise InputError(f"an answer is one token, or several whose probabilities are added; got {answers!r}")
    first, second = (tuple(dict.fromkeys(model.output_id(word) for word in group)) for group in words)
    shared = set(first) & set(second)
    if shared:
        one = model.output_label(min(shared))
        raise InputError(f"the answers {answers[0]!r} and {answers[1]!r} are the same token, {one!r}, or share it")
    return [first, second]


def plain_answers(ids: Sequence[tuple[int, ...]]) -> list[int | list[int]]:
    """Answers as they are recorded: a token's id, or a list of them."""
    return [group[0] if len(group) == 1 else list(group) for group in ids]


def answer_names(model: OpenModel, ids: Sequence[tuple[int, ...]]) -> list[str]:
    """What the answers are called: their tokens."""
    return ["|".join(model.output_label(i) for i in group) for group in ids]


def table(rows: Sequence[Mapping[str, Any]]) -> "pd.DataFrame":
    """Rows as a pandas frame."""
    import pandas as pd

    return pd.DataFrame(list(rows))

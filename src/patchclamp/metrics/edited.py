"""Several lists of edits by name, each run beside the unedited model; and the tables of what was measured."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from patchclamp.core.errors import InputError
from patchclamp.interventions import Action, Edit, Row, batches, last_logits, may_share, place
from patchclamp.models.inputs import Prompt
from patchclamp.models.opened import OpenModel

if TYPE_CHECKING:
    import pandas as pd

UNEDITED, EDITED = "unedited", "edited"

Edits = Edit | Iterable[Edit] | Mapping[str, Edit | Iterable[Edit]]
"""One edit, several that act together, or a mapping of names to either."""

Answer = str | int | Sequence[str | int]
"""A token, as text or id, or several whose probabilities are added."""


def name_edits(edits: Edits) -> dict[str, list[Edit]]:
    """Read lists of edits by name; one without a name is called "edited".

    Raises:
        InputError: Something is no edit, or has the name of the unedited model.
    """
    mapping: Mapping[Any, Any] = edits if isinstance(edits, Mapping) else {EDITED: edits}
    edits_by_name = {str(name): _edit_list(value) for name, value in mapping.items()}
    if len(edits_by_name) < len(mapping):
        raise InputError(f"two lists of edits have one name: {[str(name) for name in mapping]}; name them apart")
    if UNEDITED in edits_by_name:
        raise InputError(f"{UNEDITED!r} names the model without edits, which is measured always; choose another name")
    return edits_by_name if isinstance(edits, Mapping) or edits_by_name[EDITED] else {}


def _edit_list(value: Any) -> list[Edit]:
    edit_list = [value] if isinstance(value, Edit) or not isinstance(value, Iterable) else list(value)
    for item in edit_list:
        if not isinstance(item, Edit):
            raise InputError(
                "edits are what pc.Add(...) and its like give, several of them, or a mapping of names to them; got "
                f"{type(item).__name__}"
            )
    return edit_list


def flatten_pairs(model: OpenModel, prompt_pairs: Any) -> list[Prompt]:
    """Read pairs of prompts into one row, those of a pair next to each other.

    Raises:
        InputError: They are no pairs.
    """
    pairs = list(prompt_pairs) if isinstance(prompt_pairs, list | tuple) else []
    if not pairs or any(
        not isinstance(pair, list | tuple) or len(pair) != 2 or isinstance(pair[0], int) for pair in pairs
    ):
        raise InputError("pairs of prompts are wanted: [(prompt of the first class, prompt of the second class), ...]")
    flat = model.prompts([prompt for pair in pairs for prompt in pair])
    if len(flat) != 2 * len(pairs):
        raise InputError(f"{len(pairs)} pairs hold {len(flat)} prompts; each half of a pair is one prompt")
    return flat


def place_edits(
    model: OpenModel, edits_by_name: Mapping[str, Sequence[Edit]], prompts: Sequence[Prompt]
) -> dict[str, list[tuple[Action, ...]]]:
    """The actions of every prompt under every list of edits, the unedited model first."""
    lists_by_name = {UNEDITED: (), **edits_by_name}
    return {name: place(model, list(edits), prompts) for name, edits in lists_by_name.items()}


def answers_after(
    model: OpenModel,
    prompts: Sequence[Prompt],
    actions: Sequence[tuple[Action, ...]],
    answers: Sequence[tuple[int, ...]],
    batch_tokens: int,
) -> Iterator[tuple[list[int], Tensor]]:
    """Log-probabilities of some answers after each prompt, in nats and float64, batch by batch.

    Yields:
        The indices of the prompts, and the values ``[prompt, answer]``.
    """
    for indices in batches(prompts, batch_tokens, *may_share(model)):
        logits = last_logits(model, [Row(prompts[i], actions[i]) for i in indices])
        log_probabilities = logits.to(torch.float64).log_softmax(-1)
        # of one token the sum is the token itself, to the bit
        answer_log_probabilities = [
            log_probabilities[:, ids[0]] if len(ids) == 1 else log_probabilities[:, list(ids)].logsumexp(-1)
            for ids in answers
        ]
        yield indices, torch.stack(answer_log_probabilities, -1).cpu()


def answer_ids(model: OpenModel, answers: Sequence[Answer], prompt: Prompt) -> list[tuple[int, ...]]:
    """Find the tokens of two answers.

    Raises:
        InputError: There are not two, they share a token, or a word is no single token.
    """
    if isinstance(answers, str) or len(answers) != 2:
        raise InputError(f"two answers are compared, as in answers=(' he', ' she'); got {answers!r}")
    if model.capabilities.width_of_logits is None:
        last_logits(model, [Row(prompt)])
    words = [[answer] if isinstance(answer, str | int) else list(answer) for answer in answers]
    if not all(words):
        raise InputError(f"an answer is one token, or several whose probabilities are added; got {answers!r}")
    first, second = (tuple(dict.fromkeys(model.output_id(word) for word in group)) for group in words)
    shared = set(first) & set(second)
    if shared:
        label = model.output_label(min(shared))
        raise InputError(f"the answers {answers[0]!r} and {answers[1]!r} are the same token, {label!r}, or share it")
    return [first, second]


def plain_answers(ids: Sequence[tuple[int, ...]]) -> list[int | list[int]]:
    """Answers as they are recorded: a token's id, or a list of them."""
    return [group[0] if len(group) == 1 else list(group) for group in ids]


def answer_names(model: OpenModel, ids: Sequence[tuple[int, ...]]) -> list[str]:
    """The names of answers: their tokens."""
    return ["|".join(model.output_label(i) for i in group) for group in ids]


def table(rows: Sequence[Mapping[str, Any]]) -> "pd.DataFrame":
    """Make a pandas frame of rows."""
    import pandas as pd

    return pd.DataFrame(list(rows))

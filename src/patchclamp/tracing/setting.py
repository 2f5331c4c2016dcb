"""What every trace begins with: one prompt, its subject, the noise on it, and what is read."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from patchclamp.core.digest import digest
from patchclamp.core.errors import InputError
from patchclamp.interventions import (
    Edit,
    LogOdds,
    Noise,
    Probability,
    PromptRun,
    Read,
    Row,
    Source,
    Token,
    as_reads,
    forward,
    last_logits,
    make_lines,
    positions,
    read_source,
    record_source,
)
from patchclamp.models.inputs import Prompt
from patchclamp.models.opened import OpenModel
from patchclamp.models.sites import Site

Std = float | Sequence[str] | None
EMBED = Site("embed")


@dataclass(frozen=True, eq=False)
class Setting:
    """A prompt whose subject is corrupted by noise, several times."""

    model: OpenModel
    prompt: Prompt
    subject: tuple[int, ...]
    """Positions of the subject."""
    answer: int | None
    """Column of the logits; None if the user reads something else."""
    reads: tuple[Read, ...]
    noise: float
    std: float
    """Standard deviation of the embedding entries that the noise is measured by."""
    std_of: str
    """The tokens whose entries they are, in words."""
    std_given: Std
    """The argument ``std`` as the user gave it."""
    seeds: tuple[int, ...]
    """The seed of the noise of each sample."""

    @classmethod
    def of(
        cls,
        model: OpenModel,
        prompt: object,
        subject: object,
        answer: str | int | None,
        *,
        noise: float,
        std: Std,
        samples: int,
        seed: int,
        read: object = None,
    ) -> "Setting":
        """Read and check a trace's arguments.

        Raises:
            InputError: Something does not fit; raised before any work.
            PositionError: The subject is not in the prompt, or does not lie on token borders.
        """
        prompts = model.prompts(prompt)
        if len(prompts) != 1 or not prompts[0].ids:
            raise InputError(f"a trace takes one prompt made of tokens, got {len(prompts)} inputs")
        if not model.causal:
            raise InputError(
                f"a trace follows the next token of a model that reads from left to right; {type(model.module).__name__} "
                "reads both ways: use model.patch with base=[pc.Noise(...)]"
            )
        if samples < 1:
            raise InputError(f"samples is how often noise is drawn, 1 or more; got {samples!r}")
        if not 0 <= noise < float("inf"):
            raise InputError(f"noise is in standard deviations, 0 or more; got {noise!r}")
        subject_positions = positions.resolve(
            Token(subject) if isinstance(subject, str) else positions.read_at(subject),
            prompts[0],
            0,
            1,
            model.tokenizer,
        )
        assert subject_positions is not None
        answer_id, reads = _answer_and_reads(model, prompts[0], answer, read)
        deviation, std_source = _resolve_std(model, prompts[0], tuple(sorted(subject_positions)), std)
        seeds = tuple(int(digest("trace", seed, sample), 16) % 2**31 for sample in range(samples))
        return cls(
            model,
            prompts[0],
            tuple(sorted(subject_positions)),
            answer_id,
            reads,
            float(noise),
            deviation,
            std_source,
            std,
            seeds,
        )

    def corruption(self, sample: int, share: float = 1.0) -> Edit:
        """The noise of one sample as an edit, or a share of it."""
        deviation = share * self.noise * self.std
        return Noise(deviation, self.seeds[sample], site="embed", at=list(self.subject))

    def lines(self, share: float = 1.0) -> list[PromptRun]:
        """The lines of all samples: the prompt under (a share of) the noise of each."""
        return [
            make_lines(self.model, [self.prompt], self.reads, [self.corruption(sample, share)])[0]
            for sample in range(len(self.seeds))
        ]

    def clean(self, sites: Sequence[Site]) -> tuple[list[Tensor], dict[Site, Tensor]]:
        """The clean run's own value of each read, and its states ``[position, d]`` at some sites."""
        values, states = read_source(self.model, Source(self.prompt), self.reads, sites)
        return values, {site: rows[0] for site, rows in states.items()}

    def arguments(self) -> dict[str, object]:
        """The arguments that the record keeps in place of those that were passed."""
        return {"prompt": self.prompt, "subject": list(self.subject), "answer": self.answer}

    def resolved(self) -> dict[str, object]:
        """The values to which the arguments were resolved."""
        return {"std": self.std, "std_of": self.std_of, "seeds": list(self.seeds), "read": self.reads}


def _answer_and_reads(
    model: OpenModel, prompt: Prompt, answer: str | int | None, read: object
) -> tuple[int | None, tuple[Read, ...]]:
    if read is not None:
        if answer is not None:
            raise InputError("give the answer, whose probability is read, or read=, not both")
        return None, _check_scalar(model, prompt, as_reads(read))
    if answer is None or model.capabilities.width_of_logits is None:
        likeliest = int(last_logits(model, [Row(prompt)])[0].argmax())
        answer = likeliest if answer is None else answer
    answer_id = model.output_id(answer)
    return answer_id, (Probability(answer_id), LogOdds(answer_id))


def _check_scalar(model: OpenModel, prompt: Prompt, reads: tuple[Read, ...]) -> tuple[Read, ...]:
    if model.capabilities.width_of_logits is None:
        forward(model, [Row(prompt)])
    for read in reads:
        for bound in read.bind(model, prompt, 0, 1):
            sizes = {axis.name: len(axis.labels) for axis in bound.axes}
            if bound.site is not None or any(size != 1 for size in sizes.values()):
                raise InputError(
                    f"a trace reads one number a run from the logits; {bound.name} gives {sizes or 'states'}"
                )
    return reads


def _resolve_std(model: OpenModel, prompt: Prompt, subject: tuple[int, ...], std: Std) -> tuple[float, str]:
    if isinstance(std, int | float):
        if not 0 <= std < float("inf"):
            raise InputError(f"std must be 0 or more, got {std}")
        return float(std), "given"
    if std is None:
        entries = record_source(model, Source(prompt), [EMBED])[EMBED][0][list(subject)]
        if entries.numel() < 2:
            raise InputError("the subject's embedding has one entry, whose deviation is not defined; pass std=")
        return float(entries.float().std()), f"the subject's {len(subject)} token{'s' * (len(subject) > 1)}"
    texts = [std] if isinstance(std, str) else list(std)
    if not texts:
        raise InputError("std takes a number, or texts whose tokens' embeddings are measured; the list is empty")
    ids = [model.tokenizer(str(text), add_special_tokens=False)["input_ids"] for text in texts]
    return deviation_of(model, ids), f"the {sum(map(len, ids))} tokens of {len(texts)} texts"


def deviation_of(model: OpenModel, ids: Sequence[Sequence[int]]) -> float:
    """Standard deviation of the embedding entries of some tokens."""
    rows = record_source(model, Source([list(row) for row in ids]), [EMBED])[EMBED]
    return float(torch.cat(rows).float().std())

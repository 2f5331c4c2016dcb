"""A live model as a source of rows: it reads a corpus, and what lies at one site comes as a stream."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from patchclamp.activations.batch import ActivationBatch
from patchclamp.activations.corpus import INSERTED, TokenRow, limited, packed
from patchclamp.activations.stream import BATCH_SIZE, BUFFER, ActivationStream
from patchclamp.core.arguments import checked
from patchclamp.core.digest import digest
from patchclamp.core.errors import InputError
from patchclamp.core.kinds import Seed
from patchclamp.interventions import BATCH_TOKENS, Row, batches, forward
from patchclamp.models.inputs import Prompt
from patchclamp.models.opened import OpenModel
from patchclamp.models.sites import Site

LENGTH = 256
"""Tokens of a sequence, if the model can read as many."""


@dataclass(frozen=True, eq=False)
class ModelSource:
    """The activations of a model at one site, for each token of a corpus. Of the corpus only token ids are held."""

    model: OpenModel
    site: Site
    sequences: list[TokenRow]
    special: bool
    """Whether rows of special tokens, and of the first token of every sequence, are given too."""
    mixed = False

    @cached_property
    def d(self) -> int:
        """The width of a row, which is seen in a pass over the first two tokens."""
        return self._run([Prompt(tuple(self.sequences[0].ids[:2].tolist()))])[0].shape[1]

    @cached_property
    def count(self) -> int:
        """The number of rows of one pass."""
        return sum(int(kept.sum()) for kept in self._kept)

    def digest(self) -> str:
        """A digest of the model's weights, the site and the tokens."""
        tokens = [digest(row.ids, row.documents, row.positions) for row in self.sequences]
        return digest(self.model.weights_digest(), str(self.site), self.special, tokens)

    def chunks(self, seed: int | None, begin: int, size: int) -> Iterator[ActivationBatch]:  # noqa: ARG002
        """The rows of one pass; sequences that are left out are not read."""
        numbers = np.arange(len(self.sequences))
        if seed is not None:
            numbers = torch.randperm(len(numbers), generator=torch.Generator().manual_seed(seed)).numpy()
        ends = np.cumsum([int(self._kept[number].sum()) for number in numbers])
        first = int(np.searchsorted(ends, begin, side="right"))
        skip = begin - (int(ends[first - 1]) if first else 0)
        step = max(1, BATCH_TOKENS // len(self.sequences[0]))
        for at in range(first, len(numbers), step):
            chunk = self._chunk(numbers[at : at + step])
            yield chunk.part(skip, len(chunk))
            skip = 0

    def _chunk(self, numbers: np.ndarray) -> ActivationBatch:
        """The rows of some sequences, which one pass of the model or a few read."""
        rows = [self.sequences[number] for number in numbers]
        prompts = [Prompt(tuple(row.ids.tolist())) for row in rows]
        values: dict[int, Tensor] = {}
        for indices in batches(prompts, BATCH_TOKENS, self.model.causal):
            values |= dict(zip(indices, self._run([prompts[i] for i in indices]), strict=True))
        parts = []
        for i, (row, number) in enumerate(zip(rows, numbers, strict=True)):
            kept = torch.from_numpy(self._kept[number])
            columns = (torch.from_numpy(column)[kept] for column in (row.documents, row.positions, row.ids))
            parts.append(ActivationBatch(values[i][kept.to(values[i].device)], *columns))
        return ActivationBatch.joined(parts)

    def _run(self, prompts: list[Prompt]) -> list[Tensor]:
        """What lies at the site, ``[token, d]`` of each prompt; the pass ends there."""
        seen: list[Tensor] = []
        forward(self.model, [Row(prompt) for prompt in prompts], taps={self.site: seen.append}, logits=False)
        value = seen[0].detach()
        if value.ndim != 3 or value.shape[1] < max(len(prompt.ids) for prompt in prompts):
            raise InputError(f"{self.site} holds {tuple(value.shape)}, not a vector for each token")
        return [row[: len(prompt.ids)].clone() for row, prompt in zip(value, prompts, strict=True)]

    @cached_property
    def _kept(self) -> list[np.ndarray]:
        special = np.array(getattr(self.model.tokenizer, "all_special_ids", None) or [], dtype=np.int64)
        return [self._kept_of(row, special) for row in self.sequences]

    def _kept_of(self, row: TokenRow, special: np.ndarray) -> np.ndarray:
        if self.special:
            return np.ones(len(row), dtype=bool)
        kept = (row.positions != INSERTED) & ~np.isin(row.ids, special)
        kept[0] = False
        return kept


@checked
def activation_stream(
    model: OpenModel,
    corpus: Any,
    site: str,
    *,
    length: int | None = None,
    tokens: int | None = None,
    special: bool = False,
    batch_size: int = BATCH_SIZE,
    buffer: int = BUFFER,
    passes: int | None = 1,
    shuffle: bool = True,
    seed: Seed = 0,
) -> ActivationStream:
    """The activations at one site while the model reads a corpus, as a stream of rows.

    The corpus is packed into sequences. The model reads them in random order, up to the layer of the site, and the rows of
    ``buffer`` tokens are mixed. Each row knows its document, its position there and its token. Nothing but token ids and the
    buffer is held.

    The first token of a sequence draws attention from all others and has a massive activation, as special tokens often have;
    a dictionary would spend latents on them, so they are left out unless ``special`` asks for them.

    Args:
        model: The model.
        corpus: ``"gutenberg"`` (passages from each book in turn), ``"gutenberg:carroll-alice"`` (one book), texts, or lists of
            token ids.
        site: The site, as ``mlp_act.3`` or a module path.
        length: The number of tokens of a sequence; None for 256, or the model's context if that is shorter.
        tokens: The number of tokens of the corpus that are read; all by default.
        special: Give the rows of special tokens, and of the first token of every sequence, too.
        batch_size: The number of rows of a batch.
        buffer: The number of rows that are mixed at a time.
        passes: The number of times that every row comes; None is endless.
        shuffle: Whether rows are mixed; else they come as the corpus has them.
        seed: What all orders are drawn from.

    Raises:
        InputError: Several sites, an unknown or empty corpus, a length that the model does not take, or nothing left of it.
        SiteError: There is no such site.
    """
    sites = model.sites.expand([site])
    if len(sites) != 1:
        raise InputError(f"{site!r} names {len(sites)} sites; the rows of a stream are those of one, as {str(sites[0])!r}")
    if tokens is not None and tokens < 1:
        raise InputError(f"tokens is 1 or more; got {tokens}")
    rows = packed(model, corpus, min(LENGTH, model.context or LENGTH) if length is None else length)
    source = ModelSource(model, sites[0], list(rows if tokens is None else limited(rows, tokens)), special)
    if not source.count:
        raise InputError("the corpus gives no row: it holds special tokens and first tokens of sequences alone")
    return ActivationStream(
        source, batch_size=batch_size, buffer=buffer, passes=passes, shuffle=shuffle, seed=seed
    )

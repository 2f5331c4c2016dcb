"""Means over pairs of positions, of attention and of what heads add to logits, beside the same means over shuffled pairs."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from patchclamp.core.digest import digest
from patchclamp.core.errors import ModelError
from patchclamp.models.opened import OpenModel
from patchclamp.tracing import patterns
from patchclamp.tracing.copying import Writes
from patchclamp.tracing.repeats import ATTENTION_SCORES, INDUCTION, Pairs, Passage

COPYING = "copying"


@dataclass(frozen=True, eq=False)
class Index:
    """All pairs of one passage, the real ones (place 0) and the shuffled ones of every score, as tensors."""

    query: Tensor
    key: Tensor
    bin: Tensor
    """The bin of each pair: score times places plus place."""
    weight: Tensor
    """The weight of each pair: one over the number of queries."""
    share: Tensor
    """The share of each pair: one over the number of the query's targets."""

    @classmethod
    def of(cls, passage: Passage, draws: int, seed: int) -> "Index":
        """Draw the shuffled pairs; they depend on the seed and the passage alone."""
        rows: list[tuple[int, int, int, float, float]] = []
        for score, name in enumerate(ATTENTION_SCORES):
            real = passage.pairs[name]
            seed_digest = digest("shuffled", seed, name, list(passage.prompt.ids), list(real.queries))
            generator = torch.Generator().manual_seed(int(seed_digest, 16) % 2**63)
            for place in range(1 + draws):
                pairs: Pairs = real.shuffle(passage.first, generator) if place else real
                for query, targets in zip(pairs.queries, pairs.targets, strict=True):
                    entry = (score * (1 + draws) + place, 1 / len(pairs.queries), 1 / len(targets))
                    rows += [(query, key, *entry) for key in targets]
        queries, keys, bins, weights, shares = zip(*rows, strict=True)
        index = [torch.tensor(column) for column in (queries, keys, bins)]
        return cls(*index, *(torch.tensor(column, dtype=torch.float64) for column in (weights, shares)))


@dataclass(eq=False)
class Means:
    """For each passage, head and score the mean over its pairs (place 0), and over shuffled ones (the other places)."""

    model: OpenModel
    passages: Sequence[Passage]
    draws: int
    seed: int
    attention: dict[int, Tensor] = field(default_factory=dict)
    """The attention means of each layer, ``[passage, head, score * place]``."""
    copying: dict[int, Tensor] = field(default_factory=dict)
    """The copying means of each layer, ``[passage, head, place]``; empty where copying is not defined."""

    def measure(self, batch_tokens: int, advance: Callable[[float], None], missing: dict[str, str]) -> "Means":
        """Run the passages.

        Args:
            batch_tokens: The number of positions in a forward pass.
            advance: A function that is called with the number of passages that were done.
            missing: The dict that receives the reason why copying is not measured, if it is not.
        """
        index = [Index.of(passage, self.draws, self.seed) for passage in self.passages]
        for members in _groups(self.passages, batch_tokens):
            prompts = list({self.passages[i].prompt.key: self.passages[i].prompt for i in members}.values())
            keys = [prompt.key for prompt in prompts]
            rows = [keys.index(self.passages[i].prompt.key) for i in members]
            writes = self._writes(members, rows, missing)

            def visit(layer: int, first: int, part: Tensor, batch: Any = (members, rows)) -> None:
                for number, row in zip(*batch, strict=True):
                    self._add_attention(layer, first, part[row], number, index[number])

            taps = writes.taps() if writes else {}
            patterns.attention(self.model, prompts, visit, taps=taps, batch_tokens=batch_tokens)
            if writes:
                self._add_copying(writes, members, index, missing)
            advance(len(members))
        return self

    def table(self) -> Any:
        """The means, ``[score, layer, head, passage, place]``; copying comes last, NaN where it is not defined."""
        layers = sorted(self.attention)
        attention = torch.stack([self.attention[layer] for layer in layers]).unflatten(-1, (len(ATTENTION_SCORES), -1))
        copying = torch.full_like(attention[..., 0, :], torch.nan)
        if self.copying:
            copying = torch.stack([self.copying[layer] for layer in layers])
        table = torch.cat([attention, copying.unsqueeze(-2)], dim=-2)  # [layer, passage, head, score, place]
        return np.ascontiguousarray(table.permute(3, 0, 2, 1, 4).numpy())

    def _add_attention(self, layer: int, first: int, part: Tensor, number: int, index: Index) -> None:
        """Add what part of one pattern holds, ``[head, query, key]`` with the keys from ``first`` on."""
        bins = len(ATTENTION_SCORES) * (1 + self.draws)
        total = self.attention.setdefault(layer, torch.zeros(len(self.passages), len(part), bins, dtype=torch.float64))
        mask = (index.key >= first) & (index.key < first + part.shape[-1])
        cells = index.query[mask] * part.shape[-1] + index.key[mask] - first
        contributions = part.flatten(1)[:, cells.to(part.device)].double().cpu() * index.weight[mask]
        total[number].index_add_(1, index.bin[mask], contributions)

    def _writes(self, members: Sequence[int], rows: Sequence[int], missing: dict[str, str]) -> Writes | None:
        if COPYING in missing:
            return None
        try:
            return Writes.of(self.model, rows, [self.passages[i].pairs[INDUCTION].queries for i in members])
        except ModelError as error:
            missing[COPYING] = str(error)
            return None

    def _add_copying(
        self, writes: Writes, members: Sequence[int], index: Sequence[Index], missing: dict[str, str]
    ) -> None:
        """Add what heads write at the queries of some passages: one token's logit minus the mean of the text's others."""
        places = 1 + self.draws
        for place, number in enumerate(members):
            passage, pairs = self.passages[number], index[number]
            ids = sorted(set(passage.prompt.ids[passage.first :]))
            try:
                logits = writes.logits(place, ids)
            except ModelError as error:
                missing[COPYING] = str(error)
                self.copying.clear()
                return
            mask = pairs.bin < places  # the pairs of the first score, induction
            columns = torch.tensor([ids.index(passage.prompt.ids[key]) for key in pairs.key[mask].tolist()])
            queries = passage.pairs[INDUCTION].queries
            rows = torch.tensor([queries.index(query) for query in pairs.query[mask].tolist()])
            for layer, added in logits.items():
                contrast = ((added * len(ids) - added.sum(-1, keepdim=True)) / (len(ids) - 1)).cpu()
                contributions = contrast[:, rows, columns] * pairs.weight[mask] * pairs.share[mask]
                total = self.copying.setdefault(
                    layer, torch.zeros(len(self.passages), len(added), places, dtype=torch.float64)
                )
                total[number].index_add_(1, pairs.bin[mask], contributions)


def _groups(passages: Sequence[Passage], batch_tokens: int) -> Iterator[list[int]]:
    """Group passages that run together: of one length, at most half of ``batch_tokens``; those of one text always."""
    group: list[int] = []
    for number, passage in enumerate(passages):
        length = len(passage.prompt.ids)
        texts = {passages[i].prompt.key for i in group} | {passage.prompt.key}
        if group and (
            length != len(passages[group[0]].prompt.ids) or (len(texts) > 1 and 2 * len(texts) * length > batch_tokens)
        ):
            yield group
            group = []
        group.append(number)
    if group:
        yield group

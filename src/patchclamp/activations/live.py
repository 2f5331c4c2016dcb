"""The activations of a live model over a corpus, as a stream."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from patchclamp.activations.batch import ActivationBatch
from patchclamp.activations.corpus import TokenRow, check_length, cut, limited, packed
from patchclamp.activations.stream import BATCH_SIZE, BUFFER, ActivationStream
from patchclamp.core.arguments import checked
from patchclamp.core.digest import digest
from patchclamp.core.errors import InputError
from patchclamp.core.kinds import Seed
from patchclamp.interventions import BATCH_TOKENS, Row, forward, may_share
from patchclamp.models.inputs import Prompt
from patchclamp.models.opened import OpenModel
from patchclamp.models.sites import Site

LENGTH = 128
SINK = 10.0
"""How many times longer than the median row of its sequence an attention sink is; other rows are hardly twice as long."""
_WINDOW = 256
"""Sequences of an order that are sorted by length before they are grouped, so that little is padded."""


class LiveSource:
    """What a model computes at one site, sequence by sequence; the token ids of the corpus are held, four bytes a token."""

    mixed = False

    def __init__(
        self, model: OpenModel, site: Site, rows: Sequence[TokenRow], skip_special: bool, batch_tokens: int
    ) -> None:
        self.model, self.site, self.omits_special, self.batch_tokens = model, site, skip_special, batch_tokens
        every = TokenRow.joined(rows)
        self.ids, self.documents, self.positions = (
            torch.from_numpy(column.astype(np.int32)) for column in (every.ids, every.documents, every.positions)
        )
        self.begins = torch.tensor([0, *np.cumsum([len(row) for row in rows])])
        self.special = torch.isin(self.ids, torch.tensor(_special_ids(model), dtype=torch.int32))
        self.special |= self.positions < 0
        self.special[self.begins[:-1]] = True
        self.kept = ~self.special if skip_special else torch.ones_like(self.special)
        self.count: int = int(self.kept.sum())
        if not self.count:
            raise InputError("the corpus holds no token but special ones; pass skip_special=False to have these")
        width = None if site.is_raw else model.sites.width(site)
        self.d: int = int(self._computed([0])[0].shape[-1]) if width is None else width

    def digest(self) -> str:
        """A digest of the model's weights, the site and the tokens."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        tokens = (self.ids, self.documents, self.positions, self.begins)
        return digest(self.model.weights_digest(), str(self.model.dtype), str(self.site), self.omits_special, *tokens)

    def chunks(self, seed: int | None, begin: int, size: int) -> Iterator[ActivationBatch]:  # noqa: ARG002
        """The rows of one pass: sequences in random order, grouped alike whatever ``begin`` is, so that no bit differs."""
        row = 0
        for members in self._groups(seed):
            numbers = [torch.arange(int(self.begins[i]), int(self.begins[i + 1])) for i in members]
            kept = [place[self.kept[place]] for place in numbers]
            total = sum(map(len, kept))
            if row + total > begin:
                batch = self._batch(members, numbers, kept)
                yield batch.part(max(begin - row, 0), total)
            row += total

    def _groups(self, seed: int | None) -> Iterator[list[int]]:
        """The sequences of each call of the model."""
        lengths = self.begins.diff().tolist()
        order = list(range(len(lengths)))
        if seed is not None:
            order = torch.randperm(len(order), generator=torch.Generator().manual_seed(seed)).tolist()
        padded, together = may_share(self.model, [self.site])
        members: list[int] = []
        for start in range(0, len(order), _WINDOW):
            for i in sorted(order[start : start + _WINDOW], key=lambda i: lengths[i]):
                unequal = members and not padded and lengths[members[0]] != lengths[i]
                if members and (unequal or not together or (len(members) + 1) * lengths[i] > self.batch_tokens):
                    yield members
                    members = []
                members.append(i)
            yield members
            members = []

    def _batch(self, members: Sequence[int], numbers: Sequence[Tensor], kept: Sequence[Tensor]) -> ActivationBatch:
        values = self._computed(members)
        rows = [value[self.kept[place].to(value.device)] for value, place in zip(values, numbers, strict=True)]
        places = torch.cat(list(kept))
        special = self.special[places] | torch.cat([_sinks(row).cpu() for row in rows])
        return ActivationBatch(
            torch.cat(rows), self.documents[places], self.positions[places], self.ids[places], special
        )

    def _computed(self, members: Sequence[int]) -> list[Tensor]:
        """The activations of some sequences, ``[position, d]`` each."""
        prompts = [Prompt(tuple(self.ids[self.begins[i] : self.begins[i + 1]].tolist())) for i in members]
        shown: list[Tensor] = []
        taps = {self.site: lambda value: shown.append(value.clone())}  # some blocks go on to write into it
        forward(self.model, [Row(prompt) for prompt in prompts], taps=taps, logits=False)
        return [value[: len(prompt.ids)] for value, prompt in zip(shown[0], prompts, strict=True)]


@checked
def activation_stream(
    model: OpenModel,
    corpus: Any,
    site: str,
    *,
    length: int | None = None,
    tokens: int | None = None,
    pack: bool = True,
    skip_special: bool = True,
    batch_size: int = BATCH_SIZE,
    passes: int | None = 1,
    shuffle: bool = True,
    buffer: int = BUFFER,
    seed: Seed = 0,
    batch_tokens: int = BATCH_TOKENS,
) -> ActivationStream:
    """Activations of one site over a corpus, as batches of rows; the model is run as they are asked for.

    A pass of the model ends at the site. Held are the corpus's tokens and one buffer of activations.

    Args:
        model: The model.
        corpus: ``"gutenberg"``, ``"gutenberg:TITLE"``, or an iterable of texts or of lists of token ids.
        site: One site, as ``"mlp_act.3"``.
        length: The number of tokens that the model reads at once; None for 128, or the model's context if that is shorter.
        tokens: The largest number of tokens to read; None for all.
        pack: Join texts into sequences of equal length; False reads each text by itself, as a prompt.
        skip_special: Leave out special tokens, the first token of every sequence, and other attention sinks: rows ten times as
            long as the median of their sequence. At ``resid_post.15`` of SmolLM2-135M the first token's norm is 23,000 and that
            of others 170, but for one in 10,000 inside the text, which alone has more variance than all others together.
            The stream counts sinks inside the text as rows all the same, and batches are shorter by them.
        batch_size: The number of rows of a batch.
        passes: The number of times that every row comes; None is endless.
        shuffle: Whether rows are mixed.
        buffer: The number of rows among which they are mixed.
        seed: What all orders are drawn from.
        batch_tokens: Padded tokens a forward pass: the memory knob.

    Raises:
        InputError: The corpus is empty, unknown, or holds something that is no text; or a number below 1.
        SiteError: No such site, several, or attention patterns, whose rows have no fixed width.
    """
    length = min(LENGTH, model.context or LENGTH) if length is None else length
    check_length(model, length)
    for name, number in (("tokens", tokens), ("batch_tokens", batch_tokens)):
        if number is not None and number < 1:
            raise InputError(f"{name} is 1 or more; got {number!r}")
    model.look()
    sites = model.sites.expand([site])
    if len(sites) != 1:
        raise InputError(f"a stream is of one site, and {site!r} names {len(sites)}, as {str(sites[0])!r}")
    if model.sites.access(sites[0]).attention:
        raise InputError(f"{site!r} is attention patterns, whose rows are as wide as their sequences are long")
    rows = packed(model, corpus, length) if pack else cut(model, corpus, length)
    held = list(rows if tokens is None else limited(rows, tokens))
    if not held:
        raise InputError("the corpus is empty: it gives no token")
    source = LiveSource(model, sites[0], held, skip_special, batch_tokens)
    return ActivationStream(source, batch_size=batch_size, passes=passes, shuffle=shuffle, buffer=buffer, seed=seed)


def _sinks(rows: Float[Tensor, "position d"]) -> Bool[Tensor, " position"]:
    """The rows of a sequence that are far longer than most; none where most are zero."""
    if not len(rows):
        return torch.zeros(0, dtype=torch.bool)
    norms = rows.float().norm(dim=1)
    typical = norms.quantile(0.5)
    far: Tensor = (norms > SINK * typical) & (typical > 0)
    return far


def _special_ids(model: OpenModel) -> list[int]:
    """Tokens that stand for no text; one that stands for text the tokenizer does not know is none of them."""
    tokenizer = model.tokenizer
    unknown = getattr(tokenizer, "unk_token_id", None)
    mask = {getattr(tokenizer, name, None) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    everything = {*(getattr(tokenizer, "all_special_ids", None) or []), *mask} - {None}
    return sorted(i for i in everything if i != unknown or i in mask)

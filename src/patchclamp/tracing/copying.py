"""Does a head raise the logit of what it attends to? As it behaves on a text, and by its weights alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from patchclamp.core.digest import digest
from patchclamp.core.errors import ModelError
from patchclamp.core.interrupts import guarded
from patchclamp.interventions import Action, Put, Row, Sink, forward
from patchclamp.lenses.contributions import check_heads, check_linear, head_outputs, head_scale, unembedding
from patchclamp.lenses.frozen import Frozen
from patchclamp.lenses.logit import LogitLens
from patchclamp.models.inputs import Prompt
from patchclamp.models.opened import OpenModel
from patchclamp.models.sites import Site
from patchclamp.models.weights import weight

_NORM_TOLERANCE = 1e-3
_RANK_TOLERANCE = 1e-6
TOKEN_BATCH = 4096
"""Tokens of the vocabulary that are alive at once."""
Kind = tuple[bool, bool]
"""Whether attention's input is normalised, and whether it is centred."""


@dataclass(eq=False)
class Writes:
    """The outputs of heads at some positions, kept from one pass, and what they add to the logits of the text's tokens."""

    model: OpenModel
    rows: Sequence[int]
    """The row of the pass that each passage has."""
    queries: Sequence[Sequence[int]]
    """The positions of each passage that are kept."""
    lens: LogitLens
    z: dict[int, list[Tensor]] = field(default_factory=dict)
    """The ``z`` of each layer and passage, ``[query, head * d_head]``."""
    last: list[Tensor] = field(default_factory=list)
    """The final residual stream of each passage, ``[query, d_model]``."""
    attention: dict[int, Tensor] = field(default_factory=dict)
    """The output of attention in each layer at the queries of the first passage."""

    @classmethod
    def of(cls, model: OpenModel, rows: Sequence[int], queries: Sequence[Sequence[int]]) -> "Writes":
        """Make an object that holds nothing yet.

        Raises:
            ModelError: A head's part of the logits is not defined in this model; the message says why.
        """
        lens = LogitLens(model)
        check_linear(model)
        return cls(model, rows, queries, lens)

    @cached_property
    def scale(self) -> float:
        """The factor by which the model's head multiplies its logits."""
        return head_scale(self.lens, self.last[0][:1])[0]

    def taps(self) -> dict[Site, Sink]:
        """The taps that record what is needed of the pass."""
        sinks: dict[Site, Sink] = {Site("resid_post", self.model.sites.n_layers - 1): self._keep_last}
        for site in self.model.sites.expand("z"):
            assert site.layer is not None
            sinks[site] = self._z_sink(site.layer)
            sinks[Site("attn_out", site.layer)] = self._attention_sink(site.layer)
        return sinks

    def _keep_last(self, value: Tensor) -> None:
        self.last = self._at_queries(value)

    def _at_queries(self, value: Tensor) -> list[Tensor]:
        return [
            value[row, list(query_positions)].detach()
            for row, query_positions in zip(self.rows, self.queries, strict=True)
        ]

    def _z_sink(self, layer: int) -> Sink:
        def sink(value: Tensor) -> None:
            self.z[layer] = self._at_queries(value)

        return sink

    def _attention_sink(self, layer: int) -> Sink:
        def sink(value: Tensor) -> None:
            self.attention[layer] = value[self.rows[0], list(self.queries[0])].detach().double()

        return sink

    def logits(self, passage: int, ids: Sequence[int]) -> dict[int, Tensor]:
        """What each head adds to the logits of some tokens, final norm frozen: layer -> ``[head, query, token]``, float64.

        Raises:
            ModelError: The heads do not sum to what attention adds.
        """
        norm = self.model.sites.modules[self.model.sites.access(Site("final_norm")).module]
        frozen = [Frozen.of(norm, state) for state in self.last[passage]]
        gain = torch.stack([frozen_norm.gain for frozen_norm in frozen])
        columns = unembedding(self.model, ids)[0] * self.scale
        logits = {}
        for layer, z in self.z.items():
            matrix, _ = head_outputs(self.model, layer)
            outputs = torch.einsum("qhk,hkd->hqd", z[passage].double().unflatten(-1, matrix.shape[:2]), matrix)
            if passage == 0:
                check_heads(self.model, outputs.sum(0), self.attention[layer], layer)
            centred = outputs - outputs.mean(-1, keepdim=True) if frozen[0].centred else outputs
            logits[layer] = (centred * gain.unsqueeze(0)) @ columns
        return logits


def ov_positivity(model: OpenModel, draws: int, seed: int) -> tuple[Tensor, Tensor]:
    """Eigenvalue positivity of each head's OV circuit, ``sum(lambda) / sum(|lambda|)``, from -1 to 1.

    The circuit goes from tokens to tokens: embedding, the layer's own input norm (each token by itself), values, output
    projection, the final norm's gain, unembedding. It copies if its eigenvalues are positive: a token raises itself. The means
    over tokens, of what is read and of the logits, are taken off first: they are the same for every token, and with them
    shuffled tokens score as high as real ones.

    Source: Elhage et al. 2021, "A mathematical framework for transformer circuits", section "Summarizing OV/QK matrices".

    Args:
        model: The model.
        draws: The number of times that the unembedding's tokens are shuffled, for the control.
        seed: The seed of the shuffles.

    Returns:
        The scores ``[layer, head]`` and the controls ``[draw, layer, head]``.

    Raises:
        ModelError: The circuit is not defined in this model; the message says why.
    """
    LogitLens(model)
    check_linear(model)
    vocabulary, circuits = TokenMaps.of(model), _circuits(model)
    means = {kind: vocabulary.mean(kind) for *_, kind in circuits}
    scores = []
    for draw in range(draws + 1):
        generator = torch.Generator().manual_seed(int(digest("ov", seed, draw), 16) % 2**63)
        count = vocabulary.count
        order = torch.randperm(count, generator=generator) if draw else torch.arange(count)
        middle = {kind: vocabulary.between(order, kind, mean) for kind, mean in means.items()}
        scores.append(torch.stack([_positivity(left, middle[kind], right) for left, right, kind in circuits]).cpu())
    return scores[0], torch.stack(scores[1:])


@dataclass(frozen=True, eq=False)
class TokenMaps:
    """Embedding and unembedding of all tokens, read some tokens at a time: a large vocabulary is never copied whole."""

    embed: Callable[[Tensor], Tensor]
    out: Tensor
    """The unembedding ``[d_model, token]``, the model's own memory."""
    count: int

    @classmethod
    def of(cls, model: OpenModel) -> "TokenMaps":
        """Make the maps of a model.

        Raises:
            ModelError: Its embedding and unembedding differ in width.
        """
        embed: Any = model.module.get_input_embeddings()  # type: ignore[operator]
        out = weight(model, "logits").detach()
        with guarded(torch.no_grad()):
            width = embed(torch.zeros(1, dtype=torch.long, device=model.device)).shape[-1]
        if width != out.shape[0]:
            raise ModelError(f"embedding and unembedding have widths {width} and {out.shape[0]}")
        return cls(embed, out, min(weight(model, "embed").shape[0], out.shape[1]))

    def mean(self, kind: Kind) -> Tensor:
        """The mean over tokens of what attention reads of them, ``[d_model]``, float64."""
        ids = torch.arange(self.count).split(TOKEN_BATCH)
        return torch.stack([self._read(part, kind).sum(0, dtype=torch.float64) for part in ids]).sum(0) / self.count

    def between(self, order: Tensor, kind: Kind, mean: Tensor) -> Tensor:
        """Unembedding times what attention reads of the tokens in some order, both less their means over tokens.

        Args:
            order: The order of all tokens.
            kind: The way in which attention normalises what it reads.
            mean: The mean over tokens of what it reads.

        Returns:
            ``[d_model, d_model]``, float64.
        """
        columns = self.out[:, : self.count]
        parts = [block.double().sum(1, keepdim=True) for block in columns.split(TOKEN_BATCH, dim=1)]
        centre = torch.stack(parts).sum(0) / self.count
        total = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=mean.device)
        for part, block in zip(order.split(TOKEN_BATCH), columns.split(TOKEN_BATCH, dim=1), strict=True):
            # centred before the product: the means are large, and float32 would lose what is left
            total += ((block.double() - centre).float() @ (self._read(part, kind) - mean.float())).double()
        return total

    def _read(self, ids: Tensor, kind: Kind) -> Tensor:
        with guarded(torch.no_grad()):
            return _normalise(self.embed(ids.to(self.out.device)).float(), kind)


def _positivity(left: Tensor, middle: Tensor, right: Tensor) -> Tensor:
    """The positivity of each head, ``sum(lambda) / sum(|lambda|)``; 0 where nothing but rounding is left. ``[head]``."""
    values = torch.linalg.eigvals(left @ middle @ right)
    total = values.abs().sum(-1)
    scale = left.flatten(1).norm(dim=-1) * middle.norm() * right.flatten(1).norm(dim=-1)
    return torch.where(total > _RANK_TOLERANCE * scale, values.sum(-1).real / total.clamp(min=1e-300), 0.0)


def _circuits(model: OpenModel) -> list[tuple[Tensor, Tensor, Kind]]:
    """The circuit of each layer: what heads write through the final norm, what they read through their own, and its kind."""
    norm = model.sites.modules[model.sites.access(Site("final_norm")).module]
    probe = _norm_probe(model)
    final = Frozen.of(norm, probe)
    circuits = []
    for layer, (gain, kind) in _input_norms(model, probe).items():
        writing = final.linear(head_outputs(model, layer)[0])  # [head, d_head, d_model]
        reading = weight(model, f"v.{layer}").detach().double() * gain.unsqueeze(-1)
        heads = reading.unflatten(-1, (model.sites.access(Site("v", layer)).units or 1, -1)).movedim(1, 0)
        circuits.append((writing, heads.repeat_interleave(len(writing) // len(heads), dim=0), kind))
    return circuits


def _norm_probe(model: OpenModel) -> Tensor:
    """A vector of mean 0 and mean square 1, as wide as the stream."""
    width = model.sites.width(Site("resid_pre", 0)) or 0
    return torch.ones(width, dtype=model.dtype, device=model.device).index_fill(
        0, torch.arange(1, width, 2, device=model.device), -1.0
    )


def _input_norms(model: OpenModel, probe: Tensor) -> dict[int, tuple[Tensor, Kind]]:
    """The gain between the stream and what attention reads, asked of the model itself."""
    probes = torch.stack([probe, -probe, 2 * probe, probe + 1])
    prompt = Prompt((0,) * len(probes), None, ("",) * len(probes))
    layers = [site.layer for site in model.sites.expand("z") if site.layer is not None]
    outputs: dict[int, Tensor] = {}

    def recorder(layer: int) -> Sink:
        return lambda value: outputs.update({layer: value[0].detach().double()})

    all_positions = tuple(range(len(probes)))
    actions = tuple(
        Action(Site("resid_pre", layer), all_positions, Put(probes), edit=i) for i, layer in enumerate(layers)
    )
    sites = model.sites.expand([f"attn_in.{layer}" for layer in layers])
    forward(model, [Row(prompt, actions)], taps={s: recorder(s.layer or 0) for s in sites}, logits=False)
    norms = {}
    for layer, (plus, minus, double, shifted) in outputs.items():
        tolerance = _NORM_TOLERANCE * plus.abs().max()
        normalised = bool((double - plus).abs().max() <= tolerance)
        if not normalised and not (double - 2 * plus).abs().max() <= tolerance:
            raise ModelError(f"what attention of layer {layer} reads is neither the stream nor a norm of it")
        centred = normalised and bool((shifted - plus).abs().max() <= tolerance)
        norms[layer] = ((plus - minus) / 2 * probe.double(), (normalised, centred))
    return norms


def _normalise(table: Tensor, kind: Kind) -> Tensor:
    """Embeddings as a norm leaves them before its gain, ``[token, d_model]``."""
    normalised, centred = kind
    rows = table - table.mean(-1, keepdim=True) if centred else table
    return rows / rows.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-12) if normalised else rows

"""What is measured of a run: probabilities, logit differences, loss, divergence, ranks, activations, or any function.

Made by users, as ``read=pc.KL()``; bound to each prompt when its run is described (``sweeping.py``), and evaluated by
``PromptRun.measure``.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import partial
from itertools import count as counted
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from patchclamp.core.arguments import checked
from patchclamp.core.content import Given
from patchclamp.core.errors import InputError
from patchclamp.core.kinds import Name
from patchclamp.core.plain import savable
from patchclamp.core.readers import Rule, shown, tensor
from patchclamp.interventions import positions
from patchclamp.interventions.positions import At
from patchclamp.models.ids import is_id
from patchclamp.models.inputs import Prompt
from patchclamp.models.opened import OpenModel
from patchclamp.models.sites import Site

LogitRows = Float[Tensor, "row position vocabulary"]
_CACHE_ROWS = 16  # a block of rows that stays in the processor's cache while its softmax is taken

BASELINE, REFERENCE, CLEAN, CORRUPTED = "baseline:", "reference:", "clean:", "corrupted:"
"""What precedes a read's name where a result keeps the same read of another run."""
_AXES = ("read_at", "answer", "top", "token_id", "d", "output")
_LABELS = (
    "prompt", "site", "layer", "head", "neuron", "position", "token", "sample", "subject", "fact", "role", *_AXES,
)  # fmt: skip


@dataclass(frozen=True)
class Axis:
    """One extra dimension of a read's result."""

    name: str
    labels: tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Bound:
    """A read on one prompt: which positions it needs, and how it turns them into numbers."""

    name: str
    positions: tuple[int, ...]
    """Positions whose logits it needs (none if it reads only activations)."""
    axes: tuple[Axis, ...]
    compute: Callable[[Tensor, Tensor], Tensor]
    """``(logits [row, position, vocabulary], baseline [position, vocabulary]) -> [row, *axes]``.

    Of the reads here it is a function of this module with its settings, which pickle can send to another process.
    """
    site: Site | None = None
    """For activations: where, instead of logits; ``compute`` then gets ``[row, position, d]``."""
    needs_baseline: bool = False
    """Whether ``compute`` looks at its second argument."""


@dataclass(frozen=True)
class Read(ABC):
    """Base of every read. ``at`` says at which positions, as for edits."""

    @abstractmethod
    def bind(self, model: OpenModel, prompt: Prompt, index: int, count: int) -> list[Bound]:
        """The read on one prompt of ``count``."""


def read_tokens(value: Any) -> Any:
    """Tokens as the user writes them: text or id, several of them, or some for each prompt.

    Raises:
        InputError: Something is no token.
    """
    if isinstance(value, positions.PerPrompt):
        return positions.PerPrompt(tuple(read_tokens(item) for item in value.each))
    if isinstance(value, str) or is_id(value):
        return _token(value)
    if isinstance(value, bytes | Mapping | Set) or not isinstance(value, Iterable) or getattr(value, "ndim", 1) != 1:
        raise InputError(_NO_TOKEN.format(shown(value)))
    several = tensor(value).tolist() if isinstance(value, Tensor) else value
    return [_token(item) for item in several]


def _token(value: Any) -> str | int:
    if isinstance(value, str):
        return str(value)
    if not is_id(value):
        raise InputError(_NO_TOKEN.format(shown(value)))
    return int(value)


_NO_TOKEN = "a read takes tokens as text or ids, got {}; for other answers in each prompt: pc.per_prompt([...])"
Tokens = Annotated[Any, Rule("a token as text or id, several of them, or pc.per_prompt of them", read_tokens)]
"""Tokens, as the user writes them."""


def _answers(model: OpenModel, tokens: Any, index: int, count: int) -> tuple[list[int], tuple[str, ...]]:
    """Ids and labels of the tokens that a read wants of prompt number ``index``."""
    if isinstance(tokens, positions.PerPrompt):
        if len(tokens.each) != count:
            raise InputError(f"pc.per_prompt has {len(tokens.each)} answers for {count} prompts")
        ids, _ = _answers(model, tokens.each[index], index, count)
        return ids, tuple(f"answer {number}" for number in range(len(ids)))
    items = [tokens] if isinstance(tokens, str | int) else list(tokens)
    if not items:
        raise InputError("a read needs at least one token")
    ids = [model.output_id(item) for item in items]
    return ids, tuple(
        model.output_label(identity) if isinstance(item, int) else item
        for identity, item in zip(ids, items, strict=True)
    )


def _where(at: At, model: OpenModel, prompt: Prompt, index: int, count: int) -> tuple[int, ...]:
    if prompt.length is None:
        if not isinstance(at, int) and at != "last":
            raise InputError(f"at={at!r}: this input has no tokens, so a read looks at 'last' or at a number")
        return (at if isinstance(at, int) else -1,)
    return positions.resolve(at, prompt, index, count, model.tokenizer, repeats=True) or ()


def _place_axis(where: tuple[int, ...]) -> tuple[Axis, ...]:
    return (Axis("read_at", where),) if len(where) > 1 else ()


def _squeeze(values: Tensor, where: Sequence[int]) -> Tensor:
    return values if len(where) > 1 else values[:, 0]


def in_blocks(function: Callable[..., Tensor], logits: LogitRows, *beside: Tensor) -> Tensor:
    """Apply a function of single positions block by block, so that the vocabulary-wide temporaries stay in cache.

    Args:
        function: ``[row, position, vocabulary] -> [row, position, ...]``; also gets the block's part of what is beside.
        logits: All of them.
        *beside: More of each position, ``[position, ...]``.
    """
    places = logits.shape[1]
    results = []
    for rows in logits.split(max(1, _CACHE_ROWS // max(1, places))):
        blocks = zip(
            *(part.split(_CACHE_ROWS, dim) for dim, part in ((1, rows), *((0, b) for b in beside))), strict=True
        )
        results.append(torch.cat([function(*block) for block in blocks], dim=1))
    return torch.cat(results)


@dataclass(frozen=True)
class TokenRead(Read):
    """Base of the reads that give one number for each of some tokens."""

    tokens: Tokens
    at: At = "last"
    _name: ClassVar[str]
    _function: ClassVar[Callable[..., Tensor]]
    """``([row, position, vocabulary], ids) -> [row, position, id]``, a function of this module."""

    @override
    def bind(self, model: OpenModel, prompt: Prompt, index: int, count: int) -> list[Bound]:
        ids, names = _answers(model, self.tokens, index, count)
        where = _where(self.at, model, prompt, index, count)
        compute = partial(_blockwise, partial(type(self)._function, ids=ids), where)
        return [Bound(self._name, where, (*_place_axis(where), Axis("answer", names)), compute)]


def _blockwise(function: Callable[..., Tensor], where: Sequence[int], logits: Tensor, _: Tensor) -> Tensor:
    """A function of single positions, block by block, at some positions."""
    return _squeeze(in_blocks(function, logits), where)


def _probabilities(block: Tensor, ids: Sequence[int]) -> Tensor:
    return block.softmax(-1)[..., ids]


@checked
@savable
@dataclass(frozen=True)
class Probability(TokenRead):
    """Probability of each token: text or ids, or ``pc.per_prompt([...])`` of them."""

    _name = "probability"
    _function = staticmethod(_probabilities)


def _log_odds(block: Tensor, ids: Sequence[int]) -> Tensor:
    columns = torch.tensor(ids, device=block.device)
    others = [block.index_fill(-1, column, -torch.inf).logsumexp(-1) for column in columns]
    return block[..., ids] - torch.stack(others, dim=-1)


@checked
@savable
@dataclass(frozen=True)
class LogOdds(TokenRead):
    """Logarithm of the odds of each token, ``log(p / (1 - p))``, in nats: unlike a probability it never saturates."""

    _name = "log_odds"
    _function = staticmethod(_log_odds)


@checked
@savable
@dataclass(frozen=True)
class LogitDifference(Read):
    """Logit of one token minus logit of another; each may be ``pc.per_prompt([...])``."""

    token: Tokens
    other: Tokens
    at: At = "last"

    @override
    def bind(self, model: OpenModel, prompt: Prompt, index: int, count: int) -> list[Bound]:
        first, second = (self._one(model, token, index, count) for token in (self.token, self.other))
        where = _where(self.at, model, prompt, index, count)

        return [Bound("logit_difference", where, _place_axis(where), partial(_logit_difference, first, second, where))]

    def _one(self, model: OpenModel, token: Any, index: int, count: int) -> int:
        ids, _ = _answers(model, token, index, count)
        if len(ids) != 1:
            raise InputError(f"pc.LogitDifference compares one token with one other, got {token!r}; see pc.per_prompt")
        return ids[0]


def _logit_difference(first: int, second: int, where: Sequence[int], logits: Tensor, _: Tensor) -> Tensor:
    return _squeeze(logits[..., first] - logits[..., second], where)


@checked
@savable
@dataclass(frozen=True)
class Loss(Read):
    """Mean cross-entropy in nats: of one token at ``at``, or of the prompt's own next tokens."""

    token: Tokens = None
    at: At = None

    @override
    def bind(self, model: OpenModel, prompt: Prompt, index: int, count: int) -> list[Bound]:
        if self.token is not None:
            where = _where("last" if self.at is None else self.at, model, prompt, index, count)
            ids, _ = _answers(model, self.token, index, count)
            targets = ids * len(where) if len(ids) == 1 else ids
        else:
            if len(prompt.ids) < 2:
                raise InputError(
                    f"pc.Loss() needs a next token, and the prompt {prompt.name!r} has {len(prompt.ids)} token"
                )
            candidates = range(len(prompt.ids)) if self.at is None else _where(self.at, model, prompt, index, count)
            where = tuple(position for position in candidates if position + 1 < len(prompt.ids))
            if 0 < len(where) < len(candidates) and self.at is not None and not isinstance(self.at, str | slice):
                raise InputError(
                    f"pc.Loss(at={self.at!r}) names the last position of {prompt.name!r}, which has no next token"
                )
            targets = [prompt.ids[position + 1] for position in where]
            model.check_predicts(targets)
        if len(targets) != len(where) or not where:
            raise InputError(f"pc.Loss has {len(targets)} target tokens for {len(where)} positions")
        return [Bound("loss", where, (), partial(_mean_loss, torch.tensor(targets)))]


def _mean_loss(target: Tensor, logits: Tensor, _: Tensor) -> Tensor:
    return in_blocks(_losses, logits, target.to(logits.device)).mean(-1)


def _losses(block: Tensor, ids: Tensor) -> Tensor:
    return -block.log_softmax(-1).gather(-1, ids.expand(len(block), -1).unsqueeze(-1)).squeeze(-1)


@checked
@savable
@dataclass(frozen=True)
class KL(Read):
    """KL divergence of the edited next-token distribution from the baseline's, in nats: ``KL(baseline || edited)``."""

    at: At = "last"

    @override
    def bind(self, model: OpenModel, prompt: Prompt, index: int, count: int) -> list[Bound]:
        where = _where(self.at, model, prompt, index, count)

        return [Bound("kl", where, _place_axis(where), partial(_divergence, where), needs_baseline=True)]


def _divergence(where: Sequence[int], logits: Tensor, baseline: Tensor) -> Tensor:
    return _squeeze(in_blocks(_divergences, logits, baseline.log_softmax(-1)), where)


def _divergences(block: Tensor, before: Tensor) -> Tensor:
    terms = before.exp() * (before - block.log_softmax(-1))
    # a token that the baseline rules out (minus infinity) adds nothing, whatever the edited run says of it
    return torch.where(before == -torch.inf, 0.0, terms).sum(-1).clamp(min=0)


def _ranks(block: Tensor, ids: Sequence[int]) -> Tensor:
    return torch.stack([(block > block[..., i : i + 1]).sum(-1) for i in ids], dim=-1).to(block.dtype)


@checked
@savable
@dataclass(frozen=True)
class Rank(TokenRead):
    """Rank of each token in the next-token distribution; 0 is the most likely."""

    _name = "rank"
    _function = staticmethod(_ranks)


@checked
@savable
@dataclass(frozen=True)
class TopK(Read):
    """The ``k`` most likely next tokens: their ids and their probabilities."""

    k: int = 5
    at: At = "last"

    @override
    def bind(self, model: OpenModel, prompt: Prompt, index: int, count: int) -> list[Bound]:
        where = _where(self.at, model, prompt, index, count)
        if not 1 <= self.k <= model.outputs:
            raise InputError(f"pc.TopK: k={self.k} is outside 1..{model.outputs}")
        axes = (*_place_axis(where), Axis("top", tuple(range(self.k))))
        probability, token = (partial(_blockwise, partial(_top, k=self.k, which=i), where) for i in (0, 1))
        return [Bound("top_probability", where, axes, probability), Bound("top_token", where, axes, token)]


def _top(block: Tensor, k: int, which: int) -> Tensor:
    """Probabilities (0) or ids (1) of the likeliest tokens."""
    return block.softmax(-1).topk(k, dim=-1)[which].to(block.dtype)


@checked
@savable
@dataclass(frozen=True)
class Logits(Read):
    """The logits of some tokens, or of the whole vocabulary."""

    tokens: Tokens = None
    at: At = "last"

    @override
    def bind(self, model: OpenModel, prompt: Prompt, index: int, count: int) -> list[Bound]:
        where = _where(self.at, model, prompt, index, count)
        if self.tokens is None:
            axes = (*_place_axis(where), Axis("token_id", tuple(range(model.outputs))))
            return [Bound("logits", where, axes, partial(_as_they_are, where))]
        ids, names = _answers(model, self.tokens, index, count)
        axes = (*_place_axis(where), Axis("answer", names))
        return [Bound("logits", where, axes, partial(_columns, ids, where))]


def _as_they_are(where: Sequence[int], values: Tensor, _: Tensor) -> Tensor:
    return _squeeze(values, where)


def _columns(ids: Sequence[int], where: Sequence[int], logits: Tensor, _: Tensor) -> Tensor:
    return _squeeze(logits[..., ids], where)


@checked
@savable
@dataclass(frozen=True)
class Activation(Read):
    """The activation at a site."""

    site: str
    at: At = "last"

    @override
    def bind(self, model: OpenModel, prompt: Prompt, index: int, count: int) -> list[Bound]:
        sites = model.sites.expand([self.site])
        if len(sites) != 1:
            raise InputError(f"pc.Activation reads one site, and {self.site!r} names {len(sites)}")
        site = model.sites.in_stream(sites[0])
        width = model.sites.width(site) or _measured_width(model, prompt, site)
        if width is None:
            raise InputError(
                f"pc.Activation({self.site!r}): the values of this site are no vectors of one width; use model.record"
            )
        where = _where(self.at, model, prompt, index, count)
        axes = (*_place_axis(where), Axis("d", tuple(range(width))))
        return [Bound(self.site, where, axes, partial(_as_they_are, where), site)]


def _measured_width(model: OpenModel, prompt: Prompt, site: Site) -> int | None:
    """Width of a module path's vectors, by a run of the prompt; None if they are no vectors."""
    from patchclamp.interventions.passes import Row, forward

    shapes: list[torch.Size] = []
    forward(model, [Row(prompt)], taps={site: lambda value: shapes.append(value.shape)}, logits=False)
    return shapes[0][-1] if shapes and len(shapes[0]) == 3 else None


@checked
@savable
@dataclass(frozen=True)
class Function(Read):
    """Any function of the logits at one position: ``[row, vocabulary] -> [row]`` or ``[row, n]``."""

    function: Callable[[Tensor], Tensor] = field(repr=False)
    name: Name = "value"
    at: At = "last"

    def known_by(self) -> Any:
        """For a checkpoint; see :mod:`patchclamp.core.content`."""
        return "Function", Given(self.function, "read=", "a built-in read, as pc.Probability, or an nn.Module")

    @override
    def bind(self, model: OpenModel, prompt: Prompt, index: int, count: int) -> list[Bound]:
        where = _where(self.at, model, prompt, index, count)
        if len(where) != 1:
            raise InputError(f"a function of the logits reads one position, and at={self.at!r} gives {len(where)}")
        size = model.outputs
        shape = self.function(torch.zeros(2, size)).shape
        if len(shape) not in (1, 2) or shape[0] != 2:
            raise InputError(
                f"the read {self.name!r} turned logits [2, {size}] into shape {tuple(shape)}; give [row] or [row, n]"
            )
        axes = (Axis("output", tuple(range(shape[1]))),) if len(shape) == 2 else ()
        return [Bound(self.name, where, axes, partial(_call, self))]


def _call(read: Function, logits: Tensor, _: Tensor) -> Tensor:
    # a copy: a function that works in place may not write into what other reads look at
    return read.function(logits[:, 0].clone())


def distinct(names: Iterable[str], reserved: Iterable[str] = ()) -> list[str]:
    """Names under which a result can hold every read: the second ``loss`` is ``loss:2``, the third ``loss:3``.

    The same for a name that a dimension of the result bears, or another read's baseline.

    Args:
        names: Names of the reads, in their order.
        reserved: Names of dimensions beside those that every result may have.
    """
    names_in_use = {*_LABELS, *reserved}
    unique: list[str] = []
    for name in names:
        numbered = (name if number == 1 else f"{name}:{number}" for number in counted(1))
        unique.append(next(one for one in numbered if names_in_use.isdisjoint(_kept(one))))
        names_in_use |= _kept(unique[-1])
    return unique


def _kept(name: str) -> set[str]:
    """Every name that a result may need for a read: its own, those of other runs, those of its dimensions."""
    return {
        name,
        *(f"{mark}{name}" for mark in (BASELINE, REFERENCE, CLEAN, CORRUPTED)),
        *(f"{a}:{name}" for a in _AXES),
    }


def as_reads(value: Any) -> tuple[Read, ...]:
    """The user's ``read=``: a read, a function of the logits, or several of them.

    Raises:
        InputError: It is neither.
    """
    items: Sequence[Any] = list(value) if isinstance(value, list | tuple) else [value]
    reads: list[Read] = []
    for item in items:
        if isinstance(item, Read):
            reads.append(item)
        elif callable(item):
            reads.append(Function(item, getattr(item, "__name__", "value").strip("<>")))
        else:
            raise InputError(
                f"a read is pc.Probability, pc.LogitDifference, ... or a function of the logits; got {type(item).__name__}"
            )
    if not reads:
        raise InputError("nothing to read was given")
    return tuple(reads)

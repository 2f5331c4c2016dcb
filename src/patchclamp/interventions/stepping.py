"""Edits around calls of a growing text: which positions each call holds, whatever way the work is cut into calls.

``Model.editing`` comes here, and ``generation.py`` for every call that the module's own ``generate`` makes.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import StoppingCriteriaList
from transformers.cache_utils import Cache

from patchclamp.core.arguments import checked
from patchclamp.core.errors import InputError, NotFiredError, PatchclampError, PositionError
from patchclamp.core.interrupts import Changes, guarded
from patchclamp.interventions import positions
from patchclamp.interventions.actions import Action, Placer, Tally, instructions
from patchclamp.interventions.calls import (
    NO_TOKENS,
    cache_of,
    inferred_mask,
    main_input,
    named_arguments,
    padding_of,
    past_length,
    prompts_of,
)
from patchclamp.interventions.decoding import RowEnds, check_generation, effective
from patchclamp.interventions.edit import Edits, as_edits
from patchclamp.interventions.hooks import Instruction, Port, Session, after_each_call, before_each_call, shadowed
from patchclamp.interventions.passes import UNKNOWN_WIDTH, check_passes
from patchclamp.interventions.positions import GENERATED, At
from patchclamp.interventions.recording import make_placer
from patchclamp.interventions.sources import Unbound
from patchclamp.models.guard import check_ready
from patchclamp.models.inputs import Prompt
from patchclamp.models.opened import OpenModel
from patchclamp.models.sites import Site

_LEFT = "a batch that is continued must be padded on the left; set tokenizer.padding_side = 'left'"

Rows = Sequence[tuple[Action, ...]]


@dataclass(eq=False)
class Text:
    """A batch of texts that grow from call to call."""

    rows: Rows
    pads: list[int]
    """Padding on the left of each row."""
    prompt_width: int
    """Columns of the padded prompts."""
    seen: int
    """Columns that calls, or the cache before them, have held."""
    ends: RowEnds | None = None
    """When each row ends, in a generation."""
    refusal: PatchclampError | None = None
    """Why the text cannot be continued."""


class _Outside(dict[Port, list[Instruction]]):
    """What to do at an edited module that is called by itself: positions are not known there."""

    def get(self, key: Port, *_: Any) -> Any:
        """Refuse."""
        raise InputError(
            f"{key[0] or 'the model'}:{key[1]} ran outside a call of the whole model, so under model.editing its positions "
            "are not known; call model.module itself"
        )


@dataclass(eq=False)
class Stepper:
    """Keeps a session's instructions in step with a model that is called again and again on growing texts."""

    model: OpenModel
    session: Session
    placer: Placer
    tally: Tally
    known: Rows | None = None
    """The actions of each prompt, where the prompts are known beforehand; otherwise they are read off the calls."""
    ends: RowEnds | None = None
    """The stopping criteria of the latest generation note here after how many new tokens each row ended."""
    called: bool = False
    constant: dict[Port, list[Instruction]] | None = None
    """What to do in every call of every module, for edits that need no positions."""
    _generation: Text | None = None
    """The text that the module's own ``generate`` is writing."""
    _latest: Text | None = None
    _by_cache: "WeakKeyDictionary[Any, Text]" = field(default_factory=WeakKeyDictionary)

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Work out which positions the coming call holds, and what to do there."""
        self.session.calls.clear()
        if self.constant is not None:
            self.called = True
            return
        call = named_arguments(self.model.core.forward, args, kwargs)
        inputs = main_input(call, self.model.takes_tokens)
        if inputs is None:
            self._without_tokens(call)
            return
        count, width = inputs.shape[:2]
        cache = cache_of(call)
        text = self._generation
        if text is None:
            text = self._direct(call, inputs, cache)
        past = past_length(cache, text.seen)
        if past > text.seen:
            raise InputError(
                f"the cache holds {past} positions and the calls under model.editing had {text.seen}: it grew outside them"
            )
        if len(text.pads) != count:
            raise InputError(
                f"the batch changed from {len(text.pads)} to {count} rows under model.editing; a row must stay one prompt"
            )
        self.session.rows, self.session.width = count, width
        self.session.instructions = self._instructions(text, call, past, width)
        text.seen = max(text.seen, past + width)
        self.called, self._latest = True, text

    def _without_tokens(self, call: Mapping[str, Any]) -> None:
        """A call of a model that is given pictures, sounds or other tensors: an input of its own, without a text."""
        inputs = next((value for value in call.values() if isinstance(value, Tensor) and value.ndim), None)
        if inputs is None:
            raise InputError("under model.editing the module must be called with a tensor that has a batch axis")
        check_ready(self.model.module)
        count = len(inputs)
        self.placer.prompts = tuple(Prompt(tensors={"given": row.unsqueeze(0)}) for row in inputs)
        self.session.rows, self.session.width = count, 1
        self.session.instructions = instructions(
            self.model.sites, self.placer.rows(), [0] * count, UNKNOWN_WIDTH, self.model.device, self.tally
        )
        self.called, self._latest = True, None

    def after(self, output: Any) -> None:
        """Remember which text the cache of a call belongs to; until the next call nothing is edited."""
        check_passes(self.session)
        if self.constant is not None:
            return
        self.session.instructions = _Outside()
        values = output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple) else ()
        for value in values:
            if isinstance(value, Cache) and self._latest is not None:
                self._by_cache[value] = self._latest

    @contextmanager
    def generation(self, settings: dict[str, Any]) -> Iterator[None]:
        """Around one call of the module's own ``generate``, whose arguments say where its prompts end."""
        module = self.model.module
        check_generation(module, settings)
        if effective(module, settings, "stop_strings") is not None and settings.get("tokenizer") is None:
            settings["tokenizer"] = self.model.tokenizer
        ends = RowEnds(module, settings)
        text = self._generated(settings, ends)
        settings["stopping_criteria"] = StoppingCriteriaList([ends])
        before = self._generation
        self._generation, self.ends = text, ends
        try:
            yield
        finally:
            self._generation = before

    def _generated(self, settings: Mapping[str, Any], ends: RowEnds) -> Text:
        """The text of a generation before its first call."""
        module, cache = self.model.module, cache_of(settings)
        embeds = settings.get("inputs_embeds")
        ids: Any = settings.get("input_ids") if settings.get("inputs") is None else settings["inputs"]
        if embeds is None and ids is None:
            ids = torch.tensor([[effective(module, settings, "bos_token_id") or 0]])
        inputs: Tensor = ids if embeds is None else embeds
        mask = settings.get("attention_mask")
        if mask is None and embeds is None:
            mask = inferred_mask(module, settings, ids)
        old = self._by_cache.get(cache) if isinstance(cache, Cache) else None
        past = past_length(cache, 0 if old is None else old.seen)
        total = inputs.shape[1] if mask is None else max(inputs.shape[1], mask.shape[-1])
        pads, right = padding_of(mask, len(inputs), total)
        if right:
            raise InputError(_LEFT)
        rows = self.known
        if rows is None:
            rows = self._read(prompts_of(self.model, inputs, mask, total), True, past if old is None else 0, None)
        samples = effective(module, settings, "num_return_sequences") or 1
        return Text(
            [row for row in rows for _ in range(samples)], [p for p in pads for _ in range(samples)], total, past, ends
        )

    def _direct(self, call: Mapping[str, Any], inputs: Tensor, cache: Any) -> Text:
        """The text that one of the user's own calls belongs to: a new one unless its cache holds the beginning."""
        text = self._by_cache.get(cache) if isinstance(cache, Cache) else None
        past = past_length(cache, 0 if text is None else text.seen)
        if past == 0:
            return self._begun(call, inputs, 0)
        if text is None:
            return self._begun(call, inputs, past)
        if text.refusal is not None:
            raise text.refusal
        if past < text.seen:
            if past < text.prompt_width:
                raise InputError(
                    f"the cache was cut to {past} of the prompt's {text.prompt_width} positions, so the prompt is no longer "
                    "the one that the edits were placed in; begin a new text, without a cache"
                )
            text.seen = past  # what was taken back is written anew, and counts anew
        return text

    def _begun(self, call: Mapping[str, Any], inputs: Tensor, past: int) -> Text:
        check_ready(self.model.module)
        mask, total = call.get("attention_mask"), past + inputs.shape[1]
        if mask is not None and (not isinstance(mask, Tensor) or mask.ndim != 2 or mask.shape[1] != total):
            shape = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
            raise InputError(
                f"under model.editing attention_mask must be [row, position], here [{len(inputs)}, {total}]; got {shape}"
            )
        pads, right = padding_of(mask, len(inputs), total)
        prompts = prompts_of(self.model, inputs, mask, total)
        keep = call.get("logits_to_keep")
        unformed = total - keep if isinstance(keep, int) and keep else 0
        refusal: PatchclampError | None = None
        if right:
            refusal = InputError(_LEFT)
            rows = self._read(prompts, False, past, unformed)
        else:
            try:
                rows = self._read(prompts, True, past, unformed)
            except PositionError as error:
                refusal = error
                try:  # values that are given position by position fit a text that is not continued
                    rows = self._read(prompts, False, past, unformed)
                except PatchclampError:
                    raise error from None
        if past and any(_needs_prompt_end(edit.at) for edit in self.placer.edits):
            raise PositionError(
                f"the cache held {past} positions before model.editing saw the text, so it is not known where its prompt ends; "
                "begin the text inside the block, or use at='all' or positions from 0 on"
            )
        return Text(rows, pads, total, past, None, refusal)

    def _read(self, prompts: list[Prompt], generating: bool, cached: int, unformed: int | None) -> Rows:
        self.placer.prompts = tuple(prompts)
        if prompts[0].text == NO_TOKENS and any(positions.names_tokens(edit.at) for edit in self.placer.edits):
            raise PositionError(
                "pc.token needs the text's tokens, and this call gives embeddings or continues a cache from elsewhere; give "
                "positions as numbers"
            )
        return placed_rows(self.placer, generating, cached, unformed)

    def _instructions(
        self, text: Text, call: Mapping[str, Any], past: int, width: int
    ) -> dict[Port, list[Instruction]]:
        starts = [past - pad for pad in text.pads]
        lengths = text.ends.lengths if text.ends is not None and text.ends.lengths else [None] * len(starts)
        limits = [
            None if new is None else text.prompt_width - pad + new - 1
            for new, pad in zip(lengths, text.pads, strict=True)
        ]
        concrete = [
            [
                _concrete(action, start, width, text.prompt_width - pad, limit)
                for action, start, pad, limit in ((a, s, p, m) for a in row)
            ]
            for row, s, p, m in zip(text.rows, starts, text.pads, limits, strict=True)
        ]
        narrow = _narrow_sites(self.model, {action.site for row in concrete for action in row})
        formed = width
        if narrow:
            keep = call.get("logits_to_keep", 0)
            if isinstance(keep, Tensor):
                raise InputError(
                    "an edit of the logits needs logits_to_keep as a number under model.editing; got a tensor"
                )
            formed = min(int(keep or width), width)
        table: dict[Port, list[Instruction]] = {}
        for sites_are_narrow, columns in ((False, width), (True, formed)):
            part = [[action for action in row if (action.site in narrow) == sites_are_narrow] for row in concrete]
            first = [start + width - columns for start in starts]
            table |= instructions(
                *(self.model.sites, part, first, columns, self.model.device, self.tally),
                fresh=text.seen - past - (width - columns),
                whole=True,
            )
        return table


def check_fired(placer: Placer, tally: Tally) -> None:
    """Every edit must have fired.

    Raises:
        NotFiredError: One did not.
    """
    for number, edit in enumerate(placer.edits):
        if not tally.reached[number]:
            raise NotFiredError(
                f"edit number {number} ({edit.sites[0]}, at={edit.at!r}) never fired; with at='generated' the last new token "
                "is not fed back, so one new token gives no firing"
            )


def placed_rows(placer: Placer, generating: bool = True, cached: int = 0, unformed: int | None = None) -> Rows:
    """The actions of each prompt of a text that will be continued.

    Of the logits only those that are formed can be edited: in a generation those of the last prompt position and of each
    generated one.

    Args:
        placer: The edits on the prompts.
        generating: Whether tokens may follow.
        cached: Positions (of the longest prompt) that a cache already holds.
        unformed: How many logits at the beginning are not formed, where the caller says so; None in a generation.

    Raises:
        PositionError: A position outside its prompt, in the cache, or whose logits are not formed.
    """
    rows = placer.rows(generating)
    longest = max((len(prompt.ids) for prompt in placer.prompts), default=0)
    narrow = _narrow_sites(placer.model, {action.site for row in rows for action in row})
    result = []
    for index, row in enumerate(rows):
        length = len(placer.prompts[index].ids)
        cached_here = cached - (longest - length)
        actions = []
        for action in row:
            at = placer.edits[action.edit].at
            first = 0
            if action.site in narrow and (unformed is not None or generating):
                first = length - 1 if unformed is None else unformed - (longest - length)
                _demand(at, placer, index, first, f"the logits at {{}} are not formed: {_FORMED}")
            if cached_here > 0:
                _demand(at, placer, index, cached_here, "position {} lies in the cache and is not computed again")
            actions.append(_from(action, max(first, cached_here)))
        result.append(tuple(actions))
    return result


_FORMED = "in a generation only those of the last prompt position and of the generated ones are, as at='all' or at=-1"


def _demand(at: At, placer: Placer, index: int, first: int, message: str) -> None:
    """Positions that the user spelled out must lie at ``first`` or after it."""
    places = tuple(positions.spelled_out(at, index))
    if not places:
        return
    model, prompt = placer.model, placer.prompts[index]
    numbers = positions.resolve(places, prompt, index, len(placer.prompts), model.tokenizer) or ()
    for position in numbers:
        if position < first:
            raise PositionError(f"at={at!r}: " + message.format(position))


def _from(action: Action, first: int) -> Action:
    if action.positions is None:
        return action
    return action.only(tuple(i for i, p in enumerate(action.positions) if p >= first or p == GENERATED))


def _narrow_sites(model: OpenModel, sites: Iterable[Site]) -> set[Site]:
    """Sites at which only the positions exist whose logits are wanted: the logits, and the head before them."""
    head = getattr(model.module, "get_output_embeddings", lambda: None)()
    names = {name for name, module in model.sites.modules.items() if module is head and head is not None}
    narrow = set()
    for site in sites:
        access = model.sites.access(site)
        if access.module in names or (
            access.module == "" and access.side == "out" and access.keys in ((), ("logits",))
        ):
            narrow.add(site)
    return narrow


def _concrete(action: Action, start: int, width: int, prompt_length: int, limit: int | None = None) -> Action:
    """The action with "every generated position" written out for the columns of one call, up to where its row ends."""
    if action.positions is None or GENERATED not in action.positions:
        return action
    fixed = tuple(p for p in action.positions if p != GENERATED)
    end = start + width if limit is None else min(start + width, limit)
    where = (*fixed, *range(max(start, prompt_length), end))
    return replace(action, positions=where, operation=action.operation.moved(where))


def _needs_prompt_end(at: At) -> bool:
    if isinstance(at, positions.PerPrompt):
        return any(_needs_prompt_end(item) for item in at.each)
    if isinstance(at, list | tuple):
        return any(_needs_prompt_end(item) for item in at)
    if isinstance(at, slice):
        return any(n is not None and n < 0 for n in (at.start, at.stop)) or at.stop is None
    return at in ("prompt", "generated", "last") if isinstance(at, str) else isinstance(at, int) and at < 0


@checked
def editing(model: OpenModel, edits: Edits) -> AbstractContextManager[Tally]:
    """Edits around your own calls: ``with model.editing(edit): model.module.generate(...)``.

    The module's own ``generate`` is edited as :meth:`patchclamp.Model.generate` is. Of your calls of the module, each one
    without a cache, or with an empty one, begins a text: its tokens are the prompt. A call with the cache that such a call
    gave continues the text: its tokens are ``"generated"``, and count on. Texts may alternate; each keeps its positions.

    Raises:
        InputError: A call whose positions cannot be known: another batch size, a cache that was cut into the prompt or grew
            elsewhere, padding inside a row, or an edited module that is called by itself.
        PositionError: A position that a call cannot hold.
    """
    return guarded(_editing(model, edits))


@contextmanager
def _editing(model: OpenModel, edits: Edits) -> Iterator[Tally]:
    items = list(as_edits(edits))
    check_ready(model.module)
    model.look()
    placer = make_placer(model, items, (), grad=True)
    stepper, hooks = stepping(model, placer, Tally.empty())
    with Changes(*hooks):
        yield stepper.tally
    if stepper.called:
        check_fired(placer, stepper.tally)


def _constant(placer: Placer, tally: Tally) -> dict[Port, list[Instruction]] | None:
    """What to do in an encoder-decoder, whose parts are called one by one on texts of their own: the same in each call.

    None if some edit is not for every position, or takes its value from another prompt, and so needs to know the text.
    """
    if any(edit.at != "all" or isinstance(edit.operation, Unbound) for edit in placer.edits):
        return None
    placer.prompts = (Prompt(tensors={"given": torch.zeros(1, 1)}),)
    return instructions(placer.model.sites, placer.rows(), [0], UNKNOWN_WIDTH, placer.model.device, tally)


def stepping(
    model: OpenModel, placer: Placer, tally: Tally, prompt_rows: Rows | None = None
) -> tuple[Stepper, list[AbstractContextManager[Any]]]:
    """What carries out edits in every call of the module, inside the context managers that come with it."""
    ports = dict.fromkeys(model.sites.access(site).port for sites in placer.sites for site in sites)
    nothing: dict[Port, list[Instruction]] = {port: [] for port in ports}
    constant = _constant(placer, tally) if model.encoder is not None else None
    todo = _Outside(nothing) if constant is None else nothing | constant
    session = Session(model.sites.modules, 1, 1, todo)
    stepper = Stepper(model, session, placer, tally, prompt_rows, constant=constant)

    def counted(generate: Any) -> Any:
        @wraps(generate)
        def call(*args: Any, **kwargs: Any) -> Any:
            settings = named_arguments(generate, args, kwargs)
            with stepper.generation(settings):
                return generate(**settings)

        return call

    hooks = [session, before_each_call(model.core, stepper.before), after_each_call(model.core, stepper.after)]
    if hasattr(model.module, "generate") and not getattr(model.config, "is_encoder_decoder", False):
        hooks.append(shadowed(model.module, "generate", counted))
    return stepper, hooks

"""Generation under edits, with the key-value cache, every position counted in the unpadded prompt."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from patchclamp.core.errors import InputError, NotFiredError
from patchclamp.core.result import Result, Saved
from patchclamp.interventions.actions import Action, Placer, Tally, instructions
from patchclamp.interventions.edits import Edit
from patchclamp.interventions.forward import check_passes
from patchclamp.interventions.hooks import Session, before_each_call, shadowed
from patchclamp.interventions.overflow import WrongStepError, finite_steps, looking, wrong_step
from patchclamp.interventions.positions import GENERATED
from patchclamp.interventions.record import record_source
from patchclamp.interventions.results import evidence
from patchclamp.interventions.verification import TOLERANCE
from patchclamp.models.guard import check_ready
from patchclamp.models.inputs import Prompt
from patchclamp.models.opened import OpenModel
from patchclamp.models.tokens import labels

if TYPE_CHECKING:
    import xarray as xr

REFUSED = {
    "num_beams": (1, "beam search reorders rows between steps, so a row is no longer its prompt"),
    "num_beam_groups": (1, "beam search reorders rows between steps, so a row is no longer its prompt"),
    "assistant_model": (None, "assisted decoding runs several tokens and takes some back"),
    "prompt_lookup_num_tokens": (None, "assisted decoding runs several tokens and takes some back"),
    "penalty_alpha": (None, "contrastive search runs candidates that are not kept"),
    "cache_implementation": (None, "a static cache compiles the forward pass, and compiled code ignores hooks"),
    "num_return_sequences": (1, "several sequences a prompt multiply the rows; pass the prompt several times"),
}


def check_generation(settings: dict[str, Any], defaults: Any) -> None:
    """Refuse ways of decoding under which a row does not stay one prompt.

    Raises:
        InputError: With the reason.
    """
    config = settings.get("generation_config") or defaults
    for name, (plain, why) in REFUSED.items():
        value = settings.get(name, getattr(config, name, None))
        if value is not None and value != plain:
            raise InputError(f"{name}={value!r} cannot be combined with edits: {why}")


@dataclass(eq=False)
class Stepper:
    """Keeps a session's instructions in step with a model that is called again and again on a growing text."""

    model: OpenModel
    session: Session
    placer: Placer
    known: bool
    """Whether the prompts are known beforehand; otherwise they are read off the first call."""
    tally: Tally = field(default_factory=Tally.empty)
    rows: list[tuple[Action, ...]] = field(default_factory=list)
    pads: list[int] = field(default_factory=list)
    """Padding on the left of each row."""
    padded_right: bool = False
    seen: int = 0
    """Columns that earlier calls of this text held."""
    prompt_width: int = 0

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Work out which positions the coming call holds, and what to do there."""
        check_passes(self.session)
        self.session.calls.clear()
        ids = kwargs.get("input_ids", args[0] if args else None)
        if not isinstance(ids, Tensor):
            raise InputError("under model.editing the module must be called with input_ids")
        past = _past_length(kwargs, self.seen)
        if past == 0:
            self._begin(ids, kwargs.get("attention_mask"))
        elif self.padded_right:
            raise InputError(
                "a batch that is continued must be padded on the left; set tokenizer.padding_side = 'left'"
            )
        width = ids.shape[1]
        starts = [past - pad for pad in self.pads]
        if len(starts) != len(ids):
            raise InputError(
                f"the batch changed from {len(starts)} to {len(ids)} rows under model.editing; a row must stay one prompt"
            )
        concrete = [
            tuple(_concrete(action, start, width, self.prompt_width - pad) for action in row)
            for row, start, pad in zip(self.rows, starts, self.pads, strict=True)
        ]
        self.session.rows, self.session.width = len(ids), width
        self.session.instructions = instructions(
            self.model.sites, concrete, starts, width, self.model.device, self.tally
        )
        self.seen = past + width

    def _begin(self, ids: Tensor, mask: Any) -> None:
        check_ready(self.model.module)
        keep = (
            mask.bool()
            if isinstance(mask, Tensor) and mask.shape == ids.shape
            else torch.ones_like(ids, dtype=torch.bool)
        )
        self.pads = [int(row.nonzero().min()) for row in keep]
        self.padded_right = not bool(keep[:, -1].all())
        self.prompt_width = ids.shape[1]
        if not self.known:
            self.placer.prompts = tuple(
                self.model.prompts([row[real].tolist() for row, real in zip(ids, keep, strict=True)])
            )
        self.rows = self.placer.rows(generating=not self.padded_right)

    def check(self) -> None:
        """Every edit must have fired.

        Raises:
            NotFiredError: One did not.
        """
        check_passes(self.session)
        for number, edit in enumerate(self.placer.edits):
            if not self.tally.reached[number]:
                raise NotFiredError(
                    f"edit number {number} ({edit.sites[0]}, at={edit.at!r}) never fired; with at='generated' the last new token "
                    "is not fed back, so one new token gives no firing"
                )


def _past_length(kwargs: dict[str, Any], seen: int) -> int:
    past = kwargs.get("past_key_values", kwargs.get("cache_params"))
    if past is None:
        return 0
    try:
        return int(past.get_seq_length())
    except (AttributeError, ValueError):
        return seen if past.has_previous_state() else 0


def _concrete(action: Action, start: int, width: int, prompt_length: int) -> Action:
    """The action with "every generated position" written out for the columns of one call."""
    if action.positions is None or GENERATED not in action.positions:
        return action
    fixed = tuple(p for p in action.positions if p != GENERATED)
    generated = tuple(p for p in range(max(start, prompt_length), start + width))
    return Action(action.site, (*fixed, *generated), action.operation, action.gate, action.edit)


@contextmanager
def editing(model: OpenModel, edits: Iterable[Edit] | Edit, prompts: list[Prompt] | None = None) -> Iterator[Tally]:
    """Edits around the user's own calls; see :meth:`patchclamp.Model.editing`."""
    chosen = [edits] if isinstance(edits, Edit) else list(edits)
    check_ready(model.module)
    model.look()
    placer = Placer(model, chosen, prompts or (), record_source, grad=True)
    session = Session(model.sites.modules, 1, 1)
    stepper = Stepper(model, session, placer, prompts is not None)
    defaults = getattr(model.module, "generation_config", None)

    def checked(generate: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            check_generation(kwargs, defaults)
            return generate(*args, **kwargs)

        return call

    with ExitStack() as stack:
        stack.enter_context(session)
        for port in dict.fromkeys(model.sites.access(site).port for sites in placer.sites for site in sites):
            session.watch(port)
        stack.enter_context(before_each_call(model.module, stepper.before))
        if hasattr(model.module, "generate"):
            stack.enter_context(shadowed(model.module, "generate", checked))
        yield stepper.tally
    if stepper.seen:
        stepper.check()


@dataclass(eq=False)
class Generation(Result):
    """Generated text."""

    kind: ClassVar[str] = "generation"
    prompts: tuple[str, ...]
    texts: tuple[str, ...]
    """What was generated after each prompt."""
    ids: tuple[tuple[int, ...], ...]
    """New token ids."""
    tokens: tuple[tuple[str, ...], ...]
    fired: tuple[int, ...]
    """For each edit, how many vectors it changed."""
    record: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def __str__(self) -> str:
        return "\n".join(f"{prompt}{text}" for prompt, text in zip(self.prompts, self.texts, strict=True))

    @property
    def data(self) -> "xr.Dataset":
        """One row a prompt."""
        return self._dataset()

    def _dataset(self) -> "xr.Dataset":
        import numpy as np
        import xarray as xr

        attrs = {
            "ids": [list(i) for i in self.ids],
            "tokens": [list(t) for t in self.tokens],
            "fired": list(self.fired),
        }
        columns = {
            "text": ("row", np.array(self.texts, dtype=object)),
            "prompt": ("row", np.array(self.prompts, dtype=object)),
        }
        return xr.Dataset(coords=columns, attrs=attrs)

    @classmethod
    def _from_saved(cls, saved: Saved) -> Self:
        attrs = saved.dataset.attrs
        return cls(
            tuple(str(p) for p in saved.dataset["prompt"].values),
            tuple(str(t) for t in saved.dataset["text"].values),
            tuple(tuple(i) for i in attrs["ids"]),
            tuple(tuple(t) for t in attrs["tokens"]),
            tuple(attrs["fired"]),
            saved.record,
            saved.tensors,
        )


def generate(
    model: OpenModel,
    inputs: Any,
    edits: Iterable[Edit] | Edit = (),
    *,
    max_new_tokens: int = 20,
    seed: int | None = None,
    **settings: Any,
) -> Generation:
    """Generate under edits; see :meth:`patchclamp.Model.generate`."""
    chosen = [edits] if isinstance(edits, Edit) else list(edits)
    if not hasattr(model.module, "generate"):
        raise InputError(f"{type(model.module).__name__} cannot generate: it is no language model with a head")
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens must be 1 or more, got {max_new_tokens}")
    check_generation(settings, getattr(model.module, "generation_config", None))
    prompts = model.prompts(inputs)
    _check_beside(model, prompts, max_new_tokens)
    longest = max(len(p.ids) for p in prompts)
    if model.context is not None and longest + max_new_tokens > model.context:
        raise InputError(
            f"{longest} prompt tokens and {max_new_tokens} new ones exceed the model's context of {model.context}"
        )
    new: dict[int, tuple[int, ...]] = {}
    fired = [0] * len(chosen)
    with torch.no_grad(), _seeded(seed, model.device):
        for members in _groups(model, prompts):
            group = [prompts[i] for i in members]
            ids, tally = _generate_batch(model, group, chosen, max_new_tokens, settings)
            new |= dict(zip(members, ids, strict=True))
            fired = [n + tally.fired(i) for i, n in enumerate(fired)]
    ordered = tuple(new[i] for i in range(len(prompts)))
    texts = tuple(
        model.tokenizer.decode(list(i), skip_special_tokens=True) if model.tokenizer else str(list(i)) for i in ordered
    )
    said = evidence(model, prompts, edits=chosen, max_new_tokens=max_new_tokens, seed=seed, settings=settings)
    shown = tuple(labels(model.tokenizer, i) for i in ordered)
    return Generation(tuple(p.name for p in prompts), texts, ordered, shown, tuple(fired), *said)


def _groups(model: OpenModel, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Prompts that may share a batch: all of them, or those of equal length if padding would change the model's numbers."""
    plain = not any(prompt.tensors for prompt in prompts)
    if len({prompt.form for prompt in prompts}) == 1 or (plain and _pads_left(model, prompts)):
        return [list(range(len(prompts)))]
    by_form: dict[Any, list[int]] = {}
    for index, prompt in enumerate(prompts):
        by_form.setdefault(prompt.form, []).append(index)
    return list(by_form.values())


_CONTINUED = ("position_ids", "token_type_ids", "mm_token_type_ids", "attention_mask")
"""What transformers' generate continues for new tokens: positions count on, types stay."""


def _check_beside(model: OpenModel, prompts: Sequence[Prompt], new: int) -> None:
    """Refuse inputs beside the ids that say nothing about new tokens.

    Raises:
        InputError: With what can be continued.
    """
    for prompt in prompts:
        if extra := sorted(set(prompt.tensors) - set(_CONTINUED)):
            raise InputError(f"{extra} have no value for new tokens; generation continues {', '.join(_CONTINUED[:3])}")
        last = int(prompt.tensors["position_ids"][0, -1]) if "position_ids" in prompt.tensors else -1
        if model.context is not None and last + new >= model.context:
            raise InputError(f"position {last} and {new} new tokens exceed the model's context of {model.context}")


def _pads_left(model: OpenModel, prompts: Sequence[Prompt]) -> bool:
    """Whether this model gives a left-padded prompt the logits that it has alone; tried once, on the prompts at hand."""
    if model.pads_left is None:
        short, long = (pick(prompts, key=lambda p: len(p.ids)) for pick in (min, max))
        settings = {"return_dict_in_generate": True, "output_logits": True, "do_sample": False, "eos_token_id": None}
        alone = _call_generate(model, [short], 2, settings).logits
        padded = _call_generate(model, [short, long], 2, settings).logits
        worst = max(float((b[0] - a[0]).abs().max() / a[0].abs().max()) for a, b in zip(alone, padded, strict=True))
        model.pads_left = worst <= TOLERANCE.get(model.dtype, 1e-4)
    return model.pads_left


def _generate_batch(
    model: OpenModel, prompts: list[Prompt], edits: list[Edit], max_new_tokens: int, settings: dict[str, Any]
) -> tuple[list[tuple[int, ...]], Tally]:
    width = max(len(p.ids) for p in prompts)
    try:
        with editing(model, edits, prompts) as tally, finite_steps(model):
            out = _call_generate(model, prompts, max_new_tokens, settings)
    except WrongStepError:
        found: list[str] = []
        with suppress(WrongStepError), editing(model, edits, prompts), looking(model, found), finite_steps(model):
            _call_generate(model, prompts, max_new_tokens, settings)
        raise wrong_step(model, found, bool(edits)) from None
    sequences = out if isinstance(out, Tensor) else out.sequences
    ends = _ends(model, settings)
    return [_until_end(row, ends) for row in sequences[:, width:].tolist()], tally


def _call_generate(model: OpenModel, prompts: Sequence[Prompt], max_new_tokens: int, settings: dict[str, Any]) -> Any:
    """The module's own ``generate`` on a left-padded batch, greedy unless the settings say otherwise."""
    width = max(len(p.ids) for p in prompts)
    pad = _pad_id(model)
    ids = torch.tensor([[pad] * (width - len(p.ids)) + list(p.ids) for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(p.ids)) + [1] * len(p.ids) for p in prompts], device=model.device)
    beside = model.batch(list(prompts)).kwargs if prompts[0].tensors else {}
    return model.module.generate(  # type: ignore[operator]
        input_ids=ids,
        attention_mask=mask,
        **{name: value for name, value in beside.items() if name not in ("input_ids", "attention_mask")},
        max_new_tokens=max_new_tokens,
        pad_token_id=pad,
        **{"do_sample": False, **settings},
    )


def _pad_id(model: OpenModel) -> int:
    for holder, name in (
        (model.tokenizer, "pad_token_id"),
        (model.config, "pad_token_id"),
        (model.tokenizer, "eos_token_id"),
    ):
        found = getattr(holder, name, None)
        if isinstance(found, int) and found >= 0:
            return found
    return 0


def _ends(model: OpenModel, settings: dict[str, Any]) -> set[int]:
    """The end-of-text tokens of a call: those that the user named, else the model's own."""
    config = settings.get("generation_config") or getattr(model.module, "generation_config", None)
    ends = settings["eos_token_id"] if "eos_token_id" in settings else getattr(config, "eos_token_id", None)
    return set() if ends is None else set(torch.as_tensor(ends).flatten().tolist())


def _until_end(row: list[int], ends: set[int]) -> tuple[int, ...]:
    """New tokens up to the end-of-text token: what follows is padding."""
    end = next((i for i, token in enumerate(row) if token in ends), len(row))
    return tuple(row[:end])


@contextmanager
def _seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Sampling from a seed leaves the global random state as it was; without one it advances it."""
    if seed is None:
        yield
        return
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield

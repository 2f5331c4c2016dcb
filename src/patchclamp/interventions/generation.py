"""Generation under edits, with or without the key-value cache, every position counted in the unpadded prompt.

``Model.generate`` comes here. ``decoding.py`` reads the settings, ``stepping.py`` edits every call that the module makes.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor
from transformers import GenerationConfig

from patchclamp.core.call import recorded
from patchclamp.core.errors import InputError, PatchclampError
from patchclamp.core.interrupts import within
from patchclamp.core.kinds import Seed
from patchclamp.core.result import Result, Saved
from patchclamp.core.tolerances import ARCHITECTURE
from patchclamp.interventions.actions import Placer, Tally
from patchclamp.interventions.decoding import effective, end_ids, new_tokens, read_settings, reads_the_text, until_end
from patchclamp.interventions.edit import Edits, as_edits
from patchclamp.interventions.hooks import before_each_call
from patchclamp.interventions.overflow import WrongStepError, finite_steps, looking, wrong_step
from patchclamp.interventions.recording import make_placer
from patchclamp.interventions.result_record import provenance
from patchclamp.interventions.stepping import Rows, Stepper, check_fired, placed_rows, stepping
from patchclamp.models.beside import is_whole
from patchclamp.models.guard import check_ready
from patchclamp.models.inputs import Prompt
from patchclamp.models.opened import OpenModel
from patchclamp.models.tokens import labels

if TYPE_CHECKING:
    import xarray as xr


@dataclass(eq=False)
class Generation(Result):
    """Generated text."""

    kind: ClassVar[str] = "generation"
    prompts: tuple[str, ...]
    """The prompt of each text."""
    texts: tuple[str, ...]
    """What was generated after each prompt: several texts in a row for one prompt under ``num_return_sequences``."""
    ids: tuple[tuple[int, ...], ...]
    """New token ids."""
    tokens: tuple[tuple[str, ...], ...]
    fired: tuple[int, ...]
    """For each edit, how many vectors it changed: each position of each text once."""
    record: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    prompt_numbers: tuple[int, ...] = ()
    """Which of the prompts, from 0, each text follows."""
    logits: tuple[Tensor, ...] = ()
    """``[token, vocabulary]`` a text, under ``output_logits=True``: what each new token was chosen from, in float32 as
    ``transformers`` keeps it."""
    scores: tuple[Tensor, ...] = ()
    """The same under ``output_scores=True``, after the logits processors (temperature, top-p, ...)."""

    def __str__(self) -> str:
        return "\n".join(f"{prompt}{text}" for prompt, text in zip(self.prompts, self.texts, strict=True))

    @property
    def data(self) -> "xr.Dataset":
        """One row a text."""
        return self._dataset().drop_vars(["logits", "scores"], errors="ignore")

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
            "prompt_number": ("row", np.array(self.prompt_numbers or range(len(self.texts)))),
        }
        tensors = {"logits": self.logits, "scores": self.scores}
        arrays = {
            name: (("row", "step", "vocabulary"), torch.nn.utils.rnn.pad_sequence(rows, True, torch.nan).numpy())  # type: ignore[arg-type]
            for name, rows in tensors.items()
            if rows
        }
        return xr.Dataset(arrays, coords=columns, attrs=attrs)

    @classmethod
    def _from_saved(cls, saved: Saved) -> Self:
        dataset, attrs = saved.dataset, saved.dataset.attrs
        ids = tuple(tuple(i) for i in attrs["ids"])

        def ragged(name: str) -> tuple[Tensor, ...]:
            rows = torch.from_numpy(dataset[name].values) if name in dataset else ()
            return tuple(row[: len(row_ids)] for row, row_ids in zip(rows, ids, strict=False))

        return cls(
            tuple(str(p) for p in dataset["prompt"].values),
            tuple(str(t) for t in dataset["text"].values),
            ids,
            tuple(tuple(t) for t in attrs["tokens"]),
            tuple(attrs["fired"]),
            saved.record,
            saved.tensors,
            tuple(dataset["prompt_number"].values.tolist()) if "prompt_number" in dataset.coords else (),
            ragged("logits"),
            ragged("scores"),
        )


@recorded
def generate(
    model: OpenModel,
    prompts: Any,
    edits: Edits = (),
    *,
    max_new_tokens: int | None = None,
    seed: Seed | None = None,
    **settings: Any,
) -> Generation:
    """Generate under edits.

    What is edited does not depend on how ``transformers`` cuts the work: with the key-value cache or without, the prompt in
    one call or in chunks, a prompt alone or in a batch.

    Each text is its prompt, positions 0 to p-1 without padding, and n new tokens at p to p+n-1, of which the last is never
    fed back and so has no activations. At the logits only those that choose a token exist: of p-1 and of what follows.

    Args:
        model: The model.
        prompts: As for :meth:`patchclamp.Model.run`.
        edits: Where ``at`` acts: ``"prompt"`` at 0 to p-1; ``"generated"`` at p to p+n-2 (n new tokens give n-1 firings);
            ``"all"`` at both, and ``"rest"`` at both but position 0; ``"last"`` and ``-1`` at p-1, whose logits give the
            first new token; a number, slice, ``pc.token`` or ``pc.per_prompt`` at those positions of the prompt alone.
            A position acts on every step that computes it anew, and is counted once in ``fired``.
        max_new_tokens: How many; 20 unless ``max_length`` or a ``generation_config`` says otherwise.
        seed: For sampling; the global random state is then left alone.
        **settings: What else ``transformers`` takes (``do_sample=True``, ``temperature``, ``num_return_sequences``,
            ``stop_strings``, ``output_logits``, ``generation_config``, ...); greedy by default. Beams, assisted decoding,
            settings without effect and inputs are refused by name.

    Raises:
        InputError: A setting, site, position or vector does not fit; raised before the run.
        NotFiredError: An edit never met its site.
    """
    edit_list = list(as_edits(edits))
    if not hasattr(model.module, "generate"):
        raise InputError(f"{type(model.module).__name__} cannot generate: it is no language model with a head")
    if model.encoder is not None:
        raise InputError(
            f"{type(model.module).__name__} is an encoder-decoder, which writes a text of its own instead of going on with the "
            "prompt; call model.module.generate inside model.editing(edits)"
        )
    options = read_settings(model.module, model.tokenizer, _with_config(settings))
    count = new_tokens(options, max_new_tokens)
    prompts = model.prompts(prompts)
    _check_context(model, prompts, count, effective(model.module, options, "max_length"))
    check_ready(model.module)
    placer, tally = make_placer(model, edit_list, prompts), Tally.empty()
    rows = placed_rows(placer)
    around = (torch.no_grad(), _seeded(seed, model.device))
    new = within(around, _generate_all, model, placer, tally, rows, prompts, count, options)
    check_fired(placer, tally)
    numbers = tuple(i for i in range(len(prompts)) for _ in new[i])
    texts = [one for i in range(len(prompts)) for one in new[i]]
    source = provenance(model, prompts, edits=edit_list, **_plain_settings(model, settings))
    return Generation(
        tuple(prompts[i].name for i in numbers),
        tuple(_decoded(model, one.ids) for one in texts),
        tuple(one.ids for one in texts),
        tuple(labels(model.tokenizer, one.ids) for one in texts),
        tuple(tally.fired(number) for number in range(len(edit_list))),
        *source,
        numbers,
        tuple(one.logits for one in texts if one.logits is not None),
        tuple(one.scores for one in texts if one.scores is not None),
    )


@dataclass(frozen=True, eq=False)
class _New:
    """One generated text."""

    ids: tuple[int, ...]
    logits: Tensor | None
    scores: Tensor | None


def _with_config(settings: Mapping[str, Any]) -> dict[str, Any]:
    config = settings.get("generation_config")
    return {**settings, **({"generation_config": GenerationConfig(**config)} if isinstance(config, Mapping) else {})}


def _plain_settings(model: OpenModel, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a record keeps in another form: a config by what it says, and the model's own tokenizer as None."""
    plain: dict[str, Any] = {}
    if "tokenizer" in settings and settings["tokenizer"] is model.tokenizer:
        plain["tokenizer"] = None
    config = settings.get("generation_config")
    if isinstance(config, GenerationConfig):
        plain["generation_config"] = {
            name: value
            for name, value in vars(config).items()
            if value is not None and not name.startswith("_") and name != "transformers_version"
        }
    return plain


def _decoded(model: OpenModel, ids: Sequence[int]) -> str:
    return model.tokenizer.decode(list(ids), skip_special_tokens=True) if model.tokenizer else str(list(ids))


def _check_context(model: OpenModel, prompts: Sequence[Prompt], count: int | None, longest: int | None) -> None:
    length = max(len(p.ids) for p in prompts)
    _check_beside(model, prompts, (longest or length) - length if count is None else count)
    if count is None:
        assert longest is not None
        if length >= longest:
            raise InputError(
                f"max_length={longest} counts the prompt's tokens too, and the longest prompt has {length}"
            )
        if model.context is not None and longest > model.context:
            raise InputError(f"max_length={longest} exceeds the model's context of {model.context}")
    elif model.context is not None and length + count > model.context:
        raise InputError(f"{length} prompt tokens and {count} new ones exceed the model's context of {model.context}")


def _groups(model: OpenModel, prompts: Sequence[Prompt], apart: bool) -> list[list[int]]:
    """Prompts that may share a batch: all of them, or those of equal length if padding would change the numbers."""
    plain = not apart and not any(prompt.tensors for prompt in prompts)
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
        if extra := sorted(name for name in prompt.tensors if name not in _CONTINUED and not is_whole(name)):
            raise InputError(f"{extra} have no value for new tokens; generation continues {', '.join(_CONTINUED[:3])}")
        last = int(prompt.tensors["position_ids"][0, -1]) if "position_ids" in prompt.tensors else -1
        if model.context is not None and last + new >= model.context:
            raise InputError(f"position {last} and {new} new tokens exceed the model's context of {model.context}")


def _pads_left(model: OpenModel, prompts: Sequence[Prompt]) -> bool:
    """Whether this model gives a left-padded prompt the logits that it has alone; tried once, on the prompts at hand."""
    if model.capabilities.pads_left is None:
        short, long = (pick(prompts, key=lambda p: len(p.ids)) for pick in (min, max))
        settings = {
            "return_dict_in_generate": True, "output_logits": True, "do_sample": False, "eos_token_id": None, "stop_strings": None,
            "num_return_sequences": 1,
        }  # fmt: skip
        alone = _call_generate(model, [short], 2, settings).logits
        padded = _call_generate(model, [short, long], 2, settings).logits
        worst = max(float((b[0] - a[0]).abs().max() / a[0].abs().max()) for a, b in zip(alone, padded, strict=True))
        model.capabilities.pads_left = worst <= ARCHITECTURE.of(model.dtype)
    return model.capabilities.pads_left


def _generate_all(
    model: OpenModel,
    placer: Placer,
    tally: Tally,
    rows: Rows,
    prompts: Sequence[Prompt],
    count: int | None,
    settings: dict[str, Any],
) -> dict[int, list[_New]]:
    """The texts of each prompt, by its number."""
    new: dict[int, list[_New]] = {}
    for members in _groups(model, prompts, reads_the_text(model.module, settings)):
        batch_rows = [rows[i] for i in members]
        texts = _generate_batch(model, placer, tally, batch_rows, [prompts[i] for i in members], count, settings)
        new |= dict(zip(members, texts, strict=True))
    return new


def _generate_batch(
    model: OpenModel,
    placer: Placer,
    tally: Tally,
    rows: Rows,
    prompts: list[Prompt],
    count: int | None,
    settings: dict[str, Any],
) -> list[list[_New]]:
    """The texts of each prompt of one batch."""
    samples = settings["num_return_sequences"]
    width = max(len(p.ids) for p in prompts)
    stepper, hooks = stepping(model, placer, tally, rows)
    try:
        out = within((*hooks, finite_steps(model)), _started, model, stepper, prompts, count, settings)
    except WrongStepError:
        site_names: list[str] = []
        _, again = stepping(model, placer, Tally.empty(), rows)
        around = (suppress(WrongStepError), *again, looking(model, site_names), finite_steps(model))
        within(around, _call_generate, model, prompts, count, settings)
        raise wrong_step(model, site_names, bool(placer.edits)) from None
    assert stepper.ends is not None
    sequences = out if isinstance(out, Tensor) else out.sequences
    lengths, ends = stepper.ends.lengths, end_ids(model.module, settings)
    texts: list[_New] = []
    for number, row in enumerate(sequences[:, width:].tolist()):
        ids = until_end(row[: lengths[number]], ends)
        steps = [
            None
            if not step_tensors
            else torch.stack([step[number] for step in step_tensors[: len(ids)]]).cpu()
            if ids
            else step_tensors[0][:0].cpu()
            for step_tensors in (getattr(out, "logits", None), getattr(out, "scores", None))
        ]
        texts.append(_New(ids, *steps))
    return [texts[i : i + samples] for i in range(0, len(texts), samples)]


def _started(
    model: OpenModel, stepper: Stepper, prompts: Sequence[Prompt], count: int | None, settings: Mapping[str, Any]
) -> Any:
    """What transformers gives; what it refuses before its first call is refused by us."""
    try:
        return _call_generate(model, prompts, count, settings)
    except (ValueError, TypeError, ImportError, NotImplementedError) as error:
        if isinstance(error, PatchclampError) or stepper.called:
            raise
        raise InputError(f"transformers cannot generate with these settings: {error}") from error


def _call_generate(model: OpenModel, prompts: Sequence[Prompt], count: int | None, settings: Mapping[str, Any]) -> Any:
    """The module's own ``generate`` on a left-padded batch."""
    width = max(len(p.ids) for p in prompts)
    configured = effective(model.module, settings, "pad_token_id")
    pad = _pad_id(model) if configured is None else int(configured)
    ids = torch.tensor([[pad] * (width - len(p.ids)) + list(p.ids) for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(p.ids)) + [1] * len(p.ids) for p in prompts], device=model.device)
    limit = {} if count is None else {"max_new_tokens": count}
    beside = model.batch(list(prompts)).kwargs if prompts[0].tensors else {}
    arguments = {**beside, **settings, "input_ids": ids, "attention_mask": mask, "pad_token_id": pad, **limit}
    around = [before_each_call(model.module, _as_one_text)] if "position_ids" in beside else []
    return within(around, model.module.generate, **arguments)  # type: ignore[arg-type]


def _as_one_text(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Keep the mask of a call: without mask and cache transformers reads positions that leap as several texts in one row."""
    del args
    if kwargs.get("attention_mask") is None and kwargs.get("past_key_values") is None:
        kwargs["attention_mask"] = torch.ones_like(kwargs["input_ids"])


def _pad_id(model: OpenModel) -> int:
    for holder, name in (
        (model.tokenizer, "pad_token_id"),
        (model.config, "pad_token_id"),
        (model.tokenizer, "eos_token_id"),
    ):
        identity = getattr(holder, name, None)
        if isinstance(identity, int) and identity >= 0:
            return identity
    return 0


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

"""Folders of version 0.1.0: the call that the record of each kind of result stands for.

That version kept no call, but the values that its arguments came to, under names of its own. Nothing here is for
results made since.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from patchclamp.core.call import BoundCall, running
from patchclamp.core.errors import InputError
from patchclamp.core.plain import UnsavableError, from_plain, savable_as
from patchclamp.directions import dose, effects, projections
from patchclamp.interventions import UNSAID, Edit, Unsaid
from patchclamp.models.inputs import Prompt
from patchclamp.models.opened import OpenModel
from patchclamp.models.tokens import labels

Arguments = dict[str, Any]
Reader = Callable[[list[Any], Arguments], tuple[str, Arguments]]


def _pick(record: Arguments, *names: str) -> Arguments:
    return {name: record[name] for name in names}


def _as_lists(value: Any) -> Any:
    return [_as_lists(item) for item in value] if isinstance(value, tuple) else value


def _sweep(prompts: list[Any], record: Arguments) -> tuple[str, Arguments]:
    shared = _pick(record, "sites", "at", "base", "read")
    if "at" in (record.get("over") or {}):
        shared["at"] = None  # the axis says it; "all" was written beside it
    if "source" not in record:
        edits = [_moved(record["edit"], edit, record) for edit in record["edit"]]
        return "sweep", {"prompts": prompts, "edit": edits, **shared, **_pick(record, "cumulative", "over")}
    shared |= _source(prompts, record)
    if "receivers" in record:
        senders = {"sender": shared.pop("sites")} | _pick(record, "receivers", "receive_at", "freeze")
        return "path_patch", shared | senders
    return "patch", shared


def _source(prompts: list[Any], record: Arguments) -> Arguments:
    (edit,) = record["edit"]
    source = edit.operation.source
    return {"source": source.inputs, "source_edits": source.edits, "into": prompts, "align": record["align"]}


def _moved(edits: Sequence[Edit], edit: Edit, record: Arguments) -> Edit:
    """An edit of a sweep: those that all named another place than the sweep were moved, and that place was written down."""
    if record["at"] is not None and not any(isinstance(e.at, Unsaid) or e.at == record["at"] for e in edits):
        edit = edit.on(at=UNSAID)
    named = record["sites"] is not None
    if named and not any(e.sites in ((), record["sites"]) or isinstance(e.site, Unsaid) for e in edits):
        edit = replace(edit, site=None)
    return edit


def _attribution(prompts: list[Any], record: Arguments) -> tuple[str, Arguments]:
    names = ("sites", "at", "base", "read", "integrate", "check")
    return "attribution_patch", _source(prompts, record) | _pick(record, *names)


def _generation(prompts: list[Any], record: Arguments) -> tuple[str, Arguments]:
    settings = {name: _as_lists(value) for name, value in record["settings"].items()}
    return "generate", {"prompts": prompts, **_pick(record, "edits", "max_new_tokens", "seed"), **settings}


def _traced(prompts: list[Any], record: Arguments) -> Arguments:
    return {
        **_pick(record, "answer", "samples", "noise", "seed", "integrate"),
        "prompt": prompts,
        "std": record["std_given"],
        "subject": list(record["subject"]),
        "read": record["read"] if record["answer"] is None else None,
    }


def _trace(prompts: list[Any], record: Arguments) -> tuple[str, Arguments]:
    return "causal_trace", _traced(prompts, record) | _pick(record, "sites", "window", "method", "check")


def _neurons(prompts: list[Any], record: Arguments) -> tuple[str, Arguments]:
    return "neuron_importances", _traced(prompts, record) | _pick(record, "top", "verify")


def _trace_average(prompts: list[Any], record: Arguments) -> tuple[str, Arguments]:
    facts = [([p], list(s), a) for p, s, a in zip(prompts, record["subject"], record["answer"], strict=True)]
    names = ("sites", "window", "samples", "noise", "std", "seed", "read", "method", "integrate", "check")
    return "trace_facts", {"facts": facts, **_pick(record, *names)}


def _heads(prompts: list[Any], record: Arguments) -> tuple[str, Arguments]:
    text = None if record["word"] is None else prompts[0]
    return "head_scores", {"text": text, **_pick(record, "word", "length", "samples", "seed", "draws")}


def _rewrite(prompts: list[Any], record: Arguments) -> tuple[str, Arguments]:
    plain = {name: _as_lists(value) for name, value in record.items()}
    return "rewrite_fact", plain | {"prompt": prompts}


def _lens_curves(_: list[Any], record: Arguments) -> tuple[str, Arguments]:
    settings = _pick(record, "at", "length", "targets") | {"tuned": record.get("tuned"), "tokens": None}
    return "lens_curves", {"texts": record["texts"].tolist(), "sites": list(record["sites"]), **settings}


def _lens(prompts: list[Any], record: Arguments) -> tuple[str, Arguments]:
    settings = _pick(record, "sites", "at", "k", "targets") | {"tuned": record.get("tuned")}
    return "lens", {"prompts": prompts, **settings}


def _edits(record: Arguments) -> dict[str, list[Edit]]:
    return {name: list(edits) for name, edits in record["edits"].items()}


def _in_pairs(prompts: list[Any]) -> list[tuple[Any, Any]]:
    return list(zip(prompts[::2], prompts[1::2], strict=True))


def _bias(prompts: list[Any], record: Arguments) -> tuple[str, Arguments]:
    rows = _in_pairs(prompts) if record["labels"] is None else prompts
    return "bias", {"prompts": rows, "edits": _edits(record), **_pick(record, "answers", "labels")}


def _damage(prompts: list[Any], record: Arguments) -> tuple[str, Arguments]:
    return "damage", {"texts": prompts, "edits": _edits(record)}


def _divergence(prompts: list[Any], record: Arguments) -> tuple[str, Arguments]:
    on = record["topics"].count("on")
    topics = {"on_topic": prompts[:on], "off_topic": prompts[on:]}
    return "divergence", {"edits": _edits(record), **topics, **_pick(record, "max_new_tokens")}


def _interchange(prompts: list[Any], record: Arguments) -> tuple[str, Arguments]:
    return "interchange", {"pairs": _in_pairs(prompts), **record}


class _Lost:
    """Directions, of which that version kept the edits only."""


def _refuse(*_: Any) -> None:
    raise UnsavableError("it was repeated from a folder of version 0.1.0, which holds no directions", None)


savable_as("$lost", _Lost, _refuse, _refuse)


def _layer_effects(model: OpenModel, prompts: list[Any], record: Arguments) -> Any:
    edits = {effects.LayerEdit(*name.rsplit("|", 2)): edit for name, edit in _edits(record).items()}
    shared = {"pairs": _in_pairs(prompts), **_pick(record, "answers", "texts")}
    with running(BoundCall("layer_effects", {"directions": _Lost(), **shared})):
        return effects.measure_layer_edits(model, edits, **shared)


def _dose_response(model: OpenModel, prompts: list[Any], record: Arguments) -> Any:
    split = {name.rpartition("|")[::2]: edit for name, edit in _edits(record).items()}
    edits = {(method, float(amount)): edit for (method, amount), edit in split.items()}
    shared = {"prompts": prompts, **_pick(record, "answers", "texts")}
    with running(BoundCall("dose_response", {"directions": _Lost(), **shared})):
        return dose.measure_doses(model, edits, **shared)


def _projections(model: OpenModel, prompts: list[Any], record: Arguments) -> Any:
    shared = {"prompts": prompts, **_pick(record, "labels", "at", "edits")}
    with running(BoundCall("projections", {"direction": _Lost(), **shared})):
        return projections.project(model, record["reads"], record["site"], **shared)


def _scaling(prompts: list[Any], record: Arguments) -> tuple[str, Arguments]:
    return "scaling", record | {"inputs": prompts if record["inputs"] is None else record["inputs"]}


def _same(name: str, prompts_as: str = "", *names: str) -> Reader:
    """A kind whose record has the names of the arguments."""

    def read(prompts: list[Any], record: Arguments) -> tuple[str, Arguments]:
        passed = {prompts_as: prompts} if prompts_as else {}
        return name, passed | (_pick(record, *names) if names else record)

    return read


_READERS: dict[str, Reader] = {
    "grid": _sweep,
    "run": _same("run", "prompts", "edits", "record", "at", "logits"),
    "generation": _generation,
    "activations": _same("record", "prompts", "sites", "at", "edits"),
    "lens": _lens,
    "lens_curves": _lens_curves,
    "contributions": _same("contributions", "prompt", "tokens", "at", "heads"),
    "patchscope": _same("patchscope", "prompts"),
    "weight_lens": _same("weight_lens"),
    "attribution": _attribution,
    "trace": _trace,
    "trace_average": _trace_average,
    "neurons": _neurons,
    "spline_codes": _same("spline_codes", "inputs", "sites", "at", "labels"),
    "heads": _heads,
    "rewrite": _rewrite,
    "bias": _bias,
    "damage": _damage,
    "divergence": _divergence,
    "interchange": _interchange,
    "segment": _same("segment"),
    "plane": _same("plane"),
    "raster": _same("raster"),
    "boundaries": _same("boundaries"),
    "radial_density": _same("radial_density"),
    "scaling": _scaling,
    "paths": _same("adversarial_paths"),
}
_WITHOUT_DIRECTIONS = {"layer_effects": _layer_effects, "dose_response": _dose_response, "projections": _projections}


def recall(
    kind: str,
    record: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    table: Mapping[str, Callable[..., Any]],
    model: Any,
) -> Callable[[], Any]:
    """The call that made a result; see :func:`patchclamp.core.call.recall`.

    Raises:
        InputError: The record does not say enough.
    """
    prompts = [_prompt(model, row, tensors) for row in record["prompts"] if "ids" in row]
    if len(prompts) != len(record["prompts"]):
        raise InputError("it holds inputs without tokens, which are recorded by their digest only")
    plain = dict(record["parameters"])
    if isinstance(plain.get("tuned"), dict):
        plain["tuned"] = {"$type": "TunedLens", **plain["tuned"]}
    parameters = from_plain(plain, tensors, model)
    if kind in _WITHOUT_DIRECTIONS:
        return partial(_WITHOUT_DIRECTIONS[kind], model, prompts, parameters)
    try:
        name, arguments = _READERS[kind](prompts, parameters)
    except KeyError as error:
        raise InputError(f"its record lacks {error}") from error
    return partial(table[name], model, **arguments)


def _prompt(model: OpenModel, row: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    """A recorded prompt, as it was passed."""
    if "beside" not in row:
        return row["ids"] if row.get("text") is None else row["text"]
    extras = from_plain(row["beside"], tensors)
    ids = tuple(row["ids"])
    return Prompt(ids, row.get("text"), labels(model.tokenizer, ids), extras)

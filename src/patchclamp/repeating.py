"""A saved result, made again from its folder alone."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from patchclamp import metrics
from patchclamp.core.arguments import checked
from patchclamp.core.errors import InputError, unknown
from patchclamp.core.files import read_json, reading
from patchclamp.core.kinds import Folder
from patchclamp.core.result import Result
from patchclamp.core.result import open as open_result
from patchclamp.core.text import for_terminal
from patchclamp.directions import dose, effects, projections
from patchclamp.interventions import UNSAID, Edit, Unsaid, from_plain
from patchclamp.lenses.tuned import TunedLens
from patchclamp.model import Model, load
from patchclamp.models.inputs import Prompt
from patchclamp.models.tokens import labels

_RECORDED = ("dtype", "revision", "attn_implementation")


@checked
def repeat(folder: Folder, model: Model | None = None) -> Result:
    """Run again what a folder holds, with the model, prompts and parameters that it records.

    Args:
        folder: What ``Result.save`` wrote.
        model: The model to use; without it the recorded one is opened by name.

    Raises:
        InputError: The folder does not say enough: a live model without a name, or an edit that could not be saved.
    """
    saved = open_result(folder)
    file, advice = Path(folder) / "result.json", "a record that says other things cannot be repeated"
    record = read_json(file)
    with reading(file, advice):
        said, described, rows = record["parameters"], record["model"], list(record["prompts"])
        if "not_repeatable" in said:
            raise InputError(f"{str(folder)!r} cannot be repeated from its folder: {said['not_repeatable']}")
    opened = model or _open(described, folder)
    with reading(file, advice):
        prompts = [_prompt(opened, row, saved.tensors) for row in rows if "ids" in row]
        if len(prompts) != len(rows):
            raise InputError(f"{str(folder)!r} holds inputs without tokens, which are recorded by their digest only")
        plain, make = from_plain(said, saved.tensors), _MAKERS[saved.kind]
    try:
        return make(opened, prompts, plain)
    except KeyError as error:
        raise InputError(f"{str(folder)!r} does not record {error}, so it cannot be repeated") from error


def _prompt(model: Model, row: dict[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    """A recorded prompt, as it was given."""
    if "beside" not in row:
        return row["ids"] if row.get("text") is None else row["text"]
    extras = from_plain(row["beside"], tensors)
    ids = tuple(row["ids"])
    return Prompt(ids, row.get("text"), labels(model.tokenizer, ids), extras)


def _open(described: dict[str, Any], folder: Folder) -> Model:
    if described["name"] is None:
        raise InputError(
            f"{str(folder)!r} was made with a live model that has no name; pass it: pc.repeat(folder, model)"
        )
    name, options = described["name"], _options(described["options"], folder)
    sys.stderr.write(f"patchclamp: {for_terminal(announcement(folder, name))}\n")
    opened = load(name, **options)
    if described["weights_sha256"] not in (None, opened.weights_digest()):
        raise InputError(
            f"the weights of {described['name']!r} are no longer those of {str(folder)!r}; pass the model you mean"
        )
    return opened


def announcement(folder: str | Path, name: str, what: str | None = None) -> str:
    """What a folder is about to have opened: it may come from somebody else, so it is said first."""
    from patchclamp import catalogue

    if what is None:
        local = "a local folder" if Path(name).exists() else "a model of the Hugging Face hub"
        what = "a model of the catalogue" if catalogue.is_model(name) else local
    return f"{str(folder)!r} was made with {name!r}, {what}, which is opened now"


def _options(recorded: Any, folder: str | Path) -> dict[str, Any]:
    """How a model was opened. Only what :func:`patchclamp.load` records is passed on to it.

    Raises:
        InputError: The record holds something else.
    """
    if not isinstance(recorded, dict):
        raise InputError(f"{str(folder)!r} records no options of its model, but {recorded!r}")
    for name, value in recorded.items():
        if name not in _RECORDED:
            raise InputError(f"{str(folder)!r}: {unknown('recorded option of a model', name, _RECORDED)}")
        if not isinstance(value, str):
            raise InputError(f"{str(folder)!r} records {name}={value!r} of its model, which is no text")
    return recorded


def _sweep(model: Model, prompts: Any, said: dict[str, Any]) -> Result:
    options = {"sites": said["sites"], "at": said["at"], "base": said["base"], "read": said["read"]}
    if "at" in (said.get("over") or {}):
        options["at"] = None  # the axis says it; version 0.1.0 wrote "all" beside it
    if "source" in said:
        (edit,) = said["edit"]
        source = edit.operation.source
        if "receivers" in said:
            options |= {"sender": options.pop("sites")} | {n: said[n] for n in ("receivers", "receive_at", "freeze")}
            return model.path_patch(source.inputs, prompts, align=said["align"], source_edits=source.edits, **options)
        return model.patch(source.inputs, prompts, align=said["align"], source_edits=source.edits, **options)
    edits = [_moved(said["edit"], edit, said) for edit in said["edit"]]
    return model.sweep(prompts, edits, cumulative=said["cumulative"], over=said["over"], **options)


def _moved(edits: Sequence[Edit], edit: Edit, said: dict[str, Any]) -> Edit:
    """An edit of a sweep; version 0.1.0 moved edits that all said another place than the sweep, and wrote that place down."""
    if said["at"] is not None and not any(isinstance(e.at, Unsaid) or e.at == said["at"] for e in edits):
        edit = edit.on(at=UNSAID)
    if said["sites"] is not None and not any(
        e.sites in ((), said["sites"]) or isinstance(e.site, Unsaid) for e in edits
    ):
        edit = replace(edit, site=None)
    return edit


def _run(model: Model, prompts: Any, said: dict[str, Any]) -> Result:
    return model.run(prompts, said["edits"], record=said["record"], at=said["at"], logits=said["logits"])


def _generation(model: Model, prompts: Any, said: dict[str, Any]) -> Result:
    lists = {name: list(value) if isinstance(value, tuple) else value for name, value in said["settings"].items()}
    return model.generate(prompts, said["edits"], max_new_tokens=said["max_new_tokens"], seed=said["seed"], **lists)


def _recording(model: Model, prompts: Any, said: dict[str, Any]) -> Result:
    return model.record(prompts, said["sites"], said["at"], edits=said["edits"])


def _lens(model: Model, prompts: Any, said: dict[str, Any]) -> Result:
    tuned = _tuned(model, said["tuned"]) if "tuned" in said else None
    return model.lens(prompts, said["sites"], said["at"], k=said["k"], targets=said["targets"], tuned=tuned)


def _tuned(model: Model, said: dict[str, Any]) -> TunedLens:
    found = TunedLens.from_pretrained(said["folder"], model, revision=said.get("revision"), force=said["forced"])
    if found.digest() != said["digest"]:
        raise InputError(f"the tuned lens in {said['folder']!r} is no longer the one that the result was made with")
    return found


def _contributions(model: Model, prompts: Any, said: dict[str, Any]) -> Result:
    return model.contributions(prompts, said["tokens"], said["at"], heads=said["heads"])


def _lens_curves(model: Model, _: Any, said: dict[str, Any]) -> Result:
    own = {name: said[name] for name in ("at", "length", "targets")}
    tuned = _tuned(model, said["tuned"]) if "tuned" in said else None
    return model.lens_curves(said["texts"].tolist(), list(said["sites"]), tokens=None, tuned=tuned, **own)


def _patchscope(model: Model, prompts: Any, said: dict[str, Any]) -> Result:
    return model.patchscope(prompts, **said)


def _weight_lens(model: Model, _: Any, said: dict[str, Any]) -> Result:
    return model.weight_lens(**said)


def _attribution(model: Model, prompts: Any, said: dict[str, Any]) -> Result:
    (edit,) = said["edit"]
    source = edit.operation.source
    options = {name: said[name] for name in ("sites", "at", "base", "read", "align", "integrate", "check")}
    return model.attribution_patch(source.inputs, prompts, source_edits=source.edits, **options)


def _traced(said: dict[str, Any]) -> dict[str, Any]:
    """What every trace is made again from."""
    found = {name: said[name] for name in ("answer", "samples", "noise", "seed", "integrate")}
    return found | {
        "std": said["std_given"],
        "subject": list(said["subject"]),
        "read": said["read"] if said["answer"] is None else None,
    }


def _trace(model: Model, prompts: Any, said: dict[str, Any]) -> Result:
    own = {name: said[name] for name in ("sites", "window", "method", "check")}
    return model.causal_trace(prompts, **_traced(said), **own)


def _trace_average(model: Model, prompts: Any, said: dict[str, Any]) -> Result:
    facts = [([p], list(s), a) for p, s, a in zip(prompts, said["subject"], said["answer"], strict=True)]
    names = ("sites", "window", "samples", "noise", "std", "seed", "read", "method", "integrate", "check")
    return model.trace_facts(facts, **{name: said[name] for name in names})


def _rewrite(model: Model, prompts: Any, said: dict[str, Any]) -> Result:
    given = {name: value for name, value in said.items() if name not in ("target", "subject")}
    given["prefixes"] = given["prefixes"] if isinstance(given["prefixes"], int) else list(given["prefixes"])
    subject = said["subject"] if isinstance(said["subject"], str) else list(said["subject"])
    return model.rewrite_fact(prompts, subject, said["target"], **given)


def _neurons(model: Model, prompts: Any, said: dict[str, Any]) -> Result:
    return model.neuron_importances(prompts, **_traced(said), top=said["top"], verify=said["verify"])


def _heads(model: Model, prompts: Any, said: dict[str, Any]) -> Result:
    text = None if said["word"] is None else prompts[0]
    return model.head_scores(text, **{name: said[name] for name in ("word", "length", "samples", "seed", "draws")})


def _edits(said: dict[str, Any]) -> dict[str, list[Edit]]:
    return {name: list(edits) for name, edits in said["edits"].items()}


def _bias(model: Model, prompts: Any, said: dict[str, Any]) -> Result:
    labels = said["labels"]
    given = prompts if labels is not None else list(zip(prompts[::2], prompts[1::2], strict=True))
    return metrics.bias(model, given, said["answers"], _edits(said), labels=labels)


def _damage(model: Model, prompts: Any, said: dict[str, Any]) -> Result:
    return metrics.damage(model, _edits(said), prompts)


def _divergence(model: Model, prompts: Any, said: dict[str, Any]) -> Result:
    on = said["topics"].count("on")
    return metrics.divergence(model, _edits(said), prompts[:on], prompts[on:], max_new_tokens=said["max_new_tokens"])


def _interchange(model: Model, prompts: Any, said: dict[str, Any]) -> Result:
    pairs = list(zip(prompts[::2], prompts[1::2], strict=True))
    return metrics.interchange(model, pairs, **said)


def _layer_effects(model: Model, prompts: Any, said: dict[str, Any]) -> Result:
    pairs = list(zip(prompts[::2], prompts[1::2], strict=True))
    return effects.measured(model, _edits(said), pairs, said["answers"], said["texts"])


def _dose_response(model: Model, prompts: Any, said: dict[str, Any]) -> Result:
    return dose.dosed(model, _edits(said), prompts, said["answers"], said["texts"])


def _projections(model: Model, prompts: Any, said: dict[str, Any]) -> Result:
    return projections.projected(model, said["reads"], said["site"], prompts, said["labels"], said["at"], said["edits"])


def _segment(model: Model, prompts: Any, said: dict[str, Any]) -> Result:
    del prompts  # its points are among the parameters
    return model.segment(said.pop("a"), said.pop("b"), **said)


def _spline_codes(model: Model, prompts: Any, said: dict[str, Any]) -> Result:
    return model.spline_codes(prompts, said["sites"], said["at"], labels=said["labels"])


def _plane(model: Model, _: Any, said: dict[str, Any]) -> Result:
    return model.plane(**said)


def _raster(model: Model, _: Any, said: dict[str, Any]) -> Result:
    return model.raster(**said)


def _boundaries(model: Model, _: Any, said: dict[str, Any]) -> Result:
    return model.boundaries(**said)


def _radial_density(model: Model, _: Any, said: dict[str, Any]) -> Result:
    return model.radial_density(**said)


def _scaling(model: Model, prompts: Any, said: dict[str, Any]) -> Result:
    inputs = said.pop("inputs")
    return model.scaling(prompts if inputs is None else inputs, **said)


def _paths(model: Model, _: Any, said: dict[str, Any]) -> Result:
    return model.adversarial_paths(**said)


_MAKERS = {
    "grid": _sweep,
    "run": _run,
    "generation": _generation,
    "activations": _recording,
    "lens": _lens,
    "lens_curves": _lens_curves,
    "contributions": _contributions,
    "patchscope": _patchscope,
    "weight_lens": _weight_lens,
    "attribution": _attribution,
    "trace": _trace,
    "trace_average": _trace_average,
    "neurons": _neurons,
    "spline_codes": _spline_codes,
    "heads": _heads,
    "rewrite": _rewrite,
    "layer_effects": _layer_effects,
    "dose_response": _dose_response,
    "projections": _projections,
    "bias": _bias,
    "damage": _damage,
    "divergence": _divergence,
    "interchange": _interchange,
    "segment": _segment,
    "plane": _plane,
    "raster": _raster,
    "boundaries": _boundaries,
    "radial_density": _radial_density,
    "scaling": _scaling,
    "paths": _paths,
}

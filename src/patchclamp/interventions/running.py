"""One run: prompts, edits, and what the model said.

``Model.run`` and ``Model.top`` come here.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
from torch import Tensor
from typing_extensions import override

from patchclamp.core.arguments import checked
from patchclamp.core.call import recorded
from patchclamp.core.errors import InputError
from patchclamp.core.interrupts import guarded, within
from patchclamp.core.result import Result, Saved
from patchclamp.interventions.edit import Edits, as_edits
from patchclamp.interventions.passes import Row, edits_head, forward, gradients
from patchclamp.interventions.positions import At
from patchclamp.interventions.recorded import Buffers, padded
from patchclamp.interventions.recording import BATCH_TOKENS, batches, may_share, place
from patchclamp.interventions.result_record import provenance
from patchclamp.interventions.results import Activations, to_numpy
from patchclamp.interventions.sweep_task import widen
from patchclamp.models.opened import OpenModel
from patchclamp.models.peers import Sites

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

Keep = Literal["all", "last"]


@dataclass(eq=False)
class Run(Result):
    """What an edited forward pass gave."""

    kind: ClassVar[str] = "run"
    logits: Tensor
    """``[prompt, position, vocabulary]``, NaN beyond a shorter prompt's end; ``[prompt, vocabulary]`` for ``logits="last"``
    and for models whose output has no positions."""
    lengths: tuple[int, ...]
    fired: tuple[int, ...]
    """For each edit, how many vectors it changed."""
    prompts: tuple[str, ...]
    tokens: tuple[tuple[str, ...], ...]
    activations: Activations | None
    names: dict[int, str] = field(default_factory=dict)
    """Text of the likely outputs, for tables."""
    record: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def __repr__(self) -> str:
        recorded = "" if self.activations is None else f"; {self.activations!r}"
        return f"Run of {len(self.prompts)} prompts: logits {tuple(self.logits.shape)}, fired {self.fired}{recorded}"

    def last_logits(self) -> Tensor:
        """Logits of the next token after each prompt, ``[prompt, vocabulary]``."""
        if self.logits.ndim == 2:
            return self.logits
        return torch.stack([row[n - 1] for row, n in zip(self.logits, self.lengths, strict=True)])

    def top(self, k: int = 10) -> "pd.DataFrame":
        """The ``k`` likeliest next tokens of each prompt, with their probabilities."""
        import pandas as pd

        if not 1 <= k <= self.logits.shape[-1]:
            raise InputError(f"k={k} is outside 1..{self.logits.shape[-1]}")
        best = widen(self.last_logits().detach()).softmax(-1).topk(k)
        rows = [
            {"prompt": prompt, "rank": rank, "token": self._name(int(i)), "id": int(i), "probability": float(p)}
            for prompt, ids, values in zip(self.prompts, best.indices, best.values, strict=True)
            for rank, (i, p) in enumerate(zip(ids, values, strict=True))
        ]
        return pd.DataFrame(rows)

    def _name(self, identity: int) -> str:
        return self.names.get(identity, str(identity))

    @property
    def data(self) -> "xr.DataArray":
        """The logits after each prompt, labelled."""
        return self._dataset()["logits"]

    def frame(self) -> "pd.DataFrame":
        """The likeliest outputs, as :meth:`top`."""
        return self.top(min(20, self.logits.shape[-1]))

    def _dataset(self) -> "xr.Dataset":
        import numpy as np
        import xarray as xr

        dims = ("prompt", "position", "output") if self.logits.ndim == 3 else ("prompt", "output")
        coords = {"prompt": np.array(self.prompts, dtype=object)}
        attrs = {
            "lengths": list(self.lengths), "fired": list(self.fired), "tokens": [list(t) for t in self.tokens],
            "names": [[i, name] for i, name in self.names.items()], "dtype": str(self.logits.dtype).removeprefix("torch."),
        }  # fmt: skip
        return xr.Dataset({"logits": (dims, to_numpy(self.logits))}, coords=coords, attrs=attrs)

    @override
    def _parts(self) -> dict[str, Result]:
        return {} if self.activations is None else {"activations": self.activations}

    @classmethod
    @override
    def _from_saved(cls, saved: Saved) -> Self:
        attrs = saved.dataset.attrs
        activations = saved.parts.get("activations")
        assert activations is None or isinstance(activations, Activations)
        return cls(
            torch.from_numpy(saved.dataset["logits"].values).to(getattr(torch, attrs["dtype"])),
            tuple(attrs["lengths"]),
            tuple(attrs["fired"]),
            tuple(str(name) for name in saved.dataset["prompt"].values),
            tuple(tuple(t) for t in attrs["tokens"]),
            activations,
            {int(i): name for i, name in attrs["names"]},
            saved.record,
            saved.tensors,
        )


@recorded
def run(
    model: OpenModel,
    prompts: Any,
    edits: Edits = (),
    *,
    record: Sites = (),
    at: At = "all",
    logits: Keep = "all",
    grad: bool = False,
    batch_tokens: int = BATCH_TOKENS,
) -> Run:
    """Run prompts under edits, all in one forward pass (or a few, if there are many prompts).

    Args:
        model: The model.
        prompts: Text, lists of text, ids, tensors or a BatchEncoding. Beside ``input_ids`` a mapping may hold what the model's
            forward takes with one entry a token (``position_ids``, ``token_type_ids``, ...) and the pictures or sounds of the
            prompt as a processor gives them (``pixel_values``, ...); all else is refused by name.
        edits: Placed edits; at one site they act in list order.
        record: Sites to keep, in ``run.activations``.
        at: Positions to keep of them.
        logits: ``"all"`` keeps the logits of every position, ``"last"`` those of the last one only, which is cheaper.
        grad: Keep the autograd graph, through the edits too, to every tensor of theirs that requires gradients.
        batch_tokens: Padded tokens a forward pass: the memory knob.

    Raises:
        InputError: A site, position or vector does not fit; raised before the run.
        PositionError: A position is outside a prompt, or the model gives one output for a whole prompt.
        ModelError: The model gives NaN or infinity; names the first site where one arises.
        EditError: It does so under the edits.
        NotFiredError: An edit never met its site.
    """
    return within((gradients(grad),), _run, model, prompts, edits, record, at, logits, grad, batch_tokens)


def _run(
    model: OpenModel,
    inputs: Any,
    edits: Edits,
    record: Sites,
    at: At,
    logits: Keep,
    grad: bool,
    batch_tokens: int,
) -> Run:
    edit_list = list(as_edits(edits))
    prompts = model.prompts(inputs)
    names = [record] if isinstance(record, str) else list(record)
    sites_by_name = {str(name): model.sites.expand([name]) for name in names}
    from patchclamp.interventions import positions

    at = positions.read_at(at)
    where = [positions.resolve(at, p, i, len(prompts), model.tokenizer, repeats=True) for i, p in enumerate(prompts)]
    actions = place(model, edit_list, prompts, grad=grad)
    buffers = Buffers(sites_by_name, where, [p.length for p in prompts], grad)
    pieces: dict[int, Tensor] = {}
    fired = [0] * len(edit_list)
    narrow = logits == "last" and model.capabilities.narrows and not edits_head(actions)
    for members in batches(prompts, batch_tokens, *may_share(model)):
        rows = [Row(prompts[i], actions[i]) for i in members]
        keep = torch.tensor([[len(prompts[i].ids) - 1] for i in members], device=model.device) if narrow else None
        result_of_batch = forward(model, rows, taps=buffers.sinks(members), keep=keep, grad=grad)
        assert result_of_batch.logits is not None
        for place_in_batch, member in enumerate(members):
            pieces[member] = _of_prompt(
                result_of_batch.logits[place_in_batch], len(prompts[member].ids), logits, narrow
            )
        fired = [n + result_of_batch.tally.fired(i) for i, n in enumerate(fired)]
    stacked = _stacked([pieces[i] for i in range(len(prompts))])
    source = provenance(model, prompts, edits=edit_list, record=names, at=at)
    activations = (
        Activations.build(model, prompts, sites_by_name, buffers.finish(), where, {}, {}) if sites_by_name else None
    )
    lengths = tuple(p.length or _positions(pieces[i]) for i, p in enumerate(prompts))
    result = Run(
        stacked,
        lengths,
        tuple(fired),
        tuple(p.name for p in prompts),
        tuple(p.tokens for p in prompts),
        activations,
        {},
        *source,
    )
    result.names = _likely_names(model, result)
    return result


def _stacked(pieces: list[Tensor]) -> Tensor:
    """One tensor of all prompts' logits; a single prompt's are not copied, which would cost as much as some layers."""
    if len(pieces) == 1:
        return pieces[0].unsqueeze(0)
    return torch.stack(padded(pieces, "logits"))


def _positions(logits: Tensor) -> int:
    """Positions of an output ``[position, output]``; 0 where it has none."""
    return len(logits) if logits.ndim == 2 else 0


def _of_prompt(logits: Tensor, length: int, keep: Keep, narrowed: bool) -> Tensor:
    if not length:
        return logits[-1] if keep == "last" and logits.ndim == 2 else logits
    if logits.ndim == 1:
        return logits
    if narrowed:
        return logits[0]
    return logits[length - 1] if keep == "last" else logits[:length]


def _likely_names(model: OpenModel, result: Run) -> dict[int, str]:
    """Text of every output that a table might show."""
    with guarded(torch.no_grad()):
        ids = result.last_logits().detach().topk(min(100, result.logits.shape[-1])).indices.flatten().unique().tolist()
    return {int(i): model.output_label(int(i)) for i in ids}


@checked
def top(model: OpenModel, prompt: Any, k: int = 10) -> "pd.DataFrame":
    """The ``k`` likeliest next tokens of each prompt, with their probabilities."""
    return run(model, prompt, logits="last").top(k)

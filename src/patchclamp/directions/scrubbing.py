"""Sequential scrubbing: each layer's direction is fitted on what the layers edited before it give."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from patchclamp.core.arguments import checked
from patchclamp.core.errors import InputError
from patchclamp.core.kinds import Labels
from patchclamp.core.progress import Listener, task
from patchclamp.directions.base import DirectionEstimator
from patchclamp.directions.concept import Concept
from patchclamp.directions.direction import SINK, Direction
from patchclamp.directions.methods import method_of
from patchclamp.interventions import positions
from patchclamp.interventions.edits import Edit
from patchclamp.interventions.forward import Row, forward
from patchclamp.interventions.positions import At
from patchclamp.interventions.record import BATCH_TOKENS, batches
from patchclamp.interventions.tail import resume
from patchclamp.models.inputs import Prompt
from patchclamp.models.opened import OpenModel
from patchclamp.models.sites import Site

if TYPE_CHECKING:
    from patchclamp.directions.base import DirectionEstimator


@dataclass(eq=False)
class Stream:
    """One batch of prompts on its way through the layers."""

    members: list[int]
    prompts: list[Prompt]
    where: list[tuple[int, ...]]
    """Positions of each prompt that count as rows and are edited."""
    states: Tensor | None = None
    """``[row, position, d]`` after the last layer done."""

    def advance(self, model: OpenModel, layer: int) -> None:
        """Run one more layer: the model's own code, with the layers before it standing aside."""
        site = Site("resid_post", layer)
        seen: list[Tensor] = []
        if self.states is None:
            forward(model, [Row(prompt) for prompt in self.prompts], taps={site: seen.append}, logits=False)
        else:
            resume(model, self.prompts, layer, self.states, {site: seen.append})
        self.states = seen[0].clone()

    def rows(self) -> Tensor:
        """``[row, d]`` at the positions, prompt by prompt."""
        assert self.states is not None
        return torch.cat([self.states[i, list(where)] for i, where in enumerate(self.where)])

    def edit(self, edit: Edit) -> None:
        """Carry an edit out on the states."""
        assert self.states is not None
        for i, where in enumerate(self.where):
            old = self.states[i, list(where)]
            new = edit.operation(old)
            self.states[i, list(where)] = (
                new if edit.where is None else torch.where(edit.where(old).unsqueeze(-1), new, old)
            )


@checked
def scrub(
    model: OpenModel,
    method: "DirectionEstimator | str",
    prompts: Any,
    labels: Labels,
    *,
    layers: Sequence[int] | None = None,
    at: At = "rest",
    progress: bool | Listener | None = None,
) -> list[Direction]:
    """Erase a concept at every layer: each layer's direction is fitted with those before it already erased.

    One pass over the prompts, layer by layer; ``[d.erase() for d in model.scrub(...)]`` are the edits.

    Source: Belrose et al. 2023, arXiv 2306.03819, section 6 (concept scrubbing).

    Args:
        model: The model.
        method: An estimator, or its name.
        prompts: As for :meth:`patchclamp.Model.run`.
        labels: One a prompt.
        layers: Which; all by default.
        at: Which tokens are rows, and are edited.
        progress: True for a bar, a function for events.

    Raises:
        InputError: Lengths differ, one class only, or no such layer.
    """
    from sklearn.base import clone

    from patchclamp.directions.base import quietly, warn_once

    estimator = method_of(method)
    rows = model.prompts(prompts)
    if len(rows) != len(labels):
        raise InputError(f"{len(rows)} prompts and {len(labels)} labels were given; there is one a prompt")
    marks = np.asarray(labels)
    Concept.of(marks, estimator.concept)
    count = model.sites.n_layers
    wanted = sorted(range(count) if layers is None else {layer % count for layer in layers})
    if not wanted or any(not -count <= layer < count for layer in layers or ()):
        raise InputError(f"layers are numbers in 0..{count - 1}; got {list(layers or ())}")
    model.sites.expand([f"resid_post.{layer}" for layer in wanted])
    where = [positions.resolve(at, p, i, len(rows), model.tokenizer) for i, p in enumerate(rows)]
    streams = [
        Stream(members, [rows[i] for i in members], [where[i] or () for i in members])
        for members in batches(rows, BATCH_TOKENS, model.causal)
    ]
    found: list[Direction] = []
    with quietly(), task("scrub", len(wanted), "layers", show=progress) as bar:
        for layer in range(wanted[-1] + 1):
            for stream in streams:
                stream.advance(model, layer)
            if layer not in wanted:
                continue
            direction = _fit(clone(estimator), streams, marks)
            direction = direction.at_home(model, f"resid_post.{layer}", at)
            for stream in streams:
                stream.edit(direction.erase(at=at))
            found.append(direction)
            bar.advance()
    warn_once(found)
    return found


def _fit(estimator: Any, streams: Sequence[Stream], labels: Any) -> Direction:
    x = torch.cat([stream.rows() for stream in streams])
    y = np.concatenate(
        [[labels[m]] * len(where) for stream in streams for m, where in zip(stream.members, stream.where, strict=True)]
    )
    lengths = x.double().norm(dim=1)
    keep = lengths <= SINK * lengths.median()
    found: Direction = estimator.fit(x[keep], y[keep.cpu().numpy()]).direction_
    return found

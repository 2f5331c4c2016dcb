"""Sequential erasure: each layer's direction is fitted on what the layers edited before it give."""

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
from patchclamp.directions.concept import Concept
from patchclamp.directions.direction import SINK, Direction
from patchclamp.interventions import BATCH_TOKENS, At, Edit, Row, batches, forward, positions, resume
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
    positions: list[tuple[int, ...]]
    """The positions of each prompt that count as rows and are edited."""
    states: Tensor | None = None
    """The states ``[row, position, d]`` after the last layer that was run."""

    def advance(self, model: OpenModel, layer: int) -> None:
        """Run one more layer: the model's own code, with the layers before it standing aside."""
        site = Site("resid_post", layer)
        values: list[Tensor] = []
        if self.states is None:
            forward(model, [Row(prompt) for prompt in self.prompts], taps={site: values.append}, logits=False)
        else:
            resume(model, self.prompts, layer, self.states, {site: values.append})
        self.states = values[0].clone()

    def rows(self) -> Tensor:
        """The states at the positions, prompt by prompt, ``[row, d]``."""
        assert self.states is not None
        return torch.cat([self.states[i, list(row_positions)] for i, row_positions in enumerate(self.positions)])

    def edit(self, edit: Edit) -> None:
        """Carry an edit out on the states."""
        assert self.states is not None
        for i, row_positions in enumerate(self.positions):
            states = self.states[i, list(row_positions)]
            edited_states = edit.operation(states)
            self.states[i, list(row_positions)] = (
                edited_states
                if edit.where is None
                else torch.where(edit.where(states).unsqueeze(-1), edited_states, states)
            )


@checked
def sequential_erasure(
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

    One pass over the prompts, layer by layer; ``[d.erase() for d in model.sequential_erasure(...)]`` are the edits.

    Source: Belrose et al. 2023, arXiv 2306.03819, section 6 (concept scrubbing).

    Args:
        model: The model.
        method: An estimator, or its name.
        prompts: As for :meth:`patchclamp.Model.run`.
        labels: The label of each prompt.
        layers: The layers; all by default.
        at: The tokens that are rows, and are edited.
        progress: True for a bar, a function for events.

    Raises:
        InputError: Lengths differ, one class only, or no such layer.
    """
    from sklearn.base import clone

    from patchclamp.directions.methods import method_of
    from patchclamp.directions.report import quietly, warn_once

    estimator = method_of(method)
    prompt_list = model.prompts(prompts)
    if len(prompt_list) != len(labels):
        raise InputError(f"{len(prompt_list)} prompts and {len(labels)} labels were given; there is one a prompt")
    label_array = np.asarray(labels)
    Concept.of(label_array, estimator.concept)
    count = model.sites.n_layers
    layer_list = sorted(range(count) if layers is None else {layer % count for layer in layers})
    if not layer_list or any(not -count <= layer < count for layer in layers or ()):
        raise InputError(f"layers are numbers in 0..{count - 1}; got {list(layers or ())}")
    model.sites.expand([f"resid_post.{layer}" for layer in layer_list])
    prompt_positions = [
        positions.resolve(at, p, i, len(prompt_list), model.tokenizer) for i, p in enumerate(prompt_list)
    ]
    streams = [
        Stream(indices, [prompt_list[i] for i in indices], [prompt_positions[i] or () for i in indices])
        for indices in batches(prompt_list, BATCH_TOKENS, model.causal)
    ]
    directions: list[Direction] = []
    with quietly(), task("sequential erasure", len(layer_list), "layers", show=progress) as bar:
        for layer in range(layer_list[-1] + 1):
            for stream in streams:
                stream.advance(model, layer)
            if layer not in layer_list:
                continue
            direction = _fit(clone(estimator), streams, label_array)
            direction = direction.at_home(model, f"resid_post.{layer}", at)
            for stream in streams:
                stream.edit(direction.erase(at=at))
            directions.append(direction)
            bar.advance()
    warn_once(directions)
    return directions


def _fit(estimator: Any, streams: Sequence[Stream], labels: Any) -> Direction:
    x = torch.cat([stream.rows() for stream in streams])
    y = np.concatenate(
        [
            [labels[prompt]] * len(row_positions)
            for stream in streams
            for prompt, row_positions in zip(stream.members, stream.positions, strict=True)
        ]
    )
    lengths = x.double().norm(dim=1)
    keep = lengths <= SINK * lengths.median()
    direction: Direction = estimator.fit(x[keep], y[keep.cpu().numpy()]).direction_
    return direction

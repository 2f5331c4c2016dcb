"""Direct logit attribution: what every component adds to a logit (Elhage et al. 2021)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from patchclamp.core.call import recorded
from patchclamp.core.errors import InputError, ModelError
from patchclamp.core.interrupts import guarded
from patchclamp.core.result import DatasetResult
from patchclamp.core.tolerances import SUM
from patchclamp.interventions import At, Row, Tokens, forward, positions, provenance
from patchclamp.lenses.frozen import Frozen
from patchclamp.lenses.logit import LogitLens
from patchclamp.models.inputs import Prompt
from patchclamp.models.opened import OpenModel
from patchclamp.models.sites import Site
from patchclamp.models.weights import weight

if TYPE_CHECKING:
    import xarray as xr


@dataclass(eq=False)
class Contributions(DatasetResult):
    """What each component adds to the logit of each token.

    ``data`` is a DataArray with dims ``position, component, answer``; its components are ``embed`` (what enters layer 0),
    ``attn_out.0``, ``mlp_out.0``, ..., and ``bias`` (of the final norm and the unembedding). With ``heads`` attention is
    ``attn_out.0.h0``, ... and ``attn_out.0.bias``. Summed over ``component`` they are ``logit``.
    """

    kind: ClassVar[str] = "contributions"

    @property
    def data(self) -> "xr.DataArray":  # type: ignore[override]  # the logits are kept beside it, not shown as data
        """The contributions, in units of the logits."""
        return self.dataset["contribution"]

    @property
    def logit(self) -> "xr.DataArray":
        """The logits that the contributions sum to, ``[position, answer]``; before the cap where the model caps them."""
        return self.dataset["logit"]

    def difference(self, token: str | int, other: str | int) -> "xr.DataArray":
        """Contributions to the logit of one of the tokens minus that of another, ``[position, component]``.

        Raises:
            InputError: They are not both among the tokens asked for.
        """
        labels = [str(name) for name in self.data["answer"].values]
        missing = [name for name in (str(token), str(other)) if name not in labels]
        if missing:
            raise InputError(f"{missing[0]!r} is not among the tokens asked for: {labels}")
        difference: xr.DataArray = self.data.sel(answer=str(token), drop=True) - self.data.sel(
            answer=str(other), drop=True
        )
        return difference

    def __repr__(self) -> str:
        return "Contributions: " + ", ".join(f"{dim} {size}" for dim, size in self.data.sizes.items())


@recorded
def contributions(
    model: OpenModel, prompt: Any, tokens: Tokens, at: At = "last", *, heads: bool = False
) -> Contributions:
    """Direct logit attribution: what each component adds to the logit of each token (Elhage et al. 2021).

    The residual stream is the sum of what the embedding, attention and MLP of each layer add; with the final norm's
    scale frozen at its value, the logit is linear in it, so the parts sum to the logit. Where the model caps its
    logits, they sum to the logit before the cap.

    Args:
        model: The model.
        prompt: One prompt.
        tokens: A token (text or id) or several.
        at: The positions.
        heads: Split attention into heads.

    Raises:
        ModelError: The logit is not such a sum in this model, or it is in half precision.
        InputError: More than one prompt, or a token or position that does not fit.
    """
    lens = LogitLens(model)
    check_linear(model)
    prompts = model.prompts(prompt)
    if len(prompts) != 1:
        raise InputError(f"contributions are those of one prompt; {len(prompts)} were given")
    token_list = [tokens] if isinstance(tokens, str | int) else list(tokens)
    if not token_list:
        raise InputError("contributions need at least one token")
    ids = [model.output_id(token) for token in token_list]
    at = positions.read_at(at)
    prompt_positions = positions.resolve(at, prompts[0], 0, 1, model.tokenizer, repeats=True) or ()
    sites = _sites(model, heads)
    states = _states(model, prompts[0], prompt_positions, sites)
    parts = _components(model, states, heads)
    columns, offset = unembedding(model, ids)
    last = states[Site("resid_post", model.sites.n_layers - 1)]
    scale, capped = head_scale(lens, last)
    names = [*parts, "bias"]
    values = torch.empty(len(prompt_positions), len(names), len(ids), dtype=torch.float64)
    for place, state in enumerate(last):
        frozen = Frozen.of(model.sites.modules[model.sites.access(Site("final_norm")).module], state)
        stacked = torch.stack([part[place] for part in parts.values()])
        values[place, :-1] = scale * (frozen.linear(stacked) @ columns).cpu()
        values[place, -1] = scale * (frozen.bias @ columns + offset).cpu()
    logit = scale * _uncapped_logits(model, last)[:, ids].cpu()
    _check_sum(model, values.sum(1), logit)
    record, tensors = provenance(model, prompts, tokens=token_list, at=at)
    record["capped"] = capped
    return Contributions(_dataset(model, prompts[0], prompt_positions, names, ids, values, logit), record, tensors)


def check_linear(model: OpenModel) -> None:
    """Refuse models whose logits are no sum of what their components add.

    Raises:
        ModelError: The logits of the model are no such sum; the message says why.
    """
    if not SUM.covers(model.dtype):
        raise ModelError(
            f"contributions need a model in float32 or float64, and this one is in {str(model.dtype).removeprefix('torch.')}: "
            "its sum of components is rounded by as much as they add; load it with dtype='float32'"
        )
    if model.sites.family.residual == "post_norm":
        raise ModelError(
            f"this {model.sites.family.name} model normalises the stream itself after each sublayer, so what a component "
            "adds does not reach the final norm as it is, and a logit is no sum of contributions"
        )


def _sites(model: OpenModel, heads: bool) -> list[Site]:
    names = ["attn_out", "mlp_out", *(["z"] if heads else [])]
    sublayer_sites = [Site(name, layer) for layer in range(model.sites.n_layers) for name in names]
    return model.sites.expand([Site("resid_pre", 0), *sublayer_sites, Site("resid_post", model.sites.n_layers - 1)])


def _states(
    model: OpenModel, prompt: Prompt, prompt_positions: Sequence[int], sites: Sequence[Site]
) -> dict[Site, Tensor]:
    """Record activations at some positions, ``[position, d]`` a site."""
    states: dict[Site, Tensor] = {}

    def sink(site: Site) -> Any:
        return lambda value: states.update({site: value[0, list(prompt_positions)]})

    forward(model, [Row(prompt)], taps={site: sink(site) for site in sites}, logits=False)
    return states


def _components(model: OpenModel, states: dict[Site, Tensor], heads: bool) -> dict[str, Tensor]:
    """Split the stream into what every component adds to it, ``[position, d]`` each, in float64."""
    parts = {"embed": states[Site("resid_pre", 0)].double()}
    for layer in range(model.sites.n_layers):
        attention = states[Site("attn_out", layer)].double()
        if heads:
            parts |= _head_parts(model, states[Site("z", layer)].double(), attention, layer)
        else:
            parts[f"attn_out.{layer}"] = attention
        parts[f"mlp_out.{layer}"] = states[Site("mlp_out", layer)].double()
    return parts


def _head_parts(model: OpenModel, z: Tensor, attention: Tensor, layer: int) -> dict[str, Tensor]:
    """Compute what every head adds: its ``z`` times its rows of the output projection (times the family's multiplier)."""
    matrix, bias = head_outputs(model, layer)
    outputs = torch.einsum("phd,hdm->hpm", z.unflatten(-1, matrix.shape[:2]), matrix)
    check_heads(model, outputs.sum(0), attention, layer)
    parts = {f"attn_out.{layer}.h{head}": output for head, output in enumerate(outputs)}
    return parts if bias is None else {**parts, f"attn_out.{layer}.bias": bias.expand_as(attention)}


def head_outputs(model: OpenModel, layer: int) -> tuple[Tensor, Tensor | None]:
    """Each head's part of the output projection ``[head, d_head, d_model]``, and its bias, in float64, multiplier included."""
    access = model.sites.access(Site("z", layer))
    factor = model.sites.access(Site("attn_out", layer)).factor
    matrix = weight(model, f"attn_out.{layer}").detach().double() * factor
    bias = getattr(model.sites.modules[access.module], "bias", None)
    return matrix.unflatten(0, (access.units or 1, -1)), None if bias is None else bias.detach().double() * factor


def check_heads(model: OpenModel, total: Tensor, attention: Tensor, layer: int) -> None:
    """Compare the sum over heads with what attention adds, ``[..., d_model]``.

    Raises:
        ModelError: They differ (by more than the projection's bias).
    """
    bias = head_outputs(model, layer)[1]
    error = ((total if bias is None else total + bias) - attention).abs().max() / attention.abs().max().clamp(min=1e-30)
    if not error <= SUM.of(model.dtype):
        raise ModelError(
            f"the heads of layer {layer} of this {model.sites.family.name} model do not sum to attn_out: something (a norm) "
            "acts on attention's output after its projection, so they add nothing to the stream by themselves"
        )


def unembedding(model: OpenModel, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Columns ``[d, token]`` of the unembedding, and its bias ``[token]``, in float64."""
    bias = getattr(model.module.get_output_embeddings(), "bias", None)  # type: ignore[operator]
    columns = weight(model, "logits").detach()[:, list(ids)].double()
    return columns, torch.zeros_like(columns[0]) if bias is None else bias.detach()[list(ids)].double()


def _uncapped_logits(model: OpenModel, states: Tensor) -> Tensor:
    """Final norm and unembedding alone, ``[position, vocabulary]``: logits before any scale or cap."""
    with guarded(torch.no_grad()):
        normed = model.sites.modules[model.sites.access(Site("final_norm")).module](states.unsqueeze(1))
        logits: Tensor = model.module.get_output_embeddings()(normed)[:, 0]  # type: ignore[operator]
    return logits.double()


def head_scale(lens: LogitLens, states: Tensor) -> tuple[float, bool]:
    """Find the factor that the head puts on the unembedding's product, and whether it caps the logits instead."""
    plain_logits, head_logits = _uncapped_logits(lens.model, states).flatten(), lens.logits(states).double().flatten()
    scale = float((plain_logits @ head_logits) / (plain_logits @ plain_logits))
    if (head_logits - scale * plain_logits).abs().max() <= SUM.of(lens.model.dtype) * head_logits.abs().max():
        exact = abs(scale - 1.0) <= SUM.of(lens.model.dtype)
        return (1.0 if exact else scale), False
    cap = getattr(lens.model.config, "final_logit_softcapping", None)
    if cap:
        return 1.0, True
    raise ModelError(
        f"the head of {type(lens.model.module).__name__} does more than final norm, unembedding and a scale, so a logit "
        "is no sum of contributions"
    )


def _check_sum(model: OpenModel, total: Tensor, logit: Tensor) -> None:
    error = float((total - logit).abs().max() / logit.abs().max().clamp(min=1.0))
    if not error <= 10 * SUM.of(model.dtype):
        raise ModelError(
            f"the contributions miss the logit by {error:.1e} of it: this {model.sites.family.name} model adds something to "
            "the stream that has no site"
        )


def _dataset(
    model: OpenModel,
    prompt: Prompt,
    prompt_positions: Sequence[int],
    names: Sequence[str],
    ids: Sequence[int],
    values: Tensor,
    logit: Tensor,
) -> "xr.Dataset":
    import xarray as xr

    def text(items: Sequence[str]) -> Any:
        return np.array(items, dtype=object)

    layers = [int(name.split(".")[1]) if "." in name else -1 for name in names]
    return xr.Dataset(
        {
            "contribution": (("position", "component", "answer"), values.numpy()),
            "logit": (("position", "answer"), logit.numpy()),
        },
        {
            "position": np.array(prompt_positions),
            "token": ("position", text([prompt.tokens[i] for i in prompt_positions])),
            "component": text(names),
            "layer": ("component", np.array(layers)),
            "answer": text([model.output_label(i) for i in ids]),
        },
    )

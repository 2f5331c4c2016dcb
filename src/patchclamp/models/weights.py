"""Weight matrices by the role they play, always ``[d_in, d_out]`` so that ``y = x @ W``."""

from typing import Any

from torch import Tensor, nn

from patchclamp.core.arguments import checked
from patchclamp.core.errors import SiteError, unknown
from patchclamp.models.opened import OpenModel
from patchclamp.models.sites import Site, SitePattern, Unit

_ROLES = {
    "q": "queries",
    "k": "keys",
    "v": "values",
    "attn_out": "the attention's output projection",
    "mlp_pre": "the MLP's (gate) input projection",
    "mlp_up": "the other input projection of a gated MLP",
    "mlp_out": "the MLP's output projection",
    "embed": "the token embedding",
    "logits": "the unembedding",
}
_INPUT_SITES = {"attn_out": "z", "mlp_out": "mlp_act"}


@checked
def weight(model: OpenModel, role: str) -> Tensor:
    """The weight matrix that makes a site, ``[d_in, d_out]``, as in ``weight("mlp_out.5")``: a view of the model's parameter.

    With a unit it is that head's or neuron's part: ``q.5.h3`` is ``[d_model, d_head]``, ``attn_out.5.h3`` is
    ``[d_head, d_model]``, ``mlp_out.5.n7`` is ``[d_model]``.

    Args:
        model: The model.
        role: A role and a layer; ``embed`` is ``[vocabulary, d_model]`` and ``logits`` ``[d_model, vocabulary]``.

    Raises:
        SiteError: There is no such role, or it is not one matrix in this model (mixtures of experts).
    """
    name = role.split(".")[0]
    if name not in _ROLES:
        raise SiteError(unknown("weight", role, _ROLES))
    if name == "embed":
        table: Any = model.module.get_input_embeddings()  # type: ignore[operator]
        check_bare(table)
        return table.weight  # type: ignore[no-any-return]
    if name == "logits":
        head = model.module.get_output_embeddings()  # type: ignore[operator]
        if head is None:
            raise SiteError(f"{type(model.module).__name__} has no unembedding")
        return oriented(head)
    if name == "mlp_up":
        return _mlp_up(model, role)
    site = Site.parse(role)
    source = Site(_INPUT_SITES.get(name, name), site.layer)
    access = model.sites.access(source)
    matrix = oriented(model.sites.modules[access.module])
    if name in _INPUT_SITES:
        return matrix if site.unit is None else _rows(matrix, site.unit, model.sites.access(source).units)
    columns = matrix if access.columns is None else matrix[:, access.columns]
    return columns if site.unit is None else _rows(columns.T, site.unit, access.units).T


def _mlp_up(model: OpenModel, role: str) -> Tensor:
    path = model.sites.family.weights.get("mlp_up")
    if not path:
        raise SiteError(f"{role}: this {model.sites.family.name} model has no separate up-projection")
    layers = SitePattern.parse(role.replace("mlp_up", "mlp_pre")).layers
    if not layers or len(layers) != 1:
        raise SiteError(f"{role!r} needs one layer, as in 'mlp_up.5'")
    site = model.sites.expand([f"mlp_pre.{layers[0]}"])[0]
    assert site.layer is not None
    return oriented(model.sites.modules[f"{model.sites.layers[site.layer]}.{path}"])


def oriented(module: nn.Module) -> Tensor:
    """A module's weight as ``[d_in, d_out]``, whichever way it is stored; a view."""
    check_bare(module)
    matrix = getattr(module, "weight", None)
    if not isinstance(matrix, Tensor) or matrix.ndim != 2:
        raise SiteError(f"{type(module).__name__} is not one weight matrix")
    return matrix if type(module).__name__ == "Conv1D" else matrix.T


def check_bare(module: nn.Module) -> None:
    """Refuse a module to which an adapter adds, so that the weight it holds is not the weight that acts.

    Raises:
        SiteError: Merge the adapter first.
    """
    if isinstance(getattr(module, "base_layer", None), nn.Module):
        raise SiteError(
            f"{type(module).__name__} is a layer with an adapter, whose own weight is only a part of what it does; merge the "
            "adapter first, as in pc.wrap(model.merge_and_unload())"
        )


def experts(module: nn.Module, width: int | None) -> Tensor | None:
    """The output projections of a mixture of experts in one tensor, ``[expert, d_in, d_out]``; a view.

    None if the module holds none, or both axes are as wide as the residual stream, so that they cannot be told apart.
    """
    matrices = module._parameters.get("down_proj")
    if (
        matrices is None
        or matrices.ndim != 3
        or matrices.shape[1] == matrices.shape[2]
        or width not in matrices.shape[1:]
    ):
        return None
    return matrices if matrices.shape[2] == width else matrices.mT


def stored(module: nn.Module, matrix: Tensor) -> Tensor:
    """A matrix ``[..., d_in, d_out]`` (or a table ``[vocabulary, d]``) as the module stores it: undoes :func:`oriented`."""
    if matrix.ndim == 3:
        return matrix if matrix.shape == module.down_proj.shape else matrix.mT
    return matrix if type(module).__name__ == "Conv1D" or isinstance(module, nn.Embedding) else matrix.mT


def sharing(model: OpenModel, path: str, name: str = "weight") -> list[str]:
    """The paths of other modules that hold the same parameter as the one at ``path``."""
    parameter = model.sites.modules[path]._parameters.get(name)
    return [
        other
        for other, module in model.sites.modules.items()
        if parameter is not None and other != path and module._parameters.get(name) is parameter
    ]


def _rows(matrix: Tensor, unit: Unit, heads: int | None) -> Tensor:
    if unit.kind == "n":
        if not 0 <= unit.index < len(matrix):
            raise SiteError(f"neuron {unit.index} is outside 0..{len(matrix) - 1}")
        return matrix[unit.index]
    if heads is None or not 0 <= unit.index < heads:
        raise SiteError(
            f"head {unit.index} is outside 0..{(heads or 0) - 1}" if heads else "this weight is not divided into heads"
        )
    size = len(matrix) // heads
    return matrix[unit.index * size : (unit.index + 1) * size]

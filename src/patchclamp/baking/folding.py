"""Affine maps folded into weights: collected in float64, rounded once."""

import torch
from torch import Tensor, nn

from patchclamp.baking.affine import Affine
from patchclamp.baking.fold_targets import FoldTarget
from patchclamp.core.errors import EditError, ModelError
from patchclamp.interventions import with_parameters
from patchclamp.models.opened import OpenModel
from patchclamp.models.weights import experts, oriented, sharing, stored


class Folding:
    """New weights of a model. The model itself is only read."""

    def __init__(self, model: OpenModel) -> None:
        self.model = model
        self.matrices: dict[str, Tensor] = {}
        """The new matrix of each module, ``[d_in, d_out]`` (of a table ``[vocabulary, d]``), float64."""
        self.biases: dict[str, Tensor] = {}

    def fold(self, spot: FoldTarget, change: Affine, what: str) -> None:
        """Put a map of a site into the weight at a spot.

        Raises:
            EditError: The map has a constant, and the weight no bias.
            ModelError: The weight is not one matrix of floats, or other modules share it.
        """
        matrix, bias = self._matrix(spot.module), self._bias(spot.module)
        constant = change.constant / spot.factor
        columns = slice(None) if spot.columns is None else spot.columns
        module = self.model.sites.modules[spot.module]
        is_table, is_mixture = isinstance(module, nn.Embedding), matrix.ndim == 3
        if change.shifts and is_mixture:
            raise EditError(
                f"an edit at {what} adds a constant, and {spot.module!r} weighs its experts; nearest: the edit without it "
                "(about=None), or a constant at 'embed'"
            )
        if change.shifts and bias is None and not is_table:
            raise EditError(
                f"an edit at {what} adds a constant, and {spot.module!r} has no bias to hold it (loaders drop one that the "
                "architecture lacks); nearest: the edit without it (about=None), a constant at 'embed', or for llama.cpp "
                "pc.export_control_vector"
            )
        if spot.side == "out":
            matrix[..., columns] = change.linear(matrix[..., columns])
            if is_table:
                matrix[:, columns] += constant
            elif bias is not None:
                bias[..., columns] = change.linear(bias[..., columns]) + constant
        else:
            rows = matrix[columns].clone()
            matrix[columns] = change.before(rows)
            if bias is not None:
                bias += constant @ rows

    def _matrix(self, path: str) -> Tensor:
        if path not in self.matrices:
            module = self.model.sites.modules[path]
            self._check(path, _names(module)[0])
            if isinstance(module, nn.Embedding):
                weight = module.weight
            else:
                expert_matrices = experts(module, getattr(self.model.config, "hidden_size", None))
                weight = oriented(module) if expert_matrices is None else expert_matrices
            self.matrices[path] = weight.detach().to("cpu", torch.float64, copy=True)
        return self.matrices[path]

    def _bias(self, path: str) -> Tensor | None:
        module = self.model.sites.modules[path]
        bias = module._parameters.get(_names(module)[1])
        if bias is not None and path not in self.biases:
            self._check(path, _names(module)[1])
            self.biases[path] = bias.detach().to("cpu", torch.float64, copy=True)
        return self.biases.get(path)

    def _check(self, path: str, name: str) -> None:
        module = self.model.sites.modules[path]
        parameter = module._parameters.get(name)
        if parameter is None or not parameter.is_floating_point() or not bool(torch.isfinite(parameter).all()):
            raise ModelError(f"the {name} of {path!r} is no parameter of finite floats")
        ends = (self._embedding_module("get_input_embeddings"), self._embedding_module("get_output_embeddings"))
        others = sharing(self.model, path, name)
        if others and not all(self.model.sites.modules[other] in ends for other in (path, *others)):
            raise ModelError(f"{path!r} shares its {name} with {others[0]!r}, which would change too")

    def _embedding_module(self, name: str) -> nn.Module | None:
        module: nn.Module | None = getattr(self.model.module, name, lambda: None)()
        return module

    @property
    def parameter_names(self) -> list[str]:
        """The names of the parameters with new values."""
        return sorted(self._new_parameters())

    def _new_parameters(self) -> dict[str, Tensor]:
        modules = self.model.sites.modules
        return {
            f"{path}.{_names(modules[path])[0]}": stored(modules[path], matrix)
            for path, matrix in self.matrices.items()
        } | {f"{path}.{_names(modules[path])[1]}": bias for path, bias in self.biases.items()}

    def module(self) -> nn.Module:
        """A copy of the model with the new weights; it shares all others.

        Raises:
            EditError: A weight is too large for the model's type.
        """
        parameters = self._new_parameters()
        largest = torch.finfo(self.model.dtype).max
        for name, value in parameters.items():
            if not float(value.abs().max()) <= largest:
                raise EditError(f"{name!r} becomes too large for {self.model.dtype}")
        return with_parameters(self.model.module, parameters)


def _names(module: nn.Module) -> tuple[str, str]:
    """The names of a module's matrix and bias."""
    return ("down_proj", "down_proj_bias") if "down_proj" in module._parameters else ("weight", "bias")

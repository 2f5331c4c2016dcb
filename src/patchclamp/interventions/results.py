"""What a recording and a run return: plain tensors by site, labelled arrays, and the evidence to repeat them.

Made by ``running.py`` and ``recording.py``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from patchclamp.core.errors import InputError, SiteError, unknown
from patchclamp.core.result import Result, Saved
from patchclamp.models.peers import is_foreign
from patchclamp.models.sites import Site, SitePattern

if TYPE_CHECKING:
    import xarray as xr

    from patchclamp.models.inputs import Prompt
    from patchclamp.models.opened import OpenModel


def to_numpy(tensor: Tensor) -> Any:
    """A tensor as a numpy array; half precision becomes float32, which holds it exactly."""
    plain = tensor.detach().cpu()
    return (plain.float() if plain.dtype in (torch.bfloat16, torch.float16) else plain).numpy()


@dataclass(eq=False)
class Activations(Result):
    """Recorded activations: ``acts["resid_post"]`` is a torch tensor, ``acts.dims["resid_post"]`` its dimensions."""

    kind: ClassVar[str] = "activations"
    values: dict[str, Tensor]
    dims: dict[str, tuple[str, ...]]
    layers: dict[str, tuple[int | None, ...]]
    prompts: tuple[str, ...]
    positions: tuple[tuple[int, ...], ...]
    """Recorded positions of each prompt."""
    tokens: tuple[tuple[str, ...], ...]
    """Their text."""
    record: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def build(
        cls,
        model: "OpenModel",
        prompts: "Sequence[Prompt]",
        names: dict[str, list[Site]],
        values: dict[str, Tensor],
        where: Sequence[tuple[int, ...] | None],
        record: dict[str, Any],
        tensors: dict[str, Tensor],
    ) -> Self:
        """Shape raw buffers ``[site, prompt, position, ...]`` into what the user asked for."""
        shaped: dict[str, Tensor] = {}
        dims: dict[str, tuple[str, ...]] = {}
        layers: dict[str, tuple[int | None, ...]] = {}
        single = all(w is not None and len(w) == 1 for w in where)
        for name, sites in names.items():
            value, tail = _split_heads(model, sites[0], values[name])
            lead: list[str] = ["layer", "prompt", "position"]
            pooled = value.shape[2] == 1 and (where[0] is None or max(len(w or ()) for w in where) > 1)
            if single or pooled:
                value = value.squeeze(2)
                lead.remove("position")
            if len(sites) == 1 and not _asks_for_layers(model.sites.pattern(name)):
                value = value.squeeze(0)
                lead.remove("layer")
            shaped[name], dims[name] = value, (*lead, *tail)
            layers[name] = tuple(site.layer for site in sites)
        positions = tuple(tuple(w) if w is not None else () for w in where)
        tokens = tuple(
            tuple(p.tokens[i] for i in w) if p.tokens else () for p, w in zip(prompts, positions, strict=True)
        )
        return cls(shaped, dims, layers, tuple(p.name for p in prompts), positions, tokens, record, tensors)

    def __repr__(self) -> str:
        entries = (
            f"{name} [{', '.join(map(str, self.dims[name]))}] {tuple(v.shape)}" for name, v in self.values.items()
        )
        return "Activations: " + "; ".join(entries)

    def __getitem__(self, name: str) -> Tensor:
        """The tensor of a recorded name, or of one site inside it (``acts["resid_post.7"]``)."""
        if name in self.values:
            return self.values[name]
        return self._find(Site.parse(name))[1]

    def vectors(self, site: Site, prompt: int, positions: Sequence[int] | None) -> Tensor:
        """``[position, d]`` of one prompt, heads side by side: what ``pc.Patch(acts)`` puts in.

        Raises:
            InputError: The site or a position was not recorded, or the prompts do not match.
        """
        name, value = self._find(site)
        index = 0 if len(self.prompts) == 1 else prompt
        if index >= len(self.prompts):
            raise InputError(
                f"activations of {len(self.prompts)} prompts were recorded; prompt number {prompt} is not among them"
            )
        row, recorded = value[index], self.positions[index]
        if site.unit is not None and site.unit.kind == "h" and self.dims[name][-1] == "d_head":
            row = row[..., site.unit.index, :]
        has_positions = "position" in self.dims[name]
        flat = row.flatten(1) if has_positions else row.flatten()
        if site.unit is not None and site.unit.kind == "n" and flat.shape[-1] > 1:
            flat = flat[..., site.unit.index : site.unit.index + 1]
        if not has_positions or positions is None:
            return flat
        missing = [p for p in positions if p not in recorded]
        if missing:
            raise InputError(f"position {missing[0]} was not recorded at {site}; recorded: {list(recorded)}")
        return flat[[recorded.index(p) for p in positions]]

    def _find(self, site: Site) -> tuple[str, Tensor]:
        """The recorded name that holds a site (or the whole that it is part of), and its ``[prompt, ...]`` tensor."""
        for candidate in (site, site.whole):
            for name, layers in self.layers.items():
                if name == str(candidate):
                    return name, self.values[name]
                if is_foreign(name) or candidate.layer not in layers:
                    continue
                pattern = SitePattern.parse(name)
                if pattern.component == candidate.component and pattern.units == (
                    (candidate.unit,) if candidate.unit else None
                ):
                    value = self.values[name]
                    return name, value[layers.index(candidate.layer)] if self.dims[name][0] == "layer" else value
        raise SiteError(unknown("recorded site", str(site), self.values))

    @property
    def data(self) -> "xr.Dataset":
        """One variable a recorded name."""
        return self._dataset()

    def _dataset(self) -> "xr.Dataset":
        import numpy as np
        import xarray as xr

        variables, coords = {}, {"prompt": np.array(self.prompts, dtype=object)}
        for name, value in self.values.items():
            axis_names = {
                "layer": f"layer:{name}",
                "d": f"d:{name}",
                "key": "key",
                "head": f"head:{name}",
                "d_head": f"d_head:{name}",
            }
            axes = [axis_names.get(dim, dim) for dim in self.dims[name]]
            variables[name] = xr.Variable(
                axes, to_numpy(value), attrs={"dtype": str(value.dtype).removeprefix("torch.")}
            )
            if "layer" in self.dims[name]:
                coords[f"layer:{name}"] = np.array([-1 if layer is None else layer for layer in self.layers[name]])
        longest = max((len(p) for p in self.positions), default=0)
        if any("position" in dims for dims in self.dims.values()) and longest:
            coords["at"] = (("prompt", "position"), _padded(self.positions, longest, -1))  # type: ignore[assignment]
            coords["token"] = (("prompt", "position"), _padded(self.tokens, longest, ""))  # type: ignore[assignment]
        attrs = {"dims": [[n, *d] for n, d in self.dims.items()], "positions": [list(p) for p in self.positions]}
        attrs |= {"tokens": [list(t) for t in self.tokens], "layers": [[n, *ls] for n, ls in self.layers.items()]}
        return xr.Dataset(variables, coords=coords, attrs=attrs)

    @classmethod
    def _from_saved(cls, saved: Saved) -> Self:
        attrs = saved.dataset.attrs
        values = {
            str(name): torch.from_numpy(variable.values).to(getattr(torch, variable.attrs["dtype"]))
            for name, variable in saved.dataset.data_vars.items()
        }
        return cls(
            values,
            {row[0]: tuple(row[1:]) for row in attrs["dims"]},
            {row[0]: tuple(row[1:]) for row in attrs["layers"]},
            tuple(str(name) for name in saved.dataset["prompt"].values),
            tuple(tuple(p) for p in attrs["positions"]),
            tuple(tuple(t) for t in attrs["tokens"]),
            saved.record,
            saved.tensors,
        )


def _asks_for_layers(pattern: SitePattern) -> bool:
    return pattern.layers is None or len(pattern.layers) > 1


def _padded(rows: Sequence[Sequence[Any]], width: int, fill: Any) -> Any:
    import numpy as np

    kind: Any = object if isinstance(fill, str) else int
    return np.array([[*row, *[fill] * (width - len(row))] for row in rows], dtype=kind)


def _split_heads(model: "OpenModel", site: Site, value: Tensor) -> tuple[Tensor, tuple[str, ...]]:
    """Last axes of a site: ``d``; ``head, d_head`` where the vector is made of heads; ``head, key`` for attention."""
    access = model.sites.access(site)
    if access.attention:
        return value, ("head", "key")
    if access.units and site.unit is None:
        return value.unflatten(-1, (access.units, -1)), ("head", "d_head")
    return value, ("d",)

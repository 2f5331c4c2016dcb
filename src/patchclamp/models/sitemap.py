"""The sites of one model: which tensor each name means, how wide it is, and why some are missing."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from patchclamp.core.errors import SiteError, unknown
from patchclamp.models import peers
from patchclamp.models.components import COMPONENTS
from patchclamp.models.family import ComponentPlace, Family
from patchclamp.models.sites import Site, SitePattern, Unit

Name = str | Site | SitePattern | Mapping[str, Any]
"""A site as a user may write it."""


@dataclass(frozen=True, eq=False)
class Access:
    """How to reach one site's tensor in a module call."""

    module: str
    """The full path of the module."""
    side: Literal["in", "out"]
    keys: tuple[int | str, ...] = ()
    """The path into the arguments or the output; empty for the main tensor."""
    columns: slice | Tensor | None = None
    """The part of the last dimension that the site is, for fused projections."""
    factor: float = 1.0
    """The factor by which the module's tensor is multiplied to give the site."""
    in_place: bool = False
    units: int | None = None
    """The number of heads in the last dimension."""
    attention: bool = False
    """Whether the tensor is ``[batch, head, query, key]``."""

    @property
    def port(self) -> tuple[str, str, tuple[int | str, ...]]:
        """The module, side and path of the tensor that has to be hooked."""
        return (self.module, self.side, self.keys)


@dataclass(frozen=True)
class Heads:
    """Head counts and sizes, from the config."""

    query: int
    key: int
    size: int

    @classmethod
    def of(cls, config: Any) -> "Heads | None":
        """Read head counts off a transformers config; None if it has no heads."""
        query = getattr(config, "num_attention_heads", None)
        hidden = getattr(config, "hidden_size", None)
        if not isinstance(query, int) or not isinstance(hidden, int):
            return None
        size = getattr(config, "head_dim", None) or hidden // query
        key = getattr(config, "num_key_value_heads", None) or query
        if getattr(config, "model_type", "") == "falcon":
            key = config.num_kv_heads if config.new_decoder_architecture else 1 if config.multi_query else query
        return cls(query, key, int(size))


@dataclass(frozen=True)
class SiteMap:
    """Every named site of one model."""

    family: Family
    layers: tuple[str, ...]
    """The full module paths of the layers, in order."""
    heads: Heads | None
    modules: Mapping[str, nn.Module]
    accesses: Mapping[tuple[str, int | None], Access]
    refused: Mapping[tuple[str, int | None], str]
    widths: Mapping[tuple[str, int | None], int] = field(default_factory=dict)
    """The size of each site's last dimension, measured on the model when it was opened."""
    read_only: Mapping[str, str] = field(default_factory=lambda: {"attn_pattern": _PATTERN})

    @property
    def n_layers(self) -> int:
        """The number of layers of the model."""
        return len(self.layers)

    def expand(self, names: "Name | Iterable[Name]") -> list[Site]:
        """Every site that the names mean on this model, in the order given.

        Raises:
            SiteError: A name is unknown, refused by this model, or names a layer, head or neuron that it lacks.
        """
        if isinstance(names, str | Site | SitePattern | Mapping):
            names = [names]
        sites: list[Site] = []
        for name in names:
            if isinstance(name, Site):
                self.access(name)
                sites.append(name)
            else:
                sites.extend(self._expand(self.pattern(name)))
        return sites

    def pattern(self, name: "str | SitePattern | Mapping[str, Any]") -> SitePattern:
        """Read a name, also one in another library's form."""
        if isinstance(name, SitePattern):
            return name
        text = peers.from_mapping(name) if isinstance(name, Mapping) else name
        return SitePattern.parse(peers.translate(text, self) if peers.is_foreign(text) else text)

    def _expand(self, pattern: SitePattern) -> list[Site]:
        layers = pattern.layers
        if not self.layers and pattern.module is None:
            raise SiteError(f"{pattern.component}: {self.family.refused.get(pattern.component, 'no layers are known')}")
        if layers is None:
            layers = tuple(layer for name, layer in self.accesses if name == pattern.component)
        if not layers:
            layers = (0,)
        sites: list[Site] = []
        for layer in layers:
            site = Site(
                pattern.component, self._layer(layer, pattern), None, pattern.module, pattern.side, pattern.keys
            )
            access = self.access(site)
            units: tuple[Unit | None, ...] = (None,) if pattern.units is None else pattern.units  # type: ignore[assignment]
            if pattern.units == "*" and pattern.unit_kind is not None:
                count = self._count(site, access, pattern.unit_kind)
                if count is None:
                    raise SiteError(
                        f"{site}.{pattern.unit_kind}*: the width of this site is not known before a run; name its neurons, as "
                        f"in '{site}.n0-7'"
                    )
                units = tuple(Unit(pattern.unit_kind, i) for i in range(count))
            for unit in units:
                sites.append(replace(site, unit=unit))
                self.access(sites[-1])
        return sites

    def _layer(self, layer: int | None, pattern: SitePattern) -> int | None:
        if layer is None or pattern.module is not None:
            return None
        if not -self.n_layers <= layer < self.n_layers:
            raise SiteError(
                f"layer {layer} of {pattern.component!r} is outside this model's layers 0..{self.n_layers - 1}"
            )
        return layer % self.n_layers

    def access(self, site: Site) -> Access:
        """Say how to reach a site.

        Raises:
            SiteError: The model has no such site; the message says why and what is near.
        """
        if site.is_raw:
            access = self._raw(site)
        else:
            key = (site.component, site.layer)
            if key in self.refused:
                raise SiteError(f"this {self.family.name} model has no usable {site.whole}: {self.refused[key]}")
            if key not in self.accesses:
                valid = dict.fromkeys(name for name, _ in self.accesses)
                raise SiteError(f"{site}: " + unknown("site of this model", site.component, valid) + self._raw_hint())
            access = self.accesses[key]
        if site.unit is not None:
            count = self._count(site, access, site.unit.kind)
            if site.unit.index < 0 or (count is not None and site.unit.index >= count):
                what = "head" if site.unit.kind == "h" else "neuron"
                raise SiteError(
                    f"{site}: there are {count} of them, so {what} {site.unit.index} is outside 0..{count - 1}"
                    if count is not None
                    else f"{site}: {what}s are numbered from 0"
                )
        return access

    def _raw_hint(self) -> str:
        return "; or a module path with its port, as in " + repr(f"{next(iter(m for m in self.modules if m), '')}:out")

    def _raw(self, site: Site) -> Access:
        assert site.module is not None
        assert site.side is not None
        if site.module not in self.modules:
            raise SiteError(f"{site}: " + unknown("module", site.module, (name for name in self.modules if name)))
        return Access(site.module, site.side, site.keys)

    def in_stream(self, site: Site) -> Site:
        """A layer's own input or output under the name that it has in the residual stream; any other site as it is."""
        if site.module not in self.layers:
            return site
        stream_site = Site("resid_pre" if site.side == "in" else "resid_post", self.layers.index(site.module))
        access = self.accesses.get((stream_site.component, stream_site.layer))
        is_same = access is not None and access.port == self.access(site.whole).port and access.factor == 1.0
        return (
            replace(stream_site, unit=site.unit)
            if is_same and (stream_site.component, stream_site.layer) not in self.refused
            else site
        )

    def _count(self, site: Site, access: Access, kind: str) -> int | None:
        """The number of heads or neurons of a site; None for neurons that are counted when the site is first read."""
        if kind == "h":
            if access.units is None:
                per_head = "z, q, k and v" if self.heads else "none of this model's sites"
                raise SiteError(f"{site} is not divided into heads; those that are: {per_head}")
            return access.units
        return self.width(site.whole)

    def width(self, site: Site) -> int | None:
        """The size of a site's vectors, or of its unit's part of them; None if it was never measured."""
        if site.unit is not None and site.unit.kind == "n":
            return 1
        if site.is_raw:
            assert site.module is not None
            return _declared_width(self.modules[site.module], site) if site.module in self.modules else None
        width = self.widths.get((site.component, site.layer))
        if width is None or site.unit is None:
            return width
        return width // (self.accesses[site.component, site.layer].units or 1)

    def rows(self) -> list[dict[str, Any]]:
        """A table of every component: where it is, how wide, whether it can be read and written, or why not."""
        table = []
        for name, row in COMPONENTS.items():
            layers = [
                layer for layer in (range(self.n_layers) if row.per_layer else (None,)) if self._offers(name, layer)
            ]
            first = next(iter(layers), None)
            access = self.accesses.get((name, first)) if layers else None
            width = self.widths.get((name, first)) if layers else None
            has_units = access is not None and access.units is not None and not access.attention and width is not None
            shape = (
                f"{access.units} x {width // access.units}"
                if has_units and access and width and access.units
                else str(width or "")
            )
            note = (
                self.read_only.get(name, "")
                if layers
                else self.refused.get((name, 0 if row.per_layer else None), "not in this model")
            )
            if layers and row.per_layer and len(layers) < self.n_layers:
                note = f"only layers {layers}: " + next(r for (n, _), r in self.refused.items() if n == name)
            table.append(
                {
                    "site": name,
                    "layers": f"0-{self.n_layers - 1}" if layers and row.per_layer else "",
                    "shape": shape,
                    "read": bool(layers),
                    "write": bool(layers) and name not in self.read_only,
                    "note": note or row.meaning,
                }
            )
        return table

    def _offers(self, name: str, layer: int | None) -> bool:
        return (name, layer) in self.accesses and (name, layer) not in self.refused

    def __str__(self) -> str:
        if not self.layers:
            names = [name for name in self.modules if name]
            ports = ", ".join(f"{name}:out" for name in names[:12]) or ":out"
            return f"No named sites: {self.family.refused['resid_post']}.\nModule paths with a port, of this model: {ports}"
        rows = self.rows()
        widths = {key: max(len(key), *(len(str(row[key])) for row in rows)) for key in rows[0]}
        lines = ["  ".join(key.ljust(widths[key]) for key in rows[0])]
        lines += ["  ".join(str(value).ljust(widths[key]) for key, value in row.items()).rstrip() for row in rows]
        return "\n".join(lines)

    def check_writable(self, site: Site) -> None:
        """Raise ``SiteError`` if the site can only be read."""
        self.access(site)
        if site.component in self.read_only:
            raise SiteError(f"{site} is read-only: {self.read_only[site.component]}")


_PATTERN = (
    "the weights are computed inside the attention function; edit q or k (what decides them) or z (what they make)"
)


def columns_of(access: Access, unit: Unit | None, width: int) -> slice | Tensor | None:
    """The columns of the module's tensor that a site (with its unit) is."""
    if unit is None:
        return access.columns
    size = 1 if unit.kind == "n" else width // (access.units or 1)
    start = unit.index * size
    inner = slice(start, start + size)
    if access.columns is None:
        return inner
    if isinstance(access.columns, Tensor):
        return access.columns[inner]
    offset = access.columns.start
    return slice(offset + start, offset + start + size)


def _declared_width(module: nn.Module, site: Site) -> int | None:
    names = (
        ("in_features", "in_channels", "input_size")
        if site.side == "in"
        else ("out_features", "out_channels", "hidden_size")
    )
    if site.keys:
        return None
    width = next((getattr(module, name) for name in names if isinstance(getattr(module, name, None), int)), None)
    if width is not None and site.side == "out" and getattr(module, "bidirectional", False):
        width *= 2
    return width


def resolve(module: nn.Module, family: Family, config: Any, base: str) -> SiteMap:
    """Resolve a family's table on a model.

    Args:
        module: The model.
        family: The table of the model's architecture.
        config: The model's transformers config.
        base: The path of the base model inside ``module`` ('' if it is the base model).
    """
    family = family.for_config(config)
    modules = dict(module.named_modules())
    heads = Heads.of(config)
    layers = tuple(_match(modules, _join(base, family.layers))) if family.layers else ()
    accesses: dict[tuple[str, int | None], Access] = {}
    refused: dict[tuple[str, int | None], str] = {}

    def add_access(name: str, layer: int | None, path: str, place: ComponentPlace) -> None:
        target, side, keys = _split(place.port)
        full_path = _join(path, target)
        if full_path not in modules:
            refused[name, layer] = f"there is no module {full_path!r}"
            return
        factor = float(getattr(config, place.factor)) if place.factor else 1.0
        columns = _columns(place, heads, modules[full_path])
        units = {"heads": heads.query, "kv_heads": heads.key}.get(COMPONENTS[name].axis) if heads else None
        attention = COMPONENTS[name].axis == "keys"
        units = heads.query if heads and attention else units
        accesses[name, layer] = Access(full_path, side, keys, columns, factor, place.in_place, units, attention)

    if family.embed:
        add_access("embed", None, base, ComponentPlace(f"{family.embed}:out"))
    for index, path in enumerate(layers):
        add_access("resid_pre", index, path, ComponentPlace(":in"))
        for name in COMPONENTS:
            if name in family.sites:
                place = family.sites[name]
                add_access(name, index, path, ComponentPlace(place) if isinstance(place, str) else place)
        add_access("resid_post", index, path, ComponentPlace(":out"))
    if family.final_norm:
        add_access("final_norm", None, base, ComponentPlace(f"{family.final_norm}:out"))
    add_access("logits", None, "", ComponentPlace(":out[logits]"))
    for name, reason in family.refused.items():
        for layer in range(len(layers)) if COMPONENTS[name].per_layer else (None,):
            refused[name, layer] = reason
    return SiteMap(family, layers, heads, modules, accesses, refused)


def _join(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def _split(port: str) -> tuple[str, Literal["in", "out"], tuple[int | str, ...]]:
    pattern = SitePattern.parse(port)
    assert pattern.module is not None
    assert pattern.side is not None
    return pattern.module, pattern.side, pattern.keys


def _match(modules: Mapping[str, nn.Module], pattern: str) -> list[str]:
    """Find the children of every module that the pattern names, where ``*`` stands for each child."""
    names = [""]
    for part in pattern.split("."):
        paths = []
        for name in names:
            if part == "*":
                paths += [_join(name, child) for child, _ in modules[name].named_children()] if name in modules else []
            else:
                paths.append(_join(name, part))
        names = paths
    return [_join(name, child) for name in names if name in modules for child, _ in modules[name].named_children()]


def _columns(place: ComponentPlace, heads: Heads | None, module: nn.Module) -> slice | Tensor | None:
    if place.part == "whole":
        return None
    if place.part == "gate":
        return slice(0, int(module.out_features) // 2)  # type: ignore[arg-type]
    assert heads is not None, "a fused projection needs head counts"
    queries, keys = heads.query * heads.size, heads.key * heads.size
    if place.layout == "contiguous":
        start = {"q": 0, "k": queries, "v": queries + keys}[place.part]
        return slice(start, start + (queries if place.part == "q" else keys))
    groups = heads.query // heads.key
    table = torch.arange(heads.key * (groups + 2) * heads.size).view(heads.key, groups + 2, heads.size)
    columns = {"q": table[:, :groups], "k": table[:, groups : groups + 1], "v": table[:, groups + 1 :]}[place.part]
    return columns.reshape(-1)

"""Names of places in a model: ``mlp_out.5``, ``z.5.h3``, ``mlp_act.5.n1024``, ``layers.2:in``."""

import re
from dataclasses import dataclass
from typing import Literal

from patchclamp.core.errors import SiteError, unknown
from patchclamp.models.components import COMPONENTS, ORDER

_UNIT = re.compile(r"^(?P<kind>[hn])(?P<which>\*|[\d,\-]+)$")
_RAW = re.compile(r"^(?P<module>[^:\s]*):(?P<side>in|out)(?P<keys>(\[[^\]]+\])*)(\.(?P<unit>[hn][\d,\-*]+))?$")
_SPAN = re.compile(r"^(-?\d{1,9})-(-?\d{1,9})$")
MOST_NUMBERS = 2**20
"""Layers or units that one name may list: more than any model has, and few enough to be held in memory."""


@dataclass(frozen=True)
class Unit:
    """A part of the last dimension: one head (``h3``) or one coordinate (``n1024``)."""

    kind: Literal["h", "n"]
    index: int

    def __str__(self) -> str:
        return f"{self.kind}{self.index}"


@dataclass(frozen=True)
class Site:
    """One place in a model where an activation can be read and, mostly, written.

    Either a component with a layer (``mlp_out.5``; ``embed`` and ``logits`` have no layer), or a raw module path with
    its port (``model.layers.7.mlp:out``). ``unit`` narrows it to one head or one neuron.
    """

    component: str
    layer: int | None = None
    unit: Unit | None = None
    module: str | None = None
    side: Literal["in", "out"] | None = None
    keys: tuple[int | str, ...] = ()

    @property
    def is_raw(self) -> bool:
        """Whether the site is a module path."""
        return self.module is not None

    @property
    def whole(self) -> "Site":
        """The same site without its unit."""
        return (
            self
            if self.unit is None
            else type(self)(self.component, self.layer, None, self.module, self.side, self.keys)
        )

    def __str__(self) -> str:
        if self.is_raw:
            return f"{self.component}{f'.{self.unit}' if self.unit else ''}"
        return ".".join(str(part) for part in (self.component, self.layer, self.unit) if part is not None)

    @property
    def sort_key(self) -> tuple[int, int, str]:
        """Order of the forward pass (raw sites last, by name)."""
        if self.is_raw:
            return (10**9, 0, str(self))
        last = self.component in ("final_norm", "logits")
        layer = self.layer if self.layer is not None else (10**8 if last else -1)
        return (layer, ORDER[self.component], str(self))

    @classmethod
    def parse(cls, text: str) -> "Site":
        """Read the name of exactly one site.

        Raises:
            SiteError: The text is not a site, or names several (a bare ``mlp_out`` is every layer).
        """
        pattern = SitePattern.parse(text)
        if (
            pattern.layers is None
            or len(pattern.layers) != 1
            or pattern.units == "*"
            or len(pattern.units or (None,)) != 1
        ):
            raise SiteError(f"{text!r} names several sites; one is needed here, as in 'mlp_out.5' or 'z.5.h3'")
        unit = pattern.units[0] if pattern.units else None
        return cls(pattern.component, pattern.layers[0], unit, pattern.module, pattern.side, pattern.keys)


@dataclass(frozen=True)
class SitePattern:
    """A family of sites, before a model says how many layers and heads there are.

    ``layers`` is None for "every layer" and ``(None,)`` for components outside the layers; ``units`` is None for the
    whole vector, ``"*"`` (with ``unit_kind``) for each of them.
    """

    component: str
    layers: tuple[int | None, ...] | None
    units: tuple[Unit, ...] | Literal["*"] | None = None
    unit_kind: Literal["h", "n"] | None = None
    module: str | None = None
    side: Literal["in", "out"] | None = None
    keys: tuple[int | str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "SitePattern":
        """Read ``component[.layers][.units]`` or ``module.path:port``.

        Layers are ``5``, ``-1`` (from the end), ``0-5`` (both ends included), ``0,3,7`` or ``*``; units are ``h3``,
        ``h0-2``, ``h*``, ``n1024``.

        Raises:
            SiteError: The text follows neither form; the message names the nearest component.
        """
        if raw := _RAW.match(text):
            keys = tuple(_key(item) for item in re.findall(r"\[([^\]]+)\]", raw["keys"]))
            units, kind = _units(raw["unit"], text) if raw["unit"] else (None, None)
            name = f"{raw['module']}:{raw['side']}{raw['keys']}"
            return cls(name, (None,), units, kind, raw["module"], raw["side"], keys)  # type: ignore[arg-type]
        component, *rest = text.split(".")
        if component not in COMPONENTS:
            raise SiteError(
                unknown("site", text, COMPONENTS) + "; or a module path with its port, as in 'layers.2:out'"
            )
        layers: tuple[int | None, ...] | None = None if COMPONENTS[component].per_layer else (None,)
        if rest and not _UNIT.match(rest[0]):
            if layers is not None:
                raise SiteError(f"{text!r}: {component!r} lies outside the layers and takes no layer number")
            layers = _numbers(rest.pop(0), text, "layer")
        units, kind = _units(rest.pop(0), text) if rest else (None, None)
        if rest:
            raise SiteError(f"{text!r} has too many parts; a site is component.layer.unit, as in 'z.5.h3'")
        return cls(component, layers, units, kind)


def _key(text: str) -> int | str:
    return int(text) if text.lstrip("-").isdigit() else text.strip("'\"")


def _numbers(text: str, site_text: str, what: str) -> tuple[int, ...] | None:
    if text == "*":
        return None
    numbers: list[int] = []
    for part in text.split(","):
        if span := _SPAN.match(part):
            first, last = int(span[1]), int(span[2])
            if last < first:
                raise SiteError(f"{site_text!r}: the range {part!r} runs backwards")
            if len(numbers) + last - first >= MOST_NUMBERS:
                raise SiteError(f"{site_text!r}: {part!r} spans {last - first + 1:,} {what}s, more than any model has")
            numbers.extend(range(first, last + 1))
        elif re.fullmatch(r"-?\d{1,9}", part):
            numbers.append(int(part))
        else:
            raise SiteError(f"{site_text!r}: {part!r} is not a {what}; write 5, -1, 0-5, 0,3,7 or *")
    return tuple(numbers)


def _units(text: str, site_text: str) -> tuple[tuple[Unit, ...] | Literal["*"], Literal["h", "n"]]:
    match = _UNIT.match(text)
    if not match:
        raise SiteError(f"{site_text!r}: {text!r} is not a unit; write h3 for a head or n1024 for a neuron")
    kind: Literal["h", "n"] = "h" if match["kind"] == "h" else "n"
    numbers = _numbers(match["which"], site_text, "unit")
    if numbers is None:
        return "*", kind
    return tuple(Unit(kind, number) for number in numbers), kind

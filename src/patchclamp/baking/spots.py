"""Where a site meets a weight: which projections or tables make its tensor, or read it, with nothing in between."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from patchclamp.core.errors import PatchclampError, SiteError
from patchclamp.core.interrupts import guarded
from patchclamp.core.tolerances import ARCHITECTURE
from patchclamp.interventions import Source, record_source
from patchclamp.models.inputs import Prompt
from patchclamp.models.opened import OpenModel
from patchclamp.models.sitemap import columns_of
from patchclamp.models.sites import Site
from patchclamp.models.weights import experts, oriented

_MADE_BY = {"attn_out": "z", "mlp_out": "mlp_act"}
"""Sites that are the output of the module which reads another site."""
_READ_BY = {"attn_in": ("q", "k", "v"), "mlp_in": ("mlp_pre",)}
"""Sites that are the input of the modules which make others."""
_BETWEEN = "a norm or another function stands between"


@dataclass(frozen=True, eq=False)
class Spot:
    """A weight that can take up an affine map of a site."""

    module: str
    """Path of a projection (``nn.Linear``, ``Conv1D``), a table (``nn.Embedding``) or the experts of a mixture."""
    side: Literal["in", "out"]
    columns: slice | Tensor | None = None
    """Which part of the module's input or output the site is."""
    factor: float = 1.0
    """The site is the module's tensor times this."""
    direct: bool = True
    """False if the site's own module holds the projection."""


class Wiring:
    """What modules give and take on one prompt of the model as it is, recorded when it is asked for."""

    def __init__(self, model: OpenModel, prompt: Prompt) -> None:
        self.model, self.prompt = model, prompt
        self._seen: dict[Site, Tensor] = {}

    def look(self, sites: Iterable[Site]) -> list[Tensor]:
        """The sites' values ``[position, d]``, float64."""
        wanted = list(sites)
        new = [site for site in dict.fromkeys(wanted) if site not in self._seen]
        if new:
            found = record_source(self.model, Source([self.prompt]), new)
            self._seen |= {site: rows[0].to("cpu", torch.float64) for site, rows in found.items()}
        return [self._seen[site] for site in wanted]

    def sum_error(self, whole: Site, parts: Iterable[Site]) -> float:
        """By how much a site misses the sum of others, relative to its largest value."""
        total, *terms = self.look([whole, *parts])
        return float((total - torch.stack(terms).sum(0)).abs().max() / total.abs().max())

    def shares(self, whole: Site, parts: Iterable[Site]) -> list[float] | None:
        """The coefficients with which a site is a sum of others; None if it is none."""
        try:
            total, *terms = self.look([whole, *parts])
        except PatchclampError:
            return None
        if any(term.shape != total.shape for term in terms):
            return None
        columns = torch.stack([term.flatten() for term in terms], 1)
        found = torch.linalg.lstsq(columns, total.flatten()[:, None], driver="gelsd").solution
        missed = (columns @ found - total.flatten()[:, None]).abs().max()
        if missed > max(8 * torch.finfo(self.model.dtype).eps, 1e-12) * total.abs().max():
            return None
        return [float(share) for share in found]


def _is_projection(wiring: Wiring, path: str) -> bool:
    """Whether a module is one matrix (and maybe a bias) and nothing else; of a class of its own, as measured."""
    module = wiring.model.sites.modules[path]
    if type(module) is nn.Linear or type(module).__name__ == "Conv1D":
        return True
    if not isinstance(module, nn.Linear):
        return False
    x, y = wiring.look([port(path, "in"), port(path, "out")])
    made = x @ oriented(module).detach().to("cpu", torch.float64)
    if module.bias is not None:
        made = made + module.bias.detach().to("cpu", torch.float64)
    return bool((made - y).abs().max() <= ARCHITECTURE.of(wiring.model.dtype) * y.abs().max())


def port(path: str, side: Literal["in", "out"]) -> Site:
    """The site of a module's input or output."""
    return Site(f"{path}:{side}", None, None, path, side)


def spots_of(wiring: Wiring, site: Site) -> list[Spot]:
    """The weights that a map of a site goes into; what the table says is measured on the model.

    Raises:
        SiteError: The site is not directly the input or the output of a weight; says why.
    """
    model = wiring.model
    access = model.sites.access(site)
    columns = columns_of(access, site.unit, model.sites.width(site.whole) or 0)
    module = model.sites.modules[access.module]
    if not access.keys and _is_projection(wiring, access.module):
        return [Spot(access.module, access.side, columns, access.factor)]
    if isinstance(module, nn.Embedding) and access.side == "out":
        return [Spot(access.module, "out", columns, _table_scale(wiring, site.whole, module))]
    paths, side = _holders(model, site)
    found = []
    for path in paths:
        held = model.sites.modules[path]
        if not _is_projection(wiring, path) and experts(held, model.sites.width(site.whole)) is None:
            raise SiteError(f"{path!r} is a {type(held).__name__}, not one matrix")
        share = wiring.shares(site.whole, [port(path, side)])
        if share is None:
            raise SiteError(f"{_BETWEEN} {site.whole} and the weight of {path!r}")
        found.append(Spot(path, side, columns, share[0], direct=False))
    return found


def look_ahead(wiring: Wiring, sites: Iterable[Site]) -> None:
    """Record in one pass what :func:`spots_of` will ask for."""
    wanted: list[Site] = []
    for site in dict.fromkeys(site.whole for site in sites):
        try:
            paths, side = _holders(wiring.model, site)
        except SiteError:
            continue
        wanted += [site, *(port(path, side) for path in paths)]
    if wanted:
        wiring.look(wanted)


def _table_scale(wiring: Wiring, site: Site, module: nn.Embedding) -> float:
    """By what an embedding module multiplies the rows of its table."""
    with guarded(torch.no_grad()):
        rows = module.weight[torch.tensor(wiring.prompt.ids, device=module.weight.device)].to("cpu", torch.float64)
    values = wiring.look([site])[0]
    share = float((rows * values).sum() / (rows * rows).sum())
    if (share * rows - values).abs().max() > 8 * torch.finfo(wiring.model.dtype).eps * values.abs().max():
        raise SiteError(f"{_BETWEEN} {site} and the table {type(module).__name__}")
    return share


def _holders(model: OpenModel, site: Site) -> tuple[list[str], Literal["in", "out"]]:
    """The projections that make a site's tensor or read it, by the model's table."""
    sites, name = model.sites, site.component
    if name in ("final_norm", "logits"):
        head = model.module.get_output_embeddings()  # type: ignore[operator]
        path = next((path for path, module in sites.modules.items() if module is head), None)
        if path is None:
            raise SiteError(f"{type(model.module).__name__} has no unembedding")
        return [path], "in" if name == "final_norm" else "out"
    if name == "mlp_out" and ("mlp_act", site.layer) in sites.refused:
        return [_experts_of(model, site)], "out"
    if name in _MADE_BY:
        return [_module_of(model, _MADE_BY[name], site.layer)], "out"
    if name in _READ_BY:
        paths = list(dict.fromkeys(_module_of(model, reader, site.layer) for reader in _READ_BY[name]))
        other = sites.family.weights.get("mlp_up") if name == "mlp_in" else None
        return [*paths, *([f"{sites.layers[site.layer or 0]}.{other}"] if other else [])], "in"
    raise SiteError("no weight makes or reads it directly")


def _experts_of(model: OpenModel, site: Site) -> str:
    """The module that holds every expert of a layer.

    Raises:
        SiteError: There is not exactly one.
    """
    inside = f"{model.sites.access(site).module}."
    width = model.sites.width(site)
    found = [
        path
        for path, held in model.sites.modules.items()
        if path.startswith(inside) and experts(held, width) is not None
    ]
    if len(found) != 1:
        raise SiteError(f"{inside[:-1]!r} does not hold all its experts in one module")
    return found[0]


def _module_of(model: OpenModel, component: str, layer: int | None) -> str:
    return model.sites.access(Site(component, layer)).module

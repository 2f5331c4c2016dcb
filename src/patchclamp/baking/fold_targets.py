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

_OUTPUT_OF = {"attn_out": "z", "mlp_out": "mlp_act"}
"""Sites that are the output of the module which reads another site."""
_READERS = {"attn_in": ("q", "k", "v"), "mlp_in": ("mlp_pre",)}
"""Sites that are the input of the modules which make others."""
_BETWEEN = "a norm or another function stands between"


@dataclass(frozen=True, eq=False)
class FoldTarget:
    """A weight that can take up an affine map of a site."""

    module: str
    """The path of a projection (``nn.Linear``, ``Conv1D``), a table (``nn.Embedding``) or the experts of a mixture."""
    side: Literal["in", "out"]
    columns: slice | Tensor | None = None
    """The part of the module's input or output that the site is."""
    factor: float = 1.0
    """The factor by which the module's tensor is multiplied to give the site."""
    direct: bool = True
    """Whether the site's module is itself the projection, and does not only contain it."""


class Wiring:
    """The inputs and outputs of modules on one prompt of the model as it is, recorded when they are asked for."""

    def __init__(self, model: OpenModel, prompt: Prompt) -> None:
        self.model, self.prompt = model, prompt
        self._values: dict[Site, Tensor] = {}

    def look(self, sites: Iterable[Site]) -> list[Tensor]:
        """Read the values of sites, ``[position, d]`` each, in float64."""
        site_list = list(sites)
        new_sites = [site for site in dict.fromkeys(site_list) if site not in self._values]
        if new_sites:
            recordings = record_source(self.model, Source([self.prompt]), new_sites)
            self._values |= {site: rows[0].to("cpu", torch.float64) for site, rows in recordings.items()}
        return [self._values[site] for site in site_list]

    def sum_error(self, whole: Site, parts: Iterable[Site]) -> float:
        """The largest difference of a site from the sum of others, relative to its largest value."""
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
        coefficients = torch.linalg.lstsq(columns, total.flatten()[:, None], driver="gelsd").solution
        error = (columns @ coefficients - total.flatten()[:, None]).abs().max()
        if error > max(8 * torch.finfo(self.model.dtype).eps, 1e-12) * total.abs().max():
            return None
        return [float(share) for share in coefficients]


def _is_projection(wiring: Wiring, path: str) -> bool:
    """Whether a module is one matrix (and maybe a bias) and nothing else; of a class of its own, as measured."""
    module = wiring.model.sites.modules[path]
    if type(module) is nn.Linear or type(module).__name__ == "Conv1D":
        return True
    if not isinstance(module, nn.Linear):
        return False
    x, y = wiring.look([port(path, "in"), port(path, "out")])
    product = x @ oriented(module).detach().to("cpu", torch.float64)
    if module.bias is not None:
        product = product + module.bias.detach().to("cpu", torch.float64)
    return bool((product - y).abs().max() <= ARCHITECTURE.of(wiring.model.dtype) * y.abs().max())


def port(path: str, side: Literal["in", "out"]) -> Site:
    """The site of a module's input or output."""
    return Site(f"{path}:{side}", None, None, path, side)


def spots_of(wiring: Wiring, site: Site) -> list[FoldTarget]:
    """The weights that a map of a site goes into; what the table says is measured on the model.

    Raises:
        SiteError: The site is not directly the input or the output of a weight; the message says why.
    """
    model = wiring.model
    access = model.sites.access(site)
    columns = columns_of(access, site.unit, model.sites.width(site.whole) or 0)
    module = model.sites.modules[access.module]
    if not access.keys and _is_projection(wiring, access.module):
        return [FoldTarget(access.module, access.side, columns, access.factor)]
    if isinstance(module, nn.Embedding) and access.side == "out":
        return [FoldTarget(access.module, "out", columns, _table_scale(wiring, site.whole, module))]
    paths, side = _holders(model, site)
    spots = []
    for path in paths:
        holder = model.sites.modules[path]
        if not _is_projection(wiring, path) and experts(holder, model.sites.width(site.whole)) is None:
            raise SiteError(f"{path!r} is a {type(holder).__name__}, not one matrix")
        share = wiring.shares(site.whole, [port(path, side)])
        if share is None:
            raise SiteError(f"{_BETWEEN} {site.whole} and the weight of {path!r}")
        spots.append(FoldTarget(path, side, columns, share[0], direct=False))
    return spots


def look_ahead(wiring: Wiring, sites: Iterable[Site]) -> None:
    """Record in one pass the values that :func:`spots_of` will ask for."""
    all_sites: list[Site] = []
    for site in dict.fromkeys(site.whole for site in sites):
        try:
            paths, side = _holders(wiring.model, site)
        except SiteError:
            continue
        all_sites += [site, *(port(path, side) for path in paths)]
    if all_sites:
        wiring.look(all_sites)


def _table_scale(wiring: Wiring, site: Site, module: nn.Embedding) -> float:
    """The factor by which an embedding module multiplies the rows of its table."""
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
    if name in _OUTPUT_OF:
        return [_module_of(model, _OUTPUT_OF[name], site.layer)], "out"
    if name in _READERS:
        paths = list(dict.fromkeys(_module_of(model, reader, site.layer) for reader in _READERS[name]))
        other = sites.family.weights.get("mlp_up") if name == "mlp_in" else None
        return [*paths, *([f"{sites.layers[site.layer or 0]}.{other}"] if other else [])], "in"
    raise SiteError("no weight makes or reads it directly")


def _experts_of(model: OpenModel, site: Site) -> str:
    """The module that holds every expert of a layer.

    Raises:
        SiteError: There is not exactly one.
    """
    prefix = f"{model.sites.access(site).module}."
    width = model.sites.width(site)
    paths = [
        path
        for path, module in model.sites.modules.items()
        if path.startswith(prefix) and experts(module, width) is not None
    ]
    if len(paths) != 1:
        raise SiteError(f"{prefix[:-1]!r} does not hold all its experts in one module")
    return paths[0]


def _module_of(model: OpenModel, component: str, layer: int | None) -> str:
    return model.sites.access(Site(component, layer)).module

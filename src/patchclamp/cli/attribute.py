"""``patchclamp attribute MODEL SOURCE INTO``: activation patching estimated by gradient."""

from dataclasses import asdict

from cyclopts import App

from patchclamp.cli.options import Drawn, Into, ModelName, PatchedAt, PatchedSites, PatchOptions, Source
from patchclamp.cli.output import say
from patchclamp.cli.patch import show_patched
from patchclamp.cli.specs import position

command = App(name="attribute", help="Estimate activation patching by gradient, and measure how wrong the estimate is.")


@command.default
def attribute(
    model: ModelName,
    source: Source,
    into: Into,
    *,
    site: PatchedSites = None,
    at: PatchedAt = "each",
    reading: PatchOptions = PatchOptions(),  # noqa: B008
    integrate: int = 0,
    check: int = 20,
    shared: Drawn = Drawn(),  # noqa: B008
) -> None:
    """Estimate what patching one run into another would do.

    Args:
        integrate: Points of integrated gradients.
        check: Random cells run exactly.
    """
    open_model = shared.opening.load(model)
    sites = site or ["resid_post"]
    attribution = open_model.attribution_patch(
        source, into, sites=sites, at=position(at), integrate=integrate, check=check, **reading.as_options()
    )  # fmt: skip
    say(repr(attribution))
    title = "largest estimated differences from the unpatched run"
    show_patched(attribution, shared, title, agreement=attribution.agreement)
    config = {
        "model": model, "source": source, "into": into, "site": sites, "at": at, **asdict(reading),
        "integrate": integrate, "check": check,
    }  # fmt: skip
    shared.keep(attribution, "attribute", config)

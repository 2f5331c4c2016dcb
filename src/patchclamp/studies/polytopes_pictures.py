"""Pictures and the report of the study of polytopes on digits."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import patchclamp as pc
from patchclamp.core.files import write_csv, write_json
from patchclamp.figures.style import save as save_figure
from patchclamp.figures.style import styled

if TYPE_CHECKING:
    from patchclamp.studies.polytopes_mnist import PolytopesMnist

_SHOWN = (
    "crossings", "crossings a unit", "flips of the ends", "distance", "cosine distance", "cosine distance after the last gate",
)  # fmt: skip


def areas(found: "PolytopesMnist") -> Any:
    """Area under the curve of each measure: trained networks filled, untrained ones hollow, a mark a seed."""
    table = found.pairs
    panels = list(dict.fromkeys(zip(table["network"], table["start"], strict=True)))
    with styled() as make:
        drawn = make(figsize=(2.1 * len(panels) + 1.9, 2.5), layout="constrained")
        axes = drawn.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
        for axis, (network, start) in zip(axes, panels, strict=True):
            rows = table[(table["network"] == network) & (table["start"] == start)]
            for weights, face in (("trained", "#1f3a5f"), ("untrained", "none")):
                for place, measure in enumerate(_SHOWN):
                    own = rows[(rows["weights"] == weights) & (rows["measure"] == measure)]["auc"].to_numpy()
                    offset = np.linspace(-0.16, 0.16, len(own)) if len(own) > 1 else np.zeros(len(own))
                    axis.scatter(
                        own, place + offset, s=14, facecolor=face, edgecolor="#1f3a5f" if weights == "trained" else "#c2571a",
                        linewidth=0.8, label=weights if place == 0 else None, zorder=3,
                    )  # fmt: skip
            axis.axvline(0.9, color="0.75", linewidth=0.7, linestyle=":")
            axis.axvline(0.5, color="0.75", linewidth=0.7)
            axis.set_title(
                f"{network}, {'from the input' if start == 'input' else f'from gate {start} on'}", fontsize=8
            )
            axis.set_yticks(range(len(_SHOWN)), _SHOWN)
            axis.set_xlim(0.45, 1.02)
            axis.spines[["top", "right"]].set_visible(False)
        axes[0].invert_yaxis()
        drawn.legend(
            *axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False, fontsize=7
        )
        drawn.supxlabel("different against same class: area under the curve", fontsize=8)
        return drawn


def save(found: "PolytopesMnist", out: Path, about: str) -> None:
    """Write tables, pictures, the results of the first network, and the report."""
    from patchclamp.studies.polytopes_mnist import FRAMES, TITLES

    for name in FRAMES:
        write_csv(out / f"{name}.csv", getattr(found, name))
    write_json(out / "summary.json", found.summary())
    drawn = areas(found)
    for suffix in ("png", "svg"):
        save_figure(drawn, out / f"areas.{suffix}", suffix)
    for name, result in found.results.items():
        result.save(out / name)
    tables = found.averages()
    contents: list[tuple[str, Any]] = [
        ("The experiment", about), ("What was found", "\n\n".join(found.findings())), ("Crossings between images", drawn),
        *((TITLES[name], table) for name, table in tables.items() if name != "rays"),
        *((f"The first network: {name}", result.figure()) for name, result in found.results.items()),
    ]  # fmt: skip
    pc.report(out / "report.html", f"The polytope lens on {found.data}", contents)

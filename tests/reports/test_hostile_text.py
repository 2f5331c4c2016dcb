"""Results with hostile text in every label are drawn, written, opened and shown: nothing of it acts."""

import xml.etree.ElementTree as ET
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from matplotlib.figure import Figure

import patchclamp as pc
from patchclamp.core import registry
from patchclamp.core.result import Result, Saved
from tests import tiny
from tests.core.test_result import NETWORK, _clustered, _ordinary, _results
from tests.core.test_text import HOSTILE, acts, texts, undone
from tests.effort import FULL, examples

OWN = {
    "*": ("site", "metric", "component"), "weight_lens": ("side", "sign", "matrix"), "trace_average": ("role",),
    "heads": ("score", "control"), "rewrite": ("moment",), "probe_report": ("data", "probe", "task", "rows"),
    "radial_density": ("rays",), "scaling": ("edit",), "paths": ("path", "strip_path", "gate", "strip_layer"), "plane": ("axis",),
    "activation_distribution": ("of", "statistic"), "raster": ("axis",), "clusters": ("labels", "algorithm", "form", "score"), "segment": ("layer",),
}  # fmt: skip
"""What of a kind's texts are names of its format, among which figures and pages choose."""
SHORT = ("lens", "generation", "spline_codes", "damage", "plane", "clusters")
KEPT = ("unedited", "edited", "on", "off", "")


def _made(llama: pc.Model, folders: pytest.TempPathFactory) -> dict[str, Result]:
    """All kinds in the full form; in the short form those that are made at once, with texts of every sort."""
    if FULL:
        return _results(llama) | _ordinary(folders)
    prompts = tiny.ids(4, 4)
    return {
        "lens": llama.lens(prompts[:1], ["resid_post.1"], [0, -1], k=2),
        "generation": llama.generate(prompts[:1], max_new_tokens=2),
        "spline_codes": llama.spline_codes(prompts[:2], ["mlp_act.1"], at=[1, -1], labels={"class": ["a", "b"]}),
        "damage": pc.metrics.damage(llama, {"twice": pc.Scale(2.0, site="resid_post.1")}, prompts[:2]),
        "plane": NETWORK.plane(torch.eye(5, dtype=torch.float64)[:3], names=["a", "b", "c"]),
        "clusters": _clustered(),
    }


def hostile(result: Result, text: str) -> Result:
    """The result with this text before every text in it that is nobody's name."""
    own = (*OWN["*"], *OWN.get(result.kind, ()))
    data = result._dataset()
    for name, held in [*data.coords.items(), *data.data_vars.items()]:
        if held.values.dtype.kind in "OUS" and name not in own:
            said = [text + str(one) if one not in KEPT else one for one in held.values.ravel().tolist()]
            new = (held.dims, np.array([*said, None], dtype=object)[:-1].reshape(held.shape), held.attrs)
            data = data.assign_coords({name: new}) if name in data.coords else data.assign({name: new})
    record = result.plain_record()
    record = record | {"prompts": [row | {"text": text} for row in record.get("prompts", [])], "command": text}
    parts = {name: hostile(part, text) for name, part in result._parts().items()}
    return type(result)._from_saved(Saved(data, record, result.tensors, parts))


@pytest.fixture(scope="module")
def made(llama: pc.Model, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    return _made(llama, tmp_path_factory)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of few pixels: what is drawn is the same."""
    savefig: Callable[..., None] = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *where, **how: savefig(figure, *where, **{**how, "dpi": 20}))


def check(result: Result, folder: Path) -> None:
    """What is saved is whole, and whatever reads it meets text only."""
    result.save(folder)
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert not acts("".join(ET.parse(folder / "figure.svg").getroot().itertext()))
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert not acts(page, but="\n\t")
    assert page.count("<script>") == page.count("</script>") == 1
    HTMLParser().feed(page)
    frame, read = result.frame(), pd.read_csv(folder / "data.csv", keep_default_na=False, dtype=str)
    for column, cells in zip(frame, read.items(), strict=True):
        assert undone(cells[0]) == str(column)
        for one, cell in zip(frame[column], cells[1], strict=True):
            if isinstance(one, str):
                assert undone(cell) == one
                assert not cell.startswith(tuple("=+-@\t\r\n"))
            elif isinstance(one, float) and np.isfinite(one):
                assert float(cell) == pytest.approx(one)
    again = pc.open(folder)
    assert again == result
    assert not acts(repr(again), but="\n")
    assert not acts(str(again), but="\n")


@pytest.mark.parametrize("kind", registry.kinds() if FULL else SHORT)
def test_a_result_with_hostile_text_is_saved_whole(
    made: dict[str, Result], kind: str, tmp_path: Path, small: None
) -> None:
    check(hostile(made[kind], HOSTILE), tmp_path / kind)


@settings(max_examples=examples(2, 30), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=texts)
def test_a_result_with_any_text_is_saved_whole(made: dict[str, Result], text: str, tmp_path: Path, small: None) -> None:
    for kind in (
        ("generation", "damage") if not FULL else ("projections", "layer_effects", "dose_response", "lens", "scaling")
    ):
        check(hostile(made[kind], text), tmp_path / kind)


def test_a_report_of_ones_own_holds_any_text(tmp_path: Path) -> None:
    contents: list[tuple[str, Any]] = [(HOSTILE, HOSTILE), ("table", pd.DataFrame({HOSTILE: [HOSTILE]}))]
    page = pc.report(tmp_path / "page.html", HOSTILE, contents, command=HOSTILE).read_text(encoding="utf-8")
    assert not acts(page, but="\n\t")
    assert page.count("</script>") == 1

"""Pictures of cells: what the page's script gets is what the result holds."""

import json
import re
from html import unescape
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

import patchclamp as pc
from patchclamp.reports import cells, lens
from patchclamp.reports.beside import beside
from patchclamp.reports.cells import Cells, Shade
from tests import tiny

IDS = tiny.ids(1, 6)


def shades(page: str) -> list[dict]:
    return json.loads(unescape(re.search(r'data-shades="([^"]*)"', page)[1]))


def decoded(shade: dict, shape: tuple[int, int]) -> np.ndarray:
    steps = [np.nan if letter == " " else cells._ALPHABET.index(letter) / 63 for letter in shade["cells"]]
    return np.array(steps).reshape(shape)


def test_the_script_and_python_spell_steps_alike() -> None:
    script = (files("patchclamp.reports") / "templates" / "page.js").read_text()
    assert f'const ALPHABET = "{cells._ALPHABET}";' in script
    assert len(set(cells._ALPHABET)) == 64


def test_colours_are_places_on_the_scale() -> None:
    values = np.array([[0.0, 0.5, np.nan], [1.0, -3.0, 9.0]])
    picture = Cells("", (Shade("x", values, "cividis", "0", "1"),), ("0", "1"), ("a", "b", "c"), [["t"] * 3] * 2)
    (shade,) = shades(str(cells.svg(picture)))
    assert np.allclose(decoded(shade, (2, 3)), [[0, 0.5, np.nan], [1, 0, 1]], atol=1 / 63, equal_nan=True)
    assert shade["colours"] == cells.palette("cividis")


def test_a_lens_shows_every_metric(llama: pc.Model) -> None:
    found = llama.lens(IDS, k=2)
    page = str(cells.svg(lens.cells(found)))
    said = shades(page)
    assert len(said) == len(lens.SHADES)
    one = found.data.isel(prompt=0)
    assert np.allclose(decoded(said[0], (3, 6)), one["final_probability"], atol=1 / 63)
    missing = np.isnan(decoded(said[lens.SHADES.index("surprisal")], (3, 6)))
    assert missing[:, -1].all()
    assert not missing[:, :-1].any()
    assert page.count('class="hit"') == int((one["top_id"].isel(top=0) == one["target_id"]).sum())


def test_untrusted_tokens_stay_text() -> None:
    texts = np.array([["<script>"]], dtype=object)
    picture = Cells(
        "<b>", (Shade("&", np.zeros((1, 1)), "cividis", "0", "1"),), ('"',), ("<i>",), [["</g>"]], texts=texts
    )
    page = str(cells.svg(picture))
    assert not re.search(r"<(script|b|i)>", page)
    assert page.count("</g>") == 1


def test_pictures_of_one_prompt_are_linked(llama: pc.Model) -> None:
    found, trace = llama.lens(IDS), llama.causal_trace(IDS, [1, 2], 9, samples=1)
    links = re.findall(r'data-link="(\w+)"', str(beside([found, trace])))
    assert len(links) == 2
    assert len(set(links)) == 1
    with pytest.raises(pc.InputError, match="the prompts differ"):
        beside([found, llama.lens(tiny.ids(1, 4))])


def test_a_report_takes_figures_and_results_side_by_side(llama: pc.Model, tmp_path: Path) -> None:
    found, trace = llama.lens(IDS), llama.causal_trace(IDS, [1, 2], 9, samples=1)
    page = pc.report(
        tmp_path / "x.html", "X", [("Both", [found, trace]), ("Figure", pc.aligned([found, trace]))]
    ).read_text()
    assert page.count('<svg class="cells"') == 2
    assert page.count("data:image/png") == 1
    with pytest.raises(pc.InputError, match="under 'Y' stands a int"):
        pc.report(tmp_path / "x.html", "X", [("Y", 5)])

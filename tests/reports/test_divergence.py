"""The page of a divergence."""

import pytest
from markupsafe import Markup

import patchclamp as pc
from patchclamp.reports import page
from patchclamp.reports.divergence import parts
from tests import tiny


def test_every_continuation_is_on_the_page(llama: pc.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "embed_figure", lambda _: Markup())
    edits = {"<twice>": pc.Scale(2.0, site="resid_post.1"), "none": []}
    found = pc.metrics.divergence(llama, edits, tiny.ids(2, 5), tiny.ids(1, 4), max_new_tokens=4)
    body = str(parts(found)[-1].body)
    assert body.count("<tr>") == 1 + 3 * 3
    assert "&lt;twice&gt;" in body
    for texts in found.data["text"].values:
        for text in texts:
            assert f"<td>{text}</td>" in body

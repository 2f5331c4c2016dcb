from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import patchclamp as pc
from patchclamp.core.plain import from_plain, to_plain
from tests import tiny
from tests.effort import examples

V = torch.arange(1.0, 33.0, dtype=torch.float64)
vectors = st.lists(st.floats(-3, 3, width=32), min_size=4, max_size=4).filter(any).map(torch.tensor)
places = st.fixed_dictionaries(
    {
        "site": st.sampled_from([None, "mlp_out.1", ["mlp_out", "attn_out.0-1"], "model.layers.1:out"]),
        "at": st.sampled_from(
            ["all", -1, slice(1, None), slice(0, 4, 2), [0, 2], pc.token(" Spain", 1), pc.per_prompt([0, "last"])]
        ),
    }
)
edits = st.one_of(
    st.builds(pc.Add, vectors, st.floats(-2, 2)),
    st.just(pc.Zero()),
    st.builds(lambda v, f: pc.Scale(f, v), vectors, st.floats(-2, 2)),
    st.builds(pc.ProjectOut, vectors),
    st.builds(lambda v: pc.Clamp(-1.0, None, v, about=v), vectors),
    st.builds(pc.Noise, st.floats(0, 2), st.integers(0, 9)),
    st.builds(pc.Patch, vectors),
    st.just(pc.Patch("The capital of Italy is")),
    st.just(pc.Patch(pc.source([1, 2, 3], [pc.Zero(site="embed")], at=-1))),
    st.just(pc.MeanAblate(["a", "b"])),
    st.builds(lambda v: pc.Add(v, where=pc.Along(v, above=0.5) & ~pc.Norm(below=1.0)), vectors),
)


@given(edits, places)
@settings(max_examples=examples(20, 60))
def test_an_edit_comes_back_equal(edit: pc.Edit, place: dict[str, object]) -> None:
    placed = edit.on(**place)  # type: ignore[arg-type]
    tensors: dict[str, torch.Tensor] = {}
    plain = to_plain(placed, tensors)
    assert from_plain(plain, tensors) == placed


def test_saved_edits_do_the_same_to_a_model(llama: pc.Model, tmp_path: Path) -> None:
    subspace = pc.Subspace(32, 3, seed=5)
    given_edits = [
        pc.Add(V, 0.1, site="mlp_out.1", at=2),
        pc.Rotate([tiny.ids(1, 5, seed=3)[0]], subspace=subspace, site="resid_post.1", at=-1),
        pc.ProjectOut(V, site="resid_pre.2", where=pc.Norm(above=1.0)),
        pc.Add(V, site="mlp_out.1", where=pc.NearestCode(torch.stack([-V, V]), 1, threshold=0.25)),
    ]
    pc.save_edits(given_edits, tmp_path)
    loaded = pc.load_edits(tmp_path)
    ids = tiny.ids(1, 5)
    assert torch.allclose(llama.run(ids, loaded).logits, llama.run(ids, given_edits).logits, atol=1e-6)
    assert {p.name for p in tmp_path.iterdir()} == {"edits.json", "edits.safetensors"}
    assert "pickle" not in (tmp_path / "edits.json").read_text()


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    pc.save_edits(pc.Zero(site="embed", at=slice(0, 4, 2)), tmp_path)
    assert pc.load_edits(tmp_path) == [pc.Zero(site="embed", at=slice(0, 4, 2))]
    file = tmp_path / "edits.json"
    file.write_text(file.read_text().replace('"format_version": 1', '"format_version": 2'))
    with pytest.raises(pc.InputError, match="edits of format version 2; this patchclamp reads up to 1"):
        pc.load_edits(tmp_path)


def test_what_cannot_be_saved_says_so(tmp_path: Path) -> None:
    for edit in (pc.Call(torch.sin, site="mlp_out"), pc.Edit(torch.nn.Tanh(), site="mlp_out")):
        with pytest.raises(pc.EditError, match="cannot be saved: only operations made of numbers and tensors"):
            pc.save_edits(edit, tmp_path)
    with pytest.raises(pc.InputError, match=r"holds no edits.json"):
        pc.load_edits(tmp_path)


def test_an_unknown_type_in_a_file_is_refused() -> None:
    with pytest.raises(pc.EditError, match="unknown saved type 'Addd'; did you mean 'Add'"):
        from_plain({"$type": "Addd"}, {})

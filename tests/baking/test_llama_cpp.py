"""Control vectors: what is written is what llama.cpp reads, and by its rule it is the hooked model."""

import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

import patchclamp as pc
from tests import tiny
from tests.baking.test_bake import C, D, draw
from tests.traces import no_trace


def by_llama_cpp(path: Path, width: int, layers: int) -> list[np.ndarray]:
    """llama.cpp's two steps: tensors into a buffer that starts at layer 1, and layer il from offset (il - 1) * width."""
    reader = gguf.GGUFReader(path)
    buffer = np.zeros(0, np.float32)
    for tensor in reader.tensors:
        number = int(tensor.name.split(".")[1])
        assert tensor.name.startswith("direction.")
        assert number > 0
        assert tensor.tensor_type == gguf.GGMLQuantizationType.F32
        assert tensor.data.shape == (width,)
        buffer = np.pad(buffer, (0, max(0, width * number - len(buffer))))
        buffer[width * (number - 1) : width * number] += tensor.data
    buffer = np.pad(buffer, (0, width * layers - len(buffer)))
    return [np.zeros(width, np.float32), *(buffer[width * (il - 1) : width * il] for il in range(1, layers))]


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "gpt_neox"])
def test_by_the_rule_of_llama_cpp_it_is_the_hooked_model(name: str, tmp_path: Path) -> None:
    model = pc.wrap(tiny.shared(name))
    edits = [pc.Add(C, 1.5, site="resid_post.1-2"), pc.Add(draw(9, 32), -0.5, site="resid_post.2")]
    with no_trace(model.module):
        path = model.export_control_vector(edits, tmp_path / "v.gguf")
    added = by_llama_cpp(path, 32, 3)
    module, ids = tiny.build(name), tiny.ids(2, 7)
    for il, layer in enumerate(model.sites.layers):

        def add(_: Any, __: Any, output: Any, il: int = il) -> Any:
            vector = torch.from_numpy(added[il]).double()
            return (output[0] + vector, *output[1:]) if isinstance(output, tuple) else output + vector

        module.get_submodule(layer).register_forward_hook(add)
    with torch.no_grad():
        found = module(torch.tensor(ids)).logits
    wanted = model.run(ids, edits).logits
    assert (found - wanted).abs().max() <= 1e-6 * wanted.abs().max(), "float32 vectors in a float64 model"
    assert (wanted - model.run(ids).logits).abs().max() > 1e-3 * wanted.abs().max()


def test_the_header_says_what_it_is(llama: pc.Model, tmp_path: Path) -> None:
    reader = gguf.GGUFReader(llama.export_control_vector(pc.Add(C, site="resid_post.2"), tmp_path / "v.gguf"))
    fields = {
        name: reader.get_field(name).contents()
        for name in ("general.architecture", "controlvector.model_hint", "controlvector.layer_count")
    }
    assert fields == {
        "general.architecture": "controlvector",
        "controlvector.model_hint": "llama",
        "controlvector.layer_count": 1,
    }
    assert [tensor.name for tensor in reader.tensors] == ["direction.2"]


def test_a_file_read_back_is_the_same_edits(llama: pc.Model, tmp_path: Path) -> None:
    edits = [pc.Add(C, 2.0, site="resid_post.2"), pc.Add(D[0], site="resid_post.1")]
    found = pc.control_vector(pc.export_control_vector(llama, edits, tmp_path / "v.gguf"))
    assert found == [pc.Add(D[0].float(), site="resid_post.1"), pc.Add((2.0 * C).float(), site="resid_post.2")]
    assert pc.control_vector(tmp_path / "v.gguf", scale=3.0)[0] == pc.Add(D[0].float(), 3.0, site="resid_post.1")


def test_a_file_of_repeng_opens(tmp_path: Path) -> None:
    """As its ``export_gguf`` writes them: layers from the last to the first, no other fields."""
    writer = gguf.GGUFWriter(tmp_path / "v.gguf", "controlvector")
    writer.add_string("controlvector.model_hint", "mistral")
    writer.add_uint32("controlvector.layer_count", 2)
    for layer in (2, 1):
        writer.add_tensor(f"direction.{layer}", D[layer - 1].float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert pc.control_vector(tmp_path / "v.gguf") == [pc.Add(D[i - 1].float(), site=f"resid_post.{i}") for i in (1, 2)]


@pytest.mark.parametrize(
    ("edits", "said"),
    [
        (pc.Add(C, site="resid_post.0"), r"pc\.Add at resid_post\.0.*layers 1\.\.2.*nearest: 'resid_post\.1'"),
        (pc.Add(C, site="resid_post"), r"pc\.Add at resid_post\.0"),
        (pc.Add(C, site="mlp_out.1"), r"pc\.Add at mlp_out\.1.*nearest: 'resid_post\.1'"),
        (pc.Add(C, site="embed"), r"pc\.Add at embed.*nearest.*pc\.export of the edit at 'embed'"),
        (pc.ProjectOut(D, site="resid_post.1"), r"pc\.ProjectOut at resid_post\.1: llama\.cpp only adds vectors; nearest: pc\.Add"),
        (pc.Add(C, site="resid_post.1", at="last"), r"at='last'.*nearest: the same edit at='all'"),
        (pc.Add(C, site="resid_post.1", where=pc.Norm(below=2.0)), r"nearest: the same edit at='all' without where="),
        (pc.Add(C), r"has no site"),
        ([], r"no edits were given"),
    ],
)  # fmt: skip
def test_what_llama_cpp_cannot_do_is_refused(llama: pc.Model, edits: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(pc.EditError, match=said):
        llama.export_control_vector(edits, tmp_path / "v.gguf")
    assert list(tmp_path.iterdir()) == []


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("no")
    with pytest.raises(pc.InputError, match="no GGUF file"):
        pc.control_vector(tmp_path / "text.gguf")
    with pytest.raises(pc.InputError, match="there is no file"):
        pc.control_vector(tmp_path / "none.gguf")
    for kind, name in (("llama", "direction.1"), ("controlvector", "direction.0"), ("controlvector", "other.1")):
        writer = gguf.GGUFWriter(tmp_path / "v.gguf", kind)
        writer.add_tensor(name, np.zeros(4, np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        with pytest.raises(pc.InputError, match="GGUF of 'llama'|is no float32 vector"):
            pc.control_vector(tmp_path / "v.gguf")


def test_without_gguf_the_error_names_the_extra(
    llama: pc.Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(
        pc.MissingDependencyError, match=r"gguf, which is not installed: pip install 'patchclamp\[assets\]'"
    ):
        llama.export_control_vector(pc.Add(C, site="resid_post.1"), tmp_path / "v.gguf")

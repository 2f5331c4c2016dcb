"""A baked checkpoint opens in plain transformers as the hooked model; a killed export leaves nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

import patchclamp as pc
from patchclamp.baking import bake
from tests import tiny
from tests.baking.test_bake import READERS, C, D, allowed, every, families
from tests.traces import no_trace

TIED = ["gpt2", "gemma", "cohere", "falcon"]
UNTIED = ["llama", "gpt_neox", "mixtral", "gpt_oss", "qwen2", "phi"]


@pytest.mark.parametrize("name", families([*TIED, *UNTIED], quick=["gpt2", "llama", "mixtral"]))
def test_the_checkpoint_is_the_hooked_model_in_plain_transformers(name: str, tmp_path: Path) -> None:
    model = pc.wrap(tiny.build(name, torch.float32))
    before = model.weights_digest()
    edits = [pc.ProjectOut(D, C, READERS, site=every(model)), pc.Scale(0.8, site="attn_out.1")]
    with no_trace(model.module):
        found = model.export(edits, tmp_path / "new", prompts=tiny.ids(1, 7, seed=2))
    assert model.weights_digest() == before
    again, said = AutoModelForCausalLM.from_pretrained(tmp_path / "new", dtype="auto", output_loading_info=True)
    assert not any(said[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    prompts = tiny.ids(3, 9, seed=33)
    wanted = model.run(prompts, edits).logits
    with torch.no_grad():
        logits = again.eval()(torch.tensor(prompts)).logits
    assert (logits - wanted).abs().max() <= allowed(model) * wanted.abs().max()
    assert found.logits <= allowed(model)
    assert 0 <= found.log_probability <= 2 * allowed(model) * float(wanted.abs().max())
    assert found.positions == 4 * 12 + 7
    assert pc.load_edits(tmp_path / "new") == edits
    record = json.loads((tmp_path / "new" / "patchclamp.json").read_text())
    assert record["differs"] == vars(found)
    assert record["model"]["weights_sha256"] == before
    assert len(record["prompts"]) == 5
    assert all(key in again.state_dict() for key in record["changed"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once(dtype: torch.dtype, tmp_path: Path) -> None:
    """The weights are the exact ones rounded to nearest, not the result of half-precision arithmetic."""
    module = tiny.build("llama", dtype)
    edit = pc.ProjectOut(D, site="mlp_out.1")
    found = pc.wrap(module).export(edit, tmp_path / "new")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "new", dtype="auto")
    old = module.model.layers[1].mlp.down_proj.weight.double()
    basis = edit.operation.directions
    assert torch.equal(again.model.layers[1].mlp.down_proj.weight, (old - basis.T @ (basis @ old)).to(dtype))
    assert 0 < found.logits < 1e-1


def test_an_interrupted_export_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = pc.wrap(tiny.build("llama", torch.float32))

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(bake, "save_edits", interrupted)
        model.export(pc.ProjectOut(D, site="mlp_out.1"), tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(pc.ExactnessError, match="the reloaded checkpoint's logits differ"):
        model.export(pc.ProjectOut(D, C, site=every(model)), tmp_path / "new", tolerance=1e-12)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = pc.wrap(tiny.build("llama", torch.float32))
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(bake, "place", lambda *_: pytest.fail("worked"))
    with pytest.raises(pc.InputError, match="is not empty"):
        model.export(pc.ProjectOut(D, site="mlp_out.1"), tmp_path)
    with pytest.raises(pc.ModelError, match="Sequential is no model of transformers"):
        pc.wrap(torch.nn.Sequential(torch.nn.Linear(3, 3)).eval()).export(pc.Scale(2.0, site="0:out"), tmp_path / "new")


@pytest.mark.assets
def test_texts_are_compared_and_the_tokenizer_goes_along(tmp_path: Path) -> None:
    """A tiny model with the tokenizer of a real one: without prompts it is compared on four neutral texts."""
    tokenizer = AutoTokenizer.from_pretrained(pc.catalogue.fetch("stories15m"))
    _, _, arguments = tiny.FAMILIES["llama"]
    module = LlamaForCausalLM(LlamaConfig(**{**arguments, "vocab_size": 32000, "num_hidden_layers": 1})).eval()
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            draw = torch.Generator().manual_seed(number)
            parameter.copy_(torch.randn(parameter.shape, generator=draw) / 8)
    model = pc.wrap(module, tokenizer)
    edit = pc.ProjectOut(D, C, site=every(model))
    found = pc.export(model, edit, tmp_path / "new", prompts="One day")
    again = AutoTokenizer.from_pretrained(tmp_path / "new")
    texts = [*bake.NEUTRAL, "One day"]
    assert [again(text)["input_ids"] for text in texts] == [tokenizer(text)["input_ids"] for text in texts]
    record = json.loads((tmp_path / "new" / "patchclamp.json").read_text())
    assert [prompt["text"] for prompt in record["prompts"]] == texts
    assert [prompt["ids"] for prompt in record["prompts"]] == [list(model.prompts(text)[0].ids) for text in texts]
    assert found.positions == sum(len(prompt["ids"]) for prompt in record["prompts"])
    assert found.logits <= allowed(model)


@pytest.mark.assets
@pytest.mark.slow
def test_a_constant_of_the_whole_stream_on_a_real_model(smollm2: pc.Model, tmp_path: Path) -> None:
    """The issue's bar: log-probabilities within 5e-3 of the hooked model, in a process that knows no patchclamp."""
    texts = ["The nurse said that she would come back later.", "It was raining, and the children stayed inside."]
    states = smollm2.record(texts, "resid_post.12", at=-1)["resid_post.12"].double()
    mean = smollm2.record(texts, "embed", at=-1)["embed"].double().mean(0)
    edit = pc.ProjectOut(states[0] - states[1], mean, site=["resid_pre", "resid_mid", "resid_post"])
    found = smollm2.export(edit, tmp_path / "new", prompts=texts)
    assert found.log_probability < 5e-3
    script = (
        "import sys, torch\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "folder, out, text = sys.argv[1:]\n"
        "tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)\n"
        "torch.save(model(**tokenizer(text, return_tensors='pt')).logits.detach(), out)\n"
        "assert 'patchclamp' not in sys.modules and not model.config.tie_word_embeddings\n"
    )
    out, text = tmp_path / "logits.pt", "The old king of Spain had a daughter who"
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "new"), str(out), text], check=True)
    logits = torch.load(out, weights_only=True)
    wanted = smollm2.run(text, edit).logits
    assert (logits.log_softmax(-1) - wanted.log_softmax(-1)).abs().max() < 5e-3
    assert (smollm2.run(text).logits.log_softmax(-1) - wanted.log_softmax(-1)).abs().max() > 0.1, (
        "the edit does something"
    )

"""A received checkpoint is data: its Python is not run, and no code is fetched for it."""

import builtins
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import patchclamp as pc
from patchclamp.models.trust import ATTENTION
from tests import tiny


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint whose Python would leave a mark, and somebody who answers every question with yes."""
    tiny.build("gpt2", torch.float32).save_pretrained(tmp_path / "model")
    code = f"open({str(tmp_path / 'ran')!r}, 'w').close()\n"
    (tmp_path / "model" / "own.py").write_text(code)
    monkeypatch.setattr(builtins, "input", lambda *_: "y")
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    return tmp_path / "model"


def change(file: Path, **entries: Any) -> None:
    config = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps(config | entries))


def test_a_checkpoint_that_needs_its_own_python_is_refused(saved: Path) -> None:
    change(saved / "config.json", model_type="own", auto_map={"AutoConfig": "own.Config", "AutoModel": "own.Model"})
    with pytest.raises(pc.ModelError, match=r"needs Python code that comes with it.*give it to pc.wrap"):
        pc.load(saved)
    assert not (saved.parent / "ran").exists()


def test_python_beside_a_known_architecture_is_left_alone(saved: Path) -> None:
    plain = pc.load(saved).run([[3, 4]]).logits
    change(saved / "config.json", auto_map={"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"})
    assert torch.equal(pc.load(saved).run([[3, 4]]).logits, plain)
    assert not (saved.parent / "ran").exists()
    assert "own" not in sys.modules


def test_the_python_of_a_tokenizer_is_not_run(saved: Path) -> None:
    change(saved / "tokenizer_config.json", tokenizer_class="Own", auto_map={"AutoTokenizer": ["own.Slow", "own.Fast"]})
    with pytest.raises(pc.ModelError, match="the tokenizer of .* could not be read"):
        pc.load(saved)
    assert not (saved.parent / "ran").exists()


@pytest.mark.parametrize(
    "value", ["own/kernel", "own/kernel@main:call", "kernels-community/flash-attn2", "Eager", "paged|sdpa"]
)
def test_attention_is_one_of_a_fixed_list(saved: Path, value: Any) -> None:
    with pytest.raises(pc.ModelError, match="unknown attn_implementation"):
        pc.load(saved, attn_implementation=value)


@pytest.mark.parametrize("entry", ["attn_implementation", "_attn_implementation", "experts_implementation"])
def test_a_config_cannot_ask_for_code_of_a_hub(saved: Path, entry: str) -> None:
    change(saved / "config.json", **{entry: "own/kernel:call"})
    with pytest.raises(pc.ModelError, match=f"asks for {entry.removeprefix('_')}='own/kernel:call', code of a hub"):
        pc.load(saved)


def test_the_entry_that_once_ran_code_is_ignored(saved: Path) -> None:
    change(saved / "config.json", _attn_implementation_internal="own/kernel")
    assert pc.load(saved).config._attn_implementation in ATTENTION

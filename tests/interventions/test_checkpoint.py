"""A model with other weights: what is shared, what is compared, and what a checkpoint must give back."""

from pathlib import Path

import pytest
import torch
from torch import nn

import patchclamp as pc
from patchclamp.interventions import checkpoint
from patchclamp.interventions.checkpoint import Agreement, agreement, check_folder, with_parameters, write_checkpoint
from tests import tiny
from tests.traces import no_trace


def scaled_head(module: nn.Module, factor: float) -> nn.Module:
    return with_parameters(module, {"lm_head.weight": factor * module.lm_head.weight.detach()})


def test_agreement_is_the_largest_difference_over_all_positions(llama: pc.Model) -> None:
    """Of a model whose logits are all 1.5 times as large, at every position of prompts of two lengths."""
    prompts = [*tiny.ids(2, 6), *tiny.ids(1, 3, seed=2)]
    run = llama.run(prompts).logits
    logits = torch.cat([run[0], run[1], run[2, :3]])
    found = agreement(llama, (), scaled_head(llama.module, 1.5), prompts)
    assert found.positions == 15
    assert found.logits == pytest.approx(0.5, rel=1e-12)
    gap = (logits.log_softmax(-1) - (1.5 * logits).log_softmax(-1)).abs().max()
    assert found.log_probability == pytest.approx(float(gap), rel=1e-9)
    edit = pc.Scale(1.5, site="logits")
    assert agreement(llama, [edit], scaled_head(llama.module, 1.5), prompts).logits < 1e-14
    assert agreement(llama, [edit], llama.module, prompts).logits == pytest.approx(1 / 3, rel=1e-12), (
        "relative to the edited model's largest"
    )
    moved = run[2, 2].abs().max() / run.nan_to_num().abs().max()
    only = agreement(llama, [edit.on(at=pc.per_prompt([0, 0, -1]))], llama.module, prompts)
    assert only.logits >= float(moved) / 3 / 1.5 - 1e-12, "the last position of a shorter prompt counts too"


def test_a_difference_is_refused_above_the_tolerance_alone() -> None:
    Agreement(9.0, 1e-4, 3).check("these", 1e-4)
    for value in (1.01e-4, float("nan")):
        with pytest.raises(
            pc.ExactnessError, match=r"^these logits differ from the edited model's by .*more than 0\.0001"
        ):
            Agreement(0.0, value, 3).check("these", 1e-4)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_copy_shares_every_tensor_but_the_new_ones(name: str) -> None:
    """Untied and tied embeddings; flags of gradients are kept, and the original is as it was."""
    module = tiny.build(name)
    table = "model.embed_tokens.weight" if name == "llama" else "transformer.wte.weight"
    module.get_parameter(table).requires_grad_(False)
    old = module.get_parameter(table)
    with no_trace(module):
        made = with_parameters(module, {table: (2 * old).float()})
    new = made.get_parameter(table)
    assert torch.equal(new, 2 * old)
    assert (new.dtype, new.requires_grad) == (torch.float64, False)
    for part, value in made.named_parameters():
        assert (value is module.get_parameter(part)) == (part != table), part
    for part, value in made.named_buffers():
        assert value is module.get_buffer(part)
    assert made.get_output_embeddings().weight is module.get_output_embeddings().weight
    assert made.config.tie_word_embeddings is False
    assert module.config.tie_word_embeddings == (name == "gpt2")
    norm = "model.norm.weight" if name == "llama" else "transformer.ln_f.weight"
    untouched = with_parameters(module, {norm: torch.ones(32)})
    assert untouched.get_output_embeddings().weight is module.get_output_embeddings().weight
    assert untouched.config.tie_word_embeddings == module.config.tie_word_embeddings


def test_only_an_empty_folder_is_written_to(tmp_path: Path) -> None:
    check_folder(tmp_path)
    check_folder(tmp_path / "new")
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path, tmp_path / "file"):
        with pytest.raises(pc.InputError, match="is not empty"):
            check_folder(folder)


def test_a_checkpoint_that_does_not_give_its_weights_back_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = pc.wrap(tiny.shared("llama", torch.float32))
    copy = scaled_head(model.module, 2.0)
    prompts, told = tiny.ids(1, 4), []

    def write(folder: Path, edits: object = None, tolerance: float = 1e-4) -> Agreement:
        return write_checkpoint(model, copy, edits, prompts, folder, lambda *given: told.append(given), tolerance)  # type: ignore[arg-type]

    found = write(tmp_path / "new")
    assert (found.logits < 1e-6, found.positions) == (True, 4)
    assert told[0][1] == found
    assert (tmp_path / "new" / "model.safetensors").is_file()
    with pytest.raises(
        pc.ExactnessError, match="the reloaded checkpoint's logits differ from the edited model's by 1 of"
    ):
        write(tmp_path / "other", edits=())
    original = checkpoint.auto_class

    class Worse:
        @staticmethod
        def from_pretrained(*args: object, **kwargs: object) -> object:
            again, said = original(copy.config).from_pretrained(*args, **kwargs)
            if told == ["lost"]:
                again.model.norm.weight.data[3] += 1e-3
            else:
                said["unexpected_keys"] = {"model.extra"}
            return again, said

    monkeypatch.setattr(checkpoint, "auto_class", lambda _: Worse)
    for what, message in (
        ("lost", r"does not give back 'model\.norm\.weight' \(1 tensors differ\)"),
        ("key", "'unexpected_keys': .'model.extra'"),
    ):
        told[:] = [what]
        with pytest.raises(pc.ExactnessError, match=message):
            write(tmp_path / what)
        assert not (tmp_path / what).exists()

"""What an open model says of itself, and when it notices that its weights are others."""

import hashlib
from pathlib import Path

import pytest
import torch
from torch import nn

import patchclamp as pc
from tests import tiny


class Buffered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 3, dtype=torch.float64)
        self.register_buffer("steps", torch.tensor([4]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.inner(x)
        return out


@pytest.fixture
def small() -> pc.Model:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return pc.wrap(Buffered().eval())


def test_the_weights_digest_is_the_hash_of_everything_that_is_saved(small: pc.Model) -> None:
    state = hashlib.sha256()
    for name in ("inner.bias", "inner.weight", "steps"):
        tensor = small.module.state_dict()[name]
        state.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode() + tensor.numpy().tobytes())
    assert small.weights_digest() == state.hexdigest()


def test_every_weight_and_buffer_counts_and_the_digests_follow_them(small: pc.Model) -> None:
    seen = [(small.weights_digest(), small.fingerprint(), small.weights_version())]
    assert (small.weights_digest(), small.fingerprint(), small.weights_version()) == seen[0]
    with torch.no_grad():
        small.module.inner.weight[2, 1] += 1  # type: ignore[union-attr,operator,index]
        seen.append((small.weights_digest(), small.fingerprint(), small.weights_version()))
        small.module.inner.bias[0] += 1  # type: ignore[union-attr,operator,index]
        seen.append((small.weights_digest(), small.fingerprint(), small.weights_version()))
        small.module.steps += 1  # type: ignore[operator]
        seen.append((small.weights_digest(), small.fingerprint(), small.weights_version()))
    small.module.inner.bias = nn.Parameter(small.module.inner.bias.detach() + 1)  # type: ignore[union-attr,operator]
    seen.append((small.weights_digest(), small.fingerprint(), small.weights_version()))
    assert [len(set(column)) for column in zip(*seen, strict=True)] == [5, 5, 5]


def test_a_fingerprint_is_the_same_in_every_type_that_was_rounded_once(small: pc.Model) -> None:
    wide = small.fingerprint()
    for dtype in (torch.float32, torch.bfloat16):
        other = Buffered().eval()
        other.load_state_dict(small.module.state_dict())
        model = pc.wrap(other.to(dtype))
        assert model.fingerprint() == wide
        assert model.weights_digest() != small.weights_digest()


def test_a_checkpoint_is_not_taken_up_by_a_model_with_other_weights(tmp_path: Path) -> None:
    model = pc.wrap(tiny.build("gpt2"))
    options = {"sites": "mlp_out", "at": "each", "read": pc.Logits(), "checkpoint": tmp_path}
    first = model.sweep(tiny.ids(1, 4), pc.Scale(2.0), **options)
    files = len(list(tmp_path.iterdir()))
    assert model.sweep(tiny.ids(1, 4), pc.Scale(2.0), **options).data.identical(first.data)
    assert len(list(tmp_path.iterdir())) == files > 0, "the same weights: nothing was run again"
    with torch.no_grad():
        model.module.transformer.h[1].mlp.c_proj.weight.mul_(0.5)  # type: ignore[union-attr,operator,index]
    second = model.sweep(tiny.ids(1, 4), pc.Scale(2.0), **options)
    assert len(list(tmp_path.iterdir())) == 2 * files
    assert abs(second.data - first.data).max() > 1e-3
    assert second.data.identical(model.sweep(tiny.ids(1, 4), pc.Scale(2.0), **{**options, "checkpoint": None}).data)


def test_what_a_model_says_of_itself(llama: pc.Model, small: pc.Model) -> None:
    assert repr(llama) == "<LlamaForCausalLM live: 3 layers, 29,472 parameters, torch.float64>"
    assert (llama.context, llama.vocabulary, llama.outputs, llama.dtype) == (64, 97, 97, torch.float64)
    assert llama.device == torch.device("cpu")
    assert "input_ids" in llama.parameters_of_forward
    assert (small.context, small.vocabulary, small.config, small.takes_tokens) == (None, None, None, False)
    assert small.parameters_of_forward == {"x"}
    bare = pc.wrap(nn.ReLU().eval())
    assert (bare.dtype, bare.device) == (torch.float32, torch.device("cpu"))
    assert pc.wrap(llama).module is llama.module
    record = llama.run([[3, 4]]).plain_record()["model"]
    assert {name: record[name] for name in ("name", "options", "class", "family", "dtype", "attention")} == {
        "name": None, "options": {}, "class": "LlamaForCausalLM", "family": "llama", "dtype": "float64", "attention": "sdpa",
    }  # fmt: skip


def test_outputs_are_known_after_the_first_run_and_are_tokens_or_classes(llama: pc.Model, small: pc.Model) -> None:
    with pytest.raises(pc.ModelError, match="not known yet; run it once"):
        _ = small.outputs
    small.run(torch.ones(1, 2, dtype=torch.float64))
    assert (small.outputs, small.output_id(2), small.output_label(2)) == (3, 2, "2")
    assert llama.output_id(96) == 96
    for wrong in (97, -1):
        with pytest.raises(pc.InputError, match=rf"output {wrong} is outside 0\.\.96"):
            llama.output_id(wrong)
    vit = pc.wrap(tiny.shared("vit"))
    assert [vit.output_id(f"LABEL_{i}") for i in range(5)] == [0, 1, 2, 3, 4]
    assert vit.output_label(3) == "LABEL_3"
    with pytest.raises(pc.InputError, match="unknown class 'LABEL_9'; did you mean"):
        vit.output_id("LABEL_9")


def test_what_has_no_embedding_is_named(llama: pc.Model) -> None:
    for identity in (-1, 97):
        with pytest.raises(pc.InputError, match=rf"token id {identity} is outside the vocabulary 0\.\.96"):
            llama.embedding(identity)
    with pytest.raises(pc.InputError, match="Linear has no token embedding"):
        pc.wrap(torch.nn.Linear(2, 2)).embedding(0)


def test_an_embedding_is_a_copy_of_what_the_model_looks_up(llama: pc.Model) -> None:
    found = llama.embedding(5)
    row = llama.module.model.embed_tokens.weight[5]  # type: ignore[union-attr,operator,index]
    assert torch.equal(found, row)
    assert found.data_ptr() != row.data_ptr()
    assert not found.requires_grad
    scaled = pc.wrap(tiny.shared("gemma"))
    assert torch.equal(scaled.embedding(5), scaled.record([[5, 6]], "embed")["embed"][0, 0]), (
        "with the model's own factor"
    )


def test_a_model_is_causal_as_it_was_seen_and_else_as_its_family_says(llama: pc.Model) -> None:
    assert llama.seen_causal is True
    assert llama.causal
    bert = pc.wrap(tiny.shared("bert"))
    assert (bert.seen_causal, bert.causal) == (False, False)
    bert.seen_causal = True
    assert bert.causal
    unseen = pc.wrap(tiny.build("gpt2").train())
    assert (unseen.seen_causal, unseen.causal) == (None, True)
    assert not pc.wrap(tiny.build("bert").train()).causal


def test_tokens_are_those_of_the_first_prompt(llama: pc.Model) -> None:
    assert llama.tokens([5, 7, 9]) == ["5", "7", "9"]

"""What a tokenizer, a processor or a collator gives: used, or refused by name."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import patchclamp as pc
from tests import inputs
from tests.effort import examples

IDS = torch.tensor([[5, 6, 7], [8, 9, 10]])
ONES = torch.ones_like(IDS)
PLAIN = [(5, 6, 7), (8, 9, 10)]


def read(given: Any, name: str = "decoder") -> list[tuple[int, ...]]:
    return [prompt.ids for prompt in inputs.model(name).prompts(given)]


@pytest.mark.parametrize(
    "form",
    [
        np.array([[5, 6, 7], [8, 9, 10]]),
        [np.array([5, 6, 7]), torch.tensor([8, 9, 10])],
        ((5, 6, 7), (8, 9, 10)),
        (row for row in [[5, 6, 7], [8, 9, 10]]),
        [range(5, 8), range(8, 11)],
        [[np.int64(5), 6, 7], [8, torch.tensor(9), 10]],
        IDS.to(torch.uint8),
        {"input_ids": PLAIN, "attention_mask": np.ones((2, 3))},
        [{"input_ids": [5, 6, 7]}, {"input_ids": [8, 9, 10], "attention_mask": [1, 1, 1]}],
        {"input_ids": IDS, "token_type_ids": torch.zeros_like(IDS), "position_ids": torch.arange(3)[None]},
        {"input_ids": IDS, "attention_mask": None, "position_ids": None},
    ],
    ids=lambda form: type(form).__name__,
)
def test_forms_of_token_ids(form: Any) -> None:
    found = inputs.model("decoder").prompts(form)
    assert [prompt.ids for prompt in found] == PLAIN
    assert [prompt.key for prompt in found] == [p.key for p in inputs.model("decoder").prompts([[5, 6, 7], [8, 9, 10]])]


def test_ragged_lists_as_a_tokenizer_gives_them() -> None:
    """``tokenizer(texts)`` without padding, and ``tokenizer(text)`` without a batch axis."""
    assert read({"input_ids": [[5, 6], [7]], "attention_mask": [[1, 1], [1]]}) == [(5, 6), (7,)]
    (one,) = inputs.model("pairs").prompts({"input_ids": [5, 6], "token_type_ids": [0, 1], "attention_mask": [1, 1]})
    assert (one.ids, one.tensors["token_type_ids"].tolist()) == ((5, 6), [[0, 1]])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([True, False], "a bool: True"),
        ([[True, False]], r"True \(bool\)"),
        (torch.tensor([[True]]), "got bool of shape"),
        ([[5.0]], r"5.0 \(float\)"),
        (torch.tensor([[5.0]]), "got float32 of shape"),
        ([5, None], r"None \(NoneType\)"),
        ([None], "a NoneType: None"),
        (b"abc", "got bytes"),
        ([b"abc"], "a bytes"),
        ({5, 6}, "got set"),
        ([5, [6]], r"\[6\] \(list\)"),
        ([[[5]]], r"\[5\] \(list\)"),
        (torch.zeros(1, 2, 3, dtype=torch.long), "of shape"),
        ([[-1]], "token id -1 is outside the vocabulary 0..96"),
        ([[97]], "token id 97 is outside"),
        ([[2**70]], "is outside the vocabulary"),
        ([("a", "b")], "a pair of texts is one prompt when the tokenizer joins it"),
        ([[5, 6], torch.randn(2)], "got float32"),
        ({}, "holds no input_ids"),
        ({"attention_mask": ONES}, "holds no input_ids"),
        ({"input_ids": "abc"}, "input_ids holds str"),
        ({"input_ids": torch.ones(1, 2, 3)}, r"\[row, position\] is wanted"),
    ],
)
def test_what_is_no_row_of_token_ids(given: Any, said: str) -> None:
    with pytest.raises(pc.InputError, match=said):
        read(given)


def test_ids_are_checked_before_they_are_shown() -> None:
    class Refusing:
        def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
            raise OverflowError(ids)

        decode = __call__ = convert_ids_to_tokens

    model = pc.wrap(inputs.module("decoder"), Refusing())
    for row in ([-1], [97], [2**70]):
        with pytest.raises(pc.InputError, match="outside the vocabulary"):
            model.prompts(row)


GIVEN_BY_OTHERS: dict[str, Any] = {
    "labels": IDS, "special_tokens_mask": ONES, "offset_mapping": torch.zeros(2, 3, 2), "length": torch.tensor([3, 3]),
    "overflow_to_sample_mapping": torch.tensor([0, 1]), "return_loss": True, "use_cache": True, "output_hidden_states": True,
    "output_attentions": True, "inputs_embeds": torch.zeros(2, 3, 16), "past_key_values": (1,), "cache_position": torch.arange(3),
    "decoder_input_ids": IDS, "pixel_values": torch.zeros(2, 3, 4, 4), "text": ["a", "b"], "logits_to_keep": 1,
}  # fmt: skip


@pytest.mark.parametrize("name", GIVEN_BY_OTHERS)
def test_what_a_run_does_not_use_is_named(name: str) -> None:
    with pytest.raises(
        pc.InputError, match=rf"\['{name}'\] beside input_ids .* valid: input_ids, attention_mask, position_ids"
    ):
        read({"input_ids": IDS, name: GIVEN_BY_OTHERS[name]})


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (torch.ones(2, 1, 3, 3), r"shape \(2, 1, 3, 3\)"),
        (torch.tensor([[1, 0, 1], [1, 1, 1]]), "hides tokens between others"),
        (ONES * 0.5, "other values than 0"),
        (ONES * 2, "other values than 0"),
        (torch.tensor([[0, 0, 0], [1, 1, 1]]), "0 everywhere"),
        (ONES[:1], r"shape \(1, 3\)"),
        (torch.ones(3), r"shape \(3,\)"),
        ("abc", "is no tensor"),
    ],
)
def test_masks_that_say_something_else_than_padding(mask: Any, said: str) -> None:
    with pytest.raises(pc.InputError, match=said):
        read({"input_ids": IDS, "attention_mask": mask})


@pytest.mark.parametrize(
    ("positions", "said"),
    [
        (torch.zeros(3, 2, 3, dtype=torch.long), r"shape \(3, 2, 3\)"),
        (torch.arange(3), r"shape \(3,\)"),
        (torch.arange(4)[None], r"shape \(1, 4\)"),
        (torch.arange(3.0)[None], "are integers; got float32"),
        (ONES.bool(), "are integers; got bool"),
        (ONES * 32, "hold 32, and LlamaForCausalLM takes 0..31"),
        (-ONES, "hold -1"),
        ("x", "is no tensor"),
        ([[0, 1, 2], [0, 1]], r"\[\(3,\), \(2,\)\]"),
    ],
)
def test_positions_that_do_not_fit(positions: Any, said: str) -> None:
    with pytest.raises(pc.InputError, match=said):
        read({"input_ids": IDS, "position_ids": positions})


def test_token_types_that_do_not_fit() -> None:
    with pytest.raises(pc.InputError, match="LlamaForCausalLM does not take it"):
        read({"input_ids": IDS, "token_type_ids": ONES})
    with pytest.raises(pc.InputError, match="hold 2, and BertForSequenceClassification takes 0..1"):
        read({"input_ids": IDS, "token_type_ids": 2 * ONES}, "pairs")
    foreign = inputs.model("pairs").prompts({"input_ids": IDS, "token_type_ids": ONES})
    with pytest.raises(pc.InputError, match=r"holds \['token_type_ids'\], which LlamaForCausalLM does not take"):
        inputs.model("decoder").prompts(foreign)


@pytest.mark.parametrize(
    ("name", "beside", "same"),
    [
        ("decoder", "position_ids", True),
        ("gpt2", "position_ids", True),
        ("gpt2", "token_type_ids", False),
        ("encoder", "position_ids", True),
        ("encoder", "token_type_ids", True),
        ("roberta", "position_ids", False),
        ("roberta", "token_type_ids", True),
    ],
)
def test_usual_values_are_left_out_only_where_the_model_takes_them_by_itself(
    name: str, beside: str, same: bool
) -> None:
    """RoBERTa counts from 2, and GPT-2 adds token 0's embedding for type 0."""
    usual = torch.arange(3).expand(2, -1) if beside == "position_ids" else torch.zeros_like(IDS)
    model, asked = inputs.model(name), {"input_ids": IDS, beside: usual}
    with torch.no_grad():
        wanted, plain = (inputs.module(name)(**each).logits for each in (asked, {"input_ids": IDS}))
    assert torch.equal(wanted, plain) == same
    assert ([p.key for p in model.prompts(asked)] == [p.key for p in model.prompts(IDS)]) == same
    assert torch.allclose(model.run(asked).logits, wanted, atol=1e-9)


@settings(max_examples=examples(20, 200))
@given(inputs.ragged, st.sampled_from(["left", "right"]), st.data())
def test_padding_is_taken_off_every_input(rows: list[list[int]], side: str, data: st.DataObject) -> None:
    types = [data.draw(st.lists(st.integers(0, 1), min_size=len(row), max_size=len(row))) for row in rows]
    found = inputs.model("pairs").prompts(inputs.packed(rows, side, token_type_ids=types))
    for prompt, row, own in zip(found, rows, types, strict=True):
        assert prompt.ids == tuple(row)
        assert prompt.tensors["token_type_ids"].tolist() == [own] if any(own) else not prompt.tensors


class Tagged(nn.Module):
    """A user's own module: it needs a mask, and takes a feature of each token."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 4)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        total: torch.Tensor = (self.table(input_ids) * (weight * attention_mask).unsqueeze(-1)).sum(1)
        return total


def test_a_users_own_module_gets_what_its_forward_names() -> None:
    net = Tagged().double().eval()
    model, rows = pc.wrap(net), [[5, 6, 7], [8]]
    weights = [torch.rand(len(row), dtype=torch.float64) for row in rows]
    packed = {
        "input_ids": torch.tensor([[5, 6, 7], [0, 0, 8]]),
        "attention_mask": torch.tensor([[1, 1, 1], [0, 0, 1]]),
        "weight": torch.stack([weights[0], torch.cat([torch.ones(2).double(), weights[1]])]),
    }
    found = model.run(packed).logits
    for i, (row, weight) in enumerate(zip(rows, weights, strict=True)):
        own = net(torch.tensor([row]), torch.ones(1, len(row)), weight[None])
        assert torch.allclose(found[i], own[0], atol=1e-12)
    with pytest.raises(pc.InputError, match=r"\['foo'\] beside input_ids .* valid: input_ids, attention_mask, weight"):
        model.run({**packed, "foo": ONES})


def test_models_without_token_ids_take_none() -> None:
    model = pc.wrap(inputs.plain())
    for row in ([1, 2, 3], [[1, 2, 3]], {"input_ids": [[1]]}):
        with pytest.raises(pc.InputError, match="Sequential takes no token ids|beside"):
            model.run(row)
    with pytest.raises(pc.InputError, match=r"inputs \['foo'\] are not used"):
        model.run({"foo": torch.ones(1, 4)})


def test_the_vocabulary_is_the_embedding_table() -> None:
    """A config may name fewer ids than the table has rows."""
    module = inputs.module("decoder")
    assert pc.wrap(module).vocabulary == module.get_input_embeddings().num_embeddings == 97

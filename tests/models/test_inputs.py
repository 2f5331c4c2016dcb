import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import patchclamp as pc
from patchclamp.models.inputs import make_batch, make_prompts

rows = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=6), min_size=1, max_size=4)


def read(inputs: object, **options: object) -> list[tuple[int, ...]]:
    return [p.ids for p in make_prompts(inputs, None, 16, 10, **options)]  # type: ignore[arg-type]


@given(rows)
def test_every_form_of_the_same_prompts_reads_alike(ids: list[list[int]]) -> None:
    wanted = [tuple(row) for row in ids]
    width = max(map(len, ids))
    assert read(ids) == wanted
    assert read([torch.tensor(row) for row in ids]) == wanted
    for left in (True, False):
        pads = [[0] * (width - len(row)) for row in ids]
        padded = torch.tensor([p + r if left else r + p for p, r in zip(pads, ids, strict=True)])
        mask = torch.tensor([[0] * len(p) + [1] * len(r) if left else [1] * len(r) + [0] * len(p) for p, r in zip(pads, ids, strict=True)])  # fmt: skip
        assert read({"input_ids": padded, "attention_mask": mask}) == wanted


@given(rows)
def test_batches_are_padded_on_the_right(ids: list[list[int]]) -> None:
    batch = make_batch(make_prompts(ids, None, 16, 10), torch.device("cpu"), None)
    assert batch.lengths == tuple(map(len, ids))
    for given_row, row in zip(batch.kwargs["input_ids"].tolist(), ids, strict=True):
        assert given_row == row + [0] * (max(map(len, ids)) - len(row))
    assert set(batch.kwargs) == {"input_ids"}
    assert (batch.rows, batch.width, batch.args) == (len(ids), max(map(len, ids)), ())


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "list of prompts is empty"),
        ([[]], "a prompt is empty"),
        (torch.zeros(1, 0, dtype=torch.long), "a prompt is empty"),
        ([[1] * 17], "has 17 tokens; the model's context is 16"),
        ([[3, 10]], r"token id 10 is outside the vocabulary 0\.\.9"),
        ([[3, -1]], "token id -1"),
        ("text", "needs a tokenizer"),
        (3.5, "got float"),
        ([3.5], "the list holds a float"),
        ({"input_ids": [[1]], "pixel_values": [[1.0]]}, r"inputs \['pixel_values'\]"),
        ({"input_ids": [[1, 2]], "attention_mask": [[1]]}, "attention_mask has shape"),
        ({"input_ids": [[1, 2]], "attention_mask": [[0, 0]]}, "a prompt is empty"),
        (torch.zeros(4), r"leading batch axis; got shape \(4,\)"),
        ([[1, 2], 3.5], "the list holds a float"),
        ({1: [[1, 2]]}, "have names, as .input_ids.; got 1 of int"),
    ],
)
def test_bad_inputs_are_refused(inputs: object, message: str) -> None:
    with pytest.raises(pc.InputError, match=message):
        make_prompts(inputs, None, 16, 10)


def test_tensors_of_other_models_keep_their_rows() -> None:
    x = torch.randn(3, 4)
    prompts = make_prompts(x, None, None, None, takes_ids=False)
    batch = make_batch(prompts, torch.device("cpu"), torch.float64)
    assert torch.equal(batch.args[0], x.double())
    assert prompts[0].length is None
    named = make_prompts({"a": x, "b": x + 1}, None, None, None)
    assert len(named) == 3
    assert torch.equal(make_batch(named, torch.device("cpu"), None).kwargs["b"], x + 1)
    with pytest.raises(pc.InputError, match="share their leading batch axis"):
        make_prompts({"a": x, "b": x[:2]}, None, None, None)


def test_the_longest_prompt_and_the_last_token_are_still_taken() -> None:
    assert read([[1] * 16]) == [(1,) * 16]
    assert read([[0, 9]]) == [(0, 9)]
    assert make_prompts([[1] * 99, [10**6]], None, None, None)[1].ids == (10**6,), "without a limit there is none"


def test_forms_of_one_prompt_and_mixtures() -> None:
    (one,) = make_prompts([4, 5], None, 16, 10)
    assert (one.ids, one.length, one.tokens, one.name) == ((4, 5), 2, ("4", "5"), "45")
    assert make_prompts(one, None, 16, 10) == [one]
    assert read([one, torch.tensor([6]), [7, 8], torch.tensor([[1, 2], [3, 4]])]) == [
        (4, 5),
        (6,),
        (7, 8),
        (1, 2),
        (3, 4),
    ]
    assert read({"input_ids": torch.tensor([1, 2]), "attention_mask": None, "token_type_ids": [[0, 0]]}) == [(1, 2)]
    whole = make_prompts(torch.tensor([[1, 2], [3, 4]]), None, None, None, takes_ids=False)
    assert [prompt.tensors["0"].tolist() for prompt in whole] == [[[1, 2]], [[3, 4]]]
    assert whole[0].name == f"input {whole[0].key}"


def test_only_floating_inputs_take_the_models_type() -> None:
    given = {"x": torch.ones(2, 3), "mask": torch.ones(2, 3, dtype=torch.long)}
    batch = make_batch(make_prompts(given, None, None, None), torch.device("cpu"), torch.float64)
    assert (batch.kwargs["x"].dtype, batch.kwargs["mask"].dtype) == (torch.float64, torch.long)
    assert (batch.lengths, batch.width, batch.rows) == ((None, None), None, 2)
    plain = make_batch(make_prompts(given, None, None, None), torch.device("cpu"), None)
    assert plain.kwargs["x"].dtype == torch.float32


def test_the_key_goes_by_content() -> None:
    x = torch.ones(1, 2)
    first, other, named = (make_prompts(v, None, None, None)[0].key for v in (x, 2 * x, {"a": x}))
    assert len({first, other, named}) == 3
    a, b = make_prompts([[1, 2], [1, 3]], None, None, None)
    assert a.key == make_prompts([1, 2], None, None, None)[0].key != b.key


@pytest.mark.assets
def test_an_empty_text_is_refused(smollm2: pc.Model) -> None:
    with pytest.raises(pc.InputError, match="the prompt '' is empty"):
        smollm2.run("")
    with pytest.raises(pc.InputError, match="the model's context is 8192"):
        smollm2.run(" a" * 9000)


@pytest.mark.parametrize(
    "bare",
    [
        torch.ones(3, dtype=torch.long, device="meta"),
        torch.tensor([1, 2]).to_sparse(),
    ],
    ids=["meta", "sparse"],
)
def test_ids_whose_numbers_cannot_be_reached_are_refused(bare: torch.Tensor) -> None:
    for inputs in (bare, [bare], {"input_ids": bare}, {"input_ids": [[1, 2, 3]], "attention_mask": bare}):
        with pytest.raises(pc.InputError):
            read(inputs)
    with pytest.raises(pc.InputError, match="meta"):
        read([torch.tensor(1, device="meta")])
    assert read([torch.tensor(1)]) == [(1,)]

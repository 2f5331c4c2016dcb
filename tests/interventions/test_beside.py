"""Inputs beside the ids reach the model in every verb; the oracle is the module's own call with them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import patchclamp as pc
from tests import inputs
from tests.effort import examples

ROW = [5, 6, 7, 8]
PLACES = {
    "decoder": "position_ids",
    "gpt2": "position_ids",
    "encoder": "position_ids",
    "pairs": "token_type_ids",
    "reward": "position_ids",
}
VALUES = {"position_ids": [[3, 5, 6, 9]], "token_type_ids": [[0, 0, 1, 1]]}


def asked(name: str) -> dict[str, Tensor]:
    beside = PLACES[name]
    return {"input_ids": torch.tensor([ROW]), beside: torch.tensor(VALUES[beside])}


def extras(name: str) -> dict[str, Tensor]:
    return {key: value for key, value in asked(name).items() if key != "input_ids"}


def near(found: Tensor, wanted: Tensor) -> bool:
    return found.shape == wanted.shape and bool((found - wanted).abs().max() <= 1e-9)


@pytest.mark.parametrize("name", PLACES)
def test_the_inputs_matter(name: str) -> None:
    assert not near(inputs.alone(name, ROW), inputs.alone(name, ROW, extras(name)))


@pytest.mark.parametrize("name", ["decoder", "gpt2", "pairs", "encoder", "reward"])
@settings(max_examples=examples(6, 60))
@given(rows=inputs.ragged, side=st.sampled_from(["left", "right"]), masked=st.booleans(), data=st.data())
def test_every_row_of_a_batch_with_inputs_of_its_own(
    name: str, rows: list[list[int]], side: str, masked: bool, data: Any
) -> None:
    model, beside = inputs.model(name), PLACES[name]
    top = 31 if beside == "position_ids" else 1
    rows = rows if masked else [(row * 6)[:6] for row in rows]
    values = [data.draw(st.lists(st.integers(0, top), min_size=len(row), max_size=len(row))) for row in rows]
    batch = inputs.packed(rows, side, **{beside: values})
    if not masked:
        del batch["attention_mask"]
    run, acts = model.run(batch), model.record(batch, "resid_post", at="last")["resid_post"]
    for i, (row, value) in enumerate(zip(rows, values, strict=True)):
        own = {beside: torch.tensor([value])} | ({"attention_mask": torch.ones(1, len(row))} if masked else {})
        wanted = inputs.alone(name, row, own)
        assert near(run.logits[i] if wanted.ndim == 1 else run.logits[i, : len(row)], wanted)
        with torch.no_grad():
            states = inputs.module(name)(torch.tensor([row]), **own, output_hidden_states=True).hidden_states
        assert near(acts[0, i], states[1][0, -1])


@pytest.mark.parametrize("name", PLACES)
def test_a_sweep_of_every_cell(name: str) -> None:
    """Cells share nothing that the inputs decide, and the plan says why; the plain prompt beside them is as ever."""
    model, vector = inputs.model(name), torch.linspace(-3, 3, 16, dtype=torch.float64)
    prompts = [*model.prompts(asked(name)), *model.prompts(ROW)]
    grid = model.sweep(prompts, pc.Add(vector), sites="resid_post", at="each", read=pc.Logits([0, 2]))
    assert grid.plan.strategy in ("rows", "cell")
    assert name == "reward" or PLACES[name] in grid.plan.reason or "prediction" in grid.plan.reason
    path = model.sites.layers[0]
    for i, own in enumerate((extras(name), {})):
        for position in range(len(ROW)):

            def add(_: Any, __: Any, out: Any, position: int = position) -> Any:
                moved = (out[0] if isinstance(out, tuple) else out).clone()
                moved[0, position] += vector
                return (moved, *out[1:]) if isinstance(out, tuple) else moved

            handle = model.sites.modules[path].register_forward_hook(add)
            wanted = inputs.alone(name, ROW, own)
            handle.remove()
            found = torch.from_numpy(grid.data.isel(prompt=i, site=0, layer=0, position=position).values)
            assert near(found, (wanted if wanted.ndim == 1 else wanted[-1])[[0, 2]])


def test_a_strategy_that_would_leave_them_out_is_refused() -> None:
    for strategy in ("wavefront", "layers"):
        with pytest.raises(pc.InputError, match=f"strategy='{strategy}' .* position_ids beside the tokens"):
            inputs.model("decoder").sweep(
                asked("decoder"), pc.Zero(), sites="mlp_out", at="last", read=pc.Logits([0]), strategy=strategy
            )


READ = pc.Logits([3])
OTHER = [5, 6, 10, 8]
VERBS: dict[str, Callable[[pc.Model, Any], float]] = {
    "top": lambda m, p: float(m.top(p, k=97).set_index("id").loc[3, "probability"]),
    "patch": lambda m, p: m.patch(OTHER, p, sites="resid_post.0", at="each", read=READ, verify=2).baseline.item(),
    "patch from": lambda m, p: m.patch(p, OTHER, sites="resid_post.1", at="each", read=READ).data.values.ravel()[-1],
    "attribution": lambda m, p: m.attribution_patch(OTHER, p, sites="resid_post.0", at="each", read=READ).baseline.item(),
    "path": lambda m, p: m.path_patch(OTHER, p, sender="z.0", receivers="resid_post.1", read=READ).baseline.item(),
    "lens": lambda m, p: float(m.lens(p, targets=3).data["probability"].values.ravel()[-1]),
    "contributions": lambda m, p: float(m.contributions(p, [3]).data.sum()),
    "editing": lambda m, p: float(m.run(p, pc.Scale(1.0, site="mlp_out.0", at="all")).logits[0, -1, 3]),
    "source": lambda m, p: float(m.run(OTHER, pc.Patch(pc.source(p)).on("resid_post.1", at="last")).logits[0, -1, 3]),
}  # fmt: skip


@pytest.mark.parametrize("verb", ["patch", "patch from", "attribution", "path", "contributions", "editing", "source"])
def test_verbs_that_give_the_logit(verb: str) -> None:
    wanted = float(inputs.alone("decoder", ROW, extras("decoder"))[-1, 3])
    assert VERBS[verb](inputs.model("decoder"), asked("decoder")) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("verb", ["top", "lens"])
def test_verbs_that_give_the_probability(verb: str) -> None:
    wanted = float(inputs.alone("decoder", ROW, extras("decoder"))[-1].softmax(-1)[3])
    assert VERBS[verb](inputs.model("decoder"), asked("decoder")) == pytest.approx(wanted, rel=1e-9)


def test_positions_that_start_again_are_read_as_the_model_reads_them() -> None:
    """transformers takes them for several texts in one row, but only without a mask and a cache."""
    row = torch.tensor([[5, 6, 7, 5, 6, 7]])
    again = torch.tensor([[0, 1, 2, 0, 1, 2]])
    module = inputs.module("decoder")
    for mask in ({}, {"attention_mask": torch.ones_like(row)}):
        given = {"input_ids": row, "position_ids": again, **mask}
        with torch.no_grad():
            assert near(inputs.model("decoder").run(given).logits, module(**given).logits)


@pytest.mark.parametrize("name", ["decoder", "gpt2"])
def test_generation_goes_on_from_the_given_positions(name: str) -> None:
    model, module = inputs.model(name), inputs.module(name)
    batch = {"input_ids": torch.tensor([ROW, OTHER]), "position_ids": torch.tensor([[3, 5, 6, 9], [0, 1, 2, 3]])}
    found = model.generate(batch, max_new_tokens=4, eos_token_id=None).ids
    for i in range(2):
        own = {key: value[i : i + 1] for key, value in batch.items()}
        mask = torch.ones(1, 4, dtype=torch.long)
        out = module.generate(
            **own, attention_mask=mask, max_new_tokens=4, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        assert found[i] == tuple(out[0, 4:].tolist())
    with pytest.raises(pc.InputError, match="position 30 and 4 new tokens exceed"):
        model.generate({"input_ids": [[5]], "position_ids": [[30]]}, max_new_tokens=4)


def test_a_saved_result_holds_them(tmp_path: Path) -> None:
    model = inputs.model("decoder")
    grid = model.sweep(asked("decoder"), pc.Zero(), sites="mlp_out", at="last", read=READ)
    grid.save(tmp_path)
    again = pc.repeat(tmp_path, model)
    assert grid.data.equals(again.data)  # type: ignore[attr-defined]
    assert again.baseline.item() == pytest.approx(float(inputs.alone("decoder", ROW, extras("decoder"))[-1, 3]))  # type: ignore[attr-defined]


def test_equal_ids_with_other_inputs_have_other_keys() -> None:
    model = inputs.model("decoder")
    (with_them,), (without,) = model.prompts(asked("decoder")), model.prompts(ROW)
    assert with_them.key != without.key
    assert with_them.head(2).tensors["position_ids"].tolist() == [[3, 5]]


def test_boxes_of_a_document() -> None:
    model, rows = inputs.model("boxes"), [[5, 6, 7], [8]]
    draw = torch.Generator().manual_seed(0)
    boxes = [torch.randint(0, 500, (len(row), 4), generator=draw).sort(-1).values for row in rows]
    batch = inputs.packed(rows, "right") | {
        "bbox": torch.stack([boxes[0], torch.cat([boxes[1], boxes[1].new_zeros(2, 4)])])
    }
    run = model.run(batch)
    for i, row in enumerate(rows):
        assert near(run.logits[i, : len(row)], inputs.alone("boxes", row, {"bbox": boxes[i][None]}))
    with pytest.raises(pc.InputError, match="has no entry for a value of bbox"):
        model.run({"input_ids": [[5]], "bbox": [[[0, 0, 1, 5000]]]})


def test_a_fact_takes_none_of_them() -> None:
    with pytest.raises(pc.InputError, match="of its prompt say nothing"):
        inputs.model("decoder").rewrite_fact(asked("decoder"), [1], 5)


def test_positions_that_leap_stay_one_text_without_a_cache() -> None:
    """Without mask and cache transformers takes each leap of the positions for the beginning of another text."""
    model = inputs.model("decoder")
    settings_: dict[str, Any] = {"max_new_tokens": 4, "eos_token_id": None, "output_logits": True}
    prompts = model.prompts(asked("decoder"))
    wanted = model.generate(prompts, **settings_)
    found = model.generate(prompts, use_cache=False, **settings_)
    assert found.ids == wanted.ids
    assert near(found.logits[0], wanted.logits[0])

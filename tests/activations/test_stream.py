"""Streams: every row once a pass, mixed, replayable, and resumed bit for bit."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import patchclamp as pc
from patchclamp.activations.batch import ActivationBatch
from patchclamp.activations.sources import ArraySource
from patchclamp.activations.stream import ActivationStream
from tests import tiny
from tests.lenses.families import opened
from tests.traces import no_trace


class Chunked:
    """Numbered rows of documents of seven rows each, in chunks of an odd size, as of what cannot be held."""

    d, mixed, omits_special = 2, False, False

    def __init__(self, count: int) -> None:
        self.count = count

    def digest(self) -> str:
        return f"{self.count} rows"

    def chunks(self, seed: int | None, begin: int, size: int) -> Iterator[ActivationBatch]:
        numbers = torch.arange(self.count)
        for part in numbers[begin:].split(5):
            yield ActivationBatch(part[:, None].expand(-1, 2).double(), part // 7, part % 7)


def numbers_of(batches: Any) -> list[list[int]]:
    return [batch.rows[:, 0].long().tolist() for batch in batches]


@given(st.integers(1, 60), st.integers(1, 17), st.integers(1, 3), st.integers(1, 25), st.integers(0, 9))
def test_every_row_comes_once_a_pass_and_resumes_anywhere(
    count: int, batch_size: int, passes: int, buffer: int, stop: int
) -> None:
    for source in (Chunked(count), ActivationStream.from_array(torch.arange(count * 2.0).view(-1, 2) // 2).source):
        options = {"batch_size": batch_size, "passes": passes, "buffer": buffer, "seed": 3}
        batches = list(ActivationStream(source, **options))
        rows = [n for batch in numbers_of(batches) for n in batch]
        assert [sorted(rows[i * count : (i + 1) * count]) for i in range(passes)] == [list(range(count))] * passes
        assert all(len(batch) == batch_size for batch in batches[:-1])
        stream = ActivationStream(source, **options)
        before = [next(stream) for _ in range(min(stop, len(batches) - 1))]
        state = json.loads(json.dumps(stream.state()))
        other = ActivationStream(source, **options)
        other.restore(state)
        assert numbers_of(before) + numbers_of(other) == numbers_of(batches)
        assert other.exhausted
        assert other.remaining == 0


def test_rows_are_mixed_within_the_buffer_and_each_pass_anew() -> None:
    stream = ActivationStream(Chunked(140), batch_size=140, passes=2, buffer=70)
    first, second = stream
    for batch in (first, second):
        assert torch.equal(batch.rows[:, 0].long(), batch.documents * 7 + batch.positions), "columns are permuted alike"
        assert batch.rows[:70].max() < 70 <= batch.rows[70:].min(), "a buffer is read whole"
        neighbours = (batch.documents[1:] == batch.documents[:-1]).double().mean()
        assert neighbours < 0.3, "in the order of the source they are 6 of 7"
    assert not torch.equal(first.rows, second.rows)
    plain = next(ActivationStream(Chunked(140), batch_size=140, shuffle=False))
    assert torch.equal(plain.rows[:, 0].long(), torch.arange(140))
    again, other = (next(ActivationStream(Chunked(140), batch_size=140, seed=seed)) for seed in (0, 1))
    assert not torch.equal(again.rows, other.rows)


def test_a_sample_does_not_move_the_stream() -> None:
    stream = ActivationStream(Chunked(50), batch_size=8)
    next(stream)
    state, sample = stream.state(), stream.sample(20)
    assert stream.state() == state
    rest = numbers_of(stream)
    stream.restart()
    assert torch.equal(sample, torch.cat([batch.rows for batch in stream])[:20])
    assert len(stream.sample(99)) == 50
    assert rest == numbers_of(ActivationStream(Chunked(50), batch_size=8))[1:]


def test_a_function_is_called_step_by_step() -> None:
    def make(seed: int, step: int, count: int) -> torch.Tensor:
        return torch.full((count, 3), seed * 100.0 + step)

    stream = ActivationStream.from_function(make, 3, batch_size=4, seed=2)
    assert stream.count is None
    assert stream.passes is None
    assert numbers_of(next(stream) for _ in range(3)) == [[200] * 4, [201] * 4, [202] * 4]
    assert numbers_of(ActivationStream.from_function(make, 3, count=6, batch_size=4)) == [[0] * 4, [1] * 2]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (torch.full((3, 2), float("nan")), "row 0 has nan at unit 0"),
        (torch.tensor([[1.0, 2.0], [3.0, float("inf")]]), "row 1 has inf at unit 1"),
        (torch.zeros(0, 4), "no activations"),
        (np.zeros(4), r"\[row, d\]"),
        (np.zeros((2, 3), dtype=int), "int64"),
    ],
)
def test_rows_that_cannot_be_used(rows: Any, message: str) -> None:
    with pytest.raises(pc.InputError, match=message):
        ActivationStream.from_array(rows)


def test_numbers_in_the_other_byte_order_are_read() -> None:
    rows = np.arange(12.0).reshape(6, 2)
    for shuffle in (True, False):
        swapped, native = (
            ActivationStream.from_array(rows.astype(kind), batch_size=4, shuffle=shuffle) for kind in (">f4", "<f4")
        )
        assert torch.equal(swapped.sample(6), native.sample(6))


def test_states_of_other_streams_are_refused_by_name() -> None:
    stream = ActivationStream(Chunked(50), batch_size=8)
    for other, name in (
        (ActivationStream(Chunked(51), batch_size=8), "source"),
        (ActivationStream(Chunked(50), batch_size=8, seed=1), "seed"),
        (ActivationStream(Chunked(50), batch_size=9), "batch_size"),
    ):
        with pytest.raises(pc.InputError, match=f"another stream: {name} was"):
            stream.restore(other.state())
    with pytest.raises(pc.InputError, match="no state of a stream"):
        stream.restore({})
    with pytest.raises(pc.InputError, match="did you mean 'seed'"):
        stream.restore({**stream.state(), "sed": 1})
    list(stream)
    with pytest.raises(pc.InputError, match="exhausted"):
        iter(stream)
    with pytest.raises(pc.InputError, match="empty"):
        next(ActivationStream(Chunked(0)))


def test_a_recording_gives_its_rows_without_padding() -> None:
    model, prompts = opened("llama"), [*tiny.ids(1, 5), *tiny.ids(1, 3, seed=1)]
    acts = model.record(prompts, ["mlp_act", "z.1"])
    for site in ("mlp_act.1", "z.1"):
        (batch,) = ActivationStream.from_recording(acts, site, shuffle=False)
        assert batch.documents.tolist() == [0] * 5 + [1] * 3
        assert batch.positions.tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
        assert torch.equal(batch.rows[5:], acts[site][1, :3].flatten(1))
    with pytest.raises(pc.InputError, match="several layers"):
        ActivationStream.from_recording(acts, "mlp_act")


def test_a_live_model_gives_what_it_records_with_the_tokens_places() -> None:
    model, prompts = opened("llama"), [*tiny.ids(2, 9), *tiny.ids(2, 4, seed=1)]
    acts = model.record(prompts, "mlp_act.1")["mlp_act.1"]
    with no_trace(model.module):
        stream = model.activation_stream(prompts, "mlp_act.1", pack=False, batch_size=5, buffer=11, batch_tokens=20)
        batch = ActivationBatch.joined(list(stream))
    assert sorted(zip(batch.documents.tolist(), batch.positions.tolist(), strict=True)) == [
        (i, p) for i, prompt in enumerate(prompts) for p in range(1, len(prompt))
    ]
    for row, document, position, token in zip(batch.rows, batch.documents, batch.positions, batch.tokens, strict=True):
        assert torch.allclose(row, acts[document, position], atol=1e-12)
        assert token == prompts[document][position]
    everything = model.activation_stream(prompts, "mlp_act.1", pack=False, skip_special=False)
    assert everything.count == 26
    assert int(next(everything).special.sum()) == 4


@pytest.mark.parametrize("batch_size", [1, 7])
def test_attention_sinks_inside_the_text_are_left_out_or_marked(batch_size: int) -> None:
    model, prompts = pc.wrap(tiny.build("llama")), tiny.ids(6, 9)
    sink, (plain, *_) = prompts[2][4], prompts[0][1:]
    with torch.no_grad():
        model.module.get_input_embeddings().weight[sink] *= 1000
    make = {"pack": False, "batch_size": batch_size, "buffer": 20, "seed": 3}
    places = [(i, p) for i, prompt in enumerate(prompts) for p in range(1, len(prompt))]
    sinks = [place for place in places if prompts[place[0]][place[1]] == sink]

    stream = model.activation_stream(prompts, "resid_pre.0", **make)
    assert stream.count == len(places), "what the model will make of a token is not known beforehand"
    shown = ActivationBatch.joined(list(stream))
    assert sink not in shown.tokens
    assert plain in shown.tokens
    assert not shown.special.any()
    assert len(shown) == len(places) - len(sinks)
    assert len(stream.sample(1000)) == len(shown)
    whole = model.activation_stream(prompts, "resid_pre.0", skip_special=False, **make)
    everything = ActivationBatch.joined(list(whole))
    inside = everything.special & (everything.positions > 0)
    assert len(everything) == sum(map(len, prompts))
    assert set(everything.tokens[inside].tolist()) == {sink}
    stream.restart()
    next(stream)
    state, expected = stream.state(), next(stream).rows
    again = model.activation_stream(prompts, "resid_pre.0", **make)
    again.restore(state)
    assert torch.equal(next(again).rows, expected)


def test_a_live_stream_resumes_bit_for_bit() -> None:
    model, prompts = opened("llama"), tiny.ids(9, 13)
    make = {"length": 8, "batch_size": 7, "buffer": 20, "batch_tokens": 24, "passes": 2}
    batches = list(model.activation_stream(prompts, "resid_post.0", **make))
    stream = model.activation_stream(prompts, "resid_post.0", **make)
    for number in range(len(batches) - 1):
        state = stream.state()
        other = model.activation_stream(prompts, "resid_post.0", **make)
        other.restore(state)
        assert torch.equal(next(other).rows, batches[number].rows)
        next(stream)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("kind", ["array", "function", "buffered"])
def test_the_parts_of_a_split_stream_have_every_row_once(kind: str, shuffle: bool) -> None:
    rows = torch.arange(50.0).unsqueeze(1)

    class Unmixed(ArraySource):
        mixed = False

    make: dict[str, Callable[[], ActivationStream]] = {
        "array": lambda: ActivationStream.from_array(rows, batch_size=8, shuffle=shuffle, seed=3),
        "function": lambda: ActivationStream.from_function(
            lambda _, step, count: rows[step * count : (step + 1) * count], 1, batch_size=10, count=50
        ),
        "buffered": lambda: ActivationStream(Unmixed(rows), batch_size=8, shuffle=shuffle, buffer=16, seed=3),
    }
    whole = make[kind]()
    next(iter(whole))
    first, rest = whole.split(21)
    parts = [torch.cat([batch.rows for batch in part])[:, 0].tolist() for part in (first, rest)]
    assert [len(part) for part in parts] == [21, 29]
    assert parts[0] + parts[1] == torch.cat([batch.rows for batch in make[kind]()])[:, 0].tolist()
    assert (first.count, rest.count, first.exhausted) == (21, 29, True)
    assert whole.remaining == 50 - whole.batch_size, "the whole did not move"
    rest.restart()
    iterator = iter(rest)
    next(iterator)
    state, expected = rest.state(), next(iterator).rows
    _, again = make[kind]().split(21)
    again.restore(state)
    assert torch.equal(next(iter(again)).rows, expected)
    with pytest.raises(pc.InputError, match="end was None there, and is 21 here|begin was 21 there"):
        first.restore(state)
    for count in (0, 50):
        with pytest.raises(pc.InputError, match=r"in 1\.\.49"):
            whole.split(count)
    with pytest.raises(pc.InputError, match="split one of passes=1"):
        ActivationStream.from_array(rows, passes=2).split(3)


def test_an_endless_stream_is_split_too() -> None:
    endless = ActivationStream.from_function(
        lambda _, step, count: torch.full((count, 1), float(step)), 1, batch_size=4
    )
    first, rest = endless.split(10)
    assert [batch.rows[0, 0].item() for batch in first] == [0.0, 1.0, 2.0]
    assert next(iter(rest)).rows[:, 0].tolist() == [2.0, 2.0, 3.0, 3.0]


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_sample_of_a_part_holds_none_of_the_other_part(shuffle: bool) -> None:
    rows = torch.arange(200.0).reshape(100, 2)
    training, held_out = ActivationStream.from_array(rows, batch_size=7, shuffle=shuffle).split(30)
    for part, count in ((training, 30), (held_out, 70)):
        own = torch.cat([batch.rows for batch in part])
        assert len(own) == count
        assert torch.equal(part.sample(1000), own)
        assert torch.equal(part.sample(11), own[:11])

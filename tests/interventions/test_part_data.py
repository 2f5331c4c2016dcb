"""A part of a sweep is data: another process that holds an equal model gives equal bytes."""

import multiprocessing
import pickle
from multiprocessing.connection import Connection
from pathlib import Path

import torch

import patchclamp as pc
from patchclamp.interventions.execute import execute
from patchclamp.interventions.options import RunOptions
from patchclamp.interventions.part_files import load_part, save_part
from patchclamp.interventions.part_runner import run_part
from patchclamp.interventions.parts import Part, PartResult
from patchclamp.interventions.planning import Schedule
from tests import tiny
from tests.interventions.planning import scheduled

IDS = [*tiny.ids(1, 6), *tiny.ids(1, 4, seed=1)]
V = torch.arange(32, dtype=torch.float64) / 16 - 1
READS = [
    pc.Probability([5]), pc.LogOdds([5]), pc.LogitDifference(5, 6), pc.Loss(), pc.KL(), pc.Rank([5, 6]), pc.TopK(2),
    pc.Logits(), pc.Logits([7], at=[0, -1]), pc.Activation("resid_post.1"),
]  # fmt: skip


def with_strategy(model: pc.Model, edit: pc.Edit, strategy: str | None = None) -> Schedule:
    return scheduled(
        model, IDS, edit, RunOptions(strategy=strategy), sites=["mlp_out", "attn_out"], at="each", read=READS
    )


def stored(part: Part, result: PartResult) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in result.to_tensors(part).items()}


def child(connection: Connection, threads: int) -> None:
    """Another process: it rebuilds the model, runs what it is sent, and sends back what it got."""
    torch.set_num_threads(threads)
    model = pc.wrap(tiny.build("llama"))
    connection.send_bytes(pickle.dumps([run_part(model, part) for part in pickle.loads(connection.recv_bytes())]))


def test_a_part_gives_the_same_bytes_in_another_process(llama: pc.Model) -> None:
    noise = pc.Noise(0.5, where=pc.Norm(below=2.0))
    parts = [
        part
        for strategy, edit in (("wavefront", pc.Add(V)), ("layers", pc.Patch(IDS[0], at=0)), ("rows", noise))
        for part in with_strategy(llama, edit.on(at="each"), strategy).parts()
    ]
    assert {part.strategy for part in parts} == {"wavefront", "layers", "rows"}
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=child, args=(there, torch.get_num_threads()))
    process.start()
    here.send_bytes(pickle.dumps(parts))
    results: list[PartResult] = pickle.loads(here.recv_bytes())
    process.join()
    values = set()
    for part, result in zip(parts, results, strict=True):
        assert stored(part, result) == stored(part, run_part(llama, part))
        values.update(stored(part, result).values())
    assert len(values) > len(parts), "control: they are not all the same numbers"


def test_a_job_is_its_parts_in_any_order(llama: pc.Model) -> None:
    for strategy in ("wavefront", "rows"):
        schedule = with_strategy(llama, pc.Add(V), strategy)
        whole, _ = execute(schedule)
        parts = list(schedule.parts())
        assert len(parts) > 1
        together = PartResult()
        for part in reversed(parts):
            together.include(run_part(llama, part))
        assert together.values.keys() == whole.values.keys() == set(range(len(schedule.job.unique_cells)))
        for numbers, other in ((together.values, whole.values), (together.baseline, whole.baseline)):
            assert all(
                torch.equal(one, two) for key in numbers for one, two in zip(numbers[key], other[key], strict=True)
            )


def test_flags_survive_a_file(llama: pc.Model, tmp_path: Path) -> None:
    """Of one vector that overflows and one that does not, whatever numbers the runs have in their jobs."""
    schedule = scheduled(llama, IDS, pc.Add(V), sites="mlp_out.1", at=-1, over={"scale": [1.0, 1e308]}, read=READS)
    for number, part in enumerate(schedule.parts()):
        result = run_part(llama, part)
        assert 0 < len(result.overflow) < len(part.runs)
        assert result.overflow <= result.unread
        file = tmp_path / f"{number}.safetensors"
        save_part(file, part, result)
        again = load_part(file, part)
        assert (again.overflow, again.unread) == (result.overflow, result.unread)
        assert stored(part, again) == stored(part, result)

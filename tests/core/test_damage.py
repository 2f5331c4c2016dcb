"""Every format that is written: damaged, cut, foreign and crafted files end in an error that names them, or change nothing."""

import json
import os
import random
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import patchclamp as pc
from patchclamp.cli.networks import _array
from patchclamp.core import registry
from patchclamp.core.errors import PatchclampWarning
from patchclamp.core.files import read_record, seal_record, write_record
from patchclamp.core.result import Result
from patchclamp.core.tensors import read_sealed, read_state, write_sealed, write_state
from patchclamp.directions.direction import Direction
from patchclamp.directions.mean_difference import MeanDifference
from patchclamp.figures import style
from patchclamp.polytopes.nearest_linear import NearestLinear
from patchclamp.rewriting.moment import Covariance
from patchclamp.studies import digits
from tests import tiny
from tests.effort import examples


@dataclass(frozen=True)
class Format:
    """How a thing is written and read; what is read is told by a text."""

    write: Callable[[Path], Any]
    read: Callable[[Path], str]
    folder: bool = True
    """Whether its record lists every file."""


@cache
def model() -> pc.Model:
    return pc.wrap(tiny.shared("llama", torch.float32))


V = torch.randn(32, generator=torch.Generator().manual_seed(0))
TENSORS = {"a": torch.arange(6.0), "b": torch.tensor(3)}


def direction() -> Any:
    rows = torch.randn(40, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return MeanDifference().fit(rows, [0, 1] * 20).direction_


def said(value: Any) -> str:
    """All that a state holds."""
    return json.dumps(
        value, sort_keys=True, default=lambda held: held.tolist() if hasattr(held, "tolist") else str(held)
    )


def result(folder: Path) -> Any:
    return model().run(tiny.ids(1, 4), [pc.Add(V, site="resid_post.1")], record=["z.1"], at=[0]).save(folder)


def part(folder: Path) -> Any:
    return model().sweep(tiny.ids(1, 4), pc.Zero(), sites="mlp_out.0", at=1, read=pc.Logits([3]), checkpoint=folder)


def trained(folder: Path) -> Any:
    data = digits.Images(torch.rand(20, 784), torch.arange(20) % 10, torch.rand(20, 784), torch.arange(20) % 10, ())
    return digits.train(digits.network("mlp", width=4), data, epochs=1, folder=folder)


FORMATS = {
    "result": Format(result, lambda f: said([pc.open(f).plain_record(), pc.open(f).frame().to_csv()])),
    "direction": Format(lambda f: direction().save(f), lambda f: repr((Direction.open(f).directions, Direction.open(f).report))),
    "edits": Format(lambda f: pc.save_edits(pc.Add(V, site="embed"), f), lambda f: repr([one.key for one in pc.load_edits(f)])),
    "covariance": Format(
        lambda f: Covariance(torch.eye(3).double(), 1, 9, "texts", "x", None, "y").save(f),
        lambda f: said([Covariance.open(f).matrix, Covariance.open(f).described()]),
    ),
    "tuned lens": Format(
        lambda f: pc.TunedLens(model()).save_pretrained(f), lambda f: pc.TunedLens.from_pretrained(f, model()).digest()
    ),
    "NearestLinear": Format(
        lambda f: NearestLinear(3, 2, 4, 1).save_pretrained(f),
        lambda f: said([dict(NearestLinear.from_pretrained(f).state_dict()), NearestLinear.from_pretrained(f)._settings()]),
    ),
    "trained network": Format(trained, lambda f: said(digits._read(f))),
    "sweep's part": Format(part, lambda f: part(f).frame().to_csv(), folder=False),
    "sealed tensors": Format(lambda f: write_sealed(f / "x", TENSORS, {"step": 3}), lambda f: said(read_sealed(f / "x")), folder=False),
    "state of training": Format(
        lambda f: write_state(f / "x", {"step": 3, "model": TENSORS}), lambda f: said(read_state(f / "x")), folder=False
    ),
    "record": Format(lambda f: write_record(f / "x", {"asked": [1], "found": "é"}), lambda f: said(read_record(f / "x")), folder=False),
    "control vector": Format(
        lambda f: pc.export_control_vector(model(), pc.Add(V, site="resid_post.1"), f / "x.gguf"),
        lambda f: repr([edit.key for edit in pc.control_vector(f / "x.gguf")]), folder=False,
    ),
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def _drawn_fast() -> Iterator[None]:
    """The drawing, the page and the disk are not what is tested here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Result, "figure", lambda *_, **__: "picture")
        patch.setattr(style, "save", lambda _, file, suffix: file.write_text(suffix))
        patch.setattr(registry, "page_of", lambda _: "page")
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, str]]:
    """A format's folder, written once, and what it holds."""
    root = tmp_path_factory.mktemp("formats")

    @cache
    def of(name: str) -> tuple[Path, str]:
        FORMATS[name].write(root / name)
        return root / name, FORMATS[name].read(root / name)

    return of


def damages(data: bytes, draw: random.Random) -> dict[str, bytes | None]:
    """Ways in which a file is not what it was; None is its absence."""
    at, bit = draw.randrange(len(data)), 1 << draw.randrange(8)
    low, high = sorted(draw.sample(range(len(data) + 1), 2))
    return {
        f"bit {bit} of byte {at}": data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :],
        f"zeros at {low}:{high}": data[:low] + bytes(high - low) + data[high:],
        f"cut at {at}": data[:at],
        "foreign": draw.randbytes(40),
        "empty": b"",
        "gone": None,
    }


@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_file_is_named_or_changes_nothing(
    name: str, written: Callable[[str], tuple[Path, str]], tmp_path: Path
) -> None:
    home, wanted = written(name)
    form, draw = FORMATS[name], random.Random(name)
    files = sorted(path.relative_to(home) for path in home.rglob("*") if path.is_file())
    chosen = files * examples(1, 8) if len(files) <= 4 else draw.sample(files, examples(4, len(files))) * examples(1, 4)
    folder = shutil.copytree(home, tmp_path / "copy")
    for file in chosen:
        held = (home / file).read_bytes()
        for how, data in damages(held, draw).items():
            if data == held:
                continue
            (folder / file).unlink(missing_ok=True)
            if data is not None:
                (folder / file).write_bytes(data)
            try:
                found = form.read(folder)
            except pc.PatchclampError as error:
                found = str(error)
                named = file.name in found or str(folder) in found
            else:
                named = found == wanted and not form.folder  # a folder's record lists every byte
            assert named, (file, how, found[:300])
        (folder / file).write_bytes(held)
    assert form.read(folder) == wanted


CRAFTED: dict[str, list[Any]] = {
    "result": [
        {"parts": ["."]}, {"parts": [".."]}, {"parts": ["/etc"]}, {"parts": [3]}, {"parts": "ab"}, {"parts": ["activations/../activations"]},
        {"kind": None}, {"kind": 5}, {"kind": "runs"}, {"kind": ["run"]}, {"kind": "grid"}, {"format_version": "one"}, {"format_version": None},
        {"labels": None}, {"labels": {"variables": {"x": {"dims": ["a"]}}, "coords": {}, "attrs": {}}}, {"labels": []},
    ],
    "direction": [
        {"format_version": 0}, {"fitted": 3}, {"classes": 3}, {"limit": {}}, {"mean": {"$tensor": "other"}}, {"directions": None}, {"more": 1},
        {"fitted": {"$type": "x"}},
    ],
    "edits": [
        {"edits": 3}, {"edits": [3]}, {"edits": [{"$type": "Edit", "operation": 3}]}, {"edits": [{"$type": "Norm", "above": 1.0}]},
        {"edits": [{"$type": "os.system", "command": "true"}]}, {"edits": [{"$type": ["x"]}]}, {"edits": [{"$tensor": "other"}]}, {"edits": {}},
        {"edits": [{"$slice": [1, 2, 3, 4]}]}, {"edits": [{"$map": 3}]},
    ],
    "covariance": [{"layer": {}, "other": 1}, {"format_version": 10**30}],
    "tuned lens": [{"trained_for": {}}, {"kind": "nearest_linear"}, {"training": 5}, {"trained_for": "x"}],
    "NearestLinear": [
        {"regions": 10**6, "d_in": 10**5, "d_out": 10**5}, {"rank": None}, {"rank": 10**9}, {"regions": "4"}, {"temperature": "x"},
        {"neighbours": None}, {"other": 1}, {"d_in": 1.5}, {"regions": -1},
    ],
}  # fmt: skip
RECORDS = {
    "result": "result.json", "direction": "direction.json", "edits": "edits.json", "covariance": "covariance.json",
    "tuned lens": "config.json", "NearestLinear": "config.json",
}  # fmt: skip


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("name", CRAFTED)
def test_a_crafted_record_is_refused(
    name: str, old: bool, written: Callable[[str], tuple[Path, str]], tmp_path: Path
) -> None:
    """Sealed anew, or without digests as version 0.1.0 wrote it: before any large memory is asked for."""
    folder = shutil.copytree(written(name)[0], tmp_path / "copy")
    file = folder / RECORDS[name]
    record = json.loads(file.read_text())
    del record["sha256"]
    if old:
        del record["files"]
        file.write_text(json.dumps(record))
        assert FORMATS[name].read(folder), "the control: an old folder opens"
    for change in CRAFTED[name]:
        spoiled = {**record, **change}
        file.write_bytes(json.dumps(spoiled).encode() if old else seal_record(spoiled))
        with pytest.raises(pc.PatchclampError):
            FORMATS[name].read(folder)
    deep = json.dumps(record)[:-1] + ', "deep": ' + "[" * 100_000 + "]" * 100_000 + "}"
    file.write_text(deep)
    with pytest.raises(pc.InputError, match=f"{file.name}' is damaged: RecursionError"):
        FORMATS[name].read(folder)


def test_a_part_that_leads_back_ends(written: Callable[[str], tuple[Path, str]], tmp_path: Path) -> None:
    folder = shutil.copytree(written("result")[0], tmp_path / "copy")
    shutil.rmtree(folder / "activations")
    (folder / "activations").symlink_to(folder)
    record = {
        name: value
        for name, value in json.loads((folder / "result.json").read_text()).items()
        if name not in ("files", "sha256")
    }
    (folder / "result.json").write_text(json.dumps(record))
    with pytest.raises(pc.InputError, match="cannot be a part of it"):
        pc.open(folder)


def test_a_result_whose_page_was_changed_opens_when_asked(
    written: Callable[[str], tuple[Path, str]], tmp_path: Path
) -> None:
    folder = shutil.copytree(written("result")[0], tmp_path / "copy")
    (folder / "figure.svg").write_text("by hand")
    with pytest.raises(pc.InputError, match="figure.svg' is damaged"):
        pc.open(folder)
    assert pc.open(folder, check=False) == pc.open(written("result")[0])


@pytest.mark.parametrize(("shape", "size"), [("(1000000000000,)", 64), ("(10**3,)", 8000), ("(8,)", 8), ("(" * 300, 0)])
def test_an_array_that_promises_more_than_it_holds_is_refused(tmp_path: Path, shape: str, size: int) -> None:
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    file = tmp_path / "x.npy"
    file.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(size))
    with pytest.raises(pc.InputError, match="x.npy' holds no array of numbers"):
        _array(str(file))
    for value in (np.arange(6.0).reshape(2, 3).T, np.zeros((0, 3)), np.float64(3)):
        np.save(file, value)
        assert np.array_equal(_array(str(file)).numpy(), value)


@pytest.mark.parametrize(
    "config", [{"num_hidden_layers": 10**12}, {"d_model": 10**11}, {"num_hidden_layers": 3.0}, {"d_model": None}]
)
def test_a_published_lens_that_promises_more_than_it_holds_is_refused(tmp_path: Path, config: dict[str, Any]) -> None:
    torch.save({f"{i}.weight": torch.zeros(32, 32) for i in range(3)}, tmp_path / "params.pt")
    said = {"num_hidden_layers": 3, "d_model": 32, "base_model_name_or_path": "x", "unembed_hash": None}
    (tmp_path / "config.json").write_text(json.dumps(said))
    with pytest.warns(PatchclampWarning, match="does not say which weights"):
        assert pc.TunedLens.from_pretrained(tmp_path, model())
    (tmp_path / "config.json").write_text(json.dumps({**said, **config}))
    with pytest.raises(pc.InputError):
        pc.TunedLens.from_pretrained(tmp_path, model(), force=True)


def test_weights_that_are_a_view_of_more_than_the_file_holds_are_refused(tmp_path: Path) -> None:
    """One number, shown as a matrix that is as large as the config says: a machine's memory, from a file of some bytes."""
    wide = torch.zeros(1).expand(200_000, 200_000)
    torch.save({f"{i}.weight": wide for i in range(3)}, tmp_path / "params.pt")
    said = {"num_hidden_layers": 3, "d_model": 200_000, "base_model_name_or_path": "x", "unembed_hash": None}
    (tmp_path / "config.json").write_text(json.dumps(said))
    with pytest.raises(pc.ModelError, match="this model"), pytest.warns(PatchclampWarning):
        pc.TunedLens.from_pretrained(tmp_path, model(), force=True)


@pytest.mark.slow
def test_a_baked_checkpoint_that_was_changed_is_refused(tmp_path: Path) -> None:
    opened = pc.wrap(tiny.build("llama", torch.float32))
    opened.export(pc.Scale(0.5, site="mlp_act.1"), tmp_path / "new", prompts=tiny.ids(1, 4))
    weights = pc.load(tmp_path / "new", dtype="float32").weights_digest()
    file = tmp_path / "new" / "model.safetensors"
    os.utime(file)
    assert pc.load(tmp_path / "new", dtype="float32").weights_digest() == weights, "touched, and hashed again"
    data = bytearray(file.read_bytes())
    data[-9] ^= 4
    file.write_bytes(data)
    with pytest.raises(pc.InputError, match="model.safetensors' is damaged.*move patchclamp.json away"):
        pc.load(tmp_path / "new")
    (tmp_path / "new" / "patchclamp.json").unlink()
    assert pc.load(tmp_path / "new", dtype="float32").weights_digest() != weights


def test_what_others_wrote_is_not_written_over(tmp_path: Path) -> None:
    for name in ("x.html", "x.gguf"):
        (tmp_path / name).write_text("mine")
    with pytest.raises(pc.InputError, match="x.html' is there and is no report of patchclamp's"):
        pc.report(tmp_path / "x.html", "A title", [("Words", "text")])
    with pytest.raises(pc.InputError, match="x.gguf' is there and is no control vector"):
        pc.export_control_vector(model(), pc.Add(V, site="resid_post.1"), tmp_path / "x.gguf")
    for _ in range(2):
        pc.report(tmp_path / "y.html", "A title", [("Words", "text")])
        pc.export_control_vector(model(), pc.Add(V, site="resid_post.1"), tmp_path / "y.gguf")
    assert {(tmp_path / name).read_text() for name in ("x.html", "x.gguf")} == {"mine"}


def test_no_saved_result_holds_a_path_that_was_not_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = pc.TunedLens(model())
    made.save_pretrained("lens")
    for lens in (made, pc.TunedLens.from_pretrained("lens", model())):
        saved = model().lens(tiny.ids(1, 4), tuned=lens).save("out")
        assert pc.open(saved).record["parameters"]["tuned"]["folder"] == "lens"
        assert not any(str(tmp_path).encode() in file.read_bytes() for file in saved.iterdir())
        assert pc.repeat(saved, model()) == pc.open(saved)

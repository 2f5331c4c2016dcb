import gzip
import io
import json
import struct
import tarfile
import zlib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

import patchclamp as pc
from patchclamp.catalogue import ASSETS, fetching
from patchclamp.catalogue.converters import capitals, gutenberg, resnet50
from patchclamp.catalogue.converters.archives import read_members
from patchclamp.catalogue.converters.mnist import read_idx
from patchclamp.catalogue.converters.resnet50 import _distinct
from patchclamp.catalogue.converters.stories15m import _halves
from patchclamp.catalogue.quiet import quiet_transformers
from patchclamp.core.files import write_json
from tests.catalogue.archives import write_archive


@given(hnp.arrays(np.uint8, hnp.array_shapes(max_dims=3, max_side=5)))
def test_idx_files_are_read_back(array: np.ndarray) -> None:
    assert np.array_equal(read_idx(idx(array)).numpy(), array)


@pytest.mark.parametrize(("suffix", "mode"), [("xz", "w:xz"), ("gz", "w:gz"), ("", "w")])
def test_a_debian_package_is_read_past_its_other_members(tmp_path: Path, suffix: str, mode: str) -> None:
    """Members of odd length are padded; the length in the header is not."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as tar:  # type: ignore[call-overload]
        for name, data in (("./usr/a.txt", b"first"), ("./usr/b.bin", b"second")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    named = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", f"data.tar.{suffix}".rstrip("."): packed.getvalue()}
    package = b"!<arch>\n"
    for name, data in named.items():
        package += (
            f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
        )
    (tmp_path / "x.deb").write_bytes(package)
    assert read_members(tmp_path / "x.deb", "./usr/", ".txt") == {"./usr/a.txt": b"first"}
    (tmp_path / "y.deb").write_bytes(package.replace(b"data.tar", b"date.tar"))
    with pytest.raises(pc.AssetError, match="no Debian package, or one without data"):
        read_members(tmp_path / "y.deb")


@given(st.integers(1, 3), st.integers(1, 4))
def test_reordering_rotary_rows_keeps_rotated_scores(heads: int, half: int) -> None:
    """Interleaved rotary on the stored rows equals half-split rotary on the reordered ones, as scores see them."""
    size, width = 2 * half, 5
    generator = torch.Generator().manual_seed(heads * 10 + half)
    q, k = (torch.randn(heads * size, width, generator=generator, dtype=torch.float64) for _ in range(2))
    x, y = (torch.randn(width, generator=generator, dtype=torch.float64) for _ in range(2))
    angle = torch.rand(half, generator=generator, dtype=torch.float64) * 3

    def interleaved(v: torch.Tensor) -> torch.Tensor:
        pairs = v.view(heads, half, 2)
        a, b = pairs[..., 0], pairs[..., 1]
        return torch.stack([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1).reshape(
            heads, size
        )

    def halves(v: torch.Tensor) -> torch.Tensor:
        a, b = v.view(heads, 2, half).unbind(1)
        return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)

    stored = (interleaved(q @ x) * (k @ y).view(heads, size)).sum(-1)
    converted = (halves(_halves(q, size) @ x) * (_halves(k, size) @ y).view(heads, size)).sum(-1)
    assert torch.allclose(stored, converted)


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.mark.parametrize("of", ["mnist", "fashion_mnist"])
def test_digits_and_clothes_keep_images_beside_their_labels(tmp_path: Path, of: str) -> None:
    arrays = {
        name: np.random.default_rng(i).integers(0, 255, shape).astype(np.uint8)
        for i, (name, shape) in enumerate(
            {
                "train-images-idx3": (3, 2, 2),
                "train-labels-idx1": (3,),
                "t10k-images-idx3": (2, 2, 2),
                "t10k-labels-idx1": (2,),
            }.items()
        )
    }
    files = {f"package/data/{name}-ubyte": idx(array) for name, array in arrays.items()}
    if of == "fashion_mnist":
        folder = "./usr/share/datasets/fashion-mnist/"
        files = {f"{folder}{name}-ubyte.gz": gzip.compress(idx(array)) for name, array in arrays.items()}
    converter = import_module(f"patchclamp.catalogue.converters.{of}")
    converter.convert(write_archive(tmp_path / "x.tgz", files), tmp_path)
    found = load_file(tmp_path / f"{of.replace('_', '-')}.safetensors")
    wanted = dict(zip(("train_images", "train_labels", "test_images", "test_labels"), arrays.values(), strict=True))
    assert {name: tensor.tolist() for name, tensor in found.items()} == {n: a.tolist() for n, a in wanted.items()}
    kinds = {name: tensor.dtype for name, tensor in found.items()}
    assert {kinds["train_images"], kinds["test_images"]} == {torch.uint8}
    assert {kinds["train_labels"], kinds["test_labels"]} == {torch.int64}


def test_books_are_utf8_with_plain_line_ends(tmp_path: Path) -> None:
    files = {
        "package/gutenberg/a-b.txt": b"caf\xe9\r\nend\r\n",
        "package/gutenberg/read.me": b"x",
        "package/c.txt": b"x",
    }
    gutenberg.convert(write_archive(tmp_path / "x.tgz", files), tmp_path)
    assert [path.name for path in tmp_path.glob("*.txt")] == ["a-b.txt"]
    assert (tmp_path / "a-b.txt").read_bytes() == "caf\u00e9\nend\n".encode()


def test_countries_with_a_capital_come_by_population_and_then_by_name(tmp_path: Path) -> None:
    countries: list[dict[str, Any]] = [
        {"name": "B", "capital": "Bee", "region": "R", "population": 5},
        {"name": "A", "capital": "Ay", "population": 5},
        {"name": "Big", "capital": ["Only"], "region": "R", "population": 9},
        {"name": "Small", "capital": "Tiny", "region": None, "population": None},
        {"name": "None"}, {"name": "Empty", "capital": ""}, {"capital": "Nameless"},
    ]  # fmt: skip
    files = {f"countryinfo/data/{i}.json": json.dumps(country).encode() for i, country in enumerate(countries)}
    capitals.convert(write_archive(tmp_path / "x.whl", files), tmp_path)
    found = [tuple(row.values()) for row in json.loads((tmp_path / "capitals.json").read_text())]
    assert found == [("Big", "Only", "R", 9), ("A", "Ay", "", 5), ("B", "Bee", "R", 5), ("Small", "Tiny", "", 0)]


def keras(name: str, d_in: int, d_out: int, size: int, *, bias: bool = True) -> dict[str, torch.Tensor]:
    """A convolution and its batch norm, as Keras stores them."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))

    def draw(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator) + 0.5

    conv, norm = ("conv1", "bn_conv1") if name == "1" else (f"res{name}", f"bn{name}")
    parts = {f"{norm}/{part}": draw(d_out) for part in ("gamma", "beta", "moving_mean", "moving_variance")}
    return parts | {f"{conv}/kernel": draw(size, size, d_in, d_out)} | ({f"{conv}/bias": draw(d_out)} if bias else {})


def test_keras_blocks_are_those_of_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each convolution with its norm gives what Keras' would, on channels in the order red, green, blue."""
    monkeypatch.setattr(resnet50, "_BLOCKS", (2, 1))
    places = {"resnet.embedder.embedder": "1"} | {
        f"resnet.encoder.stages.{stage}.layers.{block}.{where}": f"{name}_branch{branch}"
        for stage, block, name in ((0, 0, "2a"), (0, 1, "2b"), (1, 0, "3a"))
        for where, branch in (("layer.0", "2a"), ("layer.1", "2b"), ("layer.2", "2c"), ("shortcut", "1"))
        if (where, block) != ("shortcut", 1)
    }
    generator = torch.Generator().manual_seed(0)
    kernel, bias, features, x = (
        torch.rand(shape, generator=generator) for shape in ((4, 3), (3,), (2, 4), (2, 3, 5, 5))
    )
    weights = {"fc1000/kernel": kernel, "fc1000/bias": bias}
    for name in places.values():
        weights |= keras(name, 3, 4, 3 if name == "1" else 1, bias=name != "2b_branch2a")
    state = resnet50._state(weights)
    assert set(state) == {"classifier.1.weight", "classifier.1.bias"} | {
        f"{place}.{part}"
        for place in places
        for part in ("convolution.weight", *(f"normalization.{p}" for p in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")))
    }  # fmt: skip
    assert torch.allclose(
        F.linear(features, state["classifier.1.weight"], state["classifier.1.bias"]),
        features @ weights["fc1000/kernel"] + weights["fc1000/bias"],
    )
    for place, name in places.items():
        conv, norm = ("conv1", "bn_conv1") if name == "1" else (f"res{name}", f"bn{name}")
        mean, variance, gamma, beta = (
            weights[f"{norm}/{part}"][:, None, None] for part in ("moving_mean", "moving_variance", "gamma", "beta")
        )
        kernel = weights[f"{conv}/kernel"].permute(3, 2, 0, 1)
        made = F.conv2d(x.flip(1) if name == "1" else x, kernel, weights.get(f"{conv}/bias"))
        wanted = (made - mean) / (variance + 1e-5).sqrt() * gamma + beta
        found = F.batch_norm(
            F.conv2d(x, state[f"{place}.convolution.weight"]), state[f"{place}.normalization.running_mean"],
            state[f"{place}.normalization.running_var"], state[f"{place}.normalization.weight"],
            state[f"{place}.normalization.bias"],
        )  # fmt: skip
        assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-4), place


def test_shards_are_joined_before_they_are_cut() -> None:
    """A weight may begin in one shard and end in the next."""
    a, b = np.arange(3, dtype="<f4"), np.arange(4, dtype="<f4").reshape(2, 2) + 10
    data = a.tobytes() + b.tobytes()
    manifest = [{"paths": ["s1", "s2"], "weights": [{"name": "a", "shape": [3]}, {"name": "b", "shape": [2, 2]}]}]
    manifest.append({"paths": ["s3"], "weights": [{"name": "c", "shape": [3]}]})
    members = {"package/ResNet50/model.json": json.dumps({"weightsManifest": manifest}).encode()}
    members |= {f"package/ResNet50/s{i}": part for i, part in enumerate((data[:14], data[14:], a[::-1].tobytes()), 1)}
    found = {name: tensor.tolist() for name, tensor in resnet50._weights(members).items()}
    assert found == {"a": [0, 1, 2], "b": [[10, 11], [12, 13]], "c": [2, 1, 0]}


def test_a_member_is_chosen_by_both_ends_of_its_name(tmp_path: Path) -> None:
    files = {"p/a.txt": b"1", "p/b.bin": b"2", "q/c.txt": b"3"}
    for name in ("x.whl", "x.tgz"):
        path = write_archive(tmp_path / name, files)
        assert read_members(path) == files
        assert read_members(path, "p/", ".txt") == {"p/a.txt": b"1"}
        with pytest.raises(pc.AssetError, match=rf"{name} has no member q/\*\.bin"):
            read_members(path, "q/", ".bin")


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """The folder of an asset that passes for fetched."""
    monkeypatch.setenv("PATCHCLAMP_CACHE", str(tmp_path))
    monkeypatch.setattr(fetching, "check_files", lambda *_: None)

    def folder(name: str) -> Path:
        found = fetching.folder_of(ASSETS[name])
        found.mkdir()
        write_json(found / "asset.json", {"files": {}})
        return found

    return folder


def test_data_sets_are_read_as_they_were_written(cached: Callable[[str], Path]) -> None:
    reviews = [{"text": f"t{i}", "positive": i % 2 == 0, "split": ("train", "test")[i // 2]} for i in range(4)]
    write_json(cached("imdb") / "reviews.json", reviews)
    assert [review.text for review in pc.catalogue.imdb()] == ["t0", "t1", "t2", "t3"]
    assert [(r.text, r.positive, r.split) for r in pc.catalogue.imdb("test")] == [
        ("t2", True, "test"),
        ("t3", False, "test"),
    ]
    assert [review.text for review in pc.catalogue.imdb("train")] == ["t0", "t1"]
    with pytest.raises(pc.InputError, match="did you mean 'test'"):
        pc.catalogue.imdb("tests")  # type: ignore[arg-type]
    folder = cached("probing-sets")
    for name in ("10_b", "9_a"):
        write_json(folder / f"{name}.json", [{"prompt": name, "label": "x", "group": 3}])
    assert pc.catalogue.probing_sets() == ["9_a", "10_b"]
    (row,) = pc.catalogue.probing_set("10_b")
    assert (row.prompt, row.label, row.group) == ("10_b", "x", 3)
    with pytest.raises(pc.InputError, match="did you mean '9_a'"):
        pc.catalogue.probing_set("9_aa")
    for gender, names in (("female", ["Ann", "Kim", "Zoe"]), ("male", ["Bob", "Kim"])):
        write_json(cached(f"first-names-{gender}") / "names.json", names)
    names = pc.catalogue.first_names()
    assert (names.female, names.male, names.either) == (("Ann", "Zoe"), ("Bob",), ("Kim",))
    books = cached("gutenberg")
    for title in ("b", "a"):
        (books / f"{title}.txt").write_text(f"of {title}")
    assert list(pc.catalogue.gutenberg().items()) == [("a", "of a"), ("b", "of b")]
    assert pc.catalogue.gutenberg("b") == {"b": "of b"}
    parts = {
        name: torch.full((1,), i)
        for i, name in enumerate(("train_images", "train_labels", "test_images", "test_labels"))
    }
    for name, load in (("mnist", pc.catalogue.mnist), ("fashion-mnist", pc.catalogue.fashion_mnist)):
        save_file(parts, cached(name) / f"{name}.safetensors")
        assert {part: int(getattr(load(), part)) for part in parts} == dict(zip(parts, range(4), strict=True))


def test_transformers_is_as_talkative_afterwards_as_before() -> None:
    from transformers.utils import logging

    before = logging.is_progress_bar_enabled()
    try:
        for active in (True, False):
            (logging.enable_progress_bar if active else logging.disable_progress_bar)()
            with pytest.raises(RuntimeError):
                with quiet_transformers():
                    assert not logging.is_progress_bar_enabled()
                    raise RuntimeError
            assert logging.is_progress_bar_enabled() == active
    finally:
        (logging.enable_progress_bar if before else logging.disable_progress_bar)()


def test_classes_of_one_name_are_told_apart() -> None:
    names = _distinct({134: "crane", 517: "crane", 1: "fish"})
    assert names == {134: "crane", 517: "crane.517", 1: "fish"}


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda: pc.catalogue.imdb(foo=1), "unknown argument of imdb 'foo'"),
        (lambda: pc.catalogue.mnist(5), "mnist takes nothing by place"),
        (lambda: pc.catalogue.gutenberg(3), "title=3 cannot be used; valid: text or None"),
        (lambda: pc.catalogue.probing_set(None), "name=None cannot be used; valid: text"),
    ],
)
def test_arguments_of_data_sets_are_read_at_the_door(ask: Callable[[], Any], says: str) -> None:
    with pytest.raises(pc.InputError, match=says):
        ask()

"""The polytope lens from the command line, on networks of a file and on a language model."""

from pathlib import Path

import numpy as np
import pytest
import torch

import patchclamp as pc
from patchclamp.cli.app import main
from tests.cli.test_cli import as_json, call
from tests.old import undigested

NET = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 3))

number = 3
"""


@pytest.fixture
def net(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(NET)
    return f"{tmp_path / 'mine.py'}:make"


@pytest.fixture
def rows(tmp_path: Path) -> str:
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32))
    return str(tmp_path / "rows.npy")


@pytest.fixture
def labels(tmp_path: Path, rows: str) -> str:
    x = np.load(rows)
    (tmp_path / "labels.txt").write_text("\n".join(str(int(a > 0)) for a, _ in x))
    return str(tmp_path / "labels.txt")


def opened(net: str) -> pc.Model:
    names: dict[str, object] = {}
    exec(Path(net.rpartition(":")[0]).read_text(), names)
    return pc.wrap(names["make"]().eval())  # type: ignore[operator]


def test_segment(capsys: pytest.CaptureFixture[str], net: str, tmp_path: Path) -> None:
    found = as_json(capsys, "polytope", "segment", net, "[-3, 1]", "[2, -2.5]", "--out", str(tmp_path / "out"))
    line = opened(net).segment([-3, 1], [2, -2.5])
    assert found["crossings"] == line.count > 5
    assert found["layers"] == line.per_layer
    assert isinstance(pc.open(tmp_path / "out"), pc.polytopes.Segment)
    assert f"{line.count} crossings (exactly)" in call(capsys, "polytope", "segment", net, "[-3, 1]", "[2, -2.5]")
    fewer = call(capsys, "polytope", "segment", net, "[-3,1]", "[2,-2.5]", "--method", "sampled", "--samples", "5")
    assert "5 samples find them" in fewer


def test_codes(capsys: pytest.CaptureFixture[str], net: str, rows: str, labels: str) -> None:
    found = as_json(capsys, "polytope", "codes", net, rows, "--labels", labels, "--neighbours", "3")
    assert [row["layer"] for row in found] == ["1", "3", "all layers"]
    codes = opened(net).spline_codes(torch.from_numpy(np.load(rows)))
    assert found[-1]["different codes"] == len(codes.unique().counts)
    assert found[0]["nearest 3 of the same label"] > 0.6
    assert "label" not in str(as_json(capsys, "polytope", "codes", net, rows))


def test_cluster(capsys: pytest.CaptureFixture[str], net: str, rows: str, labels: str, tmp_path: Path) -> None:
    options = [rows, "--layer", "1", "--labels", labels, "--algorithm", "k-means", "--pca", "2"]
    said = call(capsys, "polytope", "cluster", net, *options, "--cards", "2", "--out", str(tmp_path / "out"))
    assert "hard code" in said
    assert "unit norm" in said
    assert isinstance(pc.open(tmp_path / "out"), pc.polytopes.Clusters)
    assert "give --labels FILE" in call(capsys, "polytope", "cluster", net, rows, "--layer", "1", code=2)
    assert "unknown layer '2'" in call(
        capsys, "polytope", "cluster", net, rows, "--layer", "2", "--labels", labels, code=2
    )


def test_plane(capsys: pytest.CaptureFixture[str], net: str, tmp_path: Path) -> None:
    said = call(capsys, "polytope", "plane", net, "--box", "2", "--out", str(tmp_path / "out"), "--color", "code")
    found = pc.open(tmp_path / "out")
    assert isinstance(found, pc.polytopes.Plane)
    assert f"{found.regions} regions" in said
    assert "lines through" in call(capsys, "polytope", "plane", net, "--box", "-1", "1", "0", "1", "--lines", "7")
    assert "box has 1 number or 4, not 2" in call(capsys, "polytope", "plane", net, "--box", "1", "2", code=2)
    few = call(capsys, "polytope", "plane", net, "--box", "2", "--max-regions", "3", code=1)
    assert "more than max_regions=3" in few


def test_scale(capsys: pytest.CaptureFixture[str], net: str, rows: str, labels: str) -> None:
    arguments = ["polytope", "scale", net, rows, "--site", "1:out", "--factor", "0.5", "1", "--labels", labels]
    found = as_json(capsys, *arguments)
    same = [row for row in found if row["factor"] == 1]
    assert same
    assert all(row["agreement"] == 1 for row in same)


def test_a_network_of_a_file_is_repeated(capsys: pytest.CaptureFixture[str], net: str, tmp_path: Path) -> None:
    call(capsys, "polytope", "segment", net, "[-3, 1]", "[2, -2.5]", "--out", str(tmp_path / "out"))
    again = ["repeat", str(tmp_path / "out"), "--network", net]
    assert as_json(capsys, *again)["same_numbers"]
    source = Path(net.rpartition(":")[0])
    source.write_text(source.read_text().replace("manual_seed(0)", "manual_seed(1)"))
    assert not as_json(capsys, *again)["same_numbers"]


def test_python_that_a_folder_names_is_not_run(
    capsys: pytest.CaptureFixture[str], net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by ``repeat`` nor by ``--config``; typed on the command line it is (the control: the mark is left)."""
    out, mark = str(tmp_path / "out"), tmp_path / "ran"
    call(capsys, "polytope", "segment", net, "[-3, 1]", "[2, -2.5]", "--out", out)
    source = Path(net.rpartition(":")[0])
    source.write_text(f"open({str(mark)!r}, 'w').close()\n" + source.read_text())
    said = call(capsys, "repeat", out, code=2)
    assert f"name it yourself: patchclamp repeat {out} --network {net}" in said
    received = tmp_path / "received.toml"
    received.write_text(f"[polytope.segment]\nnetwork = '{net}'\na = '[-3, 1]'\nb = '[2, -2.5]'\n")
    said = call(capsys, "polytope", "segment", "--config", str(received), code=2)
    assert "would be executed, and it was not typed" in said
    assert not mark.exists()
    assert as_json(capsys, "repeat", out, f"--network={net}")["same_numbers"]
    assert mark.exists()


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ('["polytope segment"]\nnetwork = 3\n', "names the network 3, which is no text"),
        ('["polytope segment"]\nnetwork = "mnist-mlp"\ndtype = "int8"\n', "unknown dtype 'int8'"),
        ('["polytope segment"]\nnetwork = "\\u001b]0;x\\u0007.py:make"\n', r"--network '\x1b]0;x\x07.py:make'"),
        ("network =", "is no TOML"),
    ],
)
def test_what_a_configuration_names_is_checked(
    capsys: pytest.CaptureFixture[str], net: str, tmp_path: Path, config: str, says: str
) -> None:
    call(capsys, "polytope", "segment", net, "[-3, 1]", "[2, -2.5]", "--out", str(tmp_path / "out"))
    undigested(tmp_path / "out", "result.json")  # as somebody who wants it opened would send it
    (tmp_path / "out" / "config.toml").write_text(config)
    said = call(capsys, "repeat", str(tmp_path / "out"), code=2)
    assert says in said
    assert "\x1b" not in said


@pytest.mark.assets
def test_pictures_are_for_any_network_of_their_size(capsys: pytest.CaptureFixture[str], net: str) -> None:
    wide = net.replace("make", "wide")
    path = Path(net.rpartition(":")[0])
    path.write_text(path.read_text() + "\nwide = nn.Sequential(nn.Linear(784, 5), nn.ReLU(), nn.Linear(5, 2))\n")
    assert "crossings (exactly)" in call(capsys, "polytope", "segment", wide, "test:0", "mean:3")
    assert "points have the shapes (784,), (2,)" in call(capsys, "polytope", "segment", net, "test:0", "[2, 1]", code=2)


@pytest.mark.assets
def test_language_models(capsys: pytest.CaptureFixture[str], folder: str, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(["Once upon a time there was a big dog.", "The dog ran home, and the cat too."] * 3))
    found = as_json(capsys, "polytope", "codes", folder, str(texts))
    assert found[0]["layer"] == "mlp_pre.0"
    assert "nearest 5 of the same token" in found[0]
    options = ["--layer", "1", "--algorithm", "ward", "--k", "4"]
    assert "pre-activation" in call(capsys, "polytope", "cluster", folder, str(texts), *options)
    assert "resid_post.1 scale" in call(
        capsys, "polytope", "scale", folder, "Once upon a time", "--site", "resid_post.1", "--factor", "2"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["segment", "mnist-mpl", "test:0", "test:1"], "unknown network 'mnist-mpl'; did you mean 'mnist-mlp'"),
        (["segment", "mnist-mlp:one", "test:0", "test:1"], "what follows the colon is the seed"),
        (["segment", "NET.py", "[1, 2]", "[2, 1]"], "name the network in it"),
        (["segment", "NET.py:makes", "[1, 2]", "[2, 1]"], "'makes'; did you mean 'make'"),
        (["segment", "NET.py:number", "[1, 2]", "[2, 1]"], "not a torch module"),
        (["segment", "none.py:make", "[1, 2]", "[2, 1]"], "there is no file 'none.py'"),
        (["segment", "NET.py:make", "[1, x]", "[2, 1]"], "is not a list of numbers"),
        (["segment", "NET.py:make", "none.npy", "[2, 1]"], "there is no file 'none.npy'"),
        (["segment", "NET.py:make", "mean:x", "[2, 1]"], "'mean:x' is no point"),
        (["segment", "NET.py:make", "somewhere", "[2, 1]"], "'somewhere' is no point"),
        (["codes", "NET.py:make", "wide.npy"], "the network does not take points of shape (4,)"),
        (["scale", "NET.py:make", "wide.npy", "--site", "1:out"], "the network does not take inputs of shape (4,)"),
        (["codes", "NET.py:make", "narrow.npy", "--labels", "labels.txt", "--neighbours", "9"], "k = 9"),
        (["codes", "NET.py:make", "none.npy"], "there is no file 'none.npy'"),
    ],
)
def test_bad_input(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "NET.py").write_text(NET)
    np.save(tmp_path / "wide.npy", np.ones((5, 4), np.float32))
    np.save(tmp_path / "narrow.npy", np.eye(5, 2, dtype=np.float32))
    (tmp_path / "labels.txt").write_text("a\nb\na\nb\na\n")
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert main(["polytope", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("content", ["empty", "text", "objects"])
def test_files_that_hold_no_numbers(capsys: pytest.CaptureFixture[str], net: str, tmp_path: Path, content: str) -> None:
    path = tmp_path / "bad.npy"
    if content == "objects":
        np.save(path, np.array(["a", "b"]))
    else:
        path.write_text("" if content == "empty" else "hello there")
    assert main(["polytope", "codes", net, str(path)]) != 0
    assert "holds no array of numbers" in capsys.readouterr().err

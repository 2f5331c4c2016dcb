"""``patchclamp dictionary``: what is made, trained and measured is what the library gives; nothing that is typed is dropped."""

from pathlib import Path

import numpy as np
import pytest
import torch

import patchclamp as pc
from patchclamp.cli.app import main
from tests.cli.test_cli import as_json

TRAIN = ["--steps", "3", "--batch", "64", "--width", "24"]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("dictionary") / "toy"
    assert (
        main(["dictionary", "toy", "zipf", "--features", "12", "--width", "8", "--active", "2", "--out", str(folder)])
        == 0
    )
    return str(folder)


def test_toy_data_are_those_of_the_library(toy: str) -> None:
    data = pc.dictionaries.ToyData.from_pretrained(toy)
    assert torch.equal(data.features, pc.dictionaries.ToyData.zipf(12, 8, active=2.0, seed=0).features)
    assert (Path(toy) / "command.txt").read_text().startswith("patchclamp")


def test_every_combination_is_trained_as_the_library_does(
    toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    more = ["--width", "16", "--encoder", "topk", "--k", "2", "--seed", "0", "--seed", "1", "--out", str(out)]
    table = as_json(capsys, "dictionary", "train", toy, *TRAIN, *more)
    names = ["width24-seed0", "width24-seed1", "width16-seed0", "width16-seed1"]
    assert [Path(row["dictionary"]).name for row in table] == names
    data = pc.dictionaries.ToyData.from_pretrained(toy)
    fits = [
        pc.dictionaries.SGD(pc.dictionaries.TopKEncoder(2), width=width, steps=3, random_state=seed)
        for width in (24, 16)
        for seed in (0, 1)
    ]
    for name, expected in zip(names, pc.dictionaries.train(data.stream(64, rows=3 * 64), fits), strict=True):
        saved = pc.dictionaries.Dictionary.from_pretrained(out / name)
        assert torch.equal(saved.atoms, expected.atoms), name
    expected_numbers = pc.dictionaries.evaluate(expected, data.stream(64, seed=2**31), batches=8).summary()
    assert table[-1]["explained_variance"] == pytest.approx(expected_numbers["explained_variance"])


def test_the_same_command_takes_the_place_of_what_it_made(
    toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["dictionary", "train", toy, *TRAIN, "--encoder", "topk", "--k", "2"]
    one, two = ["--out", str(tmp_path / "one")], ["--width", "16", "--out", str(tmp_path / "two")]
    for places in (one, two):
        assert as_json(capsys, *command, *places) == as_json(capsys, *command, *places)
    (tmp_path / "two" / "width16" / "model.safetensors").write_bytes(b"mine")
    assert main([*command, *two]) != 0, "what was changed since is the user's"


def test_a_dictionary_is_measured_with_any_encoder_and_against_the_truth(
    toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "mod")
    as_json(capsys, "dictionary", "train", toy, *TRAIN, "--fit", "mod", "--k", "2", "--out", out)
    dictionary = pc.dictionaries.Dictionary.from_pretrained(out)
    signed = as_json(capsys, "dictionary", "eval", out, toy, "--encoder", "omp", "--k", "3", "--batches", "2")
    assert signed["l0"] == pytest.approx(3.0, abs=0.2)
    truth = as_json(capsys, "dictionary", "eval", out, toy, "--truth", "--out", str(tmp_path / "recovery"))
    expected = pc.dictionaries.recovery(dictionary, pc.dictionaries.ToyData.from_pretrained(toy)).summary()
    assert truth["mmcs"] == pytest.approx(expected["mmcs"])
    assert pc.open(tmp_path / "recovery").summary()["mmcs"] == pytest.approx(expected["mmcs"])  # type: ignore[attr-defined]


def test_rows_of_a_file_and_of_a_model_are_held_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = np.random.default_rng(0).standard_normal((100, 6)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    source = str(tmp_path / "rows.npy")
    (row,) = as_json(
        capsys, "dictionary", "train", source, "--fit", "pca", "--width", "6", "--steps", "4", "--batch", "20",
        "--out", str(tmp_path / "pca"),
    )  # fmt: skip
    assert (row["rows"], round(row["explained_variance"], 6)) == (20, 1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fit", "mod", "--learning-rate", "0.1"], "MOD has no such setting"),
        (["--fit", "mod", "--encoder", "topk"], "--encoder topk: MOD has no such setting"),
        (["--encoder", "relu", "--k", "3"], "ReLU has no such setting"),
        (["--k", "200"], "a dictionary of 24 latents has no 200 to choose"),
        ([], ""),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(
    toy: str, arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not message:
        np.save(tmp_path / "x.npy", np.ones((50, 3)))
        toy, message = str(tmp_path / "x.npy"), "a tenth of the 50 is held out: 0 steps at most"
    out = tmp_path / "out"
    assert main(["dictionary", "train", toy, *TRAIN, *arguments, "--out", str(out)]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--k", "3"], "see --encoder"),
        (["--encoder", "omp"], "needs --k"),
        (["--site", "mlp_act.1", "--truth"], "site"),
    ],
)
def test_options_of_eval_that_contradict_each_other_are_refused(
    toy: str, arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "d")
    assert main(["dictionary", "train", toy, *TRAIN, "--encoder", "topk", "--k", "2", "--out", out]) == 0
    capsys.readouterr()
    assert main(["dictionary", "eval", out, toy, *arguments]) != 0
    assert message in capsys.readouterr().err

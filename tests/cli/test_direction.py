"""``patchclamp direction`` and ``patchclamp steer``: the same numbers as the library, and clear refusals."""

import json
import re
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import patchclamp as pc
from patchclamp.cli.concepts import TextFiles
from patchclamp.cli.steer import amount_name
from patchclamp.metrics import classifiers
from tests.cli.test_cli import as_json, call

PROMPT = "Once upon a time, there was a dog"
TIMES = ("day", "night", "week", "year", "hour")
NEGATIVE = [f"One {time} a boy saw {thing}" for time in TIMES for thing in ("a cat", "the sun", "his dog")]
POSITIVE = [text.replace("boy", "girl") for text in NEGATIVE]

pytestmark = [
    pytest.mark.assets,
    pytest.mark.filterwarnings("ignore::patchclamp.core.errors.PatchclampWarning"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    path = tmp_path_factory.mktemp("texts")
    (path / "n.txt").write_text("\n".join(NEGATIVE) + "\n\n")
    (path / "p.txt").write_text("\n".join(POSITIVE))
    return ["--negative", str(path / "n.txt"), "--positive", str(path / "p.txt")]


@pytest.fixture(scope="module")
def model(folder: str) -> pc.Model:
    return pc.load(folder, dtype="float32")


@pytest.fixture(scope="module")
def fitted(folder: str, model: pc.Model, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("direction") / "d"
    model.fit_direction("mean", [*NEGATIVE, *POSITIVE], [0] * 15 + [1] * 15, "resid_post.1", holdout=0).save(path)
    return str(path)


def test_fit_is_that_of_the_library_pair_by_pair(
    capsys: pytest.CaptureFixture[str], folder: str, model: pc.Model, texts: list[str], tmp_path: Path
) -> None:
    asked = [
        "direction",
        "fit",
        folder,
        *texts,
        "--site",
        "resid_post.1",
        "--method",
        "leace",
        "--option",
        "shrinkage=0.1",
    ]
    (row,) = as_json(capsys, *asked, "--seed", "3", "--out", str(tmp_path / "d"))
    wanted = model.fit_direction(
        pc.directions.LEACE(shrinkage=0.1), [*NEGATIVE, *POSITIVE], [0] * 15 + [1] * 15, "resid_post.1",
        groups=[*range(15), *range(15)], seed=3,
    )  # fmt: skip
    assert pc.Direction.open(tmp_path / "d") == wanted
    held = wanted.report["held_out"]
    assert row == {
        "site": "resid_post.1", "rank": 1, "rows": wanted.report["rows"], "gap left": wanted.report["gap_left"],
        "held out": held["gap_left"], "random": held["gap_left_random"], "damage": held["damage"],
        "folder": str(tmp_path / "d"),
    }  # fmt: skip
    config = tmp_path / "d" / "config.toml"
    call(capsys, "direction", "fit", "--config", str(config), "--out", str(tmp_path / "again"))
    assert pc.Direction.open(tmp_path / "again") == wanted, "the config alone makes it again"
    said = call(capsys, *asked, "--out", str(tmp_path / "d"))
    assert "leace: what is left" in said


def test_every_layer_gets_a_folder_and_the_gradient_its_answers(
    capsys: pytest.CaptureFixture[str], folder: str, model: pc.Model, texts: list[str], tmp_path: Path
) -> None:
    asked = ["direction", "fit", folder, *texts, "--site", "resid_post", "--holdout", "0", "--out", str(tmp_path / "a")]
    rows = as_json(capsys, *asked)
    assert [row["site"] for row in rows] == ["resid_post.0", "resid_post.1", "resid_post.2"]
    folders = {p.name for p in (tmp_path / "a").iterdir() if p.is_dir()}
    assert folders == {row["site"] for row in rows}
    assert all(pc.Direction.open(row["folder"]).site == row["site"] for row in rows)
    assert all(row["held out"] is None for row in rows)
    answers = ["--method", "gradient", "--answer", " he", "--answer", " she"]
    gradient = ["direction", "fit", folder, *texts, "--site", "resid_post.1", "--holdout", "0", *answers]
    as_json(capsys, *gradient, "--at", "last", "--out", str(tmp_path / "g"))
    wanted = model.fit_direction(
        pc.directions.GradientDirection(read=pc.LogitDifference(" she", " he")), [*NEGATIVE, *POSITIVE],
        [0] * 15 + [1] * 15, "resid_post.1", at="last", holdout=0,
    )  # fmt: skip
    opened = pc.Direction.open(tmp_path / "g")
    assert torch.equal(opened.directions, wanted.directions)
    assert opened.fitted == wanted.fitted


def test_tables_are_texts_and_labels_too(tmp_path: Path, texts: list[str]) -> None:
    rows = [{"text": t, "label": y, "group": g} for t, y, g in (("a, b", "x", "1"), ("c", "y", "1"))]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    (tmp_path / "t.csv").write_text('text,label,group\n"a, b",x,1\nc,y,1\n')
    for name in ("t.jsonl", "t.csv"):
        assert TextFiles(data=tmp_path / name).read() == (["a, b", "c"], ["x", "y"], ["1", "1"])
    (tmp_path / "u.csv").write_text("text,label\na,x\nc,y\n")
    assert TextFiles(data=tmp_path / "u.csv").read() == (["a", "c"], ["x", "y"], None)
    (tmp_path / "one.txt").write_text("only\n")
    negative, positive = Path(texts[1]), Path(texts[3])
    assert TextFiles(negative, positive).read()[2] == [*range(15), *range(15)], "line by line they are pairs"
    assert TextFiles(negative, tmp_path / "one.txt").read() == ([*NEGATIVE, "only"], [0] * 15 + [1], None)


def test_eval_is_that_of_the_library(
    capsys: pytest.CaptureFixture[str],
    model: pc.Model,
    texts: list[str],
    fitted: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in classifiers.ITERATIONS:  # trained for a few steps only: both are the same probes
        monkeypatch.setitem(classifiers.ITERATIONS, name, 20)
    (tmp_path / "neutral.txt").write_text("The sun is up.\n\nThe train is late.\n")
    asked = ["direction", "eval", fitted, *texts]
    full = [*asked, "--answer", " he", "--answer", " she", "--neutral", str(tmp_path / "neutral.txt")]
    found = as_json(capsys, *full, "--out", str(tmp_path / "out"))
    wanted = model.evaluate_direction(
        pc.Direction.open(fitted), [*NEGATIVE, *POSITIVE], [0] * 15 + [1] * 15, groups=[*range(15)] * 2,
        answers=[" he", " she"], texts=["The sun is up.", "The train is late."],
    )  # fmt: skip
    assert wanted.effects is not None
    assert [row["bias"] for row in found["effects"]] == wanted.effects.frame()["bias"].tolist()
    assert [row["accuracy"] for row in found["probe"]] == wanted.probe.summary()["accuracy"].tolist()
    assert pc.open(tmp_path / "out" / "effects") == wanted.effects
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"probe", "projections", "effects"}
    plain = replace(wanted, effects=None)
    monkeypatch.setattr(pc.Model, "evaluate_direction", lambda *_, **options: None if options["answers"] else plain)
    assert set(as_json(capsys, *asked)) == {"probe"}
    assert "AUC" in call(capsys, *asked)


def test_apply_shows_each_amount_beside_the_plain_model(
    capsys: pytest.CaptureFixture[str], model: pc.Model, fitted: str
) -> None:
    direction = pc.Direction.open(fitted)
    asked = ["direction", "apply", fitted, PROMPT, "Tom saw", "--edit", "add", "--scale", "50", "-200", "-k", "2"]
    rows = as_json(capsys, *asked)
    assert [(row["prompt"], row["rank"]) for row in rows] == [(p, r) for p in (PROMPT, "Tom saw") for r in (0, 1)]
    for name, edits in (("plain", []), ("add 50", direction.add(50)), ("add -200", direction.add(-200))):
        top = model.run([PROMPT, "Tom saw"], edits, logits="last").top(2)
        said = [f"{t!r} {p:.3f}" for t, p in zip(top["token"], top["probability"], strict=True)]
        assert [row[name] for row in rows] == said
    assert any(row["plain"] != row["add 50"] for row in rows)
    (row,) = as_json(capsys, "direction", "apply", fitted, PROMPT, "--site", "resid_post.2", "--at", "last", "-k", "1")
    there = direction.erase("resid_post.2", "last", elsewhere=True)
    top = model.run(PROMPT, there, logits="last").top(1).iloc[0]
    assert row["erase"] == f"{top['token']!r} {top['probability']:.3f}"


def test_export_writes_a_checkpoint_or_a_control_vector(
    capsys: pytest.CaptureFixture[str], model: pc.Model, fitted: str, tmp_path: Path
) -> None:
    direction = pc.Direction.open(fitted)
    said = as_json(capsys, "direction", "export", fitted, str(tmp_path / "baked"))
    assert said["largest difference of a log-probability"] < 5e-3
    baked = pc.load(str(tmp_path / "baked"), dtype="float32")
    states = baked.record(PROMPT, "resid_post.2")["resid_post.2"].double().reshape(-1, 32)
    plain = model.record(PROMPT, "resid_post.2")["resid_post.2"].double().reshape(-1, 32)
    assert direction.coordinates(states).abs().max() < 1e-4 < direction.coordinates(plain).abs().max()
    said = as_json(
        capsys, "direction", "export", fitted, str(tmp_path / "v.gguf"), "--gguf", "--edit", "add", "--scale", "2"
    )
    assert (said["site"], said["scale"]) == ("resid_post.1", 2.0)
    import gguf

    tensors = {t.name: torch.tensor(t.data) for t in gguf.GGUFReader(tmp_path / "v.gguf").tensors}
    assert any(torch.allclose(value.double(), 2 * direction.gap, atol=1e-5) for value in tensors.values())


def test_steer_completes_side_by_side_and_can_be_made_again(
    capsys: pytest.CaptureFixture[str], model: pc.Model, fitted: str, tmp_path: Path
) -> None:
    asked = ["steer", PROMPT, "Tom saw", "--direction", fitted, "--scale", "60", "-60", "-n", "4"]
    rows = as_json(capsys, *asked, "--out", str(tmp_path / "out"))
    direction = pc.Direction.open(fitted)
    for name, edits in (("plain", []), ("add 60", direction.add(60)), ("add -60", direction.add(-60))):
        made = model.generate([PROMPT, "Tom saw"], edits, max_new_tokens=4)
        assert tuple(row[name] for row in rows) == tuple(made.texts)
        assert pc.open(tmp_path / "out" / name).texts == made.texts, "every condition is kept, by its name"
    assert rows[0]["plain"] != rows[0]["add 60"] != rows[0]["add -60"]
    assert pc.open(tmp_path / "out").texts == made.texts, "the last one is that of the folder"
    table = pd.read_csv(tmp_path / "out" / "completions.csv")
    assert list(table.columns) == ["prompt", "plain", "add 60", "add -60"]
    config = tomllib.loads((tmp_path / "out" / "config.toml").read_text())["steer"]
    assert (config["scale"], config["direction"], config["edit"]) == ([60.0, -60.0], fitted, "add")
    call(capsys, "steer", "--config", str(tmp_path / "out" / "config.toml"), "--out", str(tmp_path / "again"))
    assert pc.open(tmp_path / "again").texts == made.texts
    assert as_json(capsys, "repeat", str(tmp_path / "out"))["same_numbers"] is True
    said = call(capsys, *asked)
    assert f"[add 60] Tom saw{rows[1]['add 60']}" in said
    assert said.count("[plain]") == 2
    assert list(as_json(capsys, "steer", PROMPT, "--direction", fitted, "-n", "2", "--edit", "swap")[0]) == [
        "prompt", "plain", "swap"
    ]  # fmt: skip
    sampled = [*asked[:-2], "-n", "6", "--temperature", "5", "--seed", "1"]
    assert as_json(capsys, *sampled) == as_json(capsys, *sampled)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "{m}", "--site", "resid_post.1"], "labelled texts are needed: --negative FILE and --positive FILE"),
        (["fit", "{m}", "--site", "resid_post.1", "--negative", "{n}"], "labelled texts are needed"),
        (["fit", "{m}", "--site", "resid_post.1", "--negative", "none.txt", "--positive", "{n}"], "'none.txt' cannot be read"),
        (["fit", "{m}", "--site", "resid_post.1", "--data", "{t}", "--negative", "{n}"], "--data is a table of its own"),
        (["fit", "{m}", "--site", "resid_post.1", "--data", "{t}"], "row 1: no column 'label'; columns are text, label and"),
        (["fit", "{m}", "--site", "resid_post.1", "--data", "{n}"], "a table ends in .csv or .jsonl"),
        (["fit", "{m}", "--site", "resid_post.1", "--data", "{j}"], "line 2, is no JSON"),
        (["fit", "{m}", "--site", "resid_post.1", "--negative", "{e}", "--positive", "{n}"], "holds no text"),
        (["fit", "{m}", "--site", "resid_pots.1", "{texts}"], "did you mean 'resid_post"),
        (["fit", "{m}", "--site", "resid_post.1", "{texts}", "--method", "meen"], "did you mean 'mean'"),
        (["fit", "{m}", "--site", "resid_post.1", "{texts}", "--option", "rank"], "--option takes name=value"),
        (["fit", "{m}", "--site", "resid_post.1", "{texts}", "--option", "rank=2"], "unknown option of MeanDifference 'rank'"),
        (["fit", "{m}", "--site", "resid_post.1", "{texts}", "--answer", " he"], "--answer belongs to --method gradient"),
        (["fit", "{m}", "--site", "resid_post.1", "{texts}", "--method", "gradient"], "gradient needs two answers"),
        (["apply", "{d}", "Once", "--edit", "erase", "--scale", "2"], "--edit erase takes no --scale; use --edit scale"),
        (["apply", "{d}", "Once", "--edit", "clamp"], "--edit clamp needs --scale"),
        (["apply", "{d}", "Once", "--edit", "add", "--towards", "7"], "unknown class '7'"),
        (["apply", "nowhere", "Once"], "'nowhere' holds no direction.json"),
        (["apply", "{d}", "Once", "--model", "{other}"], "fit the direction on this model"),
        (["eval", "{d}", "{texts}", "--model", "{other}"], "not on this model"),
        (["eval", "{d}", "{texts}", "--answer", " he"], "two answers are compared"),
        (["export", "{d}", "x", "--gguf"], "a control vector \\(--gguf\\) --edit add"),
        (["export", "{d}", "x", "--edit", "add"], "weights without biases cannot add"),
        (["export", "{d}", "x", "--scale", "2"], "--edit erase takes no --scale"),
        (["export", "{d}", "{full}"], "is not empty"),
    ],
)  # fmt: skip
def test_misuse_exits_with_2_and_leaves_nothing(
    capsys: pytest.CaptureFixture[str], folder: str, other: str, texts: list[str], fitted: str, tmp_path: Path,
    arguments: list[str], message: str,
) -> None:  # fmt: skip
    (tmp_path / "t.csv").write_text("text,lable\na,b\n")
    (tmp_path / "t.jsonl").write_text('{"text": "a", "label": 1}\nnot json\n')
    (tmp_path / "empty.txt").write_text("\n \n")
    names = {
        "m": folder, "n": texts[1], "t": str(tmp_path / "t.csv"), "j": str(tmp_path / "t.jsonl"), "d": fitted,
        "e": str(tmp_path / "empty.txt"), "other": other, "full": folder,
    }  # fmt: skip
    given = [part for a in arguments for part in (texts if a == "{texts}" else [a.format(**names)])]
    out = ["--out", str(tmp_path / "out")] if arguments[0] in ("fit", "eval") else []
    said = call(capsys, "direction", *given, *out, code=2)
    assert re.search(message, said), said
    assert not (tmp_path / "out").exists()
    assert not Path("x").exists()


def test_a_fit_is_refused_where_something_else_lies_before_any_work(
    capsys: pytest.CaptureFixture[str], folder: str, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ["direction", "fit", folder, *texts, "--site", "resid_post.1", "--holdout", "0"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.toml").write_text("mine")
    pc.save_edits(pc.Zero(site="embed"), tmp_path / "edits")
    with monkeypatch.context() as patch:
        patch.setattr(pc, "load", lambda *_, **__: pytest.fail("work was done"))
        assert "config.toml' is in the way" in call(capsys, *asked, "--out", str(tmp_path / "mine"), code=2)
        assert "holds edits (edits.json)" in call(capsys, *asked, "--out", str(tmp_path / "edits"), code=2)
        run = ["run", folder, "Once", "--out", str(tmp_path / "mine")]
        assert "config.toml' is in the way" in call(capsys, *run, code=2)
    assert (tmp_path / "mine" / "config.toml").read_text() == "mine"
    (tmp_path / "mine" / "thesis.tex").write_text("mine")
    (tmp_path / "mine" / "config.toml").rename(tmp_path / "config.toml")
    assert "holds 'thesis.tex'; a direction is written into a folder of its own" in call(
        capsys, *asked, "--out", str(tmp_path / "mine"), code=2
    )
    (tmp_path / "config.toml").rename(tmp_path / "mine" / "config.toml")
    call(capsys, *asked, "--out", str(tmp_path / "mine"), "--overwrite")
    assert (tmp_path / "mine" / "config.toml.bak").read_text() == "mine"
    assert pc.Direction.open(tmp_path / "mine").site == "resid_post.1"
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "mine"


@pytest.mark.parametrize(("amount", "name"), [(2.0, "2"), (0.1, "0.1"), (1.0000001, "1.0000001"), (1e7, "1e+07")])
def test_no_two_amounts_have_one_name(amount: float, name: str) -> None:
    assert amount_name(amount) == name


@pytest.fixture(scope="module")
def other(folder: str, model: pc.Model, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same model with other weights."""
    import shutil

    from safetensors.torch import load_file, save_file

    path = tmp_path_factory.mktemp("other") / "m"
    shutil.copytree(folder, path)
    tensors = load_file(path / "model.safetensors")
    save_file({k: 2 * v if "mlp" in k else v for k, v in tensors.items()}, path / "model.safetensors", {"format": "pt"})
    return str(path)


def test_a_direction_without_a_model_needs_one_named(
    capsys: pytest.CaptureFixture[str], folder: str, tmp_path: Path
) -> None:
    x = torch.randn(40, 32, generator=torch.Generator().manual_seed(0))
    found: Any = pc.directions.MeanDifference().fit(x, [0, 1] * 20).direction_
    found.save(tmp_path / "d")
    asked = ["steer", PROMPT, "--direction", str(tmp_path / "d"), "-n", "2"]
    assert "does not say which model it is of; name it with --model" in call(capsys, *asked, code=2)
    (row,) = as_json(capsys, *asked, "--model", folder, "--site", "resid_post.1", "--scale", "2", "3")
    assert list(row) == ["prompt", "plain", "add 2", "add 3"]

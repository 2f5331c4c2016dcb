"""Every verb: what it prints, what it leaves, and its exit code."""

import json
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import patchclamp as pc
from patchclamp.cli.app import main

VERBS = [
    "sites",
    "top",
    "run",
    "sweep",
    "patch",
    "path",
    "lens",
    "curves",
    "patchscope",
    "weights",
    "tune-lens",
    "trace",
    "attribute",
    "heads",
    "edit",
    "direction",
    "polytope",
    "steer",
    "generate",
    "repeat",
    "assets",
    "study",
]
PROMPT = "Once upon a time, there was a dog"
ADD_DOG = ("--op", "add", "--token", " dog")


def call(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    capsys.readouterr()
    assert main(list(arguments)) == code
    out, err = capsys.readouterr()
    return out if code == 0 else err


def as_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    return json.loads(call(capsys, *arguments, "--json"))


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    assert verb in call(capsys, "--help")
    assert "Usage: patchclamp" in call(capsys, verb, "--help")


@pytest.mark.assets
def test_a_full_export_folder_is_refused_before_any_work(
    capsys: pytest.CaptureFixture[str], folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pc.Model, "rewrite_fact", lambda *_, **__: pytest.fail("rewritten"))
    (tmp_path / "mine.txt").write_text("kept")
    rewrite = ["edit", "fact", folder, PROMPT, "--subject", "dog", "--target", " cat"]
    assert "is not empty" in call(capsys, *rewrite, "--export", str(tmp_path), code=2)


@pytest.mark.assets
def test_a_rewrite_is_kept_though_it_is_no_edit(
    capsys: pytest.CaptureFixture[str], folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: pc.Rewrite) -> pc.Edit:
        raise pc.ModelError("the projection cannot write this value")

    monkeypatch.setattr(pc.Rewrite, "edit", refuse)
    quick = ["--covariance", "identity", "--prefixes", "0", "--steps", "1", "--layer", "1"]
    rewrite = ["edit", "fact", folder, PROMPT, "--subject", "dog", "--target", " cat", *quick]
    assert "cannot write this value" in call(capsys, *rewrite, "--out", str(tmp_path / "out"), code=2)
    assert isinstance(pc.open(tmp_path / "out"), pc.Rewrite)


@pytest.mark.assets
def test_sites_and_top(capsys: pytest.CaptureFixture[str], folder: str) -> None:
    found = as_json(capsys, "sites", folder)
    assert (found["layers"], found["strategy"]) == (3, "wavefront")
    assert {row["site"] for row in found["sites"] if row["read"]} >= {"resid_post", "z", "mlp_act"}
    assert "4 x 8" in call(capsys, "sites", folder)
    top = as_json(capsys, "top", folder, PROMPT, "-k", "3")
    assert [row["rank"] for row in top] == [0, 1, 2]
    assert top[0]["probability"] >= top[1]["probability"]
    assert "probability" in call(capsys, "top", folder, PROMPT)


@pytest.mark.assets
@pytest.mark.usefixtures("from_disk")
def test_run_says_the_same_as_the_library(capsys: pytest.CaptureFixture[str], folder: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    found = as_json(
        capsys,
        "run",
        folder,
        PROMPT,
        *ADD_DOG,
        "--scale",
        "5",
        "--site",
        "mlp_out",
        "--at",
        "-1",
        "--out",
        str(out),
    )
    model = pc.load(folder, dtype="float32")
    wanted = model.run(PROMPT, pc.Add(model.embedding(" dog"), 5.0, site="mlp_out", at=-1))
    assert [row["id"] for row in found["after"]] == list(wanted.top(10)["id"])
    assert found["fired"] == [3]
    opened = pc.open(out)
    assert isinstance(opened, pc.Run)
    assert torch.equal(opened.logits, wanted.logits)


@pytest.mark.assets
def test_edits_as_json_and_vectors_from_files(capsys: pytest.CaptureFixture[str], folder: str, tmp_path: Path) -> None:
    file = tmp_path / "v.safetensors"
    save_file({"one": torch.ones(32), "two": torch.full((32,), 2.0)}, file)
    edits = [
        {"op": "add", "vector": f"{file}:two", "site": ["mlp_out.1"], "at": "token: dog"},
        {"op": "zero", "site": ["z.2.h1"], "at": "1:3"},
    ]
    found = as_json(capsys, "run", folder, PROMPT, *[part for e in edits for part in ("--edit", json.dumps(e))])
    assert found["fired"] == [1, 2]
    model = pc.load(folder, dtype="float32")
    wanted = model.run(
        PROMPT, [pc.Add(torch.full((32,), 2.0), site="mlp_out.1", at=-1), pc.Zero(site="z.2.h1", at=slice(1, 3))]
    )
    assert [row["id"] for row in found["after"]] == list(wanted.top(10)["id"])
    assert "unknown vector in" in call(
        capsys, "run", folder, PROMPT, "--op", "add", "--vector", f"{file}:three", "--site", "mlp_out", code=2
    )


@pytest.mark.assets
@pytest.mark.usefixtures("pictures")
def test_a_sweep_leaves_everything_and_can_be_made_again(
    capsys: pytest.CaptureFixture[str], folder: str, tmp_path: Path
) -> None:
    out, again = tmp_path / "a", tmp_path / "b"
    arguments = [
        "sweep", folder, PROMPT, "--op", "add", "--token", " dog", "--site", "mlp_out", "--site", "attn_out", "--at", "each",
        "--cumulative", "--over", "scale=1,2.5", "--answer", " cat", "--answer", " dog", "--read", "probability", "--read", "kl",
        "--verify", "3",
    ]  # fmt: skip
    monkey = [*arguments, "--out", str(out)]
    sys.argv, before = ["patchclamp", *monkey], sys.argv
    try:
        found = as_json(capsys, *monkey)
    finally:
        sys.argv = before
    assert found["dims"] == {"prompt": 1, "site": 2, "layer": 3, "position": 10, "scale": 2, "answer": 2}
    assert found["plan"]["verified"] == 3
    files = {p.name for p in out.iterdir()}
    assert {
        "result.json",
        "arrays.safetensors",
        "data.csv",
        "figure.svg",
        "figure.png",
        "report.html",
        "command.txt",
        "config.toml",
    } <= files
    command = (out / "command.txt").read_text().strip()
    assert shlex.split(command)[1:] == monkey
    config = tomllib.loads((out / "config.toml").read_text())
    assert config["sweep"]["cumulative"] is True
    assert config["sweep"]["edit"][0]["op"] == "add"
    call(capsys, "sweep", "--config", str(out / "config.toml"), "--out", str(again))
    assert (again / "data.csv").read_bytes() == (out / "data.csv").read_bytes(), "the config alone makes it again"
    assert as_json(capsys, "repeat", str(out))["same_numbers"] is True
    assert "row-layers" in call(capsys, *arguments, "--plan")


@pytest.mark.assets
def test_patch_and_generate(capsys: pytest.CaptureFixture[str], folder: str, tmp_path: Path) -> None:
    found = as_json(
        capsys, "patch", folder, PROMPT, PROMPT.replace("dog", "cat"), "--answer", " cat", "--answer", " dog", "--site", "z.*.h*",
        "--at", "last", "--out", str(tmp_path / "p"),
    )  # fmt: skip
    assert torch.tensor(found["values"]).shape == (1, 1, 3, 4)
    assert isinstance(pc.open(tmp_path / "p"), pc.Grid)
    assert as_json(capsys, "repeat", str(tmp_path / "p"))["same_numbers"] is True
    made = as_json(
        capsys,
        "generate",
        folder,
        PROMPT,
        *ADD_DOG,
        "--scale",
        "40",
        "--site",
        "resid_post.2",
        "--at",
        "generated",
        "-n",
        "4",
        "--out",
        str(tmp_path / "g"),
    )
    assert made["fired"] == [3]
    assert set(made["texts"][0]) == {"prompt", "without edits", "with edits"}
    assert "[without edits]" in call(capsys, "generate", folder, PROMPT, "-n", "2")
    sampled = [
        as_json(capsys, "generate", folder, PROMPT, "-n", "6", "--temperature", "5", "--seed", "1") for _ in range(2)
    ]
    assert sampled[0] == sampled[1]


@pytest.mark.assets
def test_weights_and_patchscope(capsys: pytest.CaptureFixture[str], folder: str, tmp_path: Path) -> None:
    options = ["--matrix", "ov.1.h3", "--matrix", "mlp_out.2", "--directions", "2", "-k", "3", "--draws", "2"]
    found = as_json(capsys, "weights", folder, *options, "--out", str(tmp_path / "w"))
    assert [row["side"] for row in found["passing"]] == ["read", "write", "write"]
    assert len(found["rows"]) == 3 * 2 * 2
    opened = pc.open(tmp_path / "w")
    assert isinstance(opened, pc.WeightLens)
    assert list(opened.frame()["tokens"][0]) == found["rows"][0]["tokens"]
    assert as_json(capsys, "repeat", str(tmp_path / "w"))["same_numbers"] is True
    assert "unknown matrix 'mlp_in.1'" in call(capsys, "weights", folder, "--matrix", "mlp_in.1", code=2)
    asked = [
        "patchscope",
        folder,
        PROMPT,
        "--target",
        "cat -> cat; dog",
        "--at",
        "0:2",
        "--into",
        "resid_post.0",
        "-n",
        "2",
    ]
    said = as_json(capsys, *asked, "--out", str(tmp_path / "p"))
    assert said["target"]["token"] == " dog"
    assert len(said["rows"]) == 3 * 2
    assert isinstance(pc.open(tmp_path / "p"), pc.Patchscope)
    assert as_json(capsys, "repeat", str(tmp_path / "p"))["same_numbers"] is True
    refused = call(capsys, "patchscope", folder, PROMPT, "--target", "cat -> cat", "--into-at", "token:cat", code=2)
    assert "stands 2 times" in refused


def test_assets(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATCHCLAMP_CACHE", str(tmp_path))
    rows = as_json(capsys, "assets", "list")
    assert {row["name"] for row in rows} == set(pc.catalogue.ASSETS)
    assert not any(row["fetched"] for row in rows)
    assert "patchclamp assets fetch mnist" in call(capsys, "assets", "where", "mnist", code=1)
    assert "did you mean 'mnist'" in call(capsys, "assets", "fetch", "mnits", code=2)
    assert as_json(capsys, "assets", "verify") == []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["swep", "x"], 2, 'Did you mean "sweep"'),
        (["top", "only-a-model"], 2, "requires an argument"),
        (["top", "smolm2-135m", "x"], 2, "'smollm2-135m' is near"),
        (["sites", "smollm2-135m", "--dtype", "float23"], 2, "float23"),
        (["--config", "nowhere.toml", "top", "a", "b"], 2, "does not exist"),
        (["repeat", "nowhere"], 2, "holds no complete result"),
    ],
)
def test_misuse_exits_with_2(capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str) -> None:
    assert message in call(capsys, *arguments, code=code)


@pytest.mark.assets
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sweep", "{m}", "Once", "--site", "mlp_out", "--answer", " dog"], "a sweep needs an edit: --op add"),
        (["sweep", "{m}", "Once", "--op", "add", "--token", " dog", "--answer", " dog"], "a sweep needs sites: --site"),
        (["sweep", "{m}", "Once", "--op", "zero", "--site", "mlp_out"], "--read probability needs --answer"),
        (
            ["sweep", "{m}", "Once", "--op", "zero", "--site", "mlp_out", "--answer", " dog", "--over", "scale"],
            "--over takes name=value",
        ),
        (["run", "{m}", "Once", "--op", "add", "--site", "mlp_out"], "needs a vector: --token ' Rome'"),
        (["run", "{m}", "Once", "--op", "mean", "--site", "mlp_out"], "--op mean needs --source"),
        (["run", "{m}", "Once", "--op", "zero", "--site", "mlpout"], "did you mean 'mlp_out'"),
        (["run", "{m}", "Once", "--op", "zer"], "unknown --op 'zer'; did you mean 'zero'?"),
        (
            ["run", "{m}", "Once", "--op", "zero", "--site", "mlp_out", "--at", "99"],
            "position 99 is outside the prompt",
        ),
        (["patch", "{m}", "Once", "Once upon", "--answer", " a", "--answer", " dog"], "--align|align='left'"),
        (["patch", "{m}", "Once", "Once", "--answer", " a"], "needs two answers, got 1"),
    ],
)
def test_bad_input_exits_with_2_and_says_what_is_wrong(
    capsys: pytest.CaptureFixture[str], folder: str, arguments: list[str], message: str
) -> None:
    import re

    said = call(capsys, *(a.format(m=folder) for a in arguments), code=2)
    assert re.search(message, said), said


def test_errors_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", "smolm2-135m", "x", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"] == "ModelError"


def test_an_unknown_key_in_a_config_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('[top]\nmodel = "x"\nprompt = "y"\nkk = 3\n')
    said = call(capsys, "top", "--config", str(tmp_path / "c.toml"), code=2)
    assert "kk" in said


def test_the_console_script_starts_without_torch() -> None:
    """--help and mistakes in spelling are answered before anything heavy is imported."""
    script = "import sys; from patchclamp.cli.app import main; main(['--help']); print('torch' in sys.modules, 'pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False False"


@pytest.mark.assets
def test_tune_lens_and_look_through_it(capsys: pytest.CaptureFixture[str], folder: str, tmp_path: Path) -> None:
    text, lens = tmp_path / "text.txt", tmp_path / "lens"
    text.write_text("\n\n".join(f"Once there were {i} dogs and {i + 1} cats." for i in range(60)))
    asked = ["tune-lens", folder, "--corpus", str(text), "--length", "32", "--batch", "64", "--tokens", "320"]
    found = as_json(capsys, *asked, "--learning-rate", "0.01", "--out", str(lens))
    assert [row["site"] for row in found["held_out"]["by_site"]] == ["resid_pre.0", "resid_post.0", "resid_post.1"]
    assert all(row["kl"] != row["logit_lens_kl"] for row in found["held_out"]["by_site"])
    assert tomllib.loads((lens / "config.toml").read_text())["tune-lens"]["learning_rate"] == 0.01
    model = pc.load(folder, dtype="float32")
    tuned = pc.TunedLens.from_pretrained(lens, model)
    seen = as_json(capsys, "lens", folder, PROMPT, "--tuned", str(lens), "--out", str(tmp_path / "seen"))
    expected = model.lens(PROMPT, tuned=tuned).frame()["kl"]
    assert [row["kl"] for row in seen["rows"]] == pytest.approx(list(expected))
    assert as_json(capsys, "repeat", str(tmp_path / "seen"))["same_numbers"] is True
    wrong = call(capsys, "tune-lens", folder, "--corpus", "gutenburg", "--out", str(lens), code=2)
    assert "did you mean 'gutenberg'" in wrong
    pair = ("--corpus", str(text), "--corpus", "nowhere.txt")
    assert "'nowhere.txt' is no file" in call(capsys, "tune-lens", folder, *pair, "--out", str(lens), code=2)


def test_a_corpus_that_is_no_text(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(b"\x89PNG\r\n")
    said = call(capsys, "tune-lens", "nowhere", "--corpus", str(tmp_path / "image.png"), "--out", str(tmp_path), code=2)
    assert "image.png' cannot be read as text" in said


@pytest.mark.assets
def test_lens(capsys: pytest.CaptureFixture[str], folder: str, tmp_path: Path) -> None:
    found = as_json(capsys, "lens", folder, PROMPT, "--site", "resid_post.0-1", "--out", str(tmp_path / "lens"))
    model = pc.load(folder, dtype="float32")
    assert [row["rank"] for row in found["rows"] if row["rank"] is not None] == [
        value for value in model.lens(PROMPT, "resid_post.0-1").frame()["rank"] if value == value
    ]
    assert isinstance(pc.open(tmp_path / "lens"), pc.Lens)
    assert as_json(capsys, "repeat", str(tmp_path / "lens"))["same_numbers"] is True
    assert "resid_mid.2" in call(capsys, "lens", folder, PROMPT, "--site", "resid_mid", "--metric", "kl")
    assert "did you mean 'rank'" in call(capsys, "lens", folder, PROMPT, "--metric", "ranks", code=2)
    said = call(capsys, "lens", folder, PROMPT, "--metric", "rank", code=2)
    assert "the last position has no next token: name one with --target" in said


@pytest.mark.assets
def test_curves(capsys: pytest.CaptureFixture[str], folder: str, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("Once upon a time there was a dog who liked to run in the park with his friend Tom. " * 20)
    arguments = ["curves", folder, str(corpus), "--tokens", "128", "--length", "32"]
    found = as_json(capsys, *arguments, "--out", str(tmp_path / "out"))
    assert (found["sequences"], found["positions"]) == (4, 128)
    model = pc.load(folder, dtype="float32")
    curves = model.lens_curves([corpus.read_text()], length=32, tokens=128)
    assert pc.open(tmp_path / "out").dataset.identical(curves.dataset)
    assert "surprisal" in call(capsys, *arguments)
    assert "cannot be read" not in call(capsys, *arguments)
    assert "unknown corpus" in call(capsys, "curves", folder, "gutenburg", "--length", "32", code=2)
    assert "did you mean 'rank'" in call(capsys, *arguments, "--metric", "ranks", code=2)
    model.tune_lens([corpus.read_text()], length=32, tokens=256, held_out=0.2).save_pretrained(tmp_path / "lens")
    call(capsys, *arguments, "--tuned", str(tmp_path / "lens"), "--out", str(tmp_path / "both"))
    record = json.loads((tmp_path / "both" / "result.json").read_text())
    assert record["parameters"]["tuned"]["folder"] == str(tmp_path / "lens")
    assert pc.open(tmp_path / "both" / "logit-lens").dataset.identical(curves.dataset)
    assert pc.repeat(tmp_path / "both", model).dataset.identical(pc.open(tmp_path / "both").dataset)


@pytest.mark.assets
def test_trace(capsys: pytest.CaptureFixture[str], folder: str, tmp_path: Path) -> None:
    arguments = ["trace", folder, PROMPT, "--subject", "time", "--samples", "2", "--site", "mlp_out", "--window", "2"]
    found = as_json(capsys, *arguments, "--out", str(tmp_path))
    assert len(found["corrupted"]) == 2
    trace = pc.open(tmp_path)
    assert isinstance(trace, pc.Trace)
    assert trace.mean()["effect"].values.tolist() == found["effect"]
    assert tomllib.loads((tmp_path / "config.toml").read_text())["trace"]["window"] == 2
    estimated = as_json(capsys, *arguments, "--method", "gradient", "--check", "5")
    assert estimated["agreement"]["cells"] == 5
    assert "is not in the prompt; its tokens are" in call(capsys, "trace", folder, PROMPT, "--subject", "Rome", code=2)
    twice = ["trace", folder, "A dog saw a dog and", "--samples", "1", "--site", "resid_post.1"]
    assert "occurrence=0..1" in call(capsys, *twice, "--subject", "dog", code=2)
    second = np.array(as_json(capsys, *twice, "--subject", "token: dog#1")["effect"])
    model = pc.load(folder, dtype="float32")
    where = model.tokens("A dog saw a dog and").index(" dog", 4)
    assert not second[..., :where].any()
    assert second[..., where].any()


@pytest.mark.assets
def test_trace_of_many_facts(capsys: pytest.CaptureFixture[str], folder: str, tmp_path: Path) -> None:
    file = tmp_path / "facts.csv"
    file.write_text(f'\ufeffprompt,subject\n"{PROMPT}",time\n"{PROMPT} and a cat",dog\n')
    found = as_json(capsys, "trace", folder, "--facts", str(file), "--samples", "2", "--out", str(tmp_path / "out"))
    average = pc.open(tmp_path / "out")
    assert isinstance(average, pc.TraceAverage)
    assert [row["subject"] for row in found["facts"]] in (["time", "dog"], ["dog", "time"])
    wanted = average.mean()["effect"].sel(role=["last subject token", "last token"]).values
    kept = [found["roles"].index(role) for role in ("last subject token", "last token")]
    assert np.array_equal(np.array(found["effect"])[..., kept], wanted)
    assert "takes a PROMPT with its --subject, or --facts" in call(capsys, "trace", folder, PROMPT, code=2)
    assert "or --facts" in call(capsys, "trace", folder, PROMPT, "--subject", "time", "--facts", str(file), code=2)
    file.write_text("text,subject\n1,2\n")
    assert "it lacks ['prompt']" in call(capsys, "trace", folder, "--facts", str(file), code=2)
    assert "cannot be read as text" in call(capsys, "trace", folder, "--facts", str(tmp_path / "none.csv"), code=2)


@pytest.mark.assets
def test_attribute(capsys: pytest.CaptureFixture[str], folder: str, tmp_path: Path) -> None:
    arguments = [
        folder,
        PROMPT,
        PROMPT.replace("dog", "cat"),
        "--answer",
        " dog",
        "--answer",
        " cat",
        "--site",
        "mlp_out",
    ]
    found = as_json(capsys, "attribute", *arguments, "--check", "5", "--out", str(tmp_path))
    exact = as_json(capsys, "patch", *arguments)
    assert found["baseline"] == pytest.approx(exact["baseline"], rel=1e-4)
    assert found["agreement"]["cells"] == 5
    assert isinstance(pc.open(tmp_path), pc.Attribution)


@pytest.mark.assets
def test_heads(capsys: pytest.CaptureFixture[str], folder: str, tmp_path: Path) -> None:
    arguments = ["heads", folder, "--length", "5", "--samples", "2", "--draws", "3"]
    found = as_json(capsys, *arguments, "--out", str(tmp_path / "h"))
    scores = pc.open(tmp_path / "h")
    assert isinstance(scores, pc.HeadScores)
    assert found["strongest"]["induction"] == scores.strongest("induction").to_dict("records")
    assert as_json(capsys, "repeat", str(tmp_path / "h"))["same_numbers"] is True
    text = ["--text", "Tom saw a dog. Tom ran to the dog", "--word", " dog"]
    assert "largest copying scores" in call(capsys, *arguments, *text, "--score", "copying", "-k", "2")
    assert "did you mean 'copying'" in call(capsys, *arguments, "--score", "copyin", code=2)
    assert "does not recur" in call(capsys, *arguments, "--text", "a dog", "--word", " dog", code=2)


@pytest.mark.assets
def test_path(capsys: pytest.CaptureFixture[str], folder: str, tmp_path: Path) -> None:
    arguments = ["path", folder, PROMPT, PROMPT.replace("dog", "cat"), "--answer", " dog", "--answer", " cat"]
    found = as_json(
        capsys, *arguments, "--sender", "mlp_out", "--receiver", "q.2", "--freeze", "attention", "--out", str(tmp_path)
    )
    grid = pc.open(tmp_path)
    assert isinstance(grid, pc.Grid)
    assert grid.data.values.tolist() == found["values"]
    assert grid.record["parameters"]["freeze"] == ["attn_out"]
    assert as_json(capsys, "repeat", str(tmp_path))["same_numbers"] is True
    assert "no sender lies below a receiver" in call(
        capsys, *arguments, "--sender", "mlp_out.2", "--receiver", "q.0", code=2
    )

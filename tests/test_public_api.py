"""The public face: the lines of the design run as written, every name exists, is documented, and costs nothing to import."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import patchclamp as pc

ROOT = Path(__file__).parent.parent


@pytest.mark.assets
def test_the_design_lines_run_as_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = pc.load("smollm2-135m", dtype="float32")
    folder = pc.catalogue.where("stories15m")
    hf_model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    assert pc.wrap(hf_model, tokenizer).ladder.strategy == "wavefront"
    net = pc.wrap(torch.nn.Sequential(torch.nn.Linear(3, 3)).eval())
    assert net.record(torch.zeros(1, 3), "0:out")["0:out"].shape == (1, 3)
    print(model.sites)  # noqa: T201
    assert "resid_post" in capsys.readouterr().out
    prompt, prompts = "The capital of Spain is", ["The capital of Spain is", "Rome is"]
    assert model.tokens(prompt) == ["The", " capital", " of", " Spain", " is"]
    assert len(model.top("The capital of Spain is", k=10)) == 10
    acts = model.record(prompts, ["resid_post", "mlp_out.5"], at="last")
    assert acts["resid_post"].shape == (30, 2, 576)
    assert acts.dims["resid_post"] == ("layer", "prompt", "d")
    assert acts.data["resid_post"].shape == (30, 2, 576)
    rome = model.embedding(" Rome")
    run = model.run(prompt, edits=[pc.Add(rome, site="mlp_out", at=-1)], record=["resid_post"])
    assert run.logits.shape == (1, 5, 49152)
    assert len(run.top()) == 10
    assert run.activations is not None
    assert run.fired == (30,)
    v = rome
    out = model.generate(
        "I think that", edits=[pc.Add(v, scale=4, site="resid_post.12", at="generated")], max_new_tokens=4, seed=0
    )
    assert out.fired == (3,)
    edit = pc.Add(v, site="resid_post.12")
    with model.editing(edit):
        ids = model.tokenizer(prompt, return_tensors="pt")
        model.module.generate(**ids, max_new_tokens=2, do_sample=False, pad_token_id=2)
    grid = model.sweep(
        "The capital of Spain is", pc.Add(rome), sites=["mlp_out.28-29", "attn_out.28-29"], at="each", cumulative=True,
        over={"scale": [1, 2, 4]}, read=pc.Probability([" Madrid", " Rome"]),
    )  # fmt: skip
    assert grid.data.dims == ("prompt", "site", "layer", "position", "scale", "answer")
    assert grid.baseline.dims == ("prompt", "answer")
    assert grid.relative().shape == grid.data.shape
    assert len(grid.frame()) == grid.data.size
    assert grid.figure().axes
    assert grid.plan.strategy == "wavefront"
    grid.save(tmp_path / "rome")
    assert pc.open(tmp_path / "rome") == grid
    clean, corrupt = "The capital of Italy is", "The capital of Spain is"
    model.patch(
        source=clean, into=corrupt, sites="resid_post.28-29", at="each", read=pc.LogitDifference(" Rome", " Madrid")
    )


def test_every_public_name_exists_and_is_documented() -> None:
    names = [name for name in pc.__all__ if not name.startswith("_")]
    assert len(names) > 50
    for name in names:
        found = getattr(pc, name)
        assert inspect.getdoc(found), name
        if inspect.isclass(found):
            for method, function in vars(found).items():
                if not method.startswith("_") and inspect.isfunction(function) and name not in ("Subspace",):
                    assert inspect.getdoc(getattr(found, method)), f"{name}.{method}"


def test_every_public_name_is_in_the_reference() -> None:
    reference = "\n".join(path.read_text() for path in (ROOT / "docs").rglob("*.md"))
    missing = [name for name in pc.__all__ if not name.startswith("_") and f"patchclamp.{name}" not in reference]
    assert not missing


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Swep"):
        _ = pc.Swep


def test_importing_is_light_and_has_no_side_effects() -> None:
    script = (
        "import sys, torch; state = torch.random.get_rng_state(); before = set(sys.modules)\n"
        "import patchclamp\n"
        "heavy = ('transformers', 'pandas', 'xarray', 'sklearn', 'ray', 'matplotlib', 'altair', 'rich', 'jinja2')\n"
        "loaded = [m for m in heavy if m in set(sys.modules) - before]\n"
        "import patchclamp.model\n"
        "methods = ('pandas', 'xarray', 'sklearn', 'scipy', 'matplotlib', 'pydantic')\n"
        "loaded += [m for m in methods if m in set(sys.modules) - before]\n"
        "print(loaded, bool((torch.random.get_rng_state() == state).all()), sys.excepthook is sys.__excepthook__)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] True True"
    assert done.stderr == ""


def test_hooks_are_registered_in_one_file_only() -> None:
    found = [
        path.name
        for path in (ROOT / "src").rglob("*.py")
        if "register_forward_hook(" in path.read_text() or "register_forward_pre_hook(" in path.read_text()
    ]
    assert found == ["hooks.py"]


def test_nothing_is_unpickled() -> None:
    for path in (ROOT / "src").rglob("*.py"):
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        names = {(ast.unparse(call.func), "weights_only=True" in ast.unparse(call)) for call in calls}
        assert ("torch.load", False) not in names, f"{path}: from foreign files only tensors are read"
        assert not {name for name, _ in names} & {"pickle.load", "pickle.loads", "joblib.load", "pickle.Unpickler"}, (
            path
        )

"""Every kind of result: saved, opened, equal; repeated from its folder; never half-written."""

import copy
import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

import patchclamp as pc
from patchclamp.core import registry
from patchclamp.core.result import Deferred, Result
from tests import tiny
from tests.effort import FULL
from tests.fuzz import world
from tests.fuzz.table import of_test_files
from tests.polytopes.nets import networks


def _results(model: pc.Model) -> dict[str, Result]:
    """Every kind, with settings other than the defaults wherever a repetition has to pass one on."""
    prompts = [*tiny.ids(1, 6), *tiny.ids(1, 4, seed=2)]
    edit, base = pc.Scale(2.0, site="resid_post.1", at=-1), [pc.Scale(0.5, site="resid_pre.1", at=0)]
    noise = {"samples": 2, "noise": 2.0, "std": 0.7, "seed": 3}
    return {
        "run": model.run(prompts, [edit], record=["resid_post", "z.1"], at=[0, -1], logits="last"),
        "activations": model.record(prompts, ["resid_post", "mlp_act.1.n3", "z"], at=[0, -1], edits=edit),
        "grid": model.sweep(
            prompts, pc.Scale(2.0), sites=["mlp_out", "attn_out"], at="each", read=[pc.TopK(2), pc.KL()], base=base,
            cumulative=True, over={"factor": [0.5, 3.0]},
        ),
        "generation": model.generate(
            prompts, [edit], max_new_tokens=3, seed=5, do_sample=True, top_k=7, eos_token_id=[2, 3]
        ),
        "lens": model.lens(prompts, ["resid_pre.1", "resid_post"], [0, -1], k=2, targets=7),
        "lens_curves": model.lens_curves(tiny.ids(3, 5), ["resid_post.1"], [1, 2], length=5, targets=7),
        "contributions": model.contributions([prompts[0]], [5, 9], [1, 2], heads=True),
        "patchscope": model.patchscope(
            prompts, ["resid_post.0"], target=tiny.ids(1, 5, seed=4), at=[0, -1], into="resid_post.1", into_at=2, k=2,
            max_new_tokens=2,
        ),
        "weight_lens": model.weight_lens(
            ["ov.1.h3", "mlp_out.2"], directions=3, k=3, through="unembedding", draws=4, seed=2
        ),
        "trace": model.causal_trace([prompts[0]], [1, 2], 9, sites=["resid_post", "mlp_out"], window=2, **noise),
        "trace_average": model.trace_facts(
            [([prompts[0]], [1, 2], 9), ([prompts[1]], [1], 4)], sites=["resid_post", "mlp_out"], window=2, **noise
        ),
        "attribution": model.attribution_patch(
            [prompts[0]], tiny.ids(1, 6, seed=3), sites="resid_post.0-1", at=[1, -1], read=pc.LogitDifference(5, 9),
            align="right", source_edits=[edit], base=base, integrate=2, check=5,
        ),
        "heads": model.head_scores(length=4, samples=2, seed=3, draws=3),
        "rewrite": model.rewrite_fact(
            [prompts[0]], [1, 2], 9, layer=1, true=4, covariance="identity", ridge=0.02, prefixes=2, seed=4, steps=3, lr=0.2
        ),
        "bias": pc.metrics.bias(model, [prompts], (5, 9), {"twice": edit}),
        "damage": pc.metrics.damage(model, {"twice": edit}, prompts),
        "divergence": pc.metrics.divergence(model, edit, [prompts[0]], [prompts[1]], max_new_tokens=3),
        "interchange": pc.metrics.interchange(
            model, [tiny.ids(2, 5)], torch.eye(32)[:2], "resid_post.1", (5, 9), at="all"
        ),
        "probe_report": _probed(),
        **_directed(model),
        **_walked(),
        "neurons": model.neuron_importances([prompts[0]], [1, 2], 9, integrate=2, top=3, verify=4, **noise),
        "spline_codes": model.spline_codes(prompts, ["mlp_act.1"], at=[1, -1], labels={"class": ["a", "b"]}),
        "clusters": _clustered(),
        **_coded(),
    }  # fmt: skip


def _ordinary(folders: pytest.TempPathFactory) -> dict[str, Result]:
    """The kinds whose capability has its ordinary call in its own test file."""
    new = [line(folders.mktemp("ordinary")) for line in of_test_files().values()]
    return {result.kind: result for result in new if isinstance(result, Result)}


def _directed(model: pc.Model) -> dict[str, Result]:
    prompts, labels = tiny.ids(12, 6), [0, 1] * 6
    found = model.fit_directions("leace", prompts, labels, ["resid_post.0", "resid_post.2"], holdout=0)
    texts = tiny.ids(2, 5, seed=7)
    return {
        "layer_effects": model.layer_effects(
            {"leace": found}, [prompts[:2], prompts[2:4]], (5, 9), texts, edits=["swap", "to first"]
        ),
        "dose_response": model.dose_response({"leace": found[0]}, prompts[:3], (5, 9), [-1, 2.5], texts),
        "projections": model.projections(found[1], prompts, labels),
    }


def _walked() -> dict[str, Result]:
    points, labels = torch.randn(8, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64), [0, 1] * 4
    return {
        "segment": NETWORK.segment(points[0], points[1]),
        "boundaries": NETWORK.boundaries(points, radii=[0.1, 1]),
        "radial_density": NETWORK.radial_density(points, edges=[0, 1, 4]),
        "scaling": NETWORK.scaling(points, ["1:out"], [0.5, 2], labels=labels),
        "paths": NETWORK.adversarial_paths(points, labels, eps=0.3, steps=5),
        "plane": NETWORK.plane(points[:3], names=["a", "b", "c"]),
        "raster": NETWORK.raster(points[:3], lines=4),
    }


def _probed() -> Result:
    rows = torch.randn(80, 4, generator=torch.Generator().manual_seed(0))
    return pc.metrics.probe(rows, [0, 1] * 40, lambda x: 0 * x, probes=["linear"])


def _coded() -> dict[str, Result]:
    d, toy = pc.dictionaries, pc.dictionaries.ToyData.zipf(6, 4, active=1.5)
    rows, _ = toy.sample(200, seed=1)
    first, second = (d.Dictionary(toy.features[order], d.OMP(2)) for order in ([0, 1, 2, 3], [5, 4, 3, 2, 1, 0]))
    evaluation = d.evaluate(first, rows)
    return {
        "agreement": d.agreement(first, second, names=["small", "large"]),
        "evaluation": evaluation,
        "frontier": d.frontier({"OMP": [evaluation, d.evaluate(second, rows)]}),
        "recovery": d.recovery(first, toy, samples=300),
        "superposition": d.superposition(4, 2, active=[0.5, 1.0], seeds=[0, 1], steps=5, points=3, batch_size=16),
    }


def _clustered() -> Result:
    rows = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    return pc.polytopes.cluster(rows, rows.relu(), [0, 1, 2] * 20, k=3, algorithms=["ward"])


NETWORK = pc.wrap(networks()["relu"][0])
WALKED = ("segment", "boundaries", "radial_density", "scaling", "paths", "plane", "raster")
"""Kinds made with a small network."""
ORDINARY: dict[str, Result] = {}
"""Kinds of which the test of the capability has an ordinary call."""
ARRAYS = ("probe_report", "clusters", "agreement", "evaluation", "frontier", "recovery", "superposition")
"""Kinds made of arrays alone: they know no model, and cannot be repeated from their folder."""

AS_PUBLISHED = ("grid",)
"""Kinds whose figures the short form, too, writes in their full size: most of the time of saving goes there."""


@pytest.fixture(scope="module")
def results(llama: pc.Model, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    ORDINARY.update(_ordinary(tmp_path_factory))
    return _results(llama) | ORDINARY


@pytest.fixture(scope="module")
def folder_of(results: dict[str, Result], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a kind's result, saved once for all tests, which leave it as it is."""
    root = tmp_path_factory.mktemp("results")
    savefig = Figure.savefig

    def small(figure: Figure, *where: Any, **how: Any) -> None:
        savefig(figure, *where, **{**how, "dpi": 20, "bbox_inches": None})

    def folder(kind: str) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            if not (FULL or kind in AS_PUBLISHED):
                patch.setattr(Figure, "savefig", small)
            return root / kind if (root / kind).exists() else results[kind].save(root / kind)

    return folder


@pytest.fixture
def drawn_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Saving without figure and page, for tests of what a repetition reads."""
    monkeypatch.setattr(Result, "figure", lambda *_: None)
    monkeypatch.setattr(registry, "write_figure", lambda *_: None)
    monkeypatch.setattr(registry, "page_of", lambda _: "")


def test_every_kind_is_covered(results: dict[str, Result]) -> None:
    assert set(results) == set(registry.kinds())
    for name in registry.kinds():
        assert registry.result_class(name).kind == name
        assert callable(registry.figure_module(name).figure), name
        assert callable(registry.page_module(name).parts)


@pytest.mark.parametrize("kind", registry.kinds())
def test_opening_gives_an_equal_object_back(
    results: dict[str, Result], folder_of: Callable[[str], Path], kind: str
) -> None:
    saved = results[kind]
    opened = pc.open(folder_of(kind))
    assert type(opened) is type(saved)
    assert opened == saved
    assert opened.frame().equals(saved.frame())
    others = [r for name, r in results.items() if name != kind]
    assert all(opened != other for other in others)


@pytest.mark.parametrize("kind", registry.kinds())
def test_the_folder_holds_everything_and_works_offline(
    results: dict[str, Result], folder_of: Callable[[str], Path], kind: str
) -> None:
    folder = folder_of(kind)
    files = {p.name for p in folder.iterdir() if p.is_file()}
    assert {"result.json", "arrays.safetensors", "data.csv", "figure.svg", "figure.png", "report.html"} <= files
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (folder / "figure.svg").read_text()
    plain = results[kind].frame().to_csv(index=False)
    text = (folder / "data.csv").read_text()
    assert text == plain if kind != "weight_lens" else text.replace(",'+,", ",+,").replace(",'-,", ",-,") == plain
    page = (folder / "report.html").read_text()
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    assert "@import" not in page
    HTMLParser().feed(page)
    record = json.loads((folder / "result.json").read_text())
    assert {"kind", "format_version", "model", "versions", "parameters"} <= set(record)
    assert (record["kind"], record["format_version"]) == (kind, 2)
    if kind in ARRAYS:
        assert record["model"] is None
    else:
        assert re.fullmatch(r"[0-9a-f]{64}", record["model"]["weights_sha256"])
    assert {"torch", "transformers", "patchclamp"} <= set(record["versions"])


def test_saving_again_gives_the_same_bytes_and_keeps_the_files_of_others(
    results: dict[str, Result], folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    assert (folder_of("segment") / "parameters.safetensors").is_file()
    assert not results["grid"].tensors
    shutil.copytree(folder_of("segment"), tmp_path, dirs_exist_ok=True)
    (tmp_path / "notes.txt").write_text("mine")
    assert results["grid"].save(str(tmp_path)) == tmp_path
    for file in ("result.json", "arrays.safetensors", "data.csv", "figure.svg", "report.html"):
        assert (folder_of("grid") / file).read_bytes() == (tmp_path / file).read_bytes(), file
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert not (tmp_path / "parameters.safetensors").exists(), "of the earlier result"


def test_options_of_the_figure_reach_it(results: dict[str, Result], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(
        registry, "figure_of", lambda kind: lambda result, **options: asked.append((kind, result, options))
    )
    results["grid"].figure(symmetric=True)
    assert asked == [("grid", results["grid"], {"symmetric": True})]


def test_results_that_differ_in_anything_differ(results: dict[str, Result]) -> None:
    """One value, one parameter, one vector or one label other: not the same result."""
    made = results["damage"]
    assert made == copy.copy(made)
    for name, value in (
        ("kind", "bias"),
        ("record", {**made.record, "prompts": []}),
        ("tensors", {"v": torch.ones(1)}),
    ):
        other = copy.copy(made)
        setattr(other, name, value)
        assert made != other, name
    with_vector, other_vector = copy.copy(made), copy.copy(made)
    with_vector.tensors, other_vector.tensors = {"v": torch.ones(2)}, {"v": torch.tensor([1.0, 2.0])}
    assert with_vector != other_vector
    assert with_vector == copy.copy(with_vector)
    first = next(iter(made._dataset().data_vars))
    for changed in (
        made._dataset().assign({first: made._dataset()[first] + 1}),
        made._dataset().assign_attrs(note="x"),
    ):
        assert dataclasses.replace(made, dataset=changed) != made  # type: ignore[type-var]
    parts = copy.copy(made)
    parts._parts = lambda: {"inner": made}  # type: ignore[method-assign]
    assert made != parts
    assert made != "damage"


def test_what_is_costly_is_worked_out_once_and_only_when_asked_for() -> None:
    made: list[int] = []
    later = Deferred(lambda: made.append(1) or {"hash": len(made)})
    assert made == []
    assert later.value() == later.value() == {"hash": 1}


@pytest.mark.usefixtures("drawn_fast")
def test_a_save_that_fails_leaves_the_earlier_result(
    results: dict[str, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results["grid"].save(tmp_path)
    monkeypatch.setattr(registry, "page_of", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        results["grid"].save(tmp_path)
    assert pc.open(tmp_path) == results["grid"]


def test_a_newer_format_and_an_empty_folder_are_refused(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(pc.InputError, match="holds no complete result"):
        pc.open(tmp_path / "nowhere")
    shutil.copytree(folder_of("run"), tmp_path, dirs_exist_ok=True)
    record = json.loads((tmp_path / "result.json").read_text())
    (tmp_path / "result.json").write_text(json.dumps({**record, "format_version": 3}))
    with pytest.raises(pc.InputError, match="format version 3; this patchclamp reads up to 2"):
        pc.open(tmp_path)
    del record["sha256"], record["files"]  # as version 0.1.0 wrote it
    (tmp_path / "result.json").write_text(json.dumps({**record, "kind": "runs"}))
    with pytest.raises(pc.InputError, match="unknown result kind 'runs'; did you mean 'run'"):
        pc.open(tmp_path)


@pytest.mark.parametrize("kind", registry.kinds())
def test_a_result_can_be_repeated_from_its_folder(
    llama: pc.Model, results: dict[str, Result], folder_of: Callable[[str], Path], kind: str
) -> None:
    if kind in ARRAYS:
        with pytest.raises(pc.InputError, match="made of arrays"):
            pc.repeat(folder_of(kind))
        return
    again = pc.repeat(folder_of(kind), NETWORK if kind in WALKED else world.model() if kind in ORDINARY else llama)
    assert again == results[kind]
    assert again.frame().equals(results[kind].frame())


EDIT, OTHER = pc.Scale(2.0, site="resid_post.1", at=-1), pc.Scale(0.5, site="resid_pre.1", at=0)
LONG, SHORT = tiny.ids(1, 6), tiny.ids(1, 4, seed=2)
DIFFERENCE = pc.LogitDifference(5, 9)
GRADIENT: dict[str, Any] = {"method": "gradient", "integrate": 2, "check": 3, "samples": 2, "sites": "resid_post"}
OTHERWISE: dict[str, Callable[[pc.Model], Result]] = {
    "patch": lambda m: m.patch(
        LONG, SHORT, sites="mlp_out", at="each", read=DIFFERENCE, align="right", source_edits=[EDIT], base=[OTHER]
    ),
    "path patch": lambda m: m.path_patch(
        LONG, SHORT, sender="z.0.h*", receivers=["q.2.h1", "mlp_in.1"], receive_at=[1, -1], freeze="attn_out", at="each",
        read=DIFFERENCE, align="right", source_edits=[EDIT], base=[OTHER],
    ),
    "generation": lambda m: m.generate(LONG, [EDIT], max_new_tokens=2),
    "trace by gradient of a read": lambda m: m.causal_trace(LONG, [1, 2], read=DIFFERENCE, **GRADIENT),
    "trace of facts by gradient": lambda m: m.trace_facts([(LONG, [1, 2])], read=DIFFERENCE, **GRADIENT),
    "neurons of a read": lambda m: m.neuron_importances(LONG, [1], read=DIFFERENCE, samples=2, top=3, verify=0),
    "bias of single prompts": lambda m: pc.metrics.bias(m, [*LONG, *SHORT], (5, 9), {"a": EDIT, "b": [EDIT, OTHER]}, labels=[1, 0]),
    "rewrite after given prefixes": lambda m: m.rewrite_fact(
        LONG, [1, 2], 9, layer=0, covariance="identity", prefixes=[[5, 6], [7]], steps=2
    ),
}  # fmt: skip
"""Settings that exclude those of the results above."""


@pytest.mark.usefixtures("drawn_fast")
@pytest.mark.parametrize("what", OTHERWISE)
def test_other_settings_are_repeated_too(llama: pc.Model, what: str, tmp_path: Path) -> None:
    made = OTHERWISE[what](llama)
    made.save(tmp_path)
    assert pc.repeat(tmp_path, llama) == made == pc.open(tmp_path)


def test_a_live_model_must_be_passed_to_repeat(folder_of: Callable[[str], Path]) -> None:
    with pytest.raises(pc.InputError, match="live model that has no name"):
        pc.repeat(folder_of("grid"))


@pytest.mark.usefixtures("drawn_fast")
def test_a_named_model_is_opened_again_by_repeat_if_its_weights_are_the_same(tmp_path: Path) -> None:
    tiny.build("gpt2", torch.float32).save_pretrained(tmp_path / "model")
    model = pc.load(tmp_path / "model", dtype="float64", attn_implementation="eager")
    made = model.sweep(tiny.ids(1, 4), pc.Scale(2.0), sites="mlp_out", at="each", read=pc.TopK(1))
    made.save(tmp_path / "made")
    assert pc.repeat(tmp_path / "made") == pc.open(tmp_path / "made") == made
    module = tiny.build("gpt2", torch.float32)
    with torch.no_grad():
        module.transformer.wte.weight[5, 5] += 1  # type: ignore[union-attr,operator,index]
    module.save_pretrained(tmp_path / "model")
    with pytest.raises(pc.InputError, match=r"the weights of '.*model' are no longer those of '.*made'"):
        pc.repeat(tmp_path / "made")


@pytest.mark.usefixtures("drawn_fast")
def test_inputs_without_tokens_cannot_be_repeated(tmp_path: Path) -> None:
    NETWORK.run(torch.ones(1, 5, dtype=torch.float64)).save(tmp_path)
    with pytest.raises(pc.InputError, match="inputs without tokens"):
        pc.repeat(tmp_path, NETWORK)


@pytest.mark.usefixtures("drawn_fast")
def test_a_sweep_with_a_function_says_why_it_cannot_be_repeated(llama: pc.Model, tmp_path: Path) -> None:
    grid = llama.sweep(tiny.ids(1, 4), pc.Call(lambda x: 2 * x), sites="mlp_out", at=-1, read=pc.TopK(1))
    grid.save(tmp_path)
    with pytest.raises(pc.InputError, match=r"cannot be repeated from its folder: edit: Call cannot be saved"):
        pc.repeat(tmp_path, llama)


@pytest.mark.usefixtures("drawn_fast")
@pytest.mark.parametrize("kind", ["run", "activations", "generation"])
def test_what_ran_under_a_function_is_kept_and_says_why_it_cannot_be_repeated(
    llama: pc.Model, kind: str, tmp_path: Path
) -> None:
    edit = pc.Call(lambda x: 2 * x, site="mlp_out.1", at=0)
    prompt = tiny.ids(1, 4)
    made = {
        "run": lambda: llama.run(prompt, edit),
        "activations": lambda: llama.record(prompt, "z", edits=edit),
        "generation": lambda: llama.generate(prompt, edit, max_new_tokens=2),
    }[kind]()
    made.save(tmp_path)
    assert pc.open(tmp_path) == made
    with pytest.raises(pc.InputError, match="edits: Call cannot be saved"):
        pc.repeat(tmp_path, llama)


def test_the_weight_hash_follows_the_weights() -> None:
    model = pc.wrap(tiny.build("gpt2"))
    before = model.weights_digest()
    assert model.weights_digest() == before
    result = model.run(tiny.ids(1, 4))
    assert result.plain_record()["model"]["weights_sha256"] == before
    late = model.run(tiny.ids(1, 4))
    with torch.no_grad():
        next(iter(model.module.parameters())).view(-1)[0].add_(1.0)
    assert model.weights_digest() != before
    assert late.plain_record()["model"]["weights_sha256"] is None, (
        "saved after training: the weights of the run are gone"
    )


@pytest.mark.slow
@pytest.mark.assets
def test_a_model_of_the_catalogue_is_opened_again_by_repeat(stories: pc.Model, tmp_path: Path) -> None:
    grid = stories.sweep(
        "Once upon a time", pc.Add(stories.embedding(" dog")), sites="mlp_out", at="each", read=pc.TopK(1)
    )
    grid.save(tmp_path)
    assert pc.repeat(tmp_path) == pc.open(tmp_path) == grid

"""A checkpoint never gives the numbers of other work: whatever is changed, the numbers are those of a fresh call."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import patchclamp as pc
from patchclamp.interventions import part_runner, reads
from patchclamp.interventions.gates import Gate
from patchclamp.interventions.operations import Operation
from tests import tiny

IDS, OTHER = tiny.ids(1, 6), tiny.ids(1, 6, seed=1)
WIDTH = 32
PLAIN: dict[str, Any] = {"sites": "mlp_out.1", "strategy": "rows", "read": pc.Logits([3])}


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*(shape or (WIDTH,)), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def opposite(seed: int) -> Tensor:
    """Two centres, so that what is nearest hangs on the side of a plane."""
    return torch.stack([draw(seed), -draw(seed)]) / 9


def linear(seed: int) -> nn.Module:
    module = nn.Linear(WIDTH, WIDTH, dtype=torch.float64)
    with torch.no_grad():
        module.weight.copy_(draw(seed, WIDTH, WIDTH))
        module.bias.copy_(draw(seed + 1))
    return module


class Codes:
    """A dictionary that is no module."""

    def __init__(self, seed: int) -> None:
        self.atoms = draw(seed, 7, WIDTH)

    def encode(self, x: Tensor) -> Tensor:
        return torch.relu(x @ self.atoms.T)

    def decode(self, latents: Tensor) -> Tensor:
        return latents @ self.atoms


class Above(Gate):
    """A gate of the user's own, and no dataclass."""

    def __init__(self, seed: int) -> None:
        self.direction = draw(seed)

    def __call__(self, x: Tensor) -> Tensor:
        return x @ self.direction > 0


class Probe(nn.Module):
    """A gate that was trained."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(draw(seed))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight > 0


class Head(nn.Module):
    """A read that was trained."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(draw(seed, 97))

    def forward(self, logits: Tensor) -> Tensor:
        return logits.to(self.weight.dtype) @ self.weight


class Lowest(reads.Read):
    """A read of the user's own."""

    def __init__(self, times: float) -> None:
        object.__setattr__(self, "times", times)

    def bind(self, model: Any, prompt: Any, index: int, count: int) -> list[reads.Bound]:
        times = self.times  # type: ignore[attr-defined]
        return [reads.Bound("lowest", (len(prompt.ids) - 1,), (), lambda x, _: x[:, 0].min(-1).values * times)]


def recorded(model: pc.Model, ids: list[list[int]]) -> Any:
    return model.record(ids, "mlp_out.1", at="all")


EDITS: dict[str, list[Callable[[pc.Model], pc.Edit]]] = {
    "Add": [lambda m: pc.Add(draw(0)), lambda m: pc.Add(draw(1)), lambda m: pc.Add(draw(0), 2.0)],
    "Put": [lambda m: pc.Patch(draw(0)), lambda m: pc.Patch(draw(1))],
    "Zero": [lambda m: pc.Zero(), lambda m: pc.Scale(2.0), lambda m: pc.Scale(3.0), lambda m: pc.Scale(3.0, about=draw(1))],
    "Scale": [lambda m: pc.Scale(2.0, draw(0)), lambda m: pc.Scale(2.0, draw(1)), lambda m: pc.Scale(2.0, draw(0), read_vectors=draw(1))],
    "ProjectOut": [lambda m: pc.ProjectOut(draw(0)), lambda m: pc.ProjectOut(draw(1)), lambda m: pc.Reflect(draw(0))],
    "Reflect": [lambda m: pc.Reflect(draw(0), draw(1)), lambda m: pc.Reflect(draw(0), draw(2))],
    "Clamp": [lambda m: pc.Clamp(-0.1, 0.1), lambda m: pc.Clamp(-0.1, 0.2), lambda m: pc.Clamp(-0.1, 0.1, draw(0))],
    "RankOne": [lambda m: pc.RankOne(draw(0), draw(1)), lambda m: pc.RankOne(draw(1), draw(0))],
    "DrawnNoise": [lambda m: pc.Noise(0.5), lambda m: pc.Noise(0.5, seed=1), lambda m: pc.Noise(0.6)],
    "Splice": [
        lambda m: pc.Splice(Codes(0), {1: 5.0}), lambda m: pc.Splice(Codes(1), {1: 5.0}), lambda m: pc.Splice(Codes(0), {1: 6.0}),
        lambda m: pc.Splice(Codes(0), {2: 5.0}), lambda m: pc.Splice(Codes(0), {1: 5.0}, keep_error=False),
    ],
    "Apply": [lambda m: pc.Edit(linear(0)), lambda m: pc.Edit(linear(3)), lambda m: pc.Edit(nn.Sequential(linear(0), nn.Tanh()))],
    "Call": [
        lambda m: pc.Call(linear(0)), lambda m: pc.Call(linear(3)), lambda m: pc.Call(torch.tanh), lambda m: pc.Call(torch.relu),
        lambda m: pc.Call(pc.known_as(lambda x: 2 * x, "twice")), lambda m: pc.Call(pc.known_as(lambda x: 3 * x, "thrice")),
    ],
    "Rotated": [
        lambda m: pc.Rotate(OTHER, 2, WIDTH), lambda m: pc.Rotate(OTHER, 2, WIDTH, seed=1), lambda m: pc.Rotate(IDS, 2, WIDTH, at=1),
        lambda m: pc.Rotate(draw(0), directions=draw(1, 2, WIDTH)), lambda m: pc.Rotate(draw(0), directions=draw(2, 2, WIDTH)),
        lambda m: pc.Rotate(recorded(m, tiny.ids(1, 6, seed=4)), 2, WIDTH), lambda m: pc.Rotate(recorded(m, tiny.ids(1, 6, seed=2)), 2, WIDTH),
    ],
    "Patch": [
        lambda m: pc.Patch(OTHER), lambda m: pc.Patch(tiny.ids(1, 6, seed=2)), lambda m: pc.Patch(pc.source(OTHER, at=1)),
        lambda m: pc.Patch(pc.source(OTHER, [pc.Edit(linear(0), site="mlp_out.0")])),
        lambda m: pc.Patch(pc.source(OTHER, [pc.Call(lambda x: 2 * x, site="mlp_out.0")])),
        lambda m: pc.Patch(pc.source(OTHER, [pc.Call(lambda x: 3 * x, site="mlp_out.0")])),
        lambda m: pc.Patch(recorded(m, tiny.ids(1, 6, seed=3))), lambda m: pc.Patch(recorded(m, tiny.ids(1, 6, seed=4))),
        lambda m: pc.MeanAblate(OTHER), lambda m: pc.MeanAblate(tiny.ids(1, 6, seed=2)),
    ],
}  # fmt: skip
GATES: dict[str, list[Callable[[], Any]]] = {
    "Along": [lambda: pc.Along(draw(0)), lambda: pc.Along(draw(0), 0.0), lambda: pc.Along(draw(1), 0.0), lambda: pc.Along(draw(0), below=0.0)],
    "Norm": [lambda: pc.Norm(0.5), lambda: pc.Norm(1.0), lambda: pc.Norm(below=1.0)],
    "Nearest": [lambda: pc.Nearest(opposite(0), 0), lambda: pc.Nearest(opposite(0), 1), lambda: pc.Nearest(opposite(1), 0)],
    "NearestCode": [
        lambda: pc.NearestCode(draw(0, 2, WIDTH).sigmoid(), 0), lambda: pc.NearestCode(draw(0, 2, WIDTH).sigmoid(), 1),
        lambda: pc.NearestCode(draw(0, 2, WIDTH).sigmoid(), 0, threshold=0.3),
    ],
    "Both": [lambda: pc.Norm(0.5) & Above(0), lambda: pc.Norm(0.5) & Above(1), lambda: pc.Norm(0.5) | Above(1)],
    "Either": [lambda: Above(0) | Above(2), lambda: Above(0) | Above(3)],
    "Not": [lambda: ~Above(0), lambda: ~Above(1), lambda: Above(0)],
    "Above": [lambda: Above(0), lambda: Above(1)],
    "module": [lambda: Probe(0), lambda: Probe(1)],
    "known": [lambda: pc.known_as(lambda x: x[..., 0] > 0, "first"), lambda: pc.known_as(lambda x: x[..., 1] > 0, "second")],
}  # fmt: skip
READS: dict[str, list[Callable[[], Any]]] = {
    "Probability": [lambda: pc.Probability([5]), lambda: pc.Probability([6]), lambda: pc.Probability([5], at=1)],
    "LogOdds": [lambda: pc.LogOdds([5]), lambda: pc.LogOdds([6])],
    "LogitDifference": [lambda: pc.LogitDifference(5, 6), lambda: pc.LogitDifference(7, 8), lambda: pc.LogitDifference(6, 5)],
    "Loss": [lambda: pc.Loss(5), lambda: pc.Loss(6), lambda: pc.Loss(), lambda: pc.Loss(at=[1, 2])],
    "KL": [lambda: pc.KL(), lambda: pc.KL(at=4)],
    "Rank": [lambda: pc.Rank([5, 6]), lambda: pc.Rank([6, 5])],
    "TopK": [lambda: pc.TopK(2), lambda: pc.TopK(2, at=3)],
    "Logits": [lambda: pc.Logits([5]), lambda: pc.Logits([6]), lambda: pc.Logits(pc.per_prompt([7])), lambda: pc.Logits(pc.per_prompt([8]))],
    "Activation": [lambda: pc.Activation("resid_post.1"), lambda: pc.Activation("resid_post.2"), lambda: pc.Activation("resid_post.1", at=2)],
    "Function": [
        lambda: Head(0), lambda: Head(1), lambda: pc.Function(Head(2), "value"), lambda: pc.Function(Head(2), "value", at=1),
        lambda: pc.known_as(lambda x: x[:, 0], "first"), lambda: pc.known_as(lambda x: x[:, 1], "second"),
    ],
    "Lowest": [lambda: Lowest(1.0), lambda: Lowest(2.0)],
    "several": [lambda: [pc.KL(), pc.Rank([5])], lambda: [pc.KL(), pc.Rank([6])]],
}  # fmt: skip


@contextmanager
def counting(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The passes of the model that a job makes."""
    made: list[str] = []
    with monkeypatch.context() as patched:
        for name in ("record_base", "run_rows"):
            own = getattr(part_runner, name)
            patched.setattr(part_runner, name, lambda *a, own=own, **k: (made.append("pass"), own(*a, **k))[1])
        yield made


def holds(work: list[Callable[[Path | None], Any]], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call of a list gives its own numbers though the others' parts lie in the folder, and goes on from its own."""
    fresh = [one(None).dataset for one in work]
    for one, wanted in zip(work, fresh, strict=True):
        assert one(folder).dataset.identical(wanted)
    for one, wanted in ((work[0], fresh[0]), (work[-1], fresh[-1])):
        with counting(monkeypatch) as made:
            assert one(folder).dataset.identical(wanted)
        assert made == [], "what is finished is not run again"
    distinct = [one for place, one in enumerate(fresh) if not any(one.identical(other) for other in fresh[:place])]
    assert len(distinct) == len(fresh), "control: they differ"


@pytest.mark.parametrize("kind", EDITS)
def test_every_operation(llama: pc.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    work = [lambda to, make=make: llama.sweep(IDS, make(llama), checkpoint=to, **PLAIN) for make in EDITS[kind]]
    holds(work, tmp_path, monkeypatch)


@pytest.mark.parametrize("kind", GATES)
def test_every_gate(llama: pc.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    work = [
        lambda to, make=make: llama.sweep(IDS, pc.Add(draw(9), where=make()), checkpoint=to, **PLAIN)
        for make in GATES[kind]
    ]
    holds(work, tmp_path, monkeypatch)


@pytest.mark.parametrize("kind", READS)
def test_every_read(llama: pc.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    options = {name: value for name, value in PLAIN.items() if name != "read"}
    work = [
        lambda to, make=make: llama.sweep(IDS, pc.Add(draw(9)), read=make(), checkpoint=to, **options)
        for make in READS[kind]
    ]
    holds(work, tmp_path, monkeypatch)


def test_the_tables_above_are_complete() -> None:
    def under(base: type) -> set[str]:
        house = [kind for kind in base.__subclasses__() if kind.__module__.startswith("patchclamp.interventions")]
        below = {kind.__name__ for kind in house if kind.__name__ in pc.__all__ or not kind.__subclasses__()}
        return below.union(*(under(kind) for kind in base.__subclasses__()))

    made_on_the_way = {"Unbound", "Shift", "MeanAblate", "Noise", "Rotate"}
    assert under(Operation) - made_on_the_way <= set(EDITS)
    assert under(Gate) <= set(GATES)
    assert under(reads.Read) <= set(READS)


def test_what_an_answer_means_hangs_on_the_prompts_place(llama: pc.Model, tmp_path: Path) -> None:
    """The shorter prompt comes first in either order, with the other's answer."""
    long, short = tiny.ids(1, 7)[0], tiny.ids(1, 4)[0]
    read = pc.Logits(pc.per_prompt([5, 6]))
    for prompts in ([long, short], [short, long]):
        found, wanted = (
            llama.sweep(prompts, pc.Zero(), sites="mlp_out.1", at=1, read=read, strategy="cell", checkpoint=to)
            for to in (tmp_path, None)
        )
        assert found.dataset.identical(wanted.dataset)


def test_a_module_that_is_trained_further_is_another_edit(llama: pc.Model, tmp_path: Path) -> None:
    module = linear(0)
    edit = pc.Edit(module)
    seen = []
    for _ in range(2):
        found, wanted = (llama.sweep(IDS, edit, checkpoint=to, **PLAIN) for to in (tmp_path, None))
        assert found.dataset.identical(wanted.dataset)
        seen.append(found.dataset)
        with torch.no_grad():
            module.weight.data.mul_(1.5)  # which leaves the parameter's version as it was
    assert not seen[0].identical(seen[1])


FUNCTIONS: dict[str, Callable[[], dict[str, Any]]] = {
    r"'doubled' \(pc\.Call\)": lambda: {"edit": pc.Call(doubled)},
    r"'doubled' \(where=\)": lambda: {"edit": pc.Zero(where=doubled)},
    r"'doubled' \(read=\)": lambda: {"read": doubled},
    r"'lambda' \(read=\)": lambda: {"read": [pc.KL(), lambda x: x[:, 0]]},
    r"'doubled' \(pc\.Call\).*": lambda: {"base": [pc.Call(doubled, site="mlp_out.0")]},
    r".*'doubled' \(where=\)": lambda: {"edit": pc.Zero(), "over": {"where": [pc.Norm(1.0), doubled]}},
    r".*'doubled' \(pc\.Call\)": lambda: {"edit": pc.Call(pc.known_as(doubled, "d")), "over": {"function": [torch.relu, doubled]}},
}  # fmt: skip


def doubled(x: Tensor) -> Tensor:
    return 2 * x


@pytest.mark.parametrize("said", FUNCTIONS)
def test_a_function_is_refused_before_any_work(
    llama: pc.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    given_here = {"edit": pc.Zero(), **PLAIN, **FUNCTIONS[said]()}
    edit = given_here.pop("edit")
    with counting(monkeypatch) as made, pytest.raises(pc.InputError, match=said + r".*or vouch for it: pc\.known_as\("):
        llama.sweep(IDS, edit, checkpoint=tmp_path, **given_here)
    assert made == []
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_cannot_be_told_is_refused_before_any_work(tmp_path: Path) -> None:
    module = tiny.build("llama")
    module.model.norm.rows = (x for x in [1])
    model = pc.wrap(module)
    with pytest.raises(pc.InputError, match=r"the model \(LlamaForCausalLM\)\.model\.norm\.rows holds 'generator'"):
        model.sweep(IDS, pc.Zero(), checkpoint=tmp_path, **PLAIN)


@pytest.mark.parametrize("damage", [b"", b"\x08", b"\x00" * 99])
def test_a_damaged_part_is_named(llama: pc.Model, tmp_path: Path, damage: bytes) -> None:
    llama.sweep(IDS, pc.Zero(), checkpoint=tmp_path, **PLAIN)
    (file,) = tmp_path.iterdir()
    file.write_bytes(damage)
    with pytest.raises(pc.InputError, match=f"{file.name}' is damaged"):
        llama.sweep(IDS, pc.Zero(), checkpoint=tmp_path, **PLAIN)


# One other value for every parameter of the verbs that keep parts. A parameter of two calls in a row decides the second's.
SWEEP: dict[str, Any] = {
    "prompts": OTHER, "edit": pc.Add(draw(1)), "sites": "mlp_out.0", "at": 2, "cumulative": True, "over": {"scale": [1.0, 3.0]},
    "read": pc.Logits([4]), "base": [pc.Scale(2.0, site="embed")], "budget": "30MB", "max_tokens": 7, "verify": 2, "strategy": "rows",
}  # fmt: skip
PATCH: dict[str, Any] = {
    "source": tiny.ids(1, 6, seed=5), "into": tiny.ids(1, 6, seed=6), "sites": "attn_out", "at": 3, "read": pc.Logits([4]),
    "align": "left", "source_edits": [pc.Zero(site="mlp_out.0")], "base": [pc.Scale(2.0, site="embed")], "max_tokens": 9, "verify": 2,
    "cumulative": True, "budget": "30MB", "strategy": "rows",
}  # fmt: skip
PATH: dict[str, Any] = {
    "source": tiny.ids(1, 6, seed=5), "into": tiny.ids(1, 6, seed=6), "sender": "mlp_out.0", "receivers": "attn_in.2", "at": 3,
    "receive_at": -1, "freeze": ["attn_out"], "read": pc.Logits([4]), "align": "left", "source_edits": [pc.Zero(site="mlp_out.0")],
    "base": [pc.Scale(2.0, site="embed")], "max_tokens": 9, "verify": 2, "budget": "30MB",
}  # fmt: skip
TRACE: dict[str, Any] = {
    "prompt": OTHER, "subject": [2], "answer": 8, "sites": "mlp_out", "window": 2, "samples": 3, "noise": 2.0, "std": 0.3, "seed": 1,
    "read": pc.Loss(5), "max_tokens": 9, "verify": 2, "budget": "30MB",
}  # fmt: skip
FACTS: dict[str, Any] = {
    "facts": [(OTHER, [1, 2], 7)], "sites": "mlp_out", "noise": 2.0, "std": 0.3, "samples": 3, "seed": 1, "read": pc.Loss(5), "window": 2, "max_tokens": 9,
    "budget": "30MB", "verify": 2,
}  # fmt: skip
VERBS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "sweep": (
        {"prompts": IDS, "edit": pc.Add(draw(0)), "sites": "mlp_out", "at": "each", "read": pc.Logits([3])},
        SWEEP,
    ),
    "patch": ({"source": OTHER, "into": IDS, "read": pc.Logits([3])}, PATCH),
    "path_patch": ({"source": OTHER, "into": IDS, "sender": "mlp_out.0-1", "read": pc.Logits([3])}, PATH),
    "causal_trace": ({"prompt": IDS, "subject": [1, 2], "answer": 7, "samples": 2}, TRACE),
    "trace_facts": ({"facts": [(IDS, [1, 2], 7)], "samples": 2}, FACTS),
}


OF_ESTIMATES = ("method", "integrate", "check")
"""What is estimated by gradient is not kept in parts."""
SLOWER = ("trace_facts", "path_patch")
"""Verbs whose parts are kept as those of a trace and a patch are."""


@pytest.mark.parametrize("verb", [pytest.param(v, marks=[pytest.mark.slow] if v in SLOWER else []) for v in VERBS])
def test_every_parameter_of_a_verb_decides_its_numbers(
    llama: pc.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    method, (usual, others) = getattr(llama, verb), VERBS[verb]
    assert set(inspect.signature(method).parameters) - {"checkpoint", "progress", *OF_ESTIMATES} <= set(others), (
        "none is left out"
    )
    whole = method(**usual, checkpoint=tmp_path)
    for name, value in others.items():
        changed = {**usual, name: value}
        if name == "read" and verb in ("causal_trace", "trace_facts"):
            changed |= {"answer": None} if verb == "causal_trace" else {"facts": [(IDS, [1, 2])]}
        found, wanted = (method(**changed, checkpoint=to) for to in (tmp_path, None))
        assert found.dataset.identical(wanted.dataset), name
    with counting(monkeypatch) as made:
        assert method(**usual, checkpoint=tmp_path).dataset.identical(whole.dataset)
    assert made == [] or verb == "path_patch", "paths are recorded again"


def test_an_estimate_keeps_no_parts(llama: pc.Model, tmp_path: Path) -> None:
    for trace in (
        lambda: llama.causal_trace(IDS, [1, 2], 7, samples=1, method="gradient", checkpoint=tmp_path),
        lambda: llama.trace_facts([(IDS, [1, 2], 7)], samples=1, method="gradient", checkpoint=tmp_path),
    ):
        with pytest.raises(pc.InputError, match="keeps finished cells, and method='gradient' has none"):
            trace()
    assert not list(tmp_path.rglob("*.safetensors"))


def other_llama(**changed: Any) -> nn.Module:
    """A model with the weights of the usual one and another config."""
    import transformers

    usual = tiny.shared("llama")
    attention = changed.pop("attention", "sdpa")
    config = transformers.LlamaConfig(**{**tiny.FAMILIES["llama"][2], **changed})
    config._attn_implementation = attention
    module = transformers.LlamaForCausalLM(config).double().eval()
    module.load_state_dict(usual.state_dict())
    return module


def set_on(path: str, name: str, value: Any) -> nn.Module:
    """The usual model with one attribute of one of its modules changed in place."""
    module = tiny.build("llama")
    setattr(module.get_submodule(path), name, value)
    return module


def with_hook() -> nn.Module:
    module = tiny.build("llama")
    module.lm_head.register_forward_hook(lambda _, __, out: out * 1.5)
    return module


def with_buffer() -> nn.Module:
    module = tiny.build("llama")
    with torch.no_grad():
        module.model.rotary_emb.inv_freq.mul_(2.0)  # it is in no state dict
    return module


SAME_WEIGHTS: dict[str, Callable[[], nn.Module]] = {
    "rope_theta": lambda: other_llama(rope_parameters={"rope_type": "default", "rope_theta": 20.0}),
    "rms_norm_eps": lambda: other_llama(rms_norm_eps=0.1),
    "hidden_act": lambda: other_llama(hidden_act="relu"),
    "epsilon in place": lambda: set_on("model.norm", "variance_epsilon", 0.1),
    "scaling in place": lambda: set_on("model.layers.1.self_attn", "scaling", 0.1),
    "activation in place": lambda: set_on("model.layers.1.mlp", "act_fn", nn.Tanh().eval()),
    "buffer": with_buffer,
    "hook": with_hook,
}


def test_equal_weights_are_not_an_equal_model(llama: pc.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one_by_one = PLAIN | {"strategy": "cell"}  # a hook of the user's, as one model has, demands it
    models = [llama, *(pc.wrap(make()) for make in SAME_WEIGHTS.values())]
    assert len({model.weights_digest() for model in models}) == 1
    holds(
        [lambda to, model=model: model.sweep(IDS, pc.Add(draw(0)), checkpoint=to, **one_by_one) for model in models],
        tmp_path,
        monkeypatch,
    )
    again = pc.wrap(tiny.build("llama"))  # which runs it, to verify it
    with counting(monkeypatch) as made:
        again.sweep(IDS, pc.Add(draw(0)), checkpoint=tmp_path, **one_by_one)
    assert made == [], "control: the same model, made again"
    assert pc.wrap(other_llama(attention="eager")).identity() != pc.wrap(other_llama()).identity()


def test_the_state_of_torch_is_part_of_the_identity(llama: pc.Model) -> None:
    before = llama.identity()
    with torch.autocast("cpu", torch.bfloat16):
        assert llama.identity() != before
    assert llama.identity() == before


@pytest.mark.parametrize(
    "name",
    [
        n if n in ("llama", "bert", "mamba", "falcon") else pytest.param(n, marks=pytest.mark.slow)
        for n in tiny.FAMILIES
    ],
)
def test_a_model_has_one_identity_before_and_after_it_runs(name: str) -> None:
    kind = torch.float32 if name in tiny.MOE else torch.float64
    model = pc.wrap(tiny.shared(name, kind))
    before = model.identity()
    longer = torch.randn(1, 3, 16, 16, dtype=kind) if name in ("vit", "resnet") else tiny.ids(1, 50)
    model.run(longer)
    assert model.identity() == before


class Net(nn.Module):
    """A plain module."""

    def __init__(self, eps: float, factor: float) -> None:
        super().__init__()
        self.first, self.norm, self.factor = nn.Linear(5, 8), nn.LayerNorm(8, eps=eps), factor
        self.last = nn.Linear(8, 4)
        with torch.no_grad():
            for number, parameter in enumerate(self.parameters()):
                parameter.copy_(draw(number, *parameter.shape))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x)) * self.factor)


def test_settings_of_plain_modules_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nets = [pc.wrap(Net(*how).eval()) for how in ((1e-5, 1.0), (1.0, 1.0), (1e-5, 2.0))]
    x = draw(9, 2, 5).float()
    holds(
        [
            lambda to, net=net: net.sweep(x, pc.Zero(), sites="norm:out", at="all", read=pc.Logits([1]), checkpoint=to)
            for net in nets
        ],
        tmp_path,
        monkeypatch,
    )

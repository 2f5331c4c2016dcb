"""Training jobs: a dictionary does not see the others of its job, interrupted training ends alike, and nothing bad is learned."""

import errno
import signal

import pytest
import torch

from patchclamp.activations.stream import ActivationStream
from patchclamp.core import tensors as tensor_files
from patchclamp.core.errors import InputError, StorageError
from patchclamp.dictionaries import training
from patchclamp.dictionaries.gated import Gated
from patchclamp.dictionaries.jumprelu import JumpReLU
from patchclamp.dictionaries.matryoshka import MatryoshkaBatchTopK
from patchclamp.dictionaries.relu import ReLU
from patchclamp.dictionaries.sgd import SGD
from patchclamp.dictionaries.topk import BatchTopK, TopKEncoder
from patchclamp.dictionaries.training import Job, train

D, FEATURES = 8, 16
MANY = [
    SGD(BatchTopK(2), width=24, steps=30, dtype="float64", revive_every=5),
    SGD(BatchTopK(2), width=24, steps=30, dtype="float64", revive_every=5, random_state=1),
    SGD(TopKEncoder(3), width=16, steps=30, dtype="float64", revival="auxk", revive_every=5, learning_rate=2e-2),
    SGD(MatryoshkaBatchTopK(2, groups=(0.5, 0.5)), width=12, steps=30, dtype="float64"),
    SGD(ReLU(0.5), width=16, steps=30, dtype="float64"),
    SGD(JumpReLU(target_l0=2.0), width=16, steps=30, dtype="float64", whiten="zca"),
    SGD(Gated(0.5), width=20, steps=30, dtype="float64", centre=False),
    SGD(ReLU(0.3), width=16, steps=30, dtype="float64", recipe="post"),
]


@pytest.fixture(autouse=True)
def small_sample(monkeypatch):
    monkeypatch.setattr(training, "SAMPLE_ROWS", 2048)


def features():
    rows = torch.randn(FEATURES, D, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return torch.nn.functional.normalize(rows, dim=1)


def make(seed, step, count):
    generator = torch.Generator().manual_seed(seed * 10007 + step)
    active = torch.rand(count, FEATURES, generator=generator) < 1.5 / FEATURES
    return (active * (0.5 + torch.rand(count, FEATURES, generator=generator))).double() @ features()


def stream(count=None):
    return ActivationStream.from_function(make, D, count=count, batch_size=64, seed=3)


def parts(dictionary):
    return {name: value for name, value in dictionary.state_dict().items() if value is not None}


def test_every_dictionary_of_a_job_is_the_one_trained_alone():
    together = train(stream(), MANY, progress=False)
    for fit, dictionary in zip(MANY, together, strict=True):
        alone = train(stream(), [fit], progress=False)[0]
        assert type(dictionary.encoder) is type(alone.encoder)
        torch.testing.assert_close(parts(dictionary), parts(alone), rtol=1e-7, atol=1e-7)
    assert not torch.allclose(together[0].atoms, together[1].atoms), "seeds must matter"


class StopAfter:
    """A source of rows that presses Ctrl-C when some step is made the second time (the first makes the sample)."""

    def __init__(self, step):
        self.step, self.times = step, 0

    def __call__(self, seed, step, count):
        self.times += step == self.step
        if self.times == 2 and step == self.step:
            signal.raise_signal(signal.SIGINT)
        return make(seed, step, count)


@pytest.fixture
def interrupts():
    """Ctrl-C raises, also where the tests run behind a shell that ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts")
def test_after_an_interrupt_the_same_call_ends_bit_for_bit_alike(tmp_path):
    whole = train(stream(), MANY, progress=False)
    interrupted = ActivationStream.from_function(StopAfter(17), D, batch_size=64, seed=3)
    with pytest.raises(KeyboardInterrupt) as caught:
        train(interrupted, MANY, checkpoint=tmp_path, checkpoint_every=1000, progress=False)
    assert "the same call goes on" in caught.value.__notes__[0]
    done = []
    resumed = train(stream(), MANY, checkpoint=tmp_path, progress=lambda event: done.append(event.done))
    assert done[0] == 17
    for before, after in zip(whole, resumed, strict=True):
        assert all(torch.equal(value, parts(after)[name]) for name, value in parts(before).items())
    again = train(stream(), MANY, checkpoint=tmp_path, progress=False)
    assert torch.equal(again[0].atoms, whole[0].atoms), "a finished job is read, not trained"


class InterruptAt:
    """A listener that stops the first training after some steps."""

    def __init__(self, step):
        self.step = step

    def __call__(self, event):
        if event.done == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("steps", [None, 20])
def test_the_stream_that_was_interrupted_goes_on_too(tmp_path, steps):
    """The same call with the same object, as in a notebook: it stands in the middle, and training began elsewhere."""
    fit = SGD(BatchTopK(2), width=24, steps=steps, dtype="float64")

    def begun():
        begun_stream = stream(64 * 22)
        next(begun_stream)
        return begun_stream

    whole = train(begun(), [fit], progress=False)[0]
    rows = begun()
    with pytest.raises(KeyboardInterrupt):
        train(rows, [fit], checkpoint=tmp_path, progress=InterruptAt(13))
    shorter = stream(64 * 12)
    with pytest.raises(InputError, match=r"another job: it takes 21 steps|take fewer steps"):
        train(shorter, [fit], checkpoint=tmp_path, progress=False)
    assert shorter.state() == stream(64 * 12).state()
    for resumed in (train(rows, [fit], checkpoint=tmp_path, progress=False)[0] for _ in range(2)):
        assert torch.equal(resumed.atoms, whole.atoms)


def test_the_precision_of_selection_is_measured_once_and_kept(tmp_path, monkeypatch):
    """A second measurement may come out otherwise, and then latents would be chosen otherwise."""
    fit = SGD(BatchTopK(2), width=48, steps=20)

    def measured(dtype):
        monkeypatch.setattr(training, "selection_dtype", lambda *_: dtype)

    measured(torch.bfloat16)
    whole = train(stream(), [fit], progress=False)[0]
    with pytest.raises(KeyboardInterrupt):
        train(stream(), [fit], checkpoint=tmp_path, progress=InterruptAt(9))
    measured(torch.float32)
    assert torch.equal(train(stream(), [fit], checkpoint=tmp_path, progress=False)[0].atoms, whole.atoms)
    assert not torch.equal(train(stream(), [fit], progress=False)[0].atoms, whole.atoms)


def test_progress_after_an_interrupt_speaks_of_the_steps_since(tmp_path):
    fit, texts = SGD(TopKEncoder(2), width=24, steps=60, dtype="float64"), []
    with pytest.raises(KeyboardInterrupt):
        train(stream(), [fit], checkpoint=tmp_path, progress=InterruptAt(45))
    train(stream(), [fit], checkpoint=tmp_path, progress=lambda event: texts.append(event.note))
    shown = next(text for text in texts if text and "L0" in text)
    assert float(shown.split("L0 ")[1].split(",")[0]) <= 2


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, _: tensors.pop("0.idle"),
        lambda tensors, _: tensors.update({"0.idle": torch.zeros(99)}),
        lambda tensors, _: tensors.update({"0.idle": torch.zeros(())}),
        lambda tensors, _: tensors.update({"0.generator": torch.zeros(5, dtype=torch.uint8)}),
        lambda _, values: values.pop("stream"),
        lambda _, values: values.update(fits=5),
        lambda _, values: values.update(selections=[]),
    ],
)
def test_a_sealed_file_of_something_else_is_refused_and_the_stream_stays(tmp_path, change):
    fit, rows = MANY[0], stream()
    train(rows, [fit], checkpoint=tmp_path, progress=False)
    file, place = tmp_path / "training.safetensors", rows.state()
    tensors, values = tensor_files.read_sealed(file)
    change(tensors, values)
    tensor_files.write_sealed(file, tensors, values)
    with pytest.raises(InputError, match="delete it to start again"):
        train(rows, [fit], checkpoint=tmp_path, progress=False)
    assert rows.state() == place


def test_a_disk_that_is_full_leaves_the_last_checkpoint_whole(tmp_path, monkeypatch):
    fit, write, calls = MANY[0], tensor_files.write_tensors, []

    def full(*arguments):
        calls.append(arguments)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(tensor_files, "write_tensors", full)
        with pytest.raises(StorageError, match="No space left"):
            train(stream(), [fit], checkpoint=tmp_path, checkpoint_every=10, progress=False)
    done = []
    resumed = train(
        stream(), [fit], checkpoint=tmp_path, checkpoint_every=10, progress=lambda event: done.append(event.done)
    )
    assert done[0] == 10
    assert torch.equal(resumed[0].atoms, train(stream(), [fit], checkpoint_every=10, progress=False)[0].atoms)


def test_a_checkpoint_of_something_else_is_refused_by_name(tmp_path):
    fit = MANY[0]
    train(stream(), [fit], checkpoint=tmp_path, progress=False)
    with pytest.raises(InputError, match=r"encoder of fit 0 was .*BatchTopK.*'k': 2"):
        other = SGD(BatchTopK(3), width=24, steps=30, dtype="float64", revive_every=5)
        train(stream(), [other], checkpoint=tmp_path, progress=False)
    with pytest.raises(InputError, match="1 fits, and this one 2"):
        train(stream(), [fit, fit], checkpoint=tmp_path, progress=False)
    with pytest.raises(InputError, match=r"another stream.*source was"):
        elsewhere = ActivationStream.from_function(make, D, batch_size=64, seed=4)
        train(elsewhere, [fit], checkpoint=tmp_path, progress=False)
    file = tmp_path / "training.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(InputError, match="damaged"):
        train(stream(), [fit], checkpoint=tmp_path, progress=False)


class BadAt:
    """A source of rows with one NaN in some step."""

    def __init__(self, step, value):
        self.step, self.value = step, value

    def __call__(self, seed, step, count):
        rows = make(seed, step, count)
        if step == self.step:
            rows[3, 2] = self.value
        return rows


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_rows_that_are_not_finite_are_named_and_change_nothing(value):
    """Steps after the bad one leave every parameter as it was; without the guard all would be NaN."""
    fits = [
        SGD(BatchTopK(2), width=24, steps=400, dtype="float64"),
        SGD(ReLU(0.5), width=16, steps=400, dtype="float64"),
    ]
    job, good = (Job.of(stream(), fits, 400) for _ in range(2))
    for step in range(60):
        if step < 57:
            good.step(make(3, step, 64))
        job.step(BadAt(57, value)(3, step, 64))
    with pytest.raises(InputError, match=r"NaN or infinite.*steps 51\.\.60.*step 57, the last"):
        job.review()
    for kept, expected in zip(job.members, good.members, strict=True):
        assert all(torch.equal(kept.parameters[name], value) for name, value in expected.parameters.items())
        assert torch.equal(kept.threshold, expected.threshold)


def test_a_stream_checks_what_its_function_makes():
    bad = ActivationStream.from_function(BadAt(400, float("nan")), D, batch_size=64, seed=3)
    with pytest.raises(InputError):
        train(bad, [SGD(BatchTopK(2), width=24, steps=401)], progress=False)


def test_settings_and_streams_that_make_no_sense_are_refused():
    with pytest.raises(InputError, match=r"BatchTopK\(k=32\): a dictionary of 8 latents has no 32"):
        train(stream(), [SGD(BatchTopK(32), width=8, steps=3)], progress=False)
    with pytest.raises(InputError, match="nobody knows how many rows"):
        train(stream(), [SGD(BatchTopK(2))], progress=False)
    with pytest.raises(InputError, match=r"steps=9 of 64 rows: the stream has 200 rows left, which are 4 steps"):
        train(stream(200), [SGD(BatchTopK(2), steps=9)], progress=False)
    with pytest.raises(InputError, match="equally many steps"):
        train(stream(), [SGD(BatchTopK(2), steps=3), SGD(BatchTopK(2), steps=4)], progress=False)
    with pytest.raises(InputError, match="needs one SGD"):
        train(stream(), [], progress=False)
    with pytest.raises(InputError, match=r'recipe="post" trains encoder=ReLU'):
        train(stream(), [SGD(BatchTopK(2), steps=3, recipe="post")], progress=False)
    with pytest.raises(InputError, match="layer_weight"):
        train(stream(), [SGD(BatchTopK(2), steps=3, initialisation="svd")], progress=False)
    used = stream(128)
    list(used)
    with pytest.raises(InputError, match="exhausted"):
        train(used, [SGD(BatchTopK(2))], progress=False)


def test_progress_says_how_good_it_is():
    notes = []
    train(stream(), [SGD(BatchTopK(2), width=24, steps=120)], progress=lambda event: notes.append(event.note))
    assert "EV 0." in notes[-1]
    assert "L0 2.0" in notes[-1]
    assert "dead" in notes[-1]
    assert notes[-1].endswith("rows/s")


def test_a_step_never_waits_for_the_device(monkeypatch):
    """Whatever reads a number on the host goes through these; a review does, and shows that they are seen."""
    job = Job.of(stream(), MANY, 30)
    rows = make(3, 0, 64)
    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "nonzero", "cpu", "numpy"):
        monkeypatch.setattr(torch.Tensor, name, _refuse)
    job.step(rows)
    job.step(rows)
    with pytest.raises(AssertionError, match="waits"):
        job.review()


def _refuse(*_arguments, **_options):
    raise AssertionError("the host waits for the device")

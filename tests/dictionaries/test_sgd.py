"""The estimator: known features are recovered, the first report's recipe is what it was, and it behaves as scikit-learn expects."""

import numpy as np
import pytest
import torch
from sklearn.base import clone

from patchclamp.core.errors import InputError
from patchclamp.dictionaries.dictionary import Dictionary
from patchclamp.dictionaries.gated import Gated
from patchclamp.dictionaries.jumprelu import JumpReLU
from patchclamp.dictionaries.matryoshka import MatryoshkaBatchTopK
from patchclamp.dictionaries.relu import ReLU
from patchclamp.dictionaries.sgd import SGD
from patchclamp.dictionaries.topk import BatchTopK, TopKEncoder

D, FEATURES = 16, 24
ENCODERS = [
    BatchTopK(2),
    TopKEncoder(2),
    MatryoshkaBatchTopK(2, groups=(0.5, 0.5)),
    ReLU(0.5),
    JumpReLU(target_l0=2.0),
    Gated(0.5),
]


def features():
    rows = torch.randn(FEATURES, D, generator=torch.Generator().manual_seed(7))
    return torch.nn.functional.normalize(rows, dim=1)


def rows(count=6400, seed=0):
    generator = torch.Generator().manual_seed(seed)
    active = torch.rand(count, FEATURES, generator=generator) < 1.5 / FEATURES
    return (active * (0.5 + torch.rand(count, FEATURES, generator=generator))) @ features() + 1.0


def similarity(dictionary):
    return float((features() @ torch.nn.functional.normalize(dictionary.atoms, dim=1).T).max(1).values.mean())


@pytest.mark.sensitive
def test_known_features_are_recovered():
    """Atoms as they begin are the negative control."""
    fit = SGD(
        BatchTopK(2), width=48, batch_size=64, passes=4, learning_rate=1e-2, initialisation="random", progress=False
    )
    trained = fit.fit(rows()).dictionary_
    begun = SGD(BatchTopK(2), width=48, batch_size=64, steps=1, initialisation="random", progress=False).fit(rows())
    assert similarity(begun.dictionary_) < 0.8
    assert similarity(trained) > 0.95
    fresh = rows(1000, seed=1)
    codes = trained.codes(fresh)
    assert isinstance(trained.encoder, JumpReLU)
    assert abs(float(codes.counts().double().mean()) - 2) < 0.7, "the threshold keeps about k latents a row"
    error = (trained.decode(codes) - fresh).square().sum() / (fresh - fresh.mean(0)).square().sum()
    assert error < 0.2


@pytest.mark.parametrize("encoder", ENCODERS, ids=lambda encoder: type(encoder).__name__)
def test_every_encoder_saves_reads_and_has_gradients(encoder, tmp_path):
    fit = SGD(encoder, width=32, batch_size=64, passes=1, progress=False).fit(rows(1280))
    dictionary = fit.dictionary_
    dictionary.save_pretrained(tmp_path / "saved")
    again = Dictionary.from_pretrained(tmp_path / "saved")
    x = rows(50, seed=2).requires_grad_()
    codes = dictionary.encode(x)
    assert again.encoder == dictionary.encoder
    assert torch.equal(again.encode(x), codes)
    codes.sum().backward()
    assert x.grad.abs().sum() > 0
    torch.testing.assert_close(dictionary.atoms.norm(dim=1), torch.ones(32))
    bare = Dictionary(dictionary.atoms, encoder)
    assert bare.codes(x.detach()).width == 32, "without weights it reads along the atoms"


def test_the_recipe_of_the_first_report_is_what_it_was():
    """The same training by autograd and torch's own Adam, written from the report's words."""
    x, alpha, width = rows(640).double(), 0.8, 32
    fit = SGD(ReLU(alpha), width=width, batch_size=64, recipe="post", dtype="float64", progress=False, random_state=4)
    from patchclamp.dictionaries.training import Job

    stream = fit._stream(x)
    start = Job.of(stream, [fit], 10).members[0].parameters
    decoder, weight, offset = (start[n].clone().requires_grad_() for n in ("atoms", "weight", "offset"))
    adam = torch.optim.Adam([decoder, weight, offset], lr=1e-3)
    for batch in stream:
        with torch.no_grad():
            decoder.div_(decoder.norm(dim=1, keepdim=True))
        codes = torch.relu(batch.rows @ weight.T + offset)
        loss = (codes @ decoder - batch.rows).square().mean() + alpha * codes.abs().sum(1).mean() / width
        adam.zero_grad()
        loss.backward()
        adam.step()
    learned = fit.fit(x).dictionary_
    torch.testing.assert_close(learned.atoms.data, torch.nn.functional.normalize(decoder.detach(), dim=1))
    torch.testing.assert_close(learned.weights["weight"].data, weight.detach())
    torch.testing.assert_close(learned.weights["offset"].data, offset.detach())
    assert not learned.bias.any()
    assert not learned.scaling.changes


def test_parts_of_the_data_one_after_another():
    fit = SGD(TopKEncoder(2), width=32, batch_size=64, progress=False)
    for seed in range(3):
        fit.partial_fit(rows(640, seed=seed))
    assert fit.n_steps_ == 30
    first = SGD(TopKEncoder(2), width=32, batch_size=64, progress=False).partial_fit(rows(640)).dictionary_
    assert not torch.allclose(first.atoms, fit.dictionary_.atoms)
    with pytest.raises(InputError, match="width 5"):
        fit.partial_fit(torch.randn(64, 5))


def test_parts_after_a_whole_fit_do_not_silently_begin_anew():
    fit = SGD(TopKEncoder(2), width=32, batch_size=64, progress=False).partial_fit(rows(640))
    fit.fit(rows(640))
    with pytest.raises(InputError, match="trained by fit"):
        fit.partial_fit(rows(640))
    assert fit.n_steps_ == 10
    assert clone(fit).partial_fit(rows(640)).n_steps_ == 10


def test_rows_that_a_precision_cannot_hold_are_named():
    huge, tiny = rows(64).double() * 1e300, rows(64).double() * 1e-44
    fit = SGD(TopKEncoder(2), width=32, batch_size=64, progress=False)
    with pytest.raises(InputError, match=r"more than torch\.float32 holds"):
        fit.fit(huge)
    with pytest.raises(InputError, match=r"cannot be scaled in torch\.float32"):
        fit.fit(tiny)
    fit.set_params(dtype="float64").fit(tiny)


def test_rows_in_the_other_byte_order_get_their_codes():
    fit = SGD(TopKEncoder(2), width=32, batch_size=64, progress=False).fit(rows(640))
    x = rows(64).numpy()
    assert np.array_equal(fit.transform(x.astype(">f4")), fit.transform(x.astype("<f4")))


def test_it_is_an_estimator():
    fit = clone(SGD(TopKEncoder(2), width=32, batch_size=64, progress=False, random_state=3))
    codes = fit.fit_transform(rows(640).numpy())
    assert isinstance(codes, np.ndarray)
    assert codes.shape == (640, 32)
    assert (codes != 0).sum(1).max() <= 2
    assert fit.inverse_transform(codes).shape == (640, D)
    assert np.array_equal(codes, clone(fit).fit_transform(rows(640).numpy()))
    with pytest.raises(InputError, match="learning_rate"):
        SGD(TopKEncoder(2), learning_rate=-1.0).fit(rows(64))
    with pytest.raises(InputError, match="initialisation"):
        SGD(TopKEncoder(2), initialisation="date").fit(rows(64))
    with pytest.raises(InputError, match="k is 1 or more"):
        TopKEncoder(0)
    with pytest.raises(InputError, match="add up to 1"):
        MatryoshkaBatchTopK(2, groups=(0.5, 0.4))
    with pytest.raises(InputError, match="a group has no latent"):
        SGD(MatryoshkaBatchTopK(2, groups=(0.01, 0.99)), width=8, steps=1).fit(rows(64))


@pytest.mark.sensitive
def test_jumprelu_comes_to_the_number_of_latents_that_it_is_told():
    """On rows that it did not see; another target is the control."""
    fits = [
        SGD(JumpReLU(target_l0=target), width=48, batch_size=128, passes=4, progress=False) for target in (2.0, 5.0)
    ]
    counts = [fit.fit(rows(12_800)).dictionary_.codes(rows(4000, seed=1)).counts().double().mean() for fit in fits]
    assert counts == pytest.approx([2.0, 5.0], rel=0.15)

"""MOD: its atoms are the least squares solution, it recovers what is known, and goes on bit for bit."""

import numpy as np
import pytest
import torch
from sklearn.base import clone

from patchclamp.activations.stream import ActivationStream
from patchclamp.core.errors import InputError
from patchclamp.core.progress import listening
from patchclamp.dictionaries import MOD, OMP, Dictionary, ToyData, prune
from patchclamp.dictionaries.mod import duplicates
from patchclamp.dictionaries.moments import CodeMoments
from patchclamp.dictionaries.pursuit import AtomTable, pursue


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def small(**settings):
    return MOD(**({"width": 24, "k": 3, "batch_size": 64, "centre": False} | settings))


def rows(count=640):
    return ToyData.zipf(20, 12, active=2, seed=3).sample(count, 0)[0]


def recovered(toy, dictionary):
    return (toy.features @ torch.nn.functional.normalize(dictionary.atoms).T).amax(1)


def moments(x, codes, forgetting=1.0, begin=None):
    begin = CodeMoments.zeros(normal(codes.shape[1], x.shape[1])) if begin is None else begin
    latents = codes.abs().topk(4, 1)[1]
    return begin.updated(x, latents, codes.gather(1, latents), forgetting)


def sparse(count=60, width=9, seed=0):
    codes = normal(count, width, seed=seed)
    return torch.where(codes.abs() >= codes.abs().topk(4, 1)[0][:, -1:], codes, 0)


def test_atoms_are_the_least_squares_solution():
    codes, x, before = sparse(), normal(60, 5, seed=1), normal(9, 5, seed=2)
    atoms = moments(x, codes).least_squares(before, 0.0)
    expected = np.linalg.lstsq(codes.numpy(), x.numpy(), rcond=None)[0]
    np.testing.assert_allclose(atoms.numpy(), expected, atol=1e-10)
    other = np.linalg.lstsq(codes.abs().numpy(), x.numpy(), rcond=None)[0]
    assert abs(atoms.numpy() - other).max() > 0.01


def test_damping_is_a_distance_to_the_atoms_before():
    codes, x, before = sparse(), normal(60, 5, seed=1), normal(9, 5, seed=2)
    codes[:, 4] = 0
    ridge = 0.3 * float(codes.square().sum(0).mean())
    atoms = moments(x, codes).least_squares(before, 0.3)
    system = np.concatenate([codes.numpy(), ridge**0.5 * np.eye(9)])
    expected = np.linalg.lstsq(system, np.concatenate([x.numpy(), ridge**0.5 * before.numpy()]), rcond=None)[0]
    np.testing.assert_allclose(atoms.numpy(), expected, atol=1e-10)
    torch.testing.assert_close(atoms[4], before[4])


def test_moments_forget_and_scale_as_their_definition_says():
    first, second = sparse(), sparse(seed=5)
    x, y = normal(60, 5, seed=1), normal(60, 5, seed=6)
    sums = moments(y, second, 0.7, moments(x, first))
    torch.testing.assert_close(sums.second, 0.7 * first.T @ first + second.T @ second)
    torch.testing.assert_close(sums.cross, 0.7 * first.T @ x + second.T @ y)
    factors = torch.linspace(0, 2, 9, dtype=torch.float64)
    scaled = moments(x, first * factors).second
    torch.testing.assert_close(moments(x, first).rescaled(factors).second, scaled)


def test_an_update_on_all_rows_never_raises_the_objective():
    fit, x = small(forgetting=0.0, damping=1e-9, settle=1.0), rows().double()
    state = fit._start(torch.nn.functional.normalize(x[:24]))
    for _ in range(5):
        choice = pursue(x, AtomTable.of(state.atoms), 3, nonnegative=True)
        codes = torch.zeros(len(x), 24, dtype=torch.float64).scatter_add(1, choice.latents, choice.values)
        before = (x - codes @ state.atoms).square().sum()
        sums = CodeMoments.zeros(state.atoms).updated(x, choice.latents, choice.values)
        after = (x - codes @ sums.least_squares(state.atoms, 1e-9)).square().sum()
        assert float(after) <= float(before) * (1 + 1e-9)
        state = fit._step(state, x, 0)
        assert float(state.residual) == pytest.approx(float(before))


def test_the_less_used_of_two_nearly_equal_atoms_is_a_duplicate():
    atoms = torch.nn.functional.normalize(torch.tensor([[1.0, 0], [1, 0.1], [0, 1], [-1, 0]]))
    assert duplicates(AtomTable.of(atoms), torch.tensor([1.0, 2, 1, 1]), 0.95).tolist() == [True, False, False, False]
    assert duplicates(AtomTable.of(atoms), torch.ones(4), 0.95).tolist() == [False, True, False, False]
    assert not duplicates(AtomTable.of(atoms), torch.ones(4), 0.999).any()


def test_atoms_that_are_idle_or_double_become_rows_and_others_stay():
    fit, x = small(width=4, duplicate=0.95, idle=10), rows(64)
    units = torch.nn.functional.normalize(torch.eye(12)[:4] + torch.tensor([[0.0], [0], [0], [1]]))
    units[1] = units[0]
    state = fit._start(units)
    state.idle[2] = 10.0
    state.second.diagonal().copy_(torch.tensor([2.0, 1, 1, 1]))
    new = fit._replaced(state, x, x.square().sum(1), AtomTable.of(units))
    assert torch.equal(new.atoms[[0, 3]], units[[0, 3]])
    assert ((new.atoms[[1, 2]] @ torch.nn.functional.normalize(x).T).amax(1) > 1 - 1e-6).all()
    assert new.second.diagonal().tolist() == [2, 0, 0, 1]


@pytest.mark.sensitive
def test_known_features_are_recovered_and_a_wide_dictionary_is_pruned():
    toy = ToyData.zipf(96, 32, active=2, seed=1)
    fit = MOD(width=144, k=3, batch_size=512, centre=False).fit(toy.stream(512, 0, rows=80 * 512))
    assert float(recovered(toy, fit.dictionary_).mean()) >= 0.99
    first = MOD(width=144, k=3, batch_size=512, centre=False).fit(toy.stream(512, 0, rows=512))
    assert float(recovered(toy, first.dictionary_).mean()) < 0.95
    pruned = prune(fit.dictionary_, toy.sample(4096, 1)[0], firing=1e-3)
    assert pruned.width < 144
    assert float(recovered(toy, pruned).mean()) >= 0.98


def test_equal_seeds_give_equal_atoms_and_others_do_not():
    x = rows().numpy()
    first, second, other = small().fit(x), small().fit(x), small(random_state=1).fit(x)
    assert torch.equal(first.dictionary_.atoms, second.dictionary_.atoms)
    assert not torch.equal(first.dictionary_.atoms, other.dictionary_.atoms)


@pytest.mark.parametrize("whole", [True, False])
def test_batches_of_the_user_are_one_fit_on_the_same_batches(whole):
    x = rows()
    stream = ActivationStream.from_array(x, batch_size=64, shuffle=False)
    expected = small(settle=0.0).fit(stream).dictionary_
    fit = small(settle=0.0)
    for batch in x.split(64) if whole else x.flip(0).split(64):
        fit.partial_fit(batch)
    assert torch.equal(fit.dictionary_.atoms, expected.atoms) is whole
    assert torch.equal(fit.dictionary_.scaling.scale, expected.scaling.scale) or not whole


class Interrupt:
    """A listener that behaves as Ctrl-C after some batches."""

    def __init__(self, after):
        self.after, self.notes = after, []

    def __call__(self, event):
        self.notes.append(event.note)
        if len(self.notes) == self.after:
            raise KeyboardInterrupt


def test_an_interrupted_fit_goes_on_bit_for_bit(tmp_path):
    x = rows()
    expected = small().fit(x).dictionary_
    with pytest.raises(KeyboardInterrupt) as caught, listening(Interrupt(4)):
        small(checkpoint=tmp_path).fit(x)
    assert "the same call goes on" in caught.value.__notes__[0]
    rest = Interrupt(None)
    with listening(rest):
        resumed = small(checkpoint=tmp_path).fit(x).dictionary_
    assert torch.equal(resumed.atoms, expected.atoms)
    assert len(rest.notes) < 10  # batches before were not taken in again; the last event is of the end
    assert "EV" in rest.notes[-1]
    assert "L0" in rest.notes[-1]
    assert torch.equal(small(checkpoint=tmp_path).fit(x).dictionary_.atoms, expected.atoms)  # of the end


def test_a_checkpoint_of_other_settings_is_not_gone_on_with_and_a_damaged_one_is_refused(tmp_path):
    x = rows()
    small(checkpoint=tmp_path).fit(x)
    other = small(checkpoint=tmp_path, k=2).fit(x).dictionary_
    assert torch.equal(other.atoms, small(k=2).fit(x).dictionary_.atoms)
    for file in tmp_path.iterdir():
        file.write_bytes(b"nothing")
    with pytest.raises(InputError, match="delete it"):
        small(checkpoint=tmp_path).fit(x)


def test_it_is_an_estimator_whose_atoms_serve_any_encoder(tmp_path):
    fit = clone(small(k=2)).fit(rows().numpy())
    assert fit.get_params()["k"] == 2
    codes = fit.transform(rows(50).numpy())
    assert codes.shape == (50, 24)
    assert (codes >= 0).all()
    assert ((codes > 0).sum(1) <= 2).all()
    assert fit.inverse_transform(codes).shape == (50, 12)
    assert (fit.dictionary_.codes(rows(50), OMP(5)).counts() > 2).any()
    assert fit.dictionary_.card["explained"] > 0.5
    fit.dictionary_.save_pretrained(tmp_path)
    assert torch.equal(Dictionary.from_pretrained(tmp_path).encode(rows(9)), fit.dictionary_.encode(rows(9)))


@pytest.mark.parametrize(
    ("settings", "x", "message"),
    [
        ({"k": 25}, rows(), "no 25 to choose"),
        ({"k": 13, "width": 40}, rows(), "rows of width 12"),
        ({"width": 700}, rows(), "there are 640"),
        ({"forgetting": 2.0}, rows(), "forgetting"),
        ({"settle": 2.0}, rows(), "settle"),
        ({"passes": 0}, rows(), "passes"),
        ({}, rows() * float("nan"), "NaN|finite"),
        ({}, torch.zeros(0, 12), "no activations"),
        ({}, torch.zeros(90, 12), "nothing"),
    ],
)
def test_what_makes_no_sense_is_refused(settings, x, message):
    with pytest.raises(InputError, match=message):
        small(**settings).fit(x)


def test_batches_of_another_width_are_refused():
    fit = small().partial_fit(rows(64))
    with pytest.raises(InputError, match="width 5"):
        fit.partial_fit(torch.ones(64, 5))

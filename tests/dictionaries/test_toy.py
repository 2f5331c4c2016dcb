"""Toy data: what fires how often, that rows are what the truth says, and that equal seeds draw equal rows."""

import pytest
import torch

import patchclamp as pc
from patchclamp.dictionaries import ToyData, coherence, superposition
from patchclamp.dictionaries.superposition import _geometry, train_encoders

MAKERS = {
    "uncorrelated": lambda: ToyData.post(mode="uncorrelated", G=40, d=12, active=4),
    "correlated": lambda: ToyData.post(mode="correlated", G=40, d=12, active=4),
    "corrected": lambda: ToyData.post(mode="corrected", G=40, d=12, active=4),
    "zipf": lambda: ToyData.zipf(40, 12, active=3),
    "low rank": lambda: ToyData.correlated(40, 12, active=3, rank=4, strength=0.8),
    "hierarchical": lambda: ToyData.hierarchical(40, 12, active=3, child=0.4),
    "noisy": lambda: ToyData.zipf(40, 12, active=3, magnitude="half-normal", noise=0.1),
    "encoder": lambda: ToyData.trained_encoder(12, 4, active=1, steps=60, batch_size=64),
}


@pytest.fixture(params=MAKERS)
def toy(request):
    return MAKERS[request.param]()


def test_rows_are_the_sums_that_the_coefficients_say_and_the_same_seed_and_step_draw_them_again(toy):
    x, codes = toy.sample(300, seed=3, step=2)
    error = x - codes.dense() @ toy.features
    assert float(error.std()) == pytest.approx(toy.noise, abs=1e-6 if not toy.noise else 0.01)
    assert bool((codes.values > 0).all())
    assert torch.equal(toy.sample(300, seed=3, step=2)[0], x)
    assert not torch.equal(toy.sample(300, seed=3, step=3)[0], x)
    assert not torch.equal(toy.sample(300, seed=4, step=2)[0], x)
    entries = codes.rows * toy.G + codes.latents
    assert bool((entries.diff() > 0).all()), "entries are ordered, and none comes twice"


@pytest.mark.parametrize("name", ["uncorrelated", "corrected", "zipf", "low rank", "hierarchical"])
def test_every_feature_is_on_as_often_as_its_probability_says(name):
    toy = MAKERS[name]()
    count = 40_000
    observed = toy.sample(count, seed=1)[1].firings() / count
    deviation = (toy.probabilities * (1 - toy.probabilities) / count).sqrt()
    assert float(((observed - toy.probabilities) / deviation).abs().max()) < 5


def test_the_posts_uncorrelated_mode_is_not_rescaled_and_leaves_empty_rows_and_its_correlated_mode_fills_them():
    plain, correlated = ToyData.post(mode="uncorrelated"), ToyData.post()
    assert (plain.G, plain.d) == (512, 256)
    assert plain.active == pytest.approx(0.971, abs=1e-3)
    assert int(plain.sample(2000, seed=0)[1].counts().min()) == 0
    _, codes = ToyData.post(active=0.5, G=40, d=12).sample(2000, seed=0)
    counts = codes.counts()
    assert int(counts.min()) == 1
    assert correlated.active == pytest.approx(5)
    alone = codes.values[codes.starts[:-1][counts == 1]]
    assert 0.5 < float((alone == 1).float().mean()) < 1


def test_the_posts_correlated_mode_is_independent_within_a_batch_and_the_corrected_one_is_not():
    def dispersion(mode):
        counts = ToyData.post(mode=mode, G=60, d=8, active=6).sample(20_000, seed=2)[1].firings() / 20_000
        expected = ToyData.post(mode=mode, G=60, d=8, active=6).probabilities
        return float((counts - expected).abs().mean() / expected.mean())

    assert dispersion("correlated") > 0.3, "one z decides a whole batch"
    assert dispersion("corrected") < 0.1


def test_low_rank_causes_make_features_fire_together_and_strength_zero_does_not():
    def excess(strength):
        on = (
            ToyData.correlated(20, 4, active=4, rank=1, strength=strength).sample(20_000, seed=0)[1].dense() > 0
        ).double()
        correlation = torch.corrcoef(on.T)
        return float((correlation - torch.eye(20)).abs().mean())

    assert excess(0.9) > 0.2
    assert excess(0.0) < 0.02


def test_a_child_is_on_only_where_its_parent_is_and_as_often_there_as_was_asked():
    toy = ToyData.hierarchical(42, 8, active=6, branching=4, depth=3, child=0.4)
    on = toy.sample(20_000, seed=0)[1].dense() > 0
    parents = toy.firing.parents
    children = (parents >= 0).nonzero()[:, 0]
    assert int((on[:, children] & ~on[:, parents[children]]).sum()) == 0
    rates = (on[:, children].sum(0) / on[:, parents[children]].sum(0)).double()
    assert rates.mean() == pytest.approx(0.4, abs=0.03)
    assert toy.active == pytest.approx(6, rel=1e-5)
    assert toy.card["levels"] == [2, 8, 32]


def test_saved_data_draw_the_same_rows(toy, tmp_path):
    toy.save_pretrained(tmp_path / "toy")
    again = ToyData.from_pretrained(tmp_path / "toy")
    assert torch.equal(again.sample(50, seed=1)[0], toy.sample(50, seed=1)[0])
    assert again.card == toy.card


def test_a_stream_gives_the_samples_of_its_steps():
    toy = MAKERS["zipf"]()
    batches = [batch.rows for batch in toy.stream(64, seed=5, rows=150)]
    assert [len(rows) for rows in batches] == [64, 64, 22]
    assert torch.equal(batches[1], toy.sample(64, seed=5, step=1)[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ToyData.zipf(4, 8, active=3.9), "always on is a bias"),
        (lambda: ToyData.post(active=400), "would fire with probability"),
        (lambda: ToyData.zipf(0, 8, active=1), "0 of width 8"),
        (lambda: ToyData.correlated(8, 8, active=1, strength=1.0), "strength=1.0"),
        (lambda: ToyData.hierarchical(8, 8, active=1, branching=0), "branching=0"),
        (lambda: ToyData.post(mode="corelated"), "corelated"),
        (lambda: MAKERS["zipf"]().sample(0, seed=0), "count=0"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(pc.InputError, match=message):
        make()


def test_coherence_knows_a_tight_frame_antipodal_pairs_and_random_directions():
    cross = torch.cat([torch.eye(8), -torch.eye(8)])
    numbers = coherence(cross)
    assert numbers["antipodal"] == 1
    assert numbers["rms"] == pytest.approx(numbers["welch"]), "a tight frame reaches the bound of Welch"
    spread = coherence(torch.randn(2000, 64, generator=torch.Generator().manual_seed(0)))
    assert spread["rms"] == pytest.approx(spread["random"], rel=0.02)
    assert spread["rms"] > spread["welch"]
    assert spread["antipodal"] == 0


def test_an_encoder_trains_alone_as_it_trains_beside_others():
    probabilities = torch.full((2, 10), 0.1)
    both = train_encoders(probabilities, 3, seeds=[4, 5], steps=20, batch_size=32)
    alone = train_encoders(probabilities[:1], 3, seeds=[5], steps=20, batch_size=32)
    torch.testing.assert_close(both[1], alone[0], rtol=1e-4, atol=1e-5)


@pytest.mark.sensitive
def test_a_trained_encoder_of_twice_as_many_features_makes_antipodal_pairs_and_an_untrained_one_does_not():
    trained = ToyData.trained_encoder(16, 8, active=0.5, steps=600, batch_size=128)
    assert coherence(trained.features)["antipodal"] > 0.7
    start = train_encoders(torch.full((1, 16), 0.03), 8, seeds=[0], steps=0)[0]
    assert coherence(start)["antipodal"] < 0.3


def test_a_feature_alone_has_a_dimension_and_one_of_a_pair_half_of_one():
    weights = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, 0.1]]])
    numbers = _geometry(weights, torch.zeros(1))
    torch.testing.assert_close(numbers["dimensionality"][0, :3], torch.tensor([1.0, 0.5, 0.5]))
    assert float(numbers["antipodal"]) == pytest.approx(0.5)
    assert float(numbers["rms"]) == pytest.approx((2 / 6) ** 0.5)


def test_encoders_are_followed_from_their_beginning_and_bad_numbers_are_refused():
    course = superposition(6, 3, active=[0.5, 2], seeds=[0, 1], steps=40, points=4, batch_size=32)
    assert dict(course.data.sizes) == {"active": 2, "seed": 2, "step": 5, "feature": 6}
    assert int(course.data["step"][0]) == 0
    assert int(course.data["step"][-1]) == 40
    alone = superposition(6, 3, active=[2], seeds=[1], steps=40, points=4, batch_size=32)
    assert float(abs(alone.data["square"] - course.data["square"].sel(active=[2], seed=[1])).max()) < 1e-4
    with pytest.raises(pc.InputError, match="between 0 and G"):
        superposition(6, 3, active=[7])
    with pytest.raises(pc.InputError, match="steps is 1 or more"):
        superposition(6, 3, active=[1], steps=0)

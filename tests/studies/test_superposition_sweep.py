"""The sweep over weights and sizes: agreement by a slow loop, work that goes on, seeds, and that the folder holds what it says."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import patchclamp as pc
from patchclamp.core.errors import InputError
from patchclamp.studies import superposition_sweep_figures as figures
from patchclamp.studies.superposition_sweep import BINS, SweepSetting, largest_cosines, measure, study
from tests.pictures import draw_nothing

TINY = SweepSetting(
    exponents=(-4, 4), ratios=(1.0, 2.0), G=12, d=6, active=1.0, batch_size=64, steps=12, longer=(4,), longer_steps=20, held_out=2,
    densities=(2,), interference_d=6, interference_active=1.0, interference_steps=20, interference_longer_steps=25, seeds=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch)
        return study(tmp_path_factory.mktemp("sweep") / "out", TINY)


def test_agreement_is_the_mean_of_maxima_of_a_slow_loop():
    draw = torch.Generator().manual_seed(0)
    small, large = torch.randn(5, 4, generator=draw), torch.randn(9, 4, generator=draw)
    slow = [max(float(a @ b / (a.norm() * b.norm())) for b in large) for a in small]
    np.testing.assert_allclose(largest_cosines(small, [large])[0], slow, rtol=1e-5)
    toy = pc.dictionaries.ToyData.zipf(6, 4, active=1.0)
    cells, histograms = measure("random", {(None, 1.0): small, (None, 2.0): large}, toy, TINY, 0, 0)
    assert cells[0]["agreement"] == pytest.approx(np.mean(slow), rel=1e-5)
    assert np.isnan(cells[1]["agreement"])
    counts = pd.DataFrame(histograms).groupby(["of", "ratio"])["count"].sum().to_dict()
    assert counts == {("truth", 1.0): 6, ("larger", 1.0): 5, ("truth", 2.0): 6}


def test_agreement_is_with_the_larger_dictionary_of_the_same_weight():
    eye = torch.eye(4)
    dictionaries = {(0, 1.0): eye[:2], (0, 2.0): eye[:3], (4, 1.0): eye[:2], (4, 2.0): eye[2:]}
    toy = pc.dictionaries.ToyData.zipf(6, 4, active=1.0)
    cells, _ = measure("grid", dictionaries, toy, TINY, 0, 0)
    np.testing.assert_array_equal([cell["agreement"] for cell in cells], [1.0, np.nan, 0.0, np.nan])


class StopAfter:
    """Makes an interrupt of a progress event, once."""

    def __init__(self, count: int) -> None:
        self.left = count

    def __call__(self, event: object) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def test_what_was_interrupted_ends_as_what_was_not(tmp_path, whole):
    one = replace(TINY, seeds=1)
    with pytest.raises(KeyboardInterrupt) as interrupt:
        study(tmp_path / "out", one, progress=StopAfter(20))
    assert f"kept in {str(tmp_path / 'out')!r}" in interrupt.value.__notes__[-1]
    assert (tmp_path / "out" / "training" / "grid-0" / "training.safetensors").is_file()
    assert not (tmp_path / "out" / "report.html").exists()
    again = study(tmp_path / "out", one)
    for table, expected in ((again.cells, whole.cells), (again.interference, whole.interference)):
        pd.testing.assert_frame_equal(table, expected[expected["seed"] == 0].reset_index(drop=True))
    with pytest.raises(InputError, match="checkpoint of another"):
        study(tmp_path / "out", replace(one, steps=13))


def test_another_seed_gives_other_data(whole):
    trained = whole.cells[whole.cells["run"] != "random"]
    first, second = (trained.loc[trained["seed"] == seed, "mmcs"].to_numpy() for seed in range(2))
    assert (first != second).all()


def test_longer_training_is_compared_within_seeds(whole):
    cells = whole.cells.set_index(["run", "exponent", "ratio", "seed"])["mmcs"]
    change = [cells["longer", 4, 2.0, seed] - cells["grid", 4, 2.0, seed] for seed in range(2)]
    row = whole.training().query("ratio == 2 and measure == 'mmcs'").iloc[0]
    assert row["change"] == pytest.approx(np.mean(change))
    assert row["low"] == pytest.approx(min(change))
    assert row["high"] == pytest.approx(max(change))
    assert row["before"] + row["change"] == pytest.approx(row["after"])
    assert "agreement" not in set(whole.training().query("ratio == 2")["measure"])  # nothing is larger


def test_random_directions_are_not_the_features(whole):
    random = whole.cells[whole.cells["run"] == "random"]
    assert (random["recovered_0.9"] < 0.3).all()  # they come from another seed: with the same one some are the truth


def test_the_shares_of_low_middling_and_high_cosines_add_up(whole):
    bands = whole.middling()
    np.testing.assert_allclose(bands[["low", "middling", "high"]].sum(axis=1), 1)
    keys = ["run", "alpha", "ratio"]
    shares, high = whole.intervals().set_index(keys)["recovered_0.9"], bands.set_index(keys)["high"]
    np.testing.assert_allclose(high, shares.loc[high.index], atol=1e-9)


def test_the_folder_holds_the_tables(tmp_path, whole):
    out = whole.save(tmp_path / "again")
    assert len(pd.read_csv(out / "cells.csv")) == 2 + 4 + 2
    assert (out / "report.html").is_file()
    assert "Interference" in whole.text()
    assert set(whole.summary()) == {"setting", "cells", "choice", "training", "middling", "interference"}


def test_what_agreement_chooses_is_at_most_as_good_as_the_best(whole):
    grid = whole.cells.query("run == 'grid' and ratio == 1").set_index(["seed", "exponent"])
    lost = []
    for seed in range(2):
        chosen = max((-4, 4), key=lambda exponent: grid.loc[(seed, exponent), "agreement"])
        lost.append(grid.loc[seed, "mmcs"].max() - grid.loc[(seed, chosen), "mmcs"])
    (row,) = whole.choice().to_dict("records")  # of the largest size nothing is larger
    assert row["ratio"] == 1
    assert row["lost"] == pytest.approx(np.mean(lost))
    assert row["lost"] == pytest.approx(row["mmcs_best"] - row["mmcs_chosen"])
    assert row["lost"] >= 0


def test_one_size_agrees_with_nothing(tmp_path, whole):
    one = replace(
        whole,
        setting=replace(TINY, ratios=(2.0,)),
        cells=whole.cells.query("ratio == 2"),
        histograms=whole.histograms.query("ratio == 2"),
    )
    assert one.choice().empty
    assert (one.save(tmp_path / "out") / "report.html").is_file()
    assert "Interference" in one.text()


def test_histograms_are_shares_of_all_seeds(whole):
    axis = figures.histograms(whole).axes[0]
    table = whole.histograms.query("run == 'grid' and exponent == -4 and ratio == 1 and of == 'truth'")
    counts = table.groupby("mcs")["count"].sum()
    assert len(counts) == BINS
    np.testing.assert_allclose(axis.patches[0].get_data().values, counts / (2 * TINY.G))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"longer": (3,)}, "longer"),
        ({"ratios": (2.0, 1.0)}, "rise"),
        ({"steps": 0}, "steps"),
        ({"ratios": (0.01, 1.0)}, "atom"),
    ],
)
def test_settings_that_make_no_sense(change, message):
    with pytest.raises(InputError, match=message):
        replace(TINY, **change)


@pytest.mark.slow
@pytest.mark.usefixtures("pictures")
def test_pictures(tmp_path, whole):
    whole.save(tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {
        "maps.png", "longer.png", "histograms.png", "interference.png",
    }  # fmt: skip

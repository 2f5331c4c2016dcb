"""The study of initialisations: pairing, seeds, the weight of a layer, work that goes on, and what the folder holds."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import torch

import patchclamp as pc
from patchclamp.core.errors import InputError
from patchclamp.dictionaries.initial import Initialisation
from patchclamp.studies.initialisation import (
    CONTROLLED,
    INITIALISATIONS,
    InitialisationSetting,
    on_model,
    on_toy_data,
    study,
    up_weight,
)
from tests import tiny
from tests.pictures import draw_nothing

TINY = InitialisationSetting(
    seeds=2, toy_steps=(1, 8), G=16, d=8, active=1.0, k=2, toy_batch_size=64, model_steps=(6,), layer=1, rows=96,
    model_held_out=32, model_k=2, batch_size=32, revive_every=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch)
        return study(tmp_path_factory.mktemp("initialisation") / "out", setting=TINY)


def test_every_initialisation_is_there_for_every_seed_and_budget(toy):
    table = toy.table
    assert len(table) == 2 * 2 * (2 * len(INITIALISATIONS) + 2 * len(CONTROLLED))
    assert not table.duplicated(["encoder", "initialisation", "variant", "seed", "steps"]).any()


def test_differences_are_means_of_differences_within_seeds(toy):
    table = toy.table.query("variant == 'standard' and encoder == 'ReLU' and steps == 8").set_index(
        ["initialisation", "seed"]
    )
    change = [table.loc[("pca", seed), "mmcs"] - table.loc[("random", seed), "mmcs"] for seed in range(2)]
    row = toy.differences().query("encoder == 'ReLU' and steps == 8 and initialisation == 'pca'").iloc[0]
    assert row["mmcs"] == pytest.approx(np.mean(change))
    assert row["mmcs_low"] <= row["mmcs"] <= row["mmcs_high"]
    assert "random" not in set(toy.differences()["initialisation"])


def test_before_anything_is_revived_that_control_is_nothing_and_the_scale_is_something(toy):
    control = toy.control().query("steps == 1")
    assert (control.query("variant == 'no revival'")["explained_variance"] == 0).all()
    assert (control.query("variant == 'unscaled'")["explained_variance"] < 0).all()
    assert set(control["initialisation"]) == set(CONTROLLED)


def test_a_control_is_the_mean_of_differences_within_seeds(toy):
    table = toy.table.query("initialisation == 'data' and encoder == 'BatchTopK' and steps == 8")
    table = table.set_index(["variant", "seed"])["l0"]
    change = [table["unscaled", seed] - table["standard", seed] for seed in range(2)]
    row = toy.control().query("variant == 'unscaled' and initialisation == 'data' and steps == 8").iloc[0]
    assert row["l0"] == pytest.approx(np.mean(change))


def test_seeds_matter_and_equal_seeds_give_equal_numbers(tmp_path, toy):
    again = pd.DataFrame(on_toy_data(replace(TINY, seeds=1), tmp_path))
    first = toy.table.query("seed == 0").reset_index(drop=True)
    pd.testing.assert_frame_equal(again, first)
    second = toy.table.query("seed == 1").reset_index(drop=True)
    assert (first["explained_variance"] != second["explained_variance"]).all()


def test_initial_directions_are_not_the_features(toy):
    first = toy.table.query("steps == 1 and initialisation == 'random'")
    assert (first["mmcs"] < 0.85).all()  # they would be the features themselves, if they came from the same seed


def test_what_was_interrupted_ends_as_what_was_not(tmp_path, toy):
    left = [20]

    def stop(event: object) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as interrupt:
        study(tmp_path / "out", setting=TINY, progress=stop)
    assert f"kept in {str(tmp_path / 'out')!r}" in interrupt.value.__notes__[-1]
    assert list((tmp_path / "out" / "training").iterdir())
    pd.testing.assert_frame_equal(study(tmp_path / "out", setting=TINY).table, toy.table)


def test_a_language_model(tmp_path):
    model = pc.wrap(tiny.shared("llama"))
    draw = torch.Generator().manual_seed(0)
    corpus = [torch.randint(3, 60, (40,), generator=draw).tolist() for _ in range(5)]
    table, agreements = on_model(model, replace(TINY, corpus=corpus), tmp_path)
    assert len(table) == 2 * (len(INITIALISATIONS) + 2 * len(CONTROLLED))
    assert len(agreements) == len(INITIALISATIONS)
    assert all(np.isfinite(row["explained_variance"]) for row in table)
    with pytest.raises(InputError, match="take fewer rows"):
        on_model(model, replace(TINY, corpus=corpus, rows=10_000), tmp_path / "other")


def test_the_weight_of_a_layer_makes_its_neurons_of_the_residual_stream():
    for name in ("llama", "gpt2"):
        model = pc.wrap(tiny.shared(name))
        neurons = model.activation_stream([[5, 6, 7, 8, 9]], "mlp_act.1").d
        weight = up_weight(model, 1, neurons)
        assert weight.shape == (neurons, model.activation_stream([[5, 6, 7]], "resid_post.1").d)
        assert any(
            weight.data_ptr() == parameter.data_ptr()
            for key, parameter in model.module.named_parameters()
            if ".1." in key
        )
    with pytest.raises(InputError, match="no weight of 7 neurons"):
        up_weight(pc.wrap(tiny.shared("llama")), 1, 7)


def test_the_folder_holds_the_tables(tmp_path, toy):
    out = toy.save(tmp_path / "again")
    assert len(pd.read_csv(out / "by-seed.csv")) == len(toy.table)
    assert (out / "report.html").is_file()
    assert "Control" in toy.text()
    assert toy.summary()["model"] is None


@pytest.mark.parametrize("change", [{"seeds": 0}, {"toy_steps": (3, 2)}, {"model_steps": ()}])
def test_settings_that_make_no_sense(change):
    with pytest.raises(InputError):
        replace(TINY, **change)


@pytest.mark.slow
@pytest.mark.usefixtures("pictures")
def test_the_picture(tmp_path, toy):
    toy.save(tmp_path / "out")
    assert (tmp_path / "out" / "figure.png").is_file()


def test_initialisations_are_those_of_the_library():
    assert get_args(Initialisation) == INITIALISATIONS, "the study has all that there are"

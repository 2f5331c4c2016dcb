from pathlib import Path

import numpy as np
import pytest
import torch

import patchclamp as pc
from tests import tiny
from tests.lenses.families import opened
from tests.traces import no_trace

IDS, SUBJECT = tiny.ids(1, 6)[0], [1, 2]


def test_exact_effects_are_those_of_single_neurons(llama: pc.Model) -> None:
    with no_trace(llama.module):
        found = llama.neuron_importances([IDS], SUBJECT, 9, samples=2, verify=5)
    said = found.record["parameters"] | found.record["resolved"]
    clean = llama.record([IDS], "mlp_act")["mlp_act"][:, 0]
    for row in found.verified().itertuples():
        changes = []
        for seed in said["seeds"]:
            noise = pc.Noise(said["noise"] * said["std"], seed, site="embed", at=SUBJECT)
            value = clean[row.layer, row.position, row.neuron].reshape(1)
            restore = pc.Patch(value, site=f"mlp_act.{row.layer}.n{row.neuron}", at=row.position)
            base, restored = (
                llama.run([IDS], edits).logits[0, -1].softmax(-1)[9] for edits in ([noise], [noise, restore])
            )
            changes.append(float(restored - base))
        assert row.exact == pytest.approx(np.mean(changes), abs=1e-12)
        assert row.standard_error == pytest.approx(np.std(changes, ddof=1) / 2**0.5, abs=1e-12)
        here = found.data.sel(layer=row.layer, position=row.position)
        assert row.estimate == here["effect"].values[here["neuron"].values == row.neuron].item()
    sizes = np.sort(abs(found.data["effect"].values).ravel())[::-1]
    assert abs(found.verified()["estimate"].values) == pytest.approx(sizes[:5], rel=1e-12), (
        "the strongest, of either sign"
    )
    assert found.agreement is not None
    assert found.agreement["exact"] == found.verified()["exact"].tolist()


def test_estimates_are_first_order(llama: pc.Model) -> None:
    found = llama.neuron_importances([IDS], SUBJECT, 9, samples=2, noise=1e-3, verify=20)
    assert found.agreement is not None
    assert found.agreement["relative_error"] < 1e-2
    assert (found.data["importance"].sel(position=0) == 0).all(), "control: before the subject"
    assert (found.data["importance"].sel(layer=2, position=[1, 2, 3, 4]) == 0).all(), "the last layer's other tokens"
    assert (found.data["importance"].sel(layer=1, position=SUBJECT) > 0).all()


@pytest.mark.parametrize("integrate", [0, 2])
def test_an_estimate_is_the_slope_times_the_change(llama: pc.Model, integrate: int) -> None:
    """The slope of one neuron alone, under the whole noise or at the middles of the parts of the way to the clean run."""
    found = llama.neuron_importances([IDS], SUBJECT, 9, samples=2, seed=4, integrate=integrate, top=48, verify=0)
    said, layer, position, neuron = found.record["parameters"] | found.record["resolved"], 1, 2, 7
    here = found.data.sel(layer=layer, position=position)
    site, wanted = f"mlp_act.{layer}.n{neuron}", []
    clean = llama.record([IDS], site, at=position)[site].item()
    for seed in said["seeds"]:

        def noise(share: float, seed: int = seed) -> pc.Noise:
            return pc.Noise(share * said["noise"] * said["std"], seed, site="embed", at=SUBJECT)

        def slope(share: float) -> float:
            by = torch.zeros(1, dtype=torch.float64, requires_grad=True)
            edits = [noise(share), pc.Call(lambda x: x + by, site=site, at=position)]
            (found,) = torch.autograd.grad(llama.run([IDS], edits, grad=True).logits[0, -1].softmax(-1)[9], [by])
            return found.item()

        base = llama.record([IDS], site, at=position, edits=noise(1.0))[site].item()
        wanted.append((clean - base) * np.mean([slope(share) for share in ((0.75, 0.25) if integrate else (1.0,))]))
    estimated = here["effect"].values[here["neuron"].values == neuron].item()
    assert estimated == pytest.approx(np.mean(wanted), rel=1e-4)
    assert wanted[0] != pytest.approx(wanted[1], rel=1e-2)


def test_importances_sum_and_average_over_neurons(llama: pc.Model) -> None:
    found = llama.neuron_importances([IDS], SUBJECT, 9, samples=2, top=48, verify=0)
    importance = found.data["importance"]
    assert np.allclose(abs(found.data["effect"]).sum("rank"), importance)
    assert np.allclose(found.layer_means(), importance.isel(position=slice(1, None)).mean("position") / 48)
    assert found.agreement is None
    sizes = abs(found.data["effect"]).values
    assert (np.diff(sizes, axis=-1) <= 0).all(), "strongest first"


def test_saved_and_opened(llama: pc.Model, tmp_path: Path) -> None:
    found = llama.neuron_importances([IDS], SUBJECT, samples=1, verify=3, integrate=2)
    found.save(tmp_path)
    assert pc.open(tmp_path) == found
    assert "strongest neurons run exactly" in repr(found)
    for layers in ("up", "right"):
        assert found.figure(layers=layers).axes


def test_what_does_not_fit_is_refused(llama: pc.Model) -> None:
    with pytest.raises(pc.InputError, match=r"top=49 is outside 1\.\.48"):
        llama.neuron_importances([IDS], SUBJECT, top=49)
    with pytest.raises(pc.InputError, match="verify is a number of neurons"):
        llama.neuron_importances([IDS], SUBJECT, verify=-1)
    with pytest.raises(pc.SiteError):
        opened("mixtral", torch.float32).neuron_importances([IDS], SUBJECT)

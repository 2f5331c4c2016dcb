"""Pruning: what is double becomes one, what is not used goes, and nothing else changes."""

import pytest
import torch

from patchclamp.core.errors import InputError
from patchclamp.dictionaries import OMP, Dictionary, Threshold, prune


def double():
    """Four orthogonal atoms; the second stands there twice more, a little turned, and the last is never used."""
    atoms = torch.eye(6)[:4]
    near = torch.nn.functional.normalize(atoms[1] + 0.1 * torch.eye(6)[4:6])
    x = torch.eye(6)[:3].repeat(10, 1) * torch.linspace(0.5, 2, 30)[:, None]
    return Dictionary(torch.cat([atoms, near]), OMP(2), card={"from": "a test"}), x


def test_double_atoms_are_merged_and_dead_ones_dropped():
    dictionary, x = double()
    small = prune(dictionary, x)
    assert small.card["pruned"] == {"width": 6, "merged": 0, "dropped": 3}  # the near ones were never chosen
    torch.testing.assert_close(small.atoms, torch.eye(6)[:3])
    torch.testing.assert_close(small(x), dictionary(x))
    both = Dictionary(dictionary.atoms, Threshold(0.1))
    merged = prune(both, x)
    assert merged.card["pruned"] == {"width": 6, "merged": 2, "dropped": 1}
    assert merged.width == 3
    assert float(merged.atoms[1] @ torch.eye(6)[1]) > 0.99
    assert prune(both, x, duplicate=1.0).width == 5


def test_atoms_that_are_seldom_used_go():
    dictionary, x = double()
    rare = torch.cat([x, torch.eye(6)[3:4]])
    assert prune(dictionary, rare).width == 4
    assert prune(dictionary, rare, firing=0.1).width == 3


def test_atoms_that_only_fill_what_others_leave_go():
    dictionary, x = double()
    weak = torch.cat([x, 0.05 * torch.eye(6)[3:4].repeat(9, 1)])
    assert prune(dictionary, weak).width == 4
    assert prune(dictionary, weak, strength=0.3).width == 3
    assert prune(dictionary, 20 * weak, strength=0.3).width == 3


def test_the_order_of_atoms_does_not_decide():
    dictionary, x = double()
    order = torch.tensor([5, 3, 1, 0, 4, 2])
    first, second = prune(dictionary, x), prune(Dictionary(dictionary.atoms[order], OMP(2)), x)
    torch.testing.assert_close(first.atoms.sort(0)[0], second.atoms.sort(0)[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"duplicate": 0.0}, "duplicate"), ({"firing": 1.0}, "firing"), ({"firing": 0.9}, "nothing would be left")],
)
def test_what_makes_no_sense_is_refused(settings, message):
    with pytest.raises(InputError, match=message):
        prune(*double(), **settings)

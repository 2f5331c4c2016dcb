"""Selection in two stages, and sparse sums, against the slow way."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from patchclamp.dictionaries import sparse
from patchclamp.dictionaries.sparse import Entries, top_entries, top_latents


@given(st.integers(1, 6), st.integers(1, 3), st.integers(1, 700), st.integers(0, 10**6))
def test_two_stages_choose_the_highest_of_each_row(rows, k, width, seed):
    k = min(k, width)
    scores = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))
    latents = top_latents(scores, k)
    expected = scores.topk(k, dim=1).values
    assert torch.equal(scores.gather(1, latents).sort(descending=True).values, expected)


@given(st.integers(1, 9), st.integers(1, 700), st.integers(0, 10**6))
def test_two_stages_choose_the_highest_of_a_batch(rows, width, seed):
    scores = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))
    entries = top_entries(scores, rows)
    assert torch.equal(entries, entries.unique())
    assert torch.equal(scores.flatten()[entries].sort(descending=True).values, scores.flatten().topk(rows).values)


def test_both_stages_are_taken():
    """Otherwise the two tests above would compare topk with itself."""
    assert sparse._group_size(700, 3) > 1
    assert sparse._group_size(100, 3) == 1


def test_a_slice_of_a_wider_matrix_is_searched_as_a_copy_is():
    scores = torch.randn(5, 900)[:, 100:800]
    assert torch.equal(top_entries(scores, 5), top_entries(scores.contiguous(), 5))
    assert torch.equal(top_latents(scores, 2), top_latents(scores.contiguous(), 2))


@pytest.mark.parametrize("grouped", [False, True])
def test_sums_over_entries_are_the_dense_products(grouped):
    rows, width, d = 6, 20, 4
    scores = torch.randn(rows, width, dtype=torch.float64)
    entries = Entries.of_flat(top_entries(scores, 17), rows, width)
    dense = torch.zeros_like(scores)
    dense[entries.bags, entries.latents] = entries.values(scores)
    atoms, left = torch.randn(width, d, dtype=torch.float64), torch.randn(rows, d, dtype=torch.float64)
    values = entries.values(scores)
    if grouped:
        ends = torch.tensor([5, 9, 20])
        sums = entries.in_groups(ends).decode(values, atoms).unflatten(0, (rows, 3))
        for number, (begin, end) in enumerate([(0, 5), (5, 9), (9, 20)]):
            torch.testing.assert_close(sums[:, number], dense[:, begin:end] @ atoms[begin:end])
        return
    torch.testing.assert_close(entries.decode(values, atoms), dense @ atoms)
    torch.testing.assert_close(entries.products(left, atoms), (left @ atoms.T)[entries.bags, entries.latents])
    torch.testing.assert_close(entries.sum_rows(values, left), dense.T @ left)
    torch.testing.assert_close(entries.sum_values(values), dense.sum(0))

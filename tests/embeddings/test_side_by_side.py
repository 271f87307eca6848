"""Rows side by side: what index_select and cat give, with their gradients, and no row that a table has not."""

import pytest
import torch

from home_dist.embeddings.side_by_side import side_by_side

DIMS = [16, 8, 1, 40]


def parts(n: int, dtype: torch.dtype = torch.float64):
    torch.manual_seed(n)
    tables = [torch.randn(5 + 3 * k, dim, dtype=dtype, requires_grad=True) for k, dim in enumerate(DIMS)]
    return [(table, torch.randint(0, len(table), (n,))) for table in tables]


def plain(given):
    return torch.cat([table.index_select(0, rows) for table, rows in given], 1)


@pytest.mark.parametrize("n", [0, 1, 256, 1000])
def test_values_and_gradients_are_those_of_index_select(n):
    given = parts(n)
    tables = [table for table, _ in given]
    found, expected = side_by_side(given), plain(given)
    assert torch.equal(found, expected)
    up = torch.randn_like(found)
    for a, b in zip(torch.autograd.grad(found, tables, up), torch.autograd.grad(expected, tables, up), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_a_gradient_has_the_same_bits_with_any_number_of_threads():
    given = parts(3000, torch.float32)
    tables = [table for table, _ in given]
    up, threads, found = torch.randn(3000, sum(DIMS)), torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            found.append(torch.autograd.grad(side_by_side(given), tables, up))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


def test_a_gradient_has_a_derivative():
    rows = torch.tensor([0, 3, 3]), torch.tensor([1, 1, 2])
    tables = [torch.randn(4, dim, dtype=torch.float64, requires_grad=True) for dim in (2, 3)]
    assert torch.autograd.gradgradcheck(lambda *given: side_by_side([*zip(given, rows, strict=True)]) ** 2, tables)


def test_tables_of_which_all_rows_are_taken_need_no_numbers():
    [(table, rows), *_] = parts(7)
    whole = torch.randn(7, 3, dtype=torch.float64)
    assert torch.equal(side_by_side([(table, rows), (whole, None)]), torch.cat([table[rows], whole], 1))


@pytest.mark.parametrize("row", [-1, 8])
def test_a_row_that_a_table_has_not_is_refused(row):
    given = parts(5)
    given[1][1][3] = row
    with pytest.raises(IndexError, match=r"table 1 of 4 .* none of its 8 rows"):
        side_by_side(given)


def test_columns_of_other_lengths_are_refused():
    [(table, rows), (other, of_other), *_] = parts(5)
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        side_by_side([(table, rows), (other, of_other[:3])])


def test_rows_may_be_of_32_bits():
    [(table, rows), (other, of_other), *_] = parts(5)
    found = side_by_side([(table, rows.int()), (other, of_other.int())])
    assert torch.equal(found, torch.cat([table[rows], other[of_other]], 1))

"""Resampling as two products is torch's, under every convention, wherever a table grows or shrinks."""

import pytest
import torch

from var_pe.resampling.as_products import table_as_products
from var_pe.resampling.conventions import CONVENTIONS, Convention, interpolate_table

OTHERS = {"bilinear": Convention("bilinear"), "bicubic, offset 0.3": Convention("bicubic", offset=0.3)}
SIZES = [(2, 2), (3, 5), (4, 6), (5, 6), (4, 7), (8, 12), (13, 2), (2, 31), (20, 20)]


@pytest.mark.parametrize("name", [*CONVENTIONS, *OTHERS])
@pytest.mark.parametrize("old", [(4, 6), (1, 3), (9, 2), (14, 14)])
def test_products_are_the_kernel(name, old):
    table_LC = torch.randn(old[0] * old[1], 5, generator=torch.Generator().manual_seed(0))
    how = CONVENTIONS.get(name) or OTHERS[name]
    for new in (*SIZES, old):
        if 1 in new:
            continue
        wanted = interpolate_table(table_LC, old, new, how)
        torch.testing.assert_close(table_as_products(table_LC, old, new, how), wanted, atol=2e-5, rtol=0)


def test_the_type_stays_and_gradients_arrive():
    table_LC = torch.randn(12, 3, dtype=torch.bfloat16, requires_grad=True)
    moved_LC = table_as_products(table_LC, (3, 4), (5, 2), "timm")
    assert moved_LC.dtype == torch.bfloat16
    moved_LC.float().sum().backward()
    assert table_LC.grad is not None
    assert table_LC.grad.abs().min() > 0

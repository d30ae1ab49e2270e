"""Attention over short rows: the same on both sides of a vector's length, and for any scores."""

import pytest
import torch
from torch import Tensor

from geomfast.models.stacked_attention import Buffers, Layout, RowAttention

MEMBERS, HEADS, WIDTH = 2, 2, 8


def exact(qkv: Tensor, length: int) -> Tensor:
    """(C, rows of one length, d) in float64 from the textbook's formula."""
    rows = qkv.double().view(MEMBERS, -1, length, 3, HEADS, WIDTH // HEADS)
    q, k, v = rows.permute(3, 0, 1, 4, 2, 5)
    scores = q @ k.mT / (WIDTH // HEADS) ** 0.5
    later = torch.ones(length, length, dtype=torch.bool).triu(1)
    return (
        (scores.masked_fill(later, -torch.inf).softmax(-1) @ v)
        .transpose(2, 3)
        .reshape(MEMBERS, -1, WIDTH)
    )


@pytest.mark.parametrize("length", [1, 3, 7, 8, 15, 16, 20])
@pytest.mark.parametrize("spread", [0.3, 30.0])  # the second has weights that underflow
def test_is_softmax_attention(length: int, spread: float) -> None:
    generator = torch.Generator().manual_seed(length)
    qkv = torch.randn(MEMBERS, 3 * length, 3 * WIDTH, generator=generator)
    qkv[..., : 2 * WIDTH] *= spread
    into = torch.randn(MEMBERS, 3 * length, WIDTH, generator=generator)
    leaf = qkv.double().requires_grad_()
    expected = exact(leaf, length)
    (of_expected,) = torch.autograd.grad(expected, leaf, into.double())

    attention = RowAttention(HEADS, Buffers())
    buckets = Layout([(3, length)], [(length,) * 3]).buckets
    found, of_found = torch.empty_like(into), torch.full_like(qkv, torch.nan)
    kept = attention.forward(0, qkv, found, buckets)
    attention.backward(into, kept, of_found, buckets)
    assert (found - expected).norm() <= 1e-5 * expected.norm()
    assert (of_found - of_expected).norm() <= 1e-4 * of_expected.norm()

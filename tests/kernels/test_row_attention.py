"""Attention inside short rows: autograd of the textbook's formula, every instruction set."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from geomfast.kernels.row_attention import (
    OP,
    row_attention,
    row_attention_backward,
)
from tests import cases

#: Heads and numbers of each: less than a vector, whole ones, and neither.
HEADS = [(2, 4), (4, 16), (1, 8), (3, 20), (1, 1)]
#: Lengths of rows: on both sides of tiles of 4 and of vectors of 4, 8 and 16; and none.
ROWS = [[1], [3, 4, 5, 0, 7], [8, 9], [15, 15, 16, 17], [48, 2, 33]]


def offsets_of(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


def slopes_of(heads: int) -> Tensor:
    """Different ones, of the size that the papers' are of and beyond."""
    return 0.7 ** torch.arange(heads)


def exact(qkv: Tensor, lengths: list[int], heads: int, slopes: Tensor | None = None) -> Tensor:
    """(C, R, d) in float64 from the formula, row by row, for autograd to go through."""
    mixed = []
    for row in qkv.double().split(lengths, 1):
        q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in row.chunk(3, 2))
        later = torch.ones(row.shape[1], row.shape[1], dtype=torch.bool).triu(1)
        scores = q @ k.mT / q.shape[-1] ** 0.5
        if slopes is not None:
            at = torch.arange(row.shape[1])
            scores = scores + slopes.double()[:, None, None] * (at - at[:, None])
        scores = scores.masked_fill(later, -torch.inf)
        mixed.append((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
    return torch.cat(mixed, 1)


@pytest.mark.parametrize("lengths", ROWS, ids=str)
@pytest.mark.parametrize(("heads", "width"), HEADS)
@pytest.mark.parametrize("spread", [0.3, 30.0])  # the second has weights that underflow
@pytest.mark.parametrize("sloping", [False, True])
def test_is_attention_and_its_gradient(
    backend: str, heads: int, width: int, lengths: list[int], spread: float, sloping: bool
) -> None:
    assert backend == OP.backend_for(torch.empty(0))
    rows = [length for length in lengths if length]
    qkv = cases.normal(3, sum(lengths), 3 * heads * width, seed=len(lengths))
    qkv[..., : 2 * heads * width] *= spread
    into = cases.normal(3, sum(lengths), heads * width, seed=7)
    leaf = qkv.double().requires_grad_()
    slopes = slopes_of(heads) if sloping else None
    expected = exact(leaf, rows, heads, slopes)
    (of_expected,) = torch.autograd.grad(expected, leaf, into.double())

    found = row_attention(qkv, offsets_of(lengths), heads, slopes)
    of_found = row_attention_backward(into, qkv, offsets_of(lengths), heads, slopes)
    # Scores in the hundreds are known to float32's rounding of them, not of their differences.
    rounding = 1.0 if spread < 1 else 300.0
    assert (found - expected).norm() <= 5e-7 * rounding * expected.norm()
    assert (of_found - of_expected).norm() <= 2e-6 * rounding * of_expected.norm() + 1e-5


def test_slopes_of_zero_are_none(backend: str) -> None:
    qkv, into = cases.normal(2, 20, 3 * 24), cases.normal(2, 20, 24, seed=1)
    offsets = offsets_of([7, 13])
    found = [
        (row_attention(qkv, offsets, 2, s), row_attention_backward(into, qkv, offsets, 2, s))
        for s in (None, torch.zeros(2))
    ]
    for plain, flat in zip(*found, strict=True):
        torch.testing.assert_close(flat, plain, rtol=1e-5, atol=1e-6)


def test_scores_that_slopes_take_below_everything_leave_the_token_itself(backend: str) -> None:
    qkv = cases.normal(2, 20, 3 * 24)
    found = row_attention(qkv, offsets_of([7, 13]), 2, torch.tensor([1e30, 1e4]))
    torch.testing.assert_close(found, qkv[..., 48:], rtol=1e-6, atol=0)


@pytest.mark.parametrize("isa", cases.isas())
@pytest.mark.parametrize("sloping", [False, True])
def test_rows_do_not_know_of_each_other(isa: str, sloping: bool, monkeypatch) -> None:
    """A row has the same bits alone and among others, NaN beside it or not, on any threads."""
    monkeypatch.setenv("GEOMFAST_ISA", isa)
    lengths, heads = [5, 16, 7, 7] * 40, 2
    qkv, into = cases.normal(40, sum(lengths), 3 * 24), cases.normal(40, sum(lengths), 24, seed=1)
    ill = qkv.clone()
    ill[1] = torch.nan
    ill[:, 5:21] = torch.inf
    slopes = slopes_of(heads) if sloping else None
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            given = (into, ill, offsets_of(lengths), heads, slopes)
            found += [row_attention(*given[1:]), row_attention_backward(*given)]
    finally:
        torch.set_num_threads(before)
    for whole, again in zip(found[:2], found[2:], strict=True):
        torch.testing.assert_close(again, whole, rtol=0, atol=0, equal_nan=True)
        assert whole[1].isnan().all()
        assert whole[:, 5:21].isnan().any(-1).all()
        assert whole[0, :5].isfinite().all()
        assert whole[2:, 21:].isfinite().all()
    part, of_part = (x[2:3, 21:28].contiguous() for x in (qkv, into))
    alone = row_attention(part, offsets_of([7]), heads, slopes)
    assert torch.equal(alone, found[0][2:3, 21:28])
    alone = row_attention_backward(of_part, part, offsets_of([7]), heads, slopes)
    assert torch.equal(alone, found[1][2:3, 21:28])


@pytest.mark.parametrize("isa", cases.isas())
def test_sharp_attention_makes_no_denormal_numbers(isa: str, monkeypatch) -> None:
    """A processor takes a hundred times as long for those."""
    monkeypatch.setenv("GEOMFAST_ISA", isa)
    qkv, offsets = cases.normal(4, 64, 3 * 32), offsets_of([16] * 4)
    qkv[..., :64] *= 30.0
    into = 1e-3 * cases.normal(4, 64, 32, seed=1)
    found = row_attention_backward(into, qkv, offsets, 2)
    tiny = torch.finfo(torch.float32).tiny
    assert not ((found != 0.0) & (found.abs() < tiny)).any()
    assert (found == 0.0).any()


def test_nothing_is_recorded_for_autograd(backend: str) -> None:
    qkv = cases.normal(1, 4, 12).requires_grad_()
    assert not row_attention(qkv, offsets_of([4]), 1).requires_grad


def test_double_is_served_in_double() -> None:
    qkv = cases.normal(2, 9, 24, dtype=torch.float64)
    assert OP.available_backends(qkv) == ["torch", "reference"]
    found = row_attention(qkv, offsets_of([4, 5]), 2)
    torch.testing.assert_close(found, exact(qkv, [4, 5], 2), rtol=1e-12, atol=1e-14)


def test_nothing_to_attend_to() -> None:
    for backend in OP.available_backends(torch.empty(0)):
        out = torch.empty(2, 0, 4)
        OP[backend].run(torch.empty(2, 0, 12), offsets_of([]), 1, out)
        OP[backend].run(torch.empty(0, 5, 12), offsets_of([5]), 1, torch.empty(0, 5, 4))


@pytest.mark.parametrize(
    ("qkv", "offsets", "heads", "complaint"),
    [
        (torch.zeros(2, 12), [0, 2], 1, "qkv must be"),
        (torch.zeros(2, 4, 12).half(), [0, 4], 1, "qkv must be"),
        (torch.zeros(2, 12, 4).mT, [0, 4], 1, "contiguous"),
        (torch.zeros(2, 4, 12), [0, 4], 3, "3 heads do not divide"),
        (torch.zeros(2, 4, 12), [0, 4], 0, "0 heads do not divide"),
        (torch.zeros(2, 4, 12), [0, 3], 1, "rise from 0 to R = 4"),
        (torch.zeros(2, 4, 12), [1, 4], 1, "rise from 0"),
        (torch.zeros(2, 4, 12), [0, 5, 3, 4], 1, "rise from 0"),
        (torch.zeros(2, 4, 12), [], 1, "rise from 0"),
        (torch.zeros(2, 4, 12), [0.0, 4.0], 1, "int64"),
    ],
)
def test_bad_input_is_refused(qkv: Tensor, offsets: list, heads: int, complaint: str) -> None:
    given = torch.tensor(offsets) if offsets else torch.zeros(0, dtype=torch.int64)
    with pytest.raises(ValueError, match=complaint):
        row_attention(qkv, given, heads)


@pytest.mark.parametrize(
    ("slopes", "complaint"),
    [(torch.zeros(3), r"slopes must be \(2,\)"), (torch.zeros(2).double(), "slopes must be")],
)
def test_slopes_that_do_not_fit_are_refused(slopes: Tensor, complaint: str) -> None:
    qkv, into = torch.zeros(2, 4, 12), torch.zeros(2, 4, 4)
    with pytest.raises(ValueError, match=complaint):
        row_attention(qkv, offsets_of([4]), 2, slopes)
    with pytest.raises(ValueError, match=complaint):
        row_attention_backward(into, qkv, offsets_of([4]), 2, slopes)


def test_a_gradient_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"grad_output must be \(2, 4, 4\)"):
        row_attention_backward(torch.zeros(2, 4, 12), torch.zeros(2, 4, 12), offsets_of([4]), 1)

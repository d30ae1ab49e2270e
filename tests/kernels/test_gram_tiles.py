"""How Gram matrices of spectra are cut into tiles, and the kernel on every such cut."""

import importlib

import pytest
import torch

from geomfast.kernels.backends import interpreting_triton
from geomfast.kernels.spectra.gram_tiles import Tiling, tile_for
from tests import cases

ITEMSIZES = (2, 4, 8)


def squares_alone(n: int) -> float:
    """Useful share of squares of side 64, or the power of two that covers a smaller matrix."""
    block = min(64, max(16, 1 << (n - 1).bit_length()))
    side = -(-n // block)
    return n * (n + 1) / (side * (side + 1) * block**2)


def programs(tiling: Tiling) -> list[tuple[range, range]]:
    """Rows and columns of each, as the kernel numbers them."""
    block, top = tiling.block, tiling.squares * tiling.block
    squares = [
        (range(i * block, (i + 1) * block), range(j * block, (j + 1) * block))
        for i in range(tiling.squares)
        for j in range(i + 1)
    ]
    pieces = [
        (range(top, top + tiling.strip), range(p * 2 * block, (p + 1) * 2 * block))
        for p in range(tiling.pieces)
    ]
    return squares + pieces


@pytest.mark.parametrize("itemsize", ITEMSIZES)
def test_useful_share_is_never_below_that_of_squares_alone(itemsize):
    for n in range(1, 1101):
        assert tile_for(n, itemsize).useful >= squares_alone(n), n


@pytest.mark.parametrize("itemsize", ITEMSIZES)
def test_useful_share_of_two_hundred(itemsize):
    assert squares_alone(200) < 0.5
    assert tile_for(200, itemsize).useful >= 0.7


@pytest.mark.parametrize("itemsize", ITEMSIZES)
def test_programs_cover_the_lower_triangle(itemsize):
    for n in (*range(1, 140), 191, 192, 193, 199, 200, 201, 208, 209, 237, 300, 1000):
        tiling = tile_for(n, itemsize)
        cut = programs(tiling)
        covered = torch.zeros(2000, 2000, dtype=torch.int64)
        for rows, columns in cut:
            covered[rows.start : rows.stop, columns.start : columns.stop] += 1
        assert covered.max() == 1, n
        assert (covered[:n, :n].tril() == torch.ones(n, n).tril()).all(), n
        assert len(cut) == tiling.programs
        assert covered.sum() == tiling.computed
        assert max(max(r.stop, c.stop) for r, c in cut) == tiling.rows_padded
        diagonal = [rows for rows, columns in cut if rows == columns]
        assert tiling.alone == (len(cut) == len(diagonal) == 1)
        inside = [  # squares on the diagonal read their rows once
            len([row for row in rows if row < n])
            + (len([c for c in columns if c < n]) if rows != columns else 0)
            for rows, columns in cut
        ]
        assert sum(inside) == tiling.rows_read, n


SIDES = (1, 2, 15, 16, 17, 31, 32, 33, 48, 49, 63, 64, 65, 80, 81, 97, 128, 199, 200, 201, 220)


def test_sides_below_need_every_cut():
    def kind(n: int) -> tuple[int, int, bool]:
        tiling = tile_for(n, 4)
        return tiling.block, tiling.strip, tiling.alone

    assert {kind(n) for n in (*SIDES, 237, 300)} == {kind(n) for n in range(1, 1101)}


@pytest.fixture
def gram_matrices():
    """Compiles nothing."""
    if not interpreting_triton():
        pytest.skip("Triton's interpreter is off")
    return importlib.import_module("geomfast.kernels.spectra.gram_kernel").gram_matrices


def check(gram_matrices, x: torch.Tensor) -> None:
    y = x.double()
    expected = y @ y.mT if x.shape[1] <= x.shape[2] else y.mT @ y
    lower, mirrored = (gram_matrices(x, None, mirrored) for mirrored in (False, True))
    torch.testing.assert_close(
        mirrored, expected, rtol=1e-13, atol=1e-13 * expected.abs().max().item()
    )
    assert torch.equal(mirrored.tril(), lower.tril())
    assert torch.equal(mirrored, mirrored.mT)


@pytest.mark.parametrize("n", SIDES)
def test_gram_of_every_cut(gram_matrices, n):
    check(gram_matrices, cases.normal(2, n, n + 5))
    check(gram_matrices, cases.normal(1, n + 1, n))


@pytest.mark.parametrize(("n", "d"), [(237, 239), (300, 301)])
def test_gram_of_large_sides(gram_matrices, n, d, monkeypatch):
    kernel = importlib.import_module("geomfast.kernels.spectra.gram_kernel")
    monkeypatch.setattr(kernel, "_BLOCK_K", 512)
    check(gram_matrices, cases.normal(1, n, d))


@pytest.mark.parametrize("d", [1, 3, 17, 33])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_gram_of_narrow_matrices(gram_matrices, d, dtype):
    check(gram_matrices, cases.normal(2, 200, d).to(dtype))
    check(gram_matrices, cases.normal(2, d, 40).to(dtype))


@pytest.mark.parametrize("n", [40, 70, 200])
def test_scale_and_strides(gram_matrices, n):
    x = cases.normal(3, n, 2 * n + 10, dtype=torch.float64)[:, :, ::2]
    scale = torch.tensor([0.25, 1.0, 2.0], dtype=torch.float64)
    torch.testing.assert_close(
        gram_matrices(x, scale, True), gram_matrices((x * scale[:, None, None]), None, True)
    )
    check(gram_matrices, x.mT)


@pytest.mark.filterwarnings("ignore:invalid value encountered in matmul")  # of the interpreter
@pytest.mark.parametrize("n", [33, 70, 200])
def test_not_a_number_reaches_its_own_row_and_no_other(gram_matrices, n):
    x = cases.normal(2, n, n)
    x[1, n - 1, 3] = float("nan")
    x[1, 5, 4] = float("inf")
    gram = gram_matrices(x, None, True)
    expected = torch.ones(n, n, dtype=torch.bool)
    expected[[5, n - 1]] = expected[:, [5, n - 1]] = False
    assert gram[0].isfinite().all()
    assert torch.equal(gram[1].isfinite(), expected)
    assert gram[1].diagonal()[[5, n - 1]].isfinite().logical_not().all()


def test_strides_beyond_32_bits(gram_matrices):
    """Of a side of one, any stride is in bounds."""
    x = cases.normal(1, 1, 20)
    check(gram_matrices, x.as_strided((1, 1, 20), (20, 2**40, 1)))
    check(gram_matrices, x.as_strided((2, 1, 20), (0, 2**31 - 1, 1)))

"""The C++ kernels of the gradients' Gram matrix, every instruction set, against whole gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from geomfast.kernels.backends import missing_reason, native_module
from geomfast.kernels.gradient_gram import Factors, cpu, reference
from tests import cases

ISAS = ("avx512", "avx2", "portable")
WAYS = ("ghost", "materialised", "centred")
ALLOWED = {torch.float32: 1e-6, torch.float64: 1e-13}
ENOUGH = 16 << 20

# N, T, rows, columns: everything that can be left over from panels, blocks and runs.
SHAPES = [
    (1, 1, 1, 1),
    (1, 17, 127, 5),
    (2, 3, 5, 24),
    (3, 4, 24, 1),
    (7, 1, 1, 130),
    (7, 17, 128, 128),
    (24, 4, 5, 5),
    (65, 3, 130, 127),
    (65, 130, 24, 5),
    (200, 1, 127, 130),
    (200, 4, 128, 24),
    (200, 17, 24, 128),
    (33, 2, 3, 5000),
]


def _cannot_run(isa: str) -> bool:
    return bool(missing_reason("_cpu")) or isa not in native_module("_cpu").isas()


@pytest.fixture(
    params=[
        pytest.param(
            isa,
            marks=pytest.mark.skipif(
                _cannot_run(isa), reason=f"{isa} does not run on this machine"
            ),
        )
        for isa in ISAS
    ],
    autouse=True,
)
def isa(request, monkeypatch):
    monkeypatch.setenv("GEOMFAST_ISA", request.param)
    return request.param


@pytest.fixture
def threads():
    """Sets the number of threads for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def run(way: str, uses: list[Factors], max_bytes: int = ENOUGH) -> Tensor:
    if way == "ghost":
        return cpu.ghost(uses, max_bytes)
    return cpu.materialised(uses, max_bytes, way == "centred")


def check(way: str, uses: list[Factors], max_bytes: int = ENOUGH) -> None:
    expected = reference.gram(uses, way == "centred")
    found = run(way, uses, max_bytes)
    assert found.dtype == torch.float64 and found.shape == expected.shape
    assert torch.equal(found, found.mT)
    # Centring takes differences, whose errors are relative to what was there before.
    largest = reference.gram(uses, centered=False).max()
    double = uses[0].right.dtype == torch.float64
    allowed = ALLOWED[torch.float64 if double else torch.float32]
    assert (found - expected).abs().max() <= allowed * largest


def dense(n: int, t: int, rows: int, columns: int, dtype=torch.float32, seed: int = 0) -> Factors:
    left = cases.normal(n, t, rows, dtype=dtype, seed=seed)
    return Factors(left, cases.normal(n, t, columns, dtype=dtype, seed=seed + 1), rows)


def one_hot(n: int, t: int, rows: int, columns: int, dtype=torch.float32, seed: int = 2) -> Factors:
    left = torch.randint(0, rows, (n, t), generator=cases.generator(seed))
    return Factors(left, cases.normal(n, t, columns, dtype=dtype, seed=seed + 1), rows)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ALLOWED)
@pytest.mark.parametrize("way", WAYS)
def test_against_whole_gradients(way, dtype, shape):
    check(way, [dense(*shape, dtype=dtype)])
    check(way, [one_hot(*shape, dtype=dtype)])


@pytest.mark.parametrize("max_bytes", [1, 100_000, ENOUGH])
@pytest.mark.parametrize("dtype", ALLOWED)
@pytest.mark.parametrize("way", WAYS)
def test_uses_of_one_parameter_add_before_the_product(way, dtype, max_bytes):
    n, rows, columns = 65, 70, 68
    uses = [
        dense(n, 3, rows, columns, dtype),
        one_hot(n, 5, rows, columns, dtype),
        dense(n, 1, rows, columns, dtype, seed=4),
        one_hot(n, 2, rows, columns, dtype, seed=6),
    ]
    check(way, uses, max_bytes)
    check(way, uses[::-1], max_bytes)


@pytest.mark.parametrize("way", WAYS)
def test_any_strides(way):
    n, t, rows, columns = 30, 4, 9, 7
    left, right = cases.normal(n, t, rows), cases.normal(n, t, columns, seed=1)
    views = [
        (left.permute(2, 1, 0).contiguous().permute(2, 1, 0), right),
        (left.transpose(0, 1).contiguous().transpose(0, 1), right[..., ::2]),
        (left[:1].expand(n, t, rows), right),  # inputs without a batch axis
        (left[:, :1].expand(n, t, rows), right[:, :1].expand(n, t, columns)),
        (left[::2, 1:, 2:], right[::2, 1:]),
        (left, right[..., :1].expand(n, t, columns)),
    ]
    for left_view, right_view in views:
        check(way, [Factors(left_view, right_view, left_view.shape[-1])])
    positions = torch.arange(t).expand(n, t)
    check(way, [Factors(positions, right, t)])
    check(way, [Factors(positions[:, ::2], right[:, ::2], t)])
    check(way, [Factors(positions.int(), right, t)])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("way", WAYS)
def test_half_precision_is_read_exactly(way, dtype):
    use = dense(20, 3, 11, 13)
    use = Factors(use.left.to(dtype), use.right.to(dtype), 11)
    check(way, [use, Factors(one_hot(20, 2, 11, 13).left, use.right[:, :2], 11)])


@pytest.mark.parametrize("dtype", [*ALLOWED, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (65, 1000), (200, 9001)])
def test_gram_of_rows(shape, dtype):
    gradients = cases.normal(*shape).to(dtype)
    found, expected = cpu.gram_of_rows(gradients), gradients.double() @ gradients.double().mT
    allowed = ALLOWED[torch.float64 if dtype == torch.float64 else torch.float32]
    assert (found - expected).abs().max() <= allowed * expected.max()
    assert torch.equal(cpu.gram_of_rows(gradients.mT.contiguous().mT), found)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("sample", [0, 3, 28])
@pytest.mark.parametrize("way", ["ghost", "materialised"])
def test_not_finite_stays_with_its_sample(way, sample, bad):
    n = 29  # with the last sample repeated where a panel is not full
    for use in (dense(n, 3, 5, 6), one_hot(n, 3, 5, 6)):
        use.right[sample, 1, 2] = bad
        gram = run(way, [use])
        assert not gram[sample, sample].isfinite()
        others = [i for i in range(n) if i != sample]
        finite = reference.gram([use], centered=False)[others][:, others]
        torch.testing.assert_close(gram[others][:, others], finite, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_bits_do_not_depend_on_threads(way, threads):
    uses = [dense(200, 5, 66, 70), one_hot(200, 3, 66, 70)]
    for max_bytes in (1, ENOUGH):
        threads(1)
        alone = run(way, uses, max_bytes)
        for count in (2, 3):
            threads(count)
            assert torch.equal(run(way, uses, max_bytes), alone)


@pytest.mark.parametrize("way", WAYS)
def test_nothing_to_add(way):
    empty = Factors(torch.zeros(4, 0, 3), torch.zeros(4, 0, 2), 3)
    assert torch.equal(run(way, [empty]), torch.zeros(4, 4, dtype=torch.float64))
    use = dense(4, 2, 3, 2)
    assert torch.equal(run(way, [use, empty]), run(way, [use]))
    assert run(way, [Factors(torch.zeros(0, 2, 3), torch.zeros(0, 2, 2), 3)]).shape == (0, 0)


@pytest.mark.parametrize("row", [-1, 5])
def test_indices_outside_the_parameter(row):
    use = one_hot(4, 2, 5, 6)
    use.left[3, 1] = row
    with pytest.raises(IndexError, match=rf"row {row} of a parameter of 5 rows"):
        run("ghost", [use])


def test_unknown_instruction_set(monkeypatch):
    monkeypatch.setenv("GEOMFAST_ISA", "mmx")
    with pytest.raises(ValueError, match="'mmx'"):
        run("ghost", [dense(4, 2, 3, 2)])

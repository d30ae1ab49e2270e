"""The Triton kernels of the gradient Gram matrix: in the interpreter without a GPU, else on it."""

import pytest
import torch

from geomfast.kernels.backends import interpreting_triton, triton_missing
from geomfast.kernels.gradient_gram import Factors, reference, triton, whole
from tests import cases

pytestmark = pytest.mark.skipif(
    bool(triton_missing()) and not interpreting_triton(),
    reason="neither a GPU nor Triton's interpreter",
)
DEVICE = "cpu" if triton_missing() else "cuda"
MEGABYTE = 1 << 20
# Relative to the largest entry. The tensor cores' three TF32 products keep float32's digits.
TOLERANCES = {torch.float32: 1e-6 if DEVICE == "cpu" else 1e-5, torch.float64: 1e-12}
PATHS = {
    "ghost": lambda uses, max_bytes: triton.ghost(uses, max_bytes),
    "materialised": lambda uses, max_bytes: triton.materialised(uses, max_bytes, False),
}


def dense(samples, length, rows, columns, dtype=torch.float32, seed=0) -> Factors:
    left = cases.normal(samples, length, rows, dtype=dtype, seed=seed)
    right = cases.normal(samples, length, columns, dtype=dtype, seed=seed + 1)
    return Factors(left.to(DEVICE), right.to(DEVICE), rows)


def one_hot(samples, length, rows, columns, dtype=torch.float32, seed=0) -> Factors:
    left = torch.randint(rows, (samples, length), generator=cases.generator(seed))
    right = cases.normal(samples, length, columns, dtype=dtype, seed=seed + 1)
    return Factors(left.to(DEVICE), right.to(DEVICE), rows)


def check(found, uses, tolerance, centered=False):
    exact = reference.gram(uses, centered)
    assert found.dtype == torch.float64 and found.shape == exact.shape
    assert torch.equal(found, found.mT)
    assert (found - exact).abs().max() <= tolerance * exact.abs().max()


@pytest.fixture(params=PATHS)
def path(request):
    return PATHS[request.param]


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(
    ("samples", "length", "rows", "columns"),
    [
        (1, 1, 1, 1),
        (1, 17, 5, 24),
        (2, 3, 24, 5),
        (3, 4, 130, 33),
        (7, 5, 1, 130),
        (33, 1, 24, 127),
        (33, 4, 5, 127),
        (7, 17, 127, 24),
        (2, 150, 3, 4),
    ],
)
def test_odd_shapes(path, samples, length, rows, columns, dtype):
    uses = [dense(samples, length, rows, columns, dtype)]
    check(path(uses, MEGABYTE), uses, TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("kinds", ["dd", "dh", "hd", "hh", "dhd"])
def test_several_uses_of_different_length(path, kinds, dtype):
    make = {"d": dense, "h": one_hot}
    uses = [
        make[kind](7, length, 9, 24, dtype, seed)
        for kind, length, seed in zip(kinds, (4, 17, 3), (0, 5, 9), strict=False)
    ]
    check(path(uses, MEGABYTE), uses, TOLERANCES[dtype])


@pytest.mark.parametrize("length", [1, 5])
def test_an_embedding(path, length):
    uses = [one_hot(33, length, 11, 24)]
    check(path(uses, MEGABYTE), uses, TOLERANCES[torch.float32])


def test_16_bits_are_taken_as_they_are(path):
    uses = [dense(7, 3, 24, 5, torch.bfloat16)]
    check(path(uses, MEGABYTE), uses, TOLERANCES[torch.float32])


def test_any_strides(path):
    use = dense(7, 4, 24, 130)
    views = [
        Factors(use.left.mT.contiguous().mT, use.right[..., ::2], 24),
        Factors(use.left[:, 1:], use.right[:, :3, :65], 24),
        Factors(use.left[:1].expand(7, -1, -1), use.right[..., 65:], 24),  # no batch axis
        Factors(torch.arange(4, device=DEVICE).expand(7, -1), use.right[..., 1:66], 24),
    ]
    for uses in [[view] for view in views] + [views]:
        check(path(uses, MEGABYTE), uses, TOLERANCES[torch.float32])


@pytest.mark.parametrize("kind", [dense, one_hot])
def test_nan_stays_with_its_sample(path, kind):
    uses = [kind(20, 3, 9, 24), dense(20, 2, 9, 24, seed=7)]
    clean = reference.gram(uses, False)
    uses[0].right[4, 1, 2] = torch.nan
    found = path(uses, MEGABYTE)
    touched = torch.zeros(20, dtype=torch.bool, device=DEVICE)
    touched[4] = True
    assert torch.equal(found.isnan(), touched[:, None] | touched)
    assert ((found - clean).nan_to_num().abs() <= 1e-5 * clean.abs().max()).all()


@pytest.mark.parametrize("max_bytes", [1, 20_000, MEGABYTE])
def test_little_memory_costs_no_digits(path, max_bytes):
    uses = [dense(9, 9, 5, 24), one_hot(9, 17, 5, 24)]
    check(path(uses, max_bytes), uses, TOLERANCES[torch.float32])


@pytest.mark.parametrize("max_bytes", [1000, MEGABYTE])
def test_centred_where_the_mean_dominates(max_bytes):
    use = dense(20, 3, 24, 5)
    uses = [Factors(use.left * 1e-3 + 1.0, use.right * 1e-3 + 1.0, 24)]
    # Rounding the gradients themselves, about 3, to float32 costs this much.
    check(triton.materialised(uses, max_bytes, True), uses, 1e-3, centered=True)
    uses = [Factors(use.left.double() + 1.0, use.right.double() + 1.0, 24)]
    check(triton.materialised(uses, max_bytes, True), uses, 1e-12, centered=True)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(("samples", "width"), [(1, 1), (2, 1100), (33, 127), (70, 40)])
def test_rows(samples, width, dtype):
    x = cases.normal(samples, width, dtype=dtype).to(DEVICE)
    check(triton.gram_of_rows(x), [whole(x)], TOLERANCES[dtype])


def test_rows_of_any_strides_and_as_a_parameter_of_one_row():
    x = cases.normal(130, 33).to(DEVICE).mT
    check(triton.gram_of_rows(x), [whole(x)], TOLERANCES[torch.float32])
    assert torch.equal(triton.ghost([whole(x)], MEGABYTE), triton.gram_of_rows(x))


def test_rows_longer_than_all_shares_of_a_launch(monkeypatch):
    from geomfast.kernels.gradient_gram import rank_kernel

    monkeypatch.setattr(rank_kernel, "_LONGEST_SUM", 128)
    x = cases.normal(70, 1100).to(DEVICE)
    check(triton.gram_of_rows(x), [whole(x)], TOLERANCES[torch.float32])


def test_large_tiles():
    uses = [dense(190, 2, 5, 3)]
    check(triton.ghost(uses, MEGABYTE), uses, TOLERANCES[torch.float32])
    x = cases.normal(257, 40).to(DEVICE)
    check(triton.gram_of_rows(x), [whole(x)], TOLERANCES[torch.float32])


def test_plans_waste_little_on_padding():
    from geomfast.kernels.gradient_gram.ghost_kernel import plan

    for samples, length, block, positions in [
        (200, 4, 64, 4),  # large tiles would not keep a GPU busy
        (200, 48, 128, 16),  # three blocks of positions instead of 16 positions of padding
        (1000, 128, 128, 128),
        (1000, 1, 64, 1),
        (190, 2, 64, 2),
    ]:
        use = Factors(torch.empty(samples, length, 1), torch.empty(samples, length, 1), 1)
        assert plan(use, use, 132)[:2] == (block, positions)
    use = Factors(torch.empty(190, 2, 1), torch.empty(190, 2, 1), 1)
    assert plan(use, use, 4)[:2] == (128, 2)  # the case above, in the interpreter

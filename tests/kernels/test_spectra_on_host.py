"""The algorithm of the CUDA kernels, compiled for the CPU from the same headers."""

import pytest
import torch

from geomfast.kernels.backends import missing_reason, native_module
from geomfast.kernels.spectra.eager import gram_and_scale
from geomfast.kernels.spectra.entropy import exp_entropy
from tests import cases

pytestmark = pytest.mark.skipif(bool(missing_reason("_cpu")), reason="no native module")

FORWARD, BACKWARD, SHUFFLED = range(3)
STORAGES = {"shared memory": True, "global memory": False}


def on_host(
    gram: torch.Tensor,
    *,
    packed: bool,
    threads: int = 128,
    groups: int = 2,
    order: int = FORWARD,
    eps: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, n, n) Gram matrices -> singular values (B, n), RankMe (B,)."""
    batch, n, _ = gram.shape
    gram = gram.contiguous()
    values, ranks = torch.empty(batch, n).double(), torch.empty(batch).double()
    native_module("_cpu").spectra_on_host(
        gram.data_ptr(),
        batch,
        n,
        threads,
        groups,
        order,
        packed,
        eps,
        values.data_ptr(),
        ranks.data_ptr(),
    )
    return values, ranks


def spectrum(x: torch.Tensor, *, packed: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Singular values (n,) and RankMe () of one matrix (N, d)."""
    gram, scale = gram_and_scale(x[None])
    values, ranks = on_host(gram, packed=packed)
    return (values if scale is None else values * scale[:, None])[0], ranks[0]


@pytest.mark.parametrize("name", cases.matrices())
@pytest.mark.parametrize("packed", STORAGES.values(), ids=STORAGES)
def test_against_float64_svd(packed, name):
    expected = cases.reference_values(name)
    values, rank = spectrum(cases.matrices()[name], packed=packed)
    assert (values >= 0).all() and (values.diff() <= 0).all()
    torch.testing.assert_close(values, expected, rtol=1e-13, atol=5e-8 * expected[0].item())
    well_conditioned = expected[-1] >= 1e-5 * expected[0]
    error = (rank - exp_entropy(expected, 0.0)).abs() / rank.clamp_min(1.0)
    assert error <= (1e-7 if well_conditioned else 2e-5)


@pytest.mark.parametrize("name", cases.families(2, 2))
@pytest.mark.parametrize(("n", "d"), cases.SHAPES)
def test_rankme_on_every_shape_and_family(n, d, name):
    packed = min(n, d) <= 237  # what fits into a GPU's shared memory
    _, rank = spectrum(cases.families(n, d)[name], packed=packed)
    assert rank.item() == pytest.approx(cases.exact_rankme(n, d, name), rel=2e-5)


# One warp and its neighbours, columns in fours with every rest, what just fits a GPU's memory.
SIDES = [1, 2, 3, 4, 5, 6, 7, 8, 9, 31, 32, 33, 64, 101, 237, 238, 240]


@pytest.mark.parametrize("n", SIDES)
@pytest.mark.parametrize("packed", STORAGES.values(), ids=STORAGES)
def test_no_thread_needs_what_another_writes_in_the_same_phase(packed, n):
    # Threads of a phase in another order see another mixture of old and new values, unless a
    # barrier parts every write from the reads of others. Work shared otherwise is summed otherwise.
    x = cases.normal(4 if n < 200 else 1, n, n + 3, dtype=torch.float64)
    gram = x @ x.mT
    for threads, groups in ((32, 1), (64, 1), (128, 4), (256, 3), (896, 4), (1024, 16)):
        values, ranks = on_host(gram, packed=packed, threads=threads, groups=groups)
        for order in (BACKWARD, SHUFFLED):
            again = on_host(gram, packed=packed, threads=threads, groups=groups, order=order)
            assert torch.equal(again[0], values) and torch.equal(again[1], ranks)
        expected = torch.linalg.svdvals(x)
        torch.testing.assert_close(values, expected, rtol=1e-9, atol=1e-8)
        torch.testing.assert_close(ranks, exp_entropy(expected, 0.0), rtol=1e-8, atol=0.0)


@pytest.mark.parametrize("packed", STORAGES.values(), ids=STORAGES)
def test_shared_memory_needs_the_lower_triangle_only(packed):
    x = cases.normal(2, 40, 50, dtype=torch.float64)
    gram = x @ x.mT
    spoilt = gram + torch.full_like(gram, torch.nan).triu(1)
    values, _ = on_host(spoilt, packed=packed)
    if packed:
        assert torch.equal(values, on_host(gram, packed=True)[0])
    else:
        assert values.isnan().all()


@pytest.mark.parametrize("n", [1, 2, 31, 32, 33, 237, 238, 240])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("packed", STORAGES.values(), ids=STORAGES)
def test_nan_or_infinity_anywhere_in_the_matrix_gives_nan(packed, bad, n):
    x = cases.normal(1, n, n + 3, dtype=torch.float64)
    whole = x @ x.mT
    for i, j in {(0, 0), (n - 1, n - 1), (n - 1, 0), (n // 2, n // 3), (n - 1, max(n - 2, 0))}:
        gram = whole.clone()
        gram[:, i, j] = gram[:, j, i] = bad
        values, ranks = on_host(gram, packed=packed)
        assert values.isnan().all() and ranks.isnan().all()


@pytest.mark.parametrize("n", SIDES)
@pytest.mark.parametrize("packed", STORAGES.values(), ids=STORAGES)
def test_what_needs_no_reflection(packed, n):
    # Nothing to eliminate in some rows or in all of them; repeated eigenvalues.
    blocks = torch.ones(n, n, dtype=torch.float64).tril(1).triu(-1) + 2.0 * torch.eye(n).double()
    blocks[n // 2 :, : n // 2] = blocks[: n // 2, n // 2 :] = 0.0
    for gram in (torch.eye(n).double(), torch.arange(1.0, n + 1).double().diag(), blocks):
        values, _ = on_host(gram[None], packed=packed)
        expected = torch.linalg.eigvalsh(gram).flip(0).sqrt()
        torch.testing.assert_close(values[0], expected, rtol=1e-13, atol=0.0)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("packed", STORAGES.values(), ids=STORAGES)
def test_a_matrix_with_nan_or_infinity_gives_nan_and_no_other_does(packed, bad):
    x = cases.normal(3, 20, 30, dtype=torch.float64)
    x[1, 7, 11] = bad
    values, ranks = on_host(x @ x.mT, packed=packed)
    assert values[1].isnan().all() and ranks[1].isnan()
    for i in (0, 2):
        expected = torch.linalg.svdvals(x[i])
        torch.testing.assert_close(values[i], expected, rtol=1e-10, atol=0.0)
        torch.testing.assert_close(ranks[i], exp_entropy(expected, 0.0), rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("scale", [1e-40, 1e-18, 1.0, 1e18, 1e38])
def test_any_scale_of_float32_without_scaling_the_input(scale):
    x = cases.normal(2, 30, 45).double() * scale
    expected = torch.linalg.svdvals(x / scale)
    for packed in STORAGES.values():
        values, ranks = on_host(x @ x.mT, packed=packed)
        torch.testing.assert_close(values / scale, expected, rtol=1e-9, atol=0.0)
        torch.testing.assert_close(ranks, exp_entropy(expected, 0.0), rtol=1e-9, atol=0.0)


def test_eps_is_added_to_every_share():
    x = torch.zeros(1, 512, 512).double()
    x[0, 0, 0] = x[0, 1, 1] = 1.0
    _, ranks = on_host(x, packed=False, eps=1e-5)
    assert ranks.item() == pytest.approx(2.121, abs=5e-4)


def test_zero():
    values, ranks = on_host(torch.zeros(2, 9, 9).double(), packed=True, eps=1e-5)
    assert not values.any() and not ranks.any()

"""What float64 Gram matrices allow: the backend "torch" keeps to it, less precision does not."""

import pytest
import torch

from geomfast.kernels.spectra import eager
from geomfast.kernels.spectra.entropy import exp_entropy
from tests import cases


@pytest.mark.parametrize("name", cases.matrices())
def test_singular_values_are_within_the_bound(name):
    x = cases.matrices()[name]
    values = eager.singular_values(x)
    cases.assert_values_of_gram(values, cases.reference_values(name), *x.shape)


@pytest.mark.parametrize("name", ["rank 2, float32", "near rank 2", "tall", "orthogonal rows"])
def test_a_float32_gram_matrix_is_not(name):
    x = cases.matrices()[name]
    gram = x.float() @ x.float().mT if x.shape[0] <= x.shape[1] else x.float().mT @ x.float()
    values = torch.linalg.eigvalsh(gram).clamp_min(0.0).sqrt().flip(-1).double()
    with pytest.raises(AssertionError):
        cases.assert_values_of_gram(values, cases.reference_values(name), *x.shape)


@pytest.mark.parametrize("name", cases.families(2, 2))
def test_rankme_is_within_the_bound_with_and_without_the_cloud_cleared(name):
    n, d = 200, 128
    x = cases.families(n, d)[name]
    bound = cases.rankme_error_of_gram(torch.linalg.svdvals(x.double()), n, d)
    exact = cases.exact_rankme(n, d, name)
    gram, scale = eager.gram_and_scale(x)
    uncleared = torch.linalg.eigvalsh(gram).clamp_min(0.0).sqrt()
    for values in (eager.singular_values(x), uncleared if scale is None else uncleared * scale):
        assert exp_entropy(values, 0.0).item() == pytest.approx(exact, rel=bound)
    # No looser than a thousandth, and almost exact where no value is near zero.
    assert bound <= (1e-11 if name in ("random", "bfloat16") else 1e-3)


def test_rankme_of_a_float32_gram_matrix_is_not():
    x = cases.families(200, 128)["rank 2 + 1e-3"]
    values = torch.linalg.eigvalsh(x.mT @ x).clamp_min(0.0).sqrt().double()
    bound = cases.rankme_error_of_gram(torch.linalg.svdvals(x.double()), 200, 128)
    exact = cases.exact_rankme(200, 128, "rank 2 + 1e-3")
    assert abs(exp_entropy(values, 0.0).item() - exact) > bound * exact


def test_zero_has_no_error():
    assert cases.rankme_error_of_gram(torch.zeros(3, dtype=torch.float64), 3, 5) == 0.0

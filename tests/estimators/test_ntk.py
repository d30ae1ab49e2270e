"""Neural tangent kernels against Jacobians of torch.func in float64."""

import re

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import geomfast as gf
from geomfast.testbed.models.gpt import GPT
from geomfast.testbed.models.scales import Scale
from tests import cases


def exact_ntk(model, output_fn, batch):
    """(N, N, C, C) of Jacobians by torch.func."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    class Called(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, batch):
            return output_fn(self.model, batch)

    named = {f"model.{name}": p for name, p in parameters.items()}
    with sdpa_kernel(SDPBackend.MATH):  # which alone is batched
        jacobian = torch.func.jacrev(lambda p: torch.func.functional_call(Called(), p, (batch,)))(
            named
        )
    flat = torch.cat([part.flatten(2) for part in jacobian.values()], 2)
    return torch.einsum("iap,jbp->ijab", flat, flat)


def mlp():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    return model, lambda m, x: m(x), cases.normal(5, 4)


def convolution():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.GELU(), nn.Flatten(), nn.Linear(27, 2))
    return model, lambda m, x: m(x), cases.normal(4, 1, 5, 5)


def gpt():
    torch.manual_seed(0)
    model = GPT(Scale("tiny", 1, 8, 2, 1e-3, 7, 5))
    tokens = torch.randint(0, 7, (3, 5), generator=cases.generator())
    return model, lambda m, t: m(t)[:, -1], tokens


@pytest.mark.parametrize("made", [mlp, convolution, gpt])
def test_jacobians(made):
    model, output_fn, batch = made()
    single = gf.ntk(model, output_fn, batch)
    model = model.double()
    batch = batch.double() if batch.is_floating_point() else batch
    exact = exact_ntk(model, output_fn, batch)
    found = gf.ntk(model, output_fn, batch)
    assert found.shape == exact.shape and found.dtype == single.dtype == torch.float64
    torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(single, exact, rtol=1e-3, atol=1e-5 * exact.abs().max().item())
    trace = gf.ntk(model, output_fn, batch, aggregate="trace")
    torch.testing.assert_close(trace, torch.einsum("ijaa->ij", exact), rtol=1e-9, atol=1e-11)
    total = gf.ntk(model, output_fn, batch, aggregate="sum")
    torch.testing.assert_close(total, exact.sum((2, 3)), rtol=1e-9, atol=1e-11)


def test_some_parameters_and_batches():
    model, output_fn, x = mlp()
    model, x = model.double(), x.double()
    hidden = torch.tanh(model[0](x)).detach()
    found = gf.ntk(model, output_fn, iter([x[:2], x[2:]]), params=iter(["2.*"]))
    # Of the last layer's weights and biases: (h_i . h_j + 1) for one output, 0 between two.
    expected = (hidden @ hidden.mT + 1)[:, :, None, None] * torch.eye(3)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    bias = gf.ntk(model, output_fn, x, params="2.bias", aggregate="trace")
    torch.testing.assert_close(bias, torch.full((5, 5), 3.0, dtype=torch.float64))


def test_one_output_is_the_gram_matrix():
    model, _, x = mlp()
    output_fn = lambda m, x: m(x)[:, :1]  # noqa: E731
    found = gf.ntk(model, output_fn, x)
    gram = gf.gradient_gram(model, lambda m, x: m(x)[:, 0], x)
    torch.testing.assert_close(found[:, :, 0, 0], gram, rtol=1e-5, atol=1e-6)


def test_a_batch_of_several_tensors_and_nothing_changes():
    model, _, x = mlp()
    shift = cases.normal(5, 3, seed=1)
    before = [p.clone() for p in model.parameters()]
    state = torch.random.get_rng_state()
    found = gf.ntk(model, lambda m, b: m(b["x"]) + b["shift"], {"x": x, "shift": shift})
    torch.testing.assert_close(found, gf.ntk(model, lambda m, x: m(x), x), rtol=1e-5, atol=1e-6)
    assert torch.equal(state, torch.random.get_rng_state()) and model.training
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(p.grad is None for p in model.parameters())


def test_bad_input():
    model, output_fn, x = mlp()
    for call, error, message in (
        (lambda: gf.ntk(model, lambda m, x: m(x)[:, 0], x), ValueError, "shape (2, C), not (2,)"),
        (
            lambda: gf.ntk(model, lambda m, x: m(x).mean(0, True), x),
            ValueError,
            "(2, C), not (1, 3)",
        ),
        (
            lambda: gf.ntk(model, lambda m, x: m(x).argmax(1), x),
            TypeError,
            "output_fn must return a",
        ),
        (lambda: gf.ntk(model, lambda m, x: m(x)[:, :0], x), ValueError, "C >= 1, not C = 0"),
        (lambda: gf.ntk(model, 3, x), TypeError, "output_fn must be a function"),
        (lambda: gf.ntk(model, output_fn, x, aggregate="mean"), ValueError, "not 'mean'"),
        (lambda: gf.ntk(model, output_fn, x, params=3), TypeError, "must be names of parameters"),
        (lambda: gf.ntk(model, output_fn, x[:1]), ValueError, "N >= 2 is needed"),
    ):
        with pytest.raises(error, match=re.escape(message)):
            call()
    with pytest.raises(ValueError, match=r"sample \d+ depends on the other samples"):
        gf.ntk(model, lambda m, x: m(x - x.mean(0)), x)

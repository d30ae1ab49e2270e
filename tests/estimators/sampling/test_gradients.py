"""Gradients of many chains at once against autograd, one chain and one sample at a time."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from geomfast.estimators.sampling.gradients import ChainGradients
from tests import cases
from tests.estimators.curvature.cases import Tied
from tests.estimators.models import N, build, loss, loss64

# Neither LSTMs nor old autograd.Functions can be called for many chains at once.
ALONE = {"lstm", "unseen"}


def models():
    for name in build():
        yield pytest.param(name, 1, True, id=f"{name}, one chain")
        if name in ALONE:
            continue
        for shared in (True, False):
            data = "one batch" if shared else "each its own"
            yield pytest.param(name, 3, shared, id=f"{name}, {data}")


def made(name):
    torch.manual_seed(3)
    model, batch = build()[name]
    return model().eval(), batch()


def at_other_weights(model, chains):
    """Parameters by name, and (C, P) near them."""
    parameters = dict(model.named_parameters())
    center = torch.cat([p.detach().flatten() for p in parameters.values()])
    return parameters, center + 0.1 * cases.normal(chains, len(center), seed=8).to(center.dtype)


def one_by_one(model, loss_fn, parameters, weights, batches):
    """(C, m) losses, and (C, P) gradients of their means, in float64."""
    model = copy.deepcopy(model).double()
    losses, gradients = [], []
    for row, batch in zip(weights.double(), batches, strict=True):
        parts = row.split([p.numel() for p in parameters.values()])
        values = {
            name: part.view(p.shape).requires_grad_()
            for (name, p), part in zip(parameters.items(), parts, strict=True)
        }
        module = nn.ModuleDict({"model": model})
        found = functional_call(
            _Call(module, loss_fn), {f"module.model.{k}": v for k, v in values.items()}, (batch,)
        )
        taken = torch.autograd.grad(found.mean(), list(values.values()))
        losses.append(found.detach())
        gradients.append(torch.cat([g.flatten() for g in taken]))
    return torch.stack(losses), torch.stack(gradients)


class _Call(nn.Module):
    def __init__(self, module, loss_fn):
        super().__init__()
        self.module, self.loss_fn = module, loss_fn

    def forward(self, batch):
        return self.loss_fn(self.module["model"], batch)


def relative(found, exact):
    return ((found.double() - exact).norm() / exact.norm()).item()


def double(batch):
    return batch.double() if batch.is_floating_point() else batch


@pytest.mark.parametrize(("name", "chains", "shared"), list(models()))
def test_against_autograd(name, chains, shared):
    model, batch = made(name)
    parameters, weights = at_other_weights(model, chains)
    given = batch if shared else torch.stack([batch.roll(i, 0) for i in range(chains)])
    batches = [double(batch.roll(0 if shared else i, 0)) for i in range(chains)]
    exact_losses, exact = one_by_one(model, loss64, parameters, weights, batches)
    found = ChainGradients(model, loss, parameters, weights, torch.full_like(weights, torch.nan))
    losses = found.add(given, N, shared, 1.0, first=True)
    assert losses.shape == (chains, N) and not losses.requires_grad
    assert relative(losses, exact_losses) <= 1e-6
    assert relative(found.gradients, exact) <= 1e-5


def test_weights_are_read_and_gradients_written_at_every_call():
    model, batch = made("deep")
    parameters, weights = at_other_weights(model, 2)
    found = ChainGradients(model, loss, parameters, weights, torch.empty_like(weights))
    for _ in range(2):
        weights += 0.1
        found.add(batch, N, True, 1.0, first=True)
        _, exact = one_by_one(model, loss64, parameters, weights, [batch.double()] * 2)
        assert relative(found.gradients, exact) <= 1e-5


def test_parts_of_the_data_add_up():
    model, batch = made("gpt")
    parameters, weights = at_other_weights(model, 2)
    found = ChainGradients(model, loss, parameters, weights, torch.full_like(weights, torch.nan))
    for i, part in enumerate((batch[:1], batch[1:4], batch[4:])):
        found.add(part, len(part), True, len(part) / N, first=i == 0)
    _, exact = one_by_one(model, loss64, parameters, weights, [batch] * 2)
    assert relative(found.gradients, exact) <= 1e-5


@pytest.mark.parametrize("chains", [1, 3])
def test_a_tied_weight_is_one_weight(chains):
    torch.manual_seed(0)
    model = nn.Sequential(Tied(), Tied())
    model[1].weight = model[0].weight
    x = cases.normal(N, 4)
    parameters, weights = at_other_weights(model, chains)
    assert weights.shape == (chains, 20)
    found = ChainGradients(model, loss, parameters, weights, torch.empty_like(weights))
    found.add(x, N, True, 1.0, first=True)
    _, exact = one_by_one(model, loss64, parameters, weights, [x.double()] * chains)
    assert relative(found.gradients, exact) <= 1e-5


@pytest.mark.parametrize("chains", [1, 3])
def test_what_is_not_chosen_stays_the_models_own(chains):
    model, batch = made("deep")
    parameters = {"2.weight": model[2].weight}
    weights = torch.zeros(chains, 18)
    found = ChainGradients(model, loss, parameters, weights, torch.empty_like(weights))
    losses = found.add(batch, N, True, 1.0, first=True)
    expected = loss(lambda x: model[2].bias.expand(N, 3, 2), batch)
    torch.testing.assert_close(losses, expected.detach().expand(chains, N))
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("chains", [1, 3])
@pytest.mark.parametrize(
    ("loss_fn", "kind", "message"),
    [
        (lambda m, x: loss(m, x).mean(), ValueError, "must not be reduced over samples"),
        (lambda m, x: loss(m, x)[:-1], ValueError, r"must return shape \(6,\), not \(5,\)"),
    ],
    ids=["reduced", "short"],
)
def test_bad_losses(chains, loss_fn, kind, message):
    model, batch = made("deep")
    parameters, weights = at_other_weights(model, chains)
    found = ChainGradients(model, loss_fn, parameters, weights, torch.empty_like(weights))
    with pytest.raises(kind, match=message):
        found.add(batch, N, True, 1.0, first=True)


@pytest.mark.parametrize("chains", [1, 3])
@pytest.mark.parametrize(
    ("loss_fn", "unused"),
    [(lambda m, x: m[0](x).sum((1, 2)), "2"), (lambda m, x: x.sum((1, 2)), "")],
)
def test_gradients_of_what_is_not_used_are_zero(chains, loss_fn, unused):
    model, batch = made("deep")
    parameters, weights = at_other_weights(model, chains)
    gradients = torch.full_like(weights, torch.nan)
    found = ChainGradients(model, loss_fn, parameters, weights, gradients)
    found.add(batch, N, True, 1.0, first=True)
    found.add(batch, N, True, 1.0, first=False)
    sizes = [p.numel() for p in parameters.values()]
    for name, gradient in zip(parameters, gradients.split(sizes, 1), strict=True):
        assert gradient.isfinite().all()
        assert (gradient == 0).all() == name.startswith(unused), name


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_attention_of_many_chains(causal, scale):
    """Written out for vmap; torch's own for one chain."""

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k = (nn.Linear(4, 4, dtype=torch.float64) for _ in range(2))

        def forward(self, x):
            q, k = self.q(x)[:, :3], self.k(x)
            return F.scaled_dot_product_attention(q, k, x, is_causal=causal, scale=scale)

    torch.manual_seed(0)
    model = Attention()
    batch = torch.randn(6, 5, 4, dtype=torch.float64)
    parameters, weights = at_other_weights(model, 3)
    loss_fn = lambda model, x: model(x).square().sum((1, 2))  # noqa: E731

    def gradients(rows):
        found = torch.empty_like(rows)
        chains = ChainGradients(model, loss_fn, parameters, rows, found)
        return chains.add(batch, 6, True, 1.0, first=True), found

    together = gradients(weights)
    alone = [torch.cat(parts) for parts in zip(*(gradients(w[None]) for w in weights), strict=True)]
    for found, expected in zip(together, alone, strict=True):
        torch.testing.assert_close(found, expected)

"""GPTs without a table of positions are measured as any other model: against plain autograd."""

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

import geomfast as gf
from geomfast.estimators.curvature.fused import hessian_products
from geomfast.estimators.curvature.gpt import GptProducts, NotPlain
from geomfast.estimators.curvature.products import HessianProducts
from geomfast.estimators.gradients import gradient_gram
from geomfast.estimators.sampling.gradients import ChainGradients
from geomfast.losses import next_token
from geomfast.testbed.models.gpt import GPT
from geomfast.testbed.models.scales import POSITIONAL_ENCODINGS, Scale
from tests import cases

LEARNED = Scale("tiny", 2, 6, 3, 1e-3, vocabulary=7, context=6)
RELATIVE = POSITIONAL_ENCODINGS[1:]


def made(positions: str) -> tuple[GPT, Tensor]:
    """A float64 model, and as many samples as they have tokens: the trap."""
    model = GPT(dataclasses.replace(LEARNED, positions=positions), 1).double()
    generator = cases.generator(2)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.2 * torch.randn(p.shape, generator=generator, dtype=torch.float64)
    return model, torch.randint(7, (6, 6), generator=generator)


def plainly(model: GPT, tokens: Tensor) -> Tensor:
    """(N,) losses, each sample by itself, in operators that have a second derivative."""
    with sdpa_kernel(SDPBackend.MATH):
        logits = torch.cat([model(row[None]) for row in tokens])[:, :-1].transpose(1, 2)
    return F.cross_entropy(logits, tokens[:, 1:], reduction="none").mean(1)


def dense_hessian(model: GPT, tokens: Tensor) -> Tensor:
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(plainly(model, tokens).mean(), parameters, create_graph=True)
    flat = torch.cat([g.flatten() for g in gradients])

    def row(unit: Tensor) -> Tensor:
        found = torch.autograd.grad(flat, parameters, unit, retain_graph=True)
        return torch.cat([x.flatten() for x in found])

    return vmap(row)(torch.eye(len(flat), dtype=flat.dtype))


def flat_gradient(model: GPT, losses: Tensor) -> Tensor:
    found = torch.autograd.grad(losses.mean(), list(model.parameters()))
    return torch.cat([x.flatten() for x in found])


@pytest.mark.parametrize("positions", RELATIVE)
def test_hessians(positions: str) -> None:
    model, tokens = made(positions)
    with pytest.raises(NotPlain, match=f"positions are {positions}"):
        GptProducts(model, next_token, [tokens], dict(model.named_parameters()))
    products = hessian_products(model, next_token, tokens)
    assert isinstance(products, HessianProducts)
    exact = dense_hessian(model, tokens)
    v = cases.normal(len(exact), dtype=torch.float64)
    torch.testing.assert_close(products(v), exact @ v, rtol=1e-10, atol=1e-12)
    found = gf.hessian_top_eigenvalues(model, next_token, tokens, k=3, tol=1e-8, max_iterations=400)
    values = torch.linalg.eigvalsh(exact).flip(0)[:3]
    torch.testing.assert_close(found.values, values, rtol=1e-8, atol=1e-10)
    trace = gf.hessian_trace(model, next_token, tokens, probes=200)
    assert abs(trace.mean - exact.trace().item()) <= 5 * trace.stderr


@pytest.mark.parametrize("positions", POSITIONAL_ENCODINGS)
def test_grams_of_gradients(positions: str) -> None:
    model, tokens = made(positions)
    rows = torch.stack([flat_gradient(model, plainly(model, row[None])) for row in tokens])
    exact = rows @ rows.T
    found = gradient_gram(model, next_token, tokens)
    torch.testing.assert_close(found.double(), exact, rtol=1e-9, atol=1e-10)
    single = gradient_gram(copy.deepcopy(model).float(), next_token, tokens).double()
    assert (single - exact).abs().max() <= 1e-5 * exact.abs().max()


@pytest.mark.parametrize("chains", [1, 3])
@pytest.mark.parametrize("positions", POSITIONAL_ENCODINGS)
def test_gradients_of_chains(positions: str, chains: int) -> None:
    model, tokens = made(positions)
    parameters = dict(model.named_parameters())
    center = torch.cat([p.detach().flatten() for p in parameters.values()])
    weights = center + 0.1 * cases.normal(chains, len(center), dtype=torch.float64)
    gradients = torch.full_like(weights, torch.nan)
    one = ChainGradients(model, next_token, parameters, weights, gradients)
    losses = one.add(tokens, len(tokens), True, 1.0, True)
    for chain, row in enumerate(weights):
        other = copy.deepcopy(model)
        torch.nn.utils.vector_to_parameters(row, other.parameters())
        expected = plainly(other, tokens)
        torch.testing.assert_close(losses[chain], expected.detach(), rtol=1e-10, atol=1e-12)
        exact = flat_gradient(other, expected)
        torch.testing.assert_close(gradients[chain], exact, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("positions", RELATIVE)
def test_chains_together_are_chains_one_by_one(positions: str) -> None:
    model, tokens = made(positions)
    call = {"nbeta": 10.0, "lr": 1e-5, "chains": 2, "draws": 5, "burn_in": 0}
    together, alone = (
        gf.llc(model, next_token, tokens, stacked=stacked, **call) for stacked in (True, False)
    )
    torch.testing.assert_close(together.loss_trace, alone.loss_trace, rtol=1e-8, atol=1e-10)

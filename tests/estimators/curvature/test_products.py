"""Products with Hessian and Gauss-Newton matrices against matrices formed whole."""

import copy

import pytest
import torch
from torch import nn

from geomfast.estimators.curvature.gauss_newton import GaussNewtonProducts
from geomfast.estimators.curvature.lanczos import random_vector
from geomfast.estimators.curvature.products import HessianProducts
from tests.estimators.curvature.cases import build, cast, dense_hessian, made

MODELS = tuple(build())


def relative(found, exact):
    return ((found.double() - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("name", MODELS)
def test_against_the_dense_float64_hessian(name):
    model, batch, loss = made(name)
    products = HessianProducts(model, loss, batch)
    precise = copy.deepcopy(model).double()
    exact = dense_hessian(precise, loss, cast(batch, torch.float64))
    u, v = (random_vector(products.like, products.dimension, seed) for seed in (0, 1))
    hu, hv = products(u), products(v)
    assert hv.dtype == torch.float32
    assert relative(hv, exact @ v.double()) <= 1e-5
    scale = (u.norm() * hv.norm()).item()
    assert abs((u.double() @ hv.double() - v.double() @ hu.double()).item()) <= 1e-5 * scale
    double = HessianProducts(precise, loss, cast(batch, torch.float64))
    assert relative(double(v.double()), exact @ v.double()) <= 1e-10


@pytest.mark.parametrize("name", ["mlp", "gpt"])
@pytest.mark.parametrize("kept_bytes", [0, 10**9])
def test_unequal_batches_give_the_same_product(name, kept_bytes):
    model, batch, loss = made(name, torch.float64)
    parts = [slice(0, 4), slice(4, 5), slice(5, 7)]
    cut = (lambda x, s: tuple(y[s] for y in x)) if isinstance(batch, tuple) else lambda x, s: x[s]
    one = HessianProducts(model, loss, batch)
    several = HessianProducts(model, loss, (cut(batch, s) for s in parts), kept_bytes=kept_bytes)
    assert (len(several._kept), len(several._again)) == ((1, 2) if kept_bytes == 0 else (3, 0))
    v = random_vector(one.like, one.dimension, 0)
    assert relative(several(v), one(v)) <= 1e-12
    single = HessianProducts(
        copy.deepcopy(model).float(), loss, [cast(cut(batch, s), torch.float32) for s in parts]
    )
    assert relative(single(v.float()), one(v)) <= 1e-6


@pytest.mark.parametrize("kind", [HessianProducts, GaussNewtonProducts])
@pytest.mark.parametrize("kept_bytes", [0, 10**9])
def test_gradient_of_the_mean_loss(kind, kept_bytes):
    model, batch, loss = made("gpt", torch.float64)
    parameters = list(model.parameters())
    exact = torch.autograd.grad(loss(model, batch).mean(), parameters)
    flat = torch.cat([g.reshape(-1) for g in exact])
    products = kind(model, loss, [batch[:4], batch[4:5], batch[5:]], kept_bytes=kept_bytes)
    assert relative(products.gradient(), flat) <= 1e-12
    products(random_vector(products.like, products.dimension, 0))  # the graphs are still there


def test_some_parameters_and_blocks():
    model, batch, loss = made("mlp", torch.float64)
    exact = dense_hessian(model, loss, batch)
    last = HessianProducts(model, loss, batch, ["2.*"])
    v = random_vector(last.like, last.dimension, 0)
    assert relative(last(v), exact[30:, 30:] @ v) <= 1e-12
    whole = HessianProducts(model, loss, batch)
    assert relative(whole.block(["2.weight", "2.bias"], v), exact[30:, 30:] @ v) <= 1e-12
    middle = random_vector(last.like, 6, 0)
    assert relative(whole.block(["0.bias"], middle), exact[24:30, 24:30] @ middle) <= 1e-12


def dense_gauss_newton(model, loss, batch):
    parameters = list(model.parameters())
    x, _ = batch if isinstance(batch, tuple) else (batch, batch)
    z = model(x).detach().requires_grad_()
    total = loss(lambda _: z, batch).mean()
    (g,) = torch.autograd.grad(total, z, create_graph=True)
    by_output = torch.stack(
        [torch.autograd.grad(e, z, retain_graph=True)[0].flatten() for e in g.flatten()]
    )
    rows = [
        torch.cat([r.flatten() for r in torch.autograd.grad(e, parameters, retain_graph=True)])
        for e in model(x).flatten()
    ]
    jacobian = torch.stack(rows)
    return jacobian.mT @ by_output @ jacobian


@pytest.mark.parametrize("name", ["mlp", "relu", "cnn", "gpt"])
def test_gauss_newton_against_its_definition(name):
    model, batch, loss = made(name, torch.float64)
    exact = dense_gauss_newton(model, loss, batch)
    products = GaussNewtonProducts(model, loss, batch)
    v = random_vector(products.like, products.dimension, 0)
    assert relative(products(v), exact @ v) <= 1e-10


def test_gauss_newton_is_the_hessian_of_parameters_that_enter_linearly():
    model, batch, loss = made("mlp", torch.float64)
    products = GaussNewtonProducts(model, loss, batch, ["2.*"])
    v = random_vector(products.like, products.dimension, 0)
    torch.testing.assert_close(products(v), HessianProducts(model, loss, batch, ["2.*"])(v))


def test_gauss_newton_needs_the_output():
    model, batch, loss = made("mlp")
    bias = dict(model.named_parameters())["0.bias"]
    with pytest.raises(ValueError, match="calls the model once, not 2 times"):
        GaussNewtonProducts(model, lambda m, b: loss(m, b) + loss(m, b), batch)
    with pytest.raises(ValueError, match=r"takes parameter 0\.bias beside the output"):
        GaussNewtonProducts(model, lambda m, b: loss(m, b) + bias.square().sum(), batch)


def test_a_loss_without_curvature():
    model = nn.Linear(3, 1)
    products = HessianProducts(model, lambda m, x: m(x)[:, 0], torch.randn(4, 3))
    assert not products(torch.ones(4)).any()


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *gradients):  # pyright: ignore[reportIncompatibleMethodOverride]
        (b,) = gradients
        return b * ctx.saved_tensors[0].cos()


def test_what_cannot_be_differentiated_twice_is_named():
    model = nn.Linear(3, 2)
    for last in (torch.square, torch.abs):  # with and without a hint from autograd
        with pytest.raises(ValueError, match=r"second derivative: custom .* backward: Once"):
            HessianProducts(
                model, lambda m, x, last=last: last(Once.apply(m(x))).sum(1), torch.randn(4, 3)
            )

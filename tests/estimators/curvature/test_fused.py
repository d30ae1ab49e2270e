"""Which products serve, and that both kinds agree."""

import pytest
import torch

import geomfast as gf
from geomfast.estimators.batches import Batches
from geomfast.estimators.curvature.fused import FusedProducts, NotPlain, hessian_products
from geomfast.estimators.curvature.lanczos import random_vector
from geomfast.estimators.curvature.products import HessianProducts
from tests.estimators.curvature.cases import made


def test_both_give_the_same():
    model, batch, loss = made("gpt", torch.float64)
    batches = Batches([batch[:4], batch[4:]])
    fused = hessian_products(model, loss, (b for b in batches))
    general = HessianProducts(model, loss, batches)
    assert isinstance(fused, FusedProducts) and fused.sizes == general.sizes
    v = random_vector(fused.like, fused.dimension, 0)
    torch.testing.assert_close(fused(v), general(v), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(fused.gradient(), general.gradient(), rtol=1e-10, atol=1e-12)
    some = ["blocks.0.*", "norm.*"]
    fused, general = (kind(model, loss, batches, some) for kind in (FusedProducts, HessianProducts))
    v = random_vector(fused.like, fused.dimension, 0)
    torch.testing.assert_close(fused(v), general(v), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(fused.gradient(), general.gradient(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["mlp", "attention", "tied"])
def test_others_are_served_by_autograd(name):
    assert isinstance(hessian_products(*reordered(name)), HessianProducts)


def reordered(name):
    model, batch, loss = made(name)
    return model, loss, batch


def test_what_would_be_too_large_is_served_by_autograd():
    model, batch, loss = made("gpt")
    with pytest.raises(NotPlain, match="more than 1000 bytes would have to be kept"):
        FusedProducts(model, loss, batch, kept_bytes=1000)


def test_what_is_wrong_is_said_as_for_any_model():
    model, batch, loss = made("gpt")
    with pytest.raises(ValueError, match="loss of sample 0 of batch 1 is not finite"):
        gf.hessian_top_eigenvalues(
            model,
            lambda m, b: loss(m, b) / (b[:, 0] != 6),
            iter((batch[:2] % 6, batch[:2] * 0 + 6)),
        )
    model.norm.register_parameter("unused", torch.nn.Parameter(torch.ones(1)))
    with pytest.raises(ValueError, match=r"norm\.unused does not reach the loss"):
        gf.hessian_top_eigenvalues(model, loss, batch)

"""The Hessian as an operator: against matrices formed whole, in SciPy's algorithms."""

import copy
import functools
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.sparse.linalg import aslinearoperator, cg, eigsh
from torch import nn

import geomfast as gf
from geomfast.estimators.curvature import prepared
from geomfast.estimators.curvature.products import HessianProducts
from tests import cases
from tests.estimators.curvature.cases import build, cast, classify, dense_hessian, made, planted


def exact(name):
    model, batch, loss = made(name)
    return dense_hessian(model.double(), loss, cast(batch, torch.float64))


@pytest.mark.parametrize("name", build())
def test_products_are_those_of_the_matrix(name):
    model, batch, loss = made(name, torch.float64)
    matrix, operator = exact(name), gf.hessian_operator(model, loss, batch)
    side = len(matrix)
    assert operator.shape == (side, side) and operator.samples == 7
    vectors = cases.normal(side, 3, dtype=torch.float64)
    torch.testing.assert_close(operator @ vectors, matrix @ vectors, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(operator.matmat(vectors), operator @ vectors)
    for column in vectors.unbind(1):
        torch.testing.assert_close(operator @ column, matrix @ column, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(operator.matvec(column), operator @ column)
    narrow, batch, loss = made(name)
    single = gf.hessian_operator(narrow, loss, batch)
    assert single.dtype == torch.float32 and (single @ vectors[:, 0].float()).dtype == torch.float32
    error = (single @ vectors - matrix @ vectors).norm() / (matrix @ vectors).norm()
    assert error < 1e-4


def test_gauss_newton():
    """J^T H J by torch.func."""
    model, (x, y), loss = made("mlp", torch.float64)
    operator = gf.hessian_operator(model, loss, (x, y), matrix="gauss-newton")
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    jacobian = torch.func.jacrev(lambda p: torch.func.functional_call(model, p, (x,)))(parameters)
    flat = torch.cat([part.flatten(2) for part in jacobian.values()], 2)
    shares = model(x).detach().softmax(1)
    inner = torch.diag_embed(shares) - shares[:, :, None] * shares[:, None]
    matrix = torch.einsum("ncp,ncd,ndq->pq", flat, inner, flat) / len(x)
    assert repr(operator) == "HessianOperator(gauss-newton, 51 x 51, torch.float64 on cpu)"
    torch.testing.assert_close(operator @ torch.eye(51), matrix, rtol=1e-9, atol=1e-12)


def test_batches_count_by_their_samples_and_the_gradient():
    model, (x, y), loss = made("mlp", torch.float64)
    matrix = dense_hessian(model, loss, (x, y))
    parts = [(x[:4], y[:4]), (x[4:5], y[4:5]), (x[5:], y[5:])]
    operator = gf.hessian_operator(model, loss, iter(parts))
    assert operator.samples == 7
    torch.testing.assert_close(operator @ torch.eye(51), matrix, rtol=1e-9, atol=1e-12)
    (expected,) = [
        torch.cat([g.flatten() for g in torch.autograd.grad(mean, list(model.parameters()))])
        for mean in [loss(model, (x, y)).mean()]
    ]
    torch.testing.assert_close(operator.gradient(), expected)


def test_some_parameters_and_their_names():
    model, batch, loss = made("mlp", torch.float64)
    matrix = dense_hessian(model, loss, batch)
    operator = gf.hessian_operator(model, loss, batch, params=["2.*"])
    torch.testing.assert_close(operator @ torch.eye(21), matrix[30:, 30:], rtol=1e-9, atol=1e-12)
    v = cases.normal(21, dtype=torch.float64)
    parts = operator.unflatten(v)
    assert {name: tuple(x.shape) for name, x in parts.items()} == {
        "2.weight": (3, 6),
        "2.bias": (3,),
    }
    assert torch.equal(parts["2.weight"].flatten(), v[:18])
    assert torch.equal(operator.flatten(dict(reversed(parts.items()))), v)
    for wrong, message in (
        ({"2.weight": v[:18].view(3, 6)}, "parts has no tensor for parameter 2.bias"),
        (parts | {"0.bias": v}, "parts has '0.bias', which is none of 2.weight, 2.bias"),
        (parts | {"2.bias": v[:2]}, r"parts['2.bias'] has shape (2,), the parameter (3,)"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            operator.flatten(wrong)
    with pytest.raises(TypeError, match=r"parts must be a mapping .* not list"):
        operator.flatten([v])
    with pytest.raises(TypeError, match=r"parts\['2\.bias'\] must be a real tensor, not int"):
        operator.flatten(parts | {"2.bias": 3})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_eigsh_of_scipy(dtype):
    model, batch, loss = made("gpt", dtype)
    values = torch.linalg.eigvalsh(exact("gpt"))
    operator = gf.hessian_operator(model, loss, batch).to_scipy()
    assert operator.dtype == np.float64 and operator.shape == (len(values), len(values))
    tol = 1e-5 if dtype == torch.float32 else 0
    found = eigsh(operator, k=4, which="BE", tol=tol, return_eigenvectors=False)
    expected = torch.cat([values[:2], values[-2:]]).numpy()
    rtol = 1e-3 if dtype == torch.float32 else 1e-8
    np.testing.assert_allclose(np.sort(found), expected, rtol=rtol)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_conjugate_gradients_of_scipy(dtype):
    model, batch, loss = made("mlp", dtype)
    matrix = exact("mlp").numpy()
    damping = 0.1 - np.linalg.eigvalsh(matrix)[0]
    operator = gf.hessian_operator(model, loss, batch).to_scipy()
    v = cases.normal(51, dtype=torch.float64).numpy()
    damped = operator + aslinearoperator(damping * np.eye(51))
    x, info = cg(damped, v, rtol=1e-5 if dtype == torch.float32 else 1e-11, maxiter=500)
    assert info == 0
    expected = np.linalg.solve(matrix + damping * np.eye(51), v)
    np.testing.assert_allclose(
        x, expected, atol=(1e-3 if dtype == torch.float32 else 1e-8) * np.abs(expected).max()
    )
    np.testing.assert_allclose(operator.rmatvec(v), operator.matvec(v))
    np.testing.assert_allclose(operator.H @ v, operator @ v)
    np.testing.assert_allclose((operator @ np.stack([v, 2 * v], 1))[:, 1], 2 * (operator @ v))
    with pytest.raises(TypeError, match="v must be real"):
        operator.matvec(v + 1j)


def test_small_numbers_of_float64_survive_a_float32_model():
    model, batch, loss = made("mlp")
    operator = gf.hessian_operator(model, loss, batch)
    v = cases.normal(51, dtype=torch.float64)
    found = operator @ (v * 1e-60)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found * 1e60, operator @ v, rtol=1e-5, atol=1e-6)


def trained(model: nn.Module, batch: Any, loss: Any) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    loss(model, batch).mean().backward()
    optimizer.step()


def in_place(model: nn.Module, *_: Any) -> None:
    model[0].bias.data.add_(1.0)  # which torch's counter of changes does not see


def loaded(model: nn.Module, *_: Any) -> None:
    model.load_state_dict({name: x + 1 for name, x in model.state_dict().items()})


def without_gradients(model: nn.Module, *_: Any) -> None:
    model.requires_grad_(False)


@pytest.mark.parametrize("change", [trained, in_place, loaded, without_gradients])
@pytest.mark.parametrize("kept", [True, False])
def test_the_matrix_stays_that_of_the_weights_it_was_made_of(change, kept, monkeypatch):
    if not kept:
        again = functools.partial(HessianProducts, kept_bytes=0)
        monkeypatch.setitem(prepared.KINDS, "hessian", again)
    model, (x, y), loss = made("mlp", torch.float64)
    operator = gf.hessian_operator(model, loss, [(x[:3], y[:3]), (x[3:], y[3:])])
    v, matrix = cases.normal(51, dtype=torch.float64), dense_hessian(model, loss, (x, y))
    first, gradient = operator @ v, operator.gradient()
    change(model, (x, y), loss)
    assert torch.equal(operator @ v, first) and torch.equal(operator.gradient(), gradient)
    torch.testing.assert_close(first, matrix @ v, rtol=1e-9, atol=1e-12)
    if change is not without_gradients:
        now = dense_hessian(model, loss, (x, y))
        torch.testing.assert_close(
            gf.hessian_operator(model, loss, (x, y)) @ v, now @ v, rtol=1e-9, atol=1e-12
        )
        assert (now @ v - first).norm() > 1e-3 * first.norm()


def test_data_changed_in_place_are_refused():
    model, (x, y), loss = made("mlp")
    operator = gf.hessian_operator(model, loss, (x, y))
    v = torch.ones(51)
    operator @ v
    x[0, 0] += 1.0
    for product in (lambda: operator @ v, operator.gradient):
        with pytest.raises(ValueError, match="data have been changed in place since the operator"):
            product()


def test_nothing_changes_and_nothing_outside_matters():
    model, batch, loss = made("attention")
    trained(model, batch, loss)
    before, state = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()
    gradients = [p.grad.clone() for p in model.parameters()]
    operator = gf.hessian_operator(model, loss, batch)
    v = cases.normal(operator.shape[0])
    first = operator @ v
    with torch.no_grad():
        assert torch.equal(operator @ v, first)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(operator @ v, first)
    with torch.inference_mode():
        assert torch.equal(operator @ v, first)
        assert torch.equal(gf.hessian_operator(model, loss, batch) @ v, first)
    torch.set_default_device("meta")
    try:
        assert torch.equal(operator @ v, first)
        assert operator.unflatten(v)["out.bias"].device.type == "cpu"
    finally:
        torch.set_default_device(None)
    assert all(torch.equal(before[name], x) for name, x in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state) and model.training
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert torch.equal(parameter.grad, gradient)


def test_rows_cut_to_a_length():
    """The table that max_norm makes, once; the user's own is left."""
    torch.manual_seed(0)
    table = nn.Embedding(5, 3, max_norm=0.5).double()
    with torch.no_grad():
        table.weight.mul_(3.0)
    plain, before = nn.Embedding(5, 3).double(), table.weight.detach().clone()
    with torch.no_grad():
        lengths = before.norm(dim=1, keepdim=True)
        plain.weight.copy_(before * (0.5 / lengths).clamp_max(1.0))
    rows = torch.arange(5)

    def loss(model, batch):
        return model(batch).sin().sum(1)

    found = gf.hessian_operator(table, loss, rows) @ torch.eye(15)
    torch.testing.assert_close(found, dense_hessian(plain, loss, rows), rtol=1e-5, atol=1e-7)
    assert torch.equal(table.weight, before) and table.max_norm == 0.5


def test_sixteen_bits():
    model, batch, loss = made("mlp")
    half = copy.deepcopy(model).bfloat16()
    operator = gf.hessian_operator(half, loss, cast(batch, torch.bfloat16))
    assert operator.dtype == torch.float32
    rounded = dense_hessian(half.double(), loss, cast(cast(batch, torch.bfloat16), torch.float64))
    torch.testing.assert_close(operator @ torch.eye(51), rounded.float(), rtol=1e-3, atol=1e-4)


def test_bad_input():
    model, batch, loss = made("mlp")
    operator = gf.hessian_operator(model, loss, batch)
    for v, error, message in (
        (
            torch.ones(3),
            ValueError,
            "v must have shape (51,), one entry for each of the parameters'",
        ),
        (
            torch.ones(51, dtype=torch.long),
            TypeError,
            "v must be a real floating-point tensor, not",
        ),
        (torch.ones(51) * 1j, TypeError, "v must be a real floating-point tensor, not torch.comp"),
        (torch.full((51,), torch.nan), ValueError, "v is not finite"),
    ):
        with pytest.raises(error, match=re.escape(message)):
            operator.matvec(v)
    with pytest.raises(TypeError, match="v must be a real floating-point tensor, not list"):
        operator.matvec([1.0] * 51)
    with pytest.raises(ValueError, match=r"vectors must be a tensor \(51, k\), not \(51,\)"):
        operator.matmat(torch.ones(51))
    with pytest.raises(TypeError, match="unsupported operand"):
        operator @ [1.0]
    with pytest.raises(TypeError, match="v must be a real floating-point tensor, not ndarray"):
        operator @ np.ones(51)
    assert (operator @ torch.ones(51, 0)).shape == (51, 0)
    with pytest.raises(ValueError, match="matrix must be one of hessian, gauss-newton, not 'x'"):
        gf.hessian_operator(model, loss, batch, matrix="x")
    with pytest.raises(ValueError, match="must not be reduced"):
        gf.hessian_operator(model, lambda m, b: loss(m, b).mean(), batch)
    with pytest.raises(ValueError, match="data holds no batch"):
        gf.hessian_operator(model, loss, [])
    with pytest.raises(TypeError, match=r"process_group must be a torch\.distributed\.Process"):
        gf.hessian_operator(model, loss, batch, process_group="gloo")
    with pytest.raises(ValueError, match="do not reach the loss") as raised:
        gf.hessian_operator(model, lambda m, b: loss(model, b), batch)
    assert "loss_fn has to use the model that it is given" in raised.value.__notes__[0]
    with (
        Path(os.devnull).open() as model.file,
        pytest.raises(ValueError, match="the model cannot be copied, which an op"),
    ):
        gf.hessian_operator(model, loss, batch)


def test_a_product_that_is_not_finite_names_its_batch():
    model = nn.Linear(3, 1, bias=False)

    def loss(model, x):  # its second derivative at 0 is infinite
        return model(x)[:, 0].abs().pow(1.5) + 0.0 * model(x)[:, 0] ** 2

    operator = gf.hessian_operator(model, loss, iter((torch.randn(4, 3), torch.zeros(4, 3))))
    with pytest.raises(ValueError, match="product with the hessian is not finite: batch 1"):
        operator @ torch.ones(3)


def test_a_planted_spectrum_is_found_by_power_iteration():
    operator = gf.hessian_operator(
        planted(torch.tensor([4.0, 1.0, -1.0])), lambda m, x: m(x), torch.ones(2, 1)
    )
    v = torch.ones(3, dtype=torch.float64)
    for _ in range(60):
        v = operator @ v
        v = v / v.norm()
    assert (v @ (operator @ v)).item() == pytest.approx(4.0)


def test_classification_with_a_ready_attention():
    """torch's own encoder layer, whose fused ways have no second derivative."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(24, 3)).double().eval()
    batch = torch.randn(4, 3, 8, dtype=torch.float64), torch.arange(4) % 3
    operator = gf.hessian_operator(model, classify, batch)
    v = cases.normal(operator.shape[0], dtype=torch.float64)
    parameters = list(model.parameters())
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        mean = F.cross_entropy(model(batch[0]), batch[1])
        first = torch.autograd.grad(mean, parameters, create_graph=True)
        along = sum(
            (g * part).sum() for g, part in zip(first, operator.unflatten(v).values(), strict=True)
        )
        expected = torch.autograd.grad(along, parameters)
    torch.testing.assert_close(operator @ v, torch.cat([g.flatten() for g in expected]))

"""Gram matrices of per-sample gradients against gradients taken one by one."""

import copy
import math
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from geomfast.estimators.gradients import (
    fisher_effective_rank,
    gradient_covariance_rank,
    gradient_gram,
    gradient_ranks,
)
from geomfast.estimators.per_sample.attribution import Attribution
from geomfast.kernels.gradient_gram import Factors, parameter_gram
from geomfast.kernels.gradient_gram import eager as eager_module
from geomfast.kernels.gradient_gram import reference as reference_module
from geomfast.testbed.models.gpt import GPT
from geomfast.testbed.models.scales import SCALES
from tests.estimators.models import N, build, exact_gram, loss, loss64

MODELS = build()
ONE_BY_ONE = {
    "time first": {"layer.weight", "layer.bias"},
    "unseen": {"weight", "hidden"},
    "cut out": {"weight"},
    "conv2d in groups": {"weight", "bias"},
    "attention of torch": {
        "inner.in_proj_weight",
        "inner.in_proj_bias",
        "inner.out_proj.weight",
        "inner.out_proj.bias",
    },
    "no rule": {"weight"},
    "batch norm, evaluated": {"1.weight", "1.bias"},
    "lstm": {
        "inner.weight_ih_l0",
        "inner.weight_hh_l0",
        "inner.bias_ih_l0",
        "inner.bias_hh_l0",
    },
}


def made(name: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(3)
    model, batch = MODELS[name]
    return model(), batch()


def relative(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found - exact).abs().max() / exact.abs().max())


def next_token(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    logits = model(tokens)[:, :-1].transpose(1, 2)
    return F.cross_entropy(logits, tokens[:, 1:], reduction="none").sum(1)


def rank(gram: torch.Tensor) -> float:
    values = torch.linalg.eigvalsh(gram).clamp_min(0.0)
    p = values / values.sum()
    return torch.exp(-torch.xlogy(p, p).sum()).item()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("check", [True, False], ids=["checked", "unchecked"])
def test_against_stored_gradients(name, check):
    if not check and name == "time first":
        pytest.skip("only the check notices that samples are not first")
    model, batch = made(name)
    found = gradient_gram(model, loss, batch, check=check)
    assert found.dtype == torch.float64 and found.shape == (N, N)
    model = model.double()
    batch = batch.double() if batch.is_floating_point() else batch
    exact = exact_gram(model, loss64, batch)
    assert relative(found, exact) <= 1e-5
    assert relative(gradient_gram(model, loss64, batch, check=check), exact) <= 1e-10
    assert torch.equal(found, found.T)


@pytest.mark.parametrize("name", MODELS)
def test_what_is_taken_one_by_one(name, monkeypatch):
    model, batch = made(name)
    taken = set()
    slowly = Attribution._one_by_one
    monkeypatch.setattr(
        Attribution,
        "_one_by_one",
        lambda self, names, scale: taken.update(names) or slowly(self, names, scale),
    )
    gradient_gram(model, loss, batch)
    assert taken == ONE_BY_ONE.get(name, set())


@pytest.mark.parametrize("name", MODELS)
def test_layers_add_up_and_ranks_agree(name):
    model, batch = made(name)
    model = model.double()
    batch = batch.double() if batch.is_floating_point() else batch
    exact = exact_gram(model, loss64, batch)
    layers = gradient_gram(model, loss64, batch, per_layer=True)
    assert list(layers) == [name for name, _ in model.named_parameters()]
    torch.testing.assert_close(sum(layers.values()), exact, rtol=1e-9, atol=1e-12)
    centring = torch.eye(N).double() - 1.0 / N
    assert fisher_effective_rank(model, loss64, batch) == pytest.approx(rank(exact), rel=2e-5)
    covariance = rank(centring @ exact @ centring)
    assert gradient_covariance_rank(model, loss64, batch) == pytest.approx(covariance, rel=2e-5)


def test_only_some_parameters():
    model, batch = made("gpt")
    names = [name for name, _ in model.named_parameters()]
    layers = gradient_gram(model, next_token, batch, per_layer=True)
    some = gradient_gram(model, next_token, batch, params=["blocks.0.*"])
    expected = sum(gram for name, gram in layers.items() if name.startswith("blocks.0."))
    torch.testing.assert_close(some, expected)
    one = gradient_gram(model, next_token, batch, params=names[:1])
    torch.testing.assert_close(one, layers[names[0]])
    with pytest.raises(ValueError, match=r"'head\.\*' matches none of"):
        gradient_gram(model, next_token, batch, params=["head.*"])


@pytest.mark.parametrize("entries", [1, 100, 176, 177, 1000, 10**9])
def test_the_first_entries_only(entries):
    model, batch = made("gpt")
    model = model.double()
    losses = next_token(model, batch)
    parameters = list(model.parameters())
    rows = [torch.autograd.grad(losses[i], parameters, retain_graph=True) for i in range(N)]
    whole = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])[:, :entries]
    found = gradient_gram(model, next_token, batch, params=entries)
    torch.testing.assert_close(found, whole @ whole.T, rtol=1e-9, atol=1e-12)


def test_centred_where_the_mean_dominates():
    torch.manual_seed(0)
    model = nn.Linear(30, 1)
    x = 1.0 + 1e-4 * torch.randn(20, 30)
    exact_rows = torch.cat([x, torch.ones(20, 1)], 1).double()  # gradient of a linear loss
    exact = exact_rows - exact_rows.mean(0)
    found = gradient_gram(model, lambda m, x: m(x)[:, 0], x, center=True)
    assert relative(found, exact @ exact.T) <= 1e-5
    (every, first) = gradient_ranks(model, lambda m, x: m(x)[:, 0], x, first=12)
    assert every.covariance == pytest.approx(rank(exact @ exact.T), rel=2e-5)
    some = exact[:, :12]
    assert first.covariance == pytest.approx(rank(some @ some.T), rel=2e-5)


@pytest.mark.parametrize("samples", [1, 2, 5, 33])
@pytest.mark.parametrize("length", [1, 4, 19])
@pytest.mark.parametrize(("rows", "columns"), [(1, 7), (9, 1), (12, 20)])
@pytest.mark.parametrize("one_hot", [False, True])
def test_paths_agree(samples, length, rows, columns, one_hot):
    torch.manual_seed(1)
    right = torch.randn(samples, length, columns)
    dense = Factors(torch.randn(samples, length, rows), right, rows)
    looked_up = Factors(torch.randint(0, rows, (samples, length)), right.flip(0), rows)
    uses = [dense, looked_up] if one_hot else [dense]
    exact = reference_module.gram(uses, centered=False)
    tolerance = {"rtol": 0.0, "atol": 2e-6 * exact.abs().max().item()}
    for budget in (1, 10_000, 10**9):
        torch.testing.assert_close(eager_module.ghost(uses, budget), exact, **tolerance)
        stored = eager_module.materialised(uses, budget, centered=False)
        torch.testing.assert_close(stored, exact, **tolerance)
        centred = eager_module.materialised(uses, budget, centered=True)
        torch.testing.assert_close(centred, reference_module.gram(uses, True), **tolerance)
    torch.testing.assert_close(parameter_gram(uses), exact, **tolerance)


def test_sixteen_bits():
    model, batch = made("gpt")
    exact = gradient_gram(model, next_token, batch)
    model = model.bfloat16()
    found = gradient_gram(model, next_token, batch)
    assert found.dtype == torch.float64 and relative(found, exact) < 0.1


def test_forced_reference(monkeypatch):
    model, batch = made("deep")
    usual = gradient_gram(model, loss, batch)
    monkeypatch.setenv("GEOMFAST_BACKEND", "reference")
    torch.testing.assert_close(gradient_gram(model, loss, batch), usual, rtol=1e-5, atol=1e-6)


def test_nothing_changes():
    model, batch = made("tables, tied")
    model.out.bias.grad = torch.ones_like(model.out.bias)
    before, state = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()
    first = gradient_gram(model, loss, batch)
    assert torch.equal(first, gradient_gram(model, loss, batch))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [p.grad is None for p in model.parameters()].count(False) == 1
    assert torch.equal(model.out.bias.grad, torch.ones_like(model.out.bias))
    assert model.training and torch.is_grad_enabled()
    with torch.no_grad():
        assert torch.equal(first, gradient_gram(model, loss, batch))


class Kept:
    """Lives as long as the graph that holds it."""


class Holding(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, kept):
        ctx.kept = kept
        return x.clone()

    @staticmethod
    def backward(ctx, *gradients):
        return gradients[0], None


@pytest.mark.parametrize("name", ["gpt", "deep", "tables, tied"])
def test_the_graph_is_let_go(name):
    """Python's collector does not see circles through autograd's graph."""
    model, batch = made(name)
    references = []

    def holding(model, batch):
        kept = Kept()
        references.append(weakref.ref(kept))
        return Holding.apply(loss(model, batch), kept)

    gradient_gram(model, holding, batch)
    # The whole batch, some of it twice, and its shortest sample.
    assert len(references) == 4 and not any(ref() for ref in references)


def test_closed_form_of_linear_regression():
    # g_i = r_i x_i with residual r_i: K_ij = r_i r_j x_i . x_j.
    torch.manual_seed(0)
    model, x, y = nn.Linear(7, 1, bias=False).double(), torch.randn(9, 7).double(), torch.randn(9)
    residual = model(x)[:, 0].detach() - y
    gram = gradient_gram(model, lambda m, b: 0.5 * (m(b[0])[:, 0] - b[1]) ** 2, (x, y.double()))
    torch.testing.assert_close(gram, residual[:, None] * residual * (x @ x.T), rtol=1e-12, atol=0.0)


def test_identical_samples_have_rank_one_and_no_covariance():
    model = GPT(SCALES["nano"], 0)
    tokens = torch.full((5, 6), 3)
    assert fisher_effective_rank(model, next_token, tokens) == pytest.approx(1.0, abs=2e-5)
    assert gradient_covariance_rank(nn.Linear(2, 1), lambda m, x: m(x)[:, 0], torch.ones(3, 2)) == 0


# Bad input


def test_a_reduced_loss():
    model, batch = made("linear")
    with pytest.raises(ValueError, match=r"\(6,\), not \(\); it must not be reduced"):
        gradient_gram(model, lambda m, b: m(b).sum(), batch)
    with pytest.raises(TypeError, match="float"):
        gradient_gram(model, lambda m, b: m(b).sum().item(), batch)
    with pytest.raises(ValueError, match="do not depend on any parameter"):
        gradient_gram(model, lambda m, b: b.sum(1), batch)


def test_too_few_samples_and_odd_batches():
    model, batch = made("linear")
    with pytest.raises(ValueError, match="N = 1"):
        gradient_gram(model, loss, batch[:1])
    with pytest.raises(ValueError, match=r"share their first dimension.*\(6, 4\), \(5,\)"):
        gradient_gram(model, lambda m, b: loss(m, b[0]), (batch, torch.ones(5)))
    with pytest.raises(ValueError, match="no tensor"):
        gradient_gram(model, loss, "text")


@pytest.mark.parametrize("couple", [lambda x: x - x.mean(0), lambda x: x.cumsum(0)])
def test_a_loss_that_depends_on_other_samples(couple):
    model, batch = made("linear")
    with pytest.raises(ValueError, match=r"loss of sample \d depends on the other samples"):
        gradient_gram(model, lambda m, b: couple(m(b)).square().sum(1), batch)


@pytest.mark.parametrize("couple", [lambda x: x - x.mean(0), lambda x: x.flip(0) * x])
def test_a_large_batch_is_checked_by_some_of_it(couple):
    model = nn.Linear(4, 3)
    batch = torch.randn(200, 4)
    with pytest.raises(ValueError, match=r"loss of sample \d+ depends on the other samples"):
        gradient_gram(model, lambda m, b: couple(m(b)).square().sum(1), batch)
    batch = torch.randn(40, 80, 4)  # positions first, as many as make whole samples
    model = MODELS["time first"][0]()
    exact = exact_gram(copy.deepcopy(model).double(), loss64, batch.double(), 40)
    assert relative(gradient_gram(model, loss, batch), exact) <= 1e-5


def test_batch_norm_and_dropout_in_training():
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5))
    with pytest.raises(ValueError, match=r"1 \(BatchNorm1d\) makes every sample's loss depend"):
        gradient_gram(model, loss, torch.randn(N, 4))
    model = nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.1))
    with pytest.raises(ValueError, match=r"dropout is on in 1 \(Dropout\)"):
        gradient_gram(model, loss, torch.randn(N, 4))
    assert gradient_gram(model.eval(), loss, torch.randn(N, 4)).isfinite().all()
    with pytest.raises(ValueError, match=r"dropout is on \(p = 0\.5\)"):
        gradient_gram(model, lambda m, b: F.dropout(m(b)).sum(1), torch.randn(N, 4))


def test_a_parameter_that_does_not_reach_the_loss():
    model, batch = made("linear")
    model.unused = nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match="parameter unused does not reach the loss"):
        gradient_gram(model, loss, batch)
    assert gradient_gram(model, loss, batch, params=["weight", "bias"]).isfinite().all()
    model.dead = nn.Linear(4, 3)
    with pytest.raises(ValueError, match=r"parameters dead\.weight, dead\.bias do not reach"):
        gradient_gram(
            model, lambda m, b: (m.dead(b), loss(m, b))[1], batch, params=["w*", "dead.*"]
        )


def test_nan_names_sample_and_parameter():
    model, batch = made("deep")
    batch[4, 1, 2] = math.nan
    with pytest.raises(
        ValueError, match=r"gradient of sample 4 is not finite in parameter 0\.weight"
    ):
        gradient_gram(model, loss, batch)

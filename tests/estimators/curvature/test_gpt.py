"""The hand-written products against float64 double backward through plain attention."""

import copy
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from geomfast.estimators.behaviour import AnswersFrom
from geomfast.estimators.curvature.gpt import GptProducts, NotPlain
from geomfast.kernels.backends import interpreting_triton
from geomfast.losses import next_token
from geomfast.testbed.models.gpt import GPT
from geomfast.testbed.models.scales import Scale
from tests import cases

TINY = Scale("tiny", 2, 16, 2, 1e-3, vocabulary=11, context=13)


def sum_of_squares(model, batch):
    """Not a cross-entropy; of logits in the middle only."""
    return 0.1 * model(batch)[:, 2:5].square().sum((1, 2))


def coupled(model, batch):
    """The Hessian by one position's logits depends on another's, and on another sample's."""
    losses = F.cross_entropy(model(batch).transpose(1, 2), batch, reduction="none").mean(1)
    return losses.square() * losses.mean()


def weighted(model, batch):
    """Cross-entropy with a weight of its own for each position, changed in place, smoothed."""
    logits = model(batch)
    logits *= 0.5
    weight = torch.arange(batch.numel(), dtype=logits.dtype).view(batch.shape) / batch.numel()
    logits, targets = logits.transpose(1, 2), batch.roll(-1, 1)
    losses = F.cross_entropy(logits, targets, reduction="none", label_smoothing=0.1)
    return (losses * weight).sum(1)


LOSSES = {
    "answers": AnswersFrom(7),
    "one answer token": lambda model, batch: AnswersFrom(batch.shape[1] - 1)(model, batch),
    "next token": next_token,
    "weighted": weighted,
    "first logits": lambda model, batch: model(batch)[:, 0].logsumexp(-1),
    "sum of squares": sum_of_squares,
    "coupled": coupled,
    "linear": lambda model, batch: model(batch).sum((1, 2)),
}


class Case(NamedTuple):
    model: GPT
    batches: list[Tensor]

    @property
    def parameters(self) -> dict[str, Tensor]:
        return dict(self.model.named_parameters())

    def vectors(self, *shape: int) -> Tensor:
        size = sum(p.numel() for p in self.parameters.values())
        return cases.normal(*shape, size, seed=9).to(self.model.positions.dtype)


def case(dtype: torch.dtype = torch.float64, scale: Scale = TINY) -> Case:
    model, generator = GPT(scale, seed=1).to(dtype), cases.generator()
    with torch.no_grad():  # away from gains of 1 and offsets of 0
        for p in model.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=generator).to(dtype))
    shapes = ((5, 11), (3, 13), (1, 11))
    return Case(model, [torch.randint(11, shape, generator=generator) for shape in shapes])


def exact(case: Case, loss_fn, names: list[str], v: Tensor) -> Tensor:
    """(k, P) -> (k, P) by double backward in float64."""
    model = copy.deepcopy(case.model).double()
    parameters = [p for name, p in model.named_parameters() if name in names]
    with sdpa_kernel(SDPBackend.MATH):
        losses = torch.cat([loss_fn(model, batch) for batch in case.batches])
        gradient = torch.autograd.grad(
            losses.mean(), parameters, create_graph=True, materialize_grads=True
        )
        flat = torch.cat([g.flatten() for g in gradient])
        rows = [
            torch.autograd.grad(flat, parameters, row, retain_graph=True, materialize_grads=True)
            for row in v.double()
        ]
    return torch.stack([torch.cat([h.flatten() for h in row]) for row in rows])


def close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    assert found.shape == expected.shape
    assert (found - expected).norm() <= tolerance * expected.norm()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5)], ids=["64", "32"]
)
def test_products_are_those_of_double_backward(loss, dtype, tolerance):
    here = case(dtype)
    products = GptProducts(here.model, LOSSES[loss], here.batches, here.parameters)
    v = here.vectors(2)
    found = products.product(v)
    assert found.dtype == dtype and products.dimension == v.shape[1]
    close(found, exact(here, LOSSES[loss], list(here.parameters), v), tolerance)
    symmetric = (v[0] @ found[1], v[1] @ found[0])
    assert torch.isclose(*symmetric, rtol=tolerance, atol=float(tolerance * found.norm()))
    assert torch.equal(products.product(v[0]), products.product(v)[0])


def test_a_cross_entropy_is_recognised_and_anything_else_is_not():
    here = case()
    for loss, plain in (("answers", True), ("next token", True), ("first logits", True),
                        ("weighted", False),
                        ("sum of squares", False), ("coupled", False)):  # fmt: skip
        products = GptProducts(here.model, LOSSES[loss], here.batches, here.parameters)
        assert {point.weight is not None for point in products._losses} == {plain}, loss


def test_only_positions_that_count_are_computed():
    here = case()
    products = GptProducts(here.model, sum_of_squares, here.batches, here.parameters)
    assert {(point.first, point.tokens.shape[1]) for point in products._losses} == {(2, 5)}


def test_chunks_of_samples_add_up(monkeypatch):
    here = case()
    v = here.vectors(2)
    for loss in ("answers", "coupled"):
        arguments = (here.model, LOSSES[loss], here.batches, here.parameters)
        expected = GptProducts(*arguments).product(v)
        monkeypatch.setattr("geomfast.estimators.curvature.gpt.ROWS_ON_CPU", 25)
        found = GptProducts(*arguments)
        assert max(map(len, found._chunks)) > 1
        close(found.product(v), expected, 1e-13)
        monkeypatch.undo()


def test_probes_together_are_probes_one_by_one():
    here = case()
    v = here.vectors(3)
    for loss in ("answers", "coupled"):
        products = GptProducts(here.model, LOSSES[loss], here.batches, here.parameters)
        together = products._product(v)  # as on a GPU
        close(together, products.product(v), 1e-13)


@pytest.mark.parametrize(
    ("backend", "dtype", "tolerance"),
    [
        ("reference", torch.float64, 1e-13),
        ("torch", torch.float64, 1e-13),
        pytest.param(
            "triton",
            torch.float32,
            1e-5,
            marks=pytest.mark.skipif(not interpreting_triton(), reason="needs the interpreter"),
        ),
    ],
)
def test_every_backend(backend, dtype, tolerance, monkeypatch):
    monkeypatch.setenv("GEOMFAST_BACKEND", backend)
    here = case(dtype)
    v = here.vectors(2)
    products = GptProducts(here.model, LOSSES["answers"], here.batches, here.parameters)
    found = products._product(v)
    close(found, exact(here, LOSSES["answers"], list(here.parameters), v), tolerance)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_the_gpu():
    here = case(torch.float32)
    v = here.vectors(3)
    expected = exact(here, LOSSES["answers"], list(here.parameters), v)
    here = Case(here.model.cuda(), [batch.cuda() for batch in here.batches])
    products = GptProducts(here.model, LOSSES["answers"], here.batches, here.parameters)
    close(products.product(v.cuda()).cpu(), expected, 1e-5)


@pytest.mark.parametrize(
    "wanted",
    [
        ["tokens.weight"],
        ["positions"],
        ["norm.weight", "norm.bias"],
        ["blocks.0.attention_in.weight", "blocks.1.norm_1.bias"],
        ["blocks.1.mlp_out.weight", "blocks.0.mlp_in.bias", "positions"],
    ],
    ids=",".join,
)
def test_subsets_of_parameters_in_any_order(wanted):
    here = case()
    parameters = {name: here.parameters[name] for name in wanted}
    products = GptProducts(here.model, LOSSES["answers"], here.batches, parameters)
    names = [name for name in here.parameters if name in wanted]
    v = {name: cases.normal(2, parameters[name].numel(), seed=3).double() for name in wanted}
    found = products.product(torch.cat([v[name] for name in wanted], 1))
    expected = exact(here, LOSSES["answers"], names, torch.cat([v[name] for name in names], 1))
    sizes = [parameters[name].numel() for name in names]
    parts = dict(zip(names, expected.split(sizes, 1), strict=True))
    close(found, torch.cat([parts[name] for name in wanted], 1), 1e-12)


def test_one_block_and_heads_as_wide_as_the_model():
    here = case(scale=Scale("one", 1, 8, 1, 1e-3, vocabulary=11, context=13))
    v = here.vectors(1)
    products = GptProducts(here.model, LOSSES["answers"], here.batches, here.parameters)
    close(products.product(v), exact(here, LOSSES["answers"], list(here.parameters), v), 1e-13)


def test_the_model_stays_as_it_is_and_the_products_too():
    here = case(torch.float32)
    before = {name: p.clone() for name, p in here.parameters.items()}
    state = torch.get_rng_state()
    products = GptProducts(here.model, LOSSES["answers"], here.batches, here.parameters)
    v = here.vectors()
    product = products.product(v)
    assert torch.equal(state, torch.get_rng_state()) and "forward" not in vars(here.model)
    for name, p in here.parameters.items():
        assert torch.equal(p, before[name]) and p.grad is None and p.requires_grad
    with torch.no_grad():
        here.model.positions.add_(1.0)
    assert torch.equal(products.product(v), product)
    assert products.nbytes > 0


def twice(model, batch):
    return next_token(model, batch) + next_token(model, batch)


NOT_PLAIN = {
    "two calls": twice,
    "no call": lambda model, batch: model.positions.sum().expand(len(batch)),
    "collecting": lambda model, batch: model(batch, []).sum((1, 2)),
    "keywords": lambda model, batch: model(tokens=batch).sum((1, 2)),
    "other input": lambda model, batch: model(batch[0]).sum((1, 2)),
    "a penalty": lambda model, batch: next_token(model, batch) + model.positions.square().sum(),
    "reduced": lambda model, batch: next_token(model, batch).mean(),
    "detached": lambda model, batch: next_token(model, batch).detach(),
}


@pytest.mark.parametrize("loss", NOT_PLAIN)
def test_other_losses_are_refused(loss):
    here = case()
    with pytest.raises(NotPlain):
        GptProducts(here.model, NOT_PLAIN[loss], here.batches, here.parameters)
    assert "forward" not in vars(here.model)


def test_other_models_are_refused():
    here = case()
    arguments = (next_token, here.batches, here.parameters)
    with pytest.raises(NotPlain, match="Sequential"):
        GptProducts(torch.nn.Sequential(here.model), *arguments)
    hook = here.model.blocks[0].register_forward_hook(lambda *call: None)
    with pytest.raises(NotPlain, match="hooks"):
        GptProducts(here.model, *arguments)
    hook.remove()
    others = {"positions": here.model.positions.detach().clone()}
    with pytest.raises(NotPlain, match="positions"):
        GptProducts(here.model, next_token, here.batches, others)
    here.model.blocks[1].mlp_in = torch.nn.Sequential(here.model.blocks[1].mlp_in)
    with pytest.raises(NotPlain, match="mlp_in"):
        GptProducts(here.model, next_token, here.batches, dict(here.model.named_parameters()))
    mixed = case().model
    mixed.norm.float()
    with pytest.raises(NotPlain, match="float"):
        GptProducts(mixed, next_token, here.batches, dict(mixed.named_parameters()))

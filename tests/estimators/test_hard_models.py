"""Models that per-sample gradients and Hessians of such tools have been wrong for.

References are float64 gradients of one sample at a time, and differences of gradients where
autograd's second derivative is at fault.
"""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, weight_norm
from torch.nn.utils.rnn import pack_padded_sequence

import geomfast as gf
from geomfast.estimators.curvature.products import HessianProducts
from geomfast.estimators.curvature.verify import wrong_second_derivatives

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")


def reference(model, loss, batch):
    """Gram matrix of float64 gradients, one sample at a time; what a sample does not use is 0."""
    model = copy.deepcopy(model).double()
    batch = tuple(x.double() if x.is_floating_point() else x for x in batch)
    rows = []
    for i in range(len(batch[0])):
        one = loss(model, tuple(x[i : i + 1] for x in batch))[0]
        found = torch.autograd.grad(one, list(model.parameters()), allow_unused=True)
        rows.append(
            torch.cat(
                [
                    torch.zeros(p.numel()).double() if g is None else g.reshape(-1)
                    for p, g in zip(model.parameters(), found, strict=True)
                ]
            )
        )
    rows = torch.stack(rows)
    return rows @ rows.mT


def check_gram(model, loss, batch, rtol=1e-4):
    expected = reference(model, loss, batch)
    found = gf.gradient_gram(model, loss, batch)
    torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol * expected.abs().max().item())


def made(seed=0, width=5):
    torch.manual_seed(seed)
    return nn.ModuleDict({"a": nn.Linear(4, width), "b": nn.Linear(width, 3)})


def lengths_adding_to(total, samples, generator):
    lengths = torch.full((samples,), total // samples)
    for _ in range(samples):
        i, j = torch.randint(0, samples, (2,), generator=generator).tolist()
        if lengths[i] > 1 and lengths[j] < 9:
            lengths[i] -= 1
            lengths[j] += 1
    return lengths


# Rows that are not samples


def real_tokens(m, batch):
    x, lengths = batch
    mask = torch.arange(x.shape[1]) < lengths[:, None]
    hidden = x.new_zeros(*x.shape[:2], 5)
    hidden[mask] = m["a"](x[mask]).tanh()
    return m["b"](hidden).square().sum((1, 2))


def packed(m, batch):
    x, lengths = batch
    rows = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    hidden = m["b"](m["a"](rows.data).tanh()).square().sum(1)
    back = rows._replace(data=hidden)
    return nn.utils.rnn.pad_packed_sequence(back, batch_first=True)[0].sum(1)


def sorted_by_length(m, batch):
    x, lengths = batch
    order = lengths.argsort()
    out = m["b"](m["a"](x[order]).tanh()).square().sum((1, 2))
    return out[order.argsort()]


def routed(m, batch):
    """Every token to one of two experts, whose numbers of tokens may be anything."""
    x = batch[0]
    flat = x.flatten(0, 1)
    out = flat.new_zeros(len(flat), 5)
    first = (flat[:, 0] > 0).nonzero()[:, 0]
    second = (flat[:, 0] <= 0).nonzero()[:, 0]
    out = out.index_add(0, first, m["a"](flat[first]))
    out = out.index_add(0, second, m["a"](flat[second]).tanh())
    return m["b"](out).view(len(x), -1).square().sum(1)


def time_first(m, batch):
    x = batch[0].transpose(0, 1).reshape(-1, 4)
    out = m["b"](m["a"](x).tanh()).view(batch[0].shape[1], len(batch[0]), 3)
    return out.square().sum((0, 2))


def rolled(m, batch):
    x = batch[0].roll(1, 0)
    return m["b"](m["a"](x).tanh()).roll(-1, 0).square().sum((1, 2))


ROWS = {f.__name__: f for f in (real_tokens, packed, sorted_by_length, routed, time_first, rolled)}


@pytest.mark.parametrize("samples", [7, 16, 31, 48, 60])
@pytest.mark.parametrize("kind", ROWS)
def test_rows_that_are_not_samples(kind, samples):
    """Also where the number of rows is a multiple of that of the samples."""
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        lengths = lengths_adding_to(5 * samples, samples, generator)
        x = torch.randn(samples, 9, 4, generator=generator)
        check_gram(made(seed), ROWS[kind], (x, lengths))


def test_two_samples_of_many_are_in_each_others_place():
    """A check on some of the samples sees neither of them."""
    swap = torch.arange(64)
    swap[[40, 41]] = swap[[41, 40]]

    def loss(m, batch):
        x = batch[0]
        order = swap[: len(x)] if len(x) == 64 else torch.arange(len(x))
        return m["b"](m["a"](x[order]).tanh())[order].square().sum(1)

    check_gram(made(), loss, (torch.randn(64, 4),))


# Coupled losses


@pytest.mark.parametrize("samples", [2, 3, 7, 16, 17, 31, 33, 35, 48, 61, 101])
@pytest.mark.parametrize(
    "couple",
    [
        lambda x: x - x.mean(0),
        lambda x: x / x.abs().amax(0),
        lambda x: x + x.flip(0),
        lambda x: x.softmax(0),
        lambda x: x @ (x.mT @ x),
    ],
    ids=["mean", "largest", "flip", "softmax", "second moment"],
)
def test_coupled_losses(couple, samples, request):
    x = torch.randn(samples, 4, generator=torch.Generator().manual_seed(samples))
    loss = lambda m, x: m["b"](m["a"](couple(m["a"].weight[0] * x))).square().sum(1)  # noqa: E731
    model = made()
    if samples == 3 and "flip" in request.node.callspec.id:
        pytest.skip("the sample in the middle is its own neighbour")
    with pytest.raises(ValueError, match="depends on the other samples"):
        gf.gradient_gram(model, loss, x)
    for measure in (gf.hessian_trace, lambda *a: gf.llc(*a, lr=1e-6, draws=4, burn_in=1)):
        with pytest.raises(ValueError, match="depends on the other samples"):
            measure(model, loss, x)


# Conditional use


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.pooler = nn.Linear(4, 6), nn.Linear(6, 6)
        self.head = nn.AdaptiveLogSoftmaxWithLoss(6, 12, [3, 7], div_value=2.0)

    def forward(self, batch):
        x, y = batch
        return -self.head(self.body(x).tanh(), y).output


def test_heads_that_some_samples_do_not_use():
    torch.manual_seed(0)
    model, x = Heads(), torch.randn(20, 4)
    y = torch.randint(0, 12, (20,))
    loss = lambda m, batch: m(batch)  # noqa: E731
    with pytest.raises(ValueError, match=r"parameters pooler\.weight, pooler\.bias do not reach"):
        gf.gradient_gram(model, loss, (x, y))
    plain = copy.deepcopy(model)
    del plain.pooler
    expected = reference(plain, loss, (x, y))
    found = gf.gradient_gram(model, loss, (x, y), params="!pooler.*")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for batch in ((x, y), [(x[i : i + 1], y[i : i + 1]) for i in range(20)]):
        a = gf.hessian_trace(model, loss, batch, params=["!pooler.*"], probes=500)
        b = gf.hessian_trace(plain.double(), loss, (x.double(), y), probes=500)
        plain.float()
        assert a.mean == pytest.approx(b.mean, rel=1e-4)
    options = {"lr": 1e-6, "draws": 4, "burn_in": 1, "batch_size": 3}
    a = gf.llc(model, loss, (x, y), params=["!pooler.*"], **options)
    assert a.mean == gf.llc(plain, loss, (x, y), **options).mean
    with pytest.raises(ValueError, match=r"do not reach the loss: leave it out, params=\[\"!pool"):
        gf.llc(model, loss, (x, y), **options)


@pytest.mark.parametrize("matrix", ["hessian", "gauss-newton"])
def test_a_branch_that_some_batches_take(matrix):
    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x):
            return self.a(x) if x[0, 0] > 0 else self.b(x)

    torch.manual_seed(0)
    model, x = Branch().double(), torch.randn(12, 4).double()
    loss = lambda m, x: m(x).square().sum(1)  # noqa: E731
    batches = [(row[None],) for row in x]
    first = lambda m, batch: loss(m, batch[0])  # noqa: E731
    found = gf.hessian_trace(model, first, batches, probes=100, matrix=matrix)
    exact = 2 * 3 * (x.square().sum(1) + 1).mean()  # of squares of linear maps
    assert found.mean == pytest.approx(exact.item(), rel=1e-9)


def test_patterns_that_leave_parameters_out():
    model, x = made(), torch.randn(6, 4)
    loss = lambda m, x: m["b"](m["a"](x).tanh()).square().sum(1)  # noqa: E731
    some = gf.gradient_gram(model, loss, x, params=["*weight", "!b.*"])
    assert torch.equal(some, gf.gradient_gram(model, loss, x, params=["a.weight"]))
    for bad, message in (
        (["!nothing"], "'nothing' matches none"),
        (["a.*", "!a.*"], "leaves no parameter"),
        ([], "names of parameters, one or more"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            gf.gradient_gram(model, loss, x, params=bad)
    for measure in (gf.hessian_trace, lambda *a, **k: gf.llc(*a, lr=1e-6, **k)):
        with pytest.raises(TypeError, match="params must be names"):
            measure(model, loss, x, params=5)


# Tensors without dimensions, and one image


def test_rows_of_a_table_one_at_a_time():
    class Rows(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Parameter(torch.randn(6, 4))
            self.scale, self.shift = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.ones(()))

        def forward(self, batch):
            rows = torch.stack([self.table[k] for k in batch[0][:, 0]])
            return (rows * (self.scale * self.shift) + self.shift).tanh()

    torch.manual_seed(0)
    k = torch.randint(0, 6, (10, 1))
    check_gram(Rows(), lambda m, b: m(b).square().sum(1), (k,))


@pytest.mark.parametrize("dimensions", [1, 2])
def test_one_image_with_as_many_channels_as_samples(dimensions):
    torch.manual_seed(0)
    kind = nn.Conv1d if dimensions == 1 else nn.Conv2d

    class Shared(nn.Module):
        """Convolves, beside the batch, an image of its own."""

        def __init__(self):
            super().__init__()
            self.conv, self.out = kind(6, 6, 3), nn.Linear(4, 3)

        def forward(self, x):
            own = torch.ones(6, *(5,) * dimensions, dtype=x.dtype)
            return self.out(x) * self.conv(own).flatten(1).mean(1)[:3]

    check_gram(Shared(), lambda m, b: m(b[0]).square().sum(1), (torch.randn(6, 4),))


# Second derivatives that are wrong in autograd


def difference(model, loss, batch, v, step=1e-6):
    """H v from the gradient's differences."""
    gradients = []
    for sign in (1.0, -1.0):
        moved = copy.deepcopy(model)
        vector = nn.utils.parameters_to_vector(model.parameters()) + sign * step * v
        nn.utils.vector_to_parameters(vector.detach(), moved.parameters())
        found = torch.autograd.grad(loss(moved, batch).mean(), list(moved.parameters()))
        gradients.append(torch.cat([g.reshape(-1) for g in found]))
    return (gradients[0] - gradients[1]) / (2 * step)


@pytest.mark.parametrize("norm", [parametrizations.weight_norm, weight_norm])
@pytest.mark.parametrize(
    "module",
    [
        lambda norm: norm(nn.Linear(2, 1)),
        lambda norm: nn.Sequential(norm(nn.Linear(2, 5)), nn.Tanh(), nn.Linear(5, 2)),
        lambda norm: nn.Sequential(norm(nn.Linear(2, 4), dim=None), nn.Tanh()),
        lambda norm: nn.Sequential(norm(nn.Linear(2, 4), dim=1), nn.Tanh()),
        lambda norm: nn.Sequential(
            nn.Unflatten(1, (1, 2)), norm(nn.Conv1d(1, 3, 2)), nn.Tanh(), nn.Flatten()
        ),
    ],
)
def test_weight_normalisation(norm, module):
    torch.manual_seed(0)
    model, x = module(norm).double(), torch.randn(9, 2).double()
    loss = lambda m, x: m(x).square().sum(1)  # noqa: E731
    size = sum(p.numel() for p in model.parameters())
    exact = torch.stack(
        [difference(rebuilt(model, norm), loss, x, row) for row in torch.eye(size).double()]
    )
    found = gf.hessian_trace(model, loss, x, probes=max(size, 6))
    assert found.mean == pytest.approx(exact.trace().item(), rel=1e-6, abs=1e-8)
    top = gf.hessian_top_eigenvalues(model, loss, x, k=2, tol=1e-8, ends="magnitude")
    values = torch.linalg.eigvalsh((exact + exact.mT) / 2)
    expected = values[values.abs().argsort(descending=True)[:2]].sort(descending=True).values
    torch.testing.assert_close(top.values, expected, rtol=1e-5, atol=1e-7)
    check_gram(rebuilt(model, norm), loss_of_tuple(loss), (x,))


def loss_of_tuple(loss):
    return lambda m, batch: loss(m, batch[0])


def rebuilt(model, norm):
    """Old-style weights are results, which cannot be copied once computed."""
    for module in model.modules():
        if norm is weight_norm and hasattr(module, "weight_g"):
            module.weight = module.weight.detach()
    return model


class WrongSquare(torch.autograd.Function):
    """A right first derivative, made from detached numbers."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * 2 * x.detach()


class RightSquare(WrongSquare):
    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * 2 * x


class Squared(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.first, self.second, self.function = nn.Linear(4, 3), nn.Linear(3, 2), function

    def forward(self, x):
        return self.second(self.function.apply(self.first(x)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("matrix", ["hessian", "gauss-newton"])
def test_custom_functions(dtype, matrix):
    torch.manual_seed(0)
    x = torch.randn(12, 4, dtype=dtype)
    loss = lambda m, x: m(x).square().sum(1)  # noqa: E731
    right, wrong = Squared(RightSquare).to(dtype), Squared(WrongSquare).to(dtype)
    measures = (
        lambda m: gf.hessian_trace(m, loss, x, matrix=matrix),
        lambda m: gf.hessian_top_eigenvalues(m, loss, x, matrix=matrix),
        lambda m: gf.hessian_density(m, loss, x, probes=2, matrix=matrix),
    )
    for measure in measures:
        measure(right)
        with pytest.raises(ValueError, match=r"derivative of first \(Linear\).*WrongSquare"):
            measure(wrong)


def test_an_asymmetric_product_names_its_module():
    """Made of torch's own operations only: a gradient that is none of any function."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4)), torch.randn(9, 3)

    def loss(m, x):
        z = m(x)
        if z.requires_grad:
            z.register_hook(lambda g: g * torch.arange(1.0, 5.0) * z[:, :1].exp())
        return z.square().sum(1)

    with pytest.raises(ValueError, match=r"second derivative of .*\(Linear\).* wrong"):
        gf.hessian_top_eigenvalues(model, loss, x, k=3)


def solved():
    """A network of ReLU that has solved its task: its loss is next to zero, its Hessian in float32
    asymmetric by rounding, and differences of its gradient cross kinks."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 256), nn.ReLU(), nn.Linear(256, 30))
    x, y = torch.randn(400, 20), torch.randint(0, 30, (400,))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(400):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model, lambda m, b: F.cross_entropy(m(b[0]), b[1], reduction="none"), (x, y)


@pytest.mark.parametrize("sharper", [1.0, 1.5, 2.0, 3.0])
def test_kinks_and_next_to_no_loss_are_no_wrong_derivative(sharper):
    model, losses, (x, y) = solved()
    with torch.no_grad():
        for parameter in model[2].parameters():
            parameter *= sharper
    assert losses(model, (x, y)).mean() < 1e-3
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = gf.hessian_top_eigenvalues(model, losses, (x, y))
        trace = gf.hessian_trace(model, losses, (x, y), probes=60)
    assert (
        wrong_second_derivatives(model, losses, (x, y), [n for n, _ in model.named_parameters()])
        == []
    )
    double = copy.deepcopy(model).double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        exact = gf.hessian_top_eigenvalues(double, losses, (x.double(), y), max_iterations=400)
    away = (found.values - exact.values).abs()
    assert away <= 2 * found.residuals + 0.01 * exact.values.abs(), (found, exact)
    if found.asymmetry > 0.01:
        assert not found.converged and any("model.double()" in str(one.message) for one in said)
    assert trace.mean > 0


def test_padding_rows_are_no_wrong_derivative():
    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.squared = nn.Embedding(5, 4, padding_idx=0), Squared(RightSquare)

        def forward(self, tokens):
            return self.squared(self.table(tokens)).sum(1)

    torch.manual_seed(0)
    model = Padded()
    with torch.no_grad():
        model.table.weight[0] = 1.0
    tokens = torch.randint(0, 5, (8, 3))
    assert gf.hessian_trace(model, lambda m, x: m(x).square().sum(1), tokens).products == 30


# Types and scales


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_hessians_of_16_bit_models_are_computed_widened(dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).to(dtype)
    x = torch.randn(30, 4).to(dtype)
    loss = lambda m, x: m(x).square().sum(1)  # noqa: E731
    wide, data = copy.deepcopy(model).float(), x.float()
    top = gf.hessian_top_eigenvalues(model, loss, x, k=2)
    assert torch.equal(top.values, gf.hessian_top_eigenvalues(wide, loss, data, k=2).values)
    assert gf.hessian_trace(model, loss, x) == gf.hessian_trace(wide, loss, data)
    layers = gf.hessian_top_eigenvalues(model, loss, x, per_layer=True)
    assert layers.keys() == {"0", "2"} and layers["0"].vectors.dtype == torch.float32
    assert next(model.parameters()).dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-30, 1e-24, 1e-12, 1e12, 1e19, 1e30])
def test_losses_of_any_size(scale, dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).to(dtype)
    x = torch.randn(12, 4, dtype=dtype)
    loss = lambda m, x: m(x).square().sum(1)  # noqa: E731
    scaled = lambda m, x: loss(m, x) * scale  # noqa: E731
    tight = {"rtol": 1e-4, "atol": 0.0}
    gram = gf.gradient_gram(model, scaled, x)
    torch.testing.assert_close(
        gram / scale / scale, gf.gradient_gram(model, loss, x), rtol=1e-4, atol=1e-5
    )
    for rank in (gf.fisher_effective_rank, gf.gradient_covariance_rank):
        assert rank(model, scaled, x) == pytest.approx(rank(model, loss, x), rel=1e-4)
    top, other = (gf.hessian_top_eigenvalues(model, f, x, k=2) for f in (scaled, loss))
    torch.testing.assert_close(top.values / scale, other.values, **tight)
    trace = gf.hessian_trace(model, scaled, x, probes=60)
    expected = gf.hessian_trace(model, loss, x, probes=60)
    assert trace.mean / scale == pytest.approx(expected.mean, rel=1e-4)
    density = gf.hessian_density(model, scaled, x)
    area = torch.trapezoid(density.density, density.grid).item()
    assert area == pytest.approx(1.0, abs=2e-3)


def test_a_zero_gradient_has_rank_zero():
    model = nn.Linear(3, 1, bias=False)
    loss = lambda m, x: 0.0 * m(x)[:, 0]  # noqa: E731
    assert gf.fisher_effective_rank(model, loss, torch.randn(5, 3)) == 0.0


def test_hessian_products_without_a_guard_still_count_batches_apart():
    model, x = nn.Linear(3, 2).double(), torch.randn(8, 3).double()
    loss = lambda m, b: F.mse_loss(m(b[0]), b[1], reduction="none").sum(1)  # noqa: E731
    y = torch.zeros(8, 2).double()
    one = HessianProducts(model, loss, (x, y))
    two = HessianProducts(model, loss, [(x[:3], y[:3]), (x[3:], y[3:])], kept_bytes=0)
    v = torch.randn(one.dimension, dtype=torch.float64)
    torch.testing.assert_close(one(v), two(v))

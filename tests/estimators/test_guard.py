"""A user's model while it is measured: random losses refused, everything left as it was."""

import copy
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

import geomfast as gf

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated:DeprecationWarning"),
]

X = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))


def squares(model, x):
    out = model(x)
    out = out[0] if isinstance(out, tuple) else out
    return out.square().flatten(1).sum(1)


MEASURES = {
    "gram": lambda m, loss, x: gf.gradient_gram(m, loss, x),
    "top": lambda m, loss, x: gf.hessian_top_eigenvalues(m, loss, x, k=2),
    "layers": lambda m, loss, x: gf.hessian_top_eigenvalues(m, loss, x, per_layer=True),
    "trace": lambda m, loss, x: gf.hessian_trace(m, loss, x),
    "density": lambda m, loss, x: gf.hessian_density(m, loss, x, probes=2, iterations=5),
    "llc": lambda m, loss, x: gf.llc(m, loss, x, lr=1e-6, draws=6, burn_in=2, chains=2),
    "minibatches": lambda m, loss, x: gf.llc(
        m, loss, x, lr=1e-6, draws=6, burn_in=2, chains=2, batch_size=5
    ),
}


class Function(nn.Module):
    """A function of the output of a linear map."""

    def __init__(self, function):
        super().__init__()
        self.linear, self.function = nn.Linear(6, 6), function

    def forward(self, x):
        return self.function(self.linear(x))


class DropPath(nn.Module):
    def forward(self, x):
        return x * torch.empty(len(x), 1).bernoulli_(0.9)


own = torch.Generator().manual_seed(0)
RANDOM = {
    "alpha dropout": lambda x: F.alpha_dropout(x, 0.2, training=True),
    "dropout1d": lambda x: F.dropout1d(x[:, None], 0.2)[:, 0],
    "dropout2d": lambda x: F.dropout2d(x[:, :, None, None], 0.2).flatten(1),
    "torch.dropout": lambda x: torch.dropout(x, 0.1, True),
    "rrelu": lambda x: F.rrelu(x, training=True),
    "rand": lambda x: x + torch.rand(6),
    "rand_like": lambda x: x * torch.rand_like(x),
    "normal_": lambda x: x + torch.empty(6).normal_(),
    "numpy": lambda x: x + np.random.rand(),
    "python": lambda x: x + random.random(),
    "its own generator": lambda x: x + torch.rand(6, generator=own),
    "gumbel": lambda x: F.gumbel_softmax(x),
}
MODULES = {
    "MultiheadAttention": lambda: nn.MultiheadAttention(6, 2, dropout=0.3, batch_first=True),
    "LSTM": lambda: nn.LSTM(6, 6, 2, dropout=0.3, batch_first=True),
    "GRU": lambda: nn.GRU(6, 6, 2, dropout=0.3, batch_first=True),
    "RReLU": lambda: nn.RReLU(),
    "DropPath": lambda: DropPath(),
}


class Calls(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.first, self.inner = nn.Linear(6, 6), inner

    def forward(self, x):
        x = self.first(x)
        if isinstance(self.inner, nn.MultiheadAttention):
            return self.inner(x[:, None], x[:, None], x[:, None])[0]
        if isinstance(self.inner, (nn.LSTM, nn.GRU)):
            return self.inner(x[:, None])[0]
        return self.inner(x)


@pytest.mark.parametrize("measure", ["gram", "trace", "llc", "minibatches"])
@pytest.mark.parametrize("kind", RANDOM)
def test_random_losses_are_refused(kind, measure):
    torch.manual_seed(0)
    model = Function(RANDOM[kind])
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    with pytest.raises(ValueError, match=r"random|dropout is on"):
        MEASURES[measure](model, squares, X)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), np.random.get_state()[1].tolist())


@pytest.mark.parametrize("measure", ["gram", "trace", "llc"])
@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("samples", [2, 20])
def test_the_random_module_is_named(kind, measure, samples):
    torch.manual_seed(0)
    model = Calls(MODULES[kind]()).train()
    with pytest.raises(ValueError, match=rf"inner \({kind}\)"):
        MEASURES[measure](model, squares, X[:samples])
    if kind != "DropPath":
        MEASURES[measure](model.eval(), squares, X[:samples])


def test_a_random_loss_function_is_named():
    with pytest.raises(ValueError, match="differ in the loss function"):
        gf.hessian_trace(nn.Linear(6, 2), lambda m, x: squares(m, x) * torch.rand(20), X)


def like(model, function):
    other = copy.deepcopy(model)
    other.function = function
    return other


def test_random_numbers_that_change_nothing_are_no_reason():
    model = Function(lambda x: x + 0.0 * torch.rand(6))
    assert torch.equal(
        gf.gradient_gram(model, squares, X),
        gf.gradient_gram(like(model, lambda x: x + 0.0), squares, X),
    )


class Keeps(nn.Module):
    """Keeps its last activation and counts its calls, as many hooks and probes do."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 4)
        self.last, self.calls, self.seen = None, 0, []
        self.register_buffer("total", torch.zeros(()))
        self.plain = torch.zeros(4)

    def forward(self, x):
        x = self.linear(x)
        self.last = x
        self.calls += 1
        self.seen.append(x.shape)
        self.total += 1
        self.plain += x.detach().mean(0)
        self.extra = x
        return x


KEPT = {
    "instance norm": lambda: nn.Sequential(
        *(nn.Linear(6, 8), nn.Unflatten(1, (2, 4)), nn.InstanceNorm1d(2, track_running_stats=True))
    ),
    "old spectral norm": lambda: spectral_norm(nn.Linear(6, 4)),
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Linear(6, 4)),
    "old weight norm": lambda: weight_norm(nn.Linear(6, 4)),
    "weight norm": lambda: parametrizations.weight_norm(nn.Linear(6, 4)),
    "kept": lambda: nn.Sequential(nn.Linear(6, 6), Keeps()),
    "max_norm": lambda: Table(),
}


class Table(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.out = nn.Embedding(7, 5, max_norm=1.0), nn.Linear(5, 3)

    def forward(self, x):
        return self.out(self.table((x[:, 0].abs() * 3).long() % 7))


def state(model):
    found = {name: x.detach().clone() for name, x in model.state_dict().items()}
    for path, module in model.named_modules():
        for name, x in module.__dict__.items():
            if isinstance(x, (int, torch.Tensor)) or name in ("seen", "last", "extra"):
                found[f"{path}:{name}"] = copy.copy(x) if not isinstance(x, torch.Tensor) else x
    return found


def same(a, b):
    return a.keys() == b.keys() and all(
        torch.equal(x, b[name]) if isinstance(x, torch.Tensor) else x == b[name]
        for name, x in a.items()
    )


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("kind", KEPT)
@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(kind, measure, training):
    torch.manual_seed(0)
    model = KEPT[kind]().train(training)
    before = state(model)
    modes = [m.training for m in model.modules()]
    objects = [id(x) for x in (*model.parameters(), *model.buffers())]
    if kind == "max_norm" and measure in ("llc", "minibatches"):
        with pytest.raises(ValueError, match=r"table \(Embedding\) cuts its rows"):
            MEASURES[measure](model, squares, X)
    else:
        first, second = (MEASURES[measure](model, squares, X) for _ in range(2))
        assert str(first) == str(second)
    assert same(before, state(model))
    assert modes == [m.training for m in model.modules()]
    assert objects == [id(x) for x in (*model.parameters(), *model.buffers())]
    assert all(p.grad is None for p in model.parameters())
    if not kind.startswith("old"):  # whose weight is a result of its own
        copy.deepcopy(model)
    fastpath = torch.backends.mha.get_fastpath_enabled()
    assert fastpath and torch.is_grad_enabled()


def test_the_model_is_left_as_it_was_after_an_error():
    model = nn.Sequential(nn.Linear(6, 6), Keeps())
    before = state(model)

    def fails(m, x):
        m(x)
        raise RuntimeError("stop")

    for measure in MEASURES.values():
        with pytest.raises(RuntimeError, match="stop"):
            measure(model, fails, X)
        assert same(before, state(model))


def test_a_table_with_max_norm_counts_by_what_its_pass_looks_up():
    torch.manual_seed(0)
    model = Table()
    plain = copy.deepcopy(model)
    with torch.no_grad():
        torch.embedding_renorm_(plain.table.weight, torch.arange(7), 1.0, 2.0)
    plain.table.max_norm = None
    assert torch.equal(gf.gradient_gram(model, squares, X), gf.gradient_gram(plain, squares, X))
    assert gf.hessian_trace(model, squares, X).mean == gf.hessian_trace(plain, squares, X).mean


def test_a_compiled_model_and_autocast_outside():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2))
    compiled = torch.compile(model)
    for measure in MEASURES.values():
        expected = measure(model, squares, X)
        assert str(measure(compiled, squares, X)) == str(expected)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert str(measure(model, squares, X)) == str(expected)
        with torch.no_grad():
            assert str(measure(model, squares, X)) == str(expected)


class Padded(nn.Module):
    """Encoder layers that take a fused path in evaluation, where a mask makes nested tensors."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)

    def forward(self, batch):
        x, padding = batch
        return self.encoder(x, src_key_padding_mask=padding).masked_fill(padding[..., None], 0.0)


@pytest.mark.parametrize("measure", MEASURES)
def test_encoder_layers_with_padding_in_evaluation(measure):
    torch.manual_seed(0)
    model = Padded().eval()
    x = torch.randn(6, 5, 6)
    padding = torch.arange(5) >= torch.tensor([5, 3, 2, 4, 1, 3])[:, None]
    found = MEASURES[measure](model, squares, (x, padding))
    if measure == "gram":
        rows = []
        for i in range(6):
            n = int((~padding[i]).sum())
            one = squares(model, (x[i : i + 1, :n], padding[i : i + 1, :n]))[0]
            gradients = torch.autograd.grad(one, list(model.parameters()))
            rows.append(torch.cat([g.reshape(-1) for g in gradients]).double())
        expected = torch.stack(rows) @ torch.stack(rows).mT
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("measure", MEASURES)
def test_sparse_embeddings(measure):
    def made(sparse):
        torch.manual_seed(0)
        return nn.Sequential(nn.Embedding(9, 4, sparse=sparse), nn.Flatten(), nn.Linear(12, 2))

    tokens = torch.randint(0, 9, (8, 3), generator=torch.Generator().manual_seed(1))
    dense, sparse = (MEASURES[measure](made(s), squares, tokens) for s in (False, True))
    assert str(dense) == str(sparse)


@pytest.mark.parametrize("measure", MEASURES)
def test_complex_parameters_are_refused_by_name(measure):
    class Complex(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(6, 3)
            self.phase = nn.Parameter(torch.randn(3, dtype=torch.complex64))

        def forward(self, x):
            return (self.first(x) * self.phase).abs()

    with pytest.raises(ValueError, match=r"parameter phase is complex .*view_as_real"):
        MEASURES[measure](Complex(), squares, X)

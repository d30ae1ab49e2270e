"""What longer runs of drawn models found, each as its smallest input."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from geomfast.estimators.gradients import gradient_gram
from geomfast.estimators.hessian import Rounded, hessian_trace


def squares(model, batch):
    return model(batch).flatten(1).square().sum(1)


def exact_gram(model, batch):
    parameters = list(model.parameters())
    rows = []
    for i in range(len(batch)):
        loss = squares(model, batch[i : i + 1])[0]
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]))
    return torch.stack(rows) @ torch.stack(rows).T


class PackedRows(nn.Module):
    """All of one length: torch's sort of more than 16 equal lengths does not keep their order."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        lengths = torch.full((len(x),), x.shape[1])
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        packed = PackedSequence(self.layer(packed.data), *packed[1:])
        return pad_packed_sequence(packed, batch_first=True)[0]


class ByLength(nn.Module):
    """The same by hand."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        order = torch.ones(len(x)).argsort()
        return self.layer(x[order])[order.argsort()]


@pytest.mark.parametrize("samples", [48, 60, 32, 37])
@pytest.mark.parametrize("kind", [PackedRows, ByLength])
def test_ties_sorted_in_another_order_by_a_larger_batch(kind, samples):
    torch.manual_seed(0)
    model, x = kind().double(), torch.randn(samples, 2, 3).double()
    torch.testing.assert_close(gradient_gram(model, squares, x), exact_gram(model, x))


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("shape", [(4, 3), (4, 2, 3)])
def test_layers_of_no_width(shape):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 0), nn.Linear(0, 2)).double()
    x = torch.randn(shape).double()
    torch.testing.assert_close(gradient_gram(model, squares, x), exact_gram(model, x))


class BeforeNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv1d(2, 2, 2), nn.InstanceNorm1d(2, affine=True)
        self.head = nn.Linear(2, 6)

    def forward(self, x):
        return self.head(nn.functional.softplus(self.norm(self.conv(x))).mean(-1)) - 1.0


def test_a_block_of_the_hessian_that_is_nothing_but_rounding():
    for seed in range(20):
        torch.manual_seed(seed)
        model, x = BeforeNorm().double(), torch.randn(2, 2, 17).double()
        scale = hessian_trace(model, squares, x, params=["conv.weight"]).mean
        with warnings.catch_warnings():  # which may say that it is
            warnings.simplefilter("ignore", Rounded)
            found = hessian_trace(model, squares, x, params=["conv.bias"]).mean
        assert abs(found) < 1e-9 * abs(scale)


class VmapAndNoise(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.drop = nn.Linear(3, 3), nn.RReLU(0.1, 0.9)

    def forward(self, x):
        return self.drop(torch.vmap(self.layer)(x))


@pytest.mark.parametrize("measure", [gradient_gram, hessian_trace])
def test_randomness_is_named_beside_modules_inside_vmap(measure):
    torch.manual_seed(0)
    with pytest.raises(ValueError, match=r"random.*drop \(RReLU\)"):
        measure(VmapAndNoise(), squares, torch.randn(8, 3))


@pytest.mark.parametrize("positions", [1, 9])
def test_dead_units_in_float32(positions):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 6, bias=False))
    nn.init.constant_(model[0].bias, -100.0)
    loss = lambda model, x: (model(x) - 1.0).flatten(1).square().sum(1)  # noqa: E731
    grams = gradient_gram(model, loss, torch.randn(15, positions, 3), per_layer=True)
    assert all(torch.equal(gram, torch.zeros(15, 15).double()) for gram in grams.values())

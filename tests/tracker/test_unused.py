"""Parameters that no loss depends on: named once, and left out on request."""

import logging

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import geomfast as gf
from geomfast.measures.model.measuring import measure_model
from geomfast.measures.model.options import ModelSettings
from tests.tracker.tracked import WIDTH, batch, loss_fn

FAST = {"hessian_trace": {"probes": 6}, "llc": {"draws": 4, "burn_in": 1, "batch_size": 8}}
NAMES = ("fisher_rank", "gradient_covariance_rank", "hessian_top", "hessian_trace", "llc")
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")


class Pooled(nn.Module):
    """A head that is used and a pooler that is not, but for its bias where `half`."""

    def __init__(self, half=False):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(WIDTH, 6), nn.Tanh())
        self.pooler = nn.Sequential(nn.Linear(6, 3), nn.Linear(3, 2))
        self.head = nn.Linear(6, 4)
        self.half = half

    def forward(self, x):
        out = self.head(self.body(x))
        return out + self.pooler[1].bias.sum() * x[:, :1] if self.half else out


class Experts(nn.Module):
    """Of three experts the samples use two, of which the first four samples use one."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.experts = nn.ModuleList(nn.Linear(WIDTH, 4) for _ in range(3))

    def forward(self, x):
        chosen = (x[:, 0] > 0).long()
        out = x.new_zeros(len(x), 4)
        for i, expert in enumerate(self.experts):
            if (chosen == i).any():
                out = out + (chosen == i)[:, None] * expert(x)
        return out


def taken(model, params=None, data=None):
    said = []
    how = ModelSettings.asked(FAST, params=params)
    found = measure_model(model, loss_fn, data or batch(), NAMES, how, notice=said.append)
    return {f.measure: f.value for f in found}, said


def close(a, b):
    return all(a[name] == pytest.approx(b[name], rel=1e-3, nan_ok=True) for name in b)


def test_they_count_for_nothing_and_are_named_together():
    model = Pooled()
    found, (said,) = taken(model)
    assert "pooler.0.weight, pooler.0.bias, pooler.1.weight, pooler.1.bias" in said
    assert "params=('!pooler.*',)" in said
    left_out, nothing = taken(model, "!pooler.*")
    assert nothing == [] and left_out == found
    without = Pooled()
    del without.pooler
    assert close(taken(without)[0], found)
    assert all(p.requires_grad for p in model.parameters())


def test_a_module_of_which_some_is_used():
    found, (said,) = taken(Pooled(half=True))
    assert "'!pooler.0.*', '!pooler.1.weight'" in said and found["fisher_rank"] > 1


def test_experts_that_only_some_samples_use_are_none():
    x, y = batch()
    order = x[:, 0].argsort()
    found, (said, chains) = taken(Experts(), data=(x[order], y[order]))
    assert "one after the other" in chains  # for which of them are used depends on the data
    assert "experts.2.weight, experts.2.bias" in said and "experts.1" not in said
    losses = F.cross_entropy(Experts()(x), y, reduction="none")
    assert losses.isfinite().all() and found["fisher_rank"] > 1


@pytest.mark.parametrize(
    ("params", "same_as"),
    [
        ("head.*", ["!body.*", "!pooler.*"]),
        (["!head.bias", "!pooler.*"], ["body.*", "head.weight"]),
    ],
)
def test_some_of_the_parameters(params, same_as):
    one, _ = taken(Pooled(), params)
    two, _ = taken(Pooled(), same_as)
    assert one == two != taken(Pooled())[0]
    model = Pooled()
    expected = gf.fisher_effective_rank(
        model, loss_fn, batch(), params=[params] if isinstance(params, str) else params
    )
    assert one["fisher_rank"] == pytest.approx(expected, rel=1e-6)


def test_a_tracker_says_it_once(tmp_path, caplog):
    caplog.set_level(logging.WARNING, "geomfast")
    with gf.Tracker(
        Pooled(), loss_fn, batch(), measures=NAMES, out=tmp_path, max_overhead=None, **FAST
    ) as tracker:
        for step in range(3):
            tracker.step(step)
    assert sum("no sample's loss depends on" in said for said in caplog.messages) == 1
    assert gf.load_records(tmp_path).query("measure in @NAMES")["value"].notna().all()
    assert not (tmp_path / "failures").exists()


class Recurrent(nn.Module):
    """Which vmap cannot run: its chains go on one after the other."""

    def __init__(self):
        super().__init__()
        self.rnn, self.out = nn.GRU(WIDTH, 4, batch_first=True), nn.Linear(4, 4)

    def forward(self, x):
        return self.out(self.rnn(x[:, None])[0][:, -1])


def test_chains_that_are_no_one_program_are_told_once(tmp_path, caplog):
    caplog.set_level(logging.WARNING, "geomfast")
    with gf.Tracker(
        Recurrent(), loss_fn, batch(), measures="llc", out=tmp_path, max_overhead=None,
        llc={**FAST["llc"], "chains": 2},
    ) as tracker:  # fmt: skip
        for step in range(3):
            tracker.step(step)
    said = [line for line in caplog.messages if "one after the other" in line]
    assert len(said) == 1
    assert gf.load_records(tmp_path).query("measure == 'llc'")["value"].notna().all()

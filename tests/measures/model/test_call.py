"""``gf.measure``: what one call gives, and what it refuses."""

import json
import math

import pandas as pd
import pytest
import torch
from torch import nn

import geomfast as gf
from geomfast.measures.model.measurement import Measurement


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(8, 8) for _ in range(2)])
        self.out = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = torch.tanh(block(x))
        return self.out(x)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return Net()


X = torch.randn(24, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(24) % 3
DATA = (X, Y)
_CROSS = nn.CrossEntropyLoss(reduction="none")


def loss(model, batch):
    return _CROSS(model(batch[0]), batch[1])


def test_values_are_those_of_the_functions(model):
    found = gf.measure(
        model, loss, DATA, "all", llc={"lr": 1e-4, "draws": 20}, hessian_trace={"probes": 8}
    )
    assert found["fisher_rank"].value == pytest.approx(
        gf.fisher_effective_rank(model, loss, DATA), rel=1e-9
    )
    top = gf.hessian_top_eigenvalues(model, loss, DATA)
    assert found["hessian_top"].value == top.values[0].item()
    assert found["hessian_top"].verdict == "converged"
    trace = gf.hessian_trace(model, loss, DATA, probes=8)
    assert (found["hessian_trace"].value, found["hessian_trace"].stderr) == (
        trace.mean,
        trace.stderr,
    )
    chains = gf.llc(
        model,
        loss,
        DATA,
        lr=1e-4,
        draws=20,
        max_draws=80,
        localization="norm",
        chains=4,
        batch_size=24,
    )
    assert found["llc"].value == pytest.approx(chains.mean, rel=1e-6)
    assert found["llc"].verdict == chains.verdict
    with torch.no_grad():
        states = torch.tanh(model.blocks[0](X))
    # Blocks are the modules of the list: their own output, before what forward makes of it.
    assert found["rankme", "block 1"].value == pytest.approx(
        gf.rankme(model.blocks[0](X)).item(), rel=1e-9
    )
    assert states.shape == (24, 8)


def test_a_table_for_people_and_a_frame_for_programs(model, tmp_path):
    found = gf.measure(model, loss, DATA)
    assert isinstance(found, Measurement) and len(found) == 2 * 3 + 2 * 2
    shown = str(found)
    assert "rankme" in shown and "block 1" in shown and "fisher_rank" in shown
    assert found.frame.shape[0] == len(found) and isinstance(found.frame, pd.DataFrame)
    told = json.loads(found.to_json(tmp_path / "found.json"))
    assert told == json.loads((tmp_path / "found.json").read_text())
    assert [one["name"] for one in told["values"]] == [one.name for one in found]
    page = found.report(tmp_path / "found.html").read_text()
    assert "<table>" in page and "http" not in page and "fisher_rank" in page
    assert "<table>" in found._repr_html_() and repr(found) == shown


def test_the_model_and_the_random_numbers_are_left_alone(model):
    model.train()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    state = torch.get_rng_state()
    gf.measure(model, loss, DATA, "all", llc={"lr": 1e-4, "draws": 5, "burn_in": 0})
    assert model.training and all(p.grad is None for p in model.parameters())
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())


def test_a_measure_that_fails_leaves_the_others_and_says_why(model):
    found = gf.measure(model, loss, DATA, ["rankme", "fisher_rank"], states=dict)
    assert math.isnan(found["rankme"].value) and found["rankme"].doubtful
    assert found["rankme"].verdict == "failed: ValueError: states gave no layer"
    assert "states gave no layer" in str(found) and found["fisher_rank"].value > 1.0
    for measures, more in (("rankme", {}), (["rankme", "fisher_rank"], {"raise_failures": True})):
        with pytest.raises(ValueError, match="states gave no layer"):
            gf.measure(model, loss, DATA, measures, states=dict, **more)
    with pytest.raises(ValueError, match=r"llc: lr must be a finite number, above 0, not -1\.0"):
        gf.measure(model, loss, DATA, "llc", llc={"lr": -1.0})


def test_a_model_without_blocks_has_gradients_all_the_same():
    plain = nn.Linear(8, 3)
    found = gf.measure(plain, loss, DATA)
    assert found["fisher_rank"].value > 1.0
    assert found["rankme"].verdict.startswith("failed: NoStates")


def test_activations_alone_need_no_loss(model):
    found = gf.measure(model, None, X)
    assert {entry.name for entry in found} == {"rankme", "centered_rankme"}
    assert gf.measure(model, data=X, measures="rankme", layers=["blocks.1", "out"]).frame[
        "layer"
    ].tolist() == ["block 1", "final"]


@pytest.mark.parametrize(
    ("arguments", "more", "error", "said"),
    [
        ((loss, DATA, "rankm"), {}, ValueError, "unknown measure 'rankm'; there are: rankme"),
        ((loss, DATA, 3), {}, TypeError, "measures must be names"),
        ((loss, DATA, ["llc", 3]), {}, TypeError, "measures must be names of measures, not 3"),
        ((loss, DATA, ["probe_accuracy"]), {}, ValueError, "needs an answer of every sample"),
        ((loss, DATA), {"llc": {"lr": 1e-5}}, ValueError, "settings of llc, which is not among"),
        ((loss, DATA, "llc"), {"llc": {"rate": 1}}, TypeError, "llc has no setting 'rate'; it has"),
        ((loss, DATA, "llc"), {"llc": 3}, TypeError, "llc must be a mapping of its settings"),
        ((loss, DATA, "llc"), {"lr": 1e-5}, ValueError, "unknown measure 'lr'"),
        ((None, X, ["llc"]), {}, ValueError, "llc needs a loss_fn"),
        ((loss, DATA), {"samples": 1}, ValueError, "samples must be a whole number, 2 or more"),
        ((loss, DATA), {"position": "first"}, ValueError, "position must be one of last"),
        ((loss, DATA, "llc"), {"params": "nothing"}, ValueError, "matches none of"),
    ],
)
def test_what_cannot_be_right(model, arguments, more, error, said):
    with pytest.raises(error, match=said):
        gf.measure(model, *arguments, **more)


def test_no_model():
    with pytest.raises(TypeError, match="model"):
        gf.measure(lambda x: x, loss, DATA)


def test_centered_rankme_is_that_of_the_states_less_their_mean(model):
    shifted = X + 100.0
    found = gf.measure(model, data=shifted, measures=("rankme", "centered_rankme"))
    state = model.blocks[0](shifted).detach()
    assert found["centered_rankme", "block 1"].value == pytest.approx(
        gf.rankme(state, center=True).item(), rel=1e-9
    )
    assert found["rankme", "block 1"].value < found["centered_rankme", "block 1"].value
    alike = gf.measure(model, data=X[:1].expand(6, -1), measures="centered_rankme")
    assert alike["centered_rankme", "block 1"].value <= 1.0


def test_values_by_name(model):
    found = gf.measure(model, loss, DATA)
    with pytest.raises(KeyError, match="rankme has a value for each layer"):
        found["rankme"]
    with pytest.raises(
        KeyError, match="no value 'llc'; there are: rankme, centered_rankme, fisher"
    ):
        found["llc"]
    assert found[0].name == "rankme" and found[-1].name.startswith("gradient_covariance_rank")


def test_words_for_several_stand_among_names():
    model, x = torch.nn.Linear(8, 3), torch.randn(30, 8)

    def taken(measures):
        found = gf.measure(model, loss, (x, torch.arange(30) % 3), measures, layers=[""])
        return {entry.measure for entry in found}

    def loss(model, batch):
        return torch.nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")

    assert taken(["one-pass"]) == taken("one-pass")
    assert taken(["two_nn", "cheap"]) == taken("cheap") | {"two_nn"}
    with pytest.raises(ValueError, match="unknown measure 'one-passes'"):
        taken(["one-passes"])

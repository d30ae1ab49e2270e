"""Into evaluation mode and back through the modules' own methods, with nothing left behind."""

import copy
from contextlib import contextmanager

import pytest
import torch
from torch import nn

import geomfast as gf
from geomfast.measures.model.evaluation import at_work, evaluating
from geomfast.measures.model.measuring import measure_model
from geomfast.measures.model.options import ModelSettings
from geomfast.measures.model.states import activations
from geomfast.tracker.copies import EvaluationCopy
from tests.measures.model.working_modes import MIDDLES, Around, LoraLinear, state
from tests.tracker.tracked import WIDTH, batch, loss_fn

SETTINGS = {
    "hessian_trace": {"probes": 6},
    "llc": {"draws": 3, "burn_in": 1, "chains": 2, "batch_size": 8},
}
QUICK = ModelSettings.asked(SETTINGS)
#: Those whose gradients flow to all their parameters in evaluation mode.
MEASURES = ("rankme", "fisher_rank", "hessian_trace", "llc")
X, Y = batch()

pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")


def trained(middle, steps=3, mode=True):
    """As it is in the middle of training, a graph of its own still alive."""
    model = Around(middle).train()
    wanted = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(wanted, 0.1)
    for _ in range(steps):
        optimiser.zero_grad()
        loss_fn(model, (X, Y)).mean().backward()
        optimiser.step()
    return model if mode else model.eval()


@pytest.mark.parametrize("mode", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("middle", MIDDLES)
def test_measuring_leaves_nothing_behind(middle, mode):
    model = trained(middle, mode=mode)
    model.first.eval()
    before = state(model)
    layers = {"layers": ["first"], "final": "middle"}
    # What a pass writes to parameters themselves has no gradient that measures would take.
    names = ["rankme"] if middle == "max_norm" else MEASURES
    measure_model(
        model, loss_fn, (X, Y), names, QUICK, states=lambda: activations(model, X, **layers)
    )
    assert state(model) == before


@pytest.mark.parametrize("middle", MIDDLES)
def test_training_goes_on_as_if_nothing_had_been_measured(middle, tmp_path):
    left = []
    for tracked in (False, True):
        model = trained(middle)
        options = {"layers": ["first", "middle"], "max_overhead": None, **SETTINGS}
        tracker = None
        if tracked:
            tracker = gf.Tracker(
                model, loss_fn, (X, Y), measures=MEASURES, out=tmp_path, every=1, **options
            )
        optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
        for step in range(3):
            if tracker is not None:
                tracker.step(step)
            optimiser.zero_grad()
            loss_fn(model, (X, Y)).mean().backward()
            optimiser.step()
        if tracker is not None:
            tracker.close()
        left.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*left, strict=True))
    records = gf.load_records(tmp_path)
    assert set(records["step"]) == {0, 1, 2}
    assert records.loc[records["measure"] == "loss", "value"].nunique() == 3


@pytest.mark.parametrize("middle", MIDDLES)
def test_the_copy_is_the_model_in_evaluation_mode(middle):
    model = trained(middle)
    made = EvaluationCopy(model)
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    for mode in (True, True, False, True):
        optimiser.zero_grad()
        loss_fn(model.train(), (X, Y)).mean().backward()
        optimiser.step()
        model.train(mode)
        made.refresh()
        other = copy.deepcopy(model.state_dict())
        with evaluating(model), torch.no_grad():
            expected = loss_fn(model, (X, Y))
        with torch.no_grad():
            torch.testing.assert_close(loss_fn(made.module, (X, Y)), expected)
        model.load_state_dict(other)  # what max_norm does to the table, for one
        assert not any(module.training for module in made.module.modules())


@pytest.mark.parametrize("middle", ["lora", "silent lora", "half frozen"])
@pytest.mark.parametrize("mode", [True, False], ids=["training", "evaluation"])
def test_gradients_of_what_eval_folds_away(middle, mode):
    """As those of the same function, written out with every parameter for itself."""
    model = trained(middle).double()
    plain = copy.deepcopy(model)
    for module in plain.modules():
        if isinstance(module, LoraLinear):
            module.train()
    for module in plain.modules():
        module.training = False  # not through eval(): nothing is folded
    wanted = {name: p for name, p in plain.named_parameters() if p.requires_grad}
    x, y = X.double(), Y
    losses = loss_fn(plain, (x, y))
    rows = [torch.autograd.grad(one, [*wanted.values()], retain_graph=True) for one in losses]
    flat = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    share = torch.linalg.svdvals(flat).square()
    share = share / share.sum()
    expected = (-(share * share.clamp_min(1e-300).log()).sum()).exp().item()
    model.train(mode)
    (found, _) = measure_model(model, loss_fn, (x, y), ["fisher_rank"])
    assert found.value == pytest.approx(expected, rel=1e-6)


@contextmanager
def refused(model, error, said):
    """An error that leaves the model as it was."""
    before = state(model)
    with pytest.raises(error, match=said):
        yield
    assert state(model) == before


class Folding(nn.Linear):
    """Without a sign of what it has folded, and so not to be unfolded in evaluation mode."""

    def __init__(self):
        super().__init__(WIDTH, 4)
        self.scale = nn.Parameter(torch.tensor(2.0))

    def train(self, mode=True):
        if mode != self.training:
            self.weight.data *= 1 / self.scale.item() if mode else self.scale.item()
        return super().train(mode)

    def forward(self, x):
        weight = self.weight * self.scale if self.training else self.weight
        return nn.functional.linear(x, weight, self.bias)


def test_what_eval_folds_without_a_sign_is_refused():
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), Folding())
    with refused(model, ValueError, r"eval\(\) of 2 \(Folding\) changes parameter 2\.weight"):
        measure_model(model, loss_fn, (X, Y), ["fisher_rank"])


def test_a_train_that_fails_is_named_and_the_rest_put_back():
    class Broken(nn.Linear):
        def train(self, mode=True):
            if mode and not self.training:
                raise KeyError("plan")
            return super().train(mode)

    model = nn.Sequential(LoraLinear(WIDTH, WIDTH), Broken(WIDTH, 4))
    with refused(model, RuntimeError, r"1 \(Broken\): its own train\(True\) raised KeyError"):
        measure_model(model, loss_fn, (X, Y), ["fisher_rank"])


def test_attributes_that_training_changes_are_taken_over():
    class Annealed(nn.Linear):
        temperature = 1.0

        def forward(self, x):
            return super().forward(x) / self.temperature * self.mask

    model = nn.Sequential(Annealed(WIDTH, 4))
    model[0].mask = torch.ones(4)
    made = EvaluationCopy(model)
    model[0].temperature, model[0].mask = 0.25, torch.tensor([1.0, 0.0, 1.0, 0.0])
    made.refresh()
    assert torch.equal(made.module(X), model(X))


def test_what_the_copy_keeps_does_not_grow():
    model = trained("keeping")
    made = EvaluationCopy(model)
    for _ in range(3):
        made.refresh()
        made.module(X)
    made.refresh()
    kept, live = made.module.middle, model.middle
    assert (kept.calls, len(kept.all)) == (live.calls, len(live.all)) == (3, 3)
    assert kept.last is None or not kept.last.requires_grad


def test_hashes_are_of_the_weights_and_not_of_what_a_pass_makes_of_them(tmp_path):
    """A table that a forward pass renormalizes: a training that is resumed is the same."""
    model = trained("max_norm", 0)
    model.middle.table.weight.data *= 10.0
    options = {"measures": "fisher_rank", "out": tmp_path, "every": 1, "max_overhead": None}
    for _ in range(2):
        tracker = gf.Tracker(model, loss_fn, (X, Y), **options, raise_failures=True)
        tracker.step(0)
        tracker.step(1)
        tracker.close()
    assert len(gf.load_records(tmp_path)["weights"].unique()) == 1


def test_models_of_transformers_are_not_copied_for_their_train():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=9, n_positions=4)
    model = transformers.GPT2LMHeadModel(config)
    assert at_work(model) == []
    model.transformer.h.append(Around("lora"))
    assert [name for name, _ in at_work(model)] == ["transformer.h.1.middle"]

"""Measures beside the top eigenvalue: closed forms, one search for all, and what is not known."""

import math

import pytest
import torch

import geomfast as gf
from geomfast.estimators import hessian
from geomfast.estimators.subspace import subspace_overlap, top_subspace
from geomfast.measures import engine, spec_of
from geomfast.measures.subject import Samples, Subject
from tests import cases
from tests.estimators.curvature.cases import Quadratic, made, planted

SEARCH = {"k": 2, "tol": 1e-8, "max_iterations": 200}


def value(model, x):
    """1/2 w A w of every sample."""
    return model(x)


def quadratic(matrix, weight) -> Quadratic:
    model = Quadratic(matrix)
    with torch.no_grad():
        model.weight.copy_(weight)
    return model


class One(Subject):
    def __init__(self, model, loss=value, data=None, rate=None):
        self.model, self.learning_rate = model, rate
        self.sets = [Samples({"n": 2}, loss, torch.ones(2, 1) if data is None else data)]

    def observe(self):
        raise AssertionError("no measure of activations is wanted")


class Kept:
    """A state as a run has it."""

    def __init__(self):
        self.vectors = {}

    def start(self, number, of=""):
        return self.vectors.get((number, of))

    def keep(self, number, vectors, of=""):
        self.vectors[number, of] = vectors


def taken(subject, state=None, **settings):
    wanted = {name: spec_of(name).asked(**own) for name, own in settings.items()}
    rows = engine.measure(subject, wanted, state=state)
    return {row["measure"]: row for row in rows}


DIAGONAL = torch.diag(torch.tensor([5.0, 3.0, 1.0, 0.5], dtype=torch.float64))


def test_share_of_the_gradient_in_closed_form():
    """The gradient of 1/2 w A w is A w."""
    weight = torch.tensor([0.4, -1.0, 4.0, 2.0], dtype=torch.float64)
    parts = (DIAGONAL @ weight).square()
    found = taken(One(quadratic(DIAGONAL, weight)), hessian_subspace=SEARCH)
    row = found["hessian_subspace_gradient"]
    assert row["value"] == pytest.approx((parts[:2].sum() / parts.sum()).item(), rel=1e-6)
    assert math.isnan(row["stderr"]) and row["verdict"] == "converged"
    one = taken(One(quadratic(DIAGONAL, weight)), hessian_subspace={**SEARCH, "k": 1})
    share = one["hessian_subspace_gradient"]["value"]
    assert share == pytest.approx((parts[0] / parts.sum()).item(), rel=1e-6)


def test_share_of_a_network_against_dense_eigenvectors():
    from tests.estimators.curvature.cases import dense_hessian

    model, batch, loss = made("mlp", torch.float64)
    _, vectors = torch.linalg.eigh(dense_hessian(model, loss, batch))
    gradient = gf.hessian_operator(model, loss, batch).gradient()
    exact = ((vectors[:, -3:].mT @ gradient).square().sum() / gradient.square().sum()).item()
    found = top_subspace(model, loss, batch, k=3, tol=1e-8, max_iterations=400, seed=0)
    assert found.gradient_share == pytest.approx(exact, rel=1e-5)
    assert torch.equal(
        found.pairs.values,
        gf.hessian_top_eigenvalues(model, loss, batch, k=3, tol=1e-8, max_iterations=400).values,
    )


def test_a_gradient_of_zero_has_no_share():
    found = taken(One(quadratic(DIAGONAL, torch.zeros(4))), hessian_subspace=SEARCH)
    row = found["hessian_subspace_gradient"]
    assert math.isnan(row["value"]) and row["verdict"] == "the gradient is zero"


def test_overlap_in_closed_form():
    """Of two eigenvectors one turns by an angle: (1 + cos^2) / 2."""
    weight, state = torch.ones(4, dtype=torch.float64), Kept()
    first = taken(One(quadratic(DIAGONAL, weight)), state, hessian_subspace=SEARCH)
    row = first["hessian_subspace_overlap"]
    assert math.isnan(row["value"]) and row["verdict"].startswith("no earlier checkpoint")
    same = taken(One(quadratic(DIAGONAL, weight)), state, hessian_subspace=SEARCH)
    assert same["hessian_subspace_overlap"]["value"] == pytest.approx(1.0, abs=1e-9)
    angle = 0.7
    turn = torch.eye(4, dtype=torch.float64)
    turn[1, 1] = turn[3, 3] = math.cos(angle)
    turn[3, 1], turn[1, 3] = math.sin(angle), -math.sin(angle)
    turned = quadratic(turn @ DIAGONAL @ turn.mT, weight)
    found = taken(One(turned), state, hessian_subspace=SEARCH)
    row = found["hessian_subspace_overlap"]
    assert row["value"] == pytest.approx((1 + math.cos(angle) ** 2) / 2, rel=1e-6)
    assert row["verdict"] == "converged"


def test_overlap_of_spans():
    """Against the singular values of a product of orthonormal bases."""
    one, _ = torch.linalg.qr(cases.normal(20, 3, dtype=torch.float64))
    other, _ = torch.linalg.qr(cases.normal(20, 5, dtype=torch.float64, seed=1))
    cosines = torch.linalg.svdvals(one.mT @ other)
    exact = cosines.square().mean().item()
    assert subspace_overlap(one.mT, other.mT) == pytest.approx(exact, rel=1e-9)
    assert subspace_overlap(one.mT, -one.mT.flip(0)) == pytest.approx(1.0)
    assert subspace_overlap(torch.eye(4)[:2], torch.eye(4)[2:]) == 0.0
    with pytest.raises(ValueError, match="rows of 20 and 4 entries have no angles"):
        subspace_overlap(one.mT, torch.eye(4))


def test_one_search_for_all_and_the_top_eigenvalue_is_what_it_was(monkeypatch):
    searches = []
    search = hessian.eigenpairs
    monkeypatch.setattr(
        hessian, "eigenpairs", lambda *a, **k: searches.append(k["k"]) or search(*a, **k)
    )
    model, batch, loss = made("gpt")
    subject = One(model, loss, batch, 1e-3)
    alone = [taken(subject, state, hessian_top={}) for state in [Kept()] for _ in range(2)]
    assert searches == [1, 1]
    searches.clear()
    state = Kept()
    names = {"hessian_top": {}, "hessian_subspace": {}, "hessian_edge": {}}
    together = [taken(subject, state, **names) for _ in range(2)]
    assert searches == [1, 1]
    for one, several in zip(alone, together, strict=True):
        for name in ("hessian_top", "hessian_top_iterations"):
            kept = ("value", "stderr", "verdict")
            assert [one[name][key] for key in kept] == [several[name][key] for key in kept]
    top = together[1]["hessian_top"]
    assert together[1]["hessian_edge"]["value"] == 1e-3 * top["value"]
    assert together[1]["hessian_edge"]["stderr"] == 1e-3 * top["stderr"]
    assert set(state.vectors) == {(0, ""), (0, "hessian_subspace")}
    # Of other settings it is another search, and the one before does not start from it.
    searches.clear()
    state = Kept()
    names["hessian_subspace"] = {"k": 3}
    apart = [taken(subject, state, **names) for _ in range(2)]
    assert sorted(searches) == [1, 1, 3, 3]
    assert apart[1]["hessian_top"]["value"] == top["value"]
    assert state.vectors[0, ""].shape[0] == 1 and state.vectors[0, "hessian_subspace"].shape[0] == 3
    assert apart[1]["hessian_subspace_overlap"]["value"] == pytest.approx(1.0, abs=1e-3)


def test_top_eigenvalue_times_learning_rate():
    model = quadratic(DIAGONAL, torch.ones(4))
    found = taken(One(model), hessian_edge={"lr": 0.4, "tol": 1e-8})["hessian_edge"]
    assert found["value"] == pytest.approx(2.0) and found["verdict"] == "converged"
    followed = taken(One(model, rate=0.2), hessian_edge={"tol": 1e-8})["hessian_edge"]
    assert followed["value"] == pytest.approx(1.0)
    own = taken(One(model, rate=0.2), hessian_edge={"tol": 1e-8, "lr": 0.4})["hessian_edge"]
    assert own["value"] == found["value"]
    unknown = taken(One(model), hessian_edge={})["hessian_edge"]
    assert math.isnan(unknown["value"]) and "learning rate is not known" in unknown["verdict"]
    for wrong in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="hessian_edge: lr must be a finite number, above 0"):
            spec_of("hessian_edge").asked(lr=wrong)


def test_gradient_descent_leaves_a_minimum_from_two_on():
    """What the value means: w shrinks below 2, and grows above."""
    for rate, shrinks in ((0.39, True), (0.41, False)):
        model = quadratic(DIAGONAL, torch.ones(4))
        edge = taken(One(model, rate=rate), hessian_edge={})["hessian_edge"]["value"]
        optimizer = torch.optim.SGD(model.parameters(), lr=rate)
        for _ in range(50):
            optimizer.zero_grad()
            value(model, torch.ones(2, 1)).mean().backward()
            optimizer.step()
        assert (edge < 2) == shrinks == bool(model.weight.abs().max() < 1.0)


def test_share_of_negative_eigenvalues_in_closed_form():
    """Of a hundred: twenty at -1, fifty at 0 and within the width, thirty at 2."""
    near = torch.linspace(-0.01, 0.01, 50)
    model = planted(torch.cat([torch.full((20,), -1.0), near, torch.full((30,), 2.0)]))
    subject = One(model)
    found = taken(subject, hessian_negative={"probes": 40, "iterations": 20})
    negative, zero = found["hessian_negative"], found["hessian_negative_near_zero"]
    assert abs(negative["value"] - 0.2) <= 4 * negative["stderr"] < 0.1
    assert abs(zero["value"] - 0.5) <= 4 * zero["stderr"] < 0.15
    once = taken(subject, hessian_negative={"probes": 1, "iterations": 20})
    assert math.isnan(once["hessian_negative"]["stderr"])
    positive = taken(One(planted(torch.linspace(0.5, 2.0, 30))), hessian_negative={})
    assert positive["hessian_negative"]["value"] == 0.0


def test_one_density_for_both(monkeypatch):
    made_of = []
    density = hessian.spectral_density
    monkeypatch.setattr(
        hessian, "spectral_density", lambda *a, **k: made_of.append(k) or density(*a, **k)
    )
    subject = One(planted(torch.linspace(-0.5, 2.0, 30)))
    both = taken(subject, hessian_density={}, hessian_negative={})
    assert len(made_of) == 1
    assert both["hessian_negative"] | {"seconds": 0} == taken(subject, hessian_negative={})[
        "hessian_negative"
    ] | {"seconds": 0}
    taken(subject, hessian_density={"probes": 2}, hessian_negative={})
    assert len(made_of) == 4


def test_a_tracker_reads_the_optimizer_and_has_the_last_checkpoint(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3))
    x, y = cases.normal(20, 4), torch.arange(20) % 3
    cross = torch.nn.CrossEntropyLoss(reduction="none")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    names = ("hessian_top", "hessian_subspace", "hessian_edge")
    with gf.Tracker(
        model,
        lambda m, b: cross(m(b[0]), b[1]),
        (x, y),
        measures=names,
        every=1,
        max_overhead=None,
        out=tmp_path,
        optimizer=optimizer,
        raise_failures=True,
    ) as tracker:
        tracker.step(0)
        for step in (1, 2):
            optimizer.zero_grad()
            cross(model(x), y).mean().backward()
            optimizer.step()
            schedule.step()
            tracker.step(step)
        groups = [group.names for group in tracker._evaluator.groups]
    assert groups == [("loss",), names]  # one search for the three
    records = gf.load_records(tmp_path)
    table = records.pivot_table("value", "step", "measure", dropna=False)
    for step in (0, 1, 2):
        expected = 0.5 * 0.5**step * table["hessian_top"][step]
        assert table["hessian_edge"][step] == pytest.approx(expected)
    overlaps = table["hessian_subspace_overlap"]
    assert math.isnan(overlaps[0]) and 0.5 < overlaps[1] <= 1.0 and 0.5 < overlaps[2] <= 1.0
    assert records[records["measure"] == "hessian_edge"]["settings"].nunique() == 1


def test_an_optimizer_without_one_rate(tmp_path):
    from geomfast.tracker.values import learning_rate_of

    a, b = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    groups = [{"params": a.parameters(), "lr": 0.1}, {"params": b.parameters(), "lr": 0.2}]
    assert learning_rate_of(torch.optim.SGD(groups)) is None
    assert learning_rate_of(torch.optim.SGD(a.parameters(), lr=0.1)) == 0.1
    assert learning_rate_of(None) is None
    with pytest.raises(TypeError, match=r"optimizer must be a torch\.optim\.Optimizer, not float"):
        gf.Tracker(a, data=torch.ones(4, 2), out=tmp_path, optimizer=0.1)

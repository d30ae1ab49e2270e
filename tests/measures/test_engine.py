"""The engine: what it asks of subjects and measures, and what becomes of those that fail."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from geomfast.estimators.gradient_statistics import gradient_statistics, gradient_stiffness
from geomfast.estimators.neural_collapse import neural_collapse
from geomfast.estimators.similarity import cka
from geomfast.estimators.spectra import rankme, singular_values
from geomfast.measures import UnknownMeasure, engine, spec_of
from geomfast.measures.subject import Policy, Samples, Seen, Subject, Value
from tests import cases

LABELS = ["block 1", "final"]


def squares(model, x):
    return model(x).square().sum(-1)


class Two(Subject):
    """Two models that go through a pass together, on two sets of samples."""

    members = 2

    def __init__(self, states=None):
        self.passes = 0
        self.states = cases.normal(2, 2, 2, 12, 5) if states is None else states
        self.sets = [Samples({"task": name, "level": 1, "n": 12}) for name in "AB"]

    def observe(self):
        self.passes += 1
        shares = Value("accuracy", [0.5, 0.25], [0.1, 0.2])
        return [Seen([(LABELS, x)], [shares]) for x in self.states]


class One(Subject):
    def __init__(self, loss=squares):
        torch.manual_seed(0)
        self.model = nn.Linear(4, 3)
        self.sets = [Samples({"task": "A"}, loss, cases.normal(12, 4))]

    def observe(self):
        raise AssertionError("no measure of activations is wanted")


def defaults(*names):
    return {name: spec_of(name).settings() for name in names}


def test_members_share_one_pass_and_have_rows_of_their_own():
    subject = Two()
    rows = list(engine.measure(subject, defaults("rankme"), behaviour=True))
    assert subject.passes == 1 and len(rows) == 2 * 2 + 2 * 2 * 2
    ranks = rankme(subject.states)
    for row in rows:
        if row["measure"] == "rankme":
            at = ("AB".index(row["task"]), row["member"], LABELS.index(row["layer"]))
            assert row["value"] == pytest.approx(ranks[at].item(), rel=1e-12)
        else:
            assert row["of"] == "behaviour" and row["value"] in (0.5, 0.25)


def test_layers_of_several_shapes():
    class Ragged(Two):
        members = 1

        def observe(self):
            x = cases.normal(1, 1, 12, 5)
            return [Seen([(["block 1"], x), (["final"], x[..., :3])]) for _ in self.sets]

    rows = list(engine.measure(Ragged(), defaults("rankme")))
    assert [row["layer"] for row in rows] == LABELS * 2


@pytest.mark.parametrize("wanted", [{"rank": None}, {"": None}])
def test_an_unknown_measure_raises_at_once(wanted):
    with pytest.raises(UnknownMeasure, match="there are: rankme"):
        list(engine.measure(Two(), wanted))


def test_what_a_subject_lacks_is_said():
    with pytest.raises(ValueError, match="fisher_rank needs a loss_fn and data"):
        list(engine.measure(Two(), defaults("fisher_rank")))
    with pytest.raises(ValueError, match="probe_accuracy needs an answer of every sample"):
        list(engine.measure(Two(), defaults("probe_accuracy")))


def test_activations_that_are_not_finite_are_no_value(monkeypatch):
    states = cases.normal(2, 2, 2, 12, 5)
    states[0, 1, 0, 3, 2] = math.inf

    def without_a_check(x, center=False):  # as of a backend that does not wait for the GPU
        return torch.full((*x.shape[:-2], 5), torch.nan)

    monkeypatch.setattr("geomfast.measures.observed.singular_values", without_a_check)
    with pytest.raises(ValueError, match=r"activations at block 1 are not finite \(A, level 1\)"):
        list(engine.measure(Two(states), defaults("rankme")))


def test_a_value_that_there_is_not_is_nan_where_activations_are_finite():
    states = torch.zeros(2, 2, 2, 12, 5)
    wanted = defaults("first_component_share", "two_nn", "anisotropy", "cka", "rankme")
    for row in engine.measure(Two(states), wanted):
        if row["measure"] not in ("rankme", "two_nn_samples"):
            assert math.isnan(row["value"]), row
    judged = spec_of("two_nn").judged
    assert judged and judged(math.nan, math.nan, 12).startswith("no value: fewer than 20 distinct")


def test_measures_of_a_spectrum_share_it(monkeypatch):
    asked = []

    def counted(x, center=False):
        asked.append((tuple(x.shape), center))
        return singular_values(x, center=center)

    monkeypatch.setattr("geomfast.measures.observed.singular_values", counted)
    wanted = defaults("rankme", "stable_rank", "alpha_req", "centered_rankme", "numerical_rank")
    wanted["participation_ratio"] = spec_of("participation_ratio").asked(center=True)
    rows = list(engine.measure(Two(), wanted))
    assert sorted(asked) == [((2, 2, 2, 12, 5), False), ((2, 2, 2, 12, 5), True)]
    assert len(rows) == 7 * 2 * 2 * 2  # alpha_req has R2 beside it
    x = Two().states[1, 0, 1].double()
    eigenvalues = torch.linalg.svdvals(x - x.mean(0)).square()
    expected = eigenvalues.sum() ** 2 / eigenvalues.square().sum()
    (found,) = (
        row["value"]
        for row in rows
        if (row["measure"], row["task"], row["member"], row["layer"])
        == ("participation_ratio", "B", 0, "final")
    )
    assert found == pytest.approx(expected.item(), rel=1e-9)


def test_alignment_of_layers_of_several_widths():
    class Ragged(One):
        members = 2

        def observe(self):
            x = cases.normal(2, 1, 12, 5)
            return [Seen([(["block 1"], x), (["final"], 2 * x.flip(-1)[..., :3])])]

    rows = list(engine.measure(Ragged(), defaults("cka")))
    named = [(row["member"], row["layer"], row["measure"]) for row in rows]
    assert set(named) == {
        (member, *rest)
        for member in (0, 1)
        for rest in [("block 1", "cka"), ("final", "cka_block_1")]
    }
    x = cases.normal(2, 1, 12, 5)
    for row in rows:
        expected = cka(x[row["member"], 0], x[row["member"], 0, :, 2:]).item()
        assert row["value"] == pytest.approx(expected, rel=1e-5)


def test_measures_of_classes_and_stiffness():
    class Labelled(One):
        def observe(self):
            x = cases.normal(1, 2, 12, 5)
            return [Seen([(LABELS, x)], (), torch.ones(12), cases.normal(4, 5))]

    subject, labels = Labelled(), torch.arange(12) % 3
    wanted = defaults("neural_collapse", "gradient_stiffness", "gradient_noise_scale")
    with pytest.raises(ValueError, match="neural_collapse needs an answer of every sample"):
        list(engine.measure(subject, wanted))
    with pytest.raises(ValueError, match="gradient_stiffness needs an answer of every sample"):
        list(engine.measure(subject, defaults("gradient_stiffness")))
    data = cases.normal(12, 4)
    subject.sets = [Samples({"task": "A"}, squares, data, labels)]
    found = {
        (row["measure"], row["layer"]): row["value"] for row in engine.measure(subject, wanted)
    }
    x = subject.observe()[0].states[0][1][0]
    expected = neural_collapse(x, labels)
    assert found["neural_collapse", "block 1"] == pytest.approx(expected.within[0].item())
    last = neural_collapse(x[1], labels, classifier=cases.normal(4, 5))
    assert found["neural_collapse_classifier", "final"] == pytest.approx(last.classifier.item())
    stiff = gradient_stiffness(subject.model, squares, data, labels)
    assert found["gradient_stiffness", ""] == pytest.approx(stiff.between, rel=1e-5)
    assert found["gradient_stiffness_within", ""] == pytest.approx(stiff.within, rel=1e-5)
    alone = gradient_statistics(subject.model, squares, data)
    assert found["gradient_noise_scale", ""] == pytest.approx(alone.noise_scale, rel=1e-5)


def test_too_few_samples_have_no_value_and_no_error():
    class Few(One):
        def observe(self):
            return [Seen([(LABELS, cases.normal(1, 2, 3, 5))], (), torch.ones(3))]

    subject = Few()
    subject.sets = [Samples({"task": "A"}, squares, cases.normal(3, 4), torch.arange(3))]
    rows = list(engine.measure(subject, defaults("neural_collapse", "cka")))
    found = {(row["measure"], row["layer"]): row["value"] for row in rows}
    assert all(map(math.isnan, found.values()))
    assert ("cka", "block 1") in found and ("neural_collapse", "final") in found
    for name in ("neural_collapse", "cka"):
        judged = spec_of(name).judged
        assert judged and "fewer than" in judged(math.nan, math.nan, 3)
        assert judged(0.5, math.nan, 3) == "ok"


def test_values_of_another_shape_are_refused(monkeypatch):
    short = replace(spec_of("rankme"), compute=lambda spectrum, settings: torch.ones(3))
    monkeypatch.setattr(engine, "spec_of", lambda name: short)
    with pytest.raises(ValueError, match=r"rankme gave values of shape \(3,\) for activations of"):
        list(engine.measure(Two(), defaults("rankme")))


def test_a_measure_that_fails_is_a_row_where_the_policy_says_so():
    told = []
    policy = Policy(failed=lambda name, error: told.append((name, str(error))))
    wanted = defaults("fisher_rank", "hessian_top")
    subject = One()
    subject.sets = [Samples({"task": "A", "n": 12}, lambda m, x: squares(m, x).mean(), X)]
    rows = list(engine.measure(subject, wanted, policy))
    assert [name for name, _ in told] == ["fisher_rank", "hessian_top"]
    assert all(math.isnan(row["value"]) and row["backend"] == "failed" for row in rows)
    assert all(row["verdict"].startswith("failed: ValueError: loss_fn must") for row in rows)
    with pytest.raises(ValueError, match="loss_fn must return shape"):
        list(engine.measure(subject, wanted))


X = cases.normal(12, 4)


def test_less_memory_is_a_notice_and_the_same_value():
    class Small(nn.Module):
        """Has memory for four samples."""

        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            if len(x) > 4:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return self.inner(x)

    whole = One()
    (expected,) = engine.measure(whole, defaults("hessian_trace"))
    small, said = One(), []
    small.model = Small(small.model)
    (found,) = engine.measure(small, defaults("hessian_trace"), Policy(notice=said.append))
    assert found["value"] == pytest.approx(expected["value"], rel=1e-5)
    assert said[-1].startswith("out of memory: hessian_trace of the Hessian continues with")


def test_ranks_that_count_the_same_entries_share_one_pass(monkeypatch):
    passes = []
    ranks = engine.gradient_ranks

    def counted(*arguments, **options):
        passes.append(options["first"])
        return ranks(*arguments, **options)

    monkeypatch.setattr(engine, "gradient_ranks", counted)
    wanted = defaults("fisher_rank", "gradient_covariance_rank")
    assert len(list(engine.measure(One(), wanted))) == 4 and len(passes) == 1
    wanted["fisher_rank"] = spec_of("fisher_rank").asked(first_entries=3)
    list(engine.measure(One(), wanted))
    assert passes[1:] == [3, 50_000]


def test_a_measure_of_curvature_that_fails_on_one_set_fails_on_all_and_the_others_go_on():
    subject = One()
    bad = cases.normal(12, 4)
    bad[3] = float("nan")
    subject.sets = [
        *subject.sets,
        Samples({"task": "B"}, squares, bad),
        Samples({"task": "C"}, squares, cases.normal(12, 4)),
    ]
    failures = []
    policy = Policy(failed=lambda name, error: failures.append(name))
    wanted = defaults("hessian_top", "hessian_trace")
    rows = list(engine.measure(subject, wanted, policy))
    assert failures == ["hessian_top", "hessian_trace"]
    assert [(row["task"], row["measure"]) for row in rows] == [
        (task, name) for name in wanted for task in "ABC"
    ]
    assert all(math.isnan(row["value"]) for row in rows)


def test_measures_of_curvature_come_in_the_catalogues_order_set_by_set():
    subject = One()
    subject.sets = [*subject.sets, Samples({"task": "B"}, squares, cases.normal(12, 4) + 1)]
    together = list(engine.measure(subject, defaults("hessian_trace", "hessian_top")))
    alone = [
        row
        for name in ("hessian_top", "hessian_trace")
        for row in engine.measure(subject, defaults(name))
    ]
    for row in (*together, *alone):
        del row["seconds"]
    assert together == alone

"""Linear probes against every probe fitted for itself, and on what can and cannot be read."""

import math

import numpy as np
import pytest
import torch

import geomfast as gf
from geomfast.estimators.probes import (
    PENALTIES,
    ProbeAccuracy,
    _fitted_residuals,
    _folds,
    _residuals,
)
from tests.cases import normal


def ridge(x: np.ndarray, y: np.ndarray, penalty: float, at: np.ndarray) -> np.ndarray:
    """Outputs at `at` of ridge regression with a free intercept, by its normal equations."""
    wide = np.column_stack([x, np.ones(len(x))])
    shrink = np.diag([penalty] * x.shape[1] + [0.0])
    weights = np.linalg.solve(wide.T @ wide + shrink, wide.T @ y)
    return np.column_stack([at, np.ones(len(at))]) @ weights


def slow_accuracy(
    x: np.ndarray, labels: np.ndarray, folds: list[np.ndarray], penalties: list[float]
) -> float:
    """Nested cross-validation with every probe fitted for itself."""
    y = (labels[:, None] == np.unique(labels)).astype(float)
    scale = ((x - x.mean(0)) ** 2).sum() / len(x)

    def left(out: np.ndarray, of: np.ndarray, penalty: float) -> np.ndarray:
        seen = np.setdiff1d(np.arange(len(x)), out)
        return ridge(x[seen], y[seen], penalty * scale, x[of])

    right = 0
    for i, test in enumerate(folds):
        errors = [
            sum(
                ((y[val] - left(np.concatenate([test, val]), val, penalty)) ** 2).sum()
                for j, val in enumerate(folds)
                if j != i
            )
            for penalty in penalties
        ]
        outputs = left(test, test, penalties[int(np.argmin(errors))])
        right += int((outputs.argmax(1) == y[test].argmax(1)).sum())
    return right / len(x)


def planted(n: int, d: int, classes: int, strength: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise with a mean of its own for every label."""
    labels = torch.arange(n) * 7 % classes
    return normal(n, d) + strength * normal(classes, d, seed=1)[labels], labels


@pytest.mark.parametrize(
    ("n", "d", "classes", "folds"),
    [(60, 8, 4, 5), (41, 90, 3, 4), (30, 5, 2, 3), (12, 3, 3, 12), (23, 1, 2, 5)],
    ids=["tall", "wide", "binary", "leave-one-out", "one-dimension"],
)
@pytest.mark.parametrize("grouped", [False, True])
def test_every_probe_is_the_one_that_would_have_been_fitted(
    n: int, d: int, classes: int, folds: int, grouped: bool
) -> None:
    layers = [planted(n, d, classes, strength) for strength in (0.2, 0.6, 2.0)]
    labels = layers[0][1]
    x = torch.stack([layer for layer, _ in layers])
    groups = torch.arange(n) // (3 if grouped else 1)
    parts = [part.numpy() for part in _folds(groups, folds, 0)]
    found = gf.probe_accuracy(x, labels, groups=groups, folds=folds)
    for mean, layer in zip(found.mean, x, strict=True):
        # In order of strength, as the strongest of equally good penalties is taken.
        expected = slow_accuracy(layer.double().numpy(), labels.numpy(), parts, [*PENALTIES])
        assert mean.item() == pytest.approx(expected, abs=1e-12)


def test_what_is_there_is_read_and_what_is_not_is_not() -> None:
    x, labels = planted(200, 16, 5, 3.0)
    shuffled = labels[torch.randperm(200, generator=torch.Generator().manual_seed(0))]
    assert gf.probe_accuracy(x, labels).mean > 0.97
    chance = gf.probe_accuracy(x, shuffled)
    assert abs(chance.mean - 0.2) < 3 * chance.stderr
    assert chance.majority == 0.2


def test_remembering_inputs_is_not_reading_the_answer() -> None:
    """Forty inputs, five samples each, as a one-hot memory: their labels are arbitrary."""
    inputs = torch.arange(200) % 40
    labels = torch.randperm(40, generator=torch.Generator().manual_seed(0))[inputs] % 2
    x = torch.eye(40)[inputs] + 0.01 * normal(200, 40)
    assert gf.probe_accuracy(x, labels).mean > 0.95
    assert gf.probe_accuracy(x, labels, groups=inputs).mean < 0.6


def test_samples_of_a_group_are_one_to_the_standard_error() -> None:
    x, labels = planted(60, 8, 3, 0.5)
    once = gf.probe_accuracy(x, labels)
    binomial = math.sqrt(once.mean * (1 - once.mean) / 60)
    assert once.stderr.item() == pytest.approx(binomial, rel=1e-9)
    # The same samples four times over tell no more.
    four = [tensor.repeat_interleave(4, 0) for tensor in (x, labels, torch.arange(60))]
    again = gf.probe_accuracy(*four[:2], groups=four[2])
    assert again.mean == once.mean
    assert again.stderr.item() == pytest.approx(once.stderr.item(), rel=1e-9)


def test_folds_share_out_groups_and_leave_none_out() -> None:
    groups = torch.tensor([0] * 9 + [1] * 5 + [2] * 4 + [3, 4, 5, 6])
    parts = _folds(groups, 3, 0)
    assert sorted(torch.cat(parts).tolist()) == list(range(len(groups)))
    assert sorted(len(part) for part in parts) == [6, 7, 9]
    where = {int(g): k for k, part in enumerate(parts) for g in groups[part]}
    assert all(where[int(g)] == k for k, part in enumerate(parts) for g in groups[part])
    assert sorted(len(part) for part in _folds(torch.arange(5), 3, 0)) == [1, 2, 2]
    assert len(_folds(torch.arange(2), 5, 0)) == 2


@pytest.mark.parametrize("order", ["periodic", "sorted"])
def test_the_order_of_samples_does_not_decide_what_is_left_out(order: str) -> None:
    """Labels in turn or one after the other: a fold by position would hold all there is of one."""
    labels = torch.arange(100) % 5 if order == "periodic" else torch.arange(100) // 20
    x = normal(100, 8) + 3.0 * normal(5, 8, seed=1)[labels]
    assert gf.probe_accuracy(x, labels).mean > 0.9
    other = gf.probe_accuracy(x + 3.0 * normal(100, 8, seed=2), labels, seed=1).mean
    assert other != gf.probe_accuracy(x + 3.0 * normal(100, 8, seed=2), labels).mean


def test_neither_scale_nor_shift_nor_type_nor_layout_matters() -> None:
    x, labels = planted(50, 12, 3, 0.7)
    expected = gf.probe_accuracy(x, labels).mean
    for same in (1e-6 * x, 1e6 * x + 1e5, x.double(), x.mT.contiguous().mT, x[:, :, None].mT[:, 0]):
        assert gf.probe_accuracy(same, labels).mean == expected
    assert gf.probe_accuracy(x.bfloat16(), labels).mean == pytest.approx(expected.item(), abs=0.05)
    names = torch.tensor([40, -3, 7])[labels]
    assert gf.probe_accuracy(x, names).mean == expected


def test_input_and_random_state_stay_as_they_are() -> None:
    x, labels = planted(30, 4, 3, 1.0)
    x.requires_grad_()
    before, state = x.detach().clone(), torch.get_rng_state()
    found = gf.probe_accuracy(x, labels)
    assert torch.equal(x, before) and torch.equal(torch.get_rng_state(), state)
    assert not found.mean.requires_grad and found.mean.dtype == torch.float64


def test_where_nothing_can_be_told_there_is_no_accuracy() -> None:
    x, labels = planted(30, 4, 3, 1.0)

    def nothing(found: ProbeAccuracy) -> bool:
        return bool(found.mean.isnan() and found.stderr.isnan())

    one_label = gf.probe_accuracy(x, torch.zeros(30, dtype=torch.int64))
    assert nothing(one_label) and one_label.majority == 1.0
    assert nothing(gf.probe_accuracy(x, labels, groups=torch.arange(30) % 2))
    assert nothing(gf.probe_accuracy(x[:2], labels[:2]))
    # Constant activations: what is most common among the others is all a probe has.
    same = gf.probe_accuracy(torch.ones(30, 4), torch.tensor([0] * 20 + [1] * 10))
    assert same.mean == pytest.approx(2 / 3)


def test_a_label_that_only_one_fold_has_is_missed() -> None:
    x, labels = planted(30, 4, 2, 30.0)
    labels = labels.clone()
    labels[4] = 2
    assert gf.probe_accuracy(x, labels).mean == pytest.approx(29 / 30)


X, LABELS = torch.randn(6, 3), torch.arange(6) % 2


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"x": [[1.0]]}, TypeError, "x must be a floating-point tensor, not list"),
        ({"x": LABELS}, TypeError, "not torch.int64"),
        ({"x": X[0]}, ValueError, r"x must have shape \(\.\.\., N, d\).*not \(3,\)"),
        ({"x": X[:1], "labels": LABELS[:1]}, ValueError, "N >= 2"),
        ({"x": X[:, :0]}, ValueError, "d >= 1"),
        ({"x": X.index_fill(0, torch.tensor(2), math.nan)}, ValueError, r"x\[2, 0\] is nan"),
        ({"x": X.index_fill(1, torch.tensor(1), math.inf)}, ValueError, r"x\[0, 1\] is inf"),
        ({"labels": LABELS[:5]}, ValueError, r"labels must have shape \(6,\), not \(5,\)"),
        ({"labels": LABELS.float()}, TypeError, "labels must be a tensor of integers"),
        ({"groups": LABELS[None]}, ValueError, r"groups must have shape \(6,\), not \(1, 6\)"),
        ({"groups": X[:, 0]}, TypeError, "groups must be a tensor of integers"),
        ({"folds": 2}, ValueError, "folds must be 3 or more.*not 2"),
        ({"penalties": (1.0, 0.0)}, ValueError, r"penalties must be positive.*\(1\.0, 0\.0\)"),
        ({"penalties": ()}, ValueError, "penalties must be positive"),
    ],
)
def test_bad_input_is_named(arguments: dict, error: type[Exception], words: str) -> None:
    given = {"x": X, "labels": LABELS, **arguments}
    with pytest.raises(error, match=words):
        gf.probe_accuracy(given.pop("x"), given.pop("labels"), **given)


def least_squares_accuracy(x: np.ndarray, labels: np.ndarray, folds: list[np.ndarray]) -> float:
    """With the smallest weights of all that fit best, which vanishing penalties lead to."""
    y = (labels[:, None] == np.unique(labels)).astype(float)
    right = 0
    for test in folds:
        seen = np.setdiff1d(np.arange(len(x)), test)
        middle, share = x[seen].mean(0), y[seen].mean(0)
        weights = np.linalg.lstsq(x[seen] - middle, y[seen] - share, rcond=None)[0]
        outputs = (x[test] - middle) @ weights + share
        right += int((outputs.argmax(1) == y[test].argmax(1)).sum())
    return right / len(x)


@pytest.mark.parametrize("penalty", [1e-14, 1e-18, 1e-100])
@pytest.mark.parametrize(
    ("n", "d", "rank"), [(100, 20, 20), (60, 200, 200), (80, 70, 70), (90, 40, 7)]
)
def test_penalties_too_small_to_matter(n: int, d: int, rank: int, penalty: float) -> None:
    x = normal(n, rank).double() @ normal(rank, d, seed=2).double()
    labels = torch.randint(0, 5, (n,), generator=torch.Generator().manual_seed(3))
    parts = [part.numpy() for part in _folds(torch.arange(n), 5, 0)]
    expected = least_squares_accuracy(x.numpy(), labels.numpy(), parts)
    found = gf.probe_accuracy(x, labels, penalties=(penalty,))
    assert found.mean.item() == pytest.approx(expected, abs=1e-12)
    assert found.mean < 0.4  # labels are random: nothing can be read


@pytest.mark.parametrize("penalty", [1e-5, 3e-5, 1e-4, 1.0])
def test_closed_form_is_what_fitting_gives_where_it_is_used(penalty: float) -> None:
    x = torch.stack([normal(40, 90), normal(40, 90, seed=1) * 1e-3]).double()
    x = x - x.mean(-2, keepdim=True)
    y = torch.nn.functional.one_hot(torch.arange(40) % 3).double()
    sets = torch.tensor([[0, 1, 2, 3, -1], [5, 9, 30, 31, 39]])
    scale = penalty * x.square().sum(-1).mean(-1)
    closed = _residuals(x @ x.mT, scale, y, sets)
    torch.testing.assert_close(closed, _fitted_residuals(x, scale, y, sets), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scale", [1e155, 1e307, 1e-155, 1e-200, 1e-320])
@pytest.mark.parametrize("penalties", [PENALTIES, (1e-18,)], ids=["usual", "tiny"])
def test_scale_does_not_matter(scale: float, penalties: tuple[float, ...]) -> None:
    x, labels = planted(60, 6, 3, 0.7)
    x = x.double().round(decimals=0 if scale < 1e-310 else 3)
    both = torch.stack([x * scale, x])
    found = gf.probe_accuracy(both, labels, penalties=penalties).mean
    alone = gf.probe_accuracy(x, labels, penalties=penalties).mean
    assert found.tolist() == [alone, alone] and alone > 0.4


def test_folds_that_are_no_number() -> None:
    x, labels = planted(20, 3, 2, 1.0)
    with pytest.raises(TypeError, match="folds must be a whole number"):
        gf.probe_accuracy(x, labels, folds=3.5)  # pyright: ignore[reportArgumentType]

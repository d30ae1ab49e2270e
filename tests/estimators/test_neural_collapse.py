"""Neural collapse: a collapsed representation, dense formulas, unequal classes, bad input."""

import math

import numpy as np
import pytest
import torch

import geomfast as gf
from tests import cases

LABELS = torch.arange(60) % 4


def collapsed(d: int = 10) -> torch.Tensor:
    """Class means at the corners of a simplex, anywhere in space, and no spread."""
    simplex = (torch.eye(4, dtype=torch.float64) - 0.25) @ cases.orthogonal(4, d)
    return 3.0 * simplex[LABELS] + cases.normal(d, seed=5)


def by_definition(x, labels, classifier=None):
    """Papyan et al. 2020, with dense matrices."""
    classes = np.unique(labels)
    means = np.stack([x[labels == c].mean(0) for c in classes])
    within = np.zeros((x.shape[1],) * 2)
    for c, mean in zip(classes, means, strict=True):
        within += (x[labels == c] - mean).T @ (x[labels == c] - mean) / len(x)
    centered = means - means.mean(0)
    between = centered.T @ centered / len(classes)
    nc1 = np.trace(within @ np.linalg.pinv(between, rcond=1e-10)) / len(classes)
    norms = np.linalg.norm(centered, axis=1)
    cosines = centered @ centered.T / np.outer(norms, norms)
    off = cosines[~np.eye(len(classes), dtype=bool)]
    nc2 = norms.std() / norms.mean(), np.abs(off + 1 / (len(classes) - 1)).mean()
    nc3 = math.nan
    if classifier is not None:
        rows = classifier[classes] - classifier[classes].mean(0)
        gap = centered / np.linalg.norm(centered) - rows / np.linalg.norm(rows)
        nc3 = np.linalg.norm(gap) ** 2
    return nc1, *nc2, nc3


def test_zero_where_collapsed():
    x = collapsed()
    classifier = 0.1 * torch.stack([x[c == LABELS].mean(0) for c in range(4)]) + 2.0
    found = gf.neural_collapse(x, LABELS, classifier=classifier)
    assert (found.classes, found.samples) == (4, 60)
    values = [found.within, found.norms, found.angles, found.classifier]
    assert torch.stack(values).tolist() == pytest.approx([0.0] * 4, abs=1e-9)


@pytest.mark.parametrize("d", [2, 3, 10])
def test_against_dense_formulas(d):
    x = cases.normal(2, 60, d, dtype=torch.float64)
    x += cases.normal(4, d, seed=2)[LABELS]
    classifier = cases.normal(6, d, seed=3)
    found = gf.neural_collapse(x, LABELS, classifier=classifier)
    for row in range(2):
        expected = by_definition(x[row].numpy(), LABELS.numpy(), classifier.double().numpy())
        values = [found.within, found.norms, found.angles, found.classifier]
        assert [v[row].item() for v in values] == pytest.approx(expected, rel=1e-8)


def test_scale_rotation_and_shift_do_not_matter():
    x = cases.normal(60, 6, dtype=torch.float64) + cases.normal(4, 6, seed=2)[LABELS]
    expected = gf.neural_collapse(x, LABELS)
    moved = gf.neural_collapse(1e3 * x @ cases.orthogonal(6, 6) + 4.0, LABELS * 7 - 3)
    for one, other in zip(expected[:3], moved[:3], strict=True):
        assert other.item() == pytest.approx(one.item(), rel=1e-8)
    assert math.isnan(expected.classifier.item())


@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.int8, torch.uint16, torch.int32])
def test_labels_of_any_integer_type(kind):
    x, classifier, labels = cases.normal(60, 5), cases.normal(2, 5, seed=3), LABELS % 2
    expected = gf.neural_collapse(x, labels, classifier=classifier)
    assert gf.neural_collapse(x, labels.to(kind), classifier=classifier) == expected
    rows = torch.cat([classifier[:1], classifier])  # a row of no label
    found = gf.neural_collapse(x, labels.to(kind) * 2, classifier=rows)
    assert found.classifier == expected.classifier


def test_classifiers_of_any_scale():
    x, classifier = cases.normal(60, 5), cases.normal(4, 5, seed=3, dtype=torch.float64)
    expected = gf.neural_collapse(x, LABELS, classifier=classifier).classifier.item()
    for scale in (1e-300, 1e300):
        found = gf.neural_collapse(x, LABELS, classifier=scale * classifier)
        assert found.classifier.item() == pytest.approx(expected, rel=1e-9)


def test_classes_of_one_sample_are_left_out():
    x = cases.normal(10, 4, dtype=torch.float64)
    labels = torch.tensor([5, 5, 2, 2, 2, 9, 7, 7, 7, 7])
    kept = labels != 9
    found = gf.neural_collapse(x, labels)
    expected = gf.neural_collapse(x[kept], labels[kept])
    assert found.classes == 3 and found.samples == 9
    assert found.within.item() == pytest.approx(expected.within.item(), rel=1e-12)
    dense = by_definition(x[kept].numpy(), labels[kept].numpy())
    assert expected.within.item() == pytest.approx(dense[0], rel=1e-8)


def test_means_that_do_not_differ():
    x = cases.normal(30, 5)
    doubled = torch.cat([x, x])
    found = gf.neural_collapse(doubled, torch.arange(60) // 30)
    assert all(math.isnan(value.item()) for value in found[:4])
    assert math.isnan(gf.neural_collapse(torch.ones(60, 5), LABELS).within.item())


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"labels": LABELS.double()}, TypeError, "labels must be a tensor of integers"),
        ({"labels": [1, 2]}, TypeError, "labels must be a tensor of integers, not list"),
        ({"labels": LABELS[1:]}, ValueError, r"labels must have shape \(60,\)"),
        ({"labels": torch.zeros(60, dtype=torch.long)}, ValueError, "1 class with 2 samples"),
        ({"labels": torch.arange(60)}, ValueError, "0 classes with 2 samples"),
        ({"classifier": torch.ones(4, 3)}, ValueError, r"classifier must have shape \(K, 10\)"),
        ({"classifier": torch.ones(3, 10)}, ValueError, "labels: 3 has no row in a classifier"),
        ({"classifier": [1]}, TypeError, "classifier must be a floating-point tensor"),
        ({"x": torch.full((60, 10), math.nan)}, ValueError, r"x\[0, 0\] is nan"),
    ],
)
def test_bad_input(change, error, said):
    given = {"x": collapsed(), "labels": LABELS} | change
    with pytest.raises(error, match=said):
        gf.neural_collapse(given.pop("x"), given.pop("labels"), **given)

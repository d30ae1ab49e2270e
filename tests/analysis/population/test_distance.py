"""Wasserstein-2 against a linear programme, closed forms and a planted peak."""

import numpy as np
import pytest
from scipy import optimize

from geomfast.analysis.population import distances, unlocking, wasserstein2
from tests.analysis.populations import ladder, table


def transport(a: np.ndarray, b: np.ndarray) -> float:
    """Wasserstein-2 from its definition: the cheapest plan that moves one sample onto the other."""
    n, m = len(a), len(b)
    cost = (a[:, None] - b[None, :]) ** 2
    rows = np.kron(np.eye(n), np.ones(m))
    columns = np.kron(np.ones(n), np.eye(m))
    found = optimize.linprog(
        cost.ravel(),
        A_eq=np.concatenate([rows, columns]),
        b_eq=np.concatenate([np.full(n, 1 / n), np.full(m, 1 / m)]),
    )
    assert found.success
    return float(np.sqrt(found.fun))


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 5), (4, 4), (3, 7), (6, 9), (10, 12)])
def test_equals_optimal_transport(n: int, m: int) -> None:
    generator = np.random.default_rng(n + 10 * m)
    a, b = generator.random(n), generator.normal(0.3, 1.0, m)
    assert wasserstein2(a, b) == pytest.approx(transport(a, b), abs=1e-9)
    assert wasserstein2(b, a) == pytest.approx(wasserstein2(a, b))


def test_closed_forms() -> None:
    a = np.array([0.0, 0.2, 0.9])
    assert wasserstein2(a, a[::-1]) == 0.0
    assert wasserstein2(a, a + 0.25) == pytest.approx(0.25)
    # A share p of a point mass moved by one: sqrt(p), whatever the sizes of the samples.
    assert wasserstein2(np.zeros(10), np.array([0.0] * 3 + [1.0])) == pytest.approx(0.5)


def test_many_at_once_equal_one_by_one() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.random((4, 6)), generator.random((4, 5))
    found = [float(wasserstein2(a[row], b[row])) for row in range(4)]
    assert wasserstein2(a, b) == pytest.approx(found)


def test_the_planted_peak_is_found() -> None:
    generator = np.random.default_rng(0)
    low = [generator.beta(1, 30, 50).tolist() for _ in range(2)]
    high = [generator.beta(20, 2, 40).tolist() for _ in range(2)]
    found = distances(table({"a": low[0], "b": low[1], "c": high[0], "d": high[1]}), bootstrap=300)
    assert found["larger"].tolist() == ["b", "c", "d"]
    peak = unlocking(found)
    assert (peak.before, peak.scale) == ("b", "c")
    assert peak.share == 1.0
    assert peak.p < 0.02
    assert peak.low < peak.w2 < peak.high
    assert peak.change == pytest.approx(np.mean(high[0]) - np.mean(low[1]))
    falling = unlocking(distances(table({"a": high[0], "b": low[0]}), bootstrap=100))
    assert falling.scale == "b" and falling.change < -0.5
    same = found[found["larger"] != "c"]
    assert (same["w2"] <= 1.5 * same["chance"]).all()
    assert (same["holm_p"] > 0.05).all()


def test_scales_without_enough_seeds_have_no_distance() -> None:
    found = distances(table({"a": [0.1, 0.2] * 6, "b": [0.5] * 9, "c": [0.1, 0.9] * 6}))
    assert found["w2"].isna().all()
    assert (found["reason"] == "fewer than 10 seeds at one of the scales").all()
    assert unlocking(found).scale == ""
    assert distances(table({"a": [0.5] * 12})).empty


def test_peak_shares_add_to_one() -> None:
    found = distances(ladder(20), bootstrap=100)
    assert found["peak_share"].sum() == pytest.approx(1.0)
    with pytest.raises(ValueError, match="bootstrap must be at least 1"):
        distances(ladder(10), bootstrap=0)

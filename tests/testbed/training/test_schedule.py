"""The learning rate and the checkpoint steps."""

from itertools import pairwise

import pytest

from geomfast.testbed.training.schedule import checkpoint_steps, learning_rate


def test_learning_rate_warms_up_and_decays_to_its_floor() -> None:
    def rate(step: int) -> float:
        return learning_rate(step, peak=1e-3, steps=1000, warmup=100, final=0.1)

    assert rate(0) == pytest.approx(1e-5)
    assert rate(99) == pytest.approx(1e-3)
    assert rate(100) == pytest.approx(1e-3)
    assert rate(550) == pytest.approx(1e-3 * (0.1 + 0.9 * 0.5))
    assert rate(1000) == pytest.approx(1e-4)
    assert all(rate(s) >= rate(s + 1) for s in range(100, 1000))


@pytest.mark.parametrize("steps", [1, 7, 60, 61, 500, 12_000])
def test_checkpoints_cover_the_run(steps: int) -> None:
    at = checkpoint_steps(steps, dense_until=60, dense_every=2, count=100)
    assert at[0] == 0
    assert at[-1] == steps
    assert at == sorted(set(at))
    assert set(range(0, min(60, steps) + 1, 2)) <= set(at)


def test_the_paper_run_has_over_200_and_their_spacing_grows() -> None:
    at = checkpoint_steps(50_000, dense_until=60, dense_every=2, count=220)
    assert 200 <= len(at) <= 221
    gaps = [b - a for a, b in pairwise(at[30:])]
    assert gaps[-1] > 100 * gaps[0]


def test_a_run_without_a_dense_part() -> None:
    assert checkpoint_steps(100, dense_until=0, dense_every=2, count=5) == [0, 100]

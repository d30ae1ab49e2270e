"""Suddenness, scaling and collections of benchmarks, everything computed a second way."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest

from geomfast.analysis.evaluations import (
    checkpoints_needed,
    pooled,
    pooled_chance,
    rises,
    scaling,
    suddenness,
)
from geomfast.analysis.trajectories import log_steps
from tests.analysis.benchmarks import CHANCE, STEPS, N, after, guesses, table
from tests.analysis.synthetic import join

# Suddenness


def isotonic(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Max-min formula: of all means from before to after, the largest of the smallest."""
    count = len(values)

    def mean(a: int, b: int) -> float:
        return float(np.average(values[a : b + 1], weights=weights[a : b + 1]))

    return np.array(
        [max(min(mean(a, b) for b in range(i, count)) for a in range(i + 1)) for i in range(count)]
    )


def crossing(fit: np.ndarray, level: float, axis: np.ndarray) -> float:
    i = next(i for i, v in enumerate(fit) if v >= level)
    return float(np.interp(level, [fit[i - 1], fit[i]], [axis[i - 1], axis[i]]))


def test_quarters_of_the_rise_are_those_of_the_monotone_curve() -> None:
    generator = np.random.default_rng(4)
    axis = log_steps(STEPS)
    curves = {}
    for i in range(12):
        middle, width = generator.uniform(3, 12), generator.uniform(0.2, 3)
        curve = CHANCE + 0.5 / (1 + np.exp(-(axis - middle) / width))
        curves[f"t{i}"] = curve + 0.03 * generator.standard_normal(27)
    own = table(curves)
    found = suddenness(own).set_index("task")
    assert len(found) == 12
    for task, row in found.iterrows():
        rows = own[own["task"] == task]
        fit = isotonic(rows["value"].to_numpy(), 1 / rows["stderr"].to_numpy() ** 2)
        rise = fit[-1] - fit[0]
        low, high = (crossing(fit, fit[0] + part * rise, axis) for part in (0.25, 0.75))
        assert row["rise"] == pytest.approx(rise)
        assert row["doublings"] == pytest.approx(high - low)
        assert log_steps(row["low"]) == pytest.approx(low)
        assert row["least"] <= row["doublings"] + 1e-9 and row["doublings"] <= row["most"] + 1e-9
        assert row["jump"] == pytest.approx(np.diff(fit).max() / rise)


@pytest.mark.parametrize(
    ("curve", "steps", "verdict"),
    [
        # Between checkpoints a doubling or less apart a step is sudden, farther apart it is not.
        (after(8, length=16), [8 * (2 ** (i / 2) - 1) for i in range(16)], "sudden"),
        (after(8, length=16), [8 * (2 ** (3 * i) - 1) for i in range(16)], "not resolved"),
        (np.linspace(0.25, 0.75, 16), [8 * (2 ** (i / 2) - 1) for i in range(16)], "gradual"),
        (after(8, length=16), [8 * (2 ** (1.4 * i) - 1) for i in range(16)], "between"),
    ],
)
def test_verdicts(curve: Sequence[float], steps: Sequence[float], verdict: str) -> None:
    own = table({"t": curve}, steps=[round(100 * step) for step in steps])
    own["step"] = [round(step) for step in np.array(steps) * 1.0]
    (found,) = suddenness(own.drop_duplicates("step"))["verdict"]
    assert found == verdict


def test_a_curve_that_dips_first_rises_from_its_dip() -> None:
    """As arc_challenge does: what it had before the dip is pooled with it."""
    curve = [0.22, 0.2, 0.19, 0.18, 0.18, 0.18, 0.18, 0.19, 0.2, 0.25, 0.3, *[0.4] * 16]
    found = suddenness(table({"t": curve})).iloc[0]
    fit = isotonic(np.array(curve), (N - 1) / (np.array(curve) * (1 - np.array(curve))))
    assert found["rise"] == pytest.approx(0.4 - fit[0]) and 0.18 < fit[0] < 0.2
    assert found["low_after"] == 128 and found["high"] == pytest.approx(
        8 * (2 ** crossing(fit, fit[0] + 0.75 * (0.4 - fit[0]), log_steps(STEPS)) - 1)
    )


def test_sudden_is_rarely_said_of_what_is_not_and_gradual_rarely_of_a_step() -> None:
    """Noise at the ends of a curve moves its quarters, so that either may look like the other."""
    steps = np.unique(np.round(8 * (2 ** np.arange(0, 15, 0.25) - 1)).astype(int))
    axis = log_steps(steps)
    generator = np.random.default_rng(5)
    error = math.sqrt(2 * CHANCE * (1 - CHANCE) / N)
    for width, wrong, right in ((8.0, "sudden", "gradual"), (1e-6, "gradual", "sudden")):
        for errors in (5.0, 8.0, 20.0):
            share = np.clip((axis - 7.1 + width / 2) / width, 0, 1)
            values = generator.binomial(N, CHANCE + errors * error * share, (200, len(axis))) / N
            own = table({f"t{i}": row for i, row in enumerate(values)}, steps=steps.tolist())
            counts = suddenness(own)["verdict"].value_counts()
            assert counts.sum() > 150 and counts.get(wrong, 0) <= 4
            assert errors < 20 or counts[right] > 190


def test_flat_curves_have_no_rise_to_be_sudden() -> None:
    assert suddenness(guesses(200, 100)).empty
    assert suddenness(guesses(100, 1000, same=0.95)).empty
    assert suddenness(table({"t": [0.8 - 0.01 * i for i in range(27)]})).empty
    assert suddenness(table({"t": [0.0] * 27, "u": [1.0] * 27})).empty
    assert suddenness(table({"t": after(9)}, stderr=math.nan)).empty
    assert suddenness(table({"t": [0.1, 0.9]}, steps=[0, 1])).empty


def test_perplexity_falls_on_a_logarithm() -> None:
    values = np.exp(5 - 2 / (1 + np.exp(-(log_steps(STEPS) - 6))))
    own = table({"t": values}, measure="perplexity", stderr=0.5)
    found = suddenness(own, measure="perplexity").iloc[0]
    assert found["rise"] == pytest.approx(2.0, abs=0.02) and found["measure"] == "perplexity"
    assert log_steps((found["low"] * found["high"]) ** 0.5) == pytest.approx(6, abs=0.3)


# Scaling, checkpoints, collections


def scaled(values: Sequence[float], names: Sequence[str], n: int = N) -> pd.DataFrame:
    frames = [
        table({"t": [0.25, 0.25, 0.25, v]}, steps=[0, 1, 2, 3], run=f"m-{s}", scale=s, n=n)
        for v, s in zip(values, names, strict=True)
    ]
    return join(*frames[::-1])


def test_curves_over_scale_follow_sizes() -> None:
    names = ("14m", "70m", "1.4b", "12b", "0.1t")
    values = np.array([0.25, 0.3, 0.35, 0.5, 0.9])
    found = scaling(scaled(values.tolist(), names)).set_index("axis")
    row, gains = found.loc["scale"], np.diff(values)
    rise = 0.9 - 0.25
    assert row["points"] == 5 and row["improvement"] == pytest.approx(rise)
    assert row["linearity"] == pytest.approx(rise / math.sqrt(np.mean(gains**2)))
    assert row["breakthroughness"] == pytest.approx(rise / math.sqrt(np.median(gains**2)))
    assert row["linearity"] > row["linearity_noise"] > 0


def test_names_without_sizes_make_no_curve_over_scale() -> None:
    names = ("small", "medium", "large", "huge", "other")
    assert "scale" not in set(scaling(scaled([0.3, 0.4, 0.5, 0.6, 0.7], names))["axis"])


def test_noise_is_what_flat_curves_stay_below() -> None:
    found = scaling(guesses(300, 100, seed=7))
    for name in ("linearity", "breakthroughness"):
        beyond = (found[name] > found[f"{name}_noise"]).mean()
        assert 0.005 < beyond < 0.06, name  # one in 40, of tasks with new questions
    unknown = scaling(table({"t": after(9)}, stderr=math.nan)).iloc[0]
    assert math.isnan(unknown["linearity_noise"]) and unknown["linearity"] > 0


def test_further_checkpoints_leave_no_wider_gap_and_one_fewer_would() -> None:
    for at in (6, 9, 12, 14, 26 - 3):
        found = rises(table({"t": after(at), "u": after(at)}), chance=dict(t=CHANCE, u=CHANCE))
        (row,) = checkpoints_needed(found).to_dict("records")
        ends = log_steps([STEPS[at - 1], STEPS[at]])
        width = float(ends[1] - ends[0])
        assert (row["after"], row["step"], row["rises"]) == (STEPS[at - 1], STEPS[at], 2)
        assert row["doublings"] == pytest.approx(width)
        assert width / (row["further"] + 1) <= 0.25 + 1e-9
        assert row["further"] == 0 or width / row["further"] > 0.25
    none = checkpoints_needed(rises(table({"t": after(1)}), chance={"t": CHANCE}))
    assert none["further"].tolist() == [0]  # no step lies between 0 and 1
    with pytest.raises(ValueError, match="resolution"):
        checkpoints_needed(found, resolution=0.0)


def test_a_collection_is_the_share_of_all_its_questions() -> None:
    parts = {"a": (100, after(9)), "b": (300, after(12, high=0.4)), "c": (50, [0.3] * 27)}
    own = join(*(table({t: curve}, n=n) for t, (n, curve) in parts.items()))
    kinds = {"a": "all", "b": "all", "c": ""}
    found, counts = pooled(own, kinds)
    assert counts == {"all": 2} and set(found["task"]) == {"all"}
    wanted = [(100 * a + 300 * b) / 400 for a, b in zip(parts["a"][1], parts["b"][1], strict=True)]
    assert found["value"].tolist() == pytest.approx(wanted) and set(found["n"]) == {400}
    errors = own.pivot(index="step", columns="task", values="stderr")
    spread = np.hypot(100 * errors["a"], 300 * errors["b"]) / 400
    assert found.set_index("step")["stderr"].to_numpy() == pytest.approx(spread.to_numpy())
    assert pooled_chance(own, kinds, {"a": 0.5, "b": 0.25}) == {"all": pytest.approx(0.3125)}
    assert pooled_chance(own, kinds, {"a": 0.5}) == {}


def test_a_collection_has_only_checkpoints_with_all_its_tasks() -> None:
    own = table({"a": after(9), "b": after(9)})
    lacking = own[~((own["task"] == "b") & (own["step"] == 512))]
    found, _ = pooled(lacking, {"a": "all", "b": "all"})
    assert 512 not in set(found["step"]) and len(found) == 26
    unknown = own.assign(n=own["n"].where(own["task"] == "a", 0))
    assert pooled(unknown, {"a": "all", "b": "all"})[0].empty

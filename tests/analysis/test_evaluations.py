"""Benchmarks over training: planted curves, guesses, and everything computed a second way."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from geomfast.analysis.evaluations import (
    checkpoints_needed,
    joined,
    leaving_chance,
    order_between,
    pairs_between,
    pooled,
    pooled_chance,
    rises,
    scaling,
    suddenness,
)
from geomfast.analysis.evaluations.claims import pythia_global, pythia_tasks
from geomfast.analysis.evaluations.joined import beside
from geomfast.analysis.evaluations.rises import TENTH
from geomfast.analysis.leads import leads
from geomfast.analysis.trajectories import log_steps
from geomfast.records import COLUMNS
from tests.analysis.synthetic import join, rows

#: Those of Pythia that the harness was run on.
STEPS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 3000, *range(13_000, 144_000, 10_000))
N = 1000
CHANCE = 0.25


def table(
    curves: Mapping[str, Sequence[float]],
    *,
    steps: Sequence[int] = STEPS,
    run: str = "m-70m",
    scale: str = "70m",
    n: int = N,
    stderr: float | None = None,
    measure: str = "accuracy",
    seed: int = 0,
) -> pd.DataFrame:
    """Records of behaviour: value by task and step, with errors of independent samples."""
    values = np.array([list(map(float, curve)) for curve in curves.values()])
    spread = np.sqrt(values * (1 - values) / (n - 1)) if stderr is None else stderr + 0 * values
    columns: dict[str, Any] = dict.fromkeys(name for name, _, _ in COLUMNS)
    columns |= {"run": run, "scale": scale, "seed": seed, "level": 1, "layer": "", "n": n}
    columns |= {"measure": measure, "settings": "s", "task": np.repeat(list(curves), len(steps))}
    columns |= {"step": np.tile(steps, len(curves)), "value": values.ravel()}
    return pd.DataFrame(columns | {"stderr": spread.ravel()})


def risen(curve: Sequence[float], *, steps: Sequence[int] = STEPS, **how: Any) -> dict[str, Any]:
    options = {k: how.pop(k) for k in ("share", "errors", "persistence", "from_first") if k in how}
    chance = {"t": how.pop("chance", CHANCE)}
    found = rises(table({"t": curve}, steps=steps, **how), chance=chance, **options)
    return found.iloc[0].to_dict()


def after(at: int, low: float = CHANCE, high: float = 0.6, length: int = len(STEPS)) -> list[float]:
    return [low if i < at else high for i in range(length)]


def guesses(tasks: int, n: int, *, same: float | None = None, seed: int = 0) -> pd.DataFrame:
    """Tasks at chance: new questions at every checkpoint, or the same, answered alike."""
    generator = np.random.default_rng(seed)
    if same is None:
        values = generator.binomial(n, CHANCE, (tasks, len(STEPS))) / n
    else:
        liking = generator.standard_normal((tasks, n))
        shares = []
        for _ in STEPS:
            shares.append((liking < stats.norm.ppf(CHANCE)).mean(axis=1))
            new = generator.standard_normal(liking.shape)
            liking = same * liking + math.sqrt(1 - same**2) * new
        values = np.array(shares).T
    return table({f"t{i}": row for i, row in enumerate(values)}, n=n)


# Rises


def test_a_rise_is_the_first_of_three_checkpoints() -> None:
    found = risen(after(10))
    assert (found["step"], found["after"]) == (512, 256)
    assert found["kept"] and not found["pending"] and not found["early"]
    assert (found["initial"], found["final"], found["best"]) == (CHANCE, 0.6, 0.6)
    assert (found["checkpoints"], found["above"], found["below"]) == (27, 17, 0)
    assert found["expected"] == pytest.approx(27 * stats.norm.sf(2))


def test_a_rise_is_what_its_definition_says_on_random_curves() -> None:
    generator = np.random.default_rng(1)
    for _ in range(60):
        values = np.clip(CHANCE + 0.03 * generator.standard_normal(27).cumsum(), 0.01, 0.99)
        share, persistence = generator.choice([0.0, 0.1]), int(generator.integers(1, 5))
        found = risen(values.tolist(), share=share, persistence=persistence)
        e = [math.sqrt(v * (1 - v) / (N - 1)) for v in values]
        held = [
            v - 2 * e[i] > CHANCE + share * (1 - CHANCE)
            and v - values[0] > 2 * math.sqrt(e[i] ** 2 + e[0] ** 2)
            for i, v in enumerate(values)
        ]
        first = [i for i in range(27 - persistence + 1) if all(held[i : i + persistence])]
        if first:
            assert (found["step"], found["kept"]) == (STEPS[first[0]], held[-1])
        else:
            assert math.isnan(found["step"]) and found["pending"] == held[-1]
        assert found["above"] == sum(v - 2 * x > CHANCE for v, x in zip(values, e, strict=True))
        assert found["below"] == sum(v + 2 * x < CHANCE for v, x in zip(values, e, strict=True))


@pytest.mark.parametrize("n", [100, 1000])
@pytest.mark.parametrize("same", [None, 0.95])
def test_guesses_do_not_rise(n: int, same: float | None) -> None:
    """Of 1,000 tasks at chance 0 to 3 do; by chance alone, not from the first value, up to 64."""
    table = guesses(300, n, same=same)
    found = rises(table, chance=dict.fromkeys(table["task"], CHANCE))
    assert found["step"].notna().sum() <= 3 and found["pending"].sum() <= 8
    assert (found["above"] > 0).sum() > 40  # what is ever above says little


@pytest.mark.parametrize("curve", [[0.0] * 27, [1.0] * 27, [CHANCE] * 27, [0.5] * 27])
def test_what_never_changes_never_rises(curve: list[float]) -> None:
    assert math.isnan(risen(curve)["step"])


def test_none_right_and_then_all() -> None:
    found = risen(after(5, 0.0, 1.0), chance=0.0)
    assert found["step"] == 16 and found["kept"]


def test_a_preference_for_right_answers_before_training_is_no_rise() -> None:
    found = risen([0.4] * 27)
    assert math.isnan(found["step"]) and not found["early"] and found["above"] == 27
    assert risen([0.4] * 27, from_first=False)["step"] == 0
    assert math.isnan(risen([0.4] * 27, from_first=False)["after"])


def test_what_may_have_risen_before_the_first_checkpoint_is_told() -> None:
    late = [step + 1000 for step in STEPS]
    found = risen([0.4] * 27, steps=late)
    assert math.isnan(found["step"]) and found["early"]
    assert not risen([CHANCE] * 27, steps=late)["early"]
    again = risen([*[0.4] * 10, *[0.6] * 17], steps=late)
    assert again["step"] == late[10] and not again["early"]


def test_a_rise_that_is_lost_is_not_kept_and_a_late_one_is_pending() -> None:
    lost = risen([*after(5)[:20], *[CHANCE] * 7])
    assert lost["step"] == 16 and not lost["kept"]
    late = risen(after(25))
    assert math.isnan(late["step"]) and late["pending"]


def test_a_tenth_of_the_way_is_later() -> None:
    curve = [*[CHANCE] * 5, *[0.31] * 5, *[0.5] * 17]
    assert (risen(curve)["step"], risen(curve, share=TENTH)["step"]) == (16, 512)


def test_without_chance_or_errors_nothing_is_judged() -> None:
    found = rises(table({"t": after(5)}), chance={"other": 0.25}).iloc[0]
    assert math.isnan(found["chance"]) and math.isnan(found["step"]) and found["above"] == 0
    assert math.isnan(risen(after(5), stderr=math.nan)["step"])


@pytest.mark.parametrize("how", [{"persistence": 0}, {"share": 1.0}, {"errors": math.nan}])
def test_settings_out_of_range_are_refused(how: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(how))):
        risen(after(5), **how)


def test_counts_of_tasks_that_leave_chance() -> None:
    curves = {"up": after(10), "late": after(25), "flat": [CHANCE] * 27, "down": after(3, high=0.1)}
    curves |= {"lost": [*after(5)[:20], *[CHANCE] * 7], "unknown": after(5)}
    own = table(curves)
    chance = dict.fromkeys(["up", "late", "flat", "down", "lost"], CHANCE)
    counts = leaving_chance(rises(own, chance=chance), rises(own, chance=chance, share=TENTH))
    found = counts.iloc[0].to_dict()
    assert (found["tasks"], found["chance_unknown"]) == (5, 1)
    assert (found["rise"], found["kept"], found["tenth"], found["pending"]) == (2, 1, 2, 1)
    assert (found["ever_above"], found["ever_below"]) == (3, 1)
    assert (found["last_above"], found["last_below"], found["median_step"]) == (2, 1, 264)
    assert found["by_luck"] == pytest.approx(5 * stats.norm.sf(2))


# Order


def two(here: Mapping[str, int | None], there: Mapping[str, int | None]) -> pd.DataFrame:
    """Rises of two runs: the checkpoint by task, None for never."""
    frames = []
    for scale, at in (("70m", here), ("160m", there)):
        curves = {t: after(27 if i is None else i) for t, i in at.items()}
        frames.append(table(curves, run=f"m-{scale}", scale=scale))
    return rises(join(*frames), chance=dict.fromkeys([*here, *there], CHANCE))


def verdicts(found: pd.DataFrame) -> dict[tuple[str, str], str]:
    return {(r.first, r.second): r.verdict for r in pairs_between(found).itertuples()}


def test_pairs_are_in_order_where_their_intervals_do_not_overlap() -> None:
    found = two({"a": 5, "b": 9, "c": 5, "d": None}, {"a": 9, "b": 5, "c": 6, "d": None})
    assert verdicts(found) == {
        ("a", "b"): "swapped",
        ("a", "c"): "undecided",
        ("a", "d"): "same",
        ("b", "c"): "swapped",
        ("b", "d"): "same",
        ("c", "d"): "same",
    }


def test_two_that_never_rise_and_one_that_is_pending_have_no_order() -> None:
    found = two({"a": None, "b": None, "c": 26, "d": 5}, {"a": 8, "b": 4, "c": 4, "d": 5})
    undecided = {pair for pair, verdict in verdicts(found).items() if verdict == "undecided"}
    assert undecided == {("a", "b"), ("a", "c"), ("b", "c"), ("c", "d")}


def test_what_may_have_risen_before_has_no_order() -> None:
    late = [step + 1000 for step in STEPS]
    curves = {"early": [0.5] * 27, "later": after(9), "never": [CHANCE] * 27}
    both = join(*(table(curves, steps=late, run=f"m-{s}", scale=s) for s in ("70m", "160m")))
    found = verdicts(rises(both, chance=dict.fromkeys(curves, CHANCE)))
    assert found == {
        ("early", "later"): "undecided",
        ("early", "never"): "undecided",
        ("later", "never"): "same",
    }


def test_agreement_of_orders_is_kendalls_and_counts_of_pairs() -> None:
    generator = np.random.default_rng(3)
    names = [f"t{i}" for i in range(12)]
    here, there = (
        {t: None if generator.random() < 0.2 else int(generator.integers(1, 24)) for t in names}
        for _ in range(2)
    )
    found = order_between(two(here, there)).iloc[0]

    def first(at: Mapping[str, int | None], a: str, b: str) -> int:
        """Rises lie between checkpoints i - 1 and i."""
        one, other = (99 if at[name] is None else at[name] for name in (a, b))
        return 0 if one == other else 1 if one < other else -1

    signs = [(first(here, a, b), first(there, a, b)) for a, b in itertools.combinations(names, 2)]
    decided = [(a, b) for a, b in signs if a and b]
    assert found["pairs"] == 66 and found["same"] + found["swapped"] == len(decided)
    assert found["swapped"] == sum(a != b for a, b in decided)
    both = [t for t in names if here[t] is not None and there[t] is not None]
    tau = stats.kendalltau([here[t] for t in both], [there[t] for t in both])
    assert (found["tasks"], found["tau"]) == (len(both), pytest.approx(tau.statistic))


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


# Beside geometry

SETS = ("syntax", "facts", "")


def geometry(at: Mapping[str, int], run: str = "m-70m") -> pd.DataFrame:
    generator = np.random.default_rng(6)
    frames = []
    for task, index in at.items():
        values = np.array(after(index, 5.0, 10.0)) + 0.05 * generator.standard_normal(27)
        cell = {"task": task, "level": 1 if task else 0, "layer": "final", "scale": "70m"}
        frames.append(rows("rankme", STEPS, values, **cell))
        frames.append(rows("accuracy", STEPS, [0.3] * 27, **(cell | {"layer": ""})))
    return join(*frames).assign(run=run)


def test_geometry_beside_a_task_is_that_of_its_name_its_kind_or_the_mixture() -> None:
    own = table({t: after(9) for t in ("facts", "arc_easy", "blimp", "t")})
    kinds = {"arc_easy": "facts", "blimp": "syntax", "t": "other", "facts": "syntax"}
    found = beside(own, geometry(dict.fromkeys(SETS, 9)), kinds)
    assert {r.task: (r.set, r.why) for r in found.itertuples()} == {
        "facts": ("facts", "name"),
        "arc_easy": ("facts", "kind"),
        "blimp": ("syntax", "kind"),
        "t": ("", "mixture"),
    }
    assert beside(own, geometry({"syntax": 9}, run="other"), kinds).empty


def test_joined_records_have_behaviour_of_benchmarks_alone() -> None:
    own = table({"arc_easy": after(9), "t": after(9)})
    found = joined(own, geometry({"facts": 12, "syntax": 3}), {"arc_easy": "facts"})
    assert set(found.loc[found["measure"] == "accuracy", "task"]) == {"arc_easy", "t"}
    assert set(found.loc[found["measure"] == "rankme", "task"]) == {"arc_easy"}
    assert len(found) == 3 * 27


@pytest.mark.parametrize(("ahead", "outcome"), [(-3, "lag"), (-1, "lag"), (0, "tie")])
@pytest.mark.parametrize("sign", [1, -1])
def test_planted_leads_and_lags_are_found(ahead: int, outcome: str, sign: int) -> None:
    own = table({"arc_easy": after(10), "blimp": after(13)})
    planted = geometry({"facts": 10 - sign * ahead, "syntax": 13 - sign * ahead})
    both = joined(own, planted, {"arc_easy": "facts", "blimp": "syntax"})
    found = rises(own, chance={"arc_easy": CHANCE, "blimp": CHANCE})
    told = leads(both, measures=("rankme",), events=found)
    wanted = {"lag": "lag" if sign > 0 else "lead", "tie": "tie"}[outcome]
    assert told["outcome"].tolist() == [wanted] * 2
    steps = log_steps(STEPS)
    moved = [float(steps[i] - steps[i - sign * ahead]) for i in (10, 13)]
    assert told["lead"].tolist() == pytest.approx(moved)


def test_claims_without_geometry_are_undecided_and_with_it_judged() -> None:
    own = table({f"t{i}": after(10 + i % 3) for i in range(12)})
    found = rises(own, chance=dict.fromkeys(own["task"], CHANCE))
    nothing = own.iloc[:0]
    for claim in (pythia_global(nothing), pythia_tasks(joined(own, nothing, {}), found)):
        assert claim.verdict == "not enough data" and "geomfast measure" in claim.reason
    fallen = geometry({"": 20})
    fallen["value"] = fallen["value"].where(~fallen["step"].isin(STEPS[4:9]), 2.0)
    claim = pythia_global(fallen)
    # One model, of which nothing is known to hold of others.
    assert claim.verdict == "partly" and claim.reason.startswith("1 of 1 sets; median fall 60%")
    assert pythia_global(geometry({"": 9})).reason.startswith("0 of 1 sets")

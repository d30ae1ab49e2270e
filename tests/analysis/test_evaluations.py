"""Benchmarks over training: planted curves, guesses, and everything computed a second way."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from geomfast.analysis.evaluations import (
    joined,
    leaving_chance,
    order_between,
    pairs_between,
    rises,
)
from geomfast.analysis.evaluations.claims import pythia_global, pythia_tasks
from geomfast.analysis.evaluations.joined import beside
from geomfast.analysis.evaluations.rises import TENTH
from geomfast.analysis.leads import leads
from geomfast.analysis.trajectories import log_steps
from tests.analysis.benchmarks import CHANCE, STEPS, N, after, guesses, risen, table
from tests.analysis.synthetic import join, rows

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

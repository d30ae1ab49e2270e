"""Claims about what changes first: true, false and undecided."""

import numpy as np
import pandas as pd
import pytest

from geomfast.analysis.claims.crosscorrelation import cross_correlation
from geomfast.analysis.claims.hierarchy import (
    geometry_leads,
    hessian_lags,
    llc_synchronous,
    only_rankme_leads,
)
from geomfast.analysis.claims.probes import probe_first
from geomfast.analysis.probes import FIRST_TOKEN, MEASURE
from tests.analysis.planted import (
    NEVER,
    STEPS,
    cells,
    emerging,
    later,
    levels,
    seeds,
    spread,
    table,
)
from tests.analysis.synthetic import join

KEYS = cells(("COPY", "REV", "SORT", "ADD"))
WHEN = spread(KEYS, first=36, every=2)
NOT_ENOUGH = "not enough data"


def sweep(ahead, **options):
    frame = seeds(2, lambda seed: emerging(WHEN, ahead=ahead, seed=seed, **options))
    return sampled(frame)


def sampled(frame, **diagnostics):
    """With what makes coefficients believable, unless other diagnostics are given."""
    llc = frame[frame["measure"] == "llc"]
    good = {"rhat": 1.0, "ess": 200.0, "diverged": 0.0, "step_bias": 0.0} | diagnostics
    beside = [llc.assign(measure=f"llc_{name}", value=value) for name, value in good.items()]
    return join(frame, *beside) if len(llc) else frame


def thin(frame, measure, every):
    """The same with one measure at fewer checkpoints where things emerge."""
    kept = {*STEPS[:32:4], *STEPS[32:60:every], *STEPS[60::3]}
    return frame[(frame["measure"] != measure) | frame["step"].isin(kept)]


@pytest.mark.parametrize(
    ("ahead", "verdict"), [(4, "holds"), (0, "does not hold"), (-4, "does not hold")]
)
def test_geometry_leads(ahead, verdict):
    claim = geometry_leads(sweep({"rankme": ahead}))
    assert claim.verdict == verdict
    assert claim.value == float(ahead > 0) and claim.n["events"] == 8
    assert f"all levels {24 if ahead > 0 else 0}/24" in claim.reason


def test_geometry_leads_is_about_hard_task_levels():
    easy = sweep({"rankme": 4})
    hard = sweep({"rankme": -4})
    mixed = join(easy[easy["level"] < 3], hard[hard["level"] == 3])
    claim = geometry_leads(mixed)
    assert claim.verdict == "does not hold" and "level 1 8/8" in claim.reason
    assert geometry_leads(easy[easy["level"] < 3]).verdict == NOT_ENOUGH
    assert "no task-level of level 3" in geometry_leads(easy[easy["level"] < 3]).reason
    rare = easy[(easy["level"] < 3) | ((easy["task"] == "ADD") & (easy["seed"] == 0))]
    assert "1 event, at least 4" in geometry_leads(rare).reason
    some = join(easy[easy["task"] < "REV"], hard[hard["task"] >= "REV"])
    assert geometry_leads(some).verdict == "does not hold" and geometry_leads(some).value == 0.5


def test_geometry_leads_partly():
    easy, hard = sweep({"rankme": 4}), sweep({"rankme": -4})
    some = join(easy[easy["task"] != "REV"], hard[(hard["task"] == "REV") & (hard["seed"] == 0)])
    some = join(some, easy[(easy["task"] == "REV") & (easy["seed"] == 1)])
    claim = geometry_leads(some)  # 7 of 8, and one seed of two disagrees
    assert claim.value == 7 / 8 and claim.verdict == "partly" and claim.low < 0.5


@pytest.mark.parametrize(
    ("ahead", "verdict"),
    [(0, "holds"), (-2, "holds"), (-9, "partly"), (2, "does not hold"), (14, "does not hold")],
)
def test_llc(ahead, verdict):
    claim = llc_synchronous(sweep({"llc": ahead}))
    assert claim.verdict == verdict
    assert claim.value == float(ahead > 0) and claim.n["events"] == 24


def test_llc_of_too_few_checkpoints_is_not_called_synchronous():
    coarse = llc_synchronous(thin(sweep({"llc": 0}), "llc", 13))
    assert coarse.verdict == NOT_ENOUGH and "closer checkpoints" in coarse.reason
    assert llc_synchronous(thin(sweep({"llc": 0}), "llc", 3)).verdict == "holds"
    assert "no llc" in llc_synchronous(sweep({"rankme": 3})).reason


def test_lower_bounds_count_and_are_named():
    frame = sweep({"llc": 0})
    some = frame["step"].isin(STEPS[4:6]) & (frame["measure"] == "llc_rhat")
    effect = frame[some].assign(measure="llc_localization_effect", value=0.5, stderr=0.05)
    claim = llc_synchronous(pd.concat([frame, effect], ignore_index=True))
    assert claim.verdict == "holds" and "in doubt" not in claim.reason
    assert claim.reason.endswith(f"; {len(effect)} are lower bounds")


def test_doubtful_coefficients_do_not_count():
    frame = sweep({"llc": 0})
    assert "in doubt" not in llc_synchronous(frame).reason
    # Two checkpoints of every task-level are wild, and known to be.
    wild = frame["step"].isin(STEPS[4:6])
    frame.loc[wild & (frame["measure"] == "llc"), "value"] = 1e6
    changed = llc_synchronous(frame)
    frame.loc[wild & (frame["measure"] == "llc_rhat"), "value"] = 1.3
    claim = llc_synchronous(frame)
    assert claim.verdict == "holds" and changed.verdict != "holds"
    total = 2 * 12 * len(STEPS)
    assert f"{2 * 2 * 12:,} of {total:,} coefficients are in doubt and left out" in claim.reason
    frame.loc[frame["measure"] == "llc_rhat", "value"] = 1.3
    claim = llc_synchronous(frame)
    assert claim.verdict == NOT_ENOUGH
    assert claim.reason.endswith(f"all {total:,} coefficients are in doubt")


@pytest.mark.parametrize(
    ("ahead", "verdict"),
    [(-4, "holds"), (-1, "holds"), (0, "does not hold"), (4, "does not hold")],
)
def test_hessian(ahead, verdict):
    claim = hessian_lags(sweep({"hessian_top": ahead}))
    assert claim.verdict == verdict and claim.value == float(ahead < 0)


def test_hessian_partly_and_not_measured():
    lags, leads = sweep({"hessian_top": -4}), sweep({"hessian_top": 4})
    some = join(lags[lags["task"] != "REV"], leads[leads["task"] == "REV"])
    assert hessian_lags(some).verdict == "holds"  # a quarter of precursors is allowed
    more = join(lags[lags["level"] > 1], leads[leads["level"] == 1])
    assert hessian_lags(more).verdict == "partly"
    assert hessian_lags(sweep({"llc": 0})).verdict == NOT_ENOUGH
    never = emerging(dict.fromkeys(KEYS, NEVER), ahead={"hessian_top": 0})
    assert "0 events" in hessian_lags(never).reason


OTHERS = {"fisher_rank": -2, "gradient_covariance_rank": -2, "hessian_top": -4, "llc": 0}


def test_only_rankme():
    claim = only_rankme_leads(sweep({"rankme": 4, **OTHERS}))
    assert claim.verdict == "holds" and claim.value == 1.0 and "without" not in claim.reason
    assert "rankme 24/24, fisher_rank 0/24" in claim.reason
    also = only_rankme_leads(sweep({"rankme": 4, **OTHERS, "fisher_rank": 4}))
    assert also.verdict == "does not hold" and "over fisher_rank" in also.measured
    reverse = only_rankme_leads(sweep({"rankme": -4, **OTHERS, "llc": 4}))
    assert reverse.verdict == "does not hold" and reverse.value == -1.0
    first = sweep({"rankme": 4, **OTHERS})
    second = sweep({"rankme": -4, **OTHERS})
    half = join(first[first["level"] > 1], second[second["level"] == 1])
    assert only_rankme_leads(half).verdict == "partly"


def test_measures_beside_the_papers_do_not_decide_and_are_named():
    frame = sweep({"rankme": 4, **OTHERS, "two_nn": 4, "gradient_norm": -4})
    frame.loc[frame["measure"] == "two_nn", "layer"] = "final"
    claim = only_rankme_leads(frame)
    assert claim.verdict == "holds"
    assert "1 of 2 measures beside the paper's reach 75%: two_nn 24/24" in claim.reason
    none = only_rankme_leads(sweep({"rankme": 4, **OTHERS, "gradient_norm": -4}))
    assert none.reason.endswith("0 of 1 measures beside the paper's reach 75%")
    assert "beside the paper" not in only_rankme_leads(sweep({"rankme": 4, **OTHERS})).reason


def test_only_rankme_needs_others_that_can_be_placed():
    frame = sweep({"rankme": 4, "fisher_rank": -2})
    claim = only_rankme_leads(frame)
    assert claim.verdict == NOT_ENOUGH and "no llc" in claim.reason
    coarse = sweep({"rankme": 4, "fisher_rank": -2, "hessian_top": -4, "llc": 1})
    claim = only_rankme_leads(thin(coarse, "llc", 13))
    assert claim.verdict == "holds" and "llc (not to be placed)" in claim.reason


def test_cross_correlation():
    leads = cross_correlation(sweep({"rankme": 8}))
    assert leads.verdict == "holds" and leads.value > 0.5 and leads.n["runs"] == 2
    assert cross_correlation(sweep({"rankme": 0})).verdict == "does not hold"
    assert cross_correlation(sweep({"rankme": -8})).verdict == "does not hold"
    beside = cross_correlation(sweep({"rankme": 8, "llc": 0}))
    assert "llc +0.00" in beside.reason
    few = emerging({key: WHEN[key] for key in KEYS[:3]})
    assert cross_correlation(few).verdict == NOT_ENOUGH
    assert "no rankme" in cross_correlation(sweep({"llc": 0})).reason
    coarse = thin(sweep({"rankme": 0}), "rankme", 13)
    assert "closer ones are missing" in cross_correlation(coarse).reason


def test_cross_correlation_that_is_not_the_tasks_own_holds_partly():
    frame = sweep({"rankme": 8})
    together = seeds(
        2, lambda seed: emerging(dict.fromkeys(KEYS, STEPS[34]), ahead={"rankme": 0}, seed=seed)
    )
    shared = join(frame[frame["measure"] == "accuracy"], together[together["measure"] == "rankme"])
    claim = cross_correlation(shared)
    assert claim.verdict in ("partly", "does not hold") and claim.table["p_value"].item() > 0.05


def probes(ahead, *, token=True, start=0.1):
    """Probes of two layers ahead of the model's first token, and that of the whole answer."""
    series = []
    for (task, level), step in WHEN.items():
        moves = [("accuracy", "", step, 0.0), (MEASURE, "block 1", later(step, -1 - ahead), start)]
        moves.append((MEASURE, "final", later(step, -4 - ahead), start))
        if token:
            moves.append((FIRST_TOKEN, "", later(step, -4), 0.1))
        for measure, layer, at, low in moves:
            cell = {"task": task, "level": level, "layer": layer, "measure": measure}
            series.append((cell, levels(measure, at, low, 1.0)))
    return join(*(table(series, seed=seed) for seed in range(2)))


@pytest.mark.parametrize(
    ("ahead", "verdict"),
    [(5, "holds"), (1, "holds"), (0, "does not hold"), (-2, "does not hold")],
)
def test_probes(ahead, verdict):
    claim = probe_first(probes(ahead))
    assert claim.verdict == verdict and claim.n["events"] == 24
    assert "before the whole answer on 24 of 24" in claim.reason
    if ahead > 0:
        assert "most often at final" in claim.reason


def test_probes_against_the_whole_answer_hold_partly_at_best():
    claim = probe_first(probes(-2, token=False))
    assert claim.verdict == "partly" and claim.value == 1.0
    assert "not recorded" in claim.reason


def test_probes_that_cannot_be_judged():
    start = probe_first(probes(5, start=0.95))
    assert start.verdict == NOT_ENOUGH and "24 from the start" in start.reason
    frame = probes(5)
    assert "no probe_accuracy" in probe_first(frame[frame["measure"] != MEASURE]).reason
    assert "no accuracy" in probe_first(frame[frame["measure"] == MEASURE]).reason


def test_noise_and_gaps_leave_the_verdicts_as_they_are():
    frame = sweep({"rankme": 6, **OTHERS}, noise=0.1)
    kept = np.random.default_rng(0).random(len(frame)) > 0.15
    gaps = frame[kept]
    assert geometry_leads(gaps).verdict == "holds"
    assert llc_synchronous(gaps).verdict == "holds"
    assert only_rankme_leads(gaps).verdict == "holds"

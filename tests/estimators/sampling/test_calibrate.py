"""A grid of settings: what is made of each, and which one is recommended."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from geomfast.estimators.sampling import calibrate as module
from geomfast.estimators.sampling.calibrate import (
    Trial,
    attempt,
    calibrate,
    compared,
    judged,
    recommend,
)
from tests.estimators.sampling.cases import Quadratic, coefficient, output, silence

CURVATURE = torch.linspace(0.5, 2.0, 40)
OPTIONS: dict[str, Any] = {"nbeta": 50.0, "chains": 4, "draws": 200, "burn_in": 50, "seed": 3}


class Shifted(Quadratic):
    """The same around weights that are not zero, so that chains can be near them."""

    def __init__(self, curvature: Tensor, at: float = 1.0) -> None:
        super().__init__(curvature)
        self.at = at
        self.weight.data.fill_(at)

    def forward(self, x: Tensor) -> Tensor:
        away = self.weight - self.at
        return 0.5 * (self.curvature * away.square()).sum() + x @ away


def tried(lrs: list[float], localizations: list[float], **options: Any) -> module.Calibration:
    model, data = Shifted(CURVATURE), silence(CURVATURE, 2)
    options = OPTIONS | options
    return calibrate(model, output, data, lrs=lrs, localizations=localizations, **options)


def test_the_setting_recommended_gives_the_coefficient_of_infinitely_small_steps() -> None:
    found = tried([1e-4, 2e-3, 4e-3, 3e-2], [10.0], curvature=2.0, draws=800)
    best = found.recommended
    assert best is not None and best.estimate is not None
    # The smallest lr has not arrived, the largest is biased: by more than a tenth.
    assert best.lr == 4e-3
    exact = coefficient(CURVATURE, 0.0, 50.0, 10.0)
    assert best.estimate.mean == pytest.approx(exact, rel=0.15)
    assert f"{best.lr:g} the largest lr" in found.reason
    words = {trial.lr: trial.verdict for trial in found.trials}
    assert words[1e-4].startswith(("too few draws", "spreading", "drifting"))
    assert words[3e-2].startswith("step too large")


def test_what_cannot_be_stable_is_not_run() -> None:
    ran: list[Trial] = []
    found = tried([1e-2, 1e-1], [10.0], curvature=2.0, progress=ran.append)
    stable, unstable = found.trials
    assert stable.estimate is not None and unstable.estimate is None
    # 4 / (50 * 2 + 10)
    assert unstable.verdict == "skipped: unstable, chains need lr below 0.036"
    assert [trial.lr for trial in ran] == [1e-2, 1e-1]


def test_a_setting_whose_chains_all_diverge_leaves_the_others() -> None:
    found = tried([1e-2, 1e-1], [10.0])
    assert found.trials[0].estimate is not None
    assert found.trials[1].estimate is None
    assert found.trials[1].verdict == "diverged: all chains"


def test_other_errors_are_not_taken_for_divergence() -> None:
    with pytest.raises(ValueError, match="lr must be positive"):
        attempt(Shifted(CURVATURE), output, silence(CURVATURE), lr=-1.0, nbeta=1.0)


def estimate(trace: Tensor, spread: Tensor, **changes: Any) -> Any:
    """As much of an estimate as a judgement needs; the trace in units of the coefficient."""
    values = {
        "diverged": torch.zeros(len(trace), dtype=torch.bool),
        "nbeta": 2.0,
        "excess_trace": trace / 2.0,
        "distance": spread.expand_as(trace),
        "mean": trace.mean().item(),
        "stderr": 0.01,
        "verdict": "converged: R-hat 1.00, 100 effective draws",
    }
    return SimpleNamespace(**values | changes)


FLAT, STILL = torch.full((2, 80), 5.0), torch.ones(80)


def judge(found: Any) -> Trial:
    return judged(1e-3, 10.0, found, norm=4.0, burn_in=20)


def test_a_flat_trace_that_stays_has_converged() -> None:
    trial = judge(estimate(FLAT, STILL))
    assert trial.converged and trial.drift == 0.0 and trial.reach == 0.25


def test_a_trace_that_rises_is_drifting() -> None:
    rising = torch.linspace(1.0, 9.0, 80).expand(2, 80)
    trial = judge(estimate(rising, STILL))
    assert not trial.converged and trial.verdict.startswith("drifting: +2 ")
    # Within what is not known, it is not.
    assert judge(estimate(rising, STILL, stderr=1.0)).converged


def test_chains_that_still_leave_are_spreading() -> None:
    trial = judge(estimate(FLAT, torch.linspace(0.0, 1.0, 80).sqrt()))
    assert not trial.converged and trial.verdict.startswith("spreading: |w - w0|^2 grew by 4")


def test_what_the_sampler_doubts_has_not_converged() -> None:
    trial = judge(estimate(FLAT, STILL, verdict="still training: ..."))
    assert not trial.converged and trial.verdict == "still training: ..."


def test_what_only_the_localization_spoils_is_marked_as_that() -> None:
    verdict = "bound by localization: at least 5 ± 0.1; localization = 9 takes about 41% ± 3%"
    trial = judge(estimate(FLAT, STILL, verdict=verdict))
    assert trial.localized and trial.settled and not trial.converged and trial.verdict == verdict
    rising = estimate(torch.linspace(1.0, 9.0, 80).expand(2, 80), STILL, verdict=verdict)
    assert not judge(rising).settled and judge(rising).verdict.startswith("drifting")
    assert not judge(estimate(FLAT, STILL)).localized


def made(lr: float, localization: float, mean: float, **changes: Any) -> Trial:
    found: Any = SimpleNamespace(mean=mean, stderr=0.1)
    return replace(Trial(lr, localization, found, "converged", True, 0.0, 0.3), **changes)


def test_neighbours_agree_within_their_errors_or_a_tenth() -> None:
    trials = [
        made(1e-4, 1.0, 3.0, converged=False),
        made(2e-4, 1.0, 5.0),
        made(5e-4, 1.0, 5.2),
        made(1e-3, 1.0, 9.0),
        made(2e-4, 9.0, 5.0),
    ]
    # The first that converged has only its larger neighbour; the last has none.
    assert [trial.agrees for trial in compared(trials)] == [None, True, True, False, None]


def test_the_weakest_pull_comes_first_and_then_the_largest_lr() -> None:
    trials = [
        made(1e-4, 1.0, 9.0, reach=0.8, agrees=True),
        made(1e-4, 3.0, 5.0, agrees=True),
        made(2e-4, 3.0, 5.0, agrees=True),
        made(5e-4, 3.0, 7.0, agrees=False),
        made(5e-4, 9.0, 2.0, agrees=True),
    ]
    best, reason = recommend(trials)
    assert best is trials[2]
    assert "3 is the weakest localization" in reason and "5 ± 0.1" in reason


def test_where_the_localization_spoils_all_settings_the_weakest_is_told_with_its_verdict() -> None:
    spoilt: dict[str, Any] = {"converged": False, "localized": True, "verdict": "localization ..."}
    trials = [
        made(1e-4, 3.0, 5.0, **spoilt),
        made(2e-4, 3.0, 5.1, **spoilt),
        made(1e-4, 9.0, 2.0, **spoilt),
        made(2e-4, 9.0, 2.1, **spoilt),
    ]
    found = compared(trials)
    assert all(trial.agrees for trial in found)
    best, reason = recommend(found)
    assert best is found[1] and reason.endswith(" But its localization ....")
    # What it does not spoil comes first.
    found[3] = replace(found[3], converged=True, localized=False)
    best, reason = recommend(found)
    assert best is found[3] and "But" not in reason


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"converged": False}, "No setting has converged"),
        ({"reach": 0.9}, "stronger localization"),
        ({"agrees": None}, "No setting that has converged is confirmed"),
    ],
)
def test_nothing_is_recommended_without_a_reason(change: dict[str, Any], words: str) -> None:
    best, reason = recommend([made(1e-4, 1.0, 5.0, **{"agrees": True, **change})])
    assert best is None and words in reason

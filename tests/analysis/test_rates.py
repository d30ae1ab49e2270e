"""Runs at several learning rates: kept apart, and the best of each scale."""

import math

import pandas as pd
import pytest

from geomfast.analysis import (
    CLAIMS,
    SeveralRates,
    at_rate,
    best_rates,
    claims,
    floors_by_rate,
    rate_losses,
    rates,
    summarise,
)
from geomfast.analysis import cells as cells_of
from geomfast.analysis.rates import differing_rates
from geomfast.testbed.hyperparameters import Hyperparameters, of_run
from tests.analysis.synthetic import join, rows

STEPS = list(range(0, 60, 2))


def run(scale="nano", rate="", seed=0, *, floor=2.0, loss=1.0, steps=STEPS, task="MOD"):
    """A run that falls to a floor and ends with a loss; a rate of "" is not in its name."""
    values = [8.0 if step < 10 else floor if step < 40 else 12.0 for step in steps]
    cell = {"scale": scale, "seed": seed, "task": task}
    frame = join(
        rows("rankme", steps, values, layer="final", **cell),
        rows("answer_logprob", steps, [-loss] * len(steps), **cell),
    )
    name = "-".join(filter(None, ("joint", scale, rate, f"seed{seed}")))
    return frame.assign(run=name)


def two_rates(scales=("nano", "micro"), seeds=2):
    """Floors fall with the rate, not with the scale; nano is best at the high rate, micro not."""
    loss = {("nano", "lr0.0003"): 2.0, ("micro", "lr0.0003"): 1.0}
    return join(
        *(
            run(scale, rate, seed, floor=floor + 0.01 * seed, loss=loss.get((scale, rate), 1.5))
            for scale in scales
            for rate, floor in (("lr0.0003", 4.0), ("lr0.001", 2.0))
            for seed in range(seeds)
        )
    )


@pytest.mark.parametrize(
    ("name", "rate", "warmup"),
    [
        ("joint-nano-seed0", None, None),
        ("joint-nano-lr0.001-seed0", 1e-3, None),
        ("mod-xlarge-lr1e-05-warmup20-seed12", 1e-5, 20),
        ("joint-micro-warmup5-seed3", None, 5),
        # Names that no sweep gave.
        ("my-model-lr0.1-seed0", None, None),
        ("joint-nano-lr0.1", None, None),
        ("joint-nano-lr-seed0", None, None),
    ],
)
def test_what_a_name_says(name, rate, warmup):
    assert of_run(name) == Hyperparameters(rate, warmup)


@pytest.mark.parametrize("rate", [3e-4, 1e-3, 1e-5, 0.1 + 0.2, 2.0, 123456.789, 1e-30])
def test_a_label_keeps_every_digit(rate):
    varied = Hyperparameters(rate, 7)
    assert of_run(f"joint-nano-{varied.label}-seed0") == varied


def test_rates_in_order():
    frame = join(run(rate="lr0.001"), run(rate="lr1e-05"), run(), run(rate="warmup5"))
    assert rates(frame) == ["own", "warmup5", "lr1e-05", "lr0.001"]
    assert set(at_rate(frame, "lr1e-05")["run"]) == {"joint-nano-lr1e-05-seed0"}
    assert set(at_rate(frame, "own")["run"]) == {"joint-nano-seed0"}
    with pytest.raises(ValueError, match="no runs at 'lr1'; there are: best, own"):
        at_rate(frame, "lr1")


def test_the_best_rate_of_each_scale_has_the_lowest_loss_at_the_last_step():
    found = best_rates(two_rates())
    assert set(found["run"]) == {
        f"joint-{name}-seed{seed}" for name in ("nano-lr0.001", "micro-lr0.0003") for seed in (0, 1)
    }
    table = rate_losses(two_rates())
    assert table["scale"].tolist() == ["nano", "nano", "micro", "micro"]
    assert table["loss"].tolist() == [2.0, 1.5, 1.0, 1.5]
    assert table["best"].tolist() == [False, True, True, False]
    assert table["step"].tolist() == [58.0] * 4 and table["runs"].tolist() == [2] * 4


def test_a_rate_whose_runs_have_not_all_finished_is_not_the_best():
    frame = join(
        run(rate="lr0.001", seed=0, loss=2.0),
        run(rate="lr0.001", seed=1, loss=2.0),
        # One diverged; the survivor looks better than it is.
        run(rate="lr0.1", seed=0, loss=1.0),
        run(rate="lr0.1", seed=1, loss=9.0, steps=STEPS[:6]),
    )
    table = rate_losses(frame).set_index("rate")
    assert table.loc["lr0.1", ["runs", "finished", "best"]].tolist() == [2, 1, False]
    assert table.loc["lr0.001", "best"]


def test_without_behaviour_no_rate_is_best_unless_it_is_the_only_one():
    frame = join(run(rate="lr0.001"), run(rate="lr0.1"), run("micro", "lr0.1"))
    silent = frame[frame["measure"] == "rankme"]
    table = rate_losses(silent)
    assert table["best"].tolist() == [False, False, True] and table["loss"].isna().all()
    assert set(best_rates(silent)["scale"]) == {"micro"}


def test_no_claim_mixes_rates():
    frame = two_rates()
    for judge in (*CLAIMS, claims):
        with pytest.raises(SeveralRates, match=r"nano|micro.*lr0\.0003, lr0\.001.*at_rate"):
            judge(frame)
    with pytest.raises(SeveralRates):
        summarise(frame, cells_of(frame))
    warm = join(run(rate="lr0.001-warmup5"), run(rate="lr0.001-warmup50"))
    with pytest.raises(SeveralRates, match="warmup5"):
        claims(warm)


def test_floors_that_hang_on_the_rate_are_the_same_at_one_rate():
    frame = two_rates(seeds=3)

    def judged(records, **how):
        named = {claim.name: claim for claim in claims(records, **how)}
        return named["scale_invariant_floors"]

    for rate in rates(frame):
        one = judged(at_rate(frame, rate))
        assert one.verdict == "holds" and "rates differ" not in one.reason
    best = judged(best_rates(frame))
    assert best.verdict == "does not hold"
    assert best.reason.endswith("learning rates differ: nano 0.001, micro 0.0003")


def test_rates_that_names_do_not_say_are_told_of():
    frame = join(*(run(scale, "", seed) for scale in ("nano", "micro") for seed in (0, 1, 2)))
    usual = {"nano": 8e-4, "micro": 3e-4}
    assert differing_rates(frame) == ""
    assert differing_rates(frame, {"nano": 1e-3, "micro": 1e-3}) == ""
    assert differing_rates(frame, usual) == "nano 0.0008, micro 0.0003"
    found = {claim.name: claim for claim in claims(frame, usual_rates=usual)}
    assert "rates differ: nano 0.0008" in found["mod_floor"].reason
    assert "rates differ" not in found["collapsed"].reason
    mixed = join(run("nano", "lr0.001"), run("micro", "lr0.001-warmup5"), run("small"))
    expected = "nano 0.001, micro 0.001 (warm-up 5), small unknown"
    assert differing_rates(mixed) == expected


def test_floors_by_rate():
    table = floors_by_rate(two_rates(scales=("nano",)))
    assert table["rate"].tolist() == ["lr0.0003", "lr0.001"]
    assert table["floor"].tolist() == pytest.approx([4.005, 2.005])
    assert table["spread"].tolist() == pytest.approx([0.01 / math.sqrt(2)] * 2)
    assert isinstance(table, pd.DataFrame)

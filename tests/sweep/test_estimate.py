"""Estimates of a run: what is left of it, the formulas, and both against a real run."""

import dataclasses
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from geomfast.estimators.sampling.rules import CHAINS
from geomfast.measures import spec_of
from geomfast.runs.estimate import DISK, SYNC, Estimate
from geomfast.runs.stopwatch import as_in_a_run
from geomfast.runs.timing import wall_time
from geomfast.sweep.estimate import estimate, left
from geomfast.sweep.footprint import disk_bytes, eigenvector_bytes, memory_bytes, state_bytes
from geomfast.sweep.jobs import Job
from geomfast.sweep.pace import Pace, measure_pace
from geomfast.sweep.plan import Settings, run_specs, train_settings
from geomfast.sweep.workload import PRODUCT, PRODUCTS, Workload, lengths
from geomfast.testbed.models.scales import SCALES
from geomfast.testbed.training.loop import Trainer
from tests.sweep.defaults import change

SETTINGS = Settings("joint", ("COPY", "MOD"), (1,), 12, 8, None, "fp32", 6, 2, 14, 16)
STEPS = [0, 2, 4, 6, 7, 8, 9, 10, 11, 12]
NOTHING = Pace(*[0.0] * 8)


def job(out: Path, scale: str = "nano", measures: tuple[str, ...] = (), **changes: Any) -> Job:
    of_job = {name: changes.pop(name) for name in ("keep", "cadence") if name in changes}
    settings = dataclasses.replace(SETTINGS, **changes)
    (spec,) = run_specs(settings, (scale,), (0,))
    return Job(spec, settings, measures, out, "cpu", threads=1, **of_job)


def at_pace(one: Job, **pace: float) -> Estimate:
    """Of a run that takes time for the named parts only."""
    return estimate(one, left(one), dataclasses.replace(NOTHING, **pace))


def test_of_a_new_run_everything_is_left(tmp_path: Path) -> None:
    found = left(job(tmp_path, measures=("rankme",), cadence={"rankme": 2}))
    assert list(found.measures) == STEPS
    assert found.measures[12] == {"behaviour", "rankme"} and found.measures[7] == {"behaviour"}
    assert (found.steps, found.saves) == (12, 9)
    assert not list(tmp_path.iterdir())


def test_of_a_stopped_run_what_comes_after_its_state_is_left(tmp_path: Path) -> None:
    one = job(tmp_path)
    asked = iter([False] * 11 + [True])  # asked after a checkpoint, too
    assert not one.run(stop=lambda: next(asked))
    found = left(one)
    assert list(found.measures) == [9, 10, 11, 12]
    assert (found.steps, found.saves) == (4, 4)
    assert one.run()
    assert left(one).measures == {} and (left(one).steps, left(one).saves) == (0, 0)
    # A measure added later: the last weights are there, those of step 7 have to be trained again.
    more = job(tmp_path, measures=("rankme",), cadence={"rankme": 3})
    assert left(more).measures == {0: {"rankme"}, 7: {"rankme"}, 12: {"rankme"}}
    assert (left(more).steps, left(more).saves) == (7, 4)


def test_weights_that_were_kept_need_no_training(tmp_path: Path) -> None:
    assert job(tmp_path, keep="all").run()
    found = left(job(tmp_path, measures=("rankme",), keep="all"))
    assert list(found.measures) == STEPS
    assert (found.steps, found.saves) == (0, 0)


def test_passes_are_counted_in_blocks_and_tokens(tmp_path: Path) -> None:
    measures = ("rankme", "probe_accuracy", "hessian_top", "llc")
    one = job(tmp_path, measures=measures, cadence=dict.fromkeys(measures, 2), llc_draws=4)
    tokens = [examples.tokens.shape[1] - 1 for examples in _examples(one)]
    assert lengths(one) == tokens
    layers, n = SCALES["nano"].layers, 16
    found = at_pace(one, token=1.0).seconds
    assert found["behaviour"] == pytest.approx(10 * layers * n * sum(tokens) / 3)
    assert found["hessian_top"] == pytest.approx(2 * PRODUCT * PRODUCTS * layers * n * sum(tokens))
    # Chains take batches of the 16 samples, at the second of the two checkpoints, where weights are
    # trained; the mixture's are as long as its longest example.
    draws = CHAINS * spec_of("llc").settings(draws=4).steps
    assert found["llc"] == pytest.approx(draws * layers * n * (sum(tokens) + max(tokens)))
    assert found["training"] == found["rankme"] == found["probe_accuracy"] == 0.0
    states = 2 * 2 * (layers + 1)  # checkpoints, task-levels, layers
    assert at_pace(one, spectrum=1.0).seconds["rankme"] == states
    assert at_pace(one, probe=1.0).seconds["probe_accuracy"] == states
    assert at_pace(one, draw=1.0).total - at_pace(one).total == pytest.approx(12)


def _examples(one: Job) -> list[Any]:
    return [level.examples("diagnostic", 0, 1) for level in one.spec.task_levels]


def test_one_pass_serves_both_gradient_ranks(tmp_path: Path) -> None:
    both = ("fisher_rank", "gradient_covariance_rank")
    pace = {"token": 1e-6, "eigenvalues": 1.0}
    alone = at_pace(job(tmp_path, measures=both[:1]), **pace).seconds
    together = at_pace(job(tmp_path, measures=both), **pace).seconds
    assert together["fisher_rank"] == together["gradient_covariance_rank"]
    assert sum(together[name] for name in both) == pytest.approx(alone["fisher_rank"])
    assert alone["fisher_rank"] > 10 * 2 * 4  # four spectra of two task-levels, ten times


def test_what_is_done_is_taken_off(tmp_path: Path) -> None:
    one = job(tmp_path)
    before = at_pace(one, token=1.0, train_token=1.0)
    asked = iter([False] * 11 + [True])  # asked after a checkpoint, too
    one.run(stop=lambda: next(asked))
    after = at_pace(one, token=1.0, train_token=1.0)
    assert after.seconds["training"] == pytest.approx(before.seconds["training"] * 4 / 12)
    assert after.seconds["behaviour"] == pytest.approx(before.seconds["behaviour"] * 4 / 10)
    assert (after.checkpoints, after.of, after.steps) == (4, 10, 4)
    assert after.seconds["writing"] < before.seconds["writing"]
    assert after.disk == before.disk  # of the folder when it is done


def test_training_tokens_are_those_of_the_batches(tmp_path: Path) -> None:
    """With padding, as the mixture makes them, within a tenth."""
    one = job(tmp_path, tasks=("COPY", "MOD", "ADD"), levels=(1, 2, 3), batch_size=72)
    step = Workload(one, dataclasses.replace(NOTHING, train_token=1.0)).step()
    trainer = Trainer("nano", 0, one.spec.task_levels, train_settings(one.settings))
    for _ in range(4):
        trainer.train_step()
    expected = SCALES["nano"].layers * trainer.processed_tokens / 4
    assert step == pytest.approx(expected, rel=0.1)


def test_larger_scales_and_dearer_measures_take_more(tmp_path: Path) -> None:
    whole = [{"rankme", "behaviour"}]
    scales = [job(tmp_path, scale) for scale in SCALES]
    for small, large in pairwise(scales):
        assert memory_bytes(small, whole) < memory_bytes(large, whole)
        assert disk_bytes(small, whole, 1) < disk_bytes(large, whole, 1)
    plain = job(tmp_path, samples=200, tasks=("COPY", "ADD"), levels=(1, 2, 3))
    bare = memory_bytes(plain, [{"behaviour"}])
    assert bare > 4 * state_bytes(plain) / 3
    for measure in ("fisher_rank", "hessian_top", "llc"):
        assert memory_bytes(plain, [{"behaviour"}, {measure}]) > bare
    kept = dataclasses.replace(plain, keep="all")
    more = disk_bytes(kept, whole * 9, 2) - disk_bytes(plain, whole * 9, 2)
    assert more == 9 * state_bytes(plain) // 3


def test_states_on_the_disk_are_those_written_but_three_at_most(tmp_path: Path) -> None:
    one, state = job(tmp_path), state_bytes(job(tmp_path))
    records = disk_bytes(one, [{"behaviour"}], 0)
    sizes = [disk_bytes(one, [{"behaviour"}], states) - records for states in range(6)]
    assert sizes == [0, state, 2 * state, 3 * state, 3 * state, 3 * state]


def test_a_state_is_written_so_many_seconds_after_the_last(tmp_path: Path) -> None:
    """Twelve steps and nine checkpoints on which one may be due, of ten seconds a step."""
    state, found = state_bytes(job(tmp_path)), {}
    for every in (0.0, 50.0, 1000.0):
        one = dataclasses.replace(job(tmp_path), state_every=every)
        found[every] = at_pace(one, draw=10.0)
    writing = {every: one.seconds["writing"] for every, one in found.items()}
    # Two in the first 100 seconds and that at the end; nine; or that at the end alone.
    each = state / DISK + 4 * SYNC
    assert writing[0.0] - writing[1000.0] == pytest.approx(8 * each)
    assert writing[50.0] - writing[1000.0] == pytest.approx(2 * each)
    assert found[0.0].disk - found[1000.0].disk == 2 * state
    # Weights of measured checkpoints are written alone where no state is due.
    kept = dataclasses.replace(job(tmp_path), state_every=1000.0, keep="all")
    more = at_pace(kept, draw=10.0).seconds["writing"] - writing[1000.0]
    assert more == pytest.approx(8 * (state / 3 / DISK + 3 * SYNC))


def test_state_is_weights_and_two_moments(tmp_path: Path) -> None:
    assert state_bytes(job(tmp_path)) == 3 * 4 * SCALES["nano"].parameters


def test_eigenvectors_that_are_not_written_take_no_disk(tmp_path: Path) -> None:
    assert eigenvector_bytes(job(tmp_path)) == 2 * 4 * SCALES["nano"].parameters
    every = {"tasks": ("COPY", "REV", "SORT", "PAR", "CMP", "ADD"), "levels": (1, 2, 3)}
    assert eigenvector_bytes(job(tmp_path, "xlarge", **every)) == 0


def test_the_pace_is_measured_in_a_moment() -> None:
    settings = dataclasses.replace(SETTINGS, samples=200, batch_size=168)
    (spec,) = run_specs(settings, ("nano",), (0,))
    with as_in_a_run(1):
        begin = time.process_time()
        found = measure_pace(SCALES["nano"], settings, spec.task_levels, "cpu")
        assert time.process_time() - begin < 3
    assert all(0 < value < 1 for value in dataclasses.asdict(found).values())


def test_threads_are_a_runs_and_then_what_they_were() -> None:
    before = torch.get_num_threads()
    with as_in_a_run(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


MEASURES = ("rankme", "probe_accuracy", "fisher_rank", "hessian_top", "llc")


def test_a_real_run_takes_about_what_was_estimated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the processor's clock, which stands still while others use it, or the disk is slow."""
    monkeypatch.setattr(time, "perf_counter", time.process_time)
    change(monkeypatch, "llc", burn_in=2, max_draws=4)
    cadence = {"fisher_rank": 3, "hessian_top": 2, "llc": 2}
    # Of so few draws a search for a step, or more of them, would be most of the work.
    shape = {"steps": 16, "batch_size": 48, "samples": 24, "llc_draws": 4, "llc_lr": 1e-5}
    one = job(tmp_path, measures=MEASURES, cadence=cadence, **shape)
    with as_in_a_run(1):
        pace = measure_pace(SCALES["nano"], one.settings, one.spec.task_levels, "cpu")
        found = estimate(one, left(one), pace)
        assert one.run()
    real = dict(wall_time(tmp_path).set_index("part")["seconds"])
    assert set(found.seconds) == set(real) == {"training", "writing", "behaviour", *MEASURES}
    # The disk's time is not the processor's.
    ratios = {name: found.seconds[name] / real[name] for name in real if name != "writing"}
    assert all(1 / 5 < ratio < 5 for ratio in ratios.values()), ratios
    computed = sum(real[name] for name in ratios)
    assert 1 / 3 < sum(found.seconds[name] for name in ratios) / computed < 3, ratios
    on_disk = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert 1 / 2 < found.disk / on_disk < 2
    written = found.seconds["writing"] * DISK
    assert written > on_disk

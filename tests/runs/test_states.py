"""States written now and then: how many, and what a kill long after the last one costs."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from geomfast.population import job as population_job
from geomfast.population.plan import PopulationSettings
from geomfast.population.plan import schedule as population_schedule
from geomfast.population.running import GroupJob
from geomfast.records import load_records
from geomfast.runs import training
from geomfast.runs.groups import Group
from geomfast.runs.states import KEPT_STATES, States, states_written
from geomfast.runs.timing import read_seconds
from geomfast.sweep import running
from geomfast.sweep.jobs import Job, StackedJob
from geomfast.sweep.plan import Settings, run_specs
from geomfast.testbed.training import checkpoints
from geomfast.testbed.training.loop import Trainer

SETTINGS = Settings("joint", ("COPY", "MOD"), (1,), 12, 8, None, "fp32", 6, 2, 14, 16)
STEPS = [0, 2, 4, 6, 7, 8, 9, 10, 11, 12]
MEMBERS = PopulationSettings("count", 3, (5,), 12, 6, None, 10, 11)
LONG = 3600.0


def alone(out: Path, **changes: Any) -> Job:
    (spec,) = run_specs(SETTINGS, ("nano",), (0,))
    return Job(spec, SETTINGS, ("rankme",), out, "cpu", 1, **{"state_every": LONG, **changes})


def stacked(out: Path, **changes: Any) -> StackedJob:
    grid = tuple(run_specs(SETTINGS, ("nano",), (0, 5)))
    options = {"state_every": LONG, **changes}
    return StackedJob("seeds0-5", grid, 2, SETTINGS, ("rankme",), out, "cpu", 1, **options)


def population(out: Path, state_every: float = LONG) -> GroupJob:
    group = Group("count-1x16-seeds0-1", "1x16", (0, 1), 2)
    return GroupJob(group, MEMBERS, out, "cpu", 1, state_every)


def go(job: Any, stop: Callable[[], bool] = lambda: False) -> bool:
    return job.run(lambda step, state: None, stop)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of each kind that nothing happened to, with a state at every checkpoint."""
    out = tmp_path_factory.mktemp("straight")
    for kind in (alone, stacked):
        assert go(kind(out / kind.__name__, state_every=0.0, keep="all"))
    assert go(population(out / "population", state_every=0.0))
    return out


class Killed(BaseException):
    """Nothing catches it."""


class Writing:
    """Records being written: which, in order, and a kill at some."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.written: list[tuple[str, int]] = []
        self.kill_at: tuple[str, int] | None = None
        self.after = False
        for module in (running, population_job):
            monkeypatch.setattr(module, "write_part", self._instead_of(module.write_part))

    def _instead_of(self, original: Callable[..., None]) -> Callable[..., None]:
        def write(path: Path, rows: Any) -> None:
            this = (path.parent.name, int(path.name[5:13]))
            if this == self.kill_at and not self.after:
                raise Killed
            original(path, rows)
            self.written.append(this)
            if this == self.kill_at:
                raise Killed

        return write


@pytest.fixture
def writing(monkeypatch: pytest.MonkeyPatch) -> Writing:
    return Writing(monkeypatch)


def test_a_state_is_due_so_many_seconds_after_the_last() -> None:
    now = [100.0]
    states = States(60.0, lambda: now[0])
    assert not states.due()
    now[0] += 59.0
    assert not states.due()
    now[0] += 1.0
    assert states.due() and states.due()
    now[0] += 500.0  # it took long to write
    states.written()
    assert not states.due()
    assert States(0.0, lambda: 0.0).due()


def test_states_are_counted_as_they_are_written() -> None:
    assert states_written(220, 3600.0, 60.0) == 61
    assert states_written(10, 3600.0, 60.0) == 10  # one a checkpoint at most
    assert states_written(10, 5.0, 60.0) == 1  # that at the end
    assert states_written(10, 5.0, 0.0) == 10
    assert states_written(0, 5.0, 60.0) == 0


@pytest.mark.parametrize("kind", [alone, stacked, population])
@pytest.mark.parametrize("every", [25.0, 0.0, LONG])
def test_so_many_states_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any, every: float
) -> None:
    """By a clock on which every checkpoint takes ten seconds, noted once a checkpoint."""
    now = [0.0]
    original, written = checkpoints.write, []

    def write(folder: Path, weights: Any, optimizer: Any, *rest: Any) -> None:
        if optimizer is not None:
            written.append(int(folder.name.removeprefix("step-")))
        original(folder, weights, optimizer, *rest)

    def tick(note: Callable[..., None]) -> Callable[..., None]:
        def noted(records: Path, seconds: Any) -> None:
            note(records, seconds)
            if records.name != "joint-nano-seed5":  # the group's other member
                now[0] += 10.0

        return noted

    monkeypatch.setattr(checkpoints, "write", write)
    monkeypatch.setattr(training, "States", lambda every: States(every, lambda: now[0]))
    monkeypatch.setattr(training, "write_seconds", tick(training.write_seconds))
    job = kind(tmp_path, state_every=every)
    assert go(job)
    steps = population_schedule(MEMBERS) if kind is population else STEPS
    expected = {0.0: steps[1:], LONG: steps[-1:], 25.0: [*steps[3:-1:3], steps[-1]]}[every]
    assert written == expected
    assert checkpoints.steps_saved(job.checkpoints) == expected[-KEPT_STATES:]


@pytest.mark.parametrize("after", [False, True], ids=["before its records", "after them"])
@pytest.mark.parametrize("keep", ["last", "all"])
@pytest.mark.parametrize("kind", [alone, stacked])
def test_a_kill_long_after_the_last_state_changes_nothing(
    straight: Path, tmp_path: Path, writing: Writing, kind: Any, keep: str, after: bool
) -> None:
    writing.kill_at, writing.after = ("joint-nano-seed0", 9), after
    job = kind(tmp_path, keep=keep)
    with pytest.raises(Killed):
        go(job)
    assert checkpoints.steps_saved(job.checkpoints) == []
    before, writing.written, writing.kill_at = writing.written, [], None
    assert len(before) >= 6
    assert go(job)
    assert not set(before) & set(writing.written)
    whole = straight / kind.__name__
    assert_same_records(tmp_path, whole)
    for run in (spec.run for spec in (job.specs if kind is stacked else [job.spec])):
        there, other = (out / "checkpoints" / run for out in (tmp_path, whole))
        kept = checkpoints.steps_kept(there)
        assert kept == (STEPS[1:] if keep == "all" else [12])
        for name in map(checkpoints.folder_name, kept):
            one, same = (folder / name / "weights.safetensors" for folder in (there, other))
            assert one.read_bytes() == same.read_bytes()
    assert checkpoints.steps_saved(job.checkpoints) == [12]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", [alone, stacked])
def test_on_a_gpu_a_kill_long_after_the_last_state_changes_nothing(
    straight: Path, tmp_path: Path, writing: Writing, kind: Any
) -> None:
    """Whichever steps are captured after the kill, and which were before it."""
    writing.kill_at, writing.after = ("joint-nano-seed0", 9), True
    job = dataclasses.replace(kind(tmp_path), device="cuda")
    with pytest.raises(Killed):
        go(job)
    before, writing.written, writing.kill_at = writing.written, [], None
    assert go(job)
    assert not set(before) & set(writing.written)
    keys = ["run", "step", "task", "level", "layer", "measure"]
    both = load_records(tmp_path).merge(load_records(straight / kind.__name__), on=keys)
    assert len(both) == len(load_records(tmp_path))
    assert both["value_x"].to_numpy() == pytest.approx(both["value_y"], rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("kind", [alone, stacked])
def test_a_kill_while_the_last_checkpoint_is_measured_keeps_its_weights(
    straight: Path,
    tmp_path: Path,
    writing: Writing,
    monkeypatch: pytest.MonkeyPatch,
    kind: Any,
) -> None:
    """Nothing is lacking once its records are written: nobody would come back for the weights."""
    writing.kill_at = ("joint-nano-seed0", 12)
    job = kind(tmp_path)
    with pytest.raises(Killed):
        go(job)
    run = "joint-nano-seed0"
    assert checkpoints.steps_kept(tmp_path / "checkpoints" / run) == [12]
    writing.kill_at = None
    trained: list[int] = []
    if kind is alone:
        step = Trainer.train_step
        monkeypatch.setattr(
            Trainer, "train_step", lambda self: (trained.append(self.step), step(self))
        )
    assert go(job)
    assert trained == []
    assert_same_records(tmp_path, straight / kind.__name__)


@pytest.mark.parametrize("after", [False, True], ids=["before its records", "after them"])
def test_a_population_too_is_the_same_after_a_kill(
    straight: Path, tmp_path: Path, writing: Writing, after: bool
) -> None:
    job = population(tmp_path)
    at = population_schedule(MEMBERS)[-3]
    writing.kill_at, writing.after = (job.name, at), after
    with pytest.raises(Killed):
        go(job)
    assert checkpoints.steps_saved(job.checkpoints) == []
    before, writing.written, writing.kill_at = writing.written, [], None
    assert go(job)
    assert not set(before) & set(writing.written)
    assert_same_records(tmp_path, straight / "population")


def test_a_folder_is_gone_on_with_at_another_interval(straight: Path, tmp_path: Path) -> None:
    """A state in the middle, then a kill, then a stop, each with an interval of its own."""
    asked = iter([False] * 11 + [True])  # asked after a checkpoint, too
    assert not go(alone(tmp_path), stop=lambda: next(asked))
    assert checkpoints.steps_saved(alone(tmp_path).checkpoints) == [8]
    asked = iter([False] * 3 + [True])
    assert not go(alone(tmp_path, state_every=0.0), stop=lambda: next(asked))
    assert checkpoints.steps_saved(alone(tmp_path).checkpoints) == [9, 10]
    assert go(alone(tmp_path, state_every=5.0))
    assert_same_records(tmp_path, straight / "alone")


def test_wall_time_is_that_of_one_pass_whatever_was_repeated(
    tmp_path: Path, writing: Writing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that every training step takes a second on."""
    now = [0.0]
    monkeypatch.setattr(training.time, "perf_counter", lambda: now[0])
    step = Trainer.train_step

    def slow(self: Trainer) -> None:
        step(self)
        now[0] += 1.0

    monkeypatch.setattr(Trainer, "train_step", slow)
    job = alone(tmp_path)
    writing.kill_at, writing.after = ("joint-nano-seed0", 9), True
    with pytest.raises(Killed):
        go(job)
    writing.kill_at = None
    assert read_seconds(job.records)["training"] == 8.0  # noted after the checkpoint before
    assert go(job)
    assert now[0] == 9.0 + 12.0
    assert read_seconds(job.records)["training"] == 12.0


def test_a_state_half_written_over_kept_weights_does_not_count(
    straight: Path, tmp_path: Path, writing: Writing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the optimiser's file and the one that names it."""
    writing.kill_at, writing.after = ("joint-nano-seed0", 9), True
    job = alone(tmp_path, keep="all")
    with pytest.raises(Killed):
        go(job)
    writing.kill_at = None

    def killed(path: Path, value: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "write_sealed", killed)
        with pytest.raises(Killed):
            go(alone(tmp_path, keep="all", state_every=0.0))
    half = job.checkpoints / checkpoints.folder_name(2)
    assert (half / "optimizer.safetensors").exists()
    assert checkpoints.steps_saved(job.checkpoints) == []
    assert 2 in checkpoints.steps_kept(job.checkpoints)
    checkpoints.remove_partial_writes(job.checkpoints)
    assert not (half / "optimizer.safetensors").exists()
    assert (half / "weights.safetensors").exists()
    assert go(job)
    assert_same_records(tmp_path, straight / "alone")


def assert_same_records(out: Path, other: Path) -> None:
    """To the bit, but for their order and the time they took."""
    keys = ["run", "step", "measure", "task", "level", "layer"]
    found, expected = (
        load_records(folder).drop(columns="seconds").sort_values(keys, ignore_index=True)
        for folder in (out, other)
    )
    pd.testing.assert_frame_equal(found, expected)

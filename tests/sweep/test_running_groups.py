"""Seeds of a sweep as one program: what each run records, how a group resumes, what stops it."""

import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from geomfast.records import load_records, write_part
from geomfast.runs.executors.events import Event, attempt
from geomfast.runs.failures import failed_before
from geomfast.runs.groups import GROUP_SIZE
from geomfast.runs.timing import wall_time
from geomfast.sweep import running
from geomfast.sweep.groups import groups_of_cells
from geomfast.sweep.jobs import (
    Job,
    StackedJob,
    member_events,
    missing,
    runs_per_program,
    schedule,
    work_of,
)
from geomfast.sweep.plan import run_specs
from geomfast.testbed.models.scales import SCALES
from geomfast.testbed.tasks import TASK_NAMES
from geomfast.testbed.training import checkpoints
from geomfast.testbed.training.stacked import StackedTrainer
from tests.recorded import values
from tests.sweep.tiny import tiny

SETTINGS = tiny(steps=8, dense_until=4, checkpoints=6, samples=16)
SEEDS = (0, 1, 5)
NAMES = [f"joint-nano-seed{seed}" for seed in SEEDS]


def job(out: Path, *, measures: tuple[str, ...] = ("rankme",), **changes: Any) -> StackedJob:
    """Of three members in two programs."""
    own = {k: changes.pop(k) for k in ("keep", "at_once", "state_every") if k in changes}
    device = changes.pop("device", "cpu")
    settings = dataclasses.replace(SETTINGS, **changes)
    grid = tuple(run_specs(settings, ("nano",), SEEDS))
    count = own.pop("at_once", 2)
    shared = (settings, measures, out, device, 1)
    return StackedJob("joint-nano-seeds0-5", grid, count, *shared, **own)


def go(one: StackedJob, stop: Any = lambda: False) -> bool:
    return one.run(stop=stop)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stacked")
    assert go(job(out, keep="all"))
    return out


def test_members_record_what_each_would_alone(straight: Path, tmp_path: Path) -> None:
    for member in job(tmp_path).members:
        member.run()
    keys = ["run", "scale", "seed", "step", "task", "level", "layer", "measure"]
    keys += ["n", "settings", "data", "device", "tokens", "backend"]
    alone, stacked = values(tmp_path), values(straight)
    both = alone.merge(stacked, on=keys, suffixes=("", "_stacked"))
    assert len(both) == len(alone) == len(stacked)
    assert set(both["run"]) == set(NAMES) and sorted(both["step"].unique()) == schedule(SETTINGS)
    # Sums in another order; the weights of step 0 have not been through any.
    assert both["value_stacked"].to_numpy() == pytest.approx(both["value"], rel=1e-5, abs=1e-6)
    same = both["weights"] == both["weights_stacked"]
    assert (same == (both["step"] == 0)).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_members_record_what_each_would_alone(tmp_path: Path) -> None:
    for member in job(tmp_path / "alone", device="cuda").members:
        member.run()
    assert go(job(tmp_path / "stacked", device="cuda"))
    keys = ["run", "step", "task", "level", "layer", "measure"]
    alone, stacked = values(tmp_path / "alone"), values(tmp_path / "stacked")
    both = alone.merge(stacked, on=keys, suffixes=("", "_stacked"))
    assert len(both) == len(alone) == len(stacked)
    assert both["value_stacked"].to_numpy() == pytest.approx(both["value"], rel=1e-4, abs=1e-5)


def test_wall_time_is_shared_and_weights_are_kept_of_every_member(straight: Path) -> None:
    table = wall_time(straight).set_index(["run", "part"])["seconds"].unstack()
    assert set(table.index) == set(NAMES)
    assert (table["training"] > 0).all() and table["training"].nunique() == 1
    for member in job(straight).members:
        assert checkpoints.steps_kept(member.checkpoints) == schedule(SETTINGS)[1:]
        assert checkpoints.steps_saved(member.checkpoints) == []
        assert missing(member) == {}
    hashes = load_records(straight).drop_duplicates(["run", "step"]).set_index(["run", "step"])
    for name in NAMES:
        folder = straight / "checkpoints" / name / "step-00000008"
        model = running.GPT(SCALES["nano"])
        model.load_state_dict(checkpoints.read_weights(folder))
        assert checkpoints.weights_hash(model) == hashes["weights"][name, 8]


@pytest.mark.parametrize(("state_every", "states"), [(0.0, 2), (3600.0, 1)])
def test_only_the_last_weights_are_kept_unless_all_are_wanted(
    tmp_path: Path, state_every: float, states: int
) -> None:
    one = job(tmp_path, state_every=state_every)
    assert go(one)
    for member in one.members:
        assert checkpoints.steps_kept(member.checkpoints) == [8]
    assert len(checkpoints.steps_saved(one.checkpoints)) == states


def test_stopping_now_and_then_and_resuming_changes_nothing(straight: Path, tmp_path: Path) -> None:
    asked, attempts = 0, 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked % 2 == 0

    while not go(job(tmp_path), stop=stop):
        attempts += 1
        assert attempts < 20
    assert attempts > 2
    pd.testing.assert_frame_equal(values(tmp_path), values(straight))


def test_what_is_lost_or_added_is_made_of_the_same_weights(straight: Path, tmp_path: Path) -> None:
    assert go(job(tmp_path, measures=()))
    lost = sorted(job(tmp_path).members[1].records.glob("*.parquet"))[2]
    lost.unlink()
    assert go(job(tmp_path))
    pd.testing.assert_frame_equal(
        values(tmp_path).sort_values(
            ["run", "step", "measure", "task", "layer"], ignore_index=True
        ),
        values(straight).sort_values(
            ["run", "step", "measure", "task", "layer"], ignore_index=True
        ),
    )


def test_kept_weights_are_measured_without_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert go(job(tmp_path, measures=(), keep="all"))
    for member in job(tmp_path).members:  # the initialisation is nobody's checkpoint
        part = member.records / "step-00000000.behaviour.parquet"
        rows = load_records(part).to_dict("records")
        path = part.with_name("step-00000000.rankme.parquet")
        write_part(path, [{**row, "measure": "rankme", "value": 2.0} for row in rows[:1]])
    monkeypatch.setattr(running, "StackedTrainer", None)
    assert go(job(tmp_path))
    ranks = load_records(tmp_path).query("measure == 'rankme'")
    assert sorted(ranks["step"].unique()) == schedule(SETTINGS)
    assert set(ranks["run"]) == set(NAMES)


def poisoned(monkeypatch: pytest.MonkeyPatch, *rows: int) -> None:
    """Members whose weights are beyond float32's range a step after the first checkpoint."""

    class Poisoned(StackedTrainer):
        def advance(self, target: int, after_round: Any = lambda: False) -> None:
            super().advance(target, after_round)
            if self.step == 2:
                with torch.no_grad():
                    weights = [row for program in self.programs for row in program.model.weights]
                    for i in rows:
                        weights[i].mul_(1e25)

    monkeypatch.setattr(running, "StackedTrainer", Poisoned)


def test_a_member_that_fails_leaves_the_others_as_they_are(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned(monkeypatch, 1)
    one = job(tmp_path, measures=())
    # What is beyond float32 at step 2 is measured there: a sweep without RankMe records it.
    event = attempt(one, lambda event: None, lambda: False, patience=0.0)
    assert (event.kind, event.step) == ("finished", 8)
    frame, healthy = values(tmp_path), values(straight)
    healthy = healthy[healthy["measure"] != "rankme"]
    others = [name for name in NAMES if name != "joint-nano-seed1"]
    pd.testing.assert_frame_equal(
        frame[frame["run"].isin(others)].reset_index(drop=True),
        healthy[healthy["run"].isin(others)].reset_index(drop=True),
    )
    assert frame[frame["run"] == "joint-nano-seed1"]["step"].max() == 2
    assert list(failed_before(tmp_path)) == ["joint-nano-seed1"]
    told = {own.run: own for own in member_events(one, event)}
    assert [told[name].kind for name in NAMES] == ["finished", "failed", "finished"]
    assert "not finite at step 2" in told["joint-nano-seed1"].error
    assert "lower the learning rate" in told["joint-nano-seed1"].error
    seconds = [own.state["train_seconds"] for own in told.values()]
    assert sum(seconds) == pytest.approx(event.state["train_seconds"])

    # Again: it would fail again, and nothing is trained to see that.
    monkeypatch.setattr(running, "StackedTrainer", None)
    again = attempt(one, lambda event: None, lambda: False, patience=0.0)
    assert [own.kind for own in member_events(one, again)] == ["finished", "failed", "finished"]
    assert "not finite at step 2" in failed_before(tmp_path)["joint-nano-seed1"]


def test_when_all_members_have_failed_training_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned(monkeypatch, 0, 1, 2)
    reached: list[int] = []
    assert job(tmp_path, measures=()).run(lambda step, state: reached.append(step))
    assert max(reached) == 4
    assert set(failed_before(tmp_path)) == set(NAMES)


def test_a_member_that_cannot_be_measured_fails_alone(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = running.record

    def record(member: Job, model: Any, step: int, *rest: Any) -> Any:
        if member.spec.seed == 5 and step == 4:
            raise ValueError("activations of COPY-1 at final are not finite")
        return original(member, model, step, *rest)

    monkeypatch.setattr(running, "record", record)
    assert go(job(tmp_path))
    assert failed_before(tmp_path) == {
        "joint-nano-seed5": "ValueError: activations of COPY-1 at final are not finite"
    }
    text = (tmp_path / "failures" / "joint-nano-seed5.txt").read_text()
    assert "Traceback" in text and "failed at step 4" in text
    assert values(tmp_path).query("run == 'joint-nano-seed5'")["step"].max() == 2
    # Nothing is wrong with it any more: it is caught up with, and so is the note of it.
    monkeypatch.setattr(running, "record", original)
    assert go(job(tmp_path))
    assert failed_before(tmp_path) == {}
    pd.testing.assert_frame_equal(values(tmp_path), values(straight))


def test_a_group_goes_on_only_as_it_was_begun(tmp_path: Path) -> None:
    stops = iter([False, True, True])
    assert not go(job(tmp_path), stop=lambda: next(stops))
    event = attempt(job(tmp_path, at_once=3), lambda event: None, lambda: False, patience=0.0)
    assert (event.kind, event.explained) == ("failed", True)
    assert "at_once 2 there, 3 here" in event.error
    own = member_events(job(tmp_path), event)
    assert [told.kind for told in own] == ["failed"] * 3
    assert go(job(tmp_path))


def test_a_full_disk_stops_the_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(running, "write_part", full)
    with pytest.raises(OSError, match="No space left"):
        go(job(tmp_path))


def grid(*seeds: int, **changes: Any) -> list[Any]:
    return run_specs(dataclasses.replace(SETTINGS, **changes), ("nano", "micro"), seeds)


def grouped(out: Path, asked: list[Any], before: Any = (), workers: int = 1) -> list[list[str]]:
    found = groups_of_cells(before, asked, out, lambda spec, members: members, workers)
    return [group["runs"] for group in found]


def test_runs_that_differ_in_their_seed_only_form_groups(tmp_path: Path) -> None:
    for runs in grouped(tmp_path, grid(0, 1, 2, mixture="per-task")):
        assert len(runs) == 3 and len({run.rsplit("-", 1)[0] for run in runs}) == 1
    named = groups_of_cells([], grid(4, 7), tmp_path, lambda spec, members: 2, 1)
    assert [group["name"] for group in named] == ["joint-nano-seeds4-7", "joint-micro-seeds4-7"]
    sizes = [len(runs) for runs in grouped(tmp_path, grid(*range(GROUP_SIZE + 2)))]
    assert sizes == [33, 33] * 2
    # Every worker has something to do.
    assert [len(r) for r in grouped(tmp_path, grid(*range(8)), workers=4)] == [2] * 8
    assert grouped(tmp_path, grid(3)) == []
    assert groups_of_cells([], grid(0, 1), tmp_path, lambda spec, members: 1, 1) == []


def test_groups_stay_and_what_was_begun_alone_goes_on_alone(tmp_path: Path) -> None:
    before = groups_of_cells([], grid(0, 1), tmp_path, lambda spec, members: 2, 1)
    (tmp_path / "checkpoints" / "joint-nano-seed3" / "step-00000002").mkdir(parents=True)
    records = tmp_path / "records" / "joint-micro-seed4"
    records.mkdir(parents=True)
    (records / "step-00000000.behaviour.parquet").touch()
    found = grouped(tmp_path, grid(0, 1, 2, 3, 4), before)
    assert found[:2] == [group["runs"] for group in before]
    assert found[2:] == [
        ["joint-nano-seed2", "joint-nano-seed4"],
        ["joint-micro-seed2", "joint-micro-seed3"],
    ]


def test_work_is_groups_and_runs_by_themselves(tmp_path: Path) -> None:
    jobs = job(tmp_path).members
    groups = [{"name": "joint-nano-seeds0-1", "runs": NAMES[:2], "at_once": 2}]
    first, second = work_of(jobs, groups)
    assert isinstance(first, StackedJob) and first.members == jobs[:2]
    assert second == jobs[2] and second.members == (jobs[2],)
    assert first.cost == 2 * second.cost
    assert member_events(jobs[2], Event(NAMES[2], "finished")) == [Event(NAMES[2], "finished")]


def test_the_rule_of_sizes_is_asked_and_bf16_is_not_stacked(tmp_path: Path) -> None:
    assert runs_per_program(job(tmp_path).members[0], 8, "auto") == 8  # a few short examples
    one = job(tmp_path, batch_size=168, tasks=TASK_NAMES, levels=(1, 2, 3)).members[0]
    assert runs_per_program(one, 8, "auto") == 1  # the preset's batch fills a core
    assert 1 < runs_per_program(one, 8, "always") <= 8
    half = job(tmp_path, precision="bf16").members[0]
    assert runs_per_program(half, 8, "always") == 1

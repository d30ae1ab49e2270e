"""The loop from checkpoint to checkpoint, around a trainer that only counts."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from geomfast.estimators.stopping import Stopped
from geomfast.runs.errors import RunError
from geomfast.runs.executors.events import Progress
from geomfast.runs.job import TrainingJob
from geomfast.runs.timing import read_seconds
from geomfast.runs.training import train_to_checkpoints
from geomfast.testbed.training import checkpoints

SCHEDULE = [0, 2, 4, 5]


class Counter:
    """Trains a number by one a step and says what it did."""

    def __init__(self, log: list[str]) -> None:
        self.log, self.step = log, 0
        self.seconds = {"train": 0.0, "measure": 0.0, "write": 0.0}

    @property
    def tokens(self) -> int:
        return 10 * self.step

    def advance(self, target: int, after_round: Callable[[], bool] = lambda: False) -> None:
        while self.step < target:
            self.step += 1
            if after_round():
                return

    def failed(self) -> dict[int, int]:
        return {}

    def states(self) -> Iterator[dict[str, Tensor]]:
        return iter([{"x": torch.tensor([float(self.step)])}])

    def progress(self) -> dict[str, float]:
        return {"loss": 1.0}

    def save(self, run_folder: Path, identity: dict[str, Any]) -> Path:
        folder = run_folder / checkpoints.folder_name(self.step)
        state = next(self.states())
        meta = {"step": self.step, "seconds": self.seconds}
        checkpoints.write(folder, state, state, identity, meta)
        self.log.append(f"saved {self.step}")
        return folder

    def load(self, folder: Path, identity: dict[str, Any]) -> None:
        self.step = checkpoints.read_meta_of(folder, identity)["step"]


@dataclass(frozen=True)
class Counting(TrainingJob):
    """Of two members, whose records lie beside each other."""

    out: Path
    name: str = "pair"  # pyright: ignore[reportAssignmentType,reportIncompatibleVariableOverride]
    state_every: float = 3600.0
    device: str = "cpu"
    threads: int = 1
    cost = 1.0

    @property
    def members(self) -> list[TrainingJob]:
        return [Counting(self.out, name) for name in ("one", "two")]

    @property
    def identity(self) -> dict[str, Any]:
        return self._place

    def _train(self, progress: Progress, stop: Callable[[], bool]) -> bool:
        raise NotImplementedError


def go(
    job: Counting,
    log: list[str],
    stop: Callable[[], bool] = lambda: False,
    measure: Callable[[int], None] = lambda step: None,
    first: int = 0,
) -> bool:
    trainer = Counter(log)

    def measured(failed: dict[int, int]) -> None:
        measure(trainer.step)
        log.append(f"measured {trainer.step}")

    return train_to_checkpoints(
        job, trainer, SCHEDULE, (first, 5), measured, lambda step, state: None, stop
    )


def test_the_last_state_comes_before_its_records_and_others_after(tmp_path: Path) -> None:
    log: list[str] = []
    assert go(Counting(tmp_path), log)
    assert log == ["measured 0", "measured 2", "measured 4", "saved 5", "measured 5"]
    log.clear()
    assert go(Counting(tmp_path / "often", state_every=0.0), log)
    assert log[:3] == ["measured 0", "measured 2", "saved 2"] and log[-2:] == [
        "saved 5",
        "measured 5",
    ]


def test_told_to_stop_all_the_time_it_still_gets_there(tmp_path: Path) -> None:
    log: list[str] = []
    attempts, first = 1, 0
    while not go(Counting(tmp_path), log, stop=lambda: True, first=first):
        attempts += 1
        first = next(step for step in SCHEDULE if f"measured {step}" not in log)
        assert attempts < 10
    assert [line for line in log if line.startswith("saved")] == [f"saved {i}" for i in range(1, 6)]
    assert {f"measured {step}" for step in SCHEDULE} <= set(log)


def test_a_stop_in_the_middle_of_a_measure_leaves_it_for_later(tmp_path: Path) -> None:
    log: list[str] = []

    def stopped(step: int) -> None:
        if step in (4, 5):
            raise Stopped

    assert not go(Counting(tmp_path), log, measure=stopped)
    assert log == ["measured 0", "measured 2", "saved 4"]
    log.clear()
    assert not go(Counting(tmp_path), log, measure=lambda step: stopped(max(step, 5)), first=4)
    assert log == []
    assert go(Counting(tmp_path), log, first=4)
    assert log == ["measured 4", "saved 5", "measured 5"]


def test_members_share_the_wall_time_and_a_damaged_state_is_named(tmp_path: Path) -> None:
    job = Counting(tmp_path, state_every=0.0)
    trainer = Counter([])
    trainer.seconds["write"] = 600.0
    done: list[float] = []
    assert train_to_checkpoints(
        job,
        trainer,
        SCHEDULE,
        (0, 5),
        lambda failed: None,
        lambda step, state: done.append(state["write_seconds"]),
        lambda: False,
    )
    for member in job.members:
        assert read_seconds(member.records)["writing"] == pytest.approx(done[-1] / 2)
        assert done[-1] > 600
    assert checkpoints.steps_saved(job.checkpoints) == [4, 5]
    (job.checkpoints / "step-00000005" / "checkpoint.json").write_text("{}")
    with pytest.raises(RunError, match=r"(.|\n)*To resume from step 4 instead, delete .*00005"):
        go(job, [], first=5)

"""A group of members of a base: what it records, how it resumes, what it refuses."""

import dataclasses
from pathlib import Path

import pandas as pd
import pytest
import torch

from geomfast.population import job as module
from geomfast.population.base.estimate import (
    estimate,
    footprint,
    memory_bytes,
    planned,
    timed_pace,
)
from geomfast.population.base.folder import merge_settings, scale_names
from geomfast.population.base.job import BaseGroupJob
from geomfast.population.base.memory import (
    group_size,
    held_bytes,
    members_per_program,
    shared_bytes,
    step_bytes,
)
from geomfast.population.base.plan import BaseSettings, check, schedule
from geomfast.population.base.trainer import BaseTrainer
from geomfast.population.folder import groups_of
from geomfast.population.job import missing
from geomfast.records import load_records
from geomfast.runs.errors import PlanError, RunError
from geomfast.runs.executors.engine import Engine
from geomfast.runs.failures import failed_before
from geomfast.runs.groups import Group
from geomfast.runs.settings_file import write_settings
from tests.lm.language_models import save
from tests.population.bases import SETTINGS, TRAIN, job, write_examples
from tests.recorded import values

WAYS = [{}, {"reinit": ("head",)}, {"trained": "all"}]


@pytest.mark.parametrize("way", WAYS, ids=["tail", "head", "all"])
def test_an_interrupted_group_ends_with_the_same_records(tmp_path: Path, way: dict) -> None:
    one = job(tmp_path / "straight", **way)
    assert one.run()
    frame, at = load_records(tmp_path / "straight"), schedule(one.settings)
    assert sorted(frame["step"].unique()) == at and at[-1] == 12
    # 3 members x (accuracy, two losses, RankMe of the last block and the final state)
    assert len(frame) == len(at) * 3 * 5
    assert set(frame["run"]) == {f"words-base-seed{seed}" for seed in (1, 0, 5)}
    assert set(frame["task"]) == {"words"} and set(frame["level"]) == {0}
    assert set(frame["layer"]) == {"", "block 2", "final"}
    nats = frame[frame["measure"] == "answer_nats"].groupby("step")["value"].mean()
    assert nats[12] < nats[0]
    assert missing(one) == {} and one.run()
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked % 3 == 0

    cut = job(tmp_path / "cut", **way)
    for _ in range(10):
        if cut.run(stop=stop):
            break
    assert asked > 3
    pd.testing.assert_frame_equal(values(tmp_path / "cut"), values(tmp_path / "straight"))


def test_records_that_are_lost_are_made_again(tmp_path: Path) -> None:
    one = job(tmp_path / "out")
    assert one.run()
    before = values(one.out)
    sorted(one.records.glob("*.parquet"))[3].unlink()
    assert one.run()
    pd.testing.assert_frame_equal(values(one.out), before)


def test_a_member_that_fails_is_left_out_and_the_others_are_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    healthy = job(tmp_path / "healthy")
    assert healthy.run()

    def poisoned(one: BaseGroupJob) -> BaseTrainer:
        trainer = original(one)
        with torch.no_grad():
            trainer.programs[0].model.weights[1] = torch.inf
        return trainer

    original = BaseGroupJob.trainer
    monkeypatch.setattr(BaseGroupJob, "trainer", poisoned)
    later = {step: names for step, names in missing(job(tmp_path / "ill")).items() if step}
    monkeypatch.setattr(module, "missing", lambda one: later)
    assert job(tmp_path / "ill").run()
    frame, expected = values(tmp_path / "ill"), values(tmp_path / "healthy")
    assert set(frame["seed"]) == {1, 5}
    expected = expected[(expected["seed"] != 0) & (expected["step"] > 0)].reset_index(drop=True)
    pd.testing.assert_frame_equal(frame, expected)
    found = failed_before(tmp_path / "ill")
    assert list(found) == ["words-base-seed0"]
    assert "not finite at step 0 (learning rate 0.01)" in found["words-base-seed0"]


def test_another_base_or_file_than_planned_is_refused(tmp_path: Path) -> None:
    one = job(tmp_path / "out")
    write_examples(tmp_path / "train.jsonl", dataclasses.replace(TRAIN, items=TRAIN.items[:9]))
    with pytest.raises(RunError, match=r"train\.jsonl has changed"):
        one.run()
    write_examples(tmp_path / "train.jsonl", TRAIN)
    save(tmp_path / "base", "GPT2", seed=1)
    with pytest.raises(RunError, match=r"its weights are other ones"):
        one.run()
    save(tmp_path / "base", "GPT2")
    assert one.run()


def test_a_group_goes_on_only_as_it_was_begun(tmp_path: Path) -> None:
    stops = iter([False, True])
    assert not job(tmp_path / "out").run(stop=lambda: next(stops))
    with pytest.raises(RunError, match=r"at_once 2 there, 3 here"):
        job(tmp_path / "out", together=3).run()
    assert job(tmp_path / "out").run()


def test_memory_decides_how_many_go_together(tmp_path: Path) -> None:
    base, settings = job(tmp_path / "out").base, SETTINGS
    fixed = shared_bytes(base) + step_bytes(base, settings)
    assert group_size(base, settings, fixed + 5 * held_bytes(base) + 1) == 5
    assert group_size(base, settings, 0) == 1 and group_size(base, settings, 1 << 40) == 64
    assert members_per_program(base, settings, 10, "cpu") == 10
    large = dataclasses.replace(base, trained=10_000_000)
    assert members_per_program(large, settings, 10, "cpu") == 5  # two programs of equal size
    assert members_per_program(dataclasses.replace(base, trained=10**9), settings, 9, "cpu") == 1

    def merged(room: int, seeds: range, out: Path = tmp_path / "new", **changes) -> dict:
        given = dataclasses.replace(settings, **changes)
        facts = {"examples": {}, "success": 0.5, "device": "cpu", "room": room}
        return merge_settings(out, given, [base], seeds, **facts)

    content = merged(fixed + 5 * held_bytes(base) + 1, range(12))
    sizes = [len(group["seeds"]) for group in content["groups"]]
    assert sizes == [4, 4, 4]
    write_settings(tmp_path / "new", content, {})
    # A group stays as it was begun, whatever memory there is later.
    more = merged(1 << 40, range(14))["groups"]
    assert more[:3] == content["groups"] and more[3]["seeds"] == [12, 13]
    assert [g.name for g in groups_of(content, ["base"], [5])] == ["words-base-seeds4-7"]
    with pytest.raises(PlanError, match="trained: reinitialised there, all asked for"):
        merged(1 << 40, range(12), trained="all")
    with pytest.raises(PlanError, match="reinit: last-block head there, head asked for"):
        merged(1 << 40, range(12), reinit=("head",))


def test_bases_have_the_last_part_of_their_name(tmp_path: Path) -> None:
    (tmp_path / "a" / "small").mkdir(parents=True)
    folder = str(tmp_path / "a" / "small")
    found = scale_names(["EleutherAI/pythia-70m", f"{folder}/", "gpt2"])
    assert found == {"pythia-70m": "EleutherAI/pythia-70m", "small": folder, "gpt2": "gpt2"}
    with pytest.raises(PlanError, match="have one name, gpt2"):
        scale_names(["openai/gpt2", "gpt2"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"measures": ("llc",)}, "--measures llc: members go through a pass together"),
        ({"precision": "bf16"}, "--precision bf16 needs --trained all"),
        ({"accumulation": 2}, "--accumulation 2 needs --trained all"),
        ({"trained": "all", "accumulation": 5}, "is more than the 4 examples"),
    ],
)
def test_what_cannot_be_trained_is_refused(changes: dict, said: str) -> None:
    check(SETTINGS)
    with pytest.raises(PlanError, match=said):
        check(dataclasses.replace(SETTINGS, **changes))


def test_what_is_left_is_counted_and_timed(tmp_path: Path) -> None:
    one = job(tmp_path / "out")
    assert footprint(one) == memory_bytes(one) > shared_bytes(one.base)
    pace = timed_pace(one, one.trainer().prepared)
    assert set(pace.measures) == {"behaviour", "rankme"} and pace.step > 0
    found = estimate(one, missing(one), pace)
    assert found.steps == 12 and found.checkpoints == len(schedule(one.settings))
    assert found.seconds["training"] == pytest.approx(36 * pace.step)
    assert one.run()
    engine = Engine("local", "cpu", ("cpu",), 1, 1)
    plan = planned(one.out, [one], {}, engine, ["as it is"])
    assert plan["total"]["total_seconds"] == 0 and footprint(one) == 0
    assert plan["remarks"] == ["as it is"]
    # Records say how long others of the base take, without a base to time.
    more = dataclasses.replace(one, group=Group("words-base-seeds2-3", "base", (2, 3), 2))
    plan = planned(one.out, [one, more], {"base": None}, engine, [])  # pyright: ignore
    assert "as groups of the base took so far" in plan["remarks"][0]
    assert isinstance(one.settings, BaseSettings)

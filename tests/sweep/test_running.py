"""One run: what it records, how it resumes, what stops it."""

import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from geomfast.estimators.gradients import fisher_effective_rank, gradient_covariance_rank
from geomfast.estimators.hessian import hessian_top_eigenvalues
from geomfast.measures import observed
from geomfast.records import load_records
from geomfast.runs.errors import PlanError, RunError
from geomfast.sweep import running
from geomfast.sweep.jobs import Job, missing, schedule
from geomfast.sweep.plan import run_specs, train_settings
from geomfast.sweep.samples import level_samples
from geomfast.testbed.models.gpt import GPT
from geomfast.testbed.models.scales import SCALES
from geomfast.testbed.training import checkpoints
from geomfast.testbed.training.loop import TrainingDiverged
from tests.recorded import values
from tests.sweep.defaults import change
from tests.sweep.tiny import tiny

SETTINGS = tiny(steps=12, dense_until=6, checkpoints=14, samples=16)


def job(out: Path, **changes: Any) -> Job:
    settings = dataclasses.replace(SETTINGS, **changes)
    (one,) = run_specs(settings, ("nano",), (0,))
    return Job(one, settings, ("rankme",), out, "cpu", threads=1)


def test_every_checkpoint_has_every_value(tmp_path: Path) -> None:
    assert job(tmp_path).run()
    frame = load_records(tmp_path)
    at = schedule(SETTINGS)
    assert at == [0, 2, 4, 6, 7, 8, 9, 10, 11, 12]
    assert sorted(frame["step"].unique()) == at
    # 2 task-levels x (accuracy, log-probability, RankMe of two blocks and the final state)
    assert len(frame) == len(at) * 2 * 5
    assert not frame.drop(columns="stderr").isna().any().any()
    rankme = frame[frame["measure"] == "rankme"]
    assert set(rankme["layer"]) == {"block 1", "block 2", "final"}
    assert rankme["value"].between(1.0, 16.0).all()
    assert frame["weights"].nunique() == len(at)
    assert frame["data"].nunique() == 2
    assert (frame[frame["measure"] == "answer_logprob"]["value"] < 0).all()
    assert missing(job(tmp_path)) == {}


def test_recorded_rankme_is_that_of_the_recorded_weights(tmp_path: Path) -> None:
    """The last record against a slow float64 computation on the saved weights."""
    one = job(tmp_path)
    one.run()
    model = running.Trainer("nano", 0, one.spec.task_levels, train_settings(SETTINGS))
    folder = one.checkpoints / "step-00000012"
    model.load(folder, one.identity)
    drawn = one.spec.task_levels[1].examples("diagnostic", 0, 16)
    collected: list[torch.Tensor] = []
    with torch.no_grad():
        model.model(torch.from_numpy(drawn.tokens), collect=collected)
    x = collected[-1][:, drawn.answer_start - 1].double()
    p = torch.linalg.svdvals(x)
    p = p / p.sum()
    expected = float(torch.exp(-(p * p.log()).sum()))
    frame = load_records(tmp_path)
    chosen = frame.query("step == 12 and task == 'MOD' and layer == 'final'")["value"].item()
    assert chosen == pytest.approx(expected, rel=2e-5)


def test_stopping_and_resuming_at_every_step_changes_nothing(tmp_path: Path) -> None:
    job(tmp_path / "straight").run()
    stopped = 0
    while not job(tmp_path / "stopped").run(stop=lambda: True):
        stopped += 1
    assert stopped == 11  # a checkpoint step is as good a place to stop as any
    pd.testing.assert_frame_equal(values(tmp_path / "straight"), values(tmp_path / "stopped"))


def test_recorded_checkpoints_are_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job(tmp_path).run()
    last = max((job(tmp_path).records).glob("*.parquet"))
    last.unlink()
    asked: list[set[str]] = []
    original = running.measure

    def spy(model: Any, samples: Any, names: set[str], *rest: Any) -> Any:
        asked.append(names)
        return original(model, samples, names, *rest)

    monkeypatch.setattr(running, "measure", spy)
    assert list(missing(job(tmp_path))) == [12]
    job(tmp_path).run()
    assert asked == [{"rankme", "behaviour"}]
    assert missing(job(tmp_path)) == {}


def test_a_measure_added_later_is_taken_of_the_same_weights(tmp_path: Path) -> None:
    bare = dataclasses.replace(job(tmp_path), measures=())
    bare.run()
    assert set(load_records(tmp_path)["measure"]) == {"accuracy", "answer_logprob"}
    assert all(names == {"rankme"} for names in missing(job(tmp_path)).values())
    job(tmp_path).run()
    frame = load_records(tmp_path)
    assert (frame.groupby("step")["weights"].nunique() == 1).all()
    job(tmp_path / "at-once").run()
    pd.testing.assert_frame_equal(values(tmp_path), values(tmp_path / "at-once"))


def test_a_measure_added_later_resumes_like_any_other_work(tmp_path: Path) -> None:
    """The states of the first time, further on than the repeat, are not in its way."""
    dataclasses.replace(job(tmp_path), measures=()).run()
    calls = 0
    while not job(tmp_path).run(stop=lambda: True):
        calls += 1
        assert calls < 20
    job(tmp_path / "at-once").run()
    pd.testing.assert_frame_equal(values(tmp_path), values(tmp_path / "at-once"))


def test_kept_weights_are_measured_without_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataclasses.replace(job(tmp_path), measures=(), keep="all").run()
    trained: list[int] = []
    original = running.Trainer.train_step
    monkeypatch.setattr(
        running.Trainer, "train_step", lambda self: (trained.append(self.step), original(self))
    )
    dataclasses.replace(job(tmp_path), keep="all").run()
    assert trained == []  # step 0 needs no kept weights: it is the initialisation
    job(tmp_path / "at-once").run()
    pd.testing.assert_frame_equal(values(tmp_path), values(tmp_path / "at-once"))


def test_other_threads_are_refused_by_name(tmp_path: Path) -> None:
    job(tmp_path).run(stop=lambda: True)
    with pytest.raises(RunError, match="threads 1 there, 2 here"):
        dataclasses.replace(job(tmp_path), threads=2).run()


@pytest.mark.parametrize("name", ["step-00000002.rankme.parquet", "notes.parquet"])
def test_a_file_that_is_no_part_is_named(tmp_path: Path, name: str) -> None:
    one = job(tmp_path)
    one.records.mkdir(parents=True)
    (one.records / name).write_bytes(b"PAR1 of something else")
    with pytest.raises(PlanError, match=name):
        missing(one)


def test_the_remains_of_kills_are_swept_up(tmp_path: Path) -> None:
    one = job(tmp_path)
    one.run(stop=lambda: True)
    half = one.checkpoints / "step-00000099"
    half.mkdir()
    remains = [half / "weights.safetensors", one.checkpoints / "step-00000001" / ".tmp-w-1"]
    remains.append(one.records / ".tmp-part-1")
    for file in remains:
        file.write_bytes(b"half")
    one.run()
    assert not any(file.exists() for file in remains)


def test_weights_that_do_not_reproduce_are_refused(tmp_path: Path) -> None:
    dataclasses.replace(job(tmp_path), measures=()).run()
    parts = sorted(job(tmp_path).records.glob("*.parquet"))
    frame = load_records(parts[0])
    frame["weights"] = "0" * 16
    frame.to_parquet(parts[0])
    with pytest.raises(RunError, match="came out different"):
        job(tmp_path).run()


def test_a_damaged_checkpoint_is_named_and_records_stay(tmp_path: Path) -> None:
    one = dataclasses.replace(job(tmp_path), state_every=0.0)
    calls = iter([False] * 11 + [True])  # asked after a checkpoint, too
    assert not one.run(stop=lambda: next(calls))
    before = values(tmp_path)
    last = one.checkpoints / checkpoints.folder_name(checkpoints.steps_saved(one.checkpoints)[-1])
    (last / "weights.safetensors").write_bytes(b"truncated")
    with pytest.raises(RunError, match=r"truncated(.|\n)*resume from step 7 instead, delete"):
        one.run()
    pd.testing.assert_frame_equal(values(tmp_path), before)


def test_divergence_ends_the_run_and_keeps_what_was_measured(tmp_path: Path) -> None:
    with pytest.raises(TrainingDiverged, match="lower the learning rate"):
        job(tmp_path, learning_rate=1e30).run()
    assert set(load_records(tmp_path)["step"]) == {0}


def test_nan_of_a_backend_that_cannot_raise_is_not_recorded(tmp_path: Path, monkeypatch) -> None:
    def one_nan(x: torch.Tensor, **options: object) -> torch.Tensor:
        values = torch.ones(*x.shape[:-2], 5)
        values[1, 0, 2] = torch.nan  # second task-level, the one model, last layer
        return values

    monkeypatch.setattr(observed, "singular_values", one_nan)
    with pytest.raises(ValueError, match=r"activations at final are not finite \(MOD, level 1\)"):
        job(tmp_path).run()


def test_gradient_ranks_are_recorded_exact_and_truncated(tmp_path: Path) -> None:
    one = dataclasses.replace(
        job(tmp_path, steps=1), measures=("fisher_rank", "gradient_covariance_rank")
    )
    assert one.run()
    frame = load_records(tmp_path)
    names = ["fisher_rank", "gradient_covariance_rank"]
    both = [*names, *(f"{name}_first_50k" for name in names)]
    found = frame[frame["measure"].isin(both)]
    assert len(found) == 2 * 2 * len(both)  # steps 0 and 1, two task-levels
    assert found["value"].between(1.0, 16.0).all() and set(found["layer"]) == {""}
    assert found["settings"].nunique() == 2  # a name with its truncation
    model = GPT(SCALES["nano"], 0)
    (probe, _) = level_samples(one.spec, one.settings, torch.device("cpu"))

    at_start = found[(found["step"] == 0) & (found["task"] == "COPY")].set_index("measure")["value"]
    for name, measure in zip(names, (fisher_effective_rank, gradient_covariance_rank), strict=True):
        exact = measure(model, probe.loss, probe.tokens)
        assert at_start[name] == pytest.approx(exact, rel=1e-5)
        truncated = measure(model, probe.loss, probe.tokens, params=50_000)
        assert at_start[f"{name}_first_50k"] == pytest.approx(truncated, rel=1e-5)


def test_hessians_start_from_the_last_ones_also_after_a_kill(tmp_path: Path, monkeypatch) -> None:
    change(monkeypatch, "hessian_trace", probes=6)
    change(monkeypatch, "hessian_density", probes=1, iterations=5)
    measures = ("hessian_top", "hessian_trace", "hessian_density")
    whole = dataclasses.replace(job(tmp_path / "whole", steps=4), measures=measures)
    assert whole.run()
    frame = load_records(tmp_path / "whole")
    top = frame[frame["measure"] == "hessian_top"]
    first = top[(top["step"] == 0) & (top["task"] == "COPY")].iloc[0]
    (probe, _) = level_samples(whole.spec, whole.settings, torch.device("cpu"))
    model = GPT(SCALES["nano"], 0)
    exact = hessian_top_eigenvalues(model, probe.loss, probe.tokens, tol=1e-5)
    assert abs(first["value"] - exact.values[0].item()) <= first["stderr"]
    iterations = frame[frame["measure"] == "hessian_top_iterations"]
    assert len(iterations) == len(top) and iterations["value"].between(2, 100).all()
    assert (frame[frame["measure"] == "hessian_trace"]["stderr"] > 0).all()
    quantiles = frame[frame["measure"].str.startswith("hessian_density_q")]
    assert (
        quantiles.groupby(["step", "task"])["value"].apply(list).map(sorted).map(len) == 5
    ).all()

    # Killed after the eigenvectors of the second checkpoint, before its records.
    broken = dataclasses.replace(whole, out=tmp_path / "broken")
    write, written = running.write_part, []

    def killed(path, rows):
        written.append(path)
        if len(written) == 2:
            raise KeyboardInterrupt
        return write(path, rows)

    monkeypatch.setattr(running, "write_part", killed)
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    assert broken.run()
    columns = ["step", "task", "level", "measure", "value", "stderr"]
    again = load_records(tmp_path / "broken")[columns]
    pd.testing.assert_frame_equal(again, frame[columns])
    assert len(list(whole.checkpoints.glob("eigenvectors-*"))) == 2


@pytest.mark.parametrize(("state_every", "states"), [(0.0, 2), (3600.0, 1)])
def test_keep_all_keeps_every_weight(tmp_path: Path, state_every: float, states: int) -> None:
    one = dataclasses.replace(job(tmp_path), keep="all", state_every=state_every)
    one.run()
    assert len(list(one.checkpoints.glob("*/weights.safetensors"))) == 9
    assert len(list(one.checkpoints.glob("*/optimizer.safetensors"))) == states

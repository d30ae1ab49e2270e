"""Training: it learns, it is deterministic, it resumes exactly."""

import json
from pathlib import Path

import pytest
import torch

from geomfast.testbed.tasks import TaskLevel
from geomfast.testbed.training import checkpoints
from geomfast.testbed.training.checkpoints import CheckpointError
from geomfast.testbed.training.loop import Trainer, TrainingDiverged, answer_loss
from geomfast.testbed.training.mixture import IGNORE
from geomfast.testbed.training.settings import TrainSettings

LEVELS = [TaskLevel("COPY", 1), TaskLevel("CMP", 1)]
SETTINGS = TrainSettings(steps=30, batch_size=16)
IDENTITY = {"run": "test"}


def trainer(**changes: object) -> Trainer:
    values = {**SETTINGS.__dict__, **changes}
    return Trainer("nano", 0, LEVELS, TrainSettings(**values))


def after(steps: int, one: Trainer) -> Trainer:
    for _ in range(steps):
        one.train_step()
    return one


def same_weights(one: Trainer, other: Trainer) -> bool:
    pairs = zip(one.model.parameters(), other.model.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_the_loss_falls() -> None:
    one = trainer(steps=60, warmup=5)
    one.train_step()
    first = float(one.loss)
    after(59, one)
    assert first == pytest.approx(3.18, abs=0.15)  # log 24: nothing known
    assert float(one.loss) < 0.75 * first


def test_the_same_seed_gives_the_same_weights_and_global_state_plays_no_part() -> None:
    torch.manual_seed(1)
    one = after(5, trainer())
    torch.manual_seed(2)
    state = torch.get_rng_state()
    other = after(5, trainer())
    assert same_weights(one, other)
    assert torch.equal(state, torch.get_rng_state())


def test_buckets_change_the_work_and_not_the_gradient() -> None:
    """The gradient of the bucketed batch is that of its examples taken one at a time."""
    one = trainer()
    batch = one.mixture.batch(0)
    assert len(batch.buckets) > 1
    logits = one.model.forward_buckets([b.inputs for b in batch.buckets])
    answer_loss(logits, [b.targets for b in batch.buckets]).mean().backward()
    bucketed = [p.grad.clone() for p in one.model.parameters() if p.grad is not None]
    one.model.zero_grad()
    for inputs, targets in batch.buckets:
        for row, target in zip(inputs, targets, strict=True):
            counted = target != IGNORE
            logits = one.model(row[None])[0, counted]
            nats = torch.nn.functional.cross_entropy(logits, target[counted])
            (nats / SETTINGS.batch_size).backward()
    alone = [p.grad for p in one.model.parameters() if p.grad is not None]
    assert len(alone) == len(bucketed) == len(list(one.model.parameters()))
    for a, b in zip(bucketed, alone, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_resumed_run_is_bit_identical(tmp_path: Path) -> None:
    straight = after(12, trainer())
    interrupted = after(7, trainer())
    folder = interrupted.save(tmp_path, IDENTITY)
    resumed = trainer()
    resumed.load(folder, IDENTITY)
    after(5, resumed)
    assert same_weights(straight, resumed)
    assert (resumed.step, resumed.tokens) == (straight.step, straight.tokens)
    assert checkpoints.weights_hash(resumed.model) == checkpoints.weights_hash(straight.model)


def test_bf16_trains() -> None:
    one = after(3, trainer(precision="bf16"))
    one.check_finite()
    assert all(p.dtype == torch.float32 for p in one.model.parameters())


def test_divergence_is_noticed_and_explained() -> None:
    one = trainer()
    one.train_step()
    with torch.no_grad():
        one.model.norm.weight[3] = float("nan")
    with pytest.raises(TrainingDiverged, match="lower the learning rate"):
        one.check_finite()


def test_decay_spares_biases_and_gains() -> None:
    groups = trainer().optimizer.param_groups
    assert {p.ndim for p in groups[0]["params"]} == {2}
    assert {p.ndim for p in groups[1]["params"]} == {1}
    assert (groups[0]["weight_decay"], groups[1]["weight_decay"]) == (0.01, 0.0)


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors"])
def test_a_truncated_checkpoint_is_named_and_refused(tmp_path: Path, name: str) -> None:
    folder = after(1, trainer()).save(tmp_path, IDENTITY)
    path = folder / name
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=f"{name}.*truncated"):
        trainer().load(folder, IDENTITY)


def test_a_foreign_file_is_refused_and_never_unpickled(tmp_path: Path) -> None:
    folder = after(1, trainer()).save(tmp_path, IDENTITY)
    path = folder / "weights.safetensors"
    torch.save({"a": Boom()}, path)
    with pytest.raises(CheckpointError, match=r"weights\.safetensors"):
        trainer().load(folder, IDENTITY)
    # Even one whose hash was forged to match is only ever parsed as safetensors.
    meta = checkpoints.read_meta(folder)
    meta["sha256"]["weights.safetensors"] = checkpoints._sha256(path.read_bytes())
    (folder / "checkpoint.json").write_text(json.dumps(meta))
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        trainer().load(folder, IDENTITY)


class Boom:
    """Explodes when unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('unpickled')",))


def test_another_run_and_other_metadata_are_refused(tmp_path: Path) -> None:
    folder = after(1, trainer()).save(tmp_path, IDENTITY)
    with pytest.raises(CheckpointError, match="another run"):
        trainer().load(folder, {"run": "other"})
    (folder / "checkpoint.json").write_text("[1, 2")
    with pytest.raises(CheckpointError, match=r"checkpoint\.json"):
        trainer().load(folder, IDENTITY)
    (folder / "checkpoint.json").write_text("{}")
    with pytest.raises(CheckpointError, match="not a geomfast checkpoint"):
        trainer().load(folder, IDENTITY)


def test_an_unfinished_folder_does_not_count_and_pruning_keeps_the_last(tmp_path: Path) -> None:
    one = trainer()
    for _ in range(4):
        one.train_step()
        one.save(tmp_path, IDENTITY)
    (tmp_path / "step-00000004" / "checkpoint.json").unlink()
    assert checkpoints.steps_saved(tmp_path) == [1, 2, 3]
    checkpoints.prune(tmp_path, 3, keep_states=1, keep_weights=True)
    assert checkpoints.steps_saved(tmp_path) == [3]
    assert (tmp_path / "step-00000001" / "weights.safetensors").exists()
    after(1, one).save(tmp_path, IDENTITY)
    checkpoints.prune(tmp_path, 5, keep_states=1, keep_weights=False)
    assert checkpoints.steps_saved(tmp_path) == [5]
    assert not (tmp_path / "step-00000003").exists()


def test_a_full_disk_leaves_the_earlier_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = after(1, trainer())
    one.save(tmp_path, IDENTITY)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    one.train_step()
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        one.save(tmp_path, IDENTITY)
    monkeypatch.undo()
    assert checkpoints.steps_saved(tmp_path) == [1]
    assert not list(tmp_path.rglob(".tmp-*"))
    trainer().load(tmp_path / "step-00000001", IDENTITY)

"""Stacked training: a member is what it is alone, whatever becomes of the others."""

from pathlib import Path

import pytest
import torch

from geomfast.testbed.models.gpt import GPT
from geomfast.testbed.models.scales import Scale
from geomfast.testbed.tasks import LENGTH_TASKS
from geomfast.testbed.tasks.lengths import LengthTask
from geomfast.testbed.training.checkpoints import CheckpointError
from geomfast.testbed.training.length_batches import LengthBatches
from geomfast.testbed.training.loop import answer_loss
from geomfast.testbed.training.mixture import IGNORE
from geomfast.testbed.training.schedule import learning_rate
from geomfast.testbed.training.settings import TrainSettings
from geomfast.testbed.training.stacked import StackedTrainer

TASK, TRAIN, LONGEST, BATCH = LENGTH_TASKS["count"], 4, 6, 8


def scale_for(task: LengthTask) -> Scale:
    rows = {"vocabulary": task.vocabulary(LONGEST), "context": task.context(LONGEST)}
    return Scale("2x16", 2, 16, 1, 3e-3, **rows)


SCALE = scale_for(TASK)
SETTINGS = TrainSettings(steps=40, warmup=5)
SEEDS = (3, 0, 7, 5)
IDENTITY = {"run": "test"}


def trainer(
    seeds: tuple[int, ...] = SEEDS,
    at_once: int = 4,
    task: str = "count",
    device: str = "cpu",
    **changes: object,
) -> StackedTrainer:
    settings = TrainSettings(**{**SETTINGS.__dict__, **changes})
    batches = LengthBatches(LENGTH_TASKS[task], TRAIN, LONGEST, BATCH, device)
    return StackedTrainer(scale_for(LENGTH_TASKS[task]), seeds, settings, batches, at_once, device)


def weights(one: StackedTrainer) -> torch.Tensor:
    return torch.cat([program.model.weights for program in one.programs])


def after(steps: int, one: StackedTrainer) -> StackedTrainer:
    one.advance(one.step + steps)
    return one


def plainly(seed: int, steps: int) -> GPT:
    """The same training written with torch's own optimiser, clipping and loss."""
    batches = LengthBatches(TASK, TRAIN, LONGEST, BATCH)
    model = GPT(SCALE, seed)
    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": 0.01},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98))
    for step in range(steps):
        batch = batches.draw(torch.tensor([seed]), torch.tensor([step]))
        flat = torch.full((1, batches.processed), IGNORE)
        flat[:, batches.read] = batch.targets
        parts = flat[0].split([b[0].numel() for b in batch.buckets])
        targets = [p.view(b.shape[1:]) for p, b in zip(parts, batch.buckets, strict=True)]
        inputs, starts = [b[0] for b in batch.buckets], [s[0] for s in batch.starts]
        optimizer.zero_grad()
        answer_loss(model.forward_buckets(inputs, starts=starts), targets).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        rate = learning_rate(step, peak=3e-3, steps=40, warmup=5, final=0.1)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
    return model


@pytest.mark.parametrize(("steps", "tolerance"), [(1, 1e-5), (12, 1e-3)])
def test_a_member_is_what_plain_training_makes(steps: int, tolerance: float) -> None:
    stacked = after(steps, trainer())
    for i, seed in enumerate(SEEDS[:2]):
        expected = dict(plainly(seed, steps).named_parameters())
        initial = dict(GPT(SCALE, seed).named_parameters())
        found = dict(stacked.programs[0].model.member(i).named_parameters())
        for name, p in expected.items():
            moved = (p - initial[name]).norm()
            assert moved > 0
            # Attention's biases of keys have no gradient but rounding, which AdamW magnifies.
            if not name.endswith("attention_in.bias"):
                assert (found[name] - p).norm() <= tolerance * p.norm() + tolerance * moved, name


@pytest.mark.parametrize("task", list(LENGTH_TASKS))
def test_stacking_and_looping_give_equal_members(task: str) -> None:
    one, other, alone = trainer(task=task), trainer(at_once=1, task=task), trainer((7,), task=task)
    assert [len(t.programs) for t in (one, other, alone)] == [1, 4, 1]
    for t in (one, other, alone):
        after(1, t)
    torch.testing.assert_close(weights(one), weights(other), rtol=1e-5, atol=1e-7)
    assert torch.equal(weights(other)[2], weights(alone)[0])


def test_members_learn_and_differ() -> None:
    one = after(1, trainer())
    first = one.losses()
    assert first.tolist() == pytest.approx([2.7] * 4, abs=0.2)  # log 15: nothing known
    after(39, one)
    assert (one.losses() < 0.85 * first).all()
    assert len(set(one.losses().tolist())) == 4


def test_a_member_that_is_nan_is_frozen_and_the_others_are_bit_identical() -> None:
    healthy, ill = after(6, trainer()), after(6, trainer())
    for one in (healthy, ill):
        after(1, one)
    program = ill.programs[0]
    before = program.model.weights[1].clone()
    bad = program.model.names.index("norm.weight")
    offset = sum(shape.numel() for shape in program.model._shapes[:bad])
    before[offset] = program.model.weights[1, offset] = torch.nan
    for one in (healthy, ill):
        after(5, one)
    assert ill.failed() == {0: 7} and healthy.failed() == {}
    others = [0, 2, 3]
    assert torch.equal(weights(ill)[others], weights(healthy)[others])
    assert torch.equal(program.exp_avg[others], healthy.programs[0].exp_avg[others])
    torch.testing.assert_close(weights(ill)[1], before, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(ill.losses()[others], healthy.losses()[others])


def test_a_diverging_member_keeps_its_last_finite_weights() -> None:
    one = after(3, trainer())
    with torch.no_grad():
        one.programs[0].model.weights[2] *= 1e25
    before = weights(one)[2].clone()
    after(4, one)
    assert one.failed() == {7: 3}
    assert torch.equal(weights(one)[2], before) and weights(one)[2].isfinite().all()


@pytest.mark.parametrize("at_once", [4, 3])
def test_resumed_training_is_bit_identical(tmp_path: Path, at_once: int) -> None:
    straight, interrupted = trainer(at_once=at_once), after(7, trainer(at_once=at_once))
    interrupted.programs[0].model.weights[1] = torch.nan
    after(7, straight)
    straight.programs[0].model.weights[1] = torch.nan
    after(1, interrupted), after(6, straight)
    folder = interrupted.save(tmp_path, IDENTITY)
    resumed = trainer(at_once=at_once)
    resumed.load(folder, IDENTITY)
    assert torch.equal(resumed.losses()[[0, 2, 3]], interrupted.losses()[[0, 2, 3]])
    after(5, resumed)
    assert resumed.step == straight.step == 13
    assert resumed.failed() == straight.failed() == {0: 7}
    rows = [0, 2, 3]
    assert torch.equal(weights(resumed)[rows], weights(straight)[rows])
    assert resumed.tokens == straight.tokens


def test_other_members_and_damage_are_refused(tmp_path: Path) -> None:
    folder = after(1, trainer()).save(tmp_path, IDENTITY)
    with pytest.raises(CheckpointError, match="other members"):
        trainer((0, 3, 7, 5)).load(folder, IDENTITY)
    with pytest.raises(CheckpointError, match="another run"):
        trainer().load(folder, {"run": "other"})
    path = folder / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match="truncated"):
        trainer().load(folder, IDENTITY)


def test_training_stops_between_rounds_with_all_members_at_one_step() -> None:
    one = trainer(at_once=3)
    one.advance(35, after_round=lambda: one.step >= 20)
    assert one.step == 20
    assert [int(program.at) for program in one.programs] == [20, 20]
    with pytest.raises(ValueError, match="target = 41"):
        one.advance(41)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seeds": ()}, "seeds"),
        ({"seeds": (2**32,)}, "seeds"),
        ({"at_once": 0}, "members_per_program"),
        ({"precision": "bf16"}, "precision"),
    ],
)
def test_bad_input(changes: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        trainer(**changes)


@pytest.mark.parametrize("task", list(LENGTH_TASKS))
def test_a_batch_reads_answers_and_weighs_examples_equally(task: str) -> None:
    of = LENGTH_TASKS[task]
    batches = LengthBatches(of, TRAIN, LONGEST, BATCH)
    batch = batches.draw(torch.tensor([0, 9]), torch.tensor([3]))
    assert batch.targets.shape == (2, len(batches.read))
    assert batches.processed == sum(b[0].numel() for b in batch.buckets)
    assert 0.8 * batches.processed <= batches.tokens <= batches.processed
    assert float(batches.weights.sum()) == pytest.approx(1.0)
    assert all((b[0] != b[1]).any() for b in batch.buckets)
    # Every example has each of its answer's tokens read once, [eos] among them.
    assert int((batch.targets[0] == 2).sum()) == BATCH
    assert len(batches.read) == sum(int(of.answer(n)) for n in (1, 1, 2, 2, 3, 3, 4, 4))

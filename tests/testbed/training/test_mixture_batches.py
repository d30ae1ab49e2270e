"""Batches of a mixture for many members: stacked training on them is training of each alone."""

from pathlib import Path

import pytest
import torch

from geomfast.testbed.models.scales import SCALES
from geomfast.testbed.tasks import task_levels
from geomfast.testbed.training.loop import Trainer
from geomfast.testbed.training.mixture import Mixture
from geomfast.testbed.training.mixture_batches import MixtureBatches
from geomfast.testbed.training.settings import TrainSettings
from geomfast.testbed.training.stacked import StackedTrainer

LEVELS = task_levels(("COPY", "PAR", "SORT"), (1, 3))
SEEDS = (2, 0)
#: Of steps whose task-levels differ: batches of 10 of 6 in turn.
SETTINGS = TrainSettings(steps=30, warmup=3, batch_size=10)


def stacked(at_once: int) -> StackedTrainer:
    batches = MixtureBatches(LEVELS, SETTINGS.batch_size)
    return StackedTrainer(SCALES["nano"], SEEDS, SETTINGS, batches, at_once)


def test_every_members_batch_is_its_own_mixtures() -> None:
    batches = MixtureBatches(LEVELS, 10)
    for step in (0, 1, 66):
        drawn = batches.draw(torch.tensor(SEEDS), torch.tensor([step]))
        for i, seed in enumerate(SEEDS):
            own = Mixture(LEVELS, 10, seed).batch(step).buckets
            assert len(own) == len(drawn.buckets)
            for found, expected in zip(drawn.buckets, own, strict=True):
                assert torch.equal(found[i], expected.inputs)
            targets = torch.cat([b.targets.flatten() for b in own])
            assert torch.equal(targets[drawn.read], drawn.targets[i])
            assert int((targets >= 0).sum()) == len(drawn.read)
        assert float(drawn.weights.sum()) == pytest.approx(1.0)


@pytest.mark.parametrize(("steps", "tolerance"), [(1, 1e-5), (6, 1e-3)])
@pytest.mark.parametrize("at_once", [1, 2])
def test_a_member_is_the_run_of_its_seed(at_once: int, steps: int, tolerance: float) -> None:
    one = stacked(at_once)
    one.advance(steps)
    members = [p.model.member(i) for p in one.programs for i in range(p.model.members)]
    for seed, member, loss in zip(SEEDS, members, one.losses().tolist(), strict=True):
        alone = Trainer("nano", seed, LEVELS, SETTINGS)
        initial = {name: p.detach().clone() for name, p in alone.model.named_parameters()}
        for _ in range(steps):
            alone.train_step()
        assert loss == pytest.approx(float(alone.loss), rel=tolerance)
        assert one.tokens == alone.tokens
        found = dict(member.named_parameters())
        for name, p in alone.model.named_parameters():
            moved = (p - initial[name]).norm()
            assert moved > 0
            # Attention's biases of keys have no gradient but rounding, which AdamW magnifies.
            if not name.endswith("attention_in.bias"):
                assert (found[name] - p).norm() <= tolerance * p.norm() + tolerance * moved, name


def test_resumed_training_is_bit_identical(tmp_path: Path) -> None:
    straight, interrupted = stacked(2), stacked(2)
    straight.advance(5)
    interrupted.advance(3)
    resumed = stacked(2)
    resumed.load(interrupted.save(tmp_path, {"run": "test"}), {"run": "test"})
    resumed.advance(5)
    assert torch.equal(resumed.programs[0].model.weights, straight.programs[0].model.weights)
    assert resumed.tokens == straight.tokens

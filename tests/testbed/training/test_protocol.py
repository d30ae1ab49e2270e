"""A run by itself and a group of members are driven alike."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from geomfast.testbed.training.protocol import TrainerProtocol
from tests.testbed.training.test_loop import IDENTITY
from tests.testbed.training.test_loop import trainer as alone
from tests.testbed.training.test_stacked import trainer as stacked


@pytest.mark.parametrize(("make", "members"), [(alone, 1), (stacked, None)])
def test_advance_save_load_and_states(
    tmp_path: Path, make: Callable[[], TrainerProtocol], members: int | None
) -> None:
    one, asked = make(), []
    one.advance(3, lambda: asked.append(one.step) or True)
    assert asked == [one.step] and 0 < one.step <= 3  # left after the first round
    one.advance(3)
    assert one.step == 3 and one.failed() == {} and one.tokens > 0
    assert one.progress()["loss"] > 0 and set(one.seconds) == {"train", "measure", "write"}
    one.seconds["train"] = 7.0
    folder = one.save(tmp_path, IDENTITY)
    other = make()
    other.load(folder, IDENTITY)
    assert (other.step, other.tokens, other.seconds) == (one.step, one.tokens, one.seconds)
    for trainer in (one, other):
        trainer.advance(5)
    both = list(zip(one.states(), other.states(), strict=True))
    assert len(both) == (members or len(one.seeds))  # pyright: ignore[reportAttributeAccessIssue]
    for state, same in both:
        assert state.keys() == same.keys() and all(torch.equal(state[k], same[k]) for k in state)

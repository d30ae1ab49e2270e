"""Gram matrices and products of the Hessian of drawn models against float64 references.

`python -m tests.property FIRST COUNT` compares any other seeds; a failure here names its seed.
"""

import pytest
import torch

from tests.property.compare import compared
from tests.property.draws import drawn

DRAWS, CHUNK = 1000, 50


@pytest.mark.parametrize("first", range(0, DRAWS, CHUNK))
def test_draws(first):
    outcomes = [compared(seed) for seed in range(first, first + CHUNK)]
    faulty = [outcome.said() for outcome in outcomes if outcome.faults]
    assert not faulty, "\n".join(faulty)
    assert sum(bool(outcome.passed) for outcome in outcomes) > CHUNK // 2


def test_a_seed_makes_the_same_draw_again():
    for seed in range(20):
        state = torch.get_rng_state()
        one, other = drawn(seed), drawn(seed)
        assert torch.equal(torch.get_rng_state(), state)
        assert one.what == other.what
        pairs = zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)

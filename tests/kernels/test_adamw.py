"""AdamW steps of many members: torch's optimiser, every backend, members that stay."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from geomfast.kernels.adamw import OP, AdamW, AdamWState, adamw_step
from tests import cases

RULE = AdamW((0.9, 0.98), 0.1)
BACKENDS = OP.available_backends(torch.empty(0))
# Around the block of the Triton kernel, and members without any parameter.
SIZES = [1, 7, 1023, 1024, 1025, 0]


def state(members: int, size: int) -> dict[str, Tensor]:
    return {
        "weights": cases.normal(members, size, seed=0),
        "gradients": cases.normal(members, size, seed=1),
        "exp_avg": 0.1 * cases.normal(members, size, seed=2),
        "exp_avg_sq": 0.1 * cases.normal(members, size, seed=3) ** 2,
    }


def moved(backend: str, given: dict[str, Tensor], **options) -> dict[str, Tensor]:
    """What one step makes of a copy of the state."""
    after = {name: x.clone() for name, x in given.items()}
    members, size = after["weights"].shape
    rest = {
        "step_scalars": RULE.step_scalars([1e-2] * 5)[4],
        "scales": torch.linspace(0.3, 1.0, members),
        "active": torch.ones(members, dtype=torch.bool),
    }
    OP[backend].step(AdamWState(**after, rule=RULE, num_decayed=size // 2), **rest | options)
    return after


@pytest.mark.parametrize("backend", BACKENDS)
def test_steps_are_those_of_torch(backend: str) -> None:
    """Several steps from zero, rates that change, matrices decayed and the rest not."""
    weights, rates = cases.normal(3, 50, seed=4), [1e-2, 3e-2, 2e-2, 5e-3]
    matrix, vector = weights[:, :30].clone(), weights[:, 30:].clone()
    groups = [{"params": [matrix], "weight_decay": 0.1}, {"params": [vector], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=RULE.betas)
    exp_avg, exp_avg_sq = torch.zeros_like(weights), torch.zeros_like(weights)
    step_scalars, active = RULE.step_scalars(rates), torch.ones(3, dtype=torch.bool)
    for step, rate in enumerate(rates):
        gradients = cases.normal(3, 50, seed=10 + step)
        matrix.grad, vector.grad = 0.5 * gradients[:, :30], 0.5 * gradients[:, 30:]
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        state = AdamWState(weights, gradients, exp_avg, exp_avg_sq, RULE, num_decayed=30)
        OP[backend].step(state, step_scalars[step], torch.full((3,), 0.5), active)
    torch.testing.assert_close(weights, torch.cat([matrix, vector], 1), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_agrees_with_the_reference(backend: str, size: int) -> None:
    given = state(3, size)
    expected, found = moved("reference", given), moved(backend, given)
    for name in ("weights", "exp_avg", "exp_avg_sq"):
        torch.testing.assert_close(found[name], expected[name], rtol=2e-6, atol=1e-7)
        assert size == 0 or not torch.equal(found[name], given[name])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_member_that_is_not_active_stays_and_the_others_do_not_notice(backend: str) -> None:
    given = state(4, 1100)
    whole = moved(backend, given)
    given["gradients"][2] = torch.nan
    scales = torch.linspace(0.3, 1.0, 4)
    scales[2] = torch.nan
    active = torch.tensor([True, True, False, True])
    after = moved(backend, given, active=active, scales=scales)
    for name in ("weights", "exp_avg", "exp_avg_sq"):
        assert torch.equal(after[name][2], given[name][2])
        assert torch.equal(after[name][active], whole[name][active])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_member_moves_among_others_as_it_does_alone(backend: str) -> None:
    given = state(3, 1100)
    whole = moved(backend, given)
    alone = {name: x[1:2].contiguous() for name, x in given.items()}
    found = moved(backend, alone, scales=torch.linspace(0.3, 1.0, 3)[1:2])
    for name in ("weights", "exp_avg", "exp_avg_sq"):
        assert torch.equal(found[name][0], whole[name][1])


def test_step_scalars() -> None:
    rate, t, means, root = RULE.step_scalars([0.5, 0.25])[1].double().tolist()
    assert (rate, t) == (0.25, 2.0)
    assert means == pytest.approx(1 / (1 - 0.9**2))
    assert root == pytest.approx((1 - 0.98**2) ** -0.5)


def test_what_does_not_fit_is_named() -> None:
    given = AdamWState(**state(3, 8), rule=RULE, num_decayed=4)
    rest = {
        "step_scalars": torch.ones(4),
        "scales": torch.ones(3),
        "active": torch.ones(3, dtype=torch.bool),
    }
    adamw_step(given, **rest)
    for name, wrong in (("scales", torch.ones(4)), ("active", torch.ones(3))):
        with pytest.raises(ValueError, match=name):
            adamw_step(given, **rest | {name: wrong})
    for name, wrong, complaint in (
        ("exp_avg", torch.ones(3, 7), "exp_avg"),
        ("weights", torch.ones(8, 3).mT, "weights"),
        ("gradients", torch.ones(3, 8, dtype=torch.float64), "gradients"),
        ("num_decayed", 9, r"num_decayed .* 9"),
        ("weights", torch.ones(8), "weights must be"),
    ):
        with pytest.raises(ValueError, match=complaint):
            adamw_step(given._replace(**{name: wrong}), **rest)

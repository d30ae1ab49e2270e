"""One Langevin step of all chains: signature, checks, and the table of backends."""

from __future__ import annotations

import torch
from torch import Tensor

from geomfast.kernels.checks import check_fits
from geomfast.kernels.registry import Op, Placement, float32_only
from geomfast.kernels.sgld import cpu, eager, reference, triton
from geomfast.kernels.sgld.dynamics import Dynamics, LangevinState

#: Modules with `step`, as `sgld_step`, and `normals`.
OP = Op(
    "sgld_step",
    {"triton": triton, "cpu": cpu, "torch": eager, "reference": reference},
    refusals={"triton": float32_only, "cpu": float32_only},
)


def sgld_step(state: LangevinState, step: int | Tensor) -> Tensor:
    """Moves every chain by one Langevin step, in place.

    The noise of an entry depends on seed, chain, step and the entry's index alone: neither on the
    backend, the device, the number of threads, nor on which other chains there are.

    Args:
        state: changed; see `LangevinState`.
        step: number of this step; a 0-dimensional int64 tensor on the weights' device is read
            there, so that a replayed CUDA graph makes new noise.

    Returns:
        (C, 4) float64 of the weights w before the step, NaN for chains that are not active:
        |w - center|^2, |drift|^2, (w - previous) . drift and kick . drift, where the kick is the
        scaled noise, the drift lr/2 times the gradient of the energy. With momentum, u the
        velocity before the step and l the loss's share of the drift: |w - center|^2, l . drift,
        l . (w - center) and l . u.

    Raises:
        ValueError: shapes, types or places do not fit together.
        BackendError: the forced backend does not support the input.
    """
    _check(state, step)
    return OP[OP.backend_for(state.weights)].step(state, step)


def normals(
    chains: int,
    size: int,
    *,
    seed: int,
    step: int,
    first_chain: int = 0,
    device: torch.device | str = "cpu",
) -> Tensor:
    """(chains, size) float32: the noise that `sgld_step` would add, before it is scaled."""
    where = torch.empty(0, device=device)
    run = OP[OP.backend_for(where)].normals
    return run(chains, size, seed, step, first_chain, where.device)


def _check(state: LangevinState, step: int | Tensor) -> None:
    weights, device = state.weights, state.weights.device
    if weights.dim() != 2 or weights.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"weights must be (C, P) float32 or float64, not {tuple(weights.shape)} {weights.dtype}"
        )
    for name in ("weights", "gradients", "previous", "velocity"):
        if (x := getattr(state, name)) is not None:
            check_fits(name, x, weights.shape, weights.dtype, device)
    check_fits("center", state.center, weights.shape[1:], weights.dtype, device)
    if state.active is not None:
        check_fits("active", state.active, weights.shape[:1], torch.bool, device)
    if isinstance(step, Tensor):
        check_fits("step", step, (), torch.int64, device)
    if (state.dynamics.momentum is None) != (state.velocity is None):
        raise ValueError("velocity goes with momentum, and only with it")
    if state.velocity is not None and state.previous is not None:
        raise ValueError("previous does not go with momentum")


@OP.self_test({"sgld normals": 1e-6, "sgld_step": 1e-6, "sgld_step sums": 1e-5})
def _self_test(backend: str, place: Placement) -> dict[str, Tensor]:
    """Noise, and steps without and with momentum; several groups of counters, the last not full."""
    generator = torch.Generator().manual_seed(0)
    weights, gradients, previous = place(torch.randn(3, 3, 300, generator=generator, device="cpu"))
    center = torch.zeros_like(gradients[0])
    state = LangevinState(weights, gradients, center, Dynamics(0.1, 5.0, 1.0), 1, previous)
    sums = OP[backend].step(state, 2)
    noise = OP[backend].normals(*weights.shape, 1, 2, 3, weights.device)
    moving = weights.clone()
    dynamics = Dynamics(0.1, 5.0, 1.0, momentum=0.5)
    state = LangevinState(moving, gradients, center, dynamics, 1, velocity=previous)
    sums = torch.cat([sums, OP[backend].step(state, 2)])
    stepped = torch.cat([weights, moving, previous])
    return {"sgld normals": noise, "sgld_step": stepped, "sgld_step sums": sums}

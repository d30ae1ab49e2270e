"""Backend "reference": float64 throughout, the textbook's formulas; the numbers are the same."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from geomfast.kernels.sgld.dynamics import LangevinState
from geomfast.kernels.sgld.philox import COUNTERS, GROUP, in_order, numbers


def normals(
    chains: int, size: int, seed: int, step: int, first_chain: int, device: torch.device
) -> Tensor:
    """As `geomfast.kernels.sgld.normals`, in float64."""
    counters = range(-(-size // GROUP) * COUNTERS)
    rows = []
    for chain in range(first_chain, first_chain + chains):
        x = numbers(counters, seed, chain, step, device)
        z = [*_box_muller(x[0], x[1]), *_box_muller(x[2], x[3])]
        rows.append(in_order(z)[:size])
    return torch.stack(rows) if rows else torch.empty((0, size), dtype=torch.float64, device="cpu")


def _box_muller(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Of two uniform numbers, the second of 30 bits around one of the four half-axes."""
    r = (-2.0 * torch.log(((x >> 1).double() + 0.5) * 2.0**-31)).sqrt()
    within = ((y << 2) + 2**31 & 0xFFFFFFFF) - 2**31
    t = within.double() * (math.pi / 4 / 2**31)
    along, across = torch.cos(t), torch.sin(t)
    along = torch.where(y >> 30 & 1 == 1, -along, along)
    upright = y >> 31 == 1
    return r * torch.where(upright, across, along), r * torch.where(upright, along, across)


def step(state: LangevinState, step: int | Tensor) -> Tensor:
    """As `geomfast.kernels.sgld.sgld_step`."""
    weights, dynamics = state.weights, state.dynamics
    chains, size = weights.shape
    z = normals(chains, size, state.seed, int(step), state.first_chain, weights.device)
    statistics = torch.full((len(weights), 4), math.nan, dtype=torch.float64, device=weights.device)
    for chain in range(chains):
        if state.active is not None and not state.active[chain]:
            continue
        w, g = weights[chain].double(), state.gradients[chain].double()
        away = w - state.center.double()
        drift = 0.5 * dynamics.lr * (dynamics.nbeta * g + dynamics.localization * away)
        since = torch.zeros_like(w)
        if state.previous is not None:
            since = w - state.previous[chain].double()
            state.previous[chain] = w
        kick = math.sqrt(dynamics.lr) * z[chain]
        sums = [away @ away, drift @ drift, since @ drift, kick @ drift]
        if state.velocity is not None and dynamics.momentum is not None:
            of_loss = 0.5 * dynamics.lr * dynamics.nbeta * g
            u = state.velocity[chain].double()
            sums[1:] = [of_loss @ drift, of_loss @ away, of_loss @ u]
            before = u - drift
            after = dynamics.momentum * before
            after += 0.5 * math.sqrt(1.0 - dynamics.momentum**2) * kick
            weights[chain] = w + before + after
            state.velocity[chain] = after
        else:
            weights[chain] = w - drift + kick
        statistics[chain] = torch.stack(sums)
    return statistics

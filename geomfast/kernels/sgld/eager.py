"""Backend "torch": the same operations in the same order, so that float32 gives the same bits."""

from __future__ import annotations

import torch
from torch import Tensor

from geomfast.kernels.sgld.dynamics import LangevinState
from geomfast.kernels.sgld.philox import COUNTERS, GROUP, in_order, numbers

# Of p with -2 log(1 + f) = f p(f), sin t = t s(t^2), cos t = c(t^2): least maximal error for
# 1 + f in [sqrt(1/2), sqrt(2)] (1.8e-7, relative) and |t| <= pi / 4 (4.1e-9 and 5.5e-8). The
# coefficient of the highest power comes first.
_LOG = (
    "0x1.9dfa5cp-3 -0x1.4c3d04p-2 0x1.614c0ap-2 -0x1.978e2ep-2 0x1.ff623cp-2 -0x1.5559dcp-1 "
    "0x1.00007ap+0 -0x1.fffffep+0"
)
_SIN = "-0x1.99076cp-13 0x1.11063p-7 -0x1.55554p-3"
_COS = "-0x1.64257ep-10 0x1.553cecp-5 -0x1.ffffap-2 0x1p+0"
LOG, SIN, COS = ([float.fromhex(c) for c in text.split()] for text in (_LOG, _SIN, _COS))
LOG_2 = float.fromhex("0x1.62e43p+0")  # 2 log 2
ANGLE = float.fromhex("0x1.921fb6p-32")  # pi / 4 / 2^31
ROOT = 0x3F3504F3  # the bits of sqrt(1/2)

_AT_A_TIME = 1 << 18  # counters: integers of 64 bits take room


def box_muller(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Two tensors of numbers in [0, 2^32) -> two float32 tensors of independent normal numbers."""
    u = (x >> 1).float() * 2.0**-31 + 2.0**-32
    bits = u.view(torch.int32)
    e = (bits - ROOT) >> 23
    f = (bits - (e << 23)).view(torch.float32) - 1.0
    r = _root(_polynomial(LOG, f) * f - e.float() * LOG_2)
    t = (((y << 2) + 2**31 & 0xFFFFFFFF) - 2**31).float() * ANGLE
    tt = t * t
    s = (_polynomial(SIN, tt) * tt) * t + t
    c = _polynomial(COS, tt)
    c = torch.where(y >> 30 & 1 == 1, -c, c)
    upright = y >> 31 == 1
    return r * torch.where(upright, s, c), r * torch.where(upright, c, s)


def _root(x: Tensor) -> Tensor:
    """Correctly rounded, which torch's own root of float32 is not everywhere."""
    return x.double().sqrt().to(x.dtype)


def _polynomial(coefficients: list[float], x: Tensor) -> Tensor:
    total = torch.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        total = total * x + coefficient
    return total


def normals(
    chains: int, size: int, seed: int, step: int, first_chain: int, device: torch.device
) -> Tensor:
    """As `geomfast.kernels.sgld.normals`."""
    out = torch.empty((chains, size), device=device)
    last = -(-size // GROUP) * COUNTERS
    for chain in range(chains):
        for first in range(0, last, _AT_A_TIME):
            counters = range(first, min(first + _AT_A_TIME, last))
            x = numbers(counters, seed, first_chain + chain, step, device)
            z = in_order([*box_muller(x[0], x[1]), *box_muller(x[2], x[3])])
            row = out[chain, 4 * first : 4 * first + len(z)]
            row.copy_(z[: len(row)])
    return out


def step(state: LangevinState, step: int | Tensor) -> Tensor:
    """As `geomfast.kernels.sgld.sgld_step`, in the weights' type."""
    weights, previous = state.weights, state.previous
    chains, size = weights.shape
    noise = normals(chains, size, state.seed, int(step), state.first_chain, weights.device)
    by = state.dynamics.factors
    rows = slice(None) if state.active is None else state.active
    w, g = weights[rows], state.gradients[rows]
    away = w - state.center
    of_loss = by["pull"] * g
    drift = of_loss + by["back"] * away
    kick = by["spread"] * noise[rows].to(w.dtype)
    since = torch.zeros_like(w) if previous is None else w - previous[rows]
    products = [away * away, drift * drift, since * drift, kick * drift]
    u = None if state.velocity is None else state.velocity[rows]
    if u is not None:
        products[1:] = [of_loss * drift, of_loss * away, of_loss * u]
    statistics = weights.new_full((len(weights), 4), torch.nan, dtype=torch.float64)
    statistics[rows] = torch.stack([x.sum(1, dtype=torch.float64) for x in products], 1)
    if previous is not None:
        previous[rows] = w
    if state.velocity is None or u is None:
        weights[rows] = (w - drift) + kick
        return statistics
    before = u - drift
    state.velocity[rows] = after = by["keep"] * before + kick
    weights[rows] = (w + before) + after
    return statistics

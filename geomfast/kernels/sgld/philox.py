"""The numbers behind the noise: Philox4x32-10 in integers of torch.

Salmon et al. (2011), "Parallel random numbers: as easy as 1, 2, 3".
"""

from __future__ import annotations

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)

#: Counters whose four numbers each make one group of noise.
COUNTERS = 32
GROUP = 4 * COUNTERS


def philox(counter: tuple[Tensor, ...], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Four int64 tensors in [0, 2^32) of one shape, and two keys -> four such tensors."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        # Products wrap around at 64 bits, which an arithmetic shift and the mask undo.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (p1 >> 32 & _MASK) ^ c1 ^ k0,
            p1 & _MASK,
            (p0 >> 32 & _MASK) ^ c3 ^ k1,
            p0 & _MASK,
        )
        k0, k1 = k0 + _WEYL[0] & _MASK, k1 + _WEYL[1] & _MASK
    return c0, c1, c2, c3


def numbers(
    counters: range, seed: int, chain: int, step: int, device: torch.device
) -> tuple[Tensor, ...]:
    """The four numbers of each counter of one chain's step, int64 (len(counters),) each."""
    c0 = torch.arange(counters.start, counters.stop, device=device)
    words = (chain, step & _MASK, step >> 32 & _MASK)
    return philox(
        (c0, *(torch.full_like(c0, w) for w in words)), (seed & _MASK, seed >> 32 & _MASK)
    )


def in_order(z: list[Tensor]) -> Tensor:
    """Values of the four numbers of whole groups of counters -> entries in their order."""
    return torch.stack([x.view(-1, COUNTERS) for x in z], 1).flatten()

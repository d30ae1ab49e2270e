"""Learning rate over training, and the steps at which a run is looked at."""

from __future__ import annotations

import math


def learning_rate(step: int, *, peak: float, steps: int, warmup: int, final: float) -> float:
    """Linear warm-up, then half a cosine down to ``final * peak``.

    Args:
        step: optimiser steps already taken, 0 for the first update.
        peak: rate at the end of the warm-up.
        steps: length of the run.
        warmup: steps of warm-up.
        final: fraction of the peak left at the end.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress)))


def checkpoint_steps(steps: int, *, dense_until: int, dense_every: int, count: int) -> list[int]:
    """Steps to checkpoint: 0, every ``dense_every`` to ``dense_until``, then log-spaced.

    Args:
        steps: length of the run; always the last entry.
        dense_until: end of the dense part, where collapse happens.
        dense_every: spacing there.
        count: about how many checkpoints altogether; rounding to whole steps merges a few, and
            the log-spaced part has at least ten however small the count.

    Returns:
        Strictly increasing steps from 0 to ``steps``.
    """
    dense = [s for s in range(0, dense_until + 1, dense_every) if s <= steps]
    sparse = max(count - len(dense), 10)
    last = dense[-1]
    if steps <= last or last == 0:
        return sorted({*dense, steps})
    ratio = (steps / last) ** (1 / sparse)
    return sorted({*dense, *(round(last * ratio**i) for i in range(1, sparse + 1)), steps})

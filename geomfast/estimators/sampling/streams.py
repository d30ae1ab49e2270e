"""Which samples a chain's step sees."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

#: Of the minibatches that are drawn ahead, and of the numbers drawn for them, about.
_AHEAD = 256
_NUMBERS = 1 << 20


class Shuffled:
    """One chain's minibatches: each the beginning of a fresh shuffle of the data.

    They are not cut from epochs. Within an epoch what is left differs from what the chain has just
    descended, so that its losses are too high: by up to lr nbeta^2 tr(C) / 4m in the coefficient, C
    the covariance of the gradients of single samples, twice what the noise of independent
    minibatches adds.

    Args:
        samples: n of the data.
        batch_size: m of a minibatch, at most n; no sample is in it twice.
        key: numbers that name the stream.
    """

    def __init__(self, samples: int, batch_size: int, key: Sequence[int]):
        self.samples, self.batch_size = samples, batch_size
        self.random = np.random.default_rng(key)
        self.ahead: list[np.ndarray] = []

    def next(self) -> Tensor:
        """(m,) int64, on the CPU."""
        if not self.ahead:
            self.ahead = list(self._drawn())
        return torch.from_numpy(self.ahead.pop())

    def _drawn(self) -> np.ndarray:
        """(some, m), independent of each other."""
        n, m = self.samples, self.batch_size
        if 2 * m > n:
            return self.random.permutation(n)[None, :m]
        found = self.random.integers(n, size=(max(1, min(_AHEAD, _NUMBERS // m)), m))
        while True:  # drawing until m differ leaves every set of m as likely as any other
            found.sort(axis=1)
            twice = np.nonzero(found[:, 1:] == found[:, :-1])
            if not len(twice[0]):
                return found
            found[twice] = self.random.integers(n, size=len(twice[0]))

"""Which samples a chain's step sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map


class Shuffled:
    """One chain's minibatches: shuffled epochs one after the other, no sample left out.

    Args:
        samples: n of the data.
        batch_size: m of a minibatch, at most n; one may end an epoch and begin the next.
        key: numbers that name the stream.
    """

    def __init__(self, samples: int, batch_size: int, key: Sequence[int]):
        self.samples, self.batch_size = samples, batch_size
        self.random = np.random.default_rng(key)
        self.left = np.empty(0, dtype=np.int64)

    def next(self) -> Tensor:
        """(m,) int64, on the CPU."""
        while len(self.left) < self.batch_size:
            self.left = np.concatenate([self.left, self.random.permutation(self.samples)])
        found, self.left = self.left[: self.batch_size], self.left[self.batch_size :]
        return torch.from_numpy(found)


def concatenated(batches: list[Any]) -> Any:
    """One batch of all samples.

    Raises:
        ValueError: the batches differ in more than their number of samples.
    """
    if len(batches) == 1:
        return batches[0]
    try:
        return tree_map(lambda *tensors: torch.cat(tensors), *batches)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"minibatches are drawn from all of data, whose batches cannot be joined: {error}; "
            "pad them to one shape, or leave batch_size None"
        ) from error


def taken(data: Any, indices: Tensor) -> Any:
    """The samples of a batch at these indices, of any shape, which come first."""
    return tree_map(lambda x: x[indices.to(x.device)] if isinstance(x, Tensor) else x, data)

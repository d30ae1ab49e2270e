"""Memory layout of a stacked step: reused buffers, and tokens without padding."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from geomfast.testbed.models.gpt import Shapes


class Buffers:
    """Memory by name, allocated once and written anew by every step; contents do not last."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        """A contiguous float32 tensor of that shape with anything in it."""
        size = prod(shape)
        held = self._held.get(name)
        if held is None or held.numel() < size:
            held = self._held[name] = torch.empty(size, device="cpu")
        return held[:size].view(shape)


class Layout:
    """Positions of the R tokens that are not padding among the M tokens of all buckets.

    Attributes:
        real: (R,) indices into M.
        place: (M,) indices into R of those; padding has none of its own.
        offsets: (N + 1,) the first of the R tokens of each of all N rows, then R.
        within: (R,) positions in their rows.

    Args:
        shapes: rows and length with padding of every bucket.
        lengths: of each bucket's rows without padding.
    """

    def __init__(self, shapes: Shapes, lengths: list[tuple[int, ...]]) -> None:
        real = [
            (torch.arange(t, device="cpu") < torch.tensor(of, device="cpu")[:, None]).flatten()
            for (_, t), of in zip(shapes, lengths, strict=True)
        ]
        kept = torch.cat(real)
        self.real, self.place = kept.nonzero().flatten(), kept.cumsum(0) - 1
        rows = [length for of in lengths for length in of]
        self.offsets = torch.tensor([0, *rows], device="cpu").cumsum(0)
        firsts = self.offsets[:-1].repeat_interleave(torch.tensor(rows, device="cpu"))
        self.within = torch.arange(len(self.real), device="cpu") - firsts

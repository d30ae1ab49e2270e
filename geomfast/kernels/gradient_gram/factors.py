"""What a per-sample gradient is made of."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Factors:
    """One use of a matrix-shaped parameter: sample i's gradient is `left[i].T @ right[i]`.

    A Linear of weight (out, in) has its output gradients left and its inputs right. An embedding
    of weight (rows, width) has one-hot rows left, given by their indices, and its output
    gradients right.

    Attributes:
        left: (N, T, rows) floating-point, or (N, T) indices of one-hot rows.
        right: (N, T, columns).
        rows: of the parameter.
    """

    left: Tensor
    right: Tensor
    rows: int

    @property
    def one_hot(self) -> bool:
        """Whether `left` holds indices."""
        return not self.left.is_floating_point()

    @property
    def length(self) -> int:
        """T."""
        return self.right.shape[1]

    def left_columns(self, first: int, last: int) -> Tensor:
        """(N, T, last - first): columns of the dense left factor."""
        if not self.one_hot:
            return self.left[..., first:last]
        wanted = torch.arange(first, last, device=self.left.device)
        return (self.left[..., None] == wanted).to(self.right.dtype)

    def samples(self, first: int, last: int) -> Factors:
        """The same for samples first to last - 1."""
        return Factors(self.left[first:last], self.right[first:last], self.rows)


def block(uses: list[Factors], first: int, last: int) -> Tensor:
    """(N, (last - first) * columns): rows first to last - 1 of every sample's gradient."""
    total = None
    for use in uses:
        part = use.left_columns(first, last).mT @ use.right
        total = part if total is None else total + part
    assert total is not None
    return total.flatten(1)


def stored(uses: list[Factors]) -> Tensor | None:
    """(N, entries): the gradients where the factors hold them as they are, None elsewhere.

    Entries that are zero for all samples are left out.
    """
    if all(use.rows == use.length == 1 and use.one_hot for use in uses):
        return sum((use.right[:, 0] for use in uses[1:]), uses[0].right[:, 0])
    use = uses[0]
    if len(uses) > 1 or not use.one_hot or use.left.stride(0) != 0:
        return None
    rows = use.left[0]  # the same for all samples: a table of positions
    return use.right.flatten(1) if len(rows.unique()) == len(rows) else None


def whole(gradients: Tensor) -> Factors:
    """Factors of gradients that are already there: (N, ...)."""
    flat = gradients.reshape(len(gradients), 1, -1)
    return Factors(torch.zeros(flat.shape[:2], dtype=torch.long, device=flat.device), flat, 1)


def split_rows(uses: list[Factors], row: int) -> list[list[Factors]] | None:
    """Factors of the rows before `row`, of it, and of those behind it; None of one-hot factors."""
    if any(use.one_hot for use in uses):
        return None
    bounds = (0, row, min(row + 1, uses[0].rows), uses[0].rows)
    return [
        [Factors(use.left[..., a:b], use.right, b - a) for use in uses] if b > a else []
        for a, b in itertools.pairwise(bounds)
    ]


def some_entries(uses: list[Factors], entries: Tensor) -> list[Factors]:
    """Factors of some entries of a parameter's gradients.

    Args:
        uses: of the parameter.
        entries: (k,) int64, ascending: their numbers, row by row. Where they are all places of some
            rows and some columns, no gradient of a sample is made.
    """
    width = uses[0].right.shape[-1]
    rows, columns = (entries // width).unique(), (entries % width).unique()
    every = all(len(rows) == use.rows for use in uses if use.one_hot)
    if len(rows) * len(columns) == len(entries) and every:
        return [
            Factors(
                use.left if use.one_hot else use.left[..., rows], use.right[..., columns], len(rows)
            )
            for use in uses
        ]
    return [whole(block(uses, 0, int(rows[-1]) + 1)[:, entries])]


def first_entries(uses: list[Factors], entries: int) -> list[Factors]:
    """Factors of the first entries, row by row, of a parameter's gradients."""
    rows = -(-entries // uses[0].right.shape[-1])
    return [whole(block(uses, 0, rows)[:, :entries])]

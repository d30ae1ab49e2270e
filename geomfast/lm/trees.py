"""Token sequences that begin alike as one row of a batch, each shared token once.

A prompt and its choices are a tree: the prompt's tokens one after the other, and behind them a
branch for every choice. A node sees itself and the nodes before it on its own branch, at the
position that it has there, so that one pass gives what each sequence alone would.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Padding of a batch, in tokens, above which another one costs less: each reads all weights again.
_PADDING = 32
# Tokens that go through the model at once, where they are of more rows than one.
_TOKENS = 2048


@dataclass(frozen=True)
class Tree:
    """Sequences that begin alike.

    Attributes:
        tokens: of every node, the first one's first; a node comes after the one before it on its
            branch.
        parents: index of that one; -1 for the first.
        scored: (node, token, number): the token is one that the node predicts, in the sequence of
            that number.
        shown: nodes whose states are asked for, ascending; all on one branch.
    """

    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    scored: tuple[tuple[int, int, int], ...]
    shown: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def gap(self) -> int:
        """Most nodes of other branches between a node and the one before it; 0 for one branch."""
        return max(i - 1 - parent for i, parent in enumerate(self.parents))


def grown(
    sequences: Iterable[tuple[int, tuple[int, ...], int]], shown: tuple[int, ...] = ()
) -> Tree:
    """The tree of some sequences.

    Args:
        sequences: number, tokens and index of the first token that is scored, 1 or more, of each;
            the last token of one, which predicts nothing in it, has no node for that.
        shown: a beginning of one of them, whose states are asked for.
    """
    nodes: dict[tuple[int, ...], int] = {(): -1}
    tokens: list[int] = []
    parents: list[int] = []

    def node(prefix: tuple[int, ...]) -> int:
        if prefix not in nodes:
            nodes[prefix] = len(tokens)
            tokens.append(prefix[-1])
            parents.append(nodes[prefix[:-1]])
        return nodes[prefix]

    path = tuple(node(shown[:end]) for end in range(1, len(shown) + 1))
    scored = []
    for number, one, start in sequences:
        for end in range(1, len(one)):
            at = node(one[:end])
            if end >= start:
                scored.append((at, one[end], number))
    return Tree(tuple(tokens), tuple(parents), tuple(scored), path)


def batches(trees: Sequence[Tree], rows: int) -> list[list[int]]:
    """Indices of trees that go through the model together, those of like sizes.

    Args:
        trees: in any order.
        rows: of a batch at most.
    """
    found: list[list[int]] = []
    padding = width = 0
    for i in sorted(range(len(trees)), key=lambda i: len(trees[i])):
        size = len(trees[i])
        batch = found[-1] if found else []
        padding += (size - width) * len(batch)
        full = len(batch) == rows or size * (len(batch) + 1) > _TOKENS
        if not batch or full or padding > _PADDING:
            found.append([i])
            padding = 0
        else:
            batch.append(i)
        width = size
    return found


def ancestors(trees: Sequence[Tree]) -> Tensor:
    """(N, T, T) whether a node (of the second dimension) sees another one (of the third).

    What is behind the end of a tree sees its first node and itself.
    """
    width = max(len(tree) for tree in trees)
    parents = torch.tensor(
        [[*tree.parents, *[0] * (width - len(tree))] for tree in trees], device="cpu"
    )
    seen = torch.zeros(len(trees), width, width, dtype=torch.bool, device="cpu")
    rows = torch.arange(len(trees), device="cpu")
    seen[:, 0, 0] = True
    for i in range(1, width):
        seen[:, i] = seen[rows, parents[:, i]]
        seen[:, i, i] = True
    return seen

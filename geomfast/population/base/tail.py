"""The tail of a base: its last blocks, norm and head, for many members as one program.

The tail is composed of the base's own modules, which are called with what the model calls them
with, so that any architecture works whose tail is that composition; :func:`checked` finds out by
comparing its logits with the model's. Of the last block all but keys and values is computed at
the places that predict answers alone: handed as a cache, the keys and values of all tokens are
seen by queries of the places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from geomfast.population.base.examples import Rows
from geomfast.population.base.trunk import Anatomy, at_tokens, call_of, first, logits_at, taken

#: Arguments of a block that take a cache of keys and values, in several architectures.
_CACHES = ("past_key_values", "past_key_value", "layer_past")
#: Largest difference of logits from the model's, of one and the largest logit.
TOLERANCE = 1e-4


class _Recorded(BaseException):
    """Keys and values are known; nothing else of this pass is wanted."""


class _Keys:
    """A cache of keys and values for one layer, which keeps the first and hands them out later."""

    def __init__(self) -> None:
        self._kept: tuple[Tensor, Tensor] | None = None

    def update(
        self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if self._kept is None:
            self._kept = keys, values
            raise _Recorded
        return self._kept

    def get_seq_length(self, *args: Any) -> int:
        return 0


@dataclass(frozen=True)
class Tail:
    """Where the tail begins and how it is run.

    Attributes:
        model: the base; ``anatomy`` its modules.
        start: index of the first block of the tail.
        names: of the parameters that members have of their own, as the model names them.
        answers_only: whether the last block is computed at the places alone.
    """

    model: nn.Module
    anatomy: Anatomy
    start: int
    names: tuple[str, ...]
    answers_only: bool = True

    @property
    def module(self) -> Composed:
        """The modules, as one."""
        return Composed(self.anatomy, self.start)

    def named(self, module: nn.Module) -> list[str]:
        """Names of the members' parameters in :attr:`module`."""
        own = {id(p): name for name, p in module.named_parameters()}
        return [own[id(self.model.get_parameter(name))] for name in self.names]


class Composed(nn.Module):
    """Blocks, what is between them and the head, and the head."""

    def __init__(self, anatomy: Anatomy, start: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(anatomy.blocks[start:])
        self.posts = nn.ModuleList(anatomy.posts)
        self.head = anatomy.head

    def forward(
        self, x: Tensor, at: Tensor, calls: Sequence[Mapping[str, Any]], answers_only: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Output of the last block, normed state and logits at the places.

        Args:
            x: (n, T, d) states that the first block is called with.
            at: (n, A) int64 places.
            calls: other arguments of every block, of one row of T tokens.
            answers_only: see :class:`Tail`.

        Returns:
            (n, A, d), (n, A, d) and (n, A, V).
        """
        *before, (last, call) = zip(self.blocks, calls, strict=True)
        for block, other in before:
            x = first(block(x, **other))
        x = _at_places(last, x, at, call) if answers_only else taken(first(last(x, **call)), at)
        state = x
        for post in self.posts:
            x = first(post(x))
        return state, x, self.head(x)


def _at_places(block: nn.Module, x: Tensor, at: Tensor, call: Mapping[str, Any]) -> Tensor:
    """(n, A, d) output of a block at places (n, A), which see all tokens before them."""
    cache = next(name for name in _CACHES if name in call)
    keys = _Keys()
    try:
        block(x, **{**call, cache: keys})
    except _Recorded:
        pass
    else:
        raise ValueError("the block has no cache of keys and values")
    own = {name: _of_places(name, value, at) for name, value in call.items()}
    mask = call.get("attention_mask")
    if mask is None:
        mask = torch.arange(x.shape[1], device=x.device) <= at[..., None]
    else:
        mask = mask[0, 0][at]
    own |= {cache: keys, "attention_mask": mask[:, None]}
    return first(block(taken(x, at), **own))


def _of_places(name: str, value: Any, at: Tensor) -> Any:
    """What a block is told of positions, of those of the places."""
    if name == "position_ids" and value is not None:
        return value[0][at]
    if name == "position_embeddings" and value is not None:
        return tuple(part[0][at] for part in value)
    return value


class Stacked:
    """The tail of many members, in one call.

    Args:
        tail: what it is.
    """

    def __init__(self, tail: Tail) -> None:
        self.tail = tail
        self._module = tail.module
        self._named = tail.named(self._module)
        self._calls: dict[int, list[dict[str, Any]]] = {}
        self._on = next(tail.model.parameters()).device

    def __call__(
        self, parameters: Sequence[Tensor], x: Tensor, at: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Output of the last block, normed state and logits of every member.

        Args:
            parameters: (C, ...) each, in the order of the tail's names.
            x: (C, n, T, d) states, or (n, T, d) that are those of all members.
            at: (C, n, A) or (n, A) int64 places, likewise.

        Returns:
            (C, n, A, d), (C, n, A, d) and (C, n, A, V).
        """
        calls = self._calls_of(x.shape[-2])
        own = 0 if x.dim() == 4 else None

        def one(values: tuple[Tensor, ...], x: Tensor, at: Tensor) -> Any:
            given = (x, at, calls, self.tail.answers_only)
            return functional_call(self._module, dict(zip(self._named, values, strict=True)), given)

        with sdpa_kernel(SDPBackend.MATH):  # under vmap the fused kernels loop over members
            return vmap(one, in_dims=(0, own, own))(tuple(parameters), x, at)

    def _calls_of(self, width: int) -> list[dict[str, Any]]:
        """Arguments of every block of the tail, of a row of some tokens."""
        if width not in self._calls:
            ids = torch.zeros(1, width, dtype=torch.int64, device=self._on)
            blocks = self.tail.anatomy.blocks[self.tail.start :]
            self._calls[width] = [call_of(self.tail.model, block, ids)[1] for block in blocks]
        return self._calls[width]


def checked(tail: Tail, rows: Rows) -> tuple[Tail | None, str]:
    """The tail in the way that gives the model's logits, with gradients, for two members at once.

    Args:
        tail: as it would be best.
        rows: some to compare on, the longest among them.

    Returns:
        The tail, computed at places alone or not; or None and why it cannot be stacked.
    """
    reason = ""
    for each in (tail, replace(tail, answers_only=False)):
        try:
            reason = _difference(each, rows)
        except Exception as error:  # of modules that are not made for it there are many kinds
            said = str(error).strip().splitlines() or [""]
            reason = f"{type(error).__name__}: {said[0]:.150}"
        if not reason:
            return each, ""
    return None, reason


def _difference(tail: Tail, rows: Rows) -> str:
    """What differs between the model and its tail on some rows; empty where nothing does."""
    model, on = tail.model, next(tail.model.parameters()).device
    every = torch.arange(len(rows), device="cpu")
    ids, at = rows.ids(every).to(on), rows.at.to(on)
    with torch.no_grad():
        expected = logits_at(model, tail.anatomy, ids, at)
    states = at_tokens(model, tail.anatomy.blocks[tail.start], rows)
    x = states.gathered(every.to(on), rows.lengths.to(on))
    two = [
        torch.stack([model.get_parameter(name).detach()] * 2).requires_grad_()
        for name in tail.names
    ]
    found = Stacked(tail)(two, x, at)
    torch.autograd.grad(found[2].square().sum(), two)
    for what, one, other in zip(("states", "states", "logits"), expected, found, strict=True):
        largest = float((one - other).detach().abs().max())
        if not largest <= TOLERANCE * (1.0 + float(one.abs().max())):
            return f"its {what} would be {largest:.2g} from the model's"
    return ""


def sample_rows(rows: Rows, count: int = 4) -> Rows:
    """A few rows to compare on: the longest and some others."""
    order = rows.lengths.argsort(descending=True, stable=True)
    some = torch.cat([order[:1], order[1:][:: max(1, len(order) // count)][: count - 1]])
    tokens = tuple(rows.tokens[i] for i in some.tolist())
    return Rows(tokens, rows.lengths[some], rows.at[some], rows.padding)

"""The frozen trunk of a base: run once, and what it hands to the parts that are trained.

Everything is found by hooks, for any architecture: what the first trained block is called with,
what the head reads, and which modules stand between the last block and the head.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from geomfast.estimators.stopping import check_stop
from geomfast.measures.memory import halving
from geomfast.population.base.examples import Rows
from geomfast.population.base.reinit import Parts, head_of

#: Tokens that go through the trunk at once.
_TOKENS = 1 << 13
Result = TypeVar("Result")


class _Reached(BaseException):
    """A forward pass came to where it was to end; not an error, for nothing to handle."""


@dataclass(frozen=True)
class Anatomy:
    """The modules of a causal language model, in the order they run.

    Attributes:
        blocks: the model's blocks.
        posts: between the last block and the head: the final norm, usually.
        head: makes logits.
    """

    blocks: tuple[nn.Module, ...]
    posts: tuple[nn.Module, ...]
    head: nn.Module


@dataclass(frozen=True)
class AtPlaces:
    """States at the places of R rows.

    Attributes:
        block: (R, A, d) output of the last block.
        final: (R, A, d) normed state that the head reads.
    """

    block: Tensor
    final: Tensor


@dataclass(frozen=True)
class AtTokens:
    """States at all tokens of R rows, one row after the other.

    Attributes:
        states: (tokens, d) input of a block.
        offsets: (R,) int64, where each row begins.
    """

    states: Tensor
    offsets: Tensor

    def gathered(self, rows: Tensor, lengths: Tensor) -> Tensor:
        """(..., T, d) states of rows (...), filled up with the row's last state to the longest.

        Args:
            rows: (...) int64.
            lengths: (R,) of all rows.
        """
        own = lengths[rows]
        at = torch.arange(int(own.max()), device=rows.device)
        at = torch.minimum(at, own[..., None] - 1) + self.offsets[rows][..., None]
        return self.states[at]


def anatomy(model: nn.Module, parts: Parts) -> Anatomy:
    """Blocks, head, and the modules between, as a pass over two tokens shows them."""
    blocks = [model.get_submodule(name) for name in parts.blocks]
    head = head_of(model)
    inside = {id(inner) for block in blocks for inner in block.modules()}
    entered: list[nn.Module] = []
    after: list[nn.Module] = []
    state = {"after": False}

    def before(module: nn.Module, given: Any) -> None:
        # Of modules within one another the outermost.
        if state["after"] and module is not head and not entered:
            after.append(module)
        entered.append(module)

    def behind(module: nn.Module, given: Any, out: Any) -> None:
        if entered and entered[-1] is module:
            entered.pop()

    def begin(module: nn.Module, given: Any, out: Any) -> None:
        state["after"] = True
        entered.clear()

    def stop(module: nn.Module, given: Any) -> None:
        raise _Reached

    with ExitStack() as hooks:
        for module in model.modules():
            if id(module) not in inside and module is not head:
                hooks.callback(module.register_forward_pre_hook(before).remove)
                hooks.callback(module.register_forward_hook(behind).remove)
        hooks.callback(blocks[-1].register_forward_hook(begin).remove)
        hooks.callback(head.register_forward_pre_hook(stop).remove)
        _run(model, torch.zeros(1, 2, dtype=torch.int64, device="cpu"))
    return Anatomy(tuple(blocks), tuple(after), head)


@contextmanager
def reading(found: Anatomy, at: Tensor, seen: dict[str, Tensor]) -> Iterator[None]:
    """Within the context, the model makes logits at some places only.

    Args:
        found: of the model.
        at: (n, A) int64 places of the rows that it is run on, on its device.
        seen: receives ``block`` and ``final``, (n, A, d) each, as of :class:`AtPlaces`.
    """

    def after(module: nn.Module, given: Any, out: Any) -> None:
        seen["block"] = taken(first(out), at)

    def before(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        seen["final"] = taken(given[0], at)
        return (seen["final"], *given[1:])

    with ExitStack() as hooks:
        hooks.callback(found.blocks[-1].register_forward_hook(after).remove)
        hooks.callback(found.head.register_forward_pre_hook(before).remove)
        yield


def logits_at(model: nn.Module, found: Anatomy, ids: Tensor, at: Tensor) -> tuple[Tensor, ...]:
    """Output of the last block, normed state and logits of rows at their places, differentiable.

    Args:
        model: whole; ids and places are on its device.
        found: its anatomy.
        ids: (n, T) int64, padded on the right.
        at: (n, A) int64.

    Returns:
        (n, A, d), (n, A, d) and (n, A, V).
    """
    seen: dict[str, Tensor] = {}
    with reading(found, at, seen):
        logits: Tensor = model(input_ids=ids).logits
    return seen["block"], seen["final"], logits


def call_of(model: nn.Module, block: nn.Module, ids: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """What a block is called with: (n, T, d) states, and its other arguments by name."""
    caught: list[tuple[Tensor, dict[str, Any]]] = []
    names = inspect.signature(block.forward).parameters.values()

    def before(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        plain = [p.name for p in names if p.kind is p.POSITIONAL_OR_KEYWORD]
        told = dict(zip(plain, given, strict=False)) | named
        caught.append((told.pop(plain[0]), told))
        raise _Reached

    handle = block.register_forward_pre_hook(before, with_kwargs=True)
    try:
        _run(model, ids)
    finally:
        handle.remove()
    return caught[0]


@torch.no_grad()
def at_places(model: nn.Module, found: Anatomy, rows: Rows) -> AtPlaces:
    """States of all rows at their places, on the model's device."""
    on = next(model.parameters()).device
    width = found.head.get_parameter("weight").shape[-1]
    block = torch.zeros(*rows.at.shape, width, device=on)
    final = torch.zeros_like(block)

    def take(some: Tensor) -> None:
        at = rows.at[some].to(on)
        seen: dict[str, Tensor] = {}

        def stop(module: nn.Module, given: Any) -> None:
            raise _Reached  # before the head, whose logits nobody reads

        with reading(found, at, seen):
            handle = found.head.register_forward_pre_hook(stop)
            try:
                _run(model, rows.ids(some).to(on))
            finally:
                handle.remove()
        here = some.to(on)
        block[here], final[here] = seen["block"].float(), seen["final"].float()

    _in_parts(rows, take)
    return AtPlaces(block, final)


@torch.no_grad()
def at_tokens(model: nn.Module, block: nn.Module, rows: Rows) -> AtTokens:
    """States of all rows at all tokens, as a block is called with them, on the model's device."""
    on = next(model.parameters()).device
    offsets = rows.lengths.cumsum(0) - rows.lengths
    made: list[Tensor] = []

    def take(some: Tensor) -> None:
        states, _ = call_of(model, block, rows.ids(some).to(on))
        if not made:
            made.append(torch.zeros(int(rows.lengths.sum()), states.shape[-1], device=on))
        real = torch.arange(states.shape[1], device="cpu") < rows.lengths[some][:, None]
        places = (torch.arange(states.shape[1], device="cpu") + offsets[some][:, None])[real]
        made[0][places.to(on)] = states[real.to(on)].float()

    _in_parts(rows, take)
    return AtTokens(made[0], offsets.to(on))


def _in_parts(rows: Rows, take: Callable[[Tensor], None]) -> None:
    """All rows, those of like lengths together, as many at once as memory allows."""
    order = rows.lengths.argsort(stable=True)

    def attempt(tokens: int) -> None:
        first_row = 0
        while first_row < len(order):
            check_stop()
            last = first_row + max(1, tokens // int(rows.lengths[order[first_row]]))
            # The longest of them decides how much the others are filled up.
            longest = int(rows.lengths[order[min(last, len(order)) - 1]])
            last = first_row + max(1, tokens // longest)
            take(order[first_row:last])
            first_row = last

    halving(attempt, _TOKENS, "running the trunk")


def taken(x: Tensor, at: Tensor) -> Tensor:
    """(n, T, d) at (n, A) -> (n, A, d)."""
    return x.gather(1, at[..., None].expand(-1, -1, x.shape[-1]))


def first(out: Any) -> Tensor:
    """The states among what a block returns."""
    return out[0] if isinstance(out, (tuple, list)) else out


def _run(model: nn.Module, ids: Tensor) -> None:
    """A pass without gradients, which may end before its end."""
    on = next(model.parameters()).device
    with torch.no_grad(), suppress(_Reached):
        model(input_ids=ids.to(on))

"""A user's model while it is measured: called as often as needed, left as it was.

What a forward pass changes beside its result (running statistics, vectors of a power iteration,
kept activations, random number generators) is undone, and every call starts from the same state.
"""

from __future__ import annotations

import contextlib
import copy
import random
import sys
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

#: What every module has, and a forward pass that is watched; everything else in its dictionary
#: was put there by the user.
_OWN = (frozenset(nn.Module().__dict__) | {"forward"}) - {"training"}
_CONTAINERS = (list, dict, set, deque)


def uncompiled(model: nn.Module) -> nn.Module:
    """The module inside of what `torch.compile` returned, whose parameters have plain names."""
    while isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
        model = inner
    return model


@contextlib.contextmanager
def left_alone(model: nn.Module) -> Iterator[State]:
    """Inside, the model may be called; afterwards it is as it was, whatever its calls changed.

    Gradients are on, automatic casts and inference mode off, attention is not fused and nothing is
    compiled, whatever holds outside; random numbers are drawn as if none had been drawn inside.

    Args:
        model: not compiled (`uncompiled`).

    Yields:
        The state that calls start from.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with plain_computation(device) as draws:
        state = State(model, draws)
        try:
            yield state
        finally:
            state.restore()


@contextlib.contextmanager
def plain_computation(device: torch.device) -> Iterator[Draws]:
    """What `left_alone` does beside the model's own state: modes of torch, and random numbers.

    Args:
        device: whose generator is put back, beside those of the CPU.

    Yields:
        Where the generators were.
    """
    on_gpu = device.type == "cuda"
    draws = _draws()
    fast = torch.backends.mha.get_fastpath_enabled()
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng([device] if on_gpu else []))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
            stack.enter_context(torch.autocast(kind, enabled=False))
        if "torch._dynamo" in sys.modules:  # without it nothing has been compiled
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        # Nested tensors, which the fused encoder layers make of masks, have other shapes.
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            yield draws
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
            random.setstate(draws.python)
            np.random.set_state(draws.numpy)


@contextlib.contextmanager
def projected(model: nn.Module) -> Iterator[None]:
    """Inside, tables with a max_norm hold the rows that their forward pass would make of them.

    Those passes write into the table, which has gradients of its own to keep.
    """
    saved = project(model)
    try:
        yield
    finally:
        with torch.no_grad():
            for module, most, table, before in saved:
                module.max_norm = most
                table.copy_(before)


def project(model: nn.Module) -> list[tuple[Any, Any, nn.Parameter, Tensor]]:
    """Cuts the rows of tables with a max_norm to it, once, and takes the max_norm off.

    Returns:
        The tables' modules, what their max_norm was, the tables, and what these held.
    """
    saved = []
    for module in model.modules():
        # Not by attribute: a parametrized weight is computed, which may move its buffers.
        most, table = module.__dict__.get("max_norm"), module._parameters.get("weight")
        if most is not None and table is not None:
            saved.append((module, most, table, table.detach().clone()))
    with torch.no_grad():
        for module, most, table, _ in saved:
            rows = torch.arange(len(table), device=table.device)
            torch.embedding_renorm_(table, rows, most, module.norm_type)
            module.max_norm = None
    return saved


class State:
    """All that a module keeps beside its parameters, as it was when this was made.

    Args:
        model: whose.
        draws: where the global generators were; None for where they are.

    Buffers and plain tensors are replaced by copies, so that what a forward pass does to them in
    place is done to the copies. The copies of a call stay with the graph of that call: a later one
    gets new ones.

    Attributes:
        moved: names of what calls have changed so far.
    """

    def __init__(self, model: nn.Module, draws: Draws | None = None):
        self.moved: set[str] = set()
        self._modules = list(model.named_modules())
        self._buffers = [dict(module._buffers) for _, module in self._modules]
        self._attributes = [_attributes(module) for _, module in self._modules]
        self._contents = [
            {key: copy.copy(x) for key, x in own.items() if isinstance(x, _CONTAINERS)}
            for own in self._attributes
        ]
        self._versions: list[dict[str, tuple[Tensor, int]]] = []
        self._draws = draws or _draws()
        self.begin()

    def begin(self) -> None:
        """Puts the model in the state that a call starts from."""
        self._put_back()
        self._versions = []
        copies: dict[int, Tensor] = {}  # what two modules share they go on to share
        for (_, module), buffers, own in zip(
            self._modules, self._buffers, self._attributes, strict=True
        ):
            fresh = {
                name: copies[id(x)] if id(x) in copies else _copied(x, copies)
                for name, x in (*buffers.items(), *own.items())
                if isinstance(x, Tensor) and not x.requires_grad
            }
            for name, x in fresh.items():
                if name in buffers:
                    module._buffers[name] = x
                else:
                    module.__dict__[name] = x
            self._versions.append({name: (x, x._version) for name, x in fresh.items()})

    def note(self) -> None:
        """Sees what a call has changed."""
        for i, (path, module) in enumerate(self._modules):
            now = _attributes(module) | module._buffers
            before = self._attributes[i] | self._buffers[i]
            started = self._versions[i]
            for name in now.keys() | before.keys():
                x = now.get(name)
                if name in started:
                    copy_made, version = started[name]
                    same = x is copy_made and copy_made._version == version
                else:
                    same = x is before.get(name) and not _differs(x, self._contents[i].get(name))
                if not same:
                    self.moved.add(f"{path}.{name}" if path else name)

    def drew(self) -> bool:
        """Whether random numbers have been drawn from a global generator since this was made."""
        return not self._draws.same(_draws())

    def restore(self) -> None:
        """Puts everything back."""
        self._put_back()

    def _put_back(self) -> None:
        for (_, module), buffers, own, contents in zip(
            self._modules, self._buffers, self._attributes, self._contents, strict=True
        ):
            if module._buffers.keys() != buffers.keys():
                module._buffers.clear()
            module._buffers.update(buffers)
            for name in _attributes(module).keys() - own.keys():
                del module.__dict__[name]
            module.__dict__.update(own)
            for name, content in contents.items():
                if _differs(own[name], content):
                    _refill(own[name], content)


def _copied(x: Tensor, copies: dict[int, Tensor]) -> Tensor:
    copies[id(x)] = x.detach().clone()
    return copies[id(x)]


def _attributes(module: nn.Module) -> dict[str, Any]:
    return {name: x for name, x in module.__dict__.items() if name not in _OWN}


def _differs(container: Any, content: Any) -> bool:
    """Whether a container holds other objects than its copy does."""
    if content is None or type(container) is not type(content):
        return False
    if len(container) != len(content):
        return True
    if isinstance(container, dict):
        return any(
            key not in content or value is not content[key] for key, value in container.items()
        )
    if isinstance(container, set):
        return container != content
    return any(a is not b for a, b in zip(container, content, strict=True))


def _refill(container: Any, content: Any) -> None:
    container.clear()
    if isinstance(container, (dict, OrderedDict, set)):
        container.update(content)
    else:
        container.extend(content)


@dataclass(frozen=True)
class Draws:
    """Where the global generators of random numbers are."""

    torch: Tensor
    gpu: tuple[Tensor, ...]
    python: tuple[Any, ...]
    numpy: tuple[Any, ...]

    def same(self, other: Draws) -> bool:
        return (
            torch.equal(self.torch, other.torch)
            and len(self.gpu) == len(other.gpu)
            and all(torch.equal(a, b) for a, b in zip(self.gpu, other.gpu, strict=True))
            and self.python == other.python
            and np.array_equal(self.numpy[1], other.numpy[1])
            and self.numpy[2:] == other.numpy[2:]
        )


def _draws() -> Draws:
    numpy = np.random.get_state()
    assert isinstance(numpy, tuple)
    gpu = ()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        gpu = tuple(torch.cuda.get_rng_state_all())
    return Draws(torch.get_rng_state(), gpu, random.getstate(), numpy)

"""A model in evaluation mode and back again, through what its own modules do on the way.

Modules may do work in `train` and `eval`: adapters fold their weights into others for evaluation,
some keep a cache, some hold a part of theirs in evaluation mode. Both ways are taken through the
modules' own methods; afterwards parameters, buffers, attributes, modes and what is trainable are
what they were, to the bit, which folding and unfolding by itself are not, as they round.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from geomfast.estimators.guard import State

#: Where a `train` and an `eval` are from that leave parameters alone.
_NO_WRITER = "transformers.modeling_utils"


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within the context, every module is in evaluation mode; modes are restored after it.

    Raises:
        RuntimeError: a module's own `train` or `eval` failed, or something could not be put back;
            the message names the module.
    """
    kept = Kept(model)
    try:
        enter(model)
        yield
    finally:
        kept.put_back()


def enter(model: nn.Module) -> None:
    """Evaluation mode through the model's own `eval`; nothing happens where it is in it already.

    Raises:
        RuntimeError: that failed.
    """
    if not any(module.training for module in model.modules()):
        return
    try:
        model.eval()
    except Exception as error:
        raise _failed(model, "eval()", error) from error
    for module in model.modules():  # a module's `train` need not reach all of its children
        module.training = False


def bring(model: nn.Module, modes: list[bool]) -> None:
    """Every module to a mode, through its own `train`, those outside before those inside.

    Args:
        model: in whatever modes.
        modes: of `model.modules()`, in that order.

    Raises:
        RuntimeError: a module's `train` failed; the message names it.
    """
    for module, mode in zip(model.modules(), modes, strict=True):
        if module.training != mode:
            try:
                module.train(mode)
            except Exception as error:
                raise _failed(model, f"train({mode})", error) from error
    # Not every module takes on the mode that it is told, or leaves that of its children alone.
    for module, mode in zip(model.modules(), modes, strict=True):
        module.training = mode


def at_work(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Modules, with their names, whose own `train` or `eval` may write to parameters."""
    return [
        (name, module)
        for name, module in model.named_modules()
        if _its_own(type(module).train, nn.Module.train)
        or _its_own(type(module).eval, nn.Module.eval)
        or not {"train", "eval"}.isdisjoint(module.__dict__)
    ]


def _its_own(method: Any, usual: Any) -> bool:
    # That of every model of transformers chooses kernels; a copy of a large model is not for that.
    return method is not usual and getattr(method, "__module__", "") != _NO_WRITER


@contextmanager
def unfolded(model: nn.Module, losses: Callable[[], Tensor]) -> Iterator[None]:
    """Inside, no parameter is folded into another one, and the model still in evaluation mode.

    The gradient of what `eval` has folded away would be missing, or zero. So modules whose `eval`
    changes parameters are brought back through their own `train`, and then only said to be in
    evaluation mode.

    Args:
        model: in evaluation mode.
        losses: of some samples, at the model's present state.

    Raises:
        ValueError: the losses are others then.
        RuntimeError: as :func:`evaluating`.
    """
    doers = at_work(model)
    if not doers:
        yield
        return
    kept = Kept(model)
    try:
        with torch.no_grad():
            folded = losses()
        bring(model, [True] * len(kept.modes))
        changed = kept.changed()
        if changed:
            for module in model.modules():
                module.training = False
            with torch.no_grad():
                _require_same(folded, losses(), changed, doers)
        else:
            kept.put_back()
        yield
    finally:
        kept.put_back()


def _require_same(
    folded: Tensor, now: Tensor, changed: str, doers: list[tuple[str, nn.Module]]
) -> None:
    coarse = folded.dtype in (torch.bfloat16, torch.float16)
    if torch.allclose(folded, now, rtol=3e-2 if coarse else 1e-3, atol=1e-5, equal_nan=True):
        return
    owner = next((d for d in reversed(doers) if changed.startswith(f"{d[0]}.")), doers[0])
    raise ValueError(
        f"eval() of {owner[0] or 'the model'} ({type(owner[1]).__name__}) changes parameter "
        f"{changed}, and without that the losses are others, so that no gradient can be taken of "
        "what it folds away: measure the model with these parameters merged for good, or rankme "
        "and the loss alone"
    )


def _failed(model: nn.Module, call: str, error: Exception) -> RuntimeError:
    """Names the innermost of the model's modules that the call had come to."""
    names = {id(module): name for name, module in model.named_modules()}
    at = model
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if id(frame.f_locals.get("self")) in names:
            at = frame.f_locals["self"]
    where = f"{names[id(at)] or 'the model'} ({type(at).__name__})"
    said = f"{where}: its own {call} raised {type(error).__name__}: {error}"
    return RuntimeError(said)


@dataclass
class _Parameter:
    """One parameter as it was: the object, its memory, its values where they may be changed."""

    tensor: nn.Parameter
    memory: Tensor
    values: Tensor | None
    grad: Tensor | None
    trainable: bool


class Kept:
    """All of a model that measuring it might change, and that can be put back.

    Values of parameters are copied only where something is known to write to them: modules that
    work in `train` or `eval`, and embeddings that renormalize their rows (`max_norm`).

    Attributes:
        modes: of `model.modules()`, in that order.
    """

    def __init__(self, model: nn.Module):
        self._model = model
        self._modules = list(model.named_modules())
        self.modes = [module.training for _, module in self._modules]
        self._state = State(model)
        self._tables = [
            (dict(module._parameters), dict(module._modules)) for _, module in self._modules
        ]
        writers = [module for _, module in at_work(model)]
        writers += [m for m in model.modules() if getattr(m, "max_norm", None) is not None]
        written = {id(p) for module in writers for p in module.parameters()}
        self._parameters = {
            name: _Parameter(
                parameter,
                parameter.data,
                parameter.data.clone() if id(parameter) in written else None,
                parameter.grad,
                parameter.requires_grad,
            )
            for name, parameter in model.named_parameters()
        }

    def changed(self) -> str | None:
        """The first of the parameters with copied values that has others now."""
        for name, was in self._parameters.items():
            now = was.tensor.data
            if was.values is not None and not (
                now.shape == was.values.shape and torch.equal(now, was.values)
            ):
                return name
        return None

    def put_back(self) -> None:
        """Modes through the modules' own `train`, and then whatever is not as it was.

        Raises:
            RuntimeError: a module's `train` failed, or something could not be put back.
        """
        failed: Exception | None = None
        for (_, module), (_, children) in zip(self._modules, self._tables, strict=True):
            _refill(module._modules, children)
        try:
            bring(self._model, self.modes)
        except RuntimeError as error:
            failed = error
        for (_, module), (parameters, children) in zip(self._modules, self._tables, strict=True):
            _refill(module._parameters, parameters)
            _refill(module._modules, children)
        self._state.restore()
        for was in self._parameters.values():
            parameter = was.tensor
            if parameter.data_ptr() != was.memory.data_ptr() or parameter.shape != was.memory.shape:
                parameter.data = was.memory
            if was.values is not None:
                # Not through the parameter: a graph that has saved it would be spoilt.
                parameter.data.copy_(was.values)
            parameter.requires_grad_(was.trainable)
            if parameter.grad is not was.grad:
                parameter.grad = was.grad
        for (_, module), mode in zip(self._modules, self.modes, strict=True):
            module.training = mode
        if failed is not None:
            raise failed
        self._require_same()

    def _require_same(self) -> None:
        """Raises RuntimeError for what could not be put back."""
        for (name, module), mode in zip(self._modules, self.modes, strict=True):
            if module.training != mode:
                where = f"{name or 'the model'} ({type(module).__name__})"
                raise RuntimeError(f"{where} is not in its mode again: training = {not mode}")
        for name, was in self._parameters.items():
            now = was.tensor
            if now.requires_grad != was.trainable:
                raise RuntimeError(f"parameter {name} has another requires_grad than before")
            if was.values is not None and not torch.equal(_bits(now.detach()), _bits(was.values)):
                raise RuntimeError(f"parameter {name} has other values than before")


def _bits(x: Tensor) -> Tensor:
    """Equal where every bit is, NaN and negative zero among them."""
    return x.contiguous().flatten().view(torch.uint8)


def _refill(table: dict, content: dict) -> None:
    if table.keys() != content.keys() or any(table[name] is not content[name] for name in content):
        table.clear()
        table.update(content)

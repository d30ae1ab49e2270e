"""Calls of a user's losses: always from the same state, and the same to the bit each time."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from geomfast.estimators.batches import Batches, mapped, some_of, usable
from geomfast.estimators.checks import (
    FEW,
    DropoutIsOn,
    LossFunction,
    refuse_dropout,
    require_independent,
)
from geomfast.estimators.copies import copied
from geomfast.estimators.guard import State, left_alone, projected, uncompiled

# Evaluations after which losses that draw random numbers are believed not to depend on them.
_TRIES = 8


class Losses:
    """A loss function whose every call starts from the same state of the model.

    Args:
        loss_fn: `loss_fn(model, batch) -> (N,)`.
        state: of the model, made by `geomfast.estimators.guard.left_alone`.
        widened: whether the model is a float32 copy of one of fewer bits.
    """

    def __init__(self, loss_fn: LossFunction, state: State, widened: bool = False):
        self.loss_fn, self.state, self.widened = loss_fn, state, widened
        self._calls = 0
        self._plain = Plain()

    @property
    def drew(self) -> bool:
        """Whether calls have drawn random numbers, as far as that can be seen from outside."""
        return self._plain.generators or self.state.drew()

    def beside(
        self, loss_fn: LossFunction | None, batches: Iterable[Any]
    ) -> tuple[Losses, Batches]:
        """Other losses of the same model, and other data, prepared as these are.

        Args:
            loss_fn: None for the same as here.
            batches: of the data.
        """
        found = Batches(usable(batch) for batch in batches)
        if self.widened:
            found = Batches(mapped(_widened, batch) for batch in found)
        return Losses(loss_fn or self.loss_fn, self.state, self.widened), found

    def __call__(self, model: nn.Module, batch: Any) -> Any:
        if self.state.moved:
            self.state.begin()
        try:
            with self._plain:
                found = self.loss_fn(model, batch)
        except DropoutIsOn as error:
            raise ValueError(
                f"{error} in {_running(error, model)}: call model.eval() first"
            ) from None
        self._calls += 1
        if self._calls <= 2:  # a second call shows what the first only prepared
            self.state.note()
        return found


class Plain(TorchFunctionMode):
    """Computes what has a dense gradient and a right second derivative; refuses dropout.

    torch's fused weight normalisation has a wrong second derivative (its double backward is not
    even symmetric), and sparse gradients have none.

    Attributes:
        generators: whether something was drawn from a generator of the model's own.
    """

    def __init__(self) -> None:
        super().__init__()
        self.generators = False

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        refuse_dropout(func, args, kwargs)
        if kwargs.get("generator") is not None:
            self.generators = True
        if func in _WEIGHT_NORMS:
            return _weight_norm(func, *args, **kwargs)
        if func is F.embedding or func is F.embedding_bag:
            args, kwargs = _dense(func, args, kwargs)
        return func(*args, **kwargs)


# What torch's modules call; no public function does the same.
_FUSED: Any = torch._weight_norm_interface  # pyright: ignore[reportPrivateImportUsage]
_WEIGHT_NORMS = {torch._weight_norm, _FUSED}  # pyright: ignore[reportPrivateImportUsage]
#: Where F.embedding and F.embedding_bag take `sparse`.
_SPARSE_AT = {F.embedding: 6, F.embedding_bag: 7}


def _weight_norm(func: Any, v: Tensor, g: Tensor, dim: int = 0) -> Any:
    """g v / |v|, |v| over all dimensions but `dim`; over all for -1."""
    others = [d for d in range(v.dim()) if dim == -1 or d != dim % v.dim()]
    norm = torch.linalg.vector_norm(v, dim=others, keepdim=dim != -1) if others else v.abs()
    weight = v * (g / norm)
    return (weight, norm) if func is _FUSED else weight


def _dense(func: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    at = _SPARSE_AT[func]
    if len(args) > at:
        args = (*args[:at], False, *args[at + 1 :])
    elif kwargs.get("sparse"):
        kwargs = kwargs | {"sparse": False}
    return args, kwargs


def _running(error: BaseException, model: nn.Module) -> str:
    """The innermost module whose forward pass raised."""
    names = {id(module): name for name, module in model.named_modules()}
    found = "the loss function"
    trace = error.__traceback__
    while trace is not None:
        module = trace.tb_frame.f_locals.get("self")
        if isinstance(module, nn.Module) and id(module) in names:
            found = _named(names[id(module)], module)
        trace = trace.tb_next
    return found


def _named(name: str, module: nn.Module) -> str:
    return f"{name or 'the model'} ({type(module).__name__})"


@contextlib.contextmanager
def measurable(
    model: nn.Module, loss_fn: LossFunction, batches: Iterable[Any], *, widen: bool = False
) -> Iterator[tuple[nn.Module, Losses, Batches]]:
    """What a measure is computed of: a model that is left as it was, and calls of its losses.

    Args:
        model, loss_fn: as users give them.
        batches: of the data.
        widen: compute a model of 16-bit parameters, and its data, in float32.
    """
    model = uncompiled(model)
    with projected(model), left_alone(model) as state:
        found = Batches(usable(batch) for batch in batches)
        if not widen or not any(
            p.is_floating_point() and p.itemsize < 4 for p in model.parameters()
        ):
            yield model, Losses(loss_fn, state), found
            return
        wide = copied(model).float()
        with left_alone(wide) as state:
            yield (
                wide,
                Losses(loss_fn, state, True),
                Batches(mapped(_widened, batch) for batch in found),
            )


def _widened(x: Tensor) -> Tensor:
    return x.float() if x.is_floating_point() and x.itemsize < 4 else x


def require_repeatable(losses: Losses, model: nn.Module, batch: Any) -> None:
    """Raises ValueError where two evaluations of the same losses differ.

    In a bit, on a CPU; on a GPU sums may be taken in another order each time.
    """
    with torch.no_grad():
        first = losses(model, batch)
        for _ in range(_TRIES if losses.drew else 1):
            if _differ(first, losses(model, batch), losses.drew):
                where = _random_module(lambda: losses(model, batch), model)
                raise ValueError(
                    f"the losses are random: two evaluations of the same batch differ in {where}; "
                    "call model.eval() first, or turn its randomness off"
                )


def require_sound(losses: Losses, model: nn.Module, batch: Any, together: Tensor) -> None:
    """Raises ValueError where the losses are random, or depend on the other samples of the batch.

    Args:
        losses, model, batch: as everywhere.
        together: (N,) losses of the batch.
    """
    _, few = some_of(batch, FEW)
    require_repeatable(losses, model, batch if losses.drew else few)
    require_independent(losses, model, batch, together)


def _differ(a: Any, b: Any, drew: bool) -> bool:
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)) or a.shape != b.shape:
        return False  # said elsewhere
    if a.is_cuda and not drew and a.is_floating_point():
        rtol = 1e3 * torch.finfo(a.dtype).eps
        return not torch.allclose(a, b, rtol=rtol, atol=0.0, equal_nan=True)
    return not bool(((a == b) | (a.isnan() & b.isnan())).all())


def _random_module(call: Callable[[], object], model: nn.Module) -> str:
    """The innermost module that made something else of the same input, in the order of calls."""
    for _ in range(_TRIES):
        one, two = _traced(call, model), _traced(call, model)
        for (name, inputs, outputs), (other, inputs_too, outputs_too) in zip(
            one, two, strict=False
        ):
            if name == other and inputs == inputs_too and outputs != outputs_too:
                return name
    return "the loss function"


def _traced(call: Callable[[], object], model: nn.Module) -> list[tuple[str, str, str]]:
    """Every module's name and digests of what went in and came out, as calls ended."""
    found: list[tuple[str, str, str]] = []

    def noted(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
            found.append((_named(name, module), _digest((args, kwargs)), _digest(out)))

        return hook

    hooks = [
        module.register_forward_hook(noted(name), with_kwargs=True)
        for name, module in model.named_modules()
    ]
    try:
        call()
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _digest(values: Any) -> str:
    digest = hashlib.sha256()
    for x in tree_leaves(values):
        if isinstance(x, Tensor) and not is_functorch_wrapped_tensor(x):
            plain = x.detach().cpu().contiguous().reshape(-1)
            digest.update(plain.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()

"""Which of torch's functions are replaced while a graph for many products is built."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode

from geomfast.estimators.curvature.twice.calls import CALLING, CALLS, body
from geomfast.estimators.curvature.twice.chains import CHAINED, Chains


class CheapSecondDerivatives(TorchFunctionMode):
    """Inside, functions of float32 and float64 tensors are made of pairs (`twice.pairs`).

    Values, gradients and second derivatives are those of torch; products with the Hessian take
    fewer passes over memory. Third derivatives raise. Whatever is not a plain call of a plain
    tensor is left to torch.

    Attributes:
        chains: what is known of the tensors made so far.
        followed: whether the code inside looked at its own graph, by torch.autograd.grad or hooks
            of tensors, which the graph made here may not bear: it may lack a tensor that torch's
            has, and cannot be differentiated a third time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.chains = Chains()
        self.followed = False
        self._hooks = _saving_hooks()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in _FOLLOWING:
            self.followed = True
        if func in CALLING:
            with self:
                return body(func)(*args, **kwargs)
        call = CALLS.get(func)
        chained = func in CHAINED
        if (call is None and not chained) or not self._applies():
            return func(*args, **kwargs)
        found = None
        if call is not None and (bound := _bound(call, args, kwargs)) is not None:
            found = call(*bound.args, **bound.kwargs)
        elif chained:
            found = self.chains.call(func, args, kwargs)
        return func(*args, **kwargs) if found is None else found

    def _applies(self) -> bool:
        """Whether autograd alone, and nothing else, follows what is computed now."""
        return (
            torch.is_grad_enabled()
            and not torch.is_inference_mode_enabled()
            and torch._C._functorch.peek_interpreter_stack() is None  # pyright: ignore[reportAttributeAccessIssue]
            and forward_ad._current_level < 0
            and not torch.compiler.is_compiling()
            and not torch._C._is_tracing()
            and not any(torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda"))
            # Checkpoints compute again, outside, what was computed here, and compare.
            and _saving_hooks() is self._hooks
        )


def _saving_hooks() -> Any:
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(False)  # pyright: ignore[reportAttributeAccessIssue]
    return None if hooks is None else hooks[0]


_FOLLOWING = {
    torch.autograd.grad,
    torch.autograd.backward,
    Tensor.backward,
    Tensor.register_hook,
    Tensor.retain_grad,
    Tensor.grad_fn.__get__,  # pyright: ignore
}


def _bound(
    call: Callable[..., Tensor | None], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> inspect.BoundArguments | None:
    try:
        return inspect.signature(call).bind(*args, **kwargs)
    except TypeError:  # torch says what is wrong with them, or knows them by other names
        return None

"""Copies of models that keep results of their last call."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Mapping
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

#: Values that hold no tensor: a temperature, whether an adapter is folded.
PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device)
#: What is copied as it is, whatever it refers to.
_NO_OBJECTS = (type, ModuleType, FunctionType, MethodType)
#: Of what every module has, what holds no value of its own.
_NO_VALUES = frozenset(nn.Module().__dict__) - {"_buffers"}


def copied(model: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """A deep copy, also of a model that keeps results of its last call.

    Those, such as the weight that `torch.nn.utils.weight_norm` computes, are no leaves of a graph,
    which alone can be copied; the copy has their values.

    Args:
        model: any module.
        memo: what stands for objects of the model in the copy, by their id; None for nothing.

    Raises:
        Exception: something of the model refuses to be copied.
    """
    memo = dict(memo or {})
    for module in model.modules():
        memo |= {id(x): x.detach().clone() for x in _of_graphs(module)}
    return copy.deepcopy(model, memo)


def _of_graphs(module: nn.Module) -> list[Tensor]:
    """Tensors among a module's attributes that autograd has computed, which cannot be copied."""
    found: list[Tensor] = []
    seen: set[int] = set()
    try:
        state = module.__getstate__()  # what a copy is made of
    except RuntimeError:  # parametrized modules only know how to be copied
        state = module.__dict__
    left = [value for name, value in state.items() if name not in _NO_VALUES]
    while left:
        value = left.pop()
        if id(value) in seen or isinstance(value, (nn.Module, *PLAIN)):
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            if not value.is_leaf:
                found.append(value)
        elif isinstance(value, Mapping):
            left += value.values()
        elif isinstance(value, (list, tuple, set, frozenset, deque)):
            left += value
        elif hasattr(value, "__dict__") and not isinstance(value, _NO_OBJECTS):
            left += vars(value).values()
    return found

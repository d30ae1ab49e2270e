"""Arguments of measures that are no models, losses or numbers at all, refused by their names."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

#: No count is larger: of a chain's draws, say, or of products.
MOST = 2**31 - 1


def check_model(model: Any) -> None:
    """Raises TypeError for what is no module."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, not {kind(model)}")


def check_loss(loss_fn: Any) -> None:
    """Raises TypeError for what cannot be called with a model and a batch."""
    if isinstance(loss_fn, type) or not callable(loss_fn):
        raise TypeError(
            "loss_fn must be a function, loss_fn(model, batch) -> (N,), one loss per sample, not "
            f"{kind(loss_fn)}"
        )


def check_whole(least: int, *, most: int = MOST, **values: Any) -> None:
    """Raises for what is not a whole number in a range.

    Args:
        least, most: the range, both allowed.
        values: by name. Integers of NumPy and torch are whole numbers, True is none.

    Raises:
        ValueError: with the name and what is allowed.
    """
    for name, value in values.items():
        number = _whole(value)
        if number is None or number < least:
            of = f"{least} or more" if least >= 0 else "64 bits"
            raise ValueError(f"{name} must be a whole number of {of}, not {kind(value)}")
        if number > most:
            raise ValueError(f"{name} must be at most {most}, not {kind(value)}")


def check_seed(seed: Any) -> None:
    """Raises ValueError for what torch's generators do not take."""
    check_whole(-(1 << 63), most=(1 << 64) - 1, seed=seed)


def check_number(**values: Any) -> None:
    """Raises TypeError for what is no real number; in which range it has to be is not asked."""
    for name, value in values.items():
        try:
            wrong = isinstance(value, (str, bytes, bool, np.bool_))
            wrong = wrong or float(value) is None
        except (TypeError, ValueError, RuntimeError, OverflowError):
            wrong = True
        if wrong:
            raise TypeError(f"{name} must be a number, not {kind(value)}")


def check_flag(**values: Any) -> None:
    """Raises TypeError for what is neither True nor False."""
    for name, value in values.items():
        if not isinstance(value, (bool, np.bool_)):
            raise TypeError(f"{name} must be True or False, not {kind(value)}")


def check_values(name: str, x: Tensor) -> None:
    """Raises ValueError for a tensor whose entries cannot be read one by one."""
    if x.is_meta:
        raise ValueError(f"{name} is on the meta device, without values")
    if x.layout is not torch.strided:
        raise ValueError(f"{name} is {x.layout}: make it dense, {name}.to_dense()")


def kind(value: Any) -> str:
    """A value as messages show it: itself where that is short, else its type."""
    if isinstance(value, (str, int, float, complex, type(None), type)):
        return f"{value!r:.60}"
    return type(value).__name__


def _whole(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except (TypeError, ValueError, RuntimeError):
        return None

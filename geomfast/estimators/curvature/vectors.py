"""Vectors of all parameters' entries, and the tensors of each parameter that they are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def unflattened(v: Tensor, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Views of (P,), shaped as the parameters are, by name.

    Args:
        v: (P,).
        shapes: of the parameters, in the order of a vector.
    """
    parts = v.split([shape.numel() for shape in shapes.values()])
    return {
        name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }


def flattened(parts: Any, shapes: Mapping[str, torch.Size], like: Tensor) -> Tensor:
    """(P,) of a tensor for every parameter, of the type and on the device of `like`.

    Raises:
        TypeError: parts is no mapping, or holds something other than real tensors.
        ValueError: names or shapes are not the parameters'.
    """
    if not isinstance(parts, Mapping):
        raise TypeError(
            f"parts must be a mapping of parameter names to tensors, not {type(parts).__name__}"
        )
    if missing := [name for name in shapes if name not in parts]:
        raise ValueError(f"parts has no tensor for parameter {missing[0]}")
    if unknown := [name for name in parts if name not in shapes]:
        raise ValueError(f"parts has {unknown[0]!r}, which is none of {', '.join(shapes)}")
    for name, shape in shapes.items():
        part = parts[name]
        if not isinstance(part, Tensor) or part.is_complex():
            kind = part.dtype if isinstance(part, Tensor) else type(part).__name__
            raise TypeError(f"parts[{name!r}] must be a real tensor, not {kind}")
        if part.shape != shape:
            raise ValueError(
                f"parts[{name!r}] has shape {tuple(part.shape)}, the parameter {tuple(shape)}"
            )
    return torch.cat([parts[name].detach().reshape(-1).to(like) for name in shapes])


def checked_vector(name: str, v: Any, dimension: int) -> Tensor:
    """(P,) that has been checked.

    Raises:
        TypeError: v is no real floating-point tensor.
        ValueError: it has another shape.
    """
    if not isinstance(v, Tensor) or not v.is_floating_point():
        kind = v.dtype if isinstance(v, Tensor) else type(v).__name__
        raise TypeError(f"{name} must be a real floating-point tensor, not {kind}")
    if v.shape != (dimension,):
        raise ValueError(
            f"{name} must have shape ({dimension},), one entry for each of the parameters', not "
            f"{tuple(v.shape)}"
        )
    return v.detach()

"""What the tangents of a layer need to know of the point where they are taken."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

from torch import Tensor


@dataclass
class Norm:
    """LayerNorm without gain and offset, of M rows; a is the adjoint of its output.

    Attributes:
        normed: (M, d) output.
        rstd: (M, 1), 1 / standard deviation.
        pulled: (M, d), adjoint of the input.
        overlap: (M, 1), mean of normed * a over a row.
    """

    normed: Tensor
    rstd: Tensor
    pulled: Tensor
    overlap: Tensor


class NormTangent(NamedTuple):
    """Tangent of a `Norm`: normed (k, M, d), and two means over a row, (k, M, 1) each.

    With x. the tangent of the input, `along` is the mean of normed * x., `against` that of
    pulled * x..
    """

    normed: Tensor
    along: Tensor
    against: Tensor


@dataclass
class Gelu:
    """(M, f) each: gelu'(h), and gelu''(h) times the adjoint of gelu(h)."""

    slope: Tensor
    curve: Tensor


@dataclass
class Attention:
    """Causal attention o = p v, p = softmax(q k^T); queries at the last t of T positions.

    Attributes:
        q: (n, heads, t, e), scale included; k, v: (n, heads, T, e).
        p: (n, heads, t, T) probabilities, 0 beyond the query's position.
        o: (n, t, heads, e).
        o_bar: (n, heads, t, e) adjoint of o.
        s_bar: (n, heads, t, T) adjoint of q k^T.
        centered: (n, heads, t, T), the adjoint of p less its mean under p.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    p: Tensor
    o: Tensor
    o_bar: Tensor
    s_bar: Tensor
    centered: Tensor


#: What a backend keeps of an attention's tangent on the way there, for its own way back.
AttentionTangent = tuple[Tensor, ...]


def nbytes(held: Norm | Gelu | Attention) -> int:
    """Memory of the tensors held."""
    return sum(getattr(held, field.name).nbytes for field in fields(held))

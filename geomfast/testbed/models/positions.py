"""Positions without a table: what attention does about the distance of two tokens.

``rotary`` (Su et al. 2021, arXiv:2104.09864) turns a head's queries and keys, ``alibi`` (Press et
al. 2021, arXiv:2108.12409) takes off the scores what a key's distance costs. Both depend on
distances alone, so that where a row starts does not matter. With ``none`` the causal mask is all
there is.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from geomfast.testbed.models.scales import Scale

#: The slowest pair of numbers turns by one radian in not quite so many tokens.
ROTARY_BASE = 10_000.0


class Rotation(NamedTuple):
    """What queries and keys are turned by: (T, width) cosines and sines of a pair's angle, for both
    of its numbers; the sines as they multiply the other one.
    """

    cos: Tensor
    sin: Tensor


#: A rotation of queries and keys, (heads, T, T) numbers to add to scores, or nothing.
Relative = Rotation | Tensor | None


def alibi_slopes(heads: int, device: torch.device | str = "cpu") -> Tensor:
    """What a score loses for every token between its query and its key, in each head.

    2^(-8 / n), 2^(-16 / n), ... 2^-8 for n heads, a power of two. For other numbers of heads those
    of the largest power of two below, and then every other one of twice that power's.

    Returns:
        (heads,) float64.
    """
    power = 1 << (heads.bit_length() - 1)
    kind = {"dtype": torch.float64, "device": device}
    own = torch.arange(1, power + 1, **kind) / power
    between = (2 * torch.arange(heads - power, **kind) + 1) / (2 * power)
    return torch.exp2(-8.0 * torch.cat((own, between)))


def rotary_angles(places: Tensor, width: int) -> Tensor:
    """Angles by which a head's pairs of numbers are turned.

    Neighbours are a pair, as in the paper: numbers 2 i and 2 i + 1 turn by base^(-2 i / width) from
    token to token.

    Args:
        places: (R,) positions.
        width: of a head, even.

    Returns:
        (R, width / 2) float64.
    """
    pairs = torch.arange(0, width, 2, dtype=torch.float64, device=places.device)
    return places.double()[:, None] * ROTARY_BASE ** (-pairs / width)


def relative_to(scale: Scale, length: int, like: Tensor) -> Relative:
    """What attention needs for rows of up to ``length`` tokens.

    It is made anew for every pass, which is little beside it: tensors that outlive one would tie
    CUDA graphs together, and passes that record gradients with others that do not.

    Args:
        scale: of the model.
        length: T.
        like: of the type and device of the model's states.
    """
    if scale.positions not in ("rotary", "alibi"):
        return None
    at = torch.arange(length, device=like.device)
    # Angles are known to single precision at least, whatever is turned by them.
    dtype = like.dtype if like.dtype == torch.float64 else torch.float32
    if scale.positions == "rotary":
        angles = rotary_angles(at, scale.d_model // scale.heads)
        cos, sin = angles.cos(), angles.sin()
        pairs = torch.stack((cos, cos), -1), torch.stack((-sin, sin), -1)
        return Rotation(*(x.flatten(-2).to(dtype) for x in pairs))
    distance = at[:, None] - at
    biases = -alibi_slopes(scale.heads, like.device)[:, None, None] * distance
    return biases.masked_fill(distance < 0, -torch.inf).to(dtype)


def attention(q: Tensor, k: Tensor, v: Tensor, relative: Relative) -> Tensor:
    """Causal attention.

    Args:
        q, k, v: (N, heads, T, width).
        relative: of rows of T tokens or longer ones.

    Returns:
        (N, heads, T, width).
    """
    length = q.shape[-2]
    if isinstance(relative, Tensor):
        biases = relative[:, :length, :length].to(q.dtype)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=biases)
    if relative is not None:
        q, k = _turned(q, relative), _turned(k, relative)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def _turned(x: Tensor, by: Rotation) -> Tensor:
    cos, sin = by.cos[: x.shape[-2]], by.sin[: x.shape[-2]]
    others = x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return torch.addcmul(x * cos, others, sin).to(x.dtype)

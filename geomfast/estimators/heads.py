"""Which entries of a model's weights belong to one head of its attention.

Of a head are its columns of what makes queries, keys and values (with their biases), and what it
writes with: its rows or columns of the output projection. That projection's bias is of no head.
Layouts are known for:

- GPT-2 (Hugging Face): `c_attn` and `c_proj` are Conv1D, weights (in, out); the columns of `c_attn`
  are all queries, all keys, all values, each by head; the rows of `c_proj` are by head.
- GPT-NeoX (Pythia): the rows of `query_key_value` are by head, of each its query, key and value;
  the columns of `dense` are by head.
- Llama and all that has `q_proj`, `k_proj`, `v_proj` and `o_proj` (or `out_proj`): rows by head,
  columns of the output by head. Where groups of query heads share one key/value head (grouped-query
  attention), head K has the key/value head K // (heads / key/value heads) of its group: what chains
  move of it moves the other heads of the group as well.
- `torch.nn.MultiheadAttention`: `in_proj_weight` as GPT-2's, transposed.
- geomfast's GPT: `attention_in` and `attention_out` of a block, as GPT-2's, transposed.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_PATTERN = re.compile(r"(?P<module>\S+)\s+heads?\s+(?P<heads>\d+(?:-\d+)?(?:,\s*\d+(?:-\d+)?)*)")


@dataclass(frozen=True)
class Projection:
    """A parameter of an attention, of which heads have slices.

    Attributes:
        name: within the attention's module.
        axis: that is cut.
        parts: what the axis is made of: how many times all heads, the heads, entries of each.
        count: of heads, or of key/value heads.
    """

    name: str
    axis: int
    parts: tuple[int, int, int]
    count: int

    def indices(self, head: int) -> Tensor:
        """(k,) int64 along the axis, of one of `count` heads."""
        before, count, width = self.parts
        places = torch.arange(before * count * width, device="cpu").view(self.parts)
        return places[:, head].reshape(-1)


@dataclass(frozen=True)
class Attention:
    """An attention whose layout is known.

    Attributes:
        names: that a pattern may know it by: its module's, and its block's.
        prefix: of its parameters' names.
        heads: query heads.
        projections: of all its weights and biases that heads have a part of.
    """

    names: tuple[str, ...]
    prefix: str
    heads: int
    projections: tuple[Projection, ...]

    def slices(self, head: int) -> Iterator[tuple[str, int, Tensor]]:
        """Of a head: full name of a parameter, the axis that is cut, (k,) indices along it."""
        for one in self.projections:
            shared = self.heads // one.count
            yield self.prefix + one.name, one.axis, one.indices(head // shared)


def head_pattern(pattern: str) -> tuple[str, list[int]] | None:
    """The pattern of modules and the heads of a pattern such as "blocks.0 head 1" or
    "transformer.h.*.attn heads 0-2,5"; None for one of parameters' names.

    Raises:
        ValueError: it has a blank, as no parameter's name has, and is not of that form.
    """
    if not re.search(r"\s", pattern.strip()):
        return None
    found = _PATTERN.fullmatch(pattern.strip())
    if found is None:
        raise ValueError(
            f"params: {pattern!r} is neither a pattern of names nor one of heads, such as "
            "'blocks.0 head 1' or 'transformer.h.*.attn heads 0-2'"
        )
    heads: list[int] = []
    for part in found["heads"].split(","):
        first, _, last = part.strip().partition("-")
        if last and int(last) < int(first):
            raise ValueError(f"params: {pattern!r}: heads {part.strip()} are none")
        heads += range(int(first), int(last or first) + 1)
    return found["module"], heads


def head_masks(model: nn.Module, pattern: str) -> dict[str, Tensor]:
    """Masks of the entries that a pattern of heads selects.

    Args:
        model: whose.
        pattern: as `head_pattern` takes it.

    Returns:
        Name of a parameter, as in `model.named_parameters()`, -> bool mask of its shape, on its
        device.

    Raises:
        ValueError: no attention of a known layout matches, or it has no such head.
    """
    parsed = head_pattern(pattern)
    assert parsed is not None
    of, heads = parsed
    known = list(attentions(model))
    matching = [one for one in known if any(fnmatch.fnmatchcase(n, of) for n in one.names)]
    if not matching:
        there = ", ".join(one.names[0] or "the model" for one in known) or "none"
        raise ValueError(
            f"params: {pattern!r}: no attention whose layout is known matches {of!r}; there are: "
            f"{there}"
        )
    # What two modules share has one name.
    names = {id(p): name for name, p in model.named_parameters()}
    masks: dict[str, Tensor] = {}
    for one in matching:
        for head in heads:
            if head >= one.heads:
                raise ValueError(
                    f"params: {pattern!r}: {one.names[0]} has heads 0 to {one.heads - 1}, not "
                    f"{head}"
                )
            for name, axis, indices in one.slices(head):
                parameter = model.get_parameter(name)
                own = names[id(parameter)]
                if own not in masks:
                    masks[own] = torch.zeros_like(parameter, dtype=torch.bool)
                masks[own].index_fill_(axis, indices.to(parameter.device), True)
    return masks


def attentions(model: nn.Module) -> Iterator[Attention]:
    """All attentions of a model whose layout is known."""
    for name, module in model.named_modules():
        found = _known(module)
        if found is None:
            continue
        heads, projections, own_block = found
        prefix = f"{name}." if name else ""
        block = f"{prefix}attention" if own_block else name.rpartition(".")[0]
        present = tuple(p for p in projections if _fits(module, p))
        yield Attention((name, block), prefix, heads, present)


def _known(module: Any) -> tuple[int, list[Projection], bool] | None:
    """Number of heads, projections, and whether the module is a block of geomfast's GPT."""
    kind = type(module).__name__
    if kind == "GPT2Attention" and not getattr(module, "is_cross_attention", False):
        heads, width = int(module.num_heads), int(module.head_dim)
        return heads, _concatenated(("c_attn", 1), ("c_proj", 0), heads, width), False
    if kind == "GPTNeoXAttention":
        width = int(module.head_size)
        heads = _rows(module.dense, 1) // width
        by_head = (1, heads, 3 * width)
        return heads, [
            *_both("query_key_value", 0, by_head, heads),
            Projection("dense.weight", 1, (1, heads, width), heads),
        ], False  # fmt: skip
    if isinstance(module, nn.MultiheadAttention):
        heads, width = module.num_heads, module.head_dim
        fused = (3, heads, width)
        apart = [
            Projection(f"{part}_proj_weight", 0, (1, heads, width), heads)
            for part in ("q", "k", "v")
        ]
        return heads, [
            Projection("in_proj_weight", 0, fused, heads),
            Projection("in_proj_bias", 0, fused, heads),
            *apart,
            Projection("out_proj.weight", 1, (1, heads, width), heads),
        ], False  # fmt: skip
    if _is_block(module):
        heads = int(module.heads)
        width = module.attention_out.in_features // heads
        return heads, _concatenated(("attention_in", 0), ("attention_out", 1), heads, width), True
    return _separate(module)


def _is_block(module: nn.Module) -> bool:
    from geomfast.testbed.models.gpt import Block

    return isinstance(module, Block)


def _separate(module: Any) -> tuple[int, list[Projection], bool] | None:
    """Llama's, with an output projection of either name."""
    out = next((n for n in ("o_proj", "out_proj") if _is_linear(module, n)), None)
    if out is None or not all(_is_linear(module, f"{part}_proj") for part in ("q", "k", "v")):
        return None
    width = getattr(module, "head_dim", None)
    if not isinstance(width, int) or width < 1:
        return None
    rows = [_rows(getattr(module, f"{part}_proj"), 0) for part in ("q", "k", "v")]
    heads, shared = rows[0] // width, rows[1] // width
    same = rows[1] == rows[2] and _rows(getattr(module, out), 1) == rows[0]
    if not same or rows[0] % width or rows[1] % width or not shared or heads % shared:
        return None
    return heads, [
        *_both("q_proj", 0, (1, heads, width), heads),
        *_both("k_proj", 0, (1, shared, width), shared),
        *_both("v_proj", 0, (1, shared, width), shared),
        Projection(f"{out}.weight", 1, (1, heads, width), heads),
    ], False  # fmt: skip


def _concatenated(
    made: tuple[str, int], out: tuple[str, int], heads: int, width: int
) -> list[Projection]:
    """Queries, keys and values of all heads one after the other, along an axis of one weight."""
    return [
        *_both(*made, (3, heads, width), heads),
        Projection(f"{out[0]}.weight", out[1], (1, heads, width), heads),
    ]


def _both(name: str, axis: int, parts: tuple[int, int, int], count: int) -> list[Projection]:
    """A weight, and the bias of its outputs."""
    return [
        Projection(f"{name}.weight", axis, parts, count),
        Projection(f"{name}.bias", 0, parts, count),
    ]


def _is_linear(module: nn.Module, name: str) -> bool:
    return isinstance(getattr(module, name, None), nn.Linear)


def _rows(module: nn.Module, axis: int) -> int:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight.shape[axis]


def _fits(module: nn.Module, one: Projection) -> bool:
    """Whether the module has that parameter; a bias may be missing.

    Raises:
        ValueError: it has another size than the layout says.
    """
    try:
        parameter = module.get_parameter(one.name)
    except AttributeError:
        return False
    before, count, width = one.parts
    if parameter.shape[one.axis] != before * count * width:
        raise ValueError(
            f"params: {one.name} of {type(module).__name__} has shape {tuple(parameter.shape)}, "
            f"whose axis {one.axis} is not the {before} x {count} x {width} of its heads"
        )
    return True

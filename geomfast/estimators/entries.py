"""Parameters that are selected whole, or some of their entries: one attention head's, say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from geomfast.estimators.checks import select_parameters
from geomfast.estimators.heads import head_masks, head_pattern


class Selection(Mapping[str, Tensor]):
    """Parameters by name, with the entries that are selected where these are not all.

    Args:
        parameters: by name, in the order of the model.
        entries: name -> (k,) int64, ascending: numbers of entries in the flat parameter.
    """

    def __init__(self, parameters: Mapping[str, Tensor], entries: Mapping[str, Tensor]):
        self.parameters, self.entries = dict(parameters), dict(entries)

    def __getitem__(self, name: str) -> Tensor:
        return self.parameters[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.parameters)

    def __len__(self) -> int:
        return len(self.parameters)


def select_entries(model: nn.Module, params: Any) -> Selection:
    """What is selected by names of parameters, and by heads of attention.

    Args:
        model: whose.
        params: as `geomfast.estimators.checks.select_parameters` takes it, names with shell
            wildcards; and patterns of heads, "MODULE head K" or "MODULE heads K-L", MODULE the name
            of an attention or of its block, with wildcards (`geomfast.estimators.heads`). What
            begins with "!" is left out, parameters as well as heads.

    Raises:
        TypeError: params is none of these.
        ValueError: nothing is left, a pattern matches nothing, or a parameter is complex.
    """
    patterns = _patterns(params)
    heads = [p for p in patterns or () if head_pattern(p.removeprefix("!"))]
    if patterns is None or not heads:
        return Selection(select_parameters(model, params if patterns is None else patterns)[0], {})
    trainable, _ = select_parameters(model, None)
    masks = _wanted(model, [p for p in patterns if not p.startswith("!")], trainable)
    for pattern in (p[1:] for p in patterns if p.startswith("!")):
        if head_pattern(pattern):
            for name, mask in head_masks(model, pattern).items():
                if name in masks:
                    masks[name] = masks[name] & ~mask
        else:
            for name in select_parameters(model, pattern)[0]:
                masks.pop(name, None)
    kept = {name: masks[name] for name in trainable if name in masks and masks[name].any()}
    if not kept:
        raise ValueError(f"params: {patterns!r} leaves no parameter")
    parameters = {name: trainable[name] for name in kept}
    entries = {
        name: mask.reshape(-1).nonzero()[:, 0] for name, mask in kept.items() if not mask.all()
    }
    return Selection(parameters, entries)


def _patterns(params: Any) -> list[str] | None:
    """Patterns as a list; None for what is left to `select_parameters`, to take or to refuse."""
    if isinstance(params, str):
        return [params]
    if not isinstance(params, Iterable) or isinstance(params, (bytes, Mapping)):
        return None
    patterns = list(params)  # which are gone through more than once
    if patterns and all(isinstance(pattern, str) for pattern in patterns):
        return patterns
    raise TypeError(f"params must be names of parameters, one or more, not {params!r}")


def _wanted(
    model: nn.Module, patterns: list[str], trainable: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Masks of what patterns select, all of it where there are none."""
    plain = [pattern for pattern in patterns if not head_pattern(pattern)]
    masks: dict[str, Tensor] = {}
    if plain or not patterns:
        whole, _ = select_parameters(model, plain or None)
        masks = {name: torch.ones_like(p, dtype=torch.bool) for name, p in whole.items()}
    for pattern in patterns:
        if pattern in plain:
            continue
        found = {n: mask for n, mask in head_masks(model, pattern).items() if n in trainable}
        if not found:
            raise ValueError(f"params: no parameter of {pattern!r} requires gradients")
        for name, mask in found.items():
            masks[name] = masks[name] | mask if name in masks else mask
    return masks


def select_cut(
    model: nn.Module, params: Iterable[str] | int | None
) -> tuple[dict[str, Tensor], Mapping[str, int | Tensor]]:
    """As `select_entries`, or the first entries of all: parameters, and of each that is not whole
    how many of its first entries count, or the numbers of those that do.

    Args:
        model: whose.
        params: as for `select_entries`, or a number of entries.
    """
    if isinstance(params, int):
        parameters, cut = select_parameters(model, params, entries=True)
        return parameters, {} if cut is None else dict([cut])
    selection = select_entries(model, params)
    return selection.parameters, selection.entries


def entries_of(parameters: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """By name, numbers of the entries that are selected of parameters that are not whole."""
    return parameters.entries if isinstance(parameters, Selection) else {}


def selected(parameters: Mapping[str, Tensor]) -> list[Tensor]:
    """(k,) of each parameter, detached: its selected entries."""
    entries = entries_of(parameters)
    return [
        p.detach().reshape(-1)[entries[name]] if name in entries else p.detach().reshape(-1)
        for name, p in parameters.items()
    ]


def sizes_of(parameters: Mapping[str, Tensor]) -> dict[str, int]:
    """By name, how many entries of each parameter are selected."""
    entries = entries_of(parameters)
    return {n: len(entries[n]) if n in entries else p.numel() for n, p in parameters.items()}

"""Activations of any module's blocks, one vector per sample and layer, by forward hooks.

A block's own output is taken: the last of transformers' `hidden_states` is already normed, so that
the output of the last block is not among them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from geomfast.estimators.batches import batches_of, count
from geomfast.estimators.stopping import check_stop
from geomfast.labels import FINAL, block
from geomfast.measures.memory import Notice, halving, logger
from geomfast.measures.model.evaluation import evaluating

#: Where a sample's vector is read: at its last real token; the mean over all real tokens, or all
#: positions of a feature map; or every value at every position, one after the other.
POSITIONS = ("last", "mean", "flat")
#: Modules whose output is what a network without blocks makes of a layer.
_NONLINEAR = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.ELU)
#: How many of them a message shows.
_SHOWN = 8
#: Runs the model on a batch; what it returns is not looked at.
Call = Callable[[nn.Module, Any], Any]


class NoStates(ValueError):
    """A model whose layers cannot be found, or give no activations of the kind that is known."""


class UnknownModule(ValueError):
    """A name that no module of the model has."""


def find_blocks(model: nn.Module) -> list[str]:
    """Names of a model's blocks: of the longest ModuleList that is not inside another one.

    Raises:
        NoStates: there is none.
    """
    found: list[str] = []
    inside: list[str] = []
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or any(name.startswith(x) for x in inside):
            continue
        inside.append(f"{name}.")  # experts, say, are no blocks
        if len(module) > len(found):
            found = [f"{name}.{i}".lstrip(".") for i in range(len(module))]
    if not found:
        layers = _candidates(model)
        raise NoStates(
            f"{type(model).__name__} has no list of blocks whose hidden states could be taken "
            "(no ModuleList in it): name its layers"
            + (f", for instance layers={json.dumps(layers)}" if layers else "")
        )
    return found


def _candidates(model: nn.Module) -> list[str]:
    """Modules that may be what a model without a list of blocks calls its layers.

    Those with a nonlinearity, and without one those with weights, but for the last, which is the
    model's output.
    """
    parts = list(_parts(model))
    bent = [name for name, m in parts if isinstance(m, _NONLINEAR)]
    weighted = [name for name, m in parts if any(True for _ in m.parameters())]
    return (bent or weighted[:-1])[:_SHOWN]


def _parts(model: nn.Module, within: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The innermost modules, but torch's own layers whole: of their inside not all is called."""
    for name, module in model.named_children():
        containers = (nn.Sequential, nn.ModuleDict)
        own = type(module).__module__.startswith("torch.nn.") and not isinstance(module, containers)
        if own or not any(module.children()):
            yield f"{within}{name}", module
        else:
            yield from _parts(module, f"{within}{name}.")


def activations(
    model: nn.Module,
    data: Any,
    *,
    position: str = "last",
    layers: Sequence[str] | None = None,
    final: str | None = None,
    call: Call | None = None,
    batch_size: int | None = None,
    notice: Notice = logger.warning,
) -> dict[str, Tensor]:
    """Activations of every layer, one vector per sample.

    Args:
        model: any module; it runs in evaluation mode, and has its own back afterwards.
        data: one batch, or an iterable of batches. Of a mapping with `attention_mask` (N, T), the
            tokens it masks are not real; without one all are.
        position: one of :data:`POSITIONS`; of layers that give (N, d), without positions, those
            are taken as they are. Feature maps (N, C, H, W), of whatever rank from 4 on, have no
            last position: "mean" gives (N, C) of them, the mean over all positions, and "flat"
            (N, C H W). Of (N, T, d) "flat" gives (N, T d), with zeros at tokens that are masked.
        layers: names of the modules that are block 1, block 2, ...; None for those of
            :func:`find_blocks`.
        final: name of the module whose output is the final state; None for what the output head
            reads, where the model says which that is (`get_output_embeddings`, as in
            transformers), otherwise for the output of the last norm after all blocks, and of a
            model that has neither for the output of the last block.
        call: runs the model on a batch; None for `model(**batch)` of a mapping (without its
            `labels`), `model(batch[0])` of a tuple or list, and `model(batch)`.
        batch_size: samples at once; None for a batch as it comes. Halved, with a notice, where
            memory does not suffice.
        notice: told so.

    Returns:
        ``block 1`` ... ``block L`` and :data:`~geomfast.records.FINAL` -> (N, d) in the model's
        own type, on its device.

    Raises:
        NoStates: no blocks found, or outputs that are not (N, T, d) or (N, d).
        UnknownModule: a name that the model does not know.
        ValueError: an unknown position; no data.
    """
    if position not in POSITIONS:
        raise ValueError(f"position must be one of {', '.join(POSITIONS)}, not {position!r}")
    blocks = block_modules(model, layers)
    last = None if final is None else _module(model, final)
    batches = batches_of(data)
    found: list[dict[str, Tensor]] = []
    with evaluating(model), torch.no_grad():
        for batch in batches:

            def parts(step: int, batch: Any = batch) -> list[dict[str, Tensor]]:
                samples = count(batch, least=1)
                cut = (_part(batch, first, first + step) for first in range(0, samples, step))
                return [batch_states(model, part, position, blocks, last, call) for part in cut]

            most = min(batch_size or count(batch, least=1), count(batch, least=1))
            found += halving(parts, most, "taking activations", notice=notice)
    return {label: torch.cat([part[label] for part in found]) for label in found[0]}


def block_modules(model: nn.Module, layers: Sequence[str] | None = None) -> list[nn.Module]:
    """The modules that are block 1, block 2, ...; None for those of :func:`find_blocks`.

    Raises:
        NoStates: no blocks found.
        UnknownModule: a name that the model does not know.
    """
    return [_module(model, name) for name in (find_blocks(model) if layers is None else layers)]


def _module(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError as error:
        raise UnknownModule(
            f"{type(model).__name__} has no module {name!r}: {error}; model.named_modules() has all"
        ) from error


def _part(batch: Any, first: int, last: int) -> Any:
    return tree_map(lambda x: x[first:last] if isinstance(x, Tensor) else x, batch)


def batch_states(
    model: nn.Module,
    batch: Any,
    position: str,
    blocks: list[nn.Module],
    final: nn.Module | None = None,
    call: Call | None = None,
) -> dict[str, Tensor]:
    """Activations of one batch, of a model in evaluation mode and without gradients.

    Args:
        model, position, call: as of :func:`activations`.
        batch: as of :func:`activations`; it runs as a whole.
        blocks: of :func:`block_modules`.
        final: the module whose output is the final state; None as of :func:`activations`.

    Returns:
        Label -> (N, d).

    Raises:
        NoStates: outputs that are not (N, T, d) or (N, d), or blocks that do not run.
    """
    check_stop()
    shape = _shape(batch)
    mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
    found: dict[str, Tensor] = {}
    head = output_head(model) if final is None else None

    def take(label: str, state: Any) -> None:
        if label in found and (label != FINAL or final is not None):
            raise NoStates(f"{label} of {type(model).__name__} runs more than once in a pass")
        state = state[0] if isinstance(state, (tuple, list)) else state
        # Not a view: what follows may work in place, as many activation functions do.
        found[label] = _at(state, mask, shape, position, label).clone()

    def take_norm(state: Any) -> None:
        if block(len(blocks)) in found:  # those before the last block has run are not final
            take(FINAL, state)

    with ExitStack() as hooks:

        def after(module: nn.Module, take: Callable[[Any], None]) -> None:
            handle = module.register_forward_hook(lambda m, given, out: take(out))
            hooks.callback(handle.remove)

        for i, module in enumerate(blocks, start=1):
            after(module, partial(take, block(i)))
        if final is not None:
            after(final, partial(take, FINAL))
        elif head is not None:
            handle = head.register_forward_pre_hook(lambda m, given: take(FINAL, given[0]))
            hooks.callback(handle.remove)
        else:
            inside = {id(inner) for module in blocks for inner in module.modules()}
            for module in model.modules():
                if "norm" in type(module).__name__.lower() and id(module) not in inside:
                    after(module, take_norm)
        (call or _call)(model, batch)
    for i in range(1, len(blocks) + 1):
        if block(i) not in found:
            raise NoStates(f"{block(i)} of {type(model).__name__} was not run by the model")
    if FINAL not in found and final is not None:
        raise NoStates(f"{FINAL} of {type(model).__name__} was not run by the model")
    if FINAL not in found and head is None:
        found[FINAL] = found[block(len(blocks))]
    return found


def output_head(model: nn.Module) -> nn.Module | None:
    """The module that makes logits of final states, of a model that says which it is."""
    tell = getattr(model, "get_output_embeddings", None)
    head = tell() if callable(tell) else None
    return head if isinstance(head, nn.Module) else None


def _call(model: nn.Module, batch: Any) -> None:
    if isinstance(batch, Mapping):
        model(**{name: value for name, value in batch.items() if name != "labels"})
    else:
        model(batch[0] if isinstance(batch, (tuple, list)) else batch)


def _shape(batch: Any) -> tuple[int, int]:
    """N and T of a batch of tokens; T = 1 where nothing in it has positions."""
    tensors = [x for x in tree_leaves(batch) if isinstance(x, Tensor)]
    lengths = [x.shape[1] for x in tensors if x.dim() > 1]
    return count(batch, least=1), lengths[0] if lengths else 1


def _at(
    state: Any, mask: Tensor | None, shape: tuple[int, int], position: str, label: str
) -> Tensor:
    """(N, T, d), (N T, d) or (N, d) -> (N, d)."""
    samples, length = shape
    if isinstance(state, Tensor) and state.dim() == 2 and len(state) == samples * length:
        # Rows of all samples one after the other, in geomfast's own GPT.
        state = state.unflatten(0, shape) if length > 1 else state
    if not isinstance(state, Tensor) or state.dim() < 2 or len(state) != samples:
        given = tuple(state.shape) if isinstance(state, Tensor) else type(state).__name__
        raise NoStates(
            f"{label} gives {given}, not hidden states of shape ({samples}, T, d) or "
            f"({samples}, d): name layers that do"
        )
    state = state.detach()
    if state.dim() == 2:
        return state
    if state.dim() > 3:
        return _of_map(state, position, label)
    if mask is None:
        if position == "flat":
            return state.flatten(1)
        return state[:, -1] if position == "last" else state.mean(1)
    mask = mask.to(state.device) != 0
    if position == "last":
        last = (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).argmax(1)
        return state[torch.arange(samples, device=state.device), last]
    real = state.masked_fill(~mask[..., None], 0.0)
    if position == "flat":
        return real.flatten(1)
    return real.sum(1) / mask.sum(1, keepdim=True)


def _of_map(state: Tensor, position: str, label: str) -> Tensor:
    """(N, C, ...) -> (N, C), or (N, C ...)."""
    if position == "last":
        raise NoStates(
            f"{label} gives {tuple(state.shape)}, a feature map, which has no last position: take "
            'position="mean", the mean over its positions of each of the '
            f'{state.shape[1]} channels, or position="flat", all {state[0].numel()} values; or '
            "name layers that give (N, d)"
        )
    return state.flatten(1) if position == "flat" else state.flatten(2).mean(2)

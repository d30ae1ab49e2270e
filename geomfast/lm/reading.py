"""Token sequences through a language model: log-probabilities and states of one pass.

Logits are made only where they are read, and sequences that begin alike share what they have in
common, where the model allows; see :mod:`geomfast.lm.ways`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from geomfast.estimators.stopping import check_stop
from geomfast.lm.causal_lm import CausalLM
from geomfast.lm.encoding import padded
from geomfast.lm.trees import Tree, ancestors, batches
from geomfast.measures.model.evaluation import evaluating
from geomfast.measures.model.states import batch_states, block_modules, output_head

# Logits whose logarithms are summed at once, in float64.
_LOGITS = 2**21

States = dict[str, Tensor]


@dataclass(frozen=True)
class Reading:
    """What a model says of some token sequences.

    Attributes:
        logprobs: (C,) float64 on the CPU; sum of the log-probabilities of the scored tokens of
            every sequence, choice after choice, probe after probe.
        states: label -> (N, d) activations, in the order of the probes; None where none were asked
            for.
    """

    logprobs: Tensor
    states: States | None


def read(
    lm: CausalLM, trees: Sequence[Tree], rows: int, position: str | None, *, narrow: bool
) -> Reading:
    """Trees through a model, those of like sizes together.

    Args:
        lm: in whatever mode; it runs in evaluation mode.
        trees: with numbers from 0 without gaps.
        rows: trees at once.
        position: of the states of the nodes that each tree shows, "last" or "mean"; None for none.
        narrow: make logits of scored nodes only.

    Returns:
        Log-probabilities by number of the sequence, and states in the order of the trees.
    """
    numbers = 1 + max(number for tree in trees for _, _, number in tree.scored)
    logprobs = torch.zeros(numbers, dtype=torch.float64, device="cpu")
    order: list[int] = []
    parts: list[States] = []
    with evaluating(lm.model), torch.no_grad():
        blocks = [] if position is None else block_modules(lm.model)
        for indices in batches(trees, rows):
            check_stop()
            some = [trees[i] for i in indices]
            if position is None:
                logprobs.add_(_scores(lm, some, numbers, narrow=narrow))
                continue
            batch = {"input_ids": _ids(lm, some), "attention_mask": _shown(lm, some)}

            def score(model: Any, batch: Any, some: list[Tree] = some) -> None:
                logprobs.add_(_scores(lm, some, numbers, narrow=narrow))

            parts.append(batch_states(lm.model, batch, position, blocks, call=score))
            order += indices
    if position is None:
        return Reading(logprobs, None)
    back = torch.tensor(order, device="cpu").argsort()
    layers = {label: torch.cat([part[label] for part in parts]) for label in parts[0]}
    return Reading(logprobs, {label: x[back.to(x.device)] for label, x in layers.items()})


def _scores(lm: CausalLM, trees: list[Tree], numbers: int, *, narrow: bool) -> Tensor:
    """(numbers,) sums of the log-probabilities of scored tokens, of one batch."""
    ids = _ids(lm, trees)
    width = ids.shape[1]
    # Where logits are read, and of what tokens and for what numbers at each.
    places: dict[int, int] = {}
    scored = [
        (places.setdefault(row * width + node, len(places)), token, number)
        for row, tree in enumerate(trees)
        for node, token, number in tree.scored
    ]
    at = torch.tensor(list(places), device="cpu")
    how: dict[str, Any] = {}
    if any(tree.gap for tree in trees):
        seen = ancestors(trees)
        dtype = type_of(lm)
        mask = torch.zeros(seen.shape, dtype=dtype, device="cpu")
        mask = mask.masked_fill(~seen, torch.finfo(dtype).min)
        how["attention_mask"] = mask[:, None].to(lm.device)
        how["position_ids"] = (seen.sum(2) - 1).to(lm.device)
    if narrow:
        with _at_head(lm.model, at, ids.shape):
            logits = lm.model(input_ids=ids, **how).logits
        if logits.shape[:2] != (1, len(at)):
            raise ValueError(f"logits of {len(at)} tokens have the shape {tuple(logits.shape)}")
        at = torch.arange(len(at), device="cpu")
    else:
        logits = lm.model(input_ids=ids, **how).logits
    place, token, number = torch.tensor(scored, device="cpu").unbind(1)
    found = _log_probabilities(logits.flatten(0, 1), at, place, token)
    sums = torch.zeros(numbers, dtype=torch.float64, device="cpu")
    return sums.index_add_(0, number, found.cpu())


def _log_probabilities(logits: Tensor, at: Tensor, place: Tensor, token: Tensor) -> Tensor:
    """float64 log-probabilities of some tokens.

    Args:
        logits: (R, V).
        at: (M,) rows that are read.
        place: (S,) which of these each token is predicted by.
        token: (S,).
    """
    at, place, token = (x.to(logits.device) for x in (at, place, token))
    step = max(1, _LOGITS // logits.shape[1])  # a copy of all in float64 may be of many gigabytes
    norms = torch.cat([logits[part].double().logsumexp(1) for part in at.split(step)])
    return logits[at[place], token].double() - norms[place]


@contextmanager
def _at_head(model: nn.Module, at: Tensor, shape: tuple[int, ...]) -> Iterator[None]:
    """Within the context, the output head reads some states only, and is given (1, M, d).

    Whatever the model does with its logits, as to cap or to scale them, it then does with these.

    Args:
        model: of transformers.
        at: (M,) indices of (N, T) tokens, row after row.
        shape: (N, T).

    Raises:
        ValueError: the model has no such head, or does not run it once on (N, T, d) in a pass.
    """
    head, runs = output_head(model), 0
    if head is None:
        raise ValueError("the model does not say which module makes its logits")

    def some(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        nonlocal runs
        runs += 1
        (state, *rest) = given
        if runs > 1 or state.dim() != 3 or tuple(state.shape[:2]) != tuple(shape):
            raise ValueError("the output head does not run once on all states")
        return (state.flatten(0, 1)[at.to(state.device)][None], *rest)

    handle = head.register_forward_pre_hook(some)
    try:
        yield
    finally:
        handle.remove()
    if not runs:
        raise ValueError("the output head did not run")


def _ids(lm: CausalLM, trees: list[Tree]) -> Tensor:
    return padded([tree.tokens for tree in trees], lm.padding).to(lm.device)


def _shown(lm: CausalLM, trees: list[Tree]) -> Tensor:
    """(N, T) 1 at nodes whose states are asked for."""
    width = max(len(tree) for tree in trees)
    mask = torch.zeros(len(trees), width, dtype=torch.int64, device="cpu")
    for row, tree in enumerate(trees):
        mask[row, list(tree.shown)] = 1
    return mask.to(lm.device)


def type_of(lm: CausalLM) -> torch.dtype:
    """Type of a model's embeddings, and so of its states."""
    weight: Any = lm.model.get_input_embeddings().weight  # pyright: ignore
    return weight.dtype

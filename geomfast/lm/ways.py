"""The ways that probes can go through a language model, and which of them a model allows.

In the fastest, the choices of a prompt share its keys and values, logits are made only where they
are read, and states are taken from the same pass. Not every model can do that: before any value is
taken, a few probes also run in the plain way, every choice a row of its own with all its logits.
Where the two do not agree, everything runs in the plain way.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from geomfast.lm.causal_lm import CausalLM
from geomfast.lm.encoding import EncodedProbes
from geomfast.lm.reading import Reading, States, read, type_of
from geomfast.lm.trees import Tree, grown
from geomfast.measures.memory import Notice, halving, logger, out_of_memory
from geomfast.measures.model.states import activations

#: Rows that go through the model at once.
ROWS = 64
# How far ways may differ by the rounding of a type.
_ROUNDING = {torch.float64: 1e-8, torch.float32: 3e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}


@dataclass(frozen=True)
class Way:
    """How probes go through a model.

    Attributes:
        shared: the choices of a prompt in one row with it, instead of a row for each.
        narrow: logits only where they are read, instead of at every token.
    """

    shared: bool
    narrow: bool


PLAIN = Way(shared=False, narrow=False)
_FASTER = (Way(shared=True, narrow=True), Way(shared=False, narrow=True))


def fastest_way(
    lm: CausalLM,
    sets: Sequence[EncodedProbes],
    position: str | None = None,
    *,
    batch_size: int | None = None,
    notice: Notice = logger.warning,
) -> Way:
    """The fastest way that gives a model's own values, by those of a few probes of all sets.

    Args:
        lm: in whatever mode.
        sets: to be read.
        position: of the states that are to be taken, see
            :func:`geomfast.measures.model.states.activations`; None for none.
        batch_size: rows at once; None for 64.
        notice: told why choices do not share their prompt's pass, and where memory was short.
    """
    few = _telling(sets)
    what = "comparing ways to run choices"
    size = batch_size or ROWS
    plain = halving(lambda rows: run(lm, few, PLAIN, position, rows), size, what, notice=notice)
    why = _cannot_share(lm, sets)
    for way in _FASTER:
        if way.shared and why:
            continue
        try:
            found = halving(
                lambda rows, way=way: run(lm, few, way, position, rows), size, what, notice=notice
            )
            different = _difference(lm, plain, found)
        except Exception as error:  # models have their own ways to refuse what they do not know
            if out_of_memory(error):
                raise
            different = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        if not different:
            break
        why = why or different
    else:
        way = PLAIN
    if not way.shared:
        notice(
            f"{type(lm.model).__name__}: every choice runs with a prompt of its own, since those "
            f"of a prompt cannot share it: {why}"
        )
    return way


def _cannot_share(lm: CausalLM, sets: Sequence[EncodedProbes]) -> str:
    """Why a model cannot read choices behind one prompt; empty where nothing is known against it.

    Its values tell, too, but with weights of 16 bits, or before training, not as surely.
    """
    model: Any = lm.model
    model = model.get_base_model() if hasattr(model, "get_base_model") else model  # of an adapter
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return "it cannot be told at which positions tokens are"
    if getattr(model, "_is_stateful", False):
        return "its layers carry a state from token to token"
    window = getattr(model.config, "sliding_window", None)
    longest = max(len(c.tokens) for one in sets for choices in one.choices for c in choices)
    if isinstance(window, int) and window < longest:
        return f"its window of attention, {window}, is shorter than the longest row, {longest}"
    return ""


def _telling(sets: Sequence[EncodedProbes]) -> EncodedProbes:
    """The probes on which ways differ most, if they do.

    The longest choice is beyond a window of attention if any is. A model that goes by places in
    the row, and not by positions, is furthest off where other branches stand between a node and
    its prompt, and where a tree with branches is largest. The shortest one has the most padding.
    """
    every = [(one, i, _tree(one, i)) for one in sets for i in range(len(one))]
    found = [
        max(every, key=lambda probe: max(len(c.tokens) for c in probe[0].choices[probe[1]])),
        max(every, key=lambda probe: (probe[2].gap, len(probe[2]))),
        max(every, key=lambda probe: (probe[2].gap > 0, len(probe[2]))),
        min(every, key=lambda probe: len(probe[2])),
    ]
    few = {id(one.choices[i]): (one, i) for one, i, _ in found}
    return dataclasses.replace(
        sets[0],
        choices=tuple(one.choices[i] for one, i in few.values()),
        answers=tuple(one.answers[i] for one, i in few.values()),
    )


def _difference(lm: CausalLM, plain: Reading, found: Reading) -> str:
    """In what two readings differ by more than rounding; empty for in nothing."""
    rounding = _ROUNDING.get(type_of(lm), 1e-4)
    alike = torch.isclose(
        found.logprobs, plain.logprobs, rtol=rounding, atol=rounding, equal_nan=True
    )
    if not alike.all():
        return f"log-probabilities differ by {_largest(found.logprobs - plain.logprobs):.1e}"
    for label, x in (plain.states or {}).items():
        expected, given = x.double(), (found.states or {})[label].double()
        scale = expected.norm(dim=1, keepdim=True).clamp_min(1e-30)
        apart = (given - expected) / scale
        if not torch.isclose(given / scale, expected / scale, 0, rounding, equal_nan=True).all():
            return f"states of {label} differ by {_largest(apart):.1e} of their length"
    return ""


def _largest(x: Tensor) -> float:
    return x.abs().max().item()


def run(
    lm: CausalLM,
    probes: EncodedProbes,
    way: Way,
    position: str | None,
    rows: int,
    notice: Notice = logger.warning,
) -> Reading:
    """Probes through a model, in one way.

    Args:
        lm: in whatever mode; it runs in evaluation mode.
        probes: to be read.
        way: of :func:`fastest_way`.
        position: of the states; None for none.
        rows: at once.
        notice: told where memory is short for states that are not of the same pass.
    """
    # Of the width of the longest prompt, flat states are no part of rows of other widths.
    together = way.shared and position != "flat"
    trees = [_tree(probes, i) for i in range(len(probes))] if way.shared else _rows(probes)
    reading = read(lm, trees, rows, position if together else None, narrow=way.narrow)
    if position is None or together:
        return reading
    return Reading(reading.logprobs, prompt_states(lm, probes, position, rows, notice))


def prompt_states(
    lm: CausalLM, probes: EncodedProbes, position: str, rows: int, notice: Notice
) -> States:
    """Activations of every layer at the prompts, which run alone; see :func:`activations`."""
    # Without the mask, which says which tokens count: padded on the right, none else matters.
    return activations(
        lm.model,
        probes.prompts,
        position=position,
        call=lambda model, batch: model(input_ids=batch["input_ids"]),
        batch_size=rows,
        notice=notice,
    )


def _tree(probes: EncodedProbes, i: int) -> Tree:
    """A probe's prompt and choices, whose numbers are those of all choices of the set."""
    first = sum(len(choices) for choices in probes.choices[:i])
    choices, right = probes.choices[i], probes.right[i]
    sequences = [(first + k, choice.tokens, choice.start) for k, choice in enumerate(choices)]
    return grown(sequences, right.tokens[: right.start])


def _rows(probes: EncodedProbes) -> list[Tree]:
    """Every choice with its prompt; what differs in the last token alone is one row."""
    groups: dict[tuple[int, ...], list[tuple[int, tuple[int, ...], int]]] = {}
    choices = [choice for those in probes.choices for choice in those]
    for number, choice in enumerate(choices):
        one = (number, choice.tokens, choice.start)
        groups.setdefault(choice.tokens[:-1], []).append(one)
    return [grown(those) for those in groups.values()]

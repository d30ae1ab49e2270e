"""Scales: encodings of positions, and what folders from before there were any remember."""

import dataclasses

import pytest

from geomfast.sweep.plan import recipe
from geomfast.testbed.models.gpt import GPT
from geomfast.testbed.models.scales import (
    POSITIONAL_ENCODINGS,
    SCALES,
    Scale,
    scale_facts,
    scale_for,
)
from tests.sweep.tiny import tiny

TINY = Scale("tiny", 2, 16, 2, 1e-3, vocabulary=13, context=11)
#: The fields of a scale when positions were learned and nothing else.
BEFORE = ["name", "layers", "d_model", "heads", "learning_rate", "vocabulary", "context"]


@pytest.mark.parametrize("positions", POSITIONAL_ENCODINGS)
def test_the_size_formula_counts_every_parameter(positions: str) -> None:
    scale = dataclasses.replace(TINY, positions=positions)
    model = GPT(scale)
    assert sum(p.numel() for p in model.parameters()) == scale.parameters
    learned = positions == "learned"
    assert ("positions" in dict(model.named_parameters())) == learned
    assert ("positions" in model.state_dict()) == learned
    assert scale.parameters == TINY.parameters - (0 if learned else 11 * 16)


def test_facts_of_learned_positions_are_those_of_before() -> None:
    for scale in (TINY, *SCALES.values()):
        facts = scale_facts(scale)
        assert list(facts) == BEFORE
        assert Scale(**facts) == scale
    rotary = dataclasses.replace(TINY, positions="rotary")
    assert scale_facts(rotary) == scale_facts(TINY) | {"positions": "rotary"}


def test_recipes_of_sweeps_are_those_of_before() -> None:
    told = recipe(tiny(10, 4, 3, 5), "nano")
    assert set(BEFORE) <= told.keys() and "positions" not in told
    facts = scale_facts(scale_for("nano", ("COPY", "MOD")))
    assert {name: told[name] for name in BEFORE} == facts


def test_encodings_that_there_are_not() -> None:
    with pytest.raises(ValueError, match="one of learned, none, rotary, alibi, not 'sine'"):
        dataclasses.replace(TINY, positions="sine")
    with pytest.raises(ValueError, match="width must be even, not 5"):
        Scale("", 1, 15, 3, 1e-3, positions="rotary")
    assert Scale("", 1, 8, 1, 1e-3, positions="rotary").heads == 1
    assert Scale("", 1, 15, 3, 1e-3, positions="alibi").heads == 3

"""How many members are one program: what is faster where it is known, what fits elsewhere."""

import pytest

from geomfast.testbed.models.scales import Scale
from geomfast.testbed.training.stacking import member_bytes, members_per_program


def scale(layers: int, width: int) -> Scale:
    return Scale("", layers, width, max(1, width // 16), 1e-3, vocabulary=51, context=27)


@pytest.mark.parametrize(("layers", "width", "tokens"), [(1, 8, 144), (2, 32, 144), (2, 64, 348)])
def test_small_members_are_stacked(layers: int, width: int, tokens: int) -> None:
    assert members_per_program(64, scale(layers, width), tokens, "cpu") >= 16


@pytest.mark.parametrize(("layers", "width", "tokens"), [(4, 128, 1200), (2, 256, 500)])
def test_members_that_fill_the_processor_alone_are_not(
    layers: int, width: int, tokens: int
) -> None:
    one = scale(layers, width)
    assert members_per_program(64, one, tokens, "cpu") == 1
    assert members_per_program(32, one, tokens, "cuda:1") == 32
    assert members_per_program(2, scale(8, 512), 3500, "cuda") == 1
    assert members_per_program(2, scale(8, 512), 3500, "cuda", "always") == 2
    assert 1 < members_per_program(32, one, tokens, "cpu", "always") < 32


def test_programs_are_of_like_size_and_what_is_asked_for_is_done() -> None:
    small = scale(1, 16)
    assert members_per_program(64, small, 144, "cpu", "never") == 1
    assert members_per_program(64, small, 144, "cpu", "always", "bf16") == 1
    assert members_per_program(1, small, 144, "cpu") == 1
    large = scale(4, 128)
    fits = (1 << 30) // member_bytes(large, 1200)
    assert 2 < fits < 64
    together = members_per_program(fits + 1, large, 1200, "cpu", "always")
    assert together == -(-(fits + 1) // 2)
    with pytest.raises(ValueError, match="stack must be one of auto, always, never, not 'yes'"):
        members_per_program(4, small, 144, "cpu", "yes")

"""How many members are one program: what is faster where it is known, what fits elsewhere."""

import pytest

from geomfast.testbed.models.scales import Scale
from geomfast.testbed.training.stacking import at_once, member_bytes


def scale(layers: int, width: int) -> Scale:
    return Scale("", layers, width, max(1, width // 16), 1e-3, vocabulary=51, context=27)


@pytest.mark.parametrize(("layers", "width", "tokens"), [(1, 8, 144), (2, 32, 144), (2, 64, 348)])
def test_small_members_are_stacked(layers: int, width: int, tokens: int) -> None:
    assert at_once(64, scale(layers, width), tokens, "cpu") >= 16


@pytest.mark.parametrize(("layers", "width", "tokens"), [(4, 128, 1200), (2, 256, 500)])
def test_members_that_fill_the_processor_alone_are_not(
    layers: int, width: int, tokens: int
) -> None:
    one = scale(layers, width)
    assert at_once(64, one, tokens, "cpu") == 1
    assert at_once(32, one, tokens, "cuda:1") == 32
    assert at_once(2, scale(8, 512), 3500, "cuda") == 1
    assert at_once(2, scale(8, 512), 3500, "cuda", "always") == 2
    assert 1 < at_once(32, one, tokens, "cpu", "always") < 32


def test_programs_are_of_like_size_and_what_is_asked_for_is_done() -> None:
    small = scale(1, 16)
    assert at_once(64, small, 144, "cpu", "never") == 1
    assert at_once(1, small, 144, "cpu") == 1
    large = scale(4, 128)
    fits = (1 << 30) // member_bytes(large, 1200)
    assert 2 < fits < 64
    together = at_once(fits + 1, large, 1200, "cpu", "always")
    assert together == -(-(fits + 1) // 2)
    with pytest.raises(ValueError, match="stack must be one of auto, always, never, not 'yes'"):
        at_once(4, small, 144, "cpu", "yes")

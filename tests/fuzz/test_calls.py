"""A share of the wrong calls; ``python -m tests.fuzz.calls`` tries more."""

from tests.fuzz.calls import run


def test_wrong_calls_name_the_argument() -> None:
    said: list[str] = []
    counts = run(range(80), said.append)  # each says its seed
    assert not said, "\n".join(said)
    assert counts["named"] == 80

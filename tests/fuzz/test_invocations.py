"""A share of the wrong command lines; ``python -m tests.fuzz.invocations`` tries more."""

from tests.fuzz.invocations import run


def test_wrong_command_lines_are_refused_by_name() -> None:
    said: list[str] = []
    counts = run(range(60), said.append)  # each says its seed
    assert not said, "\n".join(said)
    assert counts["refused"] > 40

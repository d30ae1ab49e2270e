"""A share of the flipped bits; ``python -m tests.fuzz.flips FIRST COUNT`` tries any others."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz.flips import KINDS, read, same, tried
from tests.fuzz.folders import make

FIRST, COUNT = 500_000, 120
Folders = tuple[dict[str, Path], dict[str, dict[str, Any]]]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    made = make(tmp_path_factory.mktemp("folders"))
    return made, {name: read(out, KINDS[name]) for name, out in made.items()}


def test_a_flipped_bit_is_named_or_changes_nothing(folders: Folders) -> None:
    outcomes = {seed: tried(seed, *folders) for seed in range(FIRST, FIRST + COUNT)}
    wrong = {seed: said for seed, said in outcomes.items() if said not in ("same", "named")}
    assert not wrong
    assert set(outcomes.values()) == {"same", "named"}
    for name, out in folders[0].items():  # every bit has been flipped back
        assert same(read(out, KINDS[name]), folders[1][name])


def test_the_fuzzer_sees_a_value_that_is_silently_wrong(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nobody compares hashes, a bit of a date is the fault that it is."""

    def dated(path: Path, _: random.Random) -> Callable[[], None]:
        settings = next(out for out in path.parents if (out / "settings.json").exists())
        whole = (settings / "settings.json").read_bytes()
        (settings / "settings.json").write_bytes(whole.replace(b'"date": "2', b'"date": "3'))

        def back() -> None:
            (settings / "settings.json").write_bytes(whole)

        return back

    monkeypatch.setattr("tests.fuzz.flips.flip", dated)
    assert "settings.json has changed" in tried(FIRST, *folders)
    for module in ("tests.fuzz.flips", "geomfast.sweep.folder"):
        monkeypatch.setattr(f"{module}.read_settings", _unsealed)
    assert tried(FIRST, *folders).startswith("silent: ")


def _unsealed(path: Path, kind: str = "sweep") -> dict[str, Any]:
    return json.loads(path.read_text())

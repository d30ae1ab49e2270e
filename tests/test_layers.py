"""Data flows one way: no room of the house imports a later one."""

import ast
import functools
from pathlib import Path

import pytest

import geomfast

HOUSE = Path(geomfast.__file__).parent
#: In the order data flows; what stands in one group may import the groups before it.
ORDER = [
    {"cuda_capture", "files", "labels", "machine", "moved", "philox"},
    {"replay"},
    {"kernels"},
    {"testbed"},  # before estimators, which have faster ways for its model
    {"losses", "estimators"},
    {"measures"},
    {"records"},
    {"runs"},
    {"lm"},
    {"sweep", "population", "tracker"},  # a population may have language models as its bases
    {"series"},  # of language models, and of what sweeps kept
    {"harness"},  # whose models are named like those of series
    {"analysis"},
    {"report"},
    {"cli"},
]
RANK = {room: rank for rank, group in enumerate(ORDER) for room in group}
FILES = sorted(path for path in HOUSE.rglob("*.py") if path.parent != HOUSE or path.stem in RANK)


def room(path: Path) -> str:
    return path.relative_to(HOUSE).with_suffix("").parts[0]


@functools.cache
def imports(path: Path) -> set[str]:
    """Top-level packages and geomfast rooms a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(HOUSE)))
def test_imports_go_one_way(path: Path) -> None:
    here = room(path)
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "geomfast" and len(parts) > 1 and parts[1] in RANK:
            assert RANK[parts[1]] < RANK[here] or parts[1] == here, f"{here} imports {name}"


@pytest.mark.parametrize(
    ("rooms", "forbidden"),
    [
        (
            {"analysis", "report"},
            {"torch", "geomfast.testbed.models.gpt", "geomfast.testbed.training"},
        ),
        ({"records", "files", "philox"}, {"torch"}),
    ],
    ids=["analysis-without-torch", "records-without-torch"],
)
def test_what_must_do_without_torch(rooms: set[str], forbidden: set[str]) -> None:
    for path in FILES:
        if room(path) in rooms:
            for name in imports(path):
                assert not any(name == f or name.startswith(f"{f}.") for f in forbidden), path


def test_only_kernels_know_the_native_module() -> None:
    for path in FILES:
        if room(path) != "kernels":
            assert not {"geomfast._cpu", "geomfast._cuda"} & set(imports(path)), path


def test_only_measures_stacked_training_and_doctor_call_kernels() -> None:
    callers = {
        str(path.relative_to(HOUSE))
        for path in FILES
        if room(path) != "kernels" and any(n.startswith("geomfast.kernels") for n in imports(path))
    }
    assert {"estimators/spectra.py", "estimators/gradients.py"} <= callers
    others = {c for c in callers if not c.startswith("estimators/")}
    assert others == {
        "cli/doctor.py",
        "cli/engine.py",
        "testbed/models/stacked_gradients.py",
        "testbed/training/members.py",
    }


def test_every_room_is_in_the_order() -> None:
    rooms = {room(path) for path in HOUSE.rglob("*.py")} - {"__init__", "__main__"}
    assert rooms <= set(RANK)

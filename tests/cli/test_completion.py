"""What a shell offers: values of options, names of commands, folders; without heavy imports."""

import os
import subprocess
import sys

import pytest

from geomfast.lm.probe_sets import BUILT_IN
from geomfast.sweep.presets import PRESETS

CODE = "from geomfast.cli.main import main; main(prog_name='geomfast')"


def offered(line: str) -> list[str]:
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    environment = os.environ | words | {"_GEOMFAST_COMPLETE": "bash_complete"}
    done = subprocess.run(
        [sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True
    )
    return [word.partition(",")[2] for word in done.stdout.split()]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("geomfast mea", ["measure", "measures"]),
        ("geomfast sweep out --preset ", list(PRESETS)),
        (
            "geomfast sweep out --measures rankme,fi",
            ["rankme,fisher_rank", "rankme,first_component_share"],
        ),
        ("geomfast sweep out --measures rankme,ra", []),
        ("geomfast sweep out --tasks co", ["COPY"]),
        ("geomfast sweep out --levels 1,2,", ["1,2,3"]),
        ("geomfast sweep out --cadence ll", ["llc="]),
        ("geomfast sweep out --device cu", ["cuda"]),
        ("geomfast sweep ou", ["ou"]),
        ("geomfast measure model --probes ", ["builtin", *BUILT_IN]),
        ("geomfast measure model --probes my/own", ["my/own"]),
        ("geomfast calibrate-llc out --task mi", ["mixture"]),
    ],
)
def test_what_is_offered(line: str, words: list[str]) -> None:
    assert offered(line) == words

"""A task of one file, with tokens of its own: what it takes, and what it leaves as it was."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import geomfast
from geomfast.testbed.models.gpt import GPT
from geomfast.testbed.models.scales import SCALES, scale_for
from geomfast.testbed.tasks import PAPER_TASKS, TASKS, TaskError, registered
from geomfast.testbed.tasks.vocabulary import VOCABULARY_SIZE

#: The largest digit, in letters: a task whose answers are tokens of its own.
LARGEST = '''
"""LARGEST: the largest of some digits, as a letter."""

import numpy as np

from geomfast.testbed.tasks.task import Ids, Task, Words, below

LENGTHS = (2, 4, 8)
TOKENS = {"[LARGEST]": 24} | {letter: 25 + i for i, letter in enumerate("abcdefghij")}


def draw(words: Words, level: int) -> tuple[Ids, Ids]:
    sequence = below(words[:, : LENGTHS[level - 1]], 10)
    return sequence, 25 + sequence.max(axis=1, keepdims=True)


def chance(level: int) -> float:
    n = LENGTHS[level - 1]
    return max(((m + 1) ** n - m**n) / 10**n for m in range(10))


TASK = Task(
    "LARGEST", "largest digit", ("2 digits", "4 digits", "8 digits"), draw, chance, TOKENS
)
'''
#: Every Python process that starts finds the tasks in another folder.
SITE = """
import geomfast.testbed
geomfast.testbed.__path__.insert(0, {folder!r})
"""


@pytest.fixture(scope="module")
def with_it(tmp_path_factory):
    """Environment of a geomfast that has the file among its tasks."""
    folder = tmp_path_factory.mktemp("testbed")
    ours = Path(geomfast.__file__).parent
    shutil.copytree(ours / "testbed" / "tasks", folder / "testbed" / "tasks")
    (folder / "testbed" / "tasks" / "largest.py").write_text(LARGEST)
    (folder / "sitecustomize.py").write_text(SITE.format(folder=str(folder / "testbed")))
    there = os.pathsep.join([str(folder), str(ours.parent), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": there}


def run(environment, *command):
    done = subprocess.run(
        [sys.executable, *map(str, command)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_sweep_trains_and_measures_it(with_it, tmp_path):
    sweep = ("-m", "geomfast.cli.main", "sweep", tmp_path / "out", "--preset", "smoke")
    few = ("--steps", 4, "--samples", 20, "--levels", 1, "--scales", "nano", "--seeds", 0)
    run(with_it, *sweep, *few, "--tasks", "LARGEST,COPY", "--measures", "rankme")
    told = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert told["recipes"]["nano"]["vocabulary"] == 35 and told["recipes"]["nano"]["context"] == 40
    assert told["chance"]["LARGEST-1"] == pytest.approx(0.19)
    records = geomfast.load_records(tmp_path / "out")
    assert set(records["task"]) == {"LARGEST", "COPY"}
    logprob = records.query("task == 'LARGEST' and measure == 'answer_logprob' and step == 0")
    assert -8.0 < logprob["value"].item() < -2.0  # of 35 tokens that are about as likely
    run(with_it, "-m", "geomfast.cli.main", "report", tmp_path / "out")


def test_what_was_there_keeps_ids_order_and_size(with_it):
    said = run(
        with_it,
        "-c",
        "from geomfast.testbed.tasks import TASK_NAMES, TaskLevel, PAPER_TASKS\n"
        "from geomfast.testbed.tasks.vocabulary import text\n"
        "from geomfast.testbed.models.scales import scale_for\n"
        "print(TASK_NAMES == (*PAPER_TASKS, 'LARGEST'))\n"
        "print(scale_for('nano', PAPER_TASKS).parameters)\n"
        "print(text(TaskLevel('LARGEST', 1).examples('test', 0, 1).tokens[0]))\n"
        "print(scale_for('nano', ('LARGEST', 'COPY')).vocabulary)",
    ).splitlines()
    assert (said[0], said[1], said[3]) == ("True", "404992", "35")
    first, a, b, equals, letter, end = said[2].split()
    assert (first, equals, end) == ("[LARGEST]", "[=]", "[eos]")
    assert letter == "abcdefghij"[max(int(a), int(b))]


def test_the_eight_need_what_every_scale_has():
    assert scale_for("nano", PAPER_TASKS) == SCALES["nano"]
    assert sum(p.numel() for p in GPT(scale_for("nano", ("PAR",)), 0).parameters()) == 404_992


@pytest.mark.parametrize(
    ("name", "tokens", "said"),
    [
        ("NEW", {}, "no token [NEW]"),
        ("NEW", {"[NEW]": 3}, "has id 3: of the vocabulary of the eight"),
        ("NEW", {"[NEW]": 24, "[COPY]": 25}, "token [COPY] of task NEW"),
        ("NEW", {"[NEW]": 24, "x": 24}, "has id 24: of task NEW"),
        ("COPY", {"[COPY]": 24}, "two tasks of the name COPY"),
        ("COUNT", {"[COUNT]": 24}, "two tasks of the name COUNT"),
        ("../up", {"[../up]": 24}, "capitals and digits"),
    ],
)
def test_one_that_cannot_stand_beside_the_others_is_refused(name, tokens, said):
    one = replace(TASKS["COPY"], name=name, tokens=tokens)
    with pytest.raises(TaskError) as refused:
        registered([*TASKS.values(), one])
    assert said in str(refused.value)


def test_two_with_one_id_are_both_named():
    new = [replace(TASKS["COPY"], name=n, tokens={f"[{n}]": 24}) for n in ("ONE", "TWO")]
    with pytest.raises(TaskError, match=r"\[TWO\] of task TWO has id 24: of task ONE"):
        registered([*TASKS.values(), *new])


def test_others_come_after_the_eight_by_their_ids():
    new = [
        replace(TASKS["COPY"], name=n, tokens={f"[{n}]": i}) for n, i in (("AA", 30), ("ZZ", 24))
    ]
    assert tuple(registered([*new, *TASKS.values()])) == (*PAPER_TASKS, "ZZ", "AA")
    assert registered(new)["AA"].vocabulary == 31 and VOCABULARY_SIZE == 24

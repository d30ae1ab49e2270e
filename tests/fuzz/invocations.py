"""Wrong command lines: each is refused in a message that names what is wrong, and nothing is lost.

``python -m tests.fuzz.invocations FIRST COUNT`` tries the seeds from FIRST on and says what came
out.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import click
from click.testing import CliRunner

from geomfast.cli import calibrate, doctor
from geomfast.cli.choices import (
    CadenceOf,
    Ladder,
    Levels,
    ListOf,
    Numbers,
    OneTaskLevel,
    ScaleNames,
    Seeds,
    Words,
)
from geomfast.cli.main import main as geomfast
from geomfast.runs import execute
from geomfast.runs.executors.engine import Engine
from tests.fuzz.folders import SWEEP, invoke
from tests.fuzz.seeds import asked, outcomes

TINY = [*SWEEP[:-6], "--measures", "rankme", "--threads", "1", "--seeds", "0"]
POPULATION = "--scales 1x8 --seeds 0 --steps 2 --train-length 3 --test-lengths 4 --threads 1 "
POPULATION += "--batch-size 9 --samples 10 --checkpoints 2"
BASE = {
    "sweep": ["{out}", *TINY],
    "population": ["{out}", *POPULATION.split()],
    "measure": ["{swept}", "--out", "{out}", "--measures", "rankme", "--threads", "1"],
    "report": ["{swept}", "--json"],
    "calibrate-llc": ["{swept}", "--threads", "1"],
    "doctor": [],
}
#: Names that no terminal, file system or encoding is at ease with.
AWKWARD = [
    "",
    " ",
    "\x1b[31mred",
    "a\nb",
    "\udcff",
    "n" * 5000,
    "[/]",
    "$a_$",
    "..",
    "-",
    "é" * 200,
]
NUMBERS = ["nan", "inf", "-inf", "-1", "0", "1.5", "1e400", "x", "", "0x10", "1_0", "9" * 30]
NUMBERS += ["-" + "9" * 30, "9" * 5000, "1e-320", "\u0663", "2147483648"]
LISTS = ["", ",", "nonsense", "COPY,,", "nan", "1,", "all,all", "-1", "5..1", "1..", "..", "0x0"]
LISTS += ["1x", "0..9999999999", "9" * 5000, "0.." + "9" * 5000, "1e-5..1e-6", "a=b", "llc=1"]
LISTS += ["llc=" + "9" * 5000, "nan..nan", "1e-300..1e300", "inf", "\u0663x\u0663", *AWKWARD]
#: Options that do not go together, and the word that the refusal says.
CONTRADICTIONS = {
    "sweep": [
        (["--assume", "h200"], "--assume"),
        (["--gpus-per-run", "0.5"], "gpus-per-run"),
        (["--address", "here:1"], "--address"),
        (["--device", "cuda:0", "--engine", "ray"], "--device"),
        (["--stack", "always", "--precision", "bf16"], "--stack"),
        (["--cadence", "llc=3"], "--cadence"),
        (["--device", "tpu"], "--device"),
    ],
    "population": [(["--device", "gpu:x"], "--device"), (["--test-lengths", "3"], "length")],
    "measure": [
        (["--revisions", "main"], "--revisions"),
        (["--revisions", ".."], "--revisions"),
        (["--probes", "nonsense"], "probes"),
        (["--measures", "probe_accuracy"], "probe_accuracy"),
        (["--device", "cuda:99"], "--device"),
    ],
    "report": [
        (["--success", "0.2"], "--success"),
        (["--success", "nan"], "--success"),
        (["--compare", "{swept}"], "--compare"),
        (["--compare", "{other}"], "other"),
        (["--html", "{file}"], "file"),
        (["--html", "{other}"], "--html"),
    ],
    "calibrate-llc": [
        (["--run", "nonsense"], "nonsense"),
        (["--run", "../.."], ".."),
        (["--step", "7777"], "7777"),
        (["--task", "MOD:1"], "--task"),
        (["--device", "cuda:99"], "--device"),
    ],
    "doctor": [(["more"], "more")],
}


class Began(Exception):
    """The command took its arguments for right, and would begin its work."""


@dataclass(frozen=True)
class Case:
    """A command line.

    Attributes:
        arguments: of ``geomfast``.
        named: of which a refusal says one.
        wrong: whether it must be refused.
    """

    arguments: list[str]
    named: list[str]
    wrong: bool


@dataclass(frozen=True)
class Places:
    """What is in a folder of its own before a command is tried there."""

    root: Path

    def all(self) -> dict[str, str]:
        names = ("out", "swept", "other", "file", "table", "nowhere")
        places = {name: str(self.root / name) for name in names}
        return places | {"under": f"{places['file']}/under", "long": f"{self.root}/{'n' * 300}"}

    def make(self) -> None:
        """A finished sweep, a folder of something else, a file of something else, a table."""
        invoke("sweep", str(self.root / "swept"), *SWEEP, "--stack", "never")
        (self.root / "other").mkdir()
        (self.root / "other" / "novel.txt").write_text("Once upon a time")
        (self.root / "file").write_text("not of geomfast")
        (self.root / "table").write_text("no columns of ours\n1\n")

    def content(self) -> dict[str, str]:
        """Every file by its hash; locks, which are empty, aside."""
        files = [path for path in self.root.rglob("*") if path.is_file()]
        return {
            str(path): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in files
            if not path.name.endswith(".lock")
        }


def draw(seed: int, places: Places) -> Case:
    """A command line with one or two wrong things."""
    rng = random.Random(seed)
    name = rng.choice([*BASE, "sweep", "population", "measure", "report"])
    command = geomfast.get_command(click.Context(geomfast), name)
    assert command is not None
    where = places.all()
    arguments, named, wrong, last = list(BASE[name]), [], False, []
    positional = bool(arguments)
    for _ in range(rng.choice([1, 1, 2])):
        kind = rng.choice(["value"] * 5 + ["path", "unknown", "contradiction", "bare", "missing"])
        options = [p for p in command.params if isinstance(p, click.Option) and not p.is_flag]
        if kind == "value" and options:
            option = rng.choice(options)
            value = _value(rng, option, list(where.values()))
            arguments += [f"--{option.opts[0].lstrip('-')}={value}"]
            named += [option.opts[0], value]
        elif kind == "path" and positional:
            place = rng.choice(["other", "file", "nowhere", "under", "long", "", "/dev/null"])
            place = where.get(place, place) if rng.random() < 0.8 else rng.choice(AWKWARD)
            place = place if place != "-" else ""  # which is an option else
            arguments = [place, *arguments[1:]]
            named += [place, "'OUT'", "'SOURCE'"]
        elif kind == "unknown":
            option = rng.choice(["--nonsense", "-q", "--sed", "--outt=3", "---", "--\x1b[31m"])
            arguments += [option]
            named += [option.partition("=")[0]]
            wrong = True
        elif kind == "bare" and options:
            last = [rng.choice(options).opts[0]]
            named += last
            wrong = True
        elif kind == "missing" and positional:
            arguments, positional = arguments[1:], False
            named += ["'OUT'", "'SOURCE'"]
            wrong = True
        else:
            more, word = rng.choice(CONTRADICTIONS[name])
            arguments += more
            named += [word]
    if name in ("sweep", "measure") and rng.random() < 0.3:
        arguments += ["--dry-run"]
    filled = [word.format(**where) if "{" in word else word for word in arguments + last]
    return Case([name, *filled], named, wrong)


def _value(rng: random.Random, option: click.Option, paths: list[str]) -> str:
    lists = (CadenceOf, Ladder, Levels, ListOf, Numbers, OneTaskLevel, ScaleNames, Seeds, Words)
    if isinstance(option.type, lists):
        return rng.choice(LISTS)
    if isinstance(option.type, click.Path):
        return rng.choice([*paths, *AWKWARD, "/dev/null"])
    if isinstance(option.type, click.Choice | click.types.StringParamType):
        return rng.choice([*AWKWARD, "nonsense", "1"])
    return rng.choice(NUMBERS)


@contextmanager
def no_work() -> Iterator[None]:
    """Inside, a command that would train, measure or sample raises :class:`Began`."""

    def began(*_: Any, **__: Any) -> Any:
        raise Began

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(Engine, "events", began))
        for module, name in (
            (execute, "execute"),
            (calibrate, "_grid"),
            (calibrate, "_ladder"),
            (doctor, "_findings"),
        ):
            stack.enter_context(mock.patch.object(module, name, began))
        yield


def tried(seed: int, places: Places) -> str:
    """What came of a seed's command line: refused, valid, or what is wrong with its outcome."""
    case = draw(seed, places)
    before = places.content()
    with no_work(), contextlib.chdir(places.root):  # what is written without a folder is noticed
        result = CliRunner().invoke(geomfast, case.arguments)
    after = places.content()
    said = f"{case.arguments!a:.600}\n{result.output[-1200:]}"
    lost = [path for path, found in before.items() if after.get(path) != found]
    asked = [word.rpartition("=")[2] for word in case.arguments if word]
    ours = tuple(str(places.root / name) for name in ("out", "nowhere", *filter(None, asked)))
    reported = tuple(str(places.root / "swept" / name) for name in ("report", "figures", "tables"))
    lost = [path for path in lost if not path.startswith(reported)]
    for path in after.keys() - before:  # no seed depends on the one before
        Path(path).unlink()
    if lost:
        return f"changed: {lost}: {said}"
    if strange := [p for p in after.keys() - before if not p.startswith((*ours, *reported))]:
        return f"written: {strange}: {said}"
    error = result.exception
    if isinstance(error, Began) or result.exit_code == 0:
        return f"accepted: {said}" if case.wrong else "valid"
    if error is not None and not isinstance(error, SystemExit):
        trace = "".join(traceback.format_exception(error)[-4:])
        return f"traceback: {said}\n{trace}"
    if "Traceback" in result.output or result.exit_code not in (1, 2):
        return f"exit code {result.exit_code}: {said}"
    if any(ord(char) < 32 and char != "\n" for char in result.output):
        return f"control characters: {said!a}"
    return (
        "refused" if _names(result.output, case.named) else f"unnamed {case.named!a:.300}: {said}"
    )


def _names(output: str, named: list[str]) -> bool:
    """Whether the message says one of them, however it is wrapped and escaped."""
    lines = [line for line in output.splitlines() if not line.startswith(("Usage: ", "Try '"))]
    flat = "".join("".join(lines).split())
    for word in named:
        plain = word.encode("unicode_escape", "backslashreplace").decode()
        shown = (word, plain, repr(word)[1:-1], ascii(word)[1:-1], Path(word).name)
        shown += (word.lstrip("-").replace("-", "_"),)
        if any((part := "".join(text.split())[:40]) and part in flat for text in shown):
            return True
    return False


#: What may come of a command line.
GOOD = ("refused", "valid")


def run(seeds: range, say: Callable[[str], object]) -> Counter[str]:
    """Try seeds in a folder of their own; counts of what came out, of which some is good."""
    with tempfile.TemporaryDirectory() as root:
        places = Places(Path(root))
        places.make()
        return outcomes(seeds, lambda seed: tried(seed, places), GOOD, say)


def main() -> None:
    """Try as many seeds as are asked for."""
    seeds = asked("invocations", __doc__)
    counts = run(seeds, print)
    print(f"{len(seeds)} command lines from seed {seeds.start}:", dict(counts))
    sys.exit(not set(counts) <= set(GOOD))


if __name__ == "__main__":
    main()

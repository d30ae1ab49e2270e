"""Probe sets: prompts with a few continuations, one of which is right.

Seven are built in, of the kinds that arXiv:2602.15997 measured Pythia with: syntax, semantics,
arithmetic, in-context learning, facts, reasoning, general. They are our own.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

#: Names of the built-in sets.
BUILT_IN = (
    "syntax",
    "semantics",
    "arithmetic",
    "in_context",
    "facts",
    "reasoning",
    "general",
)
#: What names a set of the `datasets` package: ``dataset:NAME``, ``dataset:NAME:CONFIG:SPLIT``.
DATASET = "dataset:"
_ANSWERS = "a number from 0, one of the choices, or one of their labels"


class ProbesError(Exception):
    """Probes that cannot be read; the message says where."""


@dataclass(frozen=True)
class ProbeItem:
    """One probe.

    Attributes:
        prompt: what the model reads.
        choices: continuations, of which each stands alone after the prompt; one space goes
            between, unless one of the two brings white space.
        answer: index of the right one.
    """

    prompt: str
    choices: tuple[str, ...]
    answer: int

    def __post_init__(self) -> None:
        if not isinstance(self.prompt, str) or not self.prompt.strip():
            raise ValueError(f"prompt must be a text, not {self.prompt!r:.200}")
        require_text(self.prompt, "prompt")
        if len(self.choices) < 2:
            raise ValueError(f"choices must be two or more, not {list(self.choices)}")
        for choice in self.choices:
            if not isinstance(choice, str) or not choice.strip():
                raise ValueError(f"choices must be texts, not {choice!r:.200}")
            require_text(choice, "choices")
        if len(set(self.choices)) < len(self.choices):
            raise ValueError(f"choices must differ from each other: {list(self.choices)}")
        if type(self.answer) is not int or not 0 <= self.answer < len(self.choices):
            raise ValueError(
                f"answer must be a number from 0 to {len(self.choices) - 1}, not {self.answer!r}"
            )

    def continuation(self, choice: int) -> str:
        """A choice with the white space that goes between."""
        text = self.choices[choice]
        between = self.prompt[-1].isspace() or text[0].isspace()
        return text if between else f" {text}"


@dataclass(frozen=True)
class ProbeSet:
    """Probes of one kind.

    Attributes:
        name: the task that records name.
        items: two or more.
    """

    name: str
    items: tuple[ProbeItem, ...]

    def __post_init__(self) -> None:
        try:
            require_text(self.name, "name")
        except ValueError as error:
            raise ProbesError(f"a probe set: {error}; rename its file") from error
        if len(self.items) < 2:
            raise ProbesError(f"{self.name} has {len(self.items)} probes; 2 or more are needed")


@cache
def builtin() -> dict[str, ProbeSet]:
    """The built-in sets by name, in the order of :data:`BUILT_IN`."""
    folder = resources.files("geomfast.lm") / "probes"
    return {
        name: _parsed(name, (folder / f"{name}.jsonl").read_text(encoding="utf-8"), f"{name}.jsonl")
        for name in BUILT_IN
    }


def read_probes(source: str | os.PathLike[str]) -> dict[str, ProbeSet]:
    """Probe sets by name.

    Args:
        source: ``builtin``; the name of a built-in set; a JSONL file, whose name is the set's; a
            folder of them, or one that `datasets` has saved; or a set of the hub as
            ``dataset:NAME``, ``dataset:NAME:CONFIG`` or ``dataset:NAME:CONFIG:SPLIT`` (validation
            by default). A line is an object with `prompt`, `choices` (a list of two or more) and
            `answer` (the index of the right one, from 0); what else it has is not looked at.
            Datasets have columns of these names, or as :func:`from_dataset` describes.

    Raises:
        ProbesError: no such file; a line that is no probe, with file and line; fewer than two.
    """
    text = os.fspath(source)
    if text == "builtin":
        return builtin()
    if text in BUILT_IN:
        return {text: builtin()[text]}
    if text.startswith(DATASET):
        return _hub_dataset(text)
    path = Path(source).expanduser()
    if path.is_dir():
        files = sorted(path.glob("*.jsonl"))
        if files:
            return {file.stem: _file(file) for file in files}
        return _saved_dataset(path)
    if not path.is_file():
        raise ProbesError(
            f"no such file: {path} (nor a built-in set; those are {', '.join(BUILT_IN)})"
        )
    return {path.stem: _file(path)}


def from_dataset(
    rows: Iterable[Mapping[str, Any]],
    name: str,
    *,
    prompt: str = "prompt",
    choices: str = "choices",
    answer: str = "answer",
) -> ProbeSet:
    """A probe set from the rows of a dataset, of the `datasets` package say.

    Args:
        rows: one probe each.
        name: of the set.
        prompt, choices, answer: columns. Choices are texts, or a mapping with `text` and `label`
            lists; the answer is an index from 0, one of the choices, or one of the labels.

    Raises:
        ProbesError: a row that is no probe, with its number.
    """
    items = []
    for number, row in enumerate(rows):
        try:
            items.append(_item(row, prompt, choices, answer))
        except ValueError as error:
            raise ProbesError(f"{name}, row {number}: {error}") from error
    return ProbeSet(name, tuple(items))


def _item(row: Mapping[str, Any], prompt: str, choices: str, answer: str) -> ProbeItem:
    for column in (prompt, choices, answer):
        if column not in row:
            raise ValueError(f"no {column!r} among {', '.join(map(repr, row))}")
    texts, labels, right = row[choices], [], row[answer]
    if isinstance(texts, Mapping):
        texts, labels = texts.get("text", ()), texts.get("label", ())
        if not isinstance(labels, (list, tuple)):
            raise ValueError(f"label must be a list, not {labels!r:.200}")
        labels = list(labels)
    if not isinstance(texts, (list, tuple)):
        raise ValueError(f"{choices} must be a list of texts, not {texts!r:.200}")
    # A label first: those of some sets are numbers from 1, written as texts.
    if right in labels:
        right = labels.index(right)
    elif isinstance(right, str):
        if right not in texts:
            raise ValueError(f"{answer} must be {_ANSWERS}, not {right!r}")
        right = texts.index(right)
    return ProbeItem(row[prompt], tuple(texts), right)


def _file(path: Path) -> ProbeSet:
    return _parsed(path.stem, _content(path), str(path))


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """Number, from 1, and content of every line of a file that is not blank.

    Raises:
        ProbesError: it is not readable as UTF-8.
    """
    yield from _lines(_content(path))


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ProbesError(f"{path}: not readable as UTF-8 text: {error}") from error


def _lines(text: str) -> Iterator[tuple[int, str]]:
    # Not `splitlines`: JSON's texts may hold what that takes for the end of a line.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line


def _parsed(name: str, text: str, where: str) -> ProbeSet:
    items = []
    for number, line in _lines(text):
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"not an object: {line.strip()[:60]}")
            items.append(_item(row, "prompt", "choices", "answer"))
        except (ValueError, RecursionError) as error:
            raise ProbesError(f"{where}, line {number}: {error}") from error
    if len(items) < 2:
        raise ProbesError(f"{where} has {len(items)} probes; 2 or more are needed")
    return ProbeSet(name, tuple(items))


def require_text(text: str, what: str) -> None:
    """Refuse halves of character pairs, which neither files nor tokenizers can have."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{what} holds half of a character pair: {text!a:.200}") from error


def _datasets() -> Any:
    try:
        return importlib.import_module("datasets")
    except ImportError as error:
        raise ProbesError(f"{error}: pip install datasets") from error


def _hub_dataset(source: str) -> dict[str, ProbeSet]:
    datasets = _datasets()
    name, config, split = (*source.removeprefix(DATASET).split(":"), "", "")[:3]
    options: dict[str, Any] = {"split": split or "validation"}
    if "trust_remote_code" in inspect.signature(datasets.load_dataset).parameters:
        options["trust_remote_code"] = False  # versions that have it ask the user
    try:
        rows = datasets.load_dataset(name, config or None, **options)
    except Exception as error:  # of the network, of the hub, of the files
        raise ProbesError(f"{source} cannot be loaded: {error}") from error
    short = name.rsplit("/", 1)[-1]
    return {short: from_dataset(rows, short)}


def _saved_dataset(path: Path) -> dict[str, ProbeSet]:
    if not (path / "dataset_info.json").is_file():
        raise ProbesError(f"{path} holds no *.jsonl, and no dataset saved by datasets")
    return {path.name: from_dataset(_datasets().load_from_disk(str(path)), path.name)}

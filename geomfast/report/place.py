"""Where a report goes: over what geomfast wrote, and over nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from geomfast.files import FileError, refuse_links, write_atomically

#: What a page says in its head and report.json under ``generator``.
MARK = "geomfast report"
#: Names of the files of a report, one a line below :data:`_HEAD`: figures and tables cannot all
#: say who wrote them.
JOURNAL = "report-files.txt"
_HEAD = "# Written by geomfast report, which overwrites these files and no others."
_PAGE, _JSON = "report.html", "report.json"
#: What a folder may hold that is another's.
_TAKEN = (_PAGE, _JSON, JOURNAL, "figures", "tables")
#: Of an older page, which had no mark, all of these stand in the head.
_OLD_PAGE = (b"<!doctype html>", b"default-src 'none'", b"<title>geomfast: ")
#: Of an older report.json, all names of either.
_OLD_JSON = (
    {"name", "settings", "populations"},
    {"name", "settings", "against", "paper", "claims", "summary", "cells"},
)
_HEAD_BYTES = 4096
#: Larger ones are not read, to see whether they are ours.
_LARGEST_JSON = 256 << 20
#: Folders tried beside a table.
_TRIED = 20


class NotOurs(FileError):
    """A file that is in the way and that geomfast did not write."""


@dataclass
class Place:
    """Where a report is written, and what of it may be overwritten.

    Attributes:
        root: the folder.
        html: the page.
        note: why it is not where one would look for it; empty if it is.
        known: files of earlier reports, relative to ``root``.
        old: whether a report of a version without a list of its files lies there.
    """

    root: Path
    html: Path
    note: str = ""
    known: set[str] = field(default_factory=set)
    old: bool = False

    def write(self, path: Path, content: bytes) -> None:
        """Write a file of the report, atomically.

        Raises:
            NotOurs: there is one that geomfast did not write.
            OSError: it cannot be written.
        """
        self._refuse(path)
        if path.is_relative_to(self.root):
            name = path.relative_to(self.root).as_posix()
            if name not in self.known:
                self._list(name)
        write_atomically(path, content)

    def _refuse(self, path: Path) -> None:
        if not os.path.lexists(path) or is_ours(path):
            return
        if path.is_file() and path.is_relative_to(self.root):
            name = path.relative_to(self.root)
            if name.as_posix() in self.known or (self.old and name.parts[0] in _TAKEN[-2:]):
                return
        raise NotOurs(
            f"{path} is there already, and geomfast report did not write it: move it, or rename it"
        )

    def _list(self, name: str) -> None:
        """Before the file is written, so that one of a report that was killed is known as ours."""
        self.root.mkdir(parents=True, exist_ok=True)
        names = [name]
        if self.old and not self.known:
            there = (path for kind in _TAKEN[-2:] for path in (self.root / kind).rglob("*"))
            names += [path.relative_to(self.root).as_posix() for path in there if path.is_file()]
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
        with os.fdopen(os.open(self.root / JOURNAL, flags, 0o666), "ab") as handle:
            lines = [_HEAD, *names] if handle.tell() == 0 else names
            handle.write("".join(f"{line}\n" for line in lines).encode(errors="surrogateescape"))
        self.known.update(names)


def place_of_folder(out: Path, html: Path | None) -> Place:
    """The place of a report on a folder: the folder itself.

    Args:
        out: the folder.
        html: where the page is to be; ``report.html`` in the folder when None.

    Raises:
        NotOurs: the page, or report.json, is there and not geomfast's.
        UnsafeName: a link in the folder leads out of it.
    """
    refuse_links(out)
    known = _listed(out)
    old = known is None and any(is_ours(out / name) for name in (_PAGE, _JSON))
    place = Place(out, html or out / _PAGE, known=known or set(), old=old)
    # Before any work, rather than after the figures.
    for path in (place.html, out / _JSON):
        place._refuse(path)
    if known is None and os.path.lexists(out / JOURNAL):
        raise NotOurs(f"{out / JOURNAL} is not the list of files of a report: move it")
    return place


def place_of_table(table: Path, html: Path | None) -> Place:
    """The place of a report on a table: a folder beside it with its name, or with ``-report``.

    Args:
        table: a file.
        html: where the page is to be; ``report.html`` in the folder when None.

    Raises:
        NotOurs: the page is there and not geomfast's, or so is everything in every such folder.
        UnsafeName: a link in the folder leads out of it.
    """
    first = table.with_suffix("")
    ends = ["", "-report", *(f"-report-{n}" for n in range(2, _TRIED))]
    for end in ends:
        root = first.with_name(first.name + end)
        if _is_free(root):
            place = place_of_folder(root, html)
            if end:
                place.note = (
                    f"the report is in {root}: {first} holds what geomfast report did not write"
                )
            return place
    raise NotOurs(f"{first} and {len(ends) - 1} folders like it hold files of others: move them")


def is_ours(path: Path) -> bool:
    """Whether a page or report.json is one of geomfast, by its mark, or by what older ones hold."""
    if path.is_symlink() or not path.is_file():
        return False
    try:
        if path.suffix == ".json":
            return path.stat().st_size <= _LARGEST_JSON and _is_report(
                json.loads(path.read_bytes())
            )
        with path.open("rb") as handle:
            head = handle.read(_HEAD_BYTES)
    except (OSError, ValueError, RecursionError):
        return False
    mark = f'<meta name="generator" content="{MARK}">'.encode()
    return mark in head or (head.startswith(_OLD_PAGE[0]) and all(x in head for x in _OLD_PAGE))


def _is_report(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return False
    return value.get("generator") == MARK or any(names <= value.keys() for names in _OLD_JSON)


def _is_free(root: Path) -> bool:
    """Whether the report of a table may go to a folder."""
    if not os.path.lexists(root):
        return True
    if not root.is_dir() or any((root / name).exists() for name in ("records", "settings.json")):
        return False
    there = [name for name in _TAKEN if os.path.lexists(root / name)]
    return (
        not there
        or _listed(root) is not None
        or (JOURNAL not in there and any(is_ours(root / name) for name in (_PAGE, _JSON)))
    )


def _listed(root: Path) -> set[str] | None:
    """The files of earlier reports in a folder; None where there is no list of them."""
    path = root / JOURNAL
    if path.is_symlink() or not path.is_file():
        return None
    with path.open(encoding="utf-8", errors="surrogateescape") as handle:
        if handle.readline().rstrip("\n") != _HEAD:
            return None
        return {line.rstrip("\n") for line in handle}

"""Places of reports, where only files that geomfast wrote are overwritten."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from geomfast.files import FileError, refuse_links, write_atomically

#: Mark in the head of a page, and in report.json under ``generator``.
MARK = "geomfast report"
#: List of the files of a report, one per line below :data:`_HEAD`, as figures and tables have no
#: mark of their own.
JOURNAL = "report-files.txt"
_HEAD = "# Written by geomfast report, which overwrites these files and no others."
_PAGE, _JSON = "report.html", "report.json"
#: Files and folders of a report, which may exist before it and belong to others.
_TAKEN = (_PAGE, _JSON, JOURNAL, "figures", "tables")
#: Parts of the head of an older page, which had no mark.
_OLD_PAGE = (b"<!doctype html>", b"default-src 'none'", b"<title>geomfast: ")
#: Keys of an older report.json, of either kind of report.
_OLD_JSON = (
    {"name", "settings", "populations"},
    {"name", "settings", "against", "paper", "claims", "summary", "cells"},
)
_HEAD_BYTES = 4096
#: Bytes of the largest report.json that is read for its mark.
_LARGEST_JSON = 256 << 20
#: Number of folder names tried beside a table.
_TRIED = 20


class NotOurs(FileError):
    """A file at the place of one of the report that geomfast did not write."""


@dataclass
class Place:
    """The place of a report, and the files there that may be overwritten.

    Attributes:
        root: the folder.
        html: the page.
        note: the reason for an unusual place; empty for the usual one.
        known: files of earlier reports, relative to ``root``.
        old: whether there is a report of a version that did not list its files.
    """

    root: Path
    html: Path
    note: str = ""
    known: set[str] = field(default_factory=set)
    old: bool = False

    def write(self, path: Path, content: bytes) -> None:
        """Write a file of the report, atomically.

        Raises:
            NotOurs: geomfast did not write the file of that name.
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
        """List a file before it is written, so that those of a killed report are known as well."""
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
        html: path of the page; ``report.html`` in the folder when None.

    Raises:
        NotOurs: the page or report.json exists and is not geomfast's.
        UnsafeName: a link in the folder leads out of it.
    """
    refuse_links(out)
    known = _listed(out)
    old = known is None and any(is_ours(out / name) for name in (_PAGE, _JSON))
    place = Place(out, html or out / _PAGE, known=known or set(), old=old)
    # Refused before any work, not after the figures are drawn.
    for path in (place.html, out / _JSON):
        place._refuse(path)
    if known is None and os.path.lexists(out / JOURNAL):
        raise NotOurs(f"{out / JOURNAL} is not the list of files of a report: move it")
    return place


def place_of_table(table: Path, html: Path | None) -> Place:
    """The place of a report on a table: a folder beside it with its name, or with ``-report``.

    Args:
        table: a file.
        html: path of the page; ``report.html`` in the folder when None.

    Raises:
        NotOurs: the page exists and is not geomfast's, or every such folder has files of others.
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
    """Whether geomfast wrote a page or report.json, by its mark or the contents of older ones."""
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

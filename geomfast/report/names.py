"""Names of runs, tasks and layers, made safe for files, figures, pages, terminals and tables.

Names come from files that anybody may have written.  Each medium has one function here; jinja2
escapes pages besides, and figures draw all text literally, without mathematics.
"""

from __future__ import annotations

import hashlib
import itertools
import unicodedata
from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd
from rich.text import Text

from geomfast.files import printable

#: Bytes of the longest file name, without its suffixes.
_LONGEST_SLUG = 80
#: Names of devices in Windows, which no file may have.
_RESERVED = {"con", "prn", "aux", "nul"}
_RESERVED |= {f"{port}{n}" for port in ("com", "lpt") for n in range(10)}
#: First characters by which a spreadsheet takes a cell for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def one_line(text: Any) -> str:
    r"""Text on one line without control characters: ``\n`` for a line break."""
    shown = printable(str(text))
    return shown.replace("\n", "\\n").replace("\t", "\\t")


def in_terminal(text: Any) -> Text:
    """Text for rich, without markup."""
    return Text(printable(str(text)))


def in_spreadsheet(text: Any) -> Any:
    """A cell that no spreadsheet takes for a formula; other values than text are unchanged."""
    if not isinstance(text, str):
        return text
    text = printable(text)
    return f"'{text}" if text.startswith(_FORMULA) else text


def slug(name: str) -> str:
    """A file name for a name, which other names may share; see :func:`slugs`."""
    name = unicodedata.normalize("NFC", name)
    safe = "".join(c if c.isalnum() or c in "-_+." else "-" for c in name)
    safe = safe.lstrip(".").rstrip(". ")
    whole = safe.encode()
    if len(whole) > _LONGEST_SLUG:
        return f"{whole[:_LONGEST_SLUG].decode(errors='ignore')}-{_hash(name, 8)}"
    # Names of devices are reserved with any suffix.
    return safe if safe and safe.split(".")[0].casefold() not in _RESERVED else f"_{safe}"


def slugs(names: Iterable[str]) -> dict[str, str]:
    """A file name for each name, all different even where upper and lower case are the same."""
    return distinct(names, slug)


def labels(names: Iterable[str], longest: int) -> dict[str, str]:
    """A text of at most ``longest`` letters for each name, all different."""

    def short(name: str) -> str:
        line = one_line(name)
        if len(line) <= longest:
            return line
        return f"{line[: longest - 8]}…{_hash(name, 7)}"

    return distinct(names, short, same=lambda text: text)


def distinct(
    names: Iterable[str],
    form: Callable[[str], str],
    same: Callable[[str], str] = lambda text: unicodedata.normalize("NFKC", text).casefold(),
) -> dict[str, str]:
    """A text for each name by a function, with a hash of the name where two texts are the same.

    Args:
        names: those of one report.
        form: makes a text of a name.
        same: key by which two texts are the same.
    """
    found = {name: form(name) for name in dict.fromkeys(names)}
    for digits in itertools.count(6, 6):
        groups: dict[str, list[str]] = {}
        for name, text in found.items():
            groups.setdefault(same(text), []).append(name)
        meeting = [name for group in groups.values() if len(group) > 1 for name in group]
        if not meeting:
            break
        for name in meeting:
            found[name] = f"{form(name)}-{_hash(name, digits)}"
    return found


def one_line_columns(table: pd.DataFrame, columns: Iterable[str]) -> pd.DataFrame:
    """A table with the names in some columns made safe by :func:`one_line`.

    Different names stay different.
    """
    changed = {}
    for column in columns:
        new = distinct(table[column].unique(), one_line, same=lambda text: text)
        if any(name != text for name, text in new.items()):
            changed[column] = table[column].map(new)
    return table.assign(**changed) if changed else table


def _hash(name: str, digits: int) -> str:
    return hashlib.sha256(name.encode(errors="backslashreplace")).hexdigest()[:digits]

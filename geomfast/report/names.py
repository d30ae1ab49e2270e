"""Names as file names, figures, pages and terminals show them.

Names come from files that anybody may have written.  Each medium has one function here; pages are
escaped by jinja2 besides, and figures draw all text as it is, without mathematics.
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

#: Bytes of a file name of ours, without what is put after it.
_LONGEST_SLUG = 80
#: Names that Windows has for devices.
_RESERVED = {"con", "prn", "aux", "nul"}
_RESERVED |= {f"{port}{n}" for port in ("com", "lpt") for n in range(10)}
#: What a spreadsheet takes a cell for a formula by.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def one_line(text: Any) -> str:
    r"""Text on one line that a terminal shows and does not obey: ``\n`` for a line break."""
    shown = printable(str(text))
    return shown.replace("\n", "\\n").replace("\t", "\\t")


def in_terminal(text: Any) -> Text:
    """Text for rich, which reads no markup in it."""
    return Text(printable(str(text)))


def in_spreadsheet(text: Any) -> Any:
    """A cell that no spreadsheet takes for a formula; what is not text stays what it is."""
    if not isinstance(text, str):
        return text
    text = printable(text)
    return f"'{text}" if text.startswith(_FORMULA) else text


def slug(name: str) -> str:
    """A file name for a name; others may have the same, see :func:`slugs`."""
    name = unicodedata.normalize("NFC", name)
    safe = "".join(c if c.isalnum() or c in "-_+." else "-" for c in name)
    safe = safe.lstrip(".").rstrip(". ")
    whole = safe.encode()
    if len(whole) > _LONGEST_SLUG:
        return f"{whole[:_LONGEST_SLUG].decode(errors='ignore')}-{_hash(name, 8)}"
    # A suffix does not help against names of devices.
    return safe if safe and safe.split(".")[0].casefold() not in _RESERVED else f"_{safe}"


def slugs(names: Iterable[str]) -> dict[str, str]:
    """A file name for each name, all different, also where the case of letters does not count."""
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
    """What a function makes of each name, with a hash of the name where two of them meet.

    Args:
        names: those of one report; each counts once.
        form: makes a text of a name.
        same: two texts meet where this is equal of them.
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
    """A table whose names in some columns are shown and not obeyed, by :func:`one_line`.

    Names that differ still do.
    """
    changed = {}
    for column in columns:
        new = distinct(table[column].unique(), one_line, same=lambda text: text)
        if any(name != text for name, text in new.items()):
            changed[column] = table[column].map(new)
    return table.assign(**changed) if changed else table


def _hash(name: str, digits: int) -> str:
    return hashlib.sha256(name.encode(errors="backslashreplace")).hexdigest()[:digits]

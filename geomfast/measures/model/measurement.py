"""Result of one measurement: a table for readers, and the same values for programs."""

from __future__ import annotations

import html
import io
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from geomfast.estimators.sampling.rules import believable
from geomfast.files import printable, write_atomically

_HEADINGS = ("measure", "layer", "value", "verdict", "meaning")
_WIDTH = 120
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1f2328; margin: 2rem auto; max-width: 70rem;
  padding: 0 1rem }
.geomfast { overflow-x: auto }
.geomfast table { border-collapse: collapse; font-size: 14px }
.geomfast th, .geomfast td { text-align: left; padding: .3rem .8rem; vertical-align: top;
  border-bottom: 1px solid #d1d5db }
.geomfast td.value { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums }
.geomfast td.doubt { color: #b42318 }
.geomfast p { color: #4b5563 }
"""


@dataclass(frozen=True)
class Entry:
    """One value.

    Attributes:
        measure: the measure that it is of.
        name: of the value: ``llc``, or ``llc_rhat`` beside it.
        layer: ``block 1`` ... ``final``; empty where there is none.
        value, stderr: NaN where none is defined, or could not be taken.
        n: samples behind it.
        verdict: in a few words how far to believe it; "ok" or "converged" where nothing is amiss.
        meaning: what it says, in a sentence.
        unit: of the value.
        seconds: that it took; backend: that computed it.
        settings: that it was taken with.
    """

    measure: str
    name: str
    layer: str
    value: float
    stderr: float
    n: int
    verdict: str
    meaning: str
    unit: str
    seconds: float
    backend: str
    settings: dict[str, Any]

    @property
    def beside(self) -> bool:
        """Whether the value only describes how another one was computed."""
        return not self.verdict

    @property
    def doubtful(self) -> bool:
        """Whether the verdict says that the value is unreliable."""
        good = self.verdict.startswith("ok") or believable(self.verdict)
        return not self.beside and not good

    @property
    def text(self) -> str:
        """Value and error."""
        if math.isnan(self.value):
            return "–"
        return f"{self.value:.4g}" + ("" if math.isnan(self.stderr) else f" ± {self.stderr:.2g}")


@dataclass(frozen=True)
class Measurement(Sequence[Entry]):
    """All values of one call of :func:`geomfast.measure`; shown as a table.

    Attributes:
        entries: every value, in the order they were taken.
        notices: what had to be changed, or left out, and why.
    """

    entries: tuple[Entry, ...]
    notices: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, key: Any) -> Any:
        """An entry by its number; a value by its name, or by (name, layer).

        Raises:
            KeyError: no value has this name, or several layers have one.
        """
        if not isinstance(key, str | tuple):
            return self.entries[key]
        name, layer = key if isinstance(key, tuple) else (key, None)
        found = [e for e in self.entries if e.name == name and layer in (None, e.layer)]
        if len(found) == 1:
            return found[0]
        if not found:
            there = ", ".join(dict.fromkeys(entry.name for entry in self.entries))
            raise KeyError(f"no value {key!r:.80}; there are: {there}")
        layers = ", ".join(repr(entry.layer) for entry in found)
        raise KeyError(
            f"{name} has a value for each layer: [{name!r}, layer], layer one of {layers}"
        )

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    @property
    def frame(self) -> pd.DataFrame:
        """Every value, also those that only say how another was found."""
        rows = [asdict(entry) for entry in self.entries]
        return pd.DataFrame(rows, columns=list(Entry.__dataclass_fields__))

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """The values as JSON; NaN is null.

        Args:
            path: also written there, where given.
        """
        rows = [
            {
                k: None if isinstance(v, float) and not math.isfinite(v) else v
                for k, v in row.items()
            }
            for row in map(asdict, self.entries)
        ]
        content = {"values": rows, "notices": list(self.notices)}
        text = json.dumps(content, indent=2, default=list) + "\n"
        if path is not None:
            write_atomically(Path(path), text.encode())
        return text

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Writes the table as one HTML page that opens offline, and returns its path."""
        settings = "".join(
            f"<li>{_escaped(measure)}: {_escaped(said)}</li>" for measure, said in self._settings()
        )
        page = (
            '<!doctype html><html lang="en"><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>Measurement</title><style>{_STYLE}</style><h1>Measurement</h1>"
            f"{self._table_html()}<h2>Settings</h2><ul>{settings}</ul></html>\n"
        )
        write_atomically(Path(path), page.encode())
        return Path(path)

    def _settings(self) -> list[tuple[str, str]]:
        told = {entry.measure: entry.settings for entry in self.entries}
        return [
            (measure, ", ".join(f"{k} = {v}" for k, v in settings.items() if k != "measure"))
            for measure, settings in told.items()
        ]

    def _cells(self) -> Iterator[tuple[Entry, tuple[str, ...]]]:
        for entry in self.entries:
            if not entry.beside:
                yield entry, (entry.name, entry.layer, entry.text, entry.verdict, entry.meaning)

    def __rich__(self) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for heading in _HEADINGS:
            # Numbers are never broken; words are.
            table.add_column(
                heading,
                justify="right" if heading == "value" else "left",
                no_wrap=heading in _HEADINGS[:3],
            )
        for entry, cells in self._cells():
            texts = [Text(printable(cell)) for cell in cells]
            if entry.doubtful:
                texts[3].stylize("red")
            table.add_row(*texts)
        return table

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=_WIDTH)
        with console.capture() as capture:
            console.print(self)
            for notice in self.notices:
                console.print(Text(printable(notice)))
        return "\n".join(line.rstrip() for line in capture.get().splitlines())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return f"<style>{_STYLE[_STYLE.index('.geomfast {') :]}</style>{self._table_html()}"

    def _table_html(self) -> str:
        heads = "".join(f"<th>{heading}</th>" for heading in _HEADINGS)
        rows = ""
        for entry, cells in self._cells():
            looks = ("", "", ' class="value"', ' class="doubt"' if entry.doubtful else "", "")
            rows += "".join(
                ["<tr>"]
                + [f"<td{look}>{_escaped(c)}</td>" for look, c in zip(looks, cells, strict=True)]
                + ["</tr>"]
            )
        notices = "".join(f"<p>{_escaped(notice)}</p>" for notice in self.notices)
        return f'<div class="geomfast"><table><tr>{heads}</tr>{rows}</table>{notices}</div>'


def _escaped(text: str) -> str:
    return html.escape(printable(text))

"""Run a tutorial's script, and write the page that it makes: text, code, what it printed, figures.

    python docs/tutorial/render.py docs/tutorial/grokking.py docs/tutorial

A figure's file is named by what it shows, which becomes its text for those who cannot see it.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

#: A line of its own that begins a cell, of text or of code.
_CELL = re.compile(r"^# %%( \[markdown\])?\n", re.MULTILINE)


def cells(script: str) -> list[tuple[bool, str]]:
    """Whether it is text, and its content, of every cell in order."""
    _, *parts = _CELL.split(script)
    return [
        (bool(text), re.sub("^# ?", "", body.strip(), flags=re.MULTILINE) if text else body.strip())
        for text, body in zip(parts[::2], parts[1::2], strict=True)
    ]


def render(script: Path, target: Path) -> Path:
    """Run every cell in a temporary folder; write the page, and its figures beside it.

    Args:
        script: of cells, as notebooks have them: ``# %%`` and ``# %% [markdown]``.
        target: folder of the page.

    Returns:
        Path of the page.
    """
    source, target, started = script.read_text(), target.resolve(), time.perf_counter()
    names: dict[str, Any] = {"__name__": "__main__"}
    page: list[str] = []
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for is_text, body in cells(source):
            if is_text:
                page.append(body)
                continue
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(body, script.name, "exec"), names)
            page.append(f"```python\n{body}\n```")
            if said := printed.getvalue().rstrip():
                page.append(f"```text\n{said}\n```")
            for figure in sorted(Path().glob("*.png")):
                name = f"{script.stem}-{sum(part.startswith('![') for part in page) + 1}.png"
                (target / name).write_bytes(figure.read_bytes())
                page.append(f"![{figure.stem}]({name})")
                figure.unlink()
    seconds, cpu = time.perf_counter() - started, time.process_time()
    page.append(f"*{_where()}; {seconds:.0f} s, {cpu:.0f} s of them on the processor.*")
    written = target / f"{script.stem}.md"
    written.write_text("\n\n".join(page) + "\n")
    return written


def _where() -> str:
    from geomfast.machine import describe, versions

    software = ", ".join(f"{name} {version}" for name, version in versions().items())
    return f"Made by running the script on {date.today().isoformat()}: {describe()}; {software}"


if __name__ == "__main__":
    print(render(Path(sys.argv[1]), Path(sys.argv[2])))

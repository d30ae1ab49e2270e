"""Files that are whole or absent, names that stay where they belong, JSON with its own hash.

A folder may come from anybody, so nothing that a file says becomes a path before :func:`plain_name`
has looked at it, and no link leads a write out of the folder it was meant for
(:func:`refuse_links`).
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

#: What file systems take for one name, in bytes.
LONGEST_NAME = 255
#: Room for what is put before and after a name: ``step-00000012.``, ``.parquet``, ``.txt``.
_ROOM = 55
#: Unicode categories of characters that no name needs: controls, directions, halves of pairs.
_UNPRINTABLE = ("Cc", "Cf", "Cs", "Zl", "Zp")
_SEAL = "seal"


class FileError(Exception):
    """A file, folder or name that is not used; the message says which, why, and what to do."""


class UnsafeName(FileError):
    """A name that would lead out of the folder it is meant for, or that no file can have."""


class DamagedFile(FileError):
    """A file that is not what geomfast wrote."""


def fingerprint(settings: Any) -> str:
    """16 hexadecimal digits that name a JSON-able value, independent of key order."""
    return hashlib.sha256(_canonical(settings)).hexdigest()[:16]


def printable(text: str) -> str:
    r"""Text that a terminal shows and does not obey: controls and lone surrogates as ``\x1b``.

    Line breaks and tabs stay.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c in "\n\t" or unicodedata.category(c) not in _UNPRINTABLE else _escaped(c)
        for c in text
    )


def plain_name(name: Any, what: str) -> str:
    """A name that may become one part of a path.

    Args:
        name: from a file, a command line or a caller.
        what: it names, for the message.

    Returns:
        The name.

    Raises:
        UnsafeName: not text, empty, ``.`` or ``..``, hidden (it begins with a dot), with a slash,
            backslash or control character, not encodable, or too long for a file system.
    """
    if not isinstance(name, str):
        raise UnsafeName(f"{what} {name!r:.60} is not text")
    if not name or name.startswith("."):
        raise UnsafeName(f"{what} {name!r:.60} is not a name: it is empty or begins with a dot")
    wrong = {c for c in name if c in "/\\" or unicodedata.category(c) in _UNPRINTABLE}
    if wrong:
        shown = ", ".join(sorted(map(ascii, wrong)))
        raise UnsafeName(f"{what} {name!a:.60} is not a plain name: it holds {shown}")
    if len(name.encode()) > LONGEST_NAME - _ROOM:
        raise UnsafeName(
            f"{what} {name[:40]!r}... is too long: {len(name.encode())} bytes, "
            f"at most {LONGEST_NAME - _ROOM}"
        )
    return name


def inside(root: Path, *names: str) -> Path:
    """The path of a file or folder below another, by plain names only.

    Raises:
        UnsafeName: a name is not plain, or a link on the way leads out of the folder.
    """
    path = root
    for name in names:
        path = path / plain_name(name, "name")
        if path.is_symlink() and not path.resolve().is_relative_to(root.resolve()):
            raise UnsafeName(f"{path} is a link that leads out of {root}; remove it")
    return path


def refuse_links(root: Path) -> None:
    """Refuse a folder in which links lead out of it: what is written there would land elsewhere.

    Args:
        root: the folder, which may be missing, or a link itself.

    Raises:
        UnsafeName: names the first such link.
    """
    home = root.resolve()
    waiting = [home] if home.is_dir() else []
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(home):
                    raise UnsafeName(f"{entry.path} is a link that leads out of {root}; remove it")
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry.path))


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, even after a crash or a full disk, sees all of it or none.

    A link of that name is replaced, never followed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not to be guessed, so that nobody can have put a link there; short, whatever the name is.
    temporary = path.with_name(f".tmp-{secrets.token_hex(8)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    try:
        with os.fdopen(os.open(temporary, flags, 0o666), "wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def opened_lock(path: Path) -> Iterator[IO[str]]:
    """A file to lock, made where it is missing; a link there is refused.

    Raises:
        UnsafeName: the file is a link, or something else that is not a file.
        OSError: it cannot be opened.
    """
    if path.is_symlink() or (path.exists() and not stat.S_ISREG(path.stat().st_mode)):
        raise UnsafeName(f"{path} is not a file of its own; remove it")
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
    with os.fdopen(os.open(path, flags, 0o666), "a") as handle:
        yield handle


def write_json(path: Path, value: Any) -> None:
    """Write readable JSON atomically."""
    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())


def write_sealed(path: Path, value: dict[str, Any]) -> None:
    """Write readable JSON atomically, with a hash of all else in it under ``seal``.

    Args:
        path: of the file.
        value: JSON-able; a hash that it has from before is replaced.
    """
    # As it will be read: tuples are lists then, and keys text.
    value = json.loads(json.dumps({k: v for k, v in value.items() if k != _SEAL}))
    write_json(path, {**value, _SEAL: _sum(value)})


def read_sealed(path: Path, *, required: bool = False) -> dict[str, Any]:
    """The content of a file by :func:`write_sealed`, without its hash.

    Args:
        path: of the file.
        required: whether one without a hash is refused; those of geomfast 0.1 had none.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFile: it cannot be read, is not a JSON object, or has changed since it was written.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedFile(f"{path} cannot be read: {_first_line(error)}") from error
    if not isinstance(content, dict):
        raise DamagedFile(f"{path} is not a JSON object")
    seal = content.pop(_SEAL, None)
    if (seal is None and required) or (seal is not None and seal != _sum(content)):
        raise DamagedFile(f"{path} has changed since geomfast wrote it")
    return content


def _sum(value: dict[str, Any]) -> str:
    return hashlib.sha256(_canonical(value)).hexdigest()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _first_line(error: BaseException) -> str:
    said = str(error).strip().splitlines()
    return said[0][:200] if said else type(error).__name__


def _escaped(character: str) -> str:
    return (
        character.encode("ascii", "backslashreplace").decode()
        if ord(character) > 127
        else (f"\\x{ord(character):02x}")
    )

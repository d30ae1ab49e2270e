"""Result files: single ones, those of folders, and members of archives, which nothing unpacks."""

from __future__ import annotations

import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from geomfast.runs.errors import PlanError

#: Largest file that is read; that of all tasks there are has a tenth.
LARGEST = 256 << 20
#: Most members of an archive.
MOST_MEMBERS = 1_000_000
_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".zip")
_READ = (".json", ".jsonl")
_CHUNK = 1 << 20
#: What reading a damaged archive, one with a password or of an unknown compression raises.
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError)
_DAMAGE += (ValueError, RuntimeError)


class Source(NamedTuple):
    """A file, or what stands for it where it cannot be read.

    Attributes:
        name: its path from what was given, with ``/``.
        content: its bytes.
        unread: why there are none; empty otherwise.
        root: folder or archive that it is in; files of one folder share it, however they are given.
    """

    name: str
    content: bytes
    unread: str = ""
    root: str = ""


def sources(paths: Sequence[Path]) -> Iterator[Source]:
    """All files ending in ``.json`` or ``.jsonl`` under some paths, hidden ones left out.

    Args:
        paths: of files, folders and archives (tar, also compressed, and zip).

    Raises:
        PlanError: there is no such path, or an archive cannot be read.
    """
    for path in paths:
        if path.is_dir():
            yield from _folder(path)
        elif not path.exists():
            raise PlanError(f"no such file or folder: {path}")
        elif path.name.lower().endswith(_ARCHIVES):
            try:
                yield from (_zip if path.suffix.lower() == ".zip" else _tar)(path)
            except _DAMAGE as error:
                raise PlanError(f"{path} cannot be read: {error}") from error
        else:
            yield _file(path, path.name)


def _folder(root: Path) -> Iterator[Source]:
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if _is_read(name):
                path = Path(folder) / name
                yield _file(path, path.relative_to(root).as_posix())


def _file(path: Path, name: str) -> Source:
    root = str(path.parent.absolute())
    try:
        if not path.is_file():  # a pipe or a device would never end
            return Source(name, b"", "no file", root)
        if path.stat().st_size > LARGEST:
            return Source(name, b"", _too_large(path.stat().st_size), root)
        return Source(name, path.read_bytes(), "", root)
    except OSError as error:
        return Source(name, b"", error.strerror or str(error), root)


def _tar(path: Path) -> Iterator[Source]:
    with tarfile.open(path) as archive:
        for index, member in enumerate(archive):
            if index >= MOST_MEMBERS:
                raise PlanError(f"{path} has more than {MOST_MEMBERS:,} members")
            if not member.isfile() or not _is_read(member.name):
                continue
            root = _root(path, member.name)
            if member.size > LARGEST:
                yield Source(member.name, b"", _too_large(member.size), root)
            elif (handle := archive.extractfile(member)) is not None:
                yield Source(member.name, handle.read(), "", root)
        # To the end, where a compressed one has its checksum.
        while archive.fileobj is not None and archive.fileobj.read(_CHUNK):
            pass


def _zip(path: Path) -> Iterator[Source]:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if len(members) > MOST_MEMBERS:
            raise PlanError(f"{path} has more than {MOST_MEMBERS:,} members")
        for member in members:
            if member.is_dir() or not _is_read(member.filename):
                continue
            root = _root(path, member.filename)
            if member.file_size > LARGEST:
                yield Source(member.filename, b"", _too_large(member.file_size), root)
            else:
                yield Source(member.filename, archive.read(member), "", root)


def _is_read(name: str) -> bool:
    last = name.rpartition("/")[2]
    return last.lower().endswith(_READ) and not last.startswith(".")


def _root(archive: Path, member: str) -> str:
    return f"{archive.absolute()}/{member.rpartition('/')[0]}"


def _too_large(size: int) -> str:
    return f"{size:,} bytes; files up to {LARGEST:,} are read"

"""Checks whether a node of a cluster can take part. Does not import torch."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import geomfast

#: Beginning of the name of the file by which a node knows that it sees the same OUT.
TOKEN = ".ray-"


@contextmanager
def token_in(out: Path) -> Iterator[str]:
    """A file in OUT while a sweep runs; the caller holds OUT's lock.

    Its name is new every time: a network file system may remember for a while what it found, or
    did not find, under an old one.

    Yields:
        Its name.
    """
    for old in out.glob(f"{TOKEN}*"):  # of a sweep that was killed
        old.unlink(missing_ok=True)
    token = out / f"{TOKEN}{secrets.token_hex(16)}"
    token.touch()
    try:
        yield token.name
    finally:
        token.unlink(missing_ok=True)


def look(out: Path, token: str, version: str) -> str:
    """The reason why this node cannot take part; empty if it can.

    Args:
        out: the sweep's folder, absolute.
        token: name of a file there, see :func:`token_in`.
        version: the sweep's geomfast.
    """
    if geomfast.__version__ != version:
        return f"geomfast is {geomfast.__version__} there, {version} here"
    if not (out / token).exists():
        return f"{out} is another folder there; OUT must be on a file system that all nodes share"
    if not os.access(out, os.W_OK | os.X_OK):
        return f"{out} is not writable there"
    return ""

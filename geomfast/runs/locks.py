"""One writer to a folder: locks that go with the process, however it ends."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from geomfast.files import opened_lock
from geomfast.runs.errors import PlanError

#: Set by ``--no-lock``, for workers to inherit: some file systems of clusters have no locks.
NO_LOCK = "GEOMFAST_NO_LOCK"
_TAKEN = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


class FolderInUse(PlanError):
    """Another geomfast process is writing there."""


@contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Hold a folder for this process; the lock goes with the process, however it ends.

    Args:
        folder: made where it is missing.
        what: it is, for messages.

    Raises:
        FolderInUse: another process holds it.
        PlanError: the folder's file system has no locks.
        UnsafeName: its lock is a link, or something else that is not a file.
    """
    with _lock(folder, ".lock", what, wait=False):
        yield


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Within the context, no other process changes the folder's settings; waits for the lock.

    Raises:
        PlanError: the folder's file system has no locks.
        UnsafeName: its lock is a link, or something else that is not a file.
    """
    with _lock(folder, ".settings.lock", f"the settings of {folder}", wait=True):
        yield


@contextmanager
def _lock(folder: Path, name: str, what: str, *, wait: bool) -> Iterator[None]:
    import fcntl  # not on Windows, where reports still work

    folder.mkdir(parents=True, exist_ok=True)
    if os.environ.get(NO_LOCK, "0") not in ("", "0"):
        yield
        return
    with opened_lock(folder / name) as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno in _TAKEN:
                raise FolderInUse(f"{what} is in use by another geomfast process") from error
            raise PlanError(
                f"the file system of {folder} has no locks ({error.strerror}): where no other "
                f"geomfast process writes there, use --no-lock, or {NO_LOCK}=1 in the environment"
            ) from error
        try:
            yield
        finally:
            # Closing alone would leave it with a process that was forked meanwhile.
            fcntl.flock(handle, fcntl.LOCK_UN)

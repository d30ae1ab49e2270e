"""A server with the hub's addresses for models, on this machine, over a folder of revisions."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

MODEL = "someone/tiny"


class Hub(ThreadingHTTPServer):
    """What the hub has of :data:`MODEL`: a folder for every revision.

    Attributes:
        revisions: where those folders are.
        served: revision and file of every file that was downloaded.
        dead: whether it closes every connection without a word.
    """

    def __init__(self, revisions: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.revisions = revisions
        self.served: list[tuple[str, str]] = []
        self.dead = False

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def commit(self, revision: str) -> str:
        return hashlib.sha1(revision.encode()).hexdigest()

    def folder(self, revision: str) -> Path | None:
        """Of a branch or a commit."""
        of = {self.commit(one.name): one for one in self.revisions.iterdir()}
        return of.get(revision, of.get(self.commit(revision)))


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if self.server.dead:
            self.close_connection = True
            return
        path = self.path.split("?")[0]
        if path == f"/api/models/{MODEL}/refs":
            names = ["main", *(folder.name for folder in self.server.revisions.iterdir())]
            refs = [
                {"name": n, "ref": f"refs/heads/{n}", "targetCommit": self.server.commit(n)}
                for n in names
            ]
            return self._json({"branches": refs, "tags": [], "converts": []})
        if found := re.fullmatch(rf"/api/models/{MODEL}/(revision|tree)/([^/]+)", path):
            folder = self.server.folder(found[2])
            if folder is None:
                return self._missing("RevisionNotFound")
            files = sorted(file for file in folder.iterdir() if file.is_file())
            if found[1] == "tree":
                return self._json([_entry(file) for file in files])
            siblings = [{"rfilename": f.name, "size": f.stat().st_size} for f in files]
            sha = self.server.commit(folder.name)
            return self._json({"id": MODEL, "sha": sha, "siblings": siblings, "private": False})
        if found := re.fullmatch(rf"/{MODEL}/resolve/([^/]+)/([^/]+)", path):
            folder = self.server.folder(found[1])
            if folder is None or not (folder / found[2]).is_file():
                return self._missing("EntryNotFound")
            content = (folder / found[2]).read_bytes()
            if self.command == "GET":
                self.server.served.append((folder.name, found[2]))
            commit = self.server.commit(folder.name)
            tag = f'"{hashlib.sha256(content).hexdigest()}"'
            return self._answer(200, content, {"ETag": tag, "X-Repo-Commit": commit})
        return self._missing("RepoNotFound")

    def _json(self, value: Any) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _missing(self, code: str) -> None:
        self._answer(404, b"{}", {"X-Error-Code": code, "Content-Type": "application/json"})

    def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


def _entry(file: Path) -> dict[str, Any]:
    oid = hashlib.sha1(file.read_bytes()).hexdigest()
    return {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": oid}


@contextmanager
def stand_in(revisions: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The hub's client in this process speaks to a stand-in, and tries again without waiting."""
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    hub = Hub(revisions)
    threading.Thread(target=hub.serve_forever, args=(0.05,), daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    at_once = SimpleNamespace(sleep=lambda seconds: None)
    monkeypatch.setattr(_http, "time", at_once, raising=False)
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()

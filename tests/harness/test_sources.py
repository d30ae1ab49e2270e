"""Files of folders and archives: read in place, hidden ones left out, damaged ones refused."""

import io
import os
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from geomfast.harness import sources as module
from geomfast.harness.sources import Source, sources
from geomfast.runs.errors import PlanError

FILES = {"a.json": b"1", "b/c.jsonl": b"22", "b/.hidden.json": b"3", "notes.txt": b"4"}
KINDS = ("x.tar", "x.tar.gz", "x.tgz", "x.tar.xz", "x.tar.bz2", "X.ZIP")


def archive(path: Path, files: dict[str, bytes]) -> Path:
    if path.suffix.lower() == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
            for name, content in files.items():
                made.writestr(name, content)
        return path
    how = {".gz": "gz", ".tgz": "gz", ".xz": "xz", ".bz2": "bz2"}.get(path.suffix, "")
    mode: Any = f"w:{how}"
    with tarfile.open(path, mode) as made:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            made.addfile(member, io.BytesIO(content))
        for kind, target in ((tarfile.SYMTYPE, "/etc/hostname"), (tarfile.LNKTYPE, "a.json")):
            link = tarfile.TarInfo(f"link{target.rpartition('/')[2]}.json")
            link.type, link.linkname = kind, target
            made.addfile(link)
    return path


def names(*paths: Path) -> list[str]:
    return [source.name for source in sources(paths)]


def test_a_folder_is_read_in_order_without_hidden_files(tmp_path: Path) -> None:
    for name, content in (FILES | {".git/x.json": b"5"}).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    found = list(sources([tmp_path]))
    assert [(s.name, s.content) for s in found] == [("a.json", b"1"), ("b/c.jsonl", b"22")]
    assert names(tmp_path / "a.json", tmp_path / "b") == ["a.json", "c.jsonl"]


@pytest.mark.parametrize("name", KINDS)
def test_archives_are_read_without_unpacking(tmp_path: Path, name: str) -> None:
    """Their links are no files, and paths that lead out of them are only names."""
    path = archive(tmp_path / name, FILES | {"../../up.json": b"5", "/etc/up.json": b"6"})
    before = sorted(tmp_path.rglob("*"))
    found = {source.name: source.content for source in sources([path])}
    assert found == {
        "a.json": b"1", "b/c.jsonl": b"22", "../../up.json": b"5", "/etc/up.json": b"6"
    }  # fmt: skip
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("damage", ["half", "head", "empty", "junk", "flipped"])
def test_damaged_archives_are_refused_by_name(tmp_path: Path, name: str, damage: str) -> None:
    path = archive(tmp_path / name, {"a.json": os.urandom(5000), "b.json": os.urandom(5000)})
    whole = path.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes(255 ^ byte for byte in whole[middle:-100]) + whole[-100:]
    damaged = {"half": whole[:middle], "head": whole[:9], "empty": b"", "junk": b"hello"}
    path.write_bytes((damaged | {"flipped": flipped})[damage])
    if damage == "flipped" and name == "x.tar":
        path.write_bytes(whole[:100] + b"\xff" * 600 + whole[700:])  # it has sums of headers only
    with pytest.raises(PlanError, match=f"{name} cannot be read"):
        list(sources([path]))


def test_an_archive_with_a_password_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.zip", {"a.json": b"1"})
    content = bytearray(path.read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + place] |= 1  # it says that it is encrypted
    path.write_bytes(content)
    with pytest.raises(PlanError, match="password"):
        list(sources([path]))


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="no such file or folder"):
        list(sources([tmp_path / "nothing"]))


def test_what_is_too_large_or_no_file_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe would wait for ever, and a link to a device would never end."""
    monkeypatch.setattr(module, "LARGEST", 10)
    (tmp_path / "large.json").write_bytes(b"1" * 11)
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    (tmp_path / "lost.json").symlink_to("nowhere")
    found = {source.name: source for source in sources([tmp_path])}
    assert {source.content for source in found.values()} == {b""}
    assert found["large.json"].unread == "11 bytes; files up to 10 are read"
    assert all(found[f"{name}.json"].unread == "no file" for name in ("pipe", "zero", "lost"))
    for name in ("x.tar", "x.zip"):
        packed = archive(tmp_path / name, {"large.json": b"1" * 11, "small.json": b"1"})
        large, small = sources([packed])
        assert large.unread and (small.content, small.unread) == (b"1", "")


@pytest.mark.parametrize("name", ["x.tar", "x.zip"])
def test_too_many_members_are_refused(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_MEMBERS", 2)
    path = archive(tmp_path / name, {f"{i}.json": b"1" for i in range(3)})
    with pytest.raises(PlanError, match="more than 2 members"):
        list(sources([path]))


def test_files_of_one_folder_share_their_root_however_they_are_given(tmp_path: Path) -> None:
    (tmp_path / "m" / "n").mkdir(parents=True)
    (tmp_path / "m" / "n" / "a.json").write_bytes(b"1")
    packed = archive(tmp_path / "x.tar", {"m/n/a.json": b"1", "m/a.json": b"1"})

    def roots(*paths: Path) -> list[str]:
        return [source.root for source in sources(paths)]

    folder = tmp_path / "m"
    assert len(set(roots(tmp_path / "m" / "n" / "a.json", folder, tmp_path / "m" / "n"))) == 1
    assert len({*roots(packed), *roots(folder)}) == 3
    assert Source("a", b"").root == ""

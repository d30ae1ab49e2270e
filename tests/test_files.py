"""Names, links, locks and JSON of folders that anybody may have sent."""

import errno
import fcntl
import json
import os
from pathlib import Path

import pytest

from geomfast.files import (
    DamagedFile,
    UnsafeName,
    inside,
    opened_lock,
    plain_name,
    printable,
    read_sealed,
    refuse_links,
    write_atomically,
    write_sealed,
)
from geomfast.runs.errors import PlanError
from geomfast.runs.locks import NO_LOCK, FolderInUse, alone, locked

UNSAFE = ["", ".", "..", "../x", "a/b", "/etc", "a\\b", ".hidden", "a\0b", "a\nb", "\x1b[31m"]
UNSAFE += ["\u202egnp", "\ud800", "x" * 201, "é" * 101, None, 3, ["a"], {"a": 1}]


@pytest.mark.parametrize("name", UNSAFE)
def test_names_that_are_not_plain(name: object) -> None:
    with pytest.raises(UnsafeName, match=r"^group ") as caught:
        plain_name(name, "group")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["a", "joint-nano-seed0", "a b", "é(1)[x]", "x" * 200, "a..b"])
def test_names_that_are_plain(name: str) -> None:
    assert plain_name(name, "group") == name


def test_a_path_stays_inside(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "in").symlink_to(home)
    (home / "out").symlink_to(tmp_path)
    assert inside(home, "a", "b") == home / "a" / "b"
    assert inside(home, "in", "b") == home / "in" / "b"
    with pytest.raises(UnsafeName, match="leads out"):
        inside(home, "out", "b")


@pytest.mark.parametrize("where", ["out", "records/run", "checkpoints/run/step-00000001/x"])
def test_a_link_that_leaves_a_folder_is_named(tmp_path: Path, where: str) -> None:
    home = tmp_path / "home"
    link = home / where
    link.parent.mkdir(parents=True)
    link.symlink_to("nowhere")  # inside, though there is no such file
    refuse_links(home)
    link.unlink()
    link.symlink_to(tmp_path / "victim")
    with pytest.raises(UnsafeName, match="remove it"):
        refuse_links(home)


def test_a_folder_that_is_a_link_itself_is_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "disk" / "a").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    (tmp_path / "out" / "b").symlink_to(tmp_path / "out" / "a")
    refuse_links(tmp_path / "out")
    refuse_links(tmp_path / "missing")


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    link = tmp_path / "report.json"
    link.symlink_to(victim)
    write_atomically(link, b"ours")
    assert victim.read_text() == "mine"
    assert link.read_text() == "ours" and not link.is_symlink()


def test_temporary_names_cannot_be_guessed_and_links_there_are_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / ".tmp-abc").symlink_to(victim)
    monkeypatch.setattr("geomfast.files.secrets.token_hex", lambda _: "abc")
    with pytest.raises(FileExistsError):
        write_atomically(tmp_path / "file", b"ours")
    assert victim.read_text() == "mine"


def test_a_name_as_long_as_a_file_system_takes_is_written(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 250)
    write_atomically(path, b"whole")
    assert path.read_bytes() == b"whole"


def test_a_lock_that_is_a_link_is_refused(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".lock").symlink_to(victim)
    with pytest.raises(UnsafeName, match=r"\.lock"), opened_lock(tmp_path / "home" / ".lock"):
        pass
    with pytest.raises(UnsafeName, match=r"\.lock"), locked(tmp_path / "home", "OUT"):
        pass
    assert not victim.exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
def test_a_file_system_without_locks_is_named_and_can_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def none(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", none)
    for held in (locked(tmp_path, "OUT"), alone(tmp_path)):
        with pytest.raises(PlanError, match=r"has no locks .*--no-lock") as caught, held:
            pass
        assert not isinstance(caught.value, FolderInUse)
    monkeypatch.setenv(NO_LOCK, "1")
    with locked(tmp_path, "OUT"), alone(tmp_path):
        pass


def test_json_vouches_for_itself(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_sealed(path, {"step": 12, "values": (1, 2.5, None), "seal": "an older one"})
    assert read_sealed(path) == {"step": 12, "values": [1, 2.5, None]}
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"12", b"13"))
    with pytest.raises(DamagedFile, match=r"x\.json has changed"):
        read_sealed(path)
    path.write_text(json.dumps({"step": 13}))  # of geomfast 0.1
    assert read_sealed(path) == {"step": 13}
    with pytest.raises(DamagedFile, match="has changed"):
        read_sealed(path, required=True)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"\xff\xfe", b"[" * 100_000])
def test_json_that_is_none_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(DamagedFile, match=r"x\.json") as caught:
        read_sealed(tmp_path / "x.json")
    assert "\n" not in str(caught.value)


def test_a_folder_in_the_place_of_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(DamagedFile, match="cannot be read"):
        read_sealed(tmp_path)


def test_what_a_terminal_would_obey_is_shown() -> None:
    assert printable("plain é 日本\n\t") == "plain é 日本\n\t"
    assert printable("\x1b[31mred\x07\u202e\ud800\x85") == "\\x1b[31mred\\x07\\u202e\\ud800\\x85"

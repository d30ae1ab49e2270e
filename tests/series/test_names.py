"""Names of revisions and folders never lead anywhere else, and no two checkpoints share a place."""

import itertools
import os
from pathlib import Path

import pytest

from geomfast.files import UnsafeName, plain_name
from geomfast.runs.errors import PlanError
from geomfast.series.checkpoint import Checkpoint, in_order
from geomfast.series.folders import checkpoints_in
from geomfast.series.hub import HubSeries, place_in, remove_download
from geomfast.series.language_model import Probing
from geomfast.series.plan import remove_partial_writes, series_of

REVISIONS = ("..", ".", "", "../..", "/", "/etc", "~", "refs/pr/1", "refs--pr--1", "refs-pr-1")
REVISIONS += ("refs\\pr\\1", "Main", "main", "MAIN", "a/b", "a--b", "a//b", "a\0b", "a\nb", ".git")
REVISIONS += ("x" * 300, "x" * 301, "\udcff", "\udcfe", "é", "e\u0301", "步1", "models--a", "-rf")


def test_every_revision_has_a_plain_place_of_its_own() -> None:
    folders = [Checkpoint(0, name).folder for name in REVISIONS]
    folders += [Checkpoint(0, folder).folder for folder in folders if "~" in folder]
    for folder in folders:
        assert plain_name(folder, "folder") == folder
    for one, other in itertools.combinations(folders, 2):
        assert one.lower() != other.lower()
    assert Checkpoint(0, "step1000").folder == "step1000"


def hub_series(out: Path, *names: str) -> HubSeries:
    probing = Probing((), "float32", Probing.asked(("syntax",), None, {}).how)
    checkpoints = tuple(Checkpoint(i, name) for i, name in enumerate(names))
    return HubSeries("tiny", checkpoints, probing, "someone/tiny", out / "downloads")


def everything(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def test_what_is_released_lies_in_downloads(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "downloads" / "models--someone--tiny").mkdir(parents=True)
    (out / "settings.json").write_text("{}")
    (tmp_path / "models--victim").mkdir()
    before = everything(tmp_path)
    series = hub_series(out, *REVISIONS)
    for checkpoint in series.checkpoints:
        series.release(checkpoint)
    assert everything(tmp_path) - {"out/downloads/models--someone--tiny"} == before - {
        "out/downloads/models--someone--tiny"
    }


def test_only_what_was_downloaded_is_removed(tmp_path: Path) -> None:
    downloads = tmp_path / "out" / "downloads"
    ours = downloads / "step1" / "models--someone--tiny" / "blobs"
    ours.mkdir(parents=True)
    (ours / "file").write_text("ours")
    theirs = downloads / "photos"
    theirs.mkdir()
    (theirs / "cat.jpg").write_text("theirs")
    (downloads / "note.txt").write_text("theirs")
    remove_partial_writes(tmp_path / "out", [])
    assert not (downloads / "step1").exists()
    assert (theirs / "cat.jpg").exists() and (downloads / "note.txt").exists()


@pytest.mark.parametrize("link", ["downloads", "downloads/step1", "records"])
def test_links_are_not_followed(tmp_path: Path, link: str) -> None:
    out, victim = tmp_path / "out", tmp_path / "victim"
    (victim / "step1" / "models--someone--tiny").mkdir(parents=True)
    (victim / ".tmp-1").write_text("theirs")
    (out / link).parent.mkdir(parents=True, exist_ok=True)
    (out / link).symlink_to(victim)
    before = everything(victim)
    with pytest.raises(UnsafeName, match="link"):
        remove_partial_writes(out, [])
    series = hub_series(out, "step1")
    if link != "records":
        with pytest.raises(UnsafeName, match="link"):
            series.fetch(series.checkpoints[0])
        with pytest.raises(UnsafeName, match="link"):
            series.release(series.checkpoints[0])
    assert everything(victim) == before


def test_links_inside_a_download_are_removed_and_what_they_point_to_is_not(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("theirs")
    place = place_in(tmp_path / "downloads", "step1")
    (place / "models--someone--tiny").mkdir(parents=True)
    (place / "models--someone--tiny" / "snapshots").symlink_to(victim)
    remove_download(place)
    assert not place.exists() and (victim / "file").exists()


@pytest.mark.parametrize("name", ["..", "../x", "a/b", ".hidden", ""])
def test_no_place_outside(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnsafeName):
        place_in(tmp_path / "downloads", name)


def checkpoint_at(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


@pytest.mark.parametrize("name", [".hidden", "a\nb", "a\x1b[31mb", "x" * 220])
def test_a_folder_that_no_run_can_be_named_after(tmp_path: Path, name: str) -> None:
    checkpoint_at(tmp_path / name / "step1")
    with pytest.raises(UnsafeName, match="run"):
        series_of(str(tmp_path / name), (), tmp_path / "out", {}, probes=("syntax",))


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    checkpoint_at(folder / "step1")
    with pytest.raises(UnsafeName, match="run"):
        series_of(str(folder), (), tmp_path / "out", {}, probes=("syntax",))


def test_links_of_a_source_are_only_read(tmp_path: Path) -> None:
    elsewhere = checkpoint_at(tmp_path / "elsewhere")
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "step5").symlink_to(elsewhere)
    (one,) = series_of(str(tmp_path / "series"), (), tmp_path / "out", {}, probes=("syntax",))
    before = everything(tmp_path)
    for checkpoint in one.checkpoints:
        assert (one.fetch(checkpoint) / "config.json").exists()
        one.release(checkpoint)
    remove_partial_writes(tmp_path / "out", [])
    assert everything(tmp_path) == before


@pytest.mark.parametrize(
    "stray", ["checkpoint-500-tmp", "checkpoint-500_old", "tmp-checkpoint-500"]
)
def test_stray_folders_with_a_checkpoints_step(tmp_path: Path, stray: str) -> None:
    checkpoint_at(tmp_path / "checkpoint-500")
    (tmp_path / stray).mkdir()
    (tmp_path / "checkpoint-600.zip").write_text("")
    assert checkpoints_in(tmp_path)[1] == (Checkpoint(500, "checkpoint-500"),)
    (tmp_path / stray / "config.json").write_text("{}")
    with pytest.raises(PlanError, match="both of step 500; move one away"):
        checkpoints_in(tmp_path)


@pytest.mark.parametrize("name", ["step1.5", "checkpoint-0.25", "step3.0"])
def test_steps_that_are_not_whole(name: str) -> None:
    with pytest.raises(PlanError, match="not whole"):
        in_order([name, "step7"], "there")


def test_steps_beyond_64_bits() -> None:
    assert in_order([f"step{2**63 - 1}", "step1"], "there")[1].step == 2**63 - 1
    for name in (f"step{2**63}", "step" + "9" * 400):
        with pytest.raises(PlanError, match="beyond 64 bits"):
            in_order([name], "there")

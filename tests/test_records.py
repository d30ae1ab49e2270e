"""Records: whole parts or none, one table, foreign files named."""

import math
import os
from pathlib import Path

import pandas as pd
import pytest

from geomfast import records
from geomfast.files import fingerprint, write_atomically
from geomfast.measures import measures
from geomfast.records import COLUMNS, RecordsError, load_records, part_name, write_part
from geomfast.runs.recorded import recorded


def row(**changes: object) -> dict[str, object]:
    values = {
        "run": "joint-nano-seed0",
        "scale": "nano",
        "seed": 0,
        "step": 2,
        "tokens": 3000,
        "task": "MOD",
        "level": 1,
        "layer": "final",
        "measure": "rankme",
        "value": 2.5,
        "stderr": math.nan,
        "n": 200,
        "settings": "a" * 16,
        "weights": "b" * 16,
        "data": "c" * 16,
        "backend": "cpu",
        "device": "cpu",
        "seconds": 0.01,
    }
    return {**values, **changes}


def write(out: Path, run: str, step: int, *changes: dict[str, object]) -> Path:
    path = out / "records" / run / part_name(step, ["rankme"])
    write_part(path, [row(run=run, step=step, **change) for change in changes or ({},)])
    return path


def test_what_is_written_is_read_back_in_order(tmp_path: Path) -> None:
    layers = ({"layer": "final"}, {"layer": "block 10"}, {"layer": "block 2"})
    write(tmp_path, "b", 10, *layers)
    write(tmp_path, "b", 2, *layers)
    write(tmp_path, "a", 4)
    frame = load_records(tmp_path)
    assert list(frame.columns) == [name for name, _, _ in COLUMNS]
    assert list(frame["run"]) == ["a"] + ["b"] * 6
    assert list(frame["step"]) == [4, 2, 2, 2, 10, 10, 10]
    assert list(frame["layer"][1:4]) == ["block 2", "block 10", "final"]
    assert frame["stderr"].isna().all()
    one_run = load_records(tmp_path / "records" / "a")
    pd.testing.assert_frame_equal(one_run, frame[:1])


def test_a_missing_path_and_an_empty_folder_say_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_records(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="no records"):
        load_records(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PAR1 not really", b"x" * 5000])
def test_a_damaged_part_is_named(tmp_path: Path, content: bytes) -> None:
    write(tmp_path, "a", 2)
    bad = write(tmp_path, "a", 4)
    bad.write_bytes(content)
    with pytest.raises(RecordsError, match="step-00000004"):
        load_records(tmp_path)


def test_a_foreign_table_is_named(tmp_path: Path) -> None:
    write(tmp_path, "a", 2)
    foreign = tmp_path / "records" / "other.parquet"
    pd.DataFrame({"step": [1], "price": [2.0]}).to_parquet(foreign)
    with pytest.raises(RecordsError, match=r"other\.parquet"):
        load_records(tmp_path)


def test_the_remains_of_an_interrupted_write_are_not_read(tmp_path: Path) -> None:
    path = write(tmp_path, "a", 2)
    (path.parent / f".tmp-{part_name(4, ['rankme'])}-99").write_bytes(b"half a par")
    assert set(load_records(tmp_path)["step"]) == {2}


def test_a_full_disk_leaves_the_old_content_and_no_remains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_name_that_would_be_too_long_is_several_parts(tmp_path: Path) -> None:
    few = records.parts_of(tmp_path, 2, ["rankme"], [row(), row(layer="block 1")])
    assert [(path.name, len(rows)) for path, rows in few] == [("step-00000002.rankme.parquet", 2)]
    names = [*measures(), "behaviour"]
    rows = [row(measure=name, value=1.0) for name in [*measures(), "llc_rhat", "accuracy"]]
    folder, found = tmp_path / "records/joint-nano-seed0", set()
    for path, part in records.parts_of(folder, 2, names, rows):
        assert len(path.name) <= 200
        write_part(path, part)
        found |= {one["measure"] for one in part}
    assert found == {one["measure"] for one in rows}
    assert recorded(folder) == {2: set(names)}
    assert len(load_records(tmp_path)) == len(rows)


def test_a_row_must_have_every_column(tmp_path: Path) -> None:
    incomplete = row()
    del incomplete["backend"]
    with pytest.raises(KeyError, match="backend"):
        write_part(tmp_path / "part.parquet", [incomplete])


def test_fingerprints_ignore_key_order_and_nothing_else() -> None:
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 1.5})
    assert len(fingerprint(None)) == 16


def test_layer_labels_sort_by_depth() -> None:
    labels = ["final", "block 2", "", "block 10", records.block(1)]
    ordered = ["", "block 1", "block 2", "block 10", "final"]
    assert sorted(labels, key=records.layer_depth) == ordered

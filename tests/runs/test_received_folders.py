"""Folders from others, damaged, or removed meanwhile: nothing leaves them, all is named."""

import importlib
import json
import math
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from click.testing import CliRunner

import geomfast as gf
from geomfast.analysis import check
from geomfast.cli.main import main
from geomfast.files import FileError, UnsafeName, read_sealed, write_sealed
from geomfast.records import SCHEMA, RecordsError, load_records, part, read_part, write_part
from geomfast.records.part import content_hash
from geomfast.report.data import read
from geomfast.runs import failures
from geomfast.runs.errors import PlanError, RunError
from geomfast.runs.recorded import recorded
from geomfast.sweep import running
from geomfast.testbed.training import checkpoints
from geomfast.testbed.training.checkpoints import CheckpointError
from tests.fuzz.folders import POPULATION, SWEEP, in_process, invoke, make
from tests.sweep.test_running import job


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make(tmp_path_factory.mktemp("folders"))


def again(kind: str, out: Path) -> tuple[int, str]:
    """The command that made a folder, once more."""
    arguments = {
        "alone": ("sweep", str(out), *SWEEP, "--stack", "never"),
        "stacked": ("sweep", str(out), *SWEEP, "--stack", "always"),
        "population": ("population", str(out), *POPULATION, "--stack", "always"),
        "series": ("measure", str(out.parent / "alone"), "--out", str(out), "--measures", "rankme"),
        "report": ("report", str(out)),
    }[kind]
    with in_process():
        result = CliRunner().invoke(main, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def copied(folders: dict[str, Path], tmp_path: Path, kind: str) -> Path:
    out = tmp_path / kind
    shutil.copytree(folders[kind], out)
    if kind == "series":
        shutil.copytree(folders["alone"], tmp_path / "alone")
    return out


@pytest.mark.parametrize(
    "name", ["../../victim", "..", "", "/tmp/victim", "a\0b", None, 7, "x" * 300]
)
@pytest.mark.parametrize("kind", ["stacked", "population"])
def test_a_group_names_no_path(
    folders: dict[str, Path], tmp_path: Path, kind: str, name: object
) -> None:
    out = copied(folders, tmp_path / "deep", kind)
    victim = tmp_path / "victim"
    (victim / "step-00000001").mkdir(parents=True)
    (victim / ".tmp-mine").write_text("mine")
    content = read_sealed(out / "settings.json")
    content["groups"][0]["name"] = name
    write_sealed(out / "settings.json", content)  # whoever sends a folder can seal it
    code, said = again(kind, out)
    assert code == 2 and "settings.json" in said and "group" in said
    assert sorted(path.name for path in victim.iterdir()) == [".tmp-mine", "step-00000001"]


@pytest.mark.parametrize("where", ["records", "checkpoints", "failures", ".lock", "settings.json"])
@pytest.mark.parametrize("kind", ["alone", "population", "series", "report"])
def test_links_that_leave_a_folder_are_refused(
    folders: dict[str, Path], tmp_path: Path, kind: str, where: str
) -> None:
    out = copied(folders, tmp_path, "alone" if kind == "report" else kind)
    link = out / where
    victim = tmp_path / "victim"
    if link.exists():
        link.rename(victim)
    else:
        victim.mkdir()
    link.symlink_to(victim)
    before = sorted(path.name for path in victim.rglob("*")) if victim.is_dir() else []
    code, said = again(kind, out)
    assert code == 2 and "leads out of" in said, said
    if victim.is_dir():
        assert sorted(path.name for path in victim.rglob("*")) == before


@pytest.mark.parametrize("run", ["..", "../x", "a/b", "", ".", "a\nb", "x" * 300])
def test_a_tracker_takes_plain_names_only(tmp_path: Path, run: str) -> None:
    model = torch.nn.Linear(3, 2)
    with pytest.raises((UnsafeName, ValueError), match="run"):
        gf.Tracker(
            model,
            lambda model, x: model(x).square().sum(1),
            torch.randn(8, 3),
            measures="fisher_rank",
            out=tmp_path / "out",
            run=run,
        )
    assert not (tmp_path / "out" / "settings.json").exists()


def _set(content: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for name in parents:
        content = content[name]
    content[last] = value


WRONG = [
    ("settings", None),
    ("settings", []),
    ("settings.steps", None),
    ("settings.steps", "many"),
    ("settings.steps", -3),
    ("settings.tasks", "COPY"),
    ("settings.tasks", ["NOPE"]),
    ("settings.levels", [None]),
    ("settings.mixture", {"a": 1}),
    ("recipes", None),
    ("recipes", {"nano": None}),
    ("grid", None),
    ("grid", {}),
    ("grid.scales", None),
    ("grid.scales", ["no such scale"]),
    ("grid.seeds", [-1]),
    ("grid.seeds", [1.5]),
    ("grid.seeds", [2**70]),
    ("grid.measures", [3.5]),
    ("grid.cadence", None),
    ("grid.cadence", {"rankme": "often"}),
    ("calls", None),
    ("calls", [None]),
    ("groups", None),
    ("groups", [None]),
    ("groups", [{"name": "a"}]),
    ("groups", [{"name": "a", "runs": None, "at_once": 2}]),
    ("groups", [{"name": "a", "runs": ["b"], "at_once": 0}]),
    ("groups", [{"name": "a", "runs": ["../b"], "at_once": 2}]),
    ("groups", [{"name": "a", "scale": "1x8", "seeds": [2**40], "at_once": 2}]),
    ("chance", None),
    ("hashes", None),
    ("format", None),
    ("format", "geomfast sweep 99"),
]


@pytest.mark.parametrize("path, value", WRONG)
def test_settings_that_nobody_wrote_are_named(
    folders: dict[str, Path], tmp_path: Path, path: str, value: Any
) -> None:
    out = copied(folders, tmp_path, "alone")
    content = read_sealed(out / "settings.json")
    _set(content, path, value)
    write_sealed(out / "settings.json", content)
    code, said = again("alone", out)
    if path == "grid.measures" or (path == "grid.seeds" and code == 0):
        return
    assert code == 2 and ("settings" in said or "sweep" in said), said
    # What else reads it says so too, or needs nothing of it.
    if path != "format":
        with suppress(FileError):
            read(out)
    arguments = ["measure", str(out), "--out", str(tmp_path / "m"), "--dry-run"]
    result = CliRunner().invoke(main, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b"null", b'{"training": null}'])
@pytest.mark.parametrize("name", ["wall.json", "checkpoint.json", "eigenvectors", "settings.json"])
def test_a_damaged_file_is_named_in_one_line(
    folders: dict[str, Path], tmp_path: Path, name: str, content: bytes
) -> None:
    out = copied(folders, tmp_path, "alone")
    path = next(p for p in sorted(out.rglob("*")) if p.name.startswith(name))
    path.write_bytes(content)
    # Work is left that needs it: the last checkpoint of each run is gone.
    for file in out.glob("records/*/step-00000008.*"):
        file.unlink()
    code, said = again("alone", out)
    assert "Traceback" not in said
    if code:  # a state of an earlier step is not read
        assert path.name in said.replace("\n", "")
    if name == "wall.json" or (name == "settings.json" and not content.startswith(b'{"')):
        with pytest.raises(FileError, match=re.escape(path.name)):
            read(out)


def rows() -> list[dict[str, Any]]:
    shared = {"run": "r", "scale": "s", "seed": 0, "tokens": 3, "task": "T", "level": 1, "n": 9}
    shared |= {"settings": "a", "weights": "b", "data": "c", "backend": "cpu", "device": "cpu"}
    layers = ("block 1", "block 2", "final")
    return [
        {**shared, "step": 4, "layer": layer, "measure": "rankme", "value": 2.0 + i}
        | {"stderr": math.nan, "seconds": 0.1}
        for i, layer in enumerate(layers)
    ]


def saved(path: Path, made: list[dict[str, Any]]) -> Path:
    """A part as geomfast 0.1 wrote them, without a hash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(made).to_parquet(path)
    return path


@pytest.mark.parametrize(
    "change, said",
    [
        ({"value": 0.447}, "rankme 0.447 is outside"),
        ({"measure": "accuracy", "value": 1.5}, "accuracy 1.5 is outside"),
        ({"measure": "llc_acceptance", "value": -0.5}, "llc_acceptance -0.5 is outside"),
        ({"measure": "answer_logprob", "value": 0.5}, "answer_logprob 0.5 is outside"),
        ({"stderr": -1.0}, "stderr -1 is negative"),
        ({"seconds": -1.0}, "seconds -1 is negative"),
        ({"step": -4}, "step -4 is negative"),
        ({"step": 5}, "holds step 5"),
        ({"n": -1}, "n -1 is negative"),
        ({"value": None}, "column 'value' is null"),
        ({"run": None}, "column 'run' is null"),
        ({"value": "high"}, "column 'value' is"),
        ({"step": 4.5}, "column 'step' is"),
        ({"task": "T" * 2000}, "a task of 2,000 characters"),
        ({"measure": "llc"}, "holds no value of rankme"),
    ],
)
def test_values_that_no_measure_gives_are_named(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    made = [{**row, **change} for row in rows()]
    path = saved(tmp_path / "records" / "r" / "step-00000004.rankme.parquet", made)
    with pytest.raises(RecordsError, match="step-00000004") as caught:
        load_records(tmp_path)
    assert said in str(caught.value), caught.value
    with pytest.raises(PlanError, match="delete it and run again"):
        recorded(path.parent)


def test_a_column_that_is_missing_is_named(tmp_path: Path) -> None:
    made = [{name: value for name, value in row.items() if name != "stderr"} for row in rows()]
    saved(tmp_path / "part.parquet", made)
    with pytest.raises(RecordsError, match="column 'stderr' is missing"):
        load_records(tmp_path)


def test_a_zero_matrix_has_no_dimension(tmp_path: Path) -> None:
    path = tmp_path / "step-00000004.rankme.parquet"
    write_part(path, [{**row, "value": 0.0} for row in rows()])
    assert (load_records(path)["value"] == 0).all()


def test_a_changed_value_and_a_missing_row_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "step-00000004.rankme.parquet"
    write_part(path, rows())
    table = pyarrow.parquet.read_table(path)
    assert table.schema.metadata[b"geomfast.sha256"] == content_hash(read_part(path))
    for changed in (
        table.slice(0, 2),
        table.slice(0, 0),
        pa.concat_tables([table, table]),
        table.set_column(9, "value", pa.array([2.0, 3.0, 4.5])),
        table.set_column(7, "layer", pa.array(["block 2", "block 1", "final"])),
    ):
        pyarrow.parquet.write_table(changed, path)
        with pytest.raises(RecordsError, match=r"step-00000004.*(has changed|no rows)"):
            read_part(path)


def test_an_older_part_with_half_of_the_values_is_not_complete(tmp_path: Path) -> None:
    records = tmp_path / "records" / "r"
    saved(records / "step-00000004.rankme.parquet", rows())
    half = [{**row, "step": 8} for row in rows()[:2]]
    path = saved(records / "step-00000008.rankme.parquet", half)
    with pytest.raises(PlanError, match=r"step-00000008.*2 of 3 values of rankme"):
        recorded(records)
    with pytest.raises(RecordsError, match="step 8, rankme: 2 of 3 values"):
        check(load_records(tmp_path))
    path.unlink()
    assert recorded(records) == {4: {"rankme"}}
    with pytest.raises(PlanError, match="is of step 4, and the last is 3"):
        recorded(records, 3)


def test_what_expands_beyond_reason_is_refused_by_its_footer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert part.LARGEST == 2 << 30
    monkeypatch.setattr(part, "LARGEST", 1 << 26)  # to write more takes ten seconds
    count = part.LARGEST // (8 * 18) + 1
    one = pa.Table.from_pylist(rows()[:1], schema=SCHEMA)
    columns = [pa.repeat(column[0], count) for column in one.columns]
    path = tmp_path / "huge.parquet"
    pyarrow.parquet.write_table(pa.table(columns, schema=one.schema), path, compression="zstd")
    assert path.stat().st_size < part.LARGEST >> 7
    with pytest.raises(RecordsError, match="expands to"):
        load_records(path)


def test_a_flipped_step_trains_no_other_run(folders: dict[str, Path], tmp_path: Path) -> None:
    out = copied(folders, tmp_path, "alone")
    path = next(iter(sorted(out.glob("checkpoints/*/step-00000008/checkpoint.json"))))
    whole = json.loads(path.read_text())
    for name, value in (("step", 4), ("tokens", 1), ("identity", {}), ("sha256", {})):
        path.write_text(json.dumps({**whole, name: value}))
        with pytest.raises(CheckpointError, match=r"checkpoint\.json"):
            checkpoints.read_meta(path.parent)
    write_sealed(path, {**whole, "step": 4})  # sealed, and yet its folder says 8
    with pytest.raises(CheckpointError, match="which its folder's name does not say"):
        checkpoints.read_meta(path.parent)


def test_records_removed_while_a_run_goes_on_are_missed_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = job(tmp_path)
    original = running.record

    def removing(*arguments: Any) -> Any:
        shutil.rmtree(one.records, ignore_errors=True)
        return original(*arguments)

    monkeypatch.setattr(running, "record", removing)
    with pytest.raises(RunError, match=r"have been removed or moved.*run the same command again"):
        one.run()
    monkeypatch.undo()
    assert one.run()


def test_a_folder_removed_while_a_sweep_goes_on_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    module = importlib.import_module("geomfast.cli.sweep")
    original = module._run

    def removing(*arguments: Any) -> Any:
        found = original(*arguments)
        out.rename(tmp_path / "elsewhere")
        return found

    monkeypatch.setattr(module, "_run", removing)
    with in_process():
        result = CliRunner().invoke(main, ["sweep", str(out), *SWEEP, "--stack", "never"])
    assert result.exit_code == 2 and "is gone" in result.output


def test_a_full_disk_fails_one_run_and_not_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(failures, "write_atomically", full)
    failures.mark_failed(tmp_path, "run", 3, "why", "")
    assert "cannot be written down" in caplog.text
    assert failures.failed_before(tmp_path) == {}


def test_stray_names_in_a_folder_change_nothing(folders: dict[str, Path], tmp_path: Path) -> None:
    out = copied(folders, tmp_path, "alone")
    run = next(iter(sorted((out / "checkpoints").iterdir())))
    for name in ("step-abc", "step-1", "step-00000009x", "step--0000001"):
        (run / name).mkdir()
        (run / name / "checkpoint.json").write_text("{}")
    (run / "eigenvectors-x.safetensors").write_bytes(b"")
    (run / "eigenvectors-00000003.safetensors.bak").write_bytes(b"")
    (out / "failures").mkdir(exist_ok=True)
    (out / "failures" / "folder.txt").mkdir()
    before = load_records(out)
    assert again("alone", out)[0] == 0
    assert load_records(out).equals(before)


@pytest.mark.parametrize(
    "option, value, said",
    [
        ("--seeds", "0..1000000000", "more than 100,000"),
        ("--seeds", "9223372036854775808", "at most 4294967295"),
        ("--seeds", "0..9999999999999999999999", "at most 4294967295"),
        ("--seeds", "4294967296", "at most 4294967295"),
        ("--threads", "100000", "1<=x<=1024"),
        ("--steps", "nan", "is not a valid"),
        ("--learning-rate", "nan", "not a finite number"),
        ("--learning-rate", "inf", "not a finite number"),
    ],
)
def test_numbers_beyond_reason_are_refused(
    tmp_path: Path, option: str, value: str, said: str
) -> None:
    result = CliRunner().invoke(main, ["sweep", str(tmp_path / "out"), option, value])
    assert result.exit_code == 2 and said in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["sweep", "population", "report", "measure"])
def test_a_path_too_long_for_a_file_system(tmp_path: Path, command: str) -> None:
    for out in (str(tmp_path / ("x" * 300)), "/".join(["y" * 200] * 30)):
        result = CliRunner().invoke(main, [command, out])
        assert isinstance(result.exception, SystemExit) and result.exit_code in (1, 2)
        assert len(result.output.strip().splitlines()) <= 6


def test_the_seal_can_be_taken_off(tmp_path: Path) -> None:
    out = tmp_path / "out"
    invoke("sweep", str(out), *SWEEP, "--stack", "never")
    content = json.loads((out / "settings.json").read_text())
    content["calls"] = []
    (out / "settings.json").write_text(json.dumps(content))
    code, said = again("alone", out)
    assert code == 2 and 'remove its line "seal"' in " ".join(said.split())
    del content["seal"]
    (out / "settings.json").write_text(json.dumps(content))
    assert again("alone", out)[0] == 0
    read_sealed(out / "settings.json", required=True)  # and is put on again

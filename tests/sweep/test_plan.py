"""Planning: run names, refusal of other settings, folders that are not ours."""

import dataclasses
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from geomfast.files import fingerprint, read_sealed
from geomfast.measures import measures as known
from geomfast.runs.errors import PlanError
from geomfast.runs.folder import check_folder
from geomfast.runs.locks import FolderInUse, locked
from geomfast.sweep.folder import read_folder
from geomfast.sweep.plan import (
    Settings,
    diagnostic_settings,
    measure_settings,
    mixture_settings,
    run_identity,
    run_specs,
    settings_of,
)
from geomfast.testbed.models.scales import SCALES
from geomfast.testbed.tasks import TaskLevel
from tests.sweep.tiny import prepare_folder

GRID: dict[str, list[Any]] = {"scales": ["nano"], "seeds": [0], "measures": ["rankme"]}
CALL = {"command": "geomfast sweep out", "preset": "smoke", "machine": "m"}


def settings(**changes: object) -> Settings:
    values: dict[str, Any] = {
        "mixture": "joint",
        "tasks": ("COPY", "MOD"),
        "levels": (1, 2),
        "steps": 100,
        "batch_size": 8,
        "learning_rate": None,
        "precision": "fp32",
        "dense_until": 10,
        "dense_every": 2,
        "checkpoints": 10,
        "samples": 20,
    }
    return Settings(**{**values, **changes})


def test_cells_of_a_joint_and_a_per_task_sweep() -> None:
    joint = run_specs(settings(), ("nano", "micro"), (0, 1))
    assert [c.run for c in joint] == [
        "joint-nano-seed0",
        "joint-nano-seed1",
        "joint-micro-seed0",
        "joint-micro-seed1",
    ]
    assert [level.name for level in joint[0].task_levels] == ["COPY-1", "COPY-2", "MOD-1", "MOD-2"]
    single = run_specs(settings(mixture="per-task"), ("nano",), (3,))
    assert [c.run for c in single] == ["copy-nano-seed3", "mod-nano-seed3"]
    assert single[1].tasks == ("MOD",)


def test_rates_and_warmups_are_axes_of_the_grid() -> None:
    specs = run_specs(settings(), ("nano",), (0, 1), (3e-4, 1e-3), (5, 20))
    assert [spec.run for spec in specs[:3]] == [
        "joint-nano-lr0.0003-warmup5-seed0",
        "joint-nano-lr0.0003-warmup5-seed1",
        "joint-nano-lr0.0003-warmup20-seed0",
    ]
    assert len({spec.run for spec in specs}) == 8
    told = run_identity(settings(), specs[-1])
    assert (told["learning_rate"], told["warmup"]) == (1e-3, 20)
    # The same computation as that of a run without axes, but for its name.
    (plainly,) = run_specs(settings(learning_rate=1e-3), ("nano",), (1,))
    usual = run_identity(settings(learning_rate=1e-3), plainly)
    assert {name for name in told if told[name] != usual[name]} == {"run", "warmup"}
    assert told.keys() == usual.keys()


def test_axes_may_be_added_to_a_folder_and_grow(tmp_path: Path) -> None:
    prepare_folder(tmp_path, settings(), GRID, CALL)
    assert "learning_rates" not in json.loads((tmp_path / "settings.json").read_text())["grid"]
    prepare_folder(tmp_path, settings(), {**GRID, "learning_rates": [1e-3]}, CALL)
    prepare_folder(tmp_path, settings(), {**GRID, "learning_rates": [3e-4]}, CALL)
    content = json.loads((tmp_path / "settings.json").read_text())
    assert content["grid"]["learning_rates"] == [None, 1e-3, 3e-4]
    assert list(content["recipes"]) == ["nano", "nano-lr0.001", "nano-lr0.0003"]
    assert content["recipes"]["nano-lr0.001"]["learning_rate"] == 1e-3
    runs = [spec.run for spec in read_folder(tmp_path)[1]]
    assert runs == ["joint-nano-seed0", "joint-nano-lr0.001-seed0", "joint-nano-lr0.0003-seed0"]
    content["grid"]["learning_rates"] = ["fast"]
    del content["seal"]
    (tmp_path / "settings.json").write_text(json.dumps(content))
    with pytest.raises(PlanError, match=r"grid\.learning_rates holds 'fast'"):
        read_folder(tmp_path)


def test_levels_may_be_trained_on_without_being_measured() -> None:
    (spec,) = run_specs(settings(measured_levels=(1,)), ("nano",), (0,))
    assert [level.name for level in spec.task_levels] == ["COPY-1", "MOD-1"]
    assert [level.name for level in spec.trained] == ["COPY-1", "COPY-2", "MOD-1", "MOD-2"]
    (whole,) = run_specs(settings(), ("nano",), (0,))
    assert run_identity(settings(), spec) == run_identity(settings(), whole)


def test_settings_file_resolves_every_hash(tmp_path: Path) -> None:
    prepare_folder(tmp_path, settings(), GRID, CALL)
    content = json.loads((tmp_path / "settings.json").read_text())
    data, description = diagnostic_settings(settings(), TaskLevel("MOD", 2))
    assert content["hashes"][data] == description
    measures = {v["measure"] for v in content["hashes"].values() if "measure" in v}
    assert measures == {"behaviour", *known()}
    names = (("COPY", 1), ("COPY", 2), ("MOD", 1), ("MOD", 2))
    each = [diagnostic_settings(settings(), TaskLevel(*name))[0] for name in names]
    assert content["hashes"][mixture_settings(each)[0]]["data"] == each
    assert content["chance"]["MOD-1"] == pytest.approx(1 / 7)


def test_the_same_settings_resume_and_the_grid_may_grow(tmp_path: Path) -> None:
    prepare_folder(tmp_path, settings(), GRID, CALL)
    prepare_folder(tmp_path, settings(), GRID, CALL)
    more = {**GRID, "scales": ["micro"], "seeds": [0, 1]}
    prepare_folder(tmp_path, settings(), more, {**CALL, "command": "another"})
    content = json.loads((tmp_path / "settings.json").read_text())
    assert content["grid"]["scales"] == ["nano", "micro"]
    assert content["grid"]["seeds"] == [0, 1]
    assert list(content["recipes"]) == ["nano", "micro"]
    said = [call["command"] for call in content["calls"]]
    assert said == ["geomfast sweep out", "geomfast sweep out", "another"]


def test_other_settings_are_refused_with_the_difference(tmp_path: Path) -> None:
    prepare_folder(tmp_path, settings(), GRID, CALL)
    before = (tmp_path / "settings.json").read_bytes()
    with pytest.raises(PlanError) as refusal:
        prepare_folder(tmp_path, settings(steps=200, tasks=("ADD",)), GRID, CALL)
    assert "steps: 100 there, 200 asked for" in str(refusal.value)
    assert "tasks: COPY MOD there, ADD asked for" in str(refusal.value)
    assert "batch_size" not in str(refusal.value)
    assert "nano.steps" not in str(refusal.value)  # said once, not for every scale
    assert (tmp_path / "settings.json").read_bytes() == before


def call(out: Path, *measures: str, **changes: object) -> None:
    prepare_folder(out, settings(**changes), {**GRID, "measures": list(measures)}, CALL)


def test_settings_of_a_measure_are_free_until_it_is_taken(tmp_path: Path) -> None:
    call(tmp_path, "rankme")
    call(tmp_path, "rankme", "llc", llc_lr=1e-6)
    with pytest.raises(PlanError, match="llc_lr: 1e-06 there, auto asked for"):
        call(tmp_path, "llc")
    with pytest.raises(PlanError, match="llc_localization"):
        call(tmp_path, "llc", llc_lr=1e-6, llc_localization=5.0)
    call(tmp_path, "rankme")  # which does not ask for it, and leaves it as it is
    found, runs = read_folder(tmp_path)
    assert found == settings(llc_lr=1e-6)
    assert [spec.run for spec in runs] == ["joint-nano-seed0"]
    hashes = json.loads((tmp_path / "settings.json").read_text())["hashes"]
    assert fingerprint(measure_settings(found, "llc")) in hashes


@pytest.mark.parametrize("taken", ["hessian_density", "hessian_negative"])
def test_settings_that_two_measures_share_are_fixed_by_either(tmp_path: Path, taken: str) -> None:
    call(tmp_path, "rankme")
    call(tmp_path, "rankme", taken, density_probes=2)
    for name in ("hessian_density", "hessian_negative"):
        with pytest.raises(PlanError, match="density_probes: 2 there, 3 asked for"):
            call(tmp_path, name, density_probes=3)
    found, _ = read_folder(tmp_path)
    both = [settings_of(found, name) for name in ("hessian_density", "hessian_negative")]
    assert [(one.probes, one.iterations) for one in both] == [(2, 40)] * 2


def test_a_folder_from_before_there_was_a_setting_goes_on(tmp_path: Path) -> None:
    call(tmp_path, "rankme")
    path = tmp_path / "settings.json"
    old = read_sealed(path)
    for name in ("llc_lr", "llc_chains", "eps"):
        del old["settings"][name]
    path.write_text(json.dumps(old))
    assert read_folder(tmp_path)[0] == settings()
    with pytest.raises(PlanError, match=r"eps: 0\.0 there, 0\.5 asked for"):
        call(tmp_path, "rankme", eps=0.5)
    call(tmp_path, "rankme", "llc", llc_lr=1e-6)
    assert read_folder(tmp_path)[0] == settings(llc_lr=1e-6)


def test_a_folder_without_a_sweep_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="no such folder"):
        read_folder(tmp_path / "nowhere")
    with pytest.raises(PlanError, match=r"no settings\.json"):
        read_folder(tmp_path)
    call(tmp_path, "rankme")
    path = tmp_path / "settings.json"
    newer = read_sealed(path)
    newer["settings"]["spin"] = 1
    path.write_text(json.dumps(newer))
    with pytest.raises(PlanError, match="another version"):
        read_folder(tmp_path)


def test_a_default_that_changed_since_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder remembers the whole recipe, also what nobody asked for."""
    prepare_folder(tmp_path, settings(), GRID, CALL)
    before = SCALES["nano"].learning_rate
    monkeypatch.setitem(SCALES, "nano", dataclasses.replace(SCALES["nano"], learning_rate=0.25))
    expected = rf"nano\.learning_rate: {before} there, 0\.25 asked for"
    with pytest.raises(PlanError, match=expected):
        prepare_folder(tmp_path, settings(), GRID, CALL)


def test_the_remains_of_a_killed_first_write_are_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".tmp-settings.json-99").write_text("{")
    (tmp_path / ".lock").touch()
    check_folder(tmp_path)


def test_a_file_a_foreign_folder_and_foreign_settings_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("precious")
    with pytest.raises(PlanError, match="is a file"):
        check_folder(file)
    assert file.read_text() == "precious"
    with pytest.raises(PlanError, match="not empty"):
        check_folder(tmp_path)
    ours = tmp_path / "out"
    ours.mkdir()
    (ours / "settings.json").write_text('{"format": "something else"}')
    with pytest.raises(PlanError, match="not a geomfast sweep's"):
        prepare_folder(ours, settings(), GRID, CALL)
    (ours / "settings.json").write_text("{")
    with pytest.raises(PlanError, match="cannot be read"):
        prepare_folder(ours, settings(), GRID, CALL)


def test_an_unwritable_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "readonly"
    folder.mkdir()
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    # root may write anywhere, so ask as another user would be answered
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(PlanError, match="not writable"):
        check_folder(folder)
    with pytest.raises(PlanError, match="cannot make"):
        check_folder(Path("/proc/geomfast"))


def test_a_folder_has_one_writer(tmp_path: Path) -> None:
    with (
        locked(tmp_path, "OUT"),
        pytest.raises(FolderInUse, match="in use"),
        locked(tmp_path, "OUT"),
    ):
        pass
    with locked(tmp_path, "OUT"):
        pass


def test_settings_of_a_measure_whose_package_is_gone_stay_told(tmp_path: Path) -> None:
    prepare_folder(tmp_path, settings(), GRID, CALL)
    content = read_sealed(tmp_path / "settings.json")
    told = {"measure": "another", "samples": 20}
    content["hashes"][fingerprint(told)] = told
    content["grid"]["measures"].append("another")
    (tmp_path / "settings.json").write_text(json.dumps(content))
    prepare_folder(tmp_path, settings(), GRID, CALL)
    assert read_sealed(tmp_path / "settings.json")["hashes"] == content["hashes"]

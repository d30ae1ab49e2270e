"""The catalogue: what every measure says of itself, and what becomes of others' measures."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from geomfast.measures import Column, MeasureSpec, Need, UnknownMeasure, catalog, measures, spec_of
from geomfast.measures.catalog import measure_of
from geomfast.records import load_records
from tests.measures.plugin import PARTICIPATION, install, lay_down

NAMES = [
    *("rankme", "probe_accuracy", "fisher_rank", "gradient_covariance_rank"),
    *("hessian_top", "hessian_subspace", "hessian_edge", "hessian_trace", "hessian_density"),
    *("hessian_negative", "llc", "centered_rankme"),
    *("alpha_req", "participation_ratio", "stable_rank", "numerical_rank"),
    *("first_component_share", "condition_number", "two_nn", "anisotropy", "cka"),
    *("neural_collapse", "gradient_noise_scale", "gradient_alignment", "gradient_norm"),
    "gradient_stiffness",
]


def test_the_measures_there_are():
    assert [name for name in measures() if not spec_of(name).plugin] == NAMES
    for name, spec in catalog().specs.items():
        assert spec.name == name and spec.summary and spec.unit and spec.label
        assert spec.meaning or spec.need is Need.ANSWERS
        assert re.fullmatch("#[0-9A-F]{6}", spec.colour)
        assert spec.defaults == {**spec.defaults} and spec.asked() == spec.settings()


@pytest.mark.parametrize("name", ["rank_me", "", None, 3, "rankme ", ["rankme"]])
def test_an_unknown_name_raises_and_says_what_there_is(name):
    with pytest.raises(UnknownMeasure, match=r"unknown measure .*there are: rankme, probe_"):
        spec_of(name)


def test_records_belong_to_the_measure_that_writes_them():
    assert {name: measure_of(name) for name in ("llc", "llc_rhat", "hessian_density_q01")} == {
        "llc": "llc",
        "llc_rhat": "llc",
        "hessian_density_q01": "hessian_density",
    }
    assert measure_of("accuracy") is None and measure_of("llcx") is None


def test_a_setting_that_a_measure_has_not():
    with pytest.raises(TypeError, match="llc has no setting 'learning_rate'; it has lr, local"):
        spec_of("llc").asked(learning_rate=1.0)


@dataclass(frozen=True)
class NoSettings:
    pass


def made(**changes) -> MeasureSpec:
    told = {
        "name": "new", "summary": "s", "unit": "u", "settings": NoSettings,
        "need": Need.ACTIVATIONS, "columns": (Column("new"),), "compute": print, "label": "l",
    }  # fmt: skip
    return MeasureSpec(**(told | changes))


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"name": "new measure"}, ValueError, "letters, digits and _, not 'new measure'"),
        ({"name": "../new"}, ValueError, "letters, digits"),
        ({"name": "naïve"}, ValueError, "letters, digits"),
        ({"settings": dict}, TypeError, "settings must be a dataclass"),
        ({"compute": None}, TypeError, "compute must be a function"),
        ({"columns": ()}, ValueError, "its columns must be called new or new_..."),
        ({"columns": (Column("old"),)}, ValueError, "its columns must be called new or new_..."),
    ],
)
def test_what_no_measure_can_be(changes, error, said):
    with pytest.raises(error, match=re.escape(said)):
        made(**changes)
    assert made().asked() == NoSettings()


def ran(site: Path, *command: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", "COLUMNS": "160"}
    return subprocess.run(
        [sys.executable, *map(str, command)], env=environment, capture_output=True, text=True
    )


def listed(site: Path) -> dict:
    found = ran(site, "-m", "geomfast.cli.main", "measures", "--json")
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


_EVERYWHERE = """
import sys, torch, pandas as pd, geomfast as gf
from torch import nn
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3))
x, y = torch.randn(20, 4), torch.arange(20) % 3
cross = nn.CrossEntropyLoss(reduction="none")
found = gf.measure(model, None, x, "participation", layers=["1", "3"], participation={"power": 3.0})
s = torch.linalg.svdvals(model[:4](x).double())
assert abs(found["participation", "final"].value - (s.sum() ** 3 / (s**3).sum()).item()) < 1e-5
assert "directions take part" in str(found)
with gf.Tracker(model, None, x, measures=("rankme", "participation"), layers=["1", "3"],
                out=sys.argv[1], max_overhead=None) as tracker:
    tracker.step(0)
there = set(gf.load_records(sys.argv[1])["measure"])
assert there - {"tracker_overhead"} == {"rankme", "participation"}, there

import json
from click.testing import CliRunner
from geomfast.cli.main import main
for step in json.loads(sys.argv[2]):
    done = CliRunner().invoke(main, step)
    assert done.exit_code == 0, (step, done.output)
"""


def test_a_measure_of_another_package_is_taken_everywhere(tmp_path):
    site = install(tmp_path)
    (own,) = [one for one in listed(site)["measures"] if one["name"] == "participation"]
    assert own["package"] == "little" and own["settings"] == {"power": 2.0} and own["per_layer"]
    sweep = (
        "--tasks COPY --levels 1 --steps 2 --checkpoints 2 --samples 8 --batch-size 4 --keep all"
    )
    sweep += " --measures rankme,participation --threads 1 --workers 1"
    members = "--scales 1x8 --seeds 0,1 --steps 4 --train-length 3 --test-lengths 4 --batch-size 9"
    members += " --samples 8 --checkpoints 2 --threads 1 --measures rankme,participation"
    steps = (
        ("population", tmp_path / "members", *members.split()),
        ("report", tmp_path / "members"),
        ("sweep", tmp_path / "out", *sweep.split()),
        ("sweep", tmp_path / "dry", *sweep.split(), "--dry-run"),
        ("measure", tmp_path / "out", "--measures", "participation", "--threads", "1"),
        ("report", tmp_path / "out"),
    )
    commands = json.dumps([[str(word) for word in step] for step in steps])
    done = ran(site, "-c", _EVERYWHERE, tmp_path / "tracked", commands)
    assert done.returncode == 0, done.stdout + done.stderr
    # Steps and layers; members and lengths, too.
    for out, values in (("out", 2 * 3), ("out-measured", 2 * 3), ("members", 2 * 2 * 2 * 2)):
        assert (load_records(tmp_path / out)["measure"] == "participation").sum() == values, out


def test_two_packages_with_one_name_are_both_named_and_neither_is_loaded(tmp_path):
    for package in ("first", "second"):
        lay_down(tmp_path, package)
    found = listed(tmp_path)
    assert "participation" not in {one["name"] for one in found["measures"]}
    assert set(found["failures"]) == {"first of first", "second of second"}
    assert "is also a measure" in found["failures"]["first of first"]
    assert "second of second" in found["failures"]["first of first"]


def test_a_package_cannot_replace_a_measure_of_ours(tmp_path):
    taken = {"one": "rankme", "two": "llc_rhat", "three": "llc_of_mine"}
    for package, name in taken.items():
        lay_down(tmp_path, package, PARTICIPATION.replace('"participation"', f'"{name}"'))
    found = listed(tmp_path)
    assert [one["name"] for one in found["measures"]] == NAMES
    assert set(found["failures"]) == {f"{package} of {package}" for package in taken}
    for said in found["failures"].values():
        assert "it is not loaded" in said


def test_a_name_that_begins_one_of_ours_is_a_measure_of_its_own(tmp_path):
    # participation and participation_ratio
    lay_down(tmp_path, "little")
    asked = "from geomfast.measures.catalog import measure_of as of; print(of('participation'), "
    asked += "of('participation_of_heads'), of('participation_ratio'), of('llc_rhat'))"
    said = ran(tmp_path, "-c", asked).stdout.split()
    assert said == ["participation", "participation", "participation_ratio", "llc"]
    both = '(Column("participation", 0.0), Column("participation_ratio", 0.0))'
    source = PARTICIPATION.replace('(Column("participation", 0.0),)', both)
    lay_down(tmp_path / "other", "other", source)
    assert "participation_ratio" in listed(tmp_path / "other")["failures"]["other of other"]


def test_packages_that_fail_are_said_with_their_tracebacks_and_others_go_on(tmp_path):
    faulty = {
        "licensed": ("raise RuntimeError('no licence')", "no licence"),
        "importing": ("import does_not_exist_anywhere", "does_not_exist_anywhere"),
        "number": ("MEASURE = 3", "not iterable"),
        "numbered": ("MEASURE = [3]", "holds no MeasureSpec"),
        "empty": ("nothing = 1", "no attribute 'MEASURE'"),
    }
    for package, (source, _) in faulty.items():
        lay_down(tmp_path, package, source)
    lay_down(tmp_path, "little")
    found = listed(tmp_path)
    assert [one["name"] for one in found["measures"]] == [*NAMES, "participation"]
    shown = ran(tmp_path, "-m", "geomfast.cli.main", "measures")
    assert shown.returncode == 0 and "could not be loaded" in shown.stdout
    assert set(found["failures"]) == {f"{package} of {package}" for package in faulty}
    for package, (_, said) in faulty.items():
        assert said in found["failures"][f"{package} of {package}"]
        assert said in shown.stdout

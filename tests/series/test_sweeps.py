"""Checkpoints that a sweep has kept: measured again, they give the sweep's own rows."""

import json
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from geomfast.cli.main import main
from geomfast.records import load_records
from geomfast.sweep.jobs import Job
from geomfast.sweep.plan import Settings, run_specs
from tests.sweep.tiny import prepare_folder

SETTINGS = Settings("joint", ("COPY", "MOD"), (1,), 4, 4, None, "fp32", 2, 1, 2, 12)
MEASURES = ("rankme", "fisher_rank", "gradient_covariance_rank")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, of which all weights have been kept."""
    out = tmp_path_factory.mktemp("sweep") / "out"
    grid = {"scales": ["nano"], "seeds": [0, 1], "measures": list(MEASURES)}
    prepare_folder(out, SETTINGS, grid, {})
    for spec in run_specs(SETTINGS, ("nano",), (0, 1)):
        Job(spec, SETTINGS, MEASURES, out, "cpu", 1, keep="all").run()
    return out


def measured(source: Path, *arguments: object) -> dict[str, object]:
    command = ["measure", source, "--threads", "1", "--json", *arguments]
    result = CliRunner().invoke(main, [str(word) for word in command])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_the_rows_are_those_of_the_sweep(sweep: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    outcome = measured(sweep, "--out", out, "--measures", ",".join(MEASURES))
    assert outcome["runs"] == {f"joint-nano-seed{seed}": 5 for seed in (0, 1)}
    ours, theirs = (load_records(path).drop(columns="seconds") for path in (out, sweep))
    pd.testing.assert_frame_equal(ours, theirs)
    content = json.loads((out / "settings.json").read_text())
    assert set(ours["settings"]) | set(ours["data"]) <= content["hashes"].keys()
    assert content["chance"] == json.loads((sweep / "settings.json").read_text())["chance"]


def test_checkpoints_of_one_run_with_other_measures(sweep: Path, tmp_path: Path) -> None:
    one = sweep / "checkpoints" / "joint-nano-seed1"
    measured(one, "--out", tmp_path / "out", "--measures", "probe_accuracy", "--samples", 10)
    records = load_records(tmp_path / "out")
    assert set(records["run"]) == {"joint-nano-seed1"} and set(records["n"]) == {10}
    assert {"probe_accuracy", "accuracy"} <= set(records["measure"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--probes", "syntax"], "no --probes and no --dtype"),
        (["--dtype", "bfloat16"], "no --probes and no --dtype"),
        (["--llc-burn-in", "3"], "llc_burn_in is the same in every sweep"),
    ],
)
def test_what_a_sweep_has_settled(
    sweep: Path, arguments: list[str], said: str, tmp_path: Path
) -> None:
    command = ["measure", str(sweep), "--out", str(tmp_path / "out"), *arguments]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 2 and said in " ".join(result.output.split())


def test_a_sweep_that_has_kept_nothing(tmp_path: Path) -> None:
    grid = {"scales": ["nano"], "seeds": [0], "measures": []}
    prepare_folder(tmp_path / "sweep", SETTINGS, grid, {})
    result = CliRunner().invoke(main, ["measure", str(tmp_path / "sweep")])
    assert result.exit_code == 2 and "--keep all keeps them all" in result.output

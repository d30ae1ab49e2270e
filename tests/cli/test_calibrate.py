"""``geomfast calibrate-llc`` on a small sweep."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from geomfast.cli.choices import Ladder, OneTaskLevel
from geomfast.cli.main import main
from geomfast.report import extras
from geomfast.sweep.jobs import Job
from geomfast.sweep.plan import run_specs
from tests.lm.language_models import save
from tests.sweep.tiny import prepare_folder, tiny

SETTINGS = tiny(steps=4, dense_until=4, checkpoints=3, samples=12)
SHORT = ["--draws", "4", "--burn-in", "2", "--chains", "2", "--threads", "1"]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of two runs, of which one has been trained."""
    folder = tmp_path_factory.mktemp("calibrate") / "out"
    grid: dict[str, list[Any]] = {"scales": ["nano"], "seeds": [0, 1], "measures": []}
    folder.mkdir()
    prepare_folder(folder, SETTINGS, grid, {"command": "geomfast sweep out"})
    one, _ = run_specs(SETTINGS, ("nano",), (0, 1))
    assert Job(one, SETTINGS, (), folder, "cpu", threads=1, keep="all").run()
    return folder


def call(*arguments: object, columns: int = 80) -> Result:
    command = ["calibrate-llc", *map(str, arguments)]
    return CliRunner(env={"COLUMNS": str(columns)}).invoke(main, command)


def refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def test_json_holds_every_trial_and_the_picture_is_written(out: Path, tmp_path: Path) -> None:
    picture = tmp_path / "grid.png"
    grid = ("--lr", "1e-5..5e-5", "--localization", "1000,100000")
    result = call(out, "--json", "--task", "mod:1", "--figure", picture, *grid, *SHORT)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout, parse_constant=refuse)
    assert (found["run"], found["step"]) == ("joint-nano-seed0", 4)
    assert (found["task"], found["level"], found["n"]) == ("MOD", 1, 12)
    assert found["curvature"] > 0 and found["nbeta"] == pytest.approx(12 / 2.484907)
    settings = [(trial["localization"], trial["lr"]) for trial in found["trials"]]
    assert settings == [(pull, lr) for pull in (1e3, 1e5) for lr in (1e-5, 2e-5, 5e-5)]
    assert found["trials"][0]["mean"] is not None
    assert found["trials"][-1]["verdict"].startswith("skipped: unstable")
    assert found["trials"][-1]["mean"] is None
    # Of eight draws nothing can be said, and that is said.
    assert found["recommended"] is None and "more draws" in found["reason"]
    assert found["figure"] == str(picture)
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def believing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every setting that was run has converged to the same."""
    from geomfast.estimators.sampling import calibrate as module

    original = module.judged

    def judged(*arguments: Any, **options: Any) -> Any:
        return dataclasses.replace(
            original(*arguments, **options), converged=True, verdict="converged", reach=0.1
        )

    monkeypatch.setattr(module, "judged", judged)
    monkeypatch.setattr(module, "_agree", lambda a, b: True)


@pytest.mark.usefixtures("believing")
def test_the_table_fits_and_the_recommendation_is_a_command_line(out: Path) -> None:
    result = call(out, "--lr", "1e-5,2e-5", "--localization", "1000,3000", *SHORT)
    assert result.exit_code == 0, result.output
    lines = result.stdout.rstrip("\n").split("\n")
    picture = out / "figures" / "llc-calibration-joint-nano-seed0-4-mixture.png"
    assert lines[-1] == str(picture) and picture.exists()
    assert max(len(line) for line in lines[:-1]) <= 80 and "…" not in result.stdout
    assert "joint-nano-seed0, step 4, mixture" in result.stdout
    assert "Recommended: --llc-lr 2e-05 --llc-localization 1000" in result.stdout
    assert "weakest localization" in " ".join(lines)
    assert result.stdout.count("converged, same") == 4


def test_step_zero_needs_no_weights(out: Path) -> None:
    grid = ("--lr", "1e-5", "--localization", "1000", "--task", "COPY-1")
    result = call(out, "--json", "--run", "joint-nano-seed1", "--step", 0, *grid, *SHORT)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["run"], found["step"], found["task"]) == ("joint-nano-seed1", 0, "COPY")


#: Options that are refused, and what the refusal says.
REFUSED = {
    "--run joint-nano-seed7": "there are: joint-nano-seed0, joint-nano-seed1",
    "--run joint-nano-seed1": "no weights of joint-nano-seed1 have been kept",
    "--step 3": "there are those of: 0, 2, 4",
    "--task ADD:1": "has only COPY-1, MOD-1",
    "--task JUMP:1": "COPY, REV",
    "--lr 1e-3..1e-5": "ranges ascend",
    "--lr fast": "no number",
    "--device cuda:99": "cannot be used",
}


@pytest.mark.parametrize("options", REFUSED)
def test_bad_usage_is_2_and_says_what_there_is(out: Path, options: str) -> None:
    result = call(out, *options.split())
    assert result.exit_code == 2, result.output
    assert REFUSED[options] in " ".join(result.stderr.replace("│", " ").split())


def test_a_folder_that_is_no_sweep_is_2(tmp_path: Path) -> None:
    for where, words in (
        (tmp_path / "nowhere", "no such folder"),
        (tmp_path, "neither a geomfast sweep"),
    ):
        result = call(where)
        assert result.exit_code == 2 and words in result.stderr


MODULE = """
import torch
from torch import nn

def model():
    torch.manual_seed(0)
    network = nn.Linear(6, 1)
    return network

inputs = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
targets = model()(inputs).detach() + torch.randn(64, 1, generator=torch.Generator().manual_seed(2))
best = torch.linalg.lstsq(torch.cat([inputs, torch.ones(64, 1)], 1), targets).solution

class names:
    @staticmethod
    def solved():
        network = nn.Linear(6, 1)
        with torch.no_grad():
            network.weight.copy_(best[:-1].T)
            network.bias.copy_(best[-1])
        return network

def loss(model, batch):
    return 0.5 * (model(batch[0]) - batch[1]).square()[:, 0]

def batches():
    return [(inputs[:40], targets[:40]), (inputs[40:], targets[40:])]

batch = (inputs, targets)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An importable module with a regression of 7 weights at its minimum."""
    name = f"regression_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return name


@pytest.mark.parametrize("data", ["batch", "batches"])
def test_an_importable_model_by_the_ladder(module: str, data: str, tmp_path: Path) -> None:
    """Half of seven weights, without a number set by hand."""
    picture = tmp_path / "ladder.png"
    source = f"{module}:names.solved:loss:{data}"
    more = ("--threads", 1, "--error", 0.05, "--batch-size", 64)
    result = call(source, "--json", "--figure", picture, "--nbeta", 1e4, *more)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout, parse_constant=refuse)
    assert (found["run"], found["task"], found["n"]) == (f"{module}:names.solved", data, 64)
    assert found["step"] is None and found["nbeta"] == 1e4
    assert abs(found["coefficient"] - 3.5) <= 3 * found["stderr"] + 0.05
    pulls = [rung["localization"] for rung in found["rungs"]]
    assert pulls == sorted(pulls, reverse=True) and len(pulls) >= 2
    assert found["recommended"]["localization"] == pulls[-1]
    assert picture.stat().st_size > 5000


def test_the_ladder_of_a_sweep_is_told_with_what_to_pass(out: Path) -> None:
    more = ("--threads", 1, "--max-seconds", 20, "--error", 0.3, "--nbeta", 30)
    result = call(out, "--task", "mod:1", *more)
    # Of a model that has hardly been trained chains find lower losses, and that is said.
    if result.exit_code == 1:
        assert "still training" in result.stderr
    else:
        assert "Recommended: --llc-localization" in result.stdout
        picture = out / "figures" / "llc-ladder-joint-nano-seed0-4-MOD-1.png"
        assert result.stdout.rstrip().endswith(str(picture)) and picture.exists()


def test_a_language_model(tmp_path: Path) -> None:
    save(tmp_path / "step7", "GPTNeoX")
    grid = ("--lr", "1e-6", "--localization", "100000")
    for source, options in ((tmp_path, ()), (tmp_path / "step7", ("--step", 7))):
        result = call(source, "--json", *options, *grid, *SHORT)
        assert result.exit_code == 0, result.output
        found = json.loads(result.stdout, parse_constant=refuse)
        assert found["step"] == 7 and found["n"] > 1 and found["trials"][0]["mean"] is not None
    for options, words in (
        (("--step", 9), "has only 7"),
        (("--task", "MOD:1"), "--task does not go with a language model"),
        (("--probes", "nothing"), "--probes"),
    ):
        result = call(tmp_path, *options, *grid, *SHORT)
        assert result.exit_code == 2 and words in result.stderr, result.output


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        ("nowhere_at_all:a:b:c", "", "cannot import nowhere_at_all"),
        ("{}:absent:loss:batch", "", "has no absent"),
        ("{}:batch:loss:batch", "", "is no module of torch"),
        ("{}:names.solved:batch:batch", "", "is no function"),
        ("{}:names.solved:loss:names", "", "neither a batch"),
        ("{}:names.solved:loss:batch", "--task MOD:1", "--task does not go with an importable"),
        ("{}:names.solved:loss:batch", "--draws 10", "needs a grid"),
        ("{}:names.solved:loss:batch", "--lr 1e-3 --error 0.1", "does not go with --lr"),
    ],
)
def test_what_an_importable_model_refuses(
    module: str, source: str, options: str, words: str
) -> None:
    result = call(source.format(module), *options.split())
    assert result.exit_code == 2, result.output
    assert words in " ".join(result.stderr.replace("│", " ").split())


def test_damaged_weights_are_1(out: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    (weights,) = copy.rglob("step-00000004/weights.safetensors")
    weights.write_bytes(b"half")
    result = call(copy)
    assert result.exit_code == 1 and "truncated" in result.stderr


def test_without_matplotlib_there_is_a_table_still(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    present = extras.importlib.import_module

    def absent(name: str) -> Any:
        if name.startswith("geomfast."):
            return present(name)
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(extras.importlib, "import_module", absent)
    grid = ("--lr", "1e-5", "--localization", "1000", *SHORT)
    result = call(out, *grid)
    assert result.exit_code == 0 and "No setting is recommended" in result.stdout
    assert 'pip install "geomfast[report]"' in result.stderr
    assert call(out, "--figure", tmp_path / "x.png", *grid).exit_code == 1


def test_ladders() -> None:
    ladder = Ladder((1, 3))

    def values(text: str) -> tuple[float, ...]:
        return ladder.convert(text, None, None)

    assert values("1e-5") == (1e-5,)
    assert values("1e-4..1e-3") == (1e-4, 3e-4, 1e-3)
    assert values("200..4000") == (200.0, 300.0, 1000.0, 3000.0, 4000.0)
    assert values("5, 1..3") == (1.0, 3.0, 5.0)
    for wrong in ("0", "-1", "inf", "nan", "1..", "a..b", "3..1", ""):
        with pytest.raises(click.BadParameter):
            values(wrong)


def test_task_levels() -> None:
    kind = OneTaskLevel()
    assert kind.convert("mod:2", None, None) == kind.convert("MOD-2", None, None) == ("MOD", 2)
    assert kind.convert("Mixture", None, None) == ("", 0)
    for wrong in ("MOD", "MOD:4", ":1", "mod:1:2"):
        with pytest.raises(click.BadParameter):
            kind.convert(wrong, None, None)

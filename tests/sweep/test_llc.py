"""Local learning coefficients of a sweep: of what they are, and what becomes of bad ones."""

import dataclasses
import math
from pathlib import Path

import pandas as pd
import pytest
import torch

import geomfast as gf
from geomfast.estimators.sampling import calibrate as module
from geomfast.files import fingerprint
from geomfast.records import load_records
from geomfast.sweep.jobs import Job
from geomfast.sweep.plan import (
    RunSpec,
    measure_settings,
    mixture_settings,
    run_specs,
    settings_of,
    train_settings,
)
from geomfast.sweep.samples import level_samples, mixture
from geomfast.testbed.models.gpt import GPT
from geomfast.testbed.models.scales import SCALES
from geomfast.testbed.tasks import TASK_NAMES
from geomfast.testbed.training.loop import Trainer
from tests.sweep.defaults import change
from tests.sweep.tiny import tiny

SETTINGS = tiny(steps=2, dense_until=2, checkpoints=2, samples=12, llc_chains=2, llc_draws=4)
BESIDE = ("diverged", "rhat", "ess", "step_bias", "localization_effect", "degree", "lr")
BESIDE += ("localization",)
BESIDE += ("localization_least",)
NAMES = {"llc"} | {f"llc_{name}" for name in BESIDE}
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    change(monkeypatch, "llc", burn_in=2)


def job(out: Path) -> Job:
    (one,) = run_specs(SETTINGS, ("nano",), (0,))
    return Job(one, SETTINGS, ("llc",), out, "cpu", threads=1)


def test_the_padded_mixture_has_the_losses_of_its_task_levels() -> None:
    settings = dataclasses.replace(SETTINGS, tasks=TASK_NAMES, levels=(1, 3), samples=3)
    samples = level_samples(RunSpec("nano", 0, TASK_NAMES, (1, 3), "run"), settings, CPU)
    whole = mixture(samples)
    model = GPT(SCALES["nano"], 0)
    with torch.no_grad():
        alone = torch.cat([probe.loss(model, probe.batch) for probe in samples])
        together = whole.loss(model, whole.batch)
    assert whole.named["n"] == len(together) == 3 * 16
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


def test_chains_of_the_mixture_may_run_as_one_program() -> None:
    """Which they do on a GPU: nothing in its loss depends on values."""
    (one,) = run_specs(SETTINGS, ("nano",), (0,))
    whole = mixture(level_samples(one, SETTINGS, CPU))
    options = dataclasses.asdict(settings_of(SETTINGS, "llc")) | {
        "draws": 2,
        "max_draws": 2,
        "burn_in": 0,
        "batch_size": 3,
    }
    model = GPT(SCALES["nano"], 0)
    found = [gf.llc(model, whole.loss, whole.batch, stacked=s, **options) for s in (True, False)]
    torch.testing.assert_close(found[0].loss_trace, found[1].loss_trace, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    out = tmp_path_factory.mktemp("llc")
    with pytest.MonkeyPatch.context() as patch:
        change(patch, "llc", burn_in=2)
        assert job(out).run()
    frame = load_records(out)
    return frame[frame["measure"].str.startswith("llc")]


def test_every_task_level_and_the_mixture_are_recorded(measured: pd.DataFrame) -> None:
    assert set(measured["measure"]) == NAMES
    # COPY-1, MOD-1 and both; not of the untrained weights, which are near no minimum.
    assert len(measured) == 3 * len(NAMES) and set(measured["step"]) == {2}
    assert set(zip(measured["task"], measured["level"], strict=True)) == {
        ("COPY", 1),
        ("MOD", 1),
        ("", 0),
    }
    assert measured.groupby("task")["n"].unique().map(list).to_dict() == {
        "": [24],
        "COPY": [12],
        "MOD": [12],
    }
    assert set(measured["settings"]) == {fingerprint(measure_settings(SETTINGS, "llc"))}
    hashes = measured.groupby("task")["data"].unique().map(lambda found: found[0])
    assert hashes[""] == mixture_settings([hashes["COPY"], hashes["MOD"]])[0]
    assert (measured["seconds"] > 0).all() and set(measured["backend"]) <= {"cpu", "torch"}


def test_what_is_recorded_is_what_a_call_finds(measured: pd.DataFrame) -> None:
    (one,) = run_specs(SETTINGS, ("nano",), (0,))
    samples = level_samples(one, SETTINGS, CPU)
    trainer = Trainer("nano", 0, one.trained, train_settings(SETTINGS))
    trainer.advance(2)
    model = trainer.model.eval()
    for probe in (*samples, mixture(samples)):
        found = gf.llc(
            model, probe.loss, probe.batch, **dataclasses.asdict(settings_of(SETTINGS, "llc"))
        )
        rows = measured[(measured["step"] == 2) & (measured["data"] == probe.data)]
        rows = rows.set_index("measure")
        assert rows["value"]["llc"] == pytest.approx(found.mean, rel=1e-6)
        assert rows["stderr"]["llc"] == pytest.approx(found.stderr, rel=1e-6)
        assert rows["value"]["llc_ess"] == pytest.approx(found.ess, rel=1e-6)
        assert rows["value"]["llc_diverged"] == 0
        effect = (found.localization_effect, found.localization_effect_stderr)
        recorded = tuple(rows.loc["llc_localization_effect", ["value", "stderr"]])
        assert recorded == pytest.approx(effect, rel=1e-6, nan_ok=True)


def test_a_run_whose_chains_diverge_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = module.attempt, []

    def lost_once(*arguments: object, **options: object) -> object:
        calls.append(options)
        return None if len(calls) == 2 else original(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "attempt", lost_once)
    assert job(tmp_path).run()
    frame = load_records(tmp_path)
    lost = frame[(frame["step"] == 2) & (frame["task"] == "MOD")].set_index("measure")["value"]
    assert math.isnan(lost["llc"]) and math.isnan(lost["llc_rhat"])
    assert lost["llc_diverged"] == 2
    assert frame[frame["measure"] == "llc"]["value"].notna().sum() == 2

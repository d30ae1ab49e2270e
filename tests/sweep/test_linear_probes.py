"""Linear probes of a sweep: what is recorded is what a call finds, held out by input."""

import dataclasses
import gc
import math
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch

import geomfast as gf
from geomfast.estimators.activations import observe
from geomfast.files import fingerprint
from geomfast.measures import spec_of
from geomfast.records import load_records
from geomfast.sweep.eigenvectors import Eigenvectors
from geomfast.sweep.jobs import Job
from geomfast.sweep.measuring import measure
from geomfast.sweep.plan import Settings, measure_settings, run_specs
from geomfast.sweep.samples import LevelSamples, level_samples
from geomfast.testbed.models.gpt import GPT
from geomfast.testbed.models.scales import SCALES

SETTINGS = Settings("joint", ("COPY", "MOD", "CMP"), (1,), 1, 8, None, "fp32", 2, 2, 2, 60)
(SPEC,) = run_specs(SETTINGS, ("nano",), (0,))
NOWHERE = Eigenvectors(Path("nowhere"), 0)


@pytest.fixture(scope="module")
def samples() -> list[LevelSamples]:
    return level_samples(SPEC, SETTINGS, torch.device("cpu"))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    out = tmp_path_factory.mktemp("probes")
    assert Job(SPEC, SETTINGS, ("probe_accuracy",), out, "cpu", threads=1).run()
    frame = load_records(out)
    return frame[frame["measure"].str.startswith("probe_accuracy")]


def test_samples_of_one_input_have_one_number(samples: list[LevelSamples]) -> None:
    for probe in samples:
        asked = [tuple(row) for row in probe.tokens[:, : probe.answer_start].tolist()]
        pairs = set(zip(asked, probe.inputs.tolist(), strict=True))
        assert len(pairs) == len(set(asked)) == len(set(probe.inputs.tolist()))
        assert probe.inputs.device.type == "cpu"
    of_mod = next(probe for probe in samples if probe.level.task == "MOD")
    assert len(of_mod.inputs.unique()) <= 49 < len(of_mod.inputs)


def test_every_layer_of_every_task_level_is_recorded(recorded: pd.DataFrame) -> None:
    layers = recorded[recorded["measure"] == "probe_accuracy"]
    assert len(layers) == 2 * 3 * 3 and len(recorded) == 2 * 3 * 5
    assert set(layers["layer"]) == {"block 1", "block 2", "final"}
    assert layers["value"].between(0.0, 1.0).all() and layers["stderr"].between(0.0, 0.2).all()
    assert (recorded["n"] == 60).all() and (recorded["seconds"] > 0).all()
    assert set(recorded["settings"]) == {fingerprint(measure_settings(SETTINGS, "probe_accuracy"))}


def test_what_is_recorded_is_what_a_call_finds(
    samples: list[LevelSamples], recorded: pd.DataFrame
) -> None:
    model = GPT(SCALES["nano"], 0)
    at_start = recorded[recorded["step"] == 0]
    for probe in samples:
        rows = at_start[at_start["task"] == probe.level.task]
        collected: list[torch.Tensor] = []
        with torch.no_grad():
            logits = model(probe.tokens, collect=collected)
        answers = probe.tokens[:, probe.answer_start]
        x = torch.stack([layer[:, probe.answer_start - 1] for layer in collected])
        found = gf.probe_accuracy(
            x, answers, groups=probe.inputs, **spec_of("probe_accuracy").defaults
        )
        per_layer = rows[rows["measure"] == "probe_accuracy"]
        # A sample on the edge between two answers may fall on either side of it.
        assert per_layer["value"].tolist() == pytest.approx(found.mean.tolist(), abs=2 / 60)
        assert per_layer["stderr"].tolist() == pytest.approx(found.stderr.tolist(), abs=0.02)
        others = rows.set_index("measure")["value"]
        common = max((answers == answer).sum().item() for answer in answers.unique()) / 60
        assert others["probe_accuracy_majority"] == common == found.majority
        right = (logits[:, probe.answer_start - 1].argmax(-1) == answers).double().mean().item()
        assert others["probe_accuracy_model"] == pytest.approx(right, abs=1e-12)


def test_activations_that_hold_the_answer_are_refused(samples: list[LevelSamples]) -> None:
    settings = dataclasses.replace(SETTINGS, position="answer_mean")
    with pytest.raises(ValueError, match="position = 'answer_mean'"):
        measure(GPT(SCALES["nano"], 0), samples, {"probe_accuracy"}, settings, NOWHERE)


@pytest.fixture
def no_collection() -> Iterator[None]:
    """Garbage of other tests takes longer to collect than what is measured here."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize(
    "names",
    [
        {"behaviour", "rankme", "probe_accuracy"},
        {"rankme", "probe_accuracy"},
        {"probe_accuracy"},
        {"behaviour", "fisher_rank", "gradient_covariance_rank"},
    ],
    ids=lambda names: "+".join(sorted(names)),
)
def test_seconds_of_records_add_up_to_the_time_it_took(
    samples: list[LevelSamples], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: set[str]
) -> None:
    """By the processor's clock, which stands still while others use it."""
    monkeypatch.setattr(time, "perf_counter", time.process_time)
    model = GPT(SCALES["nano"], 0).eval()
    begin = time.process_time()
    rows = measure(model, samples, names, SETTINGS, Eigenvectors(tmp_path, 0))
    took = time.process_time() - begin
    assert 0.8 * took < sum(row["seconds"] for row in rows) <= took
    assert all(row["seconds"] > 0 for row in rows)


def test_the_shared_forward_pass_counts_as_behaviours(
    samples: list[LevelSamples], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that what another measure is said to take is what leaving it out would save."""
    clock = 0.0

    def slow(*arguments: object, **options: object) -> object:
        nonlocal clock
        clock += 1000.0
        return observe(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(time, "perf_counter", lambda: clock)
    monkeypatch.setattr("geomfast.sweep.measuring.observe", slow)
    model = GPT(SCALES["nano"], 0).eval()

    def seconds(*names: str) -> dict[str, float]:
        rows = measure(model, samples, set(names), SETTINGS, Eigenvectors(tmp_path, 0))
        found: dict[str, float] = {}
        for row in rows:
            found[row["measure"]] = found.get(row["measure"], 0.0) + row["seconds"]
        return found

    with_behaviour = seconds("behaviour", "rankme", "probe_accuracy")
    assert with_behaviour["accuracy"] + with_behaviour["answer_logprob"] == pytest.approx(3000.0)
    assert with_behaviour["rankme"] == with_behaviour["probe_accuracy"] == 0.0
    assert sum(seconds("rankme", "probe_accuracy").values()) == pytest.approx(3000.0)
    assert not any(math.isnan(value) for value in with_behaviour.values())

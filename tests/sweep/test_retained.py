"""Similarity to earlier checkpoints: against saved weights, and whatever ended the run between."""

import dataclasses
import itertools
from pathlib import Path

import pandas as pd
import pytest
import torch

import geomfast as gf
from geomfast.estimators.activations import observe
from geomfast.records import load_records
from geomfast.sweep import running
from geomfast.sweep.estimate import left
from geomfast.sweep.jobs import Job, schedule, untrained
from geomfast.sweep.plan import run_specs
from geomfast.sweep.retained import Retained, landmarks
from geomfast.sweep.samples import level_samples
from geomfast.testbed.models.gpt import GPT
from geomfast.testbed.training.checkpoints import CheckpointError, load_weights
from tests.sweep.tiny import tiny

SETTINGS = tiny(steps=12, dense_until=6, checkpoints=14, samples=16)
COLUMNS = ["step", "task", "layer", "measure", "value"]


def job(out: Path, measures: tuple[str, ...] = ("cka",)) -> Job:
    (one,) = run_specs(SETTINGS, ("nano",), (0,))
    return Job(one, SETTINGS, measures, out, "cpu", threads=1, keep="all")


def shown(out: Path) -> pd.DataFrame:
    found = load_records(out)
    found = found[found["measure"].str.startswith("cka")][COLUMNS]
    return found.sort_values(COLUMNS[:-1], ignore_index=True)


def test_landmarks_are_the_first_from_each_power_of_two():
    assert landmarks([0, 2, 4, 6, 7, 8, 9, 12, 100, 120, 200]) == [0, 2, 4, 8, 100, 200]
    assert landmarks([]) == []


def test_values_are_those_of_the_saved_weights(tmp_path):
    one = job(tmp_path)
    assert one.run()
    states = {}
    for step in schedule(SETTINGS):
        model = GPT(one.spec.model, 0)
        if step:  # the untrained network is that of its seed
            load_weights(model, one.checkpoints / f"step-{step:08d}")
        for probe in level_samples(one.spec, SETTINGS, torch.device("cpu")):
            seen = observe(model, probe.tokens, probe.answer_start)
            states[step, probe.level.task] = seen.activations
    found = shown(tmp_path).set_index(COLUMNS[:-1])["value"]
    labels = ["block 1", "block 2", "final"]
    at = schedule(SETTINGS)
    for (step, task), x in states.items():
        for i, j in itertools.product(range(3), range(3)):
            name = "cka" if j == 2 else f"cka_{labels[j].replace(' ', '_')}"
            if j < i or (j == 2 and i < 2):
                expected = gf.cka(x[i], x[j]).item()
                assert found[step, task, labels[i], name] == pytest.approx(expected, abs=1e-5)
        earlier = at[: at.index(step)]
        there = {name for s, t, _, name in found.index if (s, t) == (step, task)}
        if not earlier:
            assert "cka_first" not in there
            continue
        for name, other in (("cka_first", 0), ("cka_previous", earlier[-1])):
            for i, label in enumerate(labels):
                expected = gf.cka(x[i], states[other, task][i]).item()
                assert found[step, task, label, name] == pytest.approx(expected, abs=1e-5)
        kept = {*landmarks(earlier), *earlier[-2:]}
        assert {n for n in there if n.startswith("cka_step_")} == {f"cka_step_{k}" for k in kept}
        for other in kept:
            expected = gf.cka(x[2], states[other, task][2]).item()
            value = found[step, task, "final", f"cka_step_{other}"]
            assert value == pytest.approx(expected, abs=1e-5)


def test_a_run_that_is_stopped_or_killed_compares_with_the_same(tmp_path, monkeypatch):
    assert job(tmp_path / "straight").run()
    while not job(tmp_path / "stopped").run(stop=lambda: True):
        pass
    pd.testing.assert_frame_equal(shown(tmp_path / "straight"), shown(tmp_path / "stopped"))

    write, written = running.write_part, []

    def killed(path, rows):
        written.append(path)
        if len(written) in (2, 5):  # after what is kept, before the records
            raise KeyboardInterrupt
        return write(path, rows)

    monkeypatch.setattr(running, "write_part", killed)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            job(tmp_path / "killed").run()
    assert job(tmp_path / "killed").run()
    pd.testing.assert_frame_equal(shown(tmp_path / "straight"), shown(tmp_path / "killed"))


def test_what_is_kept_is_little_and_known_again(tmp_path):
    one = job(tmp_path)
    one.run()
    files = sorted(one.checkpoints.glob("retained-*"))
    steps = [int(path.stem.removeprefix("retained-")) for path in files]
    assert steps == sorted({*landmarks(schedule(SETTINGS)), *schedule(SETTINGS)[-2:]})
    kept = Retained(one.checkpoints, 12).of("cka", "COPY-1").steps
    assert list(kept) == steps[:-1] and set(kept[0]) == {"block 1", "block 2", "final"}
    assert Retained(one.checkpoints, 12).of("other", "COPY-1").steps == {}
    content = bytearray(files[0].read_bytes())
    content[-1] ^= 1
    files[0].write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match="has changed since it was written; delete it"):
        _ = Retained(one.checkpoints, 12).before


@pytest.mark.parametrize("keep", ["last", "all"])
def test_a_measure_added_later_compares_with_the_same(keep, tmp_path):
    """Also where weights of later checkpoints were kept, and those of the first were not."""
    straight = dataclasses.replace(job(tmp_path / "straight"), keep=keep)
    later = dataclasses.replace(job(tmp_path / "later"), keep=keep)
    straight.run()
    dataclasses.replace(later, measures=()).run()
    assert left(later).steps == 12  # they are trained anew to the end
    later.run()
    pd.testing.assert_frame_equal(shown(tmp_path / "straight"), shown(tmp_path / "later"))


def test_kept_weights_are_measured_untrained_where_nothing_earlier_is_to_come():
    lacking = {0: {"rankme"}, 4: {"cka"}, 8: {"cka", "llc"}, 12: {"llc", "behaviour"}}
    assert untrained(lacking, [4, 8, 12]) == [4, 8, 12]
    assert untrained(lacking, [8, 12]) == [12]
    assert untrained(lacking, []) == []

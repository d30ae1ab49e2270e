"""The tracker in a loop of one's own: training is left alone, and what is recorded is right."""

import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

import geomfast as gf
from geomfast.integrations.measuring import MEASURES, Options
from geomfast.integrations.tracking import values
from geomfast.report.found import read
from geomfast.sweep.folder import FolderInUse
from geomfast.sweep.plan import PlanError
from tests.integrations.tracked import batch, loss_fn, net, train

LOG = [*range(9), 10, 11, 13, 16, 19]
QUICK = Options(hessian_probes=6, llc_draws=4, llc_burn_in=1, llc_chains=1)


def tracked(out, **options):
    return gf.Tracker(net(), loss_fn, batch(), out=out, **{"max_overhead": None, **options})


def equal(a, b):
    """Whether two nests hold the same numbers, to the bit."""
    leaves = tree_leaves(a), tree_leaves(b)
    return all(np.array_equal(np.asarray(x), np.asarray(y)) for x, y in zip(*leaves, strict=True))


def test_training_comes_out_the_same_to_the_bit(tmp_path):
    alone, _ = train()
    left, _ = train(out=tmp_path, measures=MEASURES, options=QUICK)
    assert equal(alone, left)
    records = gf.load_records(tmp_path)
    assert sorted(set(records["step"])) == [*LOG, 20]  # the last one when it is closed
    assert set(MEASURES) <= set(records["measure"])
    assert records["value"].notna().all() and not (tmp_path / "failures").exists()
    # Another training does come out differently.
    assert not equal(alone, train(19)[0])


def test_what_is_recorded_is_the_model_of_that_step(tmp_path):
    model = net()
    train(20, model=model, out=tmp_path, measures="fisher_rank", name="probe-set", seed=5)
    records = gf.load_records(tmp_path).query("step == 20").set_index("measure")
    found = gf.fisher_effective_rank(model.eval(), loss_fn, batch())
    assert records.loc["fisher_rank", "value"] == found
    losses = loss_fn(model, batch())
    assert records.loc["loss", "value"] == pytest.approx(losses.mean().item())
    row = records.loc["fisher_rank"]
    assert (row["run"], row["scale"], row["seed"], row["task"], row["level"], row["n"]) == (
        "run", "Net", 5, "probe-set", 1, 24,
    )  # fmt: skip
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert set(gf.load_records(tmp_path)["settings"]) == set(settings["hashes"])


def test_the_report_reads_the_records(tmp_path):
    train(out=tmp_path)
    found = read(tmp_path)
    assert found.cells["task"].tolist() == ["probe"] and found.runs == ["run"]


def test_works_without_gradients_and_in_automatic_casts(tmp_path):
    for name in ("plain", "odd"):
        with tracked(tmp_path / name, measures=["fisher_rank"]) as tracker:
            if name == "plain":
                assert tracker.step(0)
            else:
                with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
                    assert tracker.step(0)
    one, two = (gf.load_records(tmp_path / name)["value"].tolist() for name in ("plain", "odd"))
    assert one == two


def test_goes_on_where_one_before_it_was(tmp_path):
    model = net()
    train(10, model=model, out=tmp_path)
    parts = {part: part.read_bytes() for part in tmp_path.glob("records/run/*.parquet")}
    train(20, model=model, first=10, out=tmp_path)
    assert sorted(set(gf.load_records(tmp_path)["step"])) == [*LOG, 20]
    assert all(part.read_bytes() == content for part, content in parts.items())
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert len(settings["calls"]) == 2


def test_another_run_in_the_same_folder(tmp_path):
    train(4, out=tmp_path, run="a", seed=0)
    train(4, out=tmp_path, run="b", seed=1)
    records = gf.load_records(tmp_path)
    assert set(records["run"]) == {"a", "b"} and set(records["seed"]) == {0, 1}
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert settings["tracking"].keys() == {"a", "b"}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"name": "other"}, "name: probe there, other asked for"),
        ({"options": Options(eps=1e-5)}, r"rankme\.eps: 0\.0 there, 1e-05 asked for"),
        ({"options": Options(samples=10)}, "samples: 24 there, 10 asked for"),
    ],
)
def test_other_settings_are_refused(changed, said, tmp_path):
    train(2, out=tmp_path)
    with pytest.raises(PlanError, match=f"tracker with other settings(.|\n)*{said}"):
        tracked(tmp_path, **changed)
    tracked(tmp_path).close()  # the refused one holds nothing


def test_more_measures_may_be_asked_for(tmp_path):
    train(2, out=tmp_path)
    tracked(tmp_path, measures=["fisher_rank"], options=Options(eps=1e-5)).close()
    with pytest.raises(PlanError, match="rankme"):
        tracked(tmp_path, options=Options(eps=1e-5))


def test_one_tracker_a_run(tmp_path):
    tracker = tracked(tmp_path)
    with pytest.raises(FolderInUse, match=r"run run in .* is in use"):
        tracked(tmp_path)
    lock = tmp_path / "records" / "run" / ".lock"
    files = [file for file in Path("/proc/self/fd").iterdir() if file.is_symlink()]
    (held,) = (file.name for file in files if file.readlink() == lock)
    inherited = os.dup(int(held))  # as by a worker of a DataLoader that outlives the tracker
    tracker.close()
    tracked(tmp_path).close()
    os.close(inherited)


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(PlanError, match="not empty"):
        tracked(tmp_path)


def test_a_failing_measure_does_not_end_training(tmp_path, monkeypatch, caplog):
    def fails(*_, **__):
        raise RuntimeError("no kernel for this")

    monkeypatch.setattr(values, "activations", fails)
    monkeypatch.setattr(values.Taking, "try_out", lambda self: None)
    left, _ = train(out=tmp_path, measures=["rankme", "fisher_rank"])
    assert equal(left, train()[0])
    assert caplog.text.count("no kernel for this") == 1
    records = gf.load_records(tmp_path)
    assert records.query("measure == 'fisher_rank'")["value"].notna().all()
    lost = records.query("measure == 'rankme'")
    assert lost["value"].isna().all() and set(lost["backend"]) == {"failed"} and len(lost) == 15
    assert "no kernel for this" in (tmp_path / "failures" / "run.txt").read_text()
    with pytest.raises(RuntimeError, match="no kernel"):
        train(2, out=tmp_path / "again", raise_failures=True)


def test_nothing_is_forgotten_that_fails_to_be_written(tmp_path, monkeypatch, caplog):
    tracker = tracked(tmp_path)
    tracker.step(0)
    monkeypatch.setattr(tracker._folder, "write", lambda *_: (_ for _ in ()).throw(OSError("full")))
    assert tracker.step(1)
    monkeypatch.undo()
    tracker.step(2)
    tracker.close()
    assert sorted(set(gf.load_records(tmp_path)["step"])) == [0, 2]
    assert "full" in caplog.text and "full" in (tmp_path / "failures" / "run.txt").read_text()


def test_steps_counted_anew_in_every_epoch(tmp_path, caplog):
    tracker = tracked(tmp_path)
    assert [tracker.step(step) for step in (0, 1, 1, 0, 1, 2)] == [
        True, True, False, False, False, True,
    ]  # fmt: skip
    assert "step 0 comes after step 1: count over the whole run" in caplog.text
    tracker.close()


def test_an_error_in_the_loop_lets_go_of_the_folder(tmp_path):
    with pytest.raises(KeyError), tracked(tmp_path) as tracker:
        tracker.step(12)
        raise KeyError("loop")
    assert not list(tmp_path.glob("records/run/*.parquet"))
    tracked(tmp_path).close()


def test_a_budget_that_thins_says_so_once(tmp_path, caplog):
    _, tracker = train(out=tmp_path, max_overhead=1e-6)
    assert caplog.text.count("max_overhead") == 1
    assert set(gf.load_records(tmp_path)["step"]) == {0}
    told = json.loads((tmp_path / "settings.json").read_text())["tracking"]["run"]
    assert (told["due"], told["measured"], told["thinned_from"]) == (14, 1, 1)
    assert told["overhead"] == pytest.approx(tracker.overhead, rel=0.5)


def test_the_last_step_need_not_be_measured(tmp_path):
    tracker = tracked(tmp_path)
    tracker.step(12)
    tracker.close(last=False)
    tracker.close()
    assert not tracker.step(16) and not list(tmp_path.glob("records/run/*.parquet"))


def test_wall_time_of_both_trackers_adds_up(tmp_path):
    train(4, out=tmp_path)
    (path,) = tmp_path.glob("records/run/wall.json")
    before = json.loads(path.read_text())
    train(8, first=4, out=tmp_path)
    after = json.loads(path.read_text())
    assert all(after[part] > before[part] > 0 for part in ("training", "writing"))


def test_only_rank_0_measures(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("RANK", "1")
    with caplog.at_level(logging.INFO, logger="geomfast"):
        _, tracker = train(3, out=tmp_path / "none")
    assert tracker is not None and not tracker.active and not (tmp_path / "none").exists()
    assert "rank 1 measures nothing" in caplog.text


def test_states_of_ones_own_need_neither_loss_nor_data(tmp_path):
    inputs, _ = batch()

    def states(model):
        assert not model.training
        return {"block 1": model.blocks[0](inputs), "final": model(inputs)}

    tracker = gf.Tracker(net(), states=states, out=tmp_path)
    tracker.step(0)
    tracker.close()
    records = gf.load_records(tmp_path)
    assert records["layer"].tolist() == ["block 1", "final"]


@pytest.mark.parametrize(
    ("changed", "error", "said"),
    [
        ({"measures": ["rank"]}, ValueError, "unknown measure 'rank'"),
        ({"measures": []}, ValueError, "measures names none"),
        ({"measures": "llc", "loss_fn": None}, ValueError, "llc needs loss_fn"),
        ({"data": None}, ValueError, "data must be given"),
        ({"data": 5}, TypeError, "data must be a batch"),
        ({"every": 0}, ValueError, "every must be"),
        ({"max_overhead": 0}, ValueError, "max_overhead"),
        ({"total_steps": 0}, ValueError, "total_steps"),
        ({"run": "a/b"}, ValueError, "run must be a name"),
        ({"name": ""}, ValueError, "name must be a name"),
        ({"loss_fn": lambda model, b: loss_fn(model, b).mean()}, ValueError, "not be reduced"),
        ({"layers": ["blocks.7"]}, ValueError, "no module 'blocks.7'"),
        ({"model": nn.Linear(12, 4)}, ValueError, "name its layers"),
    ],
)
def test_bad_input_is_known_before_training(changed, error, said, tmp_path):
    given = {"model": net(), "loss_fn": loss_fn, "data": batch(), "out": tmp_path / "out"}
    with pytest.raises(error, match=said):
        gf.Tracker(**{**given, **changed})
    assert not (tmp_path / "out").exists()


def test_out_is_needed():
    with pytest.raises(TypeError, match="out"):
        gf.Tracker(net(), loss_fn, batch())

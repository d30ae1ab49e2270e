"""The tracker in a loop of one's own: training is left alone, and what is recorded is right."""

import json
import logging
import os
import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, TensorDataset

import geomfast as gf
from geomfast.measures.catalog import measure_of, spec_of
from geomfast.measures.model.measuring import MEASURES
from geomfast.measures.model.options import ModelSettings
from geomfast.report import build
from geomfast.report.data import read
from geomfast.runs.errors import PlanError
from geomfast.runs.locks import FolderInUse
from geomfast.tracker import values
from tests.tracker.tracked import batch, loss_fn, net, train

LOG = [*range(9), 10, 11, 13, 16, 19]
QUICK = {"hessian_trace": {"probes": 6}, "llc": {"draws": 4, "burn_in": 1, "chains": 1}}


def tracked(out, **options):
    return gf.Tracker(net(), loss_fn, batch(), out=out, **{"max_overhead": None, **options})


def tracked_model(model, out, **options):
    return gf.Tracker(model, loss_fn, batch(), out=out, max_overhead=None, **options)


def equal(a, b):
    """Whether two nests hold the same numbers, to the bit."""
    leaves = tree_leaves(a), tree_leaves(b)
    return all(np.array_equal(np.asarray(x), np.asarray(y)) for x, y in zip(*leaves, strict=True))


def test_training_comes_out_the_same_to_the_bit(tmp_path):
    alone, _ = train()
    left, _ = train(out=tmp_path, measures=MEASURES, **QUICK)
    assert equal(alone, left)
    records = gf.load_records(tmp_path)
    assert sorted(set(records["step"])) == [*LOG, 20]  # the last one when it is closed
    assert set(MEASURES) <= {measure_of(name) for name in records["measure"]}
    # Which has no value where the coefficient is within its error of zero.
    unknown = records["measure"].isin(["llc_localization_effect", "llc_degree"])
    # A family of measures has none where there are too few samples or dimensions.
    family = [name for name in MEASURES if not spec_of(name).core]
    unknown |= records["measure"].map(measure_of).isin(family)
    # Nor without a learning rate, and of what the first checkpoint has nothing to compare with.
    unknown |= records["measure"] == "hessian_edge"
    unknown |= (records["measure"] == "hessian_subspace_overlap") & (records["step"] == 0)
    values = records.loc[~unknown, "value"]
    assert values.notna().all() and not (tmp_path / "failures").exists()
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
        ({"rankme": {"eps": 1e-5}}, r"rankme\.eps: 0\.0 there, 1e-05 asked for"),
        ({"samples": 10}, "samples: 24 there, 10 asked for"),
    ],
)
def test_other_settings_are_refused(changed, said, tmp_path):
    train(2, out=tmp_path)
    with pytest.raises(PlanError, match=f"tracker with other settings(.|\n)*{said}"):
        tracked(tmp_path, **changed)
    tracked(tmp_path).close()  # the refused one holds nothing


def test_another_training_of_the_same_name_is_not_recorded(tmp_path, caplog):
    train(10, out=tmp_path)
    before = gf.load_records(tmp_path)
    other = net()
    with torch.no_grad():
        other.head.bias.add_(1.0)
    left, _ = train(20, model=other, out=tmp_path)
    assert gf.load_records(tmp_path).equals(before)
    said = [words for words in caplog.messages if "other weights" in words]
    assert len(said) == 1 and "step 0 of run 'run'" in said[0] and "run=..." in said[0]
    again = net()
    with torch.no_grad():
        again.head.bias.add_(1.0)
    assert equal(left, train(20, model=again)[0])
    with pytest.raises(ValueError, match="another training"):
        train(1, model=other, out=tmp_path, raise_failures=True)
    train(20, out=tmp_path)  # the same one from the beginning goes on at the end
    assert sorted(set(gf.load_records(tmp_path)["step"])) == [*LOG, 20]


def test_a_training_that_begins_alike_and_is_another(tmp_path, caplog):
    train(8, out=tmp_path, every=4)
    model = net()
    tracker = tracked_model(model, tmp_path, every=1)
    assert not tracker.step(0)  # the same weights as then
    with torch.no_grad():
        model.head.bias.add_(1.0)
    assert not any(tracker.step(step) for step in range(1, 20))  # of which 1 to 3 are new
    tracker.close()
    assert sorted(set(gf.load_records(tmp_path)["step"])) == [0, 4, 8]
    assert "step 4 of run 'run'" in caplog.text


def test_a_training_taken_up_that_rounds_otherwise_goes_on(tmp_path, caplog):
    model = net()
    train(8, model=model, out=tmp_path)
    tracker = tracked_model(model, tmp_path)
    with torch.no_grad():
        model.head.bias.add_(1e-6)
    taken = [step for step in range(5, 13) if tracker.step(step)]
    tracker.close()
    assert taken == [10, 11] and caplog.text.count("rounds differently") == 1
    assert "continuing run 'run' in" in caplog.text and "9 steps are recorded" in caplog.text
    assert sorted(set(gf.load_records(tmp_path)["step"])) == [*range(9), 10, 11, 12]


def test_a_run_of_another_seed_or_scale(tmp_path):
    train(1, out=tmp_path)
    with pytest.raises(PlanError, match=r"run 'run' in .* is of seed 0, not 1: .*run="):
        tracked(tmp_path, seed=1)
    with pytest.raises(PlanError, match="of scale Net, not large"):
        tracked(tmp_path, scale="large")
    tracked(tmp_path, seed=1, run="other").close()


def test_more_measures_may_be_asked_for(tmp_path):
    train(2, out=tmp_path)
    tracked(tmp_path, measures=["fisher_rank"]).close()
    with pytest.raises(PlanError, match="rankme"):
        tracked(tmp_path, rankme={"eps": 1e-5})


def test_one_tracker_a_run(tmp_path):
    tracker = tracked(tmp_path)
    with pytest.raises(FolderInUse, match=r"run 'run' in .* is in use by another tracker, of this"):
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
    with pytest.raises(PlanError, match=r"not empty .* not a tracker's folder, with thesis\.tex"):
        tracked(tmp_path)


def test_a_failing_measure_does_not_end_training(tmp_path, monkeypatch, caplog):
    def fails(*_, **__):
        raise RuntimeError("no kernel for this")

    monkeypatch.setattr(values, "activations", fails)
    monkeypatch.setattr(values.Evaluator, "validate", lambda _: None)
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


@pytest.mark.parametrize("step", [-1, 2.5, "7", None])
def test_what_is_no_step_ends_nothing(step, tmp_path, caplog):
    tracker = tracked(tmp_path)
    assert not tracker.step(step) and not tracker.step(step)
    assert caplog.text.count(f"step must be a whole number, 0 or more, not {step!r}") == 1
    assert tracker.step(torch.tensor(3)) and tracker.step(np.int64(4))
    tracker.close()
    assert not tracker.step(5) and not tracker.step(6)
    assert caplog.text.count("after close()") == 1
    assert set(gf.load_records(tmp_path)["step"]) == {3, 4}


def test_an_error_in_the_loop_lets_go_of_the_folder(tmp_path, caplog):
    with pytest.raises(KeyError), tracked(tmp_path) as tracker:
        tracker.step(12)
        raise KeyError("loop")
    assert not list(tmp_path.glob("records/run/*.parquet"))
    assert not any("Next:" in said for said in caplog.messages)
    tracked(tmp_path).close()


def test_a_budget_that_thins_says_so_once_and_at_the_end(tmp_path, caplog):
    _, tracker = train(out=tmp_path, max_overhead=1e-6)
    thinned, summed = caplog.messages
    assert re.search(r"from step 1 on .* at every due step for any measure: .* [\d.]+ s", thinned)
    assert "measured 1 of 15 due" in summed and re.search(
        r"of 0.0001% allowed; .*max_overhead=(None|[\d.]+) ", summed
    )
    assert set(gf.load_records(tmp_path)["step"]) == {0}
    told = json.loads((tmp_path / "settings.json").read_text())["tracking"]["run"]
    assert (told["due"], told["measured"], told["thinned_from"]) == (15, 1, 1)
    assert told["measures"]["rankme"] == {"due": 15, "measured": 1, "thinned_from": 1}
    time.sleep(0.05)  # what passes after close() is not the training's
    assert told["overhead"] == tracker.overhead


def test_the_last_step_is_due(tmp_path, caplog):
    train(12, out=tmp_path)
    assert ": measured 12 of 12 due, " in caplog.messages[-1]
    assert caplog.messages[-1].endswith(f". Next: geomfast report {tmp_path}")
    train(20, first=12, out=tmp_path)
    told = json.loads((tmp_path / "settings.json").read_text())["tracking"]["run"]
    assert told["due"] == told["measured"] == len(set(gf.load_records(tmp_path)["step"])) == 16


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


class Plain(nn.Module):
    """No list of blocks, no norm."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())
        self.out = nn.Linear(8, 4)

    def forward(self, x):
        return self.out(self.net(x))


@pytest.mark.parametrize(
    ("layers", "recorded"),
    [(("net.1", "net.3"), ["block 1", "final"]), ("net.3", ["final"])],
)
def test_the_last_layer_named_is_the_final_state(layers, recorded, tmp_path):
    model = Plain()
    tracker = tracked_model(model, tmp_path, layers=layers)
    tracker.step(0)
    tracker.close()
    records = gf.load_records(tmp_path).query("measure == 'rankme'").set_index("layer")
    assert records.index.tolist() == recorded
    expected = gf.rankme(model.net(batch()[0]).detach()).item()
    assert records.loc["final", "value"] == pytest.approx(expected)


@pytest.mark.parametrize("measures", ["rankme", "fisher_rank", "hessian_trace"])
def test_batches_of_a_loader_are_those_of_a_tuple(measures, tmp_path):
    loader = DataLoader(TensorDataset(*batch()), batch_size=10)  # whose batches are lists
    found = []
    for name, data in (("one", batch()), ("several", loader)):
        tracker = gf.Tracker(net(), loss_fn, data, measures=measures, out=tmp_path / name)
        tracker.step(0)
        tracker.close()
        records = gf.load_records(tmp_path / name)
        found.append(records.query("measure == @measures")["value"].to_numpy())
    assert len(found[0]) > 0 and np.allclose(*found, rtol=1e-5)


def test_a_budget_meant_as_a_percentage(tmp_path, caplog):
    tracked(tmp_path, max_overhead=5).close()
    assert "5% is max_overhead=0.05" in caplog.text


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
        ({"max_overhead": "5%"}, ValueError, "max_overhead must be above 0.*not '5%'"),
        ({"total_steps": 0}, ValueError, "total_steps"),
        ({"total_steps": 1e3}, ValueError, "total_steps must be a whole number.*not 1000.0"),
        ({"loss_fn": F.cross_entropy}, TypeError, r"\(N,\), .*cross_entropy takes outputs"),
        ({"loss_fn": nn.MSELoss()}, TypeError, "MSELoss takes outputs and targets"),
        ({"loss_fn": "mse"}, TypeError, "loss_fn must be a function, .*not 'mse'"),
        ({"options": {"samples": 8}}, TypeError, "options is dict: give settings to the tracker"),
        ({"measure": "llc"}, TypeError, "no argument 'measure', and there is no such measure"),
        ({"llc": {"lr": 1.0}}, ValueError, "settings of llc, which is not among measures"),
        ({"rankme": {"lr": 1.0}}, TypeError, "rankme has no setting 'lr'; it has center, eps"),
        ({"rankme": {"eps": -1.0}}, ValueError, "rankme: eps must be a finite number, 0 or more"),
        ({"rankme": 1e-5}, TypeError, "rankme must be a mapping of its settings"),
        ({"options": ModelSettings(samples=8), "samples": 9}, TypeError, "in it"),
        (
            {"model": torch.optim.SGD(net().parameters(), 1.0)},
            TypeError,
            "torch.nn.Module, not SGD",
        ),
        ({"layers": [nn.Linear(2, 2)]}, TypeError, "layers must be names of modules"),
        ({"layers": []}, ValueError, "layers must name modules"),
        ({"data": (torch.zeros(4, 7), batch()[1][:4])}, ValueError, "could not be put through"),
        ({"data": [batch()[0], batch(9)[1]]}, ValueError, r"not alike: .*data=\(x, y\)"),
        ({"data": (np.zeros(3), np.zeros(3))}, ValueError, "no tensor, but ndarray"),
        ({"data": [{"input_ids": [1, 2]}]}, ValueError, "but int: .*collate_fn that training"),
        ({"data": TensorDataset(*batch())}, TypeError, "a DataLoader makes batches of it"),
        ({"data": list(zip(*batch(), strict=True))}, ValueError, "DataLoader puts single samples"),
        ({"run": "a/b"}, ValueError, "run must be a name"),
        ({"name": ""}, ValueError, "name must be a name"),
        ({"loss_fn": lambda model, b: loss_fn(model, b).mean()}, ValueError, "not be reduced"),
        ({"layers": ["blocks.7"]}, ValueError, "no module 'blocks.7'"),
        ({"model": Plain()}, ValueError, r'layers=\["net.1", "net.3"\]'),
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


def test_numbers_of_the_loops_own_are_recorded_and_shown(tmp_path, caplog):
    with tracked(tmp_path, measures=["fisher_rank"], every=1) as tracker:
        for step in range(3):
            shares = {"test_accuracy": torch.tensor(step / 2), "margin": 1.5}
            tracker.step(step, loss=1.0, **shares, fisher_rank=3.0, accuracy=95.0, odd="x")
    records = gf.load_records(tmp_path)
    own = records[records["measure"].isin(["test_accuracy", "margin"])]
    assert own.set_index(["measure", "step"])["value"].to_dict() == {
        **{("test_accuracy", step): step / 2 for step in range(3)},
        **{("margin", step): 1.5 for step in range(3)},
    }
    assert (own["level"] == 0).all() and not {"accuracy", "odd"} & set(records["measure"])
    assert (records[records["measure"] == "fisher_rank"]["level"] == 1).all()
    for name in ("fisher_rank", "accuracy"):
        assert f"'{name}' cannot name a number of the loop's own" in caplog.text
    assert "odd failed at step 0" in caplog.text
    result = build(tmp_path)
    page = Path(result["paths"]["html"]).read_text()
    assert "test_accuracy" in page and "margin" in page


def test_numbers_that_were_given_at_no_measured_step_are_named(tmp_path, caplog):
    with tracked(tmp_path, measures=["fisher_rank"]) as tracker:
        for step in range(10):  # every="log" measures at 8 and 10, and at the last, 9
            found = {"rare": 1.0} if step == 7 else {"lost": 1.0} if step == 9 else {}
            tracker.step(step, margin=1.5, **found)
        tracker.step(11, margin=1.5)
        tracker.step(12, margin=1.5)
    assert "lost: given at no step that was measured, so not recorded" in caplog.text
    assert "due(step, 'log')" in caplog.text
    assert "rare:" not in caplog.text and "margin:" not in caplog.text
    assert {"rare", "margin"} <= set(gf.load_records(tmp_path)["measure"])


def test_what_layers_lack_is_said_without_the_sets_of_samples(tmp_path):
    with pytest.raises(ValueError, match=r"net.1.*\]$"):
        gf.Tracker(Plain(), loss_fn, {"a": batch(), "b": batch(9)}, out=tmp_path / "out")


def test_layers_that_could_not_be_read_at_one_step(tmp_path, caplog):
    failing = [False]

    def states(model):
        if failing[0]:
            raise RuntimeError("no layers now")
        return {"block 1": torch.eye(4) + torch.ones(4, 4), "final": torch.eye(4)}

    model = net()
    for first, last in ((0, 3), (3, 5)):
        options = {"measures": ["rankme"], "states": states}
        with tracked_model(model, tmp_path, **options) as tracker:
            for step in range(first, last):
                failing[0] = step == 1
                tracker.step(step)
    assert "continuing" in caplog.text and "closing" not in caplog.text
    ranks = gf.load_records(tmp_path).query("measure == 'rankme'")
    assert ranks.groupby("step").size().to_dict() == {0: 2, 1: 1, 2: 2, 3: 2, 4: 2}
    # The report has the gap in every layer, and no curve of none.
    drawn = read(tmp_path).records.query("measure == 'rankme'")
    assert drawn.groupby("step")["layer"].apply(list).tolist() == [["block 1", "final"]] * 5
    assert set(drawn.loc[drawn["value"].isna(), "step"]) == {1}


def test_numbers_that_records_cannot_hold_cost_only_themselves(tmp_path, caplog):
    model = net()
    with tracked_model(model, tmp_path, measures=["rankme"], every=1) as tracker:
        for step, tokens in enumerate([-5, "many", 1.5, 2**70, torch.tensor(7)]):
            assert tracker.step(step, tokens=tokens, accuracy_of_mine=10**400)
        assert not tracker.step(10**400, tokens=8)
    assert "tokens failed at step 0" in caplog.text and "steps failed" in caplog.text
    tokens = gf.load_records(tmp_path).groupby("step")["tokens"].first()
    assert tokens.index.tolist() == [0, 1, 2, 3, 4]
    assert tokens.isna().tolist() == [True] * 4 + [False] and tokens[4] == 7


@pytest.mark.parametrize("named", [{"name": "x" * 2000}, {"scale": "x" * 2000}])
def test_names_longer_than_records_read_are_refused(named, tmp_path):
    with pytest.raises(ValueError, match="at most 1000 characters"):
        tracked(tmp_path, **named)


def test_a_word_stands_for_the_measures_of_one_pass(tmp_path):
    with tracked(tmp_path, measures="one-pass") as tracker:
        tracker.step(0)
    there = {measure_of(name) for name in gf.load_records(tmp_path)["measure"]} - {None}
    assert there == {name for name in MEASURES if not spec_of(name).expensive}

"""Several sets of samples in one tracker: which mappings are sets, and what is recorded of them."""

import json

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import geomfast as gf
from geomfast.analysis.claim import NOT_ENOUGH
from geomfast.estimators.batches import tensors_of
from geomfast.report.data import read
from geomfast.report.panels import panels
from geomfast.report.tracked import lines
from geomfast.runs.errors import PlanError
from geomfast.tracker.samples import ONLY, sample_sets
from tests.tracker.tracked import batch, loss_fn, net, train

CPU = torch.device("cpu")
X, Y = batch(6)
LOADER = DataLoader(TensorDataset(*batch(9)), batch_size=4)


def sets_of(data, name=ONLY):
    found = sample_sets(data, name, None, CPU)
    return {key: sum(len(tensors_of(one)[0]) for one in batches) for key, batches in found.items()}


@pytest.mark.parametrize(
    ("data", "found"),
    [
        ({"train": (X, Y), "test": batch(4)}, {"train": 6, "test": 4}),
        ({"train": (X, Y), "test": batch(6)}, {"train": 6, "test": 6}),
        ({"train": LOADER, "test": [batch(4), batch(3)]}, {"train": 9, "test": 7}),
        ({"train": {"input_ids": X}, "test": {"input_ids": X[:3]}}, {"train": 6, "test": 3}),
        ({"held-out": (X, Y)}, {"held-out": 6}),
        (gf.SampleSets(train=X, test=X[:3]), {"train": 6, "test": 3}),
        # One batch.
        ({"x": X, "y": Y}, {ONLY: 6}),
        ({"input_ids": X, "labels": Y, "task": "names"}, {ONLY: 6}),
        ({"x": (X, X), "y": Y}, {ONLY: 6}),
        ({"x": (X, Y), "task": "names"}, {ONLY: 6}),
        ([{"x": (X, X), "y": (Y,)}], {ONLY: 6}),
        ({0: (X, Y), 1: (X, Y)}, {ONLY: 6}),
    ],
    ids=range(12),
)
def test_what_is_a_set_of_samples(data, found):
    assert sets_of(data) == found


@pytest.mark.parametrize(
    ("data", "name", "said"),
    [
        ({"train": LOADER, "test": X}, ONLY, r"gf\.SampleSets\(data\) makes each a set"),
        ({"train": (X, Y), "test": (X, Y)}, "mine", "name='mine' is of a single set"),
        ({"a/b": (X, Y), "test": (X, Y)}, ONLY, "the set 'a/b' of data must be a name"),
        ({"train": (X, Y), "test": (X[:1], Y[:1])}, ONLY, r"data\['test'\]: data has 1 samples"),
        ({"train": (X, Y), "test": (X, Y[:2])}, ONLY, r"data\['test'\]: data: tensors of batch"),
        ({"a": LOADER.dataset}, ONLY, r"data\['a'\]: .* a DataLoader makes batches of it"),
        (gf.SampleSets(), ONLY, "data holds no set of samples"),
        (gf.SampleSets(train=None), ONLY, r"data\['train'\]: data must be a batch"),
    ],
)
def test_what_cannot_be_sets(data, name, said):
    with pytest.raises((TypeError, ValueError), match=said):
        sample_sets(data, name, None, CPU)


def test_activations_of_ones_own_are_of_one_set(tmp_path):
    with pytest.raises(ValueError, match="of one set of samples, and data has 2: name layers"):
        gf.Tracker(
            net(), loss_fn, {"a": batch(), "b": batch()}, states=lambda m: {}, out=tmp_path / "o"
        )
    assert not (tmp_path / "o").exists()


def test_every_set_is_recorded_by_its_name_as_if_it_were_alone(tmp_path):
    data = {"train": batch(24), "test": batch(16, seed=3)}
    tracker = gf.Tracker(
        net(), loss_fn, data, measures=["rankme", "fisher_rank"], out=tmp_path / "both",
        max_overhead=None,
    )  # fmt: skip
    for step in (0, 1):
        tracker.step(step, loss=1.0)
    tracker.close()
    records = gf.load_records(tmp_path / "both")
    of_run = records[records["level"] == 0]
    assert len(of_run) == 3  # two training losses, and one overhead
    columns = ["step", "measure", "layer", "value", "stderr", "n"]
    for name, samples in data.items():
        alone = tmp_path / name
        one = gf.Tracker(
            net(), loss_fn, samples, measures=["rankme", "fisher_rank"], out=alone, name=name,
            max_overhead=None,
        )  # fmt: skip
        one.step(0)
        one.step(1)
        one.close()
        both = [gf.load_records(tmp_path / "both"), gf.load_records(alone)]
        both = [found[found["task"] == name] for found in both]
        mine, theirs = (x[columns].reset_index(drop=True) for x in both)
        assert mine.equals(theirs) and len(mine) == 12
        assert set(mine["n"]) == {len(samples[0])}
        assert both[0]["data"].nunique() == 1
    settings = json.loads((tmp_path / "both" / "settings.json").read_text())["settings"]
    assert settings["samples"] == {"train": 24, "test": 16}


def test_resumed_with_the_same_sets_and_no_others(tmp_path):
    data = {"train": batch(24), "test": batch(16, seed=3)}
    options = {"out": tmp_path, "measures": "fisher_rank", "max_overhead": None}
    for last in (1, 3):
        tracker = gf.Tracker(net(), loss_fn, dict(reversed([*data.items()])), **options)
        for step in range(last + 1):
            tracker.step(step)
        tracker.close()
    assert set(gf.load_records(tmp_path)["step"]) == {0, 1, 2, 3}
    with pytest.raises(PlanError, match="name: test, train there, probe asked for"):
        gf.Tracker(net(), loss_fn, batch(), **options)
    with pytest.raises(PlanError, match=r"samples\.test: 16 there, 8 asked for"):
        gf.Tracker(net(), loss_fn, data | {"test": batch(8)}, **options)


def test_the_report_tells_the_sets_apart(tmp_path):
    data = {"train": batch(24), "test": batch(16, seed=3)}
    tracker = gf.Tracker(net(), loss_fn, data, out=tmp_path, max_overhead=None)
    tracker.step(0, loss=1.5, margin=2.0)
    tracker.step(1, loss=1.0, margin=3.0)
    tracker.close()
    found = read(tmp_path)
    assert sorted(found.cells["task"]) == ["test", "train"]
    shown = panels(found.records)
    titles = [panel.title for panel in shown]
    assert sorted(titles) == [
        *("margin", "test: Loss", "test: RankMe of every layer"),
        *("train: Loss", "train: RankMe of every layer"),
    ]
    assert all(len(line.steps) == 2 for panel in shown for line in panel.lines)
    labels = {label for label, _, _ in lines(found)}
    assert {"train: RankMe, final", "test: RankMe, final"} <= labels
    assert {claim.verdict for claim in found.claims} == {NOT_ENOUGH}  # sets are no tasks


def test_a_batch_that_is_read_as_sets_is_told_how_to_be_one(tmp_path):
    data = {"inputs": {"a": X}, "labels": {"b": Y}}

    def loss(model, batch):
        return loss_fn(model, (batch["inputs"]["a"], batch["labels"]["b"]))

    with pytest.raises(ValueError, match=r"the samples 'inputs' of data.*one batch it is \[data\]"):
        gf.Tracker(net(), loss, data, out=tmp_path, measures="fisher_rank")
    gf.Tracker(net(), loss, [data], out=tmp_path, measures="fisher_rank").close()


def test_a_dashboard_has_a_tag_for_every_set(tmp_path):
    shown = {}

    class Writer:
        def add_scalar(self, name, value, step):
            shown[name] = value

        def flush(self):
            pass

    train(1, out=tmp_path / "one", log_to=Writer())
    assert "geomfast/loss" in shown
    data = gf.SampleSets(train=batch(), test=batch(8))
    tracker = gf.Tracker(net(), loss_fn, data, out=tmp_path / "two", log_to=Writer())
    tracker.step(0)
    tracker.close()
    assert {"geomfast/train/loss", "geomfast/test/rankme/final"} <= shown.keys()

"""Values on TensorBoard, and on a stand-in of Weights & Biases."""

import sys
import types

import pytest

from geomfast.tracker.dashboards import dashboards, tags
from tests.tracker.tracked import train


class Run:
    """What is used of a run of Weights & Biases."""

    def __init__(self):
        self.axes, self.logged = {}, []

    def define_metric(self, name, step_metric=None):
        self.axes[name] = step_metric

    def log(self, values):
        self.logged.append(values)


def test_tags():
    rows = [
        {"measure": "rankme", "layer": "final", "value": 2.0},
        {"measure": "loss", "layer": "", "value": 1.0},
    ]
    assert tags(rows) == {"geomfast/rankme/final": 2.0, "geomfast/loss": 1.0}


@pytest.mark.filterwarnings("ignore")  # of TensorBoard, at import
def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(tmp_path / "own"))
    left, _ = train(8, out=tmp_path / "out", log_to=["tensorboard", writer])
    writer.add_scalar("still", 1.0, 0)  # the user's own is not closed
    writer.close()
    for folder in (tmp_path / "out" / "tensorboard" / "run", tmp_path / "own"):
        read = EventAccumulator(str(folder))
        read.Reload()
        shown = read.Scalars("geomfast/rankme/final")
        assert [event.step for event in shown] == list(range(9))
        assert all(1.0 <= event.value <= 12.0 for event in shown)
    assert left["mode"][0]


def test_weights_and_biases(tmp_path, monkeypatch):
    run = Run()
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(run=run))
    train(4, out=tmp_path, log_to="wandb")
    assert run.axes == {"geomfast/step": None, "geomfast/*": "geomfast/step"}
    assert [values["geomfast/step"] for values in run.logged] == [0, 1, 2, 3, 4]
    assert {"geomfast/loss", "geomfast/rankme/block 1"} <= run.logged[0].keys()
    assert "geomfast/train_loss" in run.logged[1]


def test_a_dashboard_that_fails_costs_neither_training_nor_records(tmp_path, caplog):
    run = Run()

    def lost(values):
        raise ConnectionError("no route")

    run.log = lost
    train(4, out=tmp_path, log_to=run)
    assert len(list(tmp_path.glob("records/run/*.parquet"))) == 5
    assert caplog.text.count("no route") == 1


@pytest.mark.parametrize("log_to", ["mlflow", 3, ["tensorboard", object()]])
def test_unknown(log_to, tmp_path):
    pytest.importorskip("tensorboard")
    with pytest.raises(ValueError, match="log_to must be"):
        dashboards(log_to, tmp_path)


def test_what_is_missing_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match="pip install wandb"):
        dashboards("wandb", tmp_path)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r"geomfast\[tensorboard\]"):
        dashboards("tensorboard", tmp_path)
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(run=None))
    with pytest.raises(ValueError, match=r"wandb\.init"):
        dashboards("wandb", tmp_path)

"""Trainers of Hugging Face and of Lightning: with the tracker as without, to the bit."""

import importlib
import logging

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import geomfast as gf
from geomfast.tracker import callbacks
from tests.tracker.tracked import Net, batch, loss_fn

STEPS = [*range(9), 10, 11, 12]
MEASURES = ("rankme", "fisher_rank")
pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries


def tokens():
    return torch.randint(0, 37, (64, 12), generator=torch.Generator().manual_seed(1))


def gpt2(folder, steps=12, callback=None, **arguments):
    """The Trainer after training a tiny GPT-2, dropout on."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    transformers.set_seed(0)
    sizes = {"vocab_size": 37, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16}
    config = transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)
    assert config.resid_pdrop > 0
    trainer = transformers.Trainer(
        transformers.GPT2LMHeadModel(config),
        transformers.TrainingArguments(
            output_dir=str(folder),
            max_steps=steps,
            per_device_train_batch_size=8,
            gradient_accumulation_steps=2,
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            **{"save_strategy": "no", "logging_strategy": "no", **arguments},
        ),
        train_dataset=[{"input_ids": ids, "labels": ids} for ids in tokens()],
        callbacks=[callback] if callback else [],
    )
    trainer.train(resume_from_checkpoint=arguments.get("resume_from_checkpoint"))
    return trainer


def test_hugging_face(tmp_path):
    alone = gpt2(tmp_path / "hf")
    out = tmp_path / "out"
    samples = {"input_ids": tokens()[:12], "attention_mask": torch.ones(12, 12)}
    callback = callbacks.hugging_face(samples, measures=MEASURES, out=out, max_overhead=None)
    tracked = gpt2(tmp_path / "hf", callback=callback)
    for name, value in alone.model.state_dict().items():
        assert torch.equal(value, tracked.model.state_dict()[name]), name
    assert not torch.equal(gpt2(tmp_path / "hf", steps=11).model.lm_head.weight, value)
    records = gf.load_records(out)
    assert sorted(set(records["step"])) == STEPS
    assert set(records["layer"]) == {"", "block 1", "block 2", "final"}
    assert callback.tracker.budget.total == 12 and not callback.tracker.active


def test_the_loss_that_the_trainer_logs_is_recorded(tmp_path):
    samples = {"input_ids": tokens()[:12], "attention_mask": torch.ones(12, 12)}
    callback = callbacks.hugging_face(
        samples, measures="rankme", out=tmp_path / "out", every=1, max_overhead=None
    )
    trainer = gpt2(
        tmp_path / "hf", steps=6, callback=callback, logging_strategy="steps", logging_steps=2
    )
    logged = {one["step"]: one["loss"] for one in trainer.state.log_history if "loss" in one}
    assert set(logged) == {2, 4, 6}
    records = gf.load_records(tmp_path / "out")
    losses = records[records["measure"] == "train_loss"].set_index("step")["value"].to_dict()
    # What is logged comes after the step that it is of.
    assert losses == {3: logged[2], 4: logged[2], 5: logged[4], 6: logged[4]}


def lightning_module(package):
    class Module(package.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = Net()

        def forward(self, x):
            return self.net(x)

        def training_step(self, given, index):
            loss = loss_fn(self, given).mean()
            self.log("train", loss)
            return loss

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), 1e-2)

    return Module()


def fit(package, callback=None) -> nn.Module:
    package.seed_everything(0)
    module = lightning_module(package)
    package.Trainer(
        max_steps=12,
        accumulate_grad_batches=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[callback] if callback else [],
    ).fit(module, DataLoader(TensorDataset(*batch(64)), 8, shuffle=True))
    return module


@pytest.mark.parametrize("name", ["lightning.pytorch", "pytorch_lightning"])
def test_lightning(name, tmp_path, monkeypatch):
    package = pytest.importorskip(name)
    for logger in ("lightning.pytorch", "pytorch_lightning", "lightning.fabric"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    monkeypatch.setattr(callbacks, "_LIGHTNING", (name,))
    alone = fit(package)
    callback = callbacks.lightning(
        loss_fn, batch(12), measures=MEASURES, out=tmp_path, max_overhead=None
    )
    assert isinstance(callback, package.Callback)
    tracked = fit(package, callback)
    for key, value in alone.state_dict().items():
        assert torch.equal(value, tracked.state_dict()[key]), key
    records = gf.load_records(tmp_path)
    assert sorted(set(records["step"])) == STEPS
    assert set(records["scale"]) == {"Module"} and "train_loss" in set(records["measure"])
    assert callback.tracker.budget.total == 12 and not callback.tracker.active


def test_a_loop_that_breaks_lets_go_of_the_folder(tmp_path):
    package = pytest.importorskip("lightning.pytorch")

    class Breaks(package.Callback):
        def on_train_batch_start(self, trainer, pl_module, given, index):
            raise RuntimeError("broken")

    tracker = callbacks.lightning(loss_fn, batch(12), out=tmp_path)
    module = lightning_module(package)
    trainer = package.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[tracker, Breaks()],
    )
    with pytest.raises(RuntimeError, match="broken"):
        trainer.fit(module, DataLoader(TensorDataset(*batch(64)), 8))
    gf.Tracker(module, loss_fn, batch(12), out=tmp_path).close()


def test_out_is_needed():
    with pytest.raises(TypeError, match="out is missing"):
        callbacks.hugging_face({})
    with pytest.raises(TypeError, match="out is missing"):
        callbacks.lightning(loss_fn, batch(12))


def test_without_the_packages(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImportError, match=r"geomfast\[lightning\]"):
        callbacks.lightning(loss_fn, batch(12), out="out")
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ImportError, match=r"geomfast\[hf\]"):
        callbacks.hugging_face({}, out="out")

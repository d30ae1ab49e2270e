"""Adapter checkpoints: put on their base, or what is missing is named."""

import importlib.machinery
import json
import sys
import types

import pytest
import torch

pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file
from torch import nn

from geomfast.lm import hf
from geomfast.lm.adapters import CONFIG, NoBase, is_adapter
from geomfast.lm.causal_lm import load
from geomfast.lm.hub import CorruptCheckpoint, LoadError, NotInstalled
from geomfast.measures.model.options import ModelSettings
from geomfast.runs.errors import PlanError
from geomfast.series.folders import checkpoints_in
from tests.lm.language_models import PROBES, save

WEIGHTS = "adapter_model.safetensors"


class Adapted(nn.Module):
    """The model with a low-rank change of its output head, in place of peft's own."""

    def __init__(self, model, changes):
        super().__init__()
        self.base = model.requires_grad_(False)
        self.config = model.config
        self.a, self.b = (nn.Parameter(changes[name]) for name in ("a", "b"))

    def forward(self, input_ids):
        out = self.base(input_ids=input_ids, output_hidden_states=True)
        out.logits = out.logits + out.hidden_states[-1] @ self.a @ self.b
        return out

    def get_input_embeddings(self):
        return self.base.get_input_embeddings()

    def get_output_embeddings(self):
        return self.base.get_output_embeddings()

    @classmethod
    def from_pretrained(cls, model, folder, is_trainable=False):
        assert is_trainable
        return cls(model, load_file(f"{folder}/{WEIGHTS}"))


@pytest.fixture
def peft(monkeypatch):
    module = types.ModuleType("peft")
    module.PeftModel = Adapted
    module.__spec__ = importlib.machinery.ModuleSpec("peft", None)
    monkeypatch.setitem(sys.modules, "peft", module)
    _forget()
    yield
    monkeypatch.undo()
    _forget()


def _forget() -> None:
    """What transformers remembers of whether peft is there, for tests in the same process."""
    from transformers.utils import import_utils

    for asked in (import_utils.is_peft_available, import_utils.is_peft_greater_or_equal):
        getattr(asked, "cache_clear", lambda: None)()


@pytest.fixture
def none(monkeypatch):
    monkeypatch.delitem(sys.modules, "peft", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


def adapter(folder, base, **told):
    folder.mkdir(parents=True)
    (folder / CONFIG).write_text(json.dumps({"base_model_name_or_path": base, **told}))
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(*shape, generator=generator) for shape in ((16, 2), (2, 60)))
    save_file({"a": a, "b": b}, folder / WEIGHTS)
    return folder


@pytest.mark.parametrize("where", ["absolute", "beside", "with a revision"])
@pytest.mark.usefixtures("peft")
def test_an_adapter_is_put_on_its_base(where, tmp_path):
    base = save(tmp_path / "base")
    named = "../base" if where == "beside" else str(base)
    told = {"revision": "main"} if where == "with a revision" else {}
    lm = load(adapter(tmp_path / "adapter", named, **told))
    assert not lm.model.training
    trainable = [name for name, p in lm.model.named_parameters() if p.requires_grad]
    assert trainable == ["a", "b"]  # as in training
    probes = hf.encode(lm, PROBES)
    plain = hf.loss_fn(load(base).model, probes.batch)
    assert (hf.loss_fn(lm.model, probes.batch) - plain).abs().max() > 0.1
    options = ModelSettings.asked({"hessian_trace": {"probes": 6}})
    found = dict(
        (f.measure, f.value)
        for _, f in hf.measure_lm(lm, [probes], ["rankme", "fisher_rank", "hessian_top"], options)
    )
    assert 1.0 < found["fisher_rank"] <= 6.0 and found["hessian_top"] > 0


@pytest.mark.usefixtures("none")
def test_without_peft_it_is_named(tmp_path):
    folder = adapter(tmp_path / "adapter", str(save(tmp_path / "base")))
    with pytest.raises(NotInstalled, match=r"adapter of .*base, which needs peft: pip install"):
        load(folder)


@pytest.mark.parametrize("base", ["/nowhere/at/all", "./lost", ""])
@pytest.mark.usefixtures("peft")
def test_without_its_base_that_is_named(base, tmp_path):
    said = f"adapter of {base}, which is not to be had" if base else "does not say which model"
    with pytest.raises(NoBase, match=said):
        load(adapter(tmp_path / "adapter", base))


@pytest.mark.usefixtures("peft")
def test_a_base_that_is_no_model(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoBase, match=r"where there is no config\.json"):
        load(adapter(tmp_path / "adapter", "../empty"))


@pytest.mark.usefixtures("peft")
def test_adapters_that_are_damaged(tmp_path):
    folder = adapter(tmp_path / "adapter", str(save(tmp_path / "base")))
    (folder / WEIGHTS).write_bytes(b"short")
    with pytest.raises(CorruptCheckpoint, match="the adapter cannot be put on"):
        load(folder)
    (folder / CONFIG).write_text("[1]")
    with pytest.raises(CorruptCheckpoint, match=CONFIG):
        load(folder)


def test_folders_of_adapters_are_checkpoints(tmp_path):
    for step in (10, 20):
        folder = adapter(tmp_path / "run" / f"checkpoint-{step}", "somewhere/else")
        assert is_adapter(folder)
    source, found = checkpoints_in(tmp_path / "run")
    assert [c.step for c in found] == [10, 20] and source == (tmp_path / "run").resolve()
    _, (one,) = checkpoints_in(tmp_path / "run" / "checkpoint-20")
    assert one.step == 20
    (tmp_path / "other").mkdir()
    with pytest.raises(PlanError, match=f"an adapter .{CONFIG}."):
        checkpoints_in(tmp_path / "other")
    assert issubclass(NoBase, LoadError)

"""Choice of backends, and what is said about the missing ones."""

import json
import logging
from pathlib import Path

import pytest
import torch

from geomfast.kernels import backends, registry, spectra
from geomfast.kernels.backends import Backend, BackendError, MissingModule
from geomfast.kernels.registry import Op, ops


@pytest.fixture(autouse=True)
def _not_forced(monkeypatch):
    monkeypatch.delenv("GEOMFAST_BACKEND", raising=False)
    registry._log_once.cache_clear()


@pytest.fixture
def no_native_module(monkeypatch):
    missing = MissingModule("geomfast._cpu", "no compiler was found")
    monkeypatch.setattr(backends, "native_module", lambda name: missing)


def test_report_names_every_backend():
    report = backends.backend_report()
    assert all(isinstance(line, Backend) and line.detail for line in report)
    assert [line.name for line in report] == list(backends.NAMES)
    available = {line.name: line.available for line in report}
    assert available["reference"] and available["torch"]
    if not torch.cuda.is_available():
        assert available["triton"] == backends.interpreting_triton()
        assert not available["cuda"]


def test_report_says_why_there_is_no_gpu(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for missing in (backends.triton_missing, backends.cuda_missing):
        missing.cache_clear()
    detail = {line.name: line.detail for line in backends.backend_report()}
    for missing in (backends.triton_missing, backends.cuda_missing):
        missing.cache_clear()
    assert "no CUDA device" in detail["triton"] or "not installed" in detail["triton"]
    assert "CUDA" in detail["cuda"] or "nvcc" in detail["cuda"]


def test_report_without_native_module(no_native_module):
    line = next(line for line in backends.backend_report() if line.name == "cpu")
    assert line == Backend("cpu", False, "no compiler was found")


def test_falls_back_without_native_module_and_logs_once(no_native_module, caplog):
    with caplog.at_level(logging.WARNING, "geomfast"):
        for _ in range(3):
            assert spectra.OP.backend_for(torch.eye(3)) == "torch"
    assert spectra.singular_values(torch.eye(3)).tolist() == [1.0, 1.0, 1.0]
    assert len(caplog.records) == 1
    assert "no compiler was found" in caplog.text


def test_forced_but_missing(no_native_module, monkeypatch):
    monkeypatch.setenv("GEOMFAST_BACKEND", "cpu")
    with pytest.raises(BackendError, match="no compiler was found"):
        spectra.singular_values(torch.eye(3))


@pytest.mark.parametrize("name", ["triton", "cuda"])
def test_forced_gpu_backend_on_the_cpu(name, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    monkeypatch.setenv("GEOMFAST_BACKEND", name)
    with pytest.raises(BackendError, match=f"{name} does not support .* cuda device, x is on cpu"):
        spectra.singular_values(torch.eye(3))


def test_forced_backend_with_unknown_name(monkeypatch):
    monkeypatch.setenv("GEOMFAST_BACKEND", "abacus")
    with pytest.raises(BackendError, match="'abacus' is not one of"):
        spectra.singular_values(torch.eye(3))


@pytest.mark.parametrize("name", ["reference", "torch"])
def test_forced_backend_is_the_one_recorded(name, monkeypatch):
    monkeypatch.setenv("GEOMFAST_BACKEND", name)
    assert spectra.OP.backend_for(torch.eye(3)) == name


def test_forced_backend_on_another_device(monkeypatch):
    monkeypatch.setenv("GEOMFAST_BACKEND", "cpu")
    with pytest.raises(BackendError, match="x is on meta"):
        spectra.OP.backend_for(torch.empty(3, 3, device="meta"))


def test_forced_backend_runs_although_slower(monkeypatch):
    op = Op("op", {"cpu": None, "torch": None}, slower={"cpu": lambda x: "too large"})
    assert op.backend_for(torch.eye(3)) == "torch"
    assert op.available_backends(torch.eye(3)) == ["cpu", "torch"]
    monkeypatch.setenv("GEOMFAST_BACKEND", "cpu")
    assert op.backend_for(torch.eye(3)) == "cpu"


def test_forced_backend_that_the_operation_does_not_have(monkeypatch):
    monkeypatch.setenv("GEOMFAST_BACKEND", "cuda")
    with pytest.raises(BackendError, match="cuda: not available for op: "):
        Op("op", {"torch": None}).backend_for(torch.eye(3))


def test_no_backend_supports_the_input():
    against = {"cpu": lambda x: "too large", "torch": lambda x: "gone"}
    op = Op("op", dict.fromkeys(against), refusals=against)
    with pytest.raises(BackendError, match=r"no backend supports op: cpu: too large; torch: gone"):
        op.backend_for(torch.eye(3))


def test_the_registry_has_every_operation_with_its_reference_and_self_test():
    folders = {path.parent.name for path in Path(registry.__file__).parent.glob("*/op.py")}
    assert len(ops()) == len(folders) == len({op.name for op in ops()}) > 0
    for op in ops():
        assert "reference" in op.implementations and op.tolerances, op.name


def test_missing_module_explains_itself():
    missing = MissingModule("geomfast._cpu", "no compiler was found")
    with pytest.raises(BackendError, match=r"geomfast\._cpu is not available: no compiler"):
        missing.singular_values()


def test_absent_native_module_tells_the_reason_of_the_import():
    module = backends.native_module("_no_such_module")
    assert isinstance(module, MissingModule)
    assert "_no_such_module" in module.reason


def test_absent_native_module_tells_the_reason_of_the_build(tmp_path, monkeypatch):
    report = {"geomfast._no_such": {"built": False, "reason": "CompileError: g++ not found"}}
    (tmp_path / "_build_report.json").write_text(json.dumps(report))
    monkeypatch.setattr(backends.importlib.resources, "files", lambda package: tmp_path)
    assert "g++ not found" in backends._build_failure("geomfast._no_such")
    assert backends._build_failure("geomfast._other") == ""

"""What tests of kernels share."""

from __future__ import annotations

import pytest

from tests import cases


@pytest.fixture(params=[*(f"cpu {isa}" for isa in cases.isas()), "torch", "reference"])
def backend(request, monkeypatch) -> str:
    """Every backend of a kernel for the CPU, the C++ one with every instruction set; forced."""
    name, _, isa = request.param.partition(" ")
    monkeypatch.setenv("GEOMFAST_ISA", isa)
    monkeypatch.setenv("GEOMFAST_BACKEND", name)
    return name

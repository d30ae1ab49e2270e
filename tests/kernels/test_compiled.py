"""What compilers make of the GPU kernels; no GPU is needed to look."""

import collections
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SOURCES = sorted((ROOT / "csrc").glob("*.cu"))


@pytest.fixture(scope="module")
def disassembly():
    """Triton kernel -> opcode counts and stack bytes, for sm_90."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("the package triton is not installed")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    ran = subprocess.run(
        [sys.executable, "-m", "tests.kernels.triton_to_sass"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_triton_kernels_keep_everything_in_registers(disassembly):
    assert disassembly
    for name, found in disassembly.items():
        spilled = {op: found["opcodes"].get(op, 0) for op in ("LDL", "STL")}
        assert spilled == {"LDL": 0, "STL": 0} and found["stack"] == 0, name


def test_gram_kernel_runs_on_the_float64_tensor_cores(disassembly):
    grams = {name: found for name, found in disassembly.items() if name.startswith("gram")}
    assert grams
    for name, found in grams.items():
        assert found["opcodes"].get("DMMA", 0) > 0, name
        assert "DFMA" not in found["opcodes"], name  # none of the product is left to plain cores


def test_gram_kernel_converts_an_entry_for_two_products(disassembly):
    """Of 8 x 8 x 4. With 8 warps to a tile of 64 x 64 it was three for four."""
    grams = {name: found for name, found in disassembly.items() if name.startswith("gram")}
    shared = {name: found for name, found in grams.items() if "n=200" in name}
    assert {name.split()[1] for name in shared} >= {"fp32", "fp64"}
    for name, found in shared.items():
        conversions, products = found["opcodes"].get("F2F", 0), found["multiplied"] / 256
        if "fp64" in name:
            assert conversions == 0, name
        else:  # 32 for 64 in the squares, 24 for 32 in the strip
            assert 0 < conversions <= 0.55 * products, name


def test_gram_kernel_reads_rows_16_bytes_at_a_time(disassembly):
    """But for the strip's own, which are 8 bytes a thread in float32."""
    for dtype, fewer in (("fp32", 3), ("fp64", 2)):
        rows, neither = (
            sum(disassembly[f"gram {dtype} n=200 {laid}"]["opcodes"].get(op, 0) for op in reads)
            for laid in ("rows", "neither")
            for reads in [("LDGSTS", "LDG")]
        )
        assert fewer * rows <= neither + fewer, dtype  # the scale of float64, by both


@pytest.mark.parametrize("kernel", ["ghost", "rank"])
def test_gradient_gram_kernels_run_on_the_tensor_cores(disassembly, kernel):
    found = {name: how["opcodes"] for name, how in disassembly.items() if name.startswith(kernel)}
    assert any("fp32" in name for name in found) and any("fp64" in name for name in found)
    for name, opcodes in found.items():
        if "fp64" in name:
            assert opcodes.get("DMMA", 0) > 0, name
        elif "n=16" in name:  # too small a tile for Hopper's own products
            assert opcodes.get("HMMA", 0) > 0, name
        else:
            assert opcodes.get("HGMMA", 0) > 0, name
        # 16 bytes at a time; 4 at a time would take four times as many.
        assert 0 < opcodes["LDGSTS"] <= 48, name


def test_tangents_of_attention_run_on_the_tensor_cores(disassembly):
    found = {name: how for name, how in disassembly.items() if name.startswith("tangents")}
    attention = [name for name in found if "attention" in name or "adjoint_tangent" in name]
    attention = [name for name in attention if "norm" not in name and "gelu" not in name]
    assert len(attention) == 6
    for name in attention:
        assert found[name]["opcodes"].get("HMMA", 0) > 0, name


def test_langevin_steps_fuse_no_product_with_a_sum(disassembly):
    """Else noise would not have the CPU's bits: the expansions of roots and quotients may."""
    found = {name: how for name, how in disassembly.items() if name.startswith("sgld")}
    assert any("normals" in name for name in found) and any("step" in name for name in found)
    for name, how in found.items():
        # With ".rn" the assembler must leave them apart, without it may not.
        sums = {op: n for op, n in how["float32"].items() if op.startswith(("add", "sub", "mul"))}
        assert set(sums) == {"add.rn.f32", "sub.rn.f32", "mul.rn.f32"}, name
        assert how["opcodes"]["FADD"] >= sums["add.rn.f32"] + sums["sub.rn.f32"], name
        assert how["opcodes"]["FMUL"] >= sums["mul.rn.f32"], name
        # Of 16 entries a thread, what the three or four sums add is fused, and nothing else.
        fused = 16 * (3 + ("TRACKED" in name or "MOVING" in name)) if "step" in name else 0
        assert how["float32"].get("fma.rn.f32", 0) == fused, name
        # Neither approximate, nor with subnormal numbers flushed to zero.
        rounded = {"sqrt.rn.f32", "div.rn.f32", "rcp.rn.f32", "selp.f32", "fma.rn.f32"}
        assert set(how["float32"]) <= {*sums, *rounded}, name


def test_langevin_steps_touch_every_entry_once(disassembly):
    """16 bytes of memory an entry, and 8 more for each tensor that is read and written."""
    found = {name: how for name, how in disassembly.items() if "step_kernel" in name}
    assert len(found) == 9
    for name, how in found.items():
        entries, more = 16, 4 * sum(option in name for option in ("TRACKED", "MOVING"))
        masked = "MASKED" in name
        # Besides, of a program: the step, the chain's mask; four sums, or NaN in their place.
        assert how["bytes"]["LDG"] == entries * (12 + more) + 8 + masked, name
        assert how["bytes"]["STG"] == entries * (4 + more) + 16 + 4 * masked, name


def test_langevin_steps_need_no_barrier_and_few_instructions(disassembly):
    found = {name: how for name, how in disassembly.items() if "step_kernel" in name}
    assert len(found) == 9
    for name, how in found.items():
        for passing in ("BAR", "LDS", "STS", "LDSM", "STSM"):  # through shared memory
            assert passing not in how["opcodes"], name
        tensors = 4 + 2 * sum(option in name for option in ("TRACKED", "MOVING"))
        if "odd" not in name:  # a thread's 16 entries of each tensor, four at a time
            assert how["moves"]["16"] == 4 * tensors, name
        # An H200 issues some 124 while its memory copies the 16 bytes of an entry. The count is of
        # the code, in which roots of subnormal numbers, never taken otherwise, have their share.
        an_entry = how["instructions"] / 16
        assert an_entry <= (84 if "odd" in name else 76), name


def test_adamw_touches_every_entry_once(disassembly):
    """28 bytes an entry, besides three factors, a scale and the mask."""
    entries = 8
    found = {name: how for name, how in disassembly.items() if name.startswith("adamw")}
    assert len(found) == 2
    for name, how in found.items():
        assert how["bytes"]["LDG"] == 16 * entries + 16 + 1, name
        assert how["bytes"]["STG"] == 12 * entries, name


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_cuda_kernels_neither_spill_nor_use_local_memory(source, tmp_path):
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("nvcc was not found")
    architectures = ("80", "90a")
    code = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in architectures]
    output = ["-c", source, "-o", tmp_path / "object.o"]
    ran = subprocess.run(
        [nvcc, "-O3", "-std=c++17", "--threads=0", *code, "-Xptxas=-v", *output],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    compiled = re.findall(r"Compiling entry function '(\S+)' for 'sm_(\w+)'", ran.stderr)
    memory = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores", ran.stderr)
    assert {architecture for _, architecture in compiled} == set(architectures)
    assert len(memory) >= len(compiled) == len(architectures) * _kernels(source)
    assert set(memory) == {("0", "0")}, ran.stderr


@pytest.fixture(scope="module", params=["80", "90a"])
def spectra(request, tmp_path_factory):
    """Architecture, and kernel of spectra_cuda.cu -> counts of its opcodes."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("nvcc was not found")
    if importlib.util.find_spec("triton") is None:
        pytest.skip("the package triton, which brings cuobjdump, is not installed")
    from tests.kernels.triton_to_sass import tool

    code = f"-gencode=arch=compute_{request.param},code=sm_{request.param}"
    output = tmp_path_factory.mktemp("spectra") / "spectra.cubin"
    source = ROOT / "csrc" / "spectra_cuda.cu"
    command = [nvcc, "-O3", "-std=c++17", code, "-cubin", source, "-o", output]
    subprocess.run(command, check=True, capture_output=True)
    dump = [tool("cuobjdump"), "-sass", output]
    text = subprocess.run(dump, check=True, capture_output=True, text=True).stdout
    kernels = {}
    for part in text.split("Function : ")[1:]:
        opcodes = re.findall(r"/\*[0-9a-f]{4,}\*/ +(?:@!?U?P\d+ +)?([A-Z0-9._]+)", part)
        name = re.search("reduce_in_shared_memory|reduce_in_global_memory|values_of", part)
        assert name is not None
        kernels[name[0]] = collections.Counter(re.sub(r"[.](?!128).*", "", o) for o in opcodes)
    return request.param, kernels


def test_a_step_of_the_reduction_waits_at_four_barriers(spectra):
    """Two before the steps; four a step in shared memory, three in global memory."""
    architecture, kernels = spectra
    assert kernels["reduce_in_shared_memory"]["BAR"] == 2 + 4
    if architecture == "90a":  # the cluster's barriers; a sum's two phases have one of a block too
        assert kernels["reduce_in_global_memory"]["UCGABAR_WAIT"] == 1 + 3
        assert kernels["reduce_in_global_memory"]["BAR"] <= 6


def test_sums_and_minors_are_not_chains_that_every_thread_repeats(spectra):
    architecture, kernels = spectra
    reduction, values = kernels["reduce_in_shared_memory"], kernels["values_of"]
    # 106 additions before, when every thread added the sums of all warps, one after the other.
    if architecture == "90a":  # sm_80 has the code of its sums twice
        assert reduction["DADD"] <= 80
    assert reduction["LDS.128"] >= 4
    # One comparison a step before: signs are compared as bits now.
    assert values["DSETP"] <= 60 and values["LDS.128"] >= 8


def _kernels(source: Path) -> int:
    return len(re.findall(r"__global__ void", source.read_text()))

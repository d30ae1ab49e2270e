"""Compiles every Triton kernel for sm_90, as it is launched, and counts what came out.

    python -m tests.kernels.triton_to_sass

Prints one JSON object: kernel -> {"opcodes": {name: count}, "instructions": all but padding,
"bytes": {LDG or STG: a thread's}, "moves": {bytes: how many LDG and STG}, "float32": {PTX
instruction: count}, "multiplied": a warp's pairs of entries in its DMMA, "stack": bytes,
"registers": per thread}. A program of its own, since under
TRITON_INTERPRET=1, which the tests set, nothing can be compiled. Needs no GPU.
"""

import bisect
import collections
import functools
import itertools
import json
import math
import multiprocessing
import os
import re
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends import nvidia
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from geomfast.kernels.adamw import step_kernel as adamw_kernel
from geomfast.kernels.gradient_gram import Factors, ghost_kernel, rank_kernel
from geomfast.kernels.sgld import step_kernel
from geomfast.kernels.spectra import gram_kernel
from geomfast.kernels.spectra.gram_tiles import tile_for
from geomfast.kernels.tangents import attention_kernels, row_kernels

SM_90 = GPUTarget("cuda", 90, 32)


# Kernel, types of its arguments, constants, compiler options, arguments that are multiples of 16.
Compilation = tuple[Any, dict[str, str], dict[str, Any], dict[str, Any], tuple[str, ...]]


def kernels() -> dict[str, Compilation]:
    """By name."""
    return spectra_grams() | ghost_products() | ranks() | tangents() | langevin_steps() | adamw()


def spectra_grams() -> dict[str, Compilation]:
    """Every tiling, of contiguous rows; most, of contiguous columns and of neither."""
    halves = ("bf16", "fp16") if gram_kernel._READS_16_BITS else ()
    every = {"rows": (16, 32, 40, 64, 128, 200, 220)}
    most = every | dict.fromkeys(("columns", "neither"), (32, 40, 200, 220))
    return dict(
        _spectra_gram(dtype, n, laid, mirrored)
        for dtype in ("fp32", "fp64", *halves)
        for laid, sides in (most if dtype in ("fp32", "fp64") else every).items()
        for n in sides
        for mirrored in ((False, True) if n > 32 else (False,))  # one square has both its triangles
    )


def _spectra_gram(dtype: str, n: int, laid: str, mirrored: bool) -> tuple[str, Compilation]:
    """As for (600, n, 768), (600, 768, n), or a view of which Triton knows no more than int32."""
    pointers = {"x": f"*{dtype}", "inverse_scale": "*fp64", "gram": "*fp64"}
    tiling = tile_for(n, int(dtype.lstrip("bfp")) // 8)
    constants = {
        "SCALED": dtype == "fp64",
        "MIRRORED": mirrored,
        "WIDE": False,
        **gram_kernel.constants_for(tiling),
    }
    aligned = ("x", "inverse_scale", "gram") + (("n",) if n % 16 == 0 else ())
    if laid != "neither":
        step, leap = ("long_stride", "side_stride")[:: 1 if laid == "rows" else -1]
        constants[step] = 1
        aligned += ("length", "batch_stride")
        aligned += (leap,) if laid == "rows" or n % 16 == 0 else ()
    integers = ("n", "length", "squares", "batch_stride", "side_stride", "long_stride")
    types = pointers | dict.fromkeys(integers, "i32") | dict.fromkeys(constants, "constexpr")
    name = f"gram {dtype} n={n} {laid}{' mirrored' if mirrored else ''}"
    options = gram_kernel.options_for(tiling)
    return name, (gram_kernel._gram_kernel, types, constants, options, aligned)


def ghost_products() -> dict[str, Compilation]:
    """The plans that an H200 gets for 200 and 1000 samples of the models' lengths."""
    dense, tokens = torch.empty, functools.partial(torch.empty, dtype=torch.long)
    found = {}
    for samples, length, dtype, *lefts in (
        *((1000, length, torch.float32, dense, dense) for length in (1, 4, 16, 32, 64, 128)),
        (200, 4, torch.float32, dense, dense),
        (1000, 32, torch.float32, tokens, tokens),
        (200, 4, torch.float32, tokens, tokens),
        (1000, 4, torch.float32, tokens, dense),
        (1000, 16, torch.float32, dense, tokens),
        (200, 4, torch.float64, dense, dense),
        (200, 16, torch.float64, tokens, dense),
    ):
        shape, right = (samples, length), torch.empty(samples, length, 16, dtype=dtype)
        p, q = (
            Factors(left(*shape) if left is tokens else left(*shape, 16), right, 16)
            for left in lefts
        )
        block, positions, *_ = ghost_kernel.plan(p, q, 132)
        kind = f"fp{8 * right.itemsize}"
        pointers = {
            "p_left": "*i64" if p.one_hot else f"*{kind}",
            "p_right": f"*{kind}",
            "q_left": "*i64" if q.one_hot else f"*{kind}",
            "q_right": f"*{kind}",
            "partial": "*fp64",
        }
        counts = ("samples", "first", "p_length", "q_length", "rows", "columns")
        factors = [(use, factor) for use in "pq" for factor in ("left", "right")]
        strides = [f"{use}_{f}_{along}" for use, f in factors for along in ("sample", "position")]
        hot = {"p_left": p.one_hot, "q_left": q.one_hot}
        aligned = [name for name in strides if not hot.get(name.rsplit("_", 1)[0], False)]
        options = ghost_kernel.options_for(block, right.itemsize)
        constants = {
            "P_ONE_HOT": p.one_hot,
            "Q_ONE_HOT": q.one_hot,
            "BLOCK": block,
            "POSITIONS": positions,
            "BLOCK_K": options.pop("BLOCK_K"),
        }
        hots = f"{'one-hot' if p.one_hot else 'dense'} {'one-hot' if q.one_hot else 'dense'}"
        types = pointers | dict.fromkeys((*counts, *strides), "i32")
        found[f"ghost {kind} {hots} block={block} positions={positions}"] = (
            ghost_kernel._ghost_kernel,
            types | dict.fromkeys(constants, "constexpr"),
            constants,
            options,
            (*pointers, "rows", "columns", *aligned),
        )
    return found


def ranks() -> dict[str, Compilation]:
    """For 16, 200 and 1000 rows."""
    found = {}
    for kind, samples in (("fp32", 16), ("fp32", 200), ("fp32", 1000), ("fp64", 16), ("fp64", 200)):
        options = rank_kernel.options_for(samples, int(kind[2:]) // 8)
        constants = {name: options.pop(name) for name in ("BLOCK", "BLOCK_K")}
        types = {"x": f"*{kind}", "partial": f"*{kind}"}
        types |= dict.fromkeys(("samples", "length", "stride", "share"), "i32")
        found[f"rank {kind} n={samples}"] = (
            rank_kernel._rank_kernel,
            types | dict.fromkeys(constants, "constexpr"),
            constants,
            options,
            ("x", "partial", "length", "stride", "share"),
        )
    return found


def tangents() -> dict[str, Compilation]:
    """For the widths of the models and of their heads, and of a vocabulary."""
    of, rows = attention_kernels, row_kernels
    tiles = [
        *((k, of.tile_for(e), e, of.OPTIONS) for e in (32, 64)
          for k in (of.attention_tangent, of.queries_adjoint_tangent, of.keys_adjoint_tangent)),
        *((k, rows.tile_for(d), d, rows.OPTIONS) for d in (24, 128, 256, 768, 1024, 2048)
          for k in (rows.norm_tangent, rows.norm_adjoint_tangent, rows.softmax_hessian_product)),
        *((k, {"BLOCK": rows.BLOCK}, 0, rows.OPTIONS)
          for k in (rows.gelu_tangent, rows.gelu_adjoint_tangent)),
    ]  # fmt: skip
    found = {}
    for kernel, constants, width, options in tiles:
        names = [name for name in kernel.arg_names if name not in constants]
        sizes = {"samples", "heads", "n_queries", "n_keys", "width", "rows", "size"}
        types = {name: "i32" if name in sizes else "*fp32" for name in names}
        aligned = [name for name in names if name not in sizes]
        aligned += ["width"] if width and width % 16 == 0 else []
        found[f"tangents {kernel.__name__} {width}"] = (
            kernel,
            types | dict.fromkeys(constants, "constexpr"),
            constants,
            options,
            tuple(aligned),
        )
    return found


def langevin_steps() -> dict[str, Compilation]:
    """With and without each of what a step can have, of a size that is a multiple of 16 or not."""
    options = {"TRACKED": "previous", "MOVING": "velocity", "MASKED": "active"}
    found = {}
    for kernel, on, even in (
        (step_kernel.normals_kernel, (), True),
        (step_kernel.normals_kernel, (), False),
        (step_kernel.step_kernel, (), True),
        (step_kernel.step_kernel, (), False),
        *((step_kernel.step_kernel, (name,), True) for name in options),
        *(
            (step_kernel.step_kernel, (name, "MASKED"), even)
            for name in ("TRACKED", "MOVING")
            for even in (True, False)
        ),
    ):
        constants: dict[str, Any] = {"GROUPS": step_kernel.GROUPS, "WIDTH": 4 if even else 1}
        if kernel is step_kernel.step_kernel:
            constants |= {name: name in on for name in options}
            constants |= {tensor: None for name, tensor in options.items() if name not in on}
        types = {}
        for name in kernel.arg_names:
            pointer = {"active": "*i1", "step": "*i64"}.get(name, "*fp32")
            integer = name == "size" or name in step_kernel.ANY_VALUE
            scalar = name in ("pull", "back", "spread", "keep")
            types[name] = "i32" if integer else "fp32" if scalar else pointer
        types |= dict.fromkeys(constants, "constexpr")
        aligned = [name for name, of in types.items() if of.startswith("*")]
        aligned += ["size"] if even else []
        name = " ".join((kernel.__name__, *on, *(() if even else ("odd",))))
        found[f"sgld {name}"] = (kernel, types, constants, step_kernel.OPTIONS, tuple(aligned))
    return found


def adamw() -> dict[str, Compilation]:
    """Of a size that is a multiple of 16 or not."""
    found = {}
    pointers = {
        **dict.fromkeys(("weights", "gradients", "exp_avg", "exp_avg_sq"), "*fp32"),
        **dict.fromkeys(("step_scalars", "scales"), "*fp32"),
        "active": "*i1",
    }
    types = pointers | dict.fromkeys(("size", "num_decayed"), "i32")
    types |= dict.fromkeys(("beta1", "rest1", "beta2", "rest2", "weight_decay", "eps"), "fp32")
    constants = {"BLOCK": adamw_kernel.BLOCK}
    for name, sizes in (("even", ("size", "num_decayed")), ("odd", ())):
        found[f"adamw {name}"] = (
            adamw_kernel.step_kernel,
            types | {"BLOCK": "constexpr"},
            constants,
            adamw_kernel.OPTIONS,
            (*pointers, *sizes),
        )
    return found


def tool(name: str) -> str:
    """Triton's own, wherever its version keeps it, or the toolkit's."""
    packages = map(Path, triton.__path__)
    found = [
        os.environ.get(f"TRITON_{name.upper()}_PATH", ""),
        *(str(folder / "bin" / name) for folder in map(Path, nvidia.__path__)),
        *(str(path) for package in packages for path in sorted(package.rglob(name))),
        name,
    ]
    for candidate in found:
        if candidate and (path := shutil.which(candidate)):
            return path
    raise FileNotFoundError(f"{name} is neither in Triton's package nor on the PATH")


def compiled(name: str) -> dict[str, Any]:
    """Stages of one kernel: its PTX, and the cubin that the assembler makes of it."""
    kernel, types, constants, options, aligned = kernels()[name]
    attributes = {(list(types).index(of),): [["tt.divisibility", 16]] for of in aligned}
    source = ASTSource(kernel, types, constants, attributes)
    stages = triton.compile(source, target=SM_90, options=options).asm
    return {"ptx": stages["ptx"], "cubin": stages["cubin"]}


def text_of(cubin: bytes) -> bytes:
    """The instructions in a cubin, an ELF file of 64 bits: its sections called .text.*"""
    (start,) = struct.unpack_from("<Q", cubin, 40)
    size, count, names = struct.unpack_from("<HHH", cubin, 58)
    sections = [struct.unpack_from("<IIQQQQ", cubin, start + size * i) for i in range(count)]
    table = sections[names][4]
    return b"".join(
        cubin[offset : offset + length]
        for name, _, _, _, offset, length in sections
        if cubin.startswith(b".text.", table + name)
    )


def disassembled(codes: list[bytes]) -> list[list[str]]:
    """Opcodes with their modifiers, of each; in one go, for nvdisasm is slow to begin."""
    with tempfile.NamedTemporaryFile(suffix=".bin") as file:
        file.write(b"".join(codes))
        file.flush()
        command = [tool("nvdisasm"), "--binary", "SM90a", file.name]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    ends = list(itertools.accumulate(map(len, codes)))
    found: list[list[str]] = [[] for _ in codes]
    for address, opcode in re.findall(
        r"^\s+/\*([0-9a-f]+)\*/\s+(?:@\S+\s+)?([A-Zx0-9.]+)", said, re.MULTILINE
    ):
        found[bisect.bisect_right(ends, int(address, 16))].append(opcode)
    assert all(found)
    return found


def usage(cubin: bytes) -> str:
    """What the assembler says that a kernel uses."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [tool("cuobjdump"), "--dump-resource-usage", file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def counted(stages: dict[str, Any], instructions: list[str]) -> dict[str, Any]:
    """What one kernel holds."""
    opcodes = collections.Counter(instruction.split(".")[0] for instruction in instructions)
    moved, moves = collections.Counter(), collections.Counter()
    for opcode, *modifiers in (instruction.split(".") for instruction in instructions):
        if opcode in ("LDG", "STG"):
            widths = {"64": 8, "128": 16, "U8": 1, "U16": 2}
            width = next((widths[m] for m in modifiers if m in widths), 4)
            moved[opcode] += width
            moves[width] += 1
    # The versions of Triton choose other shapes: 8x8x4, 16x8x16.
    found = (re.fullmatch(r"DMMA\.(\d+)x(\d+)x(\d+).*", told) for told in instructions)
    shapes = [shape.groups() for shape in found if shape]
    uses = usage(stages["cubin"])
    (stack,) = re.findall(r"STACK:(\d+)", uses)
    (registers,) = re.findall(r"REG:(\d+)", uses)
    return {
        "opcodes": opcodes,
        "instructions": opcodes.total() - opcodes["NOP"],
        "bytes": moved,
        "moves": moves,
        "float32": collections.Counter(re.findall(r"\b[a-z.]+\.f32(?=\s)", stages["ptx"])),
        "multiplied": sum(math.prod(map(int, shape)) for shape in shapes),
        "stack": int(stack),
        "registers": int(registers),
    }


def main() -> None:
    names = list(kernels())
    with multiprocessing.Pool() as workers:
        stages = workers.map(compiled, names, 1)
    instructions = disassembled([text_of(stage["cubin"]) for stage in stages])
    print(json.dumps(dict(zip(names, map(counted, stages, instructions), strict=True))))


if __name__ == "__main__":
    main()

"""Compiles every Triton kernel for sm_90, as it is launched, and counts what came out.

    python -m tests.kernels.triton_to_sass

Prints one JSON object: kernel -> {"opcodes": {name: count}, "stack": bytes}. A program of its own,
since under TRITON_INTERPRET=1, which the tests set, nothing can be compiled. Needs no GPU.
"""

import collections
import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends import nvidia
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from geomfast.kernels.spectra import gram_kernel

SM_90 = GPUTarget("cuda", 90, 32)


def kernels() -> dict[str, tuple[Any, dict[str, str], dict[str, Any], dict[str, Any]]]:
    """Name -> kernel, types of its arguments, constants, compiler options."""
    found = {}
    halves = ("bf16", "fp16") if gram_kernel._READS_16_BITS else ()
    for dtype in ("fp32", "fp64", *halves):
        for n in (16, 32, 200):
            for mirrored in (False, True):
                block = gram_kernel.block_for(n)
                pointers = {"x": f"*{dtype}", "inverse_scale": "*fp64", "gram": "*fp64"}
                integers = ("n", "length", "tiles", "batch_stride", "side_stride", "long_stride")
                constants = {
                    "SCALED": dtype == "fp64",
                    "MIRRORED": mirrored,
                    "BLOCK": block,
                    "BLOCK_K": gram_kernel._BLOCK_K,
                }
                name = f"gram {dtype} n={n}{' mirrored' if mirrored else ''}"
                types = pointers | dict.fromkeys(integers, "i32")
                found[name] = (
                    gram_kernel._gram_kernel,
                    types | dict.fromkeys(constants, "constexpr"),
                    constants,
                    gram_kernel.options_for(block, int(dtype.lstrip("bfp")) // 8),
                )
    return found


def compiled(kernel: Any, types: dict, constants: dict, options: dict) -> dict[str, Any]:
    """What the disassembly of one kernel holds."""
    source = ASTSource(kernel, types, constants)
    cubin = triton.compile(source, target=SM_90, options=options).asm["cubin"]
    cuobjdump = Path(nvidia.__file__).parent / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        sass, usage = (
            subprocess.run([cuobjdump, what, file.name], capture_output=True, text=True, check=True)
            for what in ("--dump-sass", "--dump-resource-usage")
        )
    opcodes = re.findall(
        r"^\s+/\*[0-9a-f]+\*/\s+(?:@\S+\s+)?([A-Z0-9]+)", sass.stdout, re.MULTILINE
    )
    (stack,) = re.findall(r"STACK:(\d+)", usage.stdout)
    return {"opcodes": collections.Counter(opcodes), "stack": int(stack)}


if __name__ == "__main__":
    print(json.dumps({name: compiled(*how) for name, how in kernels().items()}))

"""Assumed rates of a GPU, for estimates without one; nothing is measured on it.

Ceilings come from the vendor's data sheet; shares of them, and what a launch takes, from the
disassembly of the kernels and from counting; each figure says which.  No torch here.
"""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Figure:
    """A number with its unit and where it comes from."""

    value: float
    unit: str
    source: str


@dataclass(frozen=True)
class Assumed:
    """A GPU, and the machine around it.

    Attributes:
        name: that it is asked for by.
        title: name of the device for readers.
        memory: of the GPU, that is free.
        fp32, tf32, bf16, fp64: products of matrices, at their best.
        float32_share, tensor_share: of that best, in products as small as a sweep's.
        gram: per-sample Gram matrices, by the kernels of this package.
        copy: memory to memory.
        copy_share: of that, in long element-wise passes.
        langevin: bytes that a Langevin step moves.
        kernel: least time of a kernel on the device, one after the other in a graph.
        launch: of a kernel from Python, with the views around it.
        capture: of work as a graph, for each of its kernels.
        spectrum: of tridiagonalising a matrix of 200, as many at once as there are multiprocessors.
        multiprocessors: of the GPU.
        cores: of the CPU; every run launches kernels from one.
        solve: of a factorisation or a solve with several right-hand sides, one matrix each.
        draw: of a training batch, on the CPU.
        normal, sign: of a random number, on the CPU.
        transfer: between the CPU's pageable memory and the GPU.
        hashing: of weights, on the CPU, with their copy there.
        disk: writing states, hashes included.
        start: of a process until its first step.
    """

    name: str
    title: str
    memory: Figure
    fp32: Figure
    tf32: Figure
    bf16: Figure
    fp64: Figure
    float32_share: Figure
    tensor_share: Figure
    gram: Figure
    copy: Figure
    copy_share: Figure
    langevin: Figure
    kernel: Figure
    launch: Figure
    capture: Figure
    spectrum: Figure
    multiprocessors: Figure
    cores: Figure
    solve: Figure
    draw: Figure
    normal: Figure
    sign: Figure
    transfer: Figure
    hashing: Figure
    disk: Figure
    start: Figure

    def products(self, precision: str) -> float:
        """Operations a second of products in a precision of training."""
        if precision == "fp32":
            return self.fp32.value * self.float32_share.value
        return getattr(self, precision).value * self.tensor_share.value

    @property
    def moving(self) -> float:
        """Bytes a second of long element-wise passes."""
        return self.copy.value * self.copy_share.value

    def figures(self) -> dict[str, Figure]:
        """All of them, by name."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in found.items() if isinstance(value, Figure)}


_SHEET = "ceiling of the device, by its data sheet"
_GUESS = "a guess"

ASSUMED = {
    "h200": Assumed(
        name="h200",
        title="NVIDIA H200",
        memory=Figure(139 * 2**30, "B", "of 141 GB, what a driver leaves"),
        fp32=Figure(67e12, "FLOP/s", _SHEET),
        tf32=Figure(495e12, "FLOP/s", _SHEET),
        bf16=Figure(780e12, "FLOP/s", "ceiling that is reached; the data sheet has 990"),
        fp64=Figure(57e12, "FLOP/s", "tensor cores, what is reached of the data sheet's 67"),
        float32_share=Figure(0.5, "", f"{_GUESS}: a product of 400 x 1024 fills 3 of 4 processors"),
        tensor_share=Figure(0.35, "", f"{_GUESS}: products this small wait for memory"),
        gram=Figure(80e12, "FLOP/s", "ghost and rank kernels, 60 to 110 by their disassembly"),
        copy=Figure(4.3e12, "B/s", "ceiling that is reached; the data sheet has 4.8"),
        copy_share=Figure(0.8, "", f"{_GUESS}: kernels of three and more streams"),
        langevin=Figure(32.0, "B", "a parameter: 24 by the SGLD kernel, 8 to gather a gradient"),
        kernel=Figure(2.4e-6, "s", "a nano training step of 167 kernels is some 0.4 ms in a graph"),
        launch=Figure(19e-6, "s", "the same step and its 240 views take 2.5 to 4 ms from Python"),
        capture=Figure(0.1e-3, "s", "15 to 50 ms for products of 160 to 500 kernels"),
        spectrum=Figure(
            0.55e-3, "s", "0.5 to 0.6 ms by the kernel's disassembly before its rework"
        ),
        multiprocessors=Figure(132, "", _SHEET),
        cores=Figure(16, "", f"{_GUESS}: what is let with one GPU"),
        solve=Figure(40e-6, "s", f"{_GUESS}: cuSOLVER takes matrices one after the other"),
        draw=Figure(0.3e-3, "s", "168 examples took 0.2 ms on one core of an AMD EPYC"),
        normal=Figure(6.5e-9, "s", "torch's generator, measured on the same core"),
        sign=Figure(4.3e-9, "s", "torch's generator, measured on the same core"),
        transfer=Figure(6e9, "B/s", f"{_GUESS}: a fifth of what PCIe 5 has, memory being pageable"),
        hashing=Figure(1e9, "B/s", "SHA-256 1.5 GB/s on the same core, and the copy"),
        disk=Figure(4e8, "B/s", "as a sweep's states were written to a local disk"),
        start=Figure(20.0, "s", f"{_GUESS}: torch, the CUDA context, Triton's first compiles"),
    ),
}

"""Peak memory of one call in a process of its own, as one line of JSON.

    python -m bench.gradient_memory CALL SCALE SAMPLES LENGTH [DEVICE]

CALL is one of those in `main`. What an earlier call left in the allocator would hide what a later
one takes: hence a process for each.
"""

import ctypes
import gc
import json
import platform
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from bench.stored_gradients import by_vmap, gram, next_token
from geomfast.estimators.gradients import gradient_gram
from geomfast.testbed.models.gpt import GPT
from geomfast.testbed.models.scales import SCALES

STATUS = Path("/proc/self/status")


def main(call: str, scale: str, samples: str, length: str, device: str = "cpu") -> None:
    """Builds the model and the batch, warms up, makes the call; prints what it took."""
    torch.set_num_threads(1)
    model = GPT(SCALES[scale], 0).to(device)
    generator = torch.Generator().manual_seed(0)
    shape = (int(samples), int(length))
    tokens = torch.randint(0, SCALES[scale].vocabulary, shape, generator=generator).to(device)
    calls: dict[str, Callable[[torch.Tensor], object]] = {
        "forward+backward": lambda x: next_token(model, x).sum().backward(),
        "gradient_gram": lambda x: gradient_gram(model, next_token, x, check=True),
        "gradient_gram unchecked": lambda x: gradient_gram(model, next_token, x, check=False),
        "vmap(grad), float64 gram": lambda x: gram(by_vmap(model, x)),
    }
    calls[call](tokens[:2])  # what is imported at first use
    calls["forward+backward"](tokens)
    model.zero_grad(set_to_none=True)
    before, peak = measured(lambda: calls[call](tokens), device)
    sizes = [p.numel() for p in model.parameters()]
    found = {"before": before, "peak": peak, "parameters": sum(sizes), "largest": max(sizes)}
    print(json.dumps(found))


def measured(call: Callable[[], object], device: str) -> tuple[int, int]:
    """Bytes in use just before the call, and at its peak."""
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return before, torch.cuda.max_memory_allocated()
    _give_back()
    if STATUS.exists():
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts over
        before = _status("VmRSS")
        call()
        return before, _status("VmHWM")
    before = _highest()  # elsewhere the peak so far stands in for what is in use
    call()
    return before, _highest()


def _status(name: str) -> int:
    (line,) = [x for x in STATUS.read_text().splitlines() if x.startswith(f"{name}:")]
    return 1024 * int(line.split()[1])


def _highest() -> int:
    unit = 1 if platform.system() == "Darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _give_back() -> None:
    """Returns what the warm-up freed to the system, where the C library can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Decides whether members train as one program or in turn. Does not import torch.

:func:`members_per_program` is the rule, and all of it: sweeps and populations ask it once for every
new group and keep the answer in ``settings.json``, so that what was begun is resumed alike.

A step of a small model is hundreds of operations that take longer to start than to do; stacked,
they are started once for all members.  Once a member's own products fill the processor, stacking
saves nothing.
"""

from __future__ import annotations

from geomfast.testbed.models.scales import Scale

STACK = ("auto", "always", "never")

#: Most of a program's bytes, by where it runs; a GPU has room for more.
_MOST_BYTES = {"cpu": 1 << 30, "cuda": 8 << 30}
# Floating-point operations of a member's step from which it fills the processor alone. Measured,
# members in one program against programs of one: on an Ice Lake with AVX-512 3.0 and 2.5 times
# faster at 9e7 and 2e8 (2x64 and 4x64, 64 members), 1.9 at 3.5e8 (2x128, 16) and 1.1 at 4.2e9
# (4x128, 8); on a Zen 3 with torch's attention and norms 1.16 at 2.8e9 (2x256, 4).
# Programs that fit into a cache are no faster: on that Zen 3, 64 members of 2x64 took 217 ms a
# step in one, 255 in four and 351 in sixteen, of 2x32 110, 142 and 251.
#
# On a GPU not yet measured: the 500 kernels of a step take 2.5 ms to launch at 5 us each, in which
# a large one does 1e11 operations in float32.
_ALONE = {"cpu": 3e9, "cuda": 1e11}
# Numbers kept for each token and block until the backward pass, in widths: by autograd; those
# written by hand keep half as many.
_KEPT = 40


def step_operations(scale: Scale, tokens: int) -> float:
    """Floating-point operations of a member's step, forward and backward."""
    return 6.0 * scale.parameters * tokens


def member_bytes(scale: Scale, tokens: int) -> int:
    """Bytes that a member of a program takes in training."""
    kept = _KEPT * scale.d_model * scale.layers * tokens + 6 * scale.vocabulary * tokens
    return 4 * (kept + 4 * scale.parameters)


def members_per_program(
    members: int,
    scale: Scale,
    tokens: int,
    device: str,
    stack: str = "auto",
    precision: str = "fp32",
) -> int:
    """Number of members trained as one program; 1 is one after the other.

    The rule: never another precision than float32, which stacked training has none of; with
    ``never``, none; with ``auto``, none where a member's step has so many operations that it fills
    the processor by itself (3e9 on a CPU, 1e11 on a GPU); else as many as fit into memory (1 GiB on
    a CPU, 8 GiB on a GPU).

    Args:
        members: there are.
        scale: of each.
        tokens: of a member's step, padding included.
        device: where they are trained.
        stack: ``auto`` for what is faster, ``always`` for as many as fit into memory, ``never`` for
            one after the other.
        precision: of the products, one of :data:`geomfast.testbed.training.settings.PRECISIONS`.

    Returns:
        From 1 to ``members``; programs are then of nearly equal size.

    Raises:
        ValueError: no such choice.
    """
    if stack not in STACK:
        raise ValueError(f"stack must be one of {', '.join(STACK)}, not {stack!r}")
    kind = device.partition(":")[0]
    alone = step_operations(scale, tokens) > _ALONE.get(kind, _ALONE["cuda"])
    if stack == "never" or precision != "fp32" or (stack == "auto" and alone):
        return 1
    fits = _MOST_BYTES.get(kind, _MOST_BYTES["cuda"]) // member_bytes(scale, tokens)
    programs = -(-members // max(1, min(members, fits)))
    return -(-members // programs)

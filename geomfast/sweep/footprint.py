"""Memory that a run takes at its peak, and what it leaves on the disk: by formulas, in bytes."""

from __future__ import annotations

import math
from collections.abc import Iterable

from geomfast.estimators.curvature.lanczos import BASIS_BYTES, HELD_BYTES
from geomfast.measures import Need, measures, needing, spec_of
from geomfast.measures.spec import OF_ACTIVATIONS, OF_ANSWERS
from geomfast.runs.estimate import PART_BYTES, PROCESS_BYTES, RECORD_BYTES
from geomfast.runs.states import KEPT_STATES
from geomfast.sweep.jobs import Job, StackedJob, missing
from geomfast.sweep.plan import settings_of
from geomfast.sweep.tensor_files import LARGEST_FILE
from geomfast.sweep.workload import batch_tokens, lengths, products
from geomfast.testbed.training.stacking import member_bytes

# Numbers kept for each token and block until the backward pass, in widths.
_KEPT = 18
# The same for products with a Hessian, beside attention's (geomfast/estimators/curvature/fused.py).
_KEPT_TWICE = 32


def state_bytes(job: Job) -> int:
    """Bytes of a resumable checkpoint: weights and both moments of AdamW."""
    return 12 * job.spec.model.parameters


def eigenvector_bytes(job: Job) -> int:
    """Bytes of the eigenvectors kept for the next search; 0 if they would be too large."""
    size = 4 * job.spec.model.parameters * len(job.spec.task_levels)
    return size if size <= LARGEST_FILE else 0


def searches(names: Iterable[str]) -> list[str]:
    """The measures that look for eigenvectors, which are kept for the next checkpoint."""
    return [name for name in needing(names, Need.CURVATURE) if spec_of(name).products is None]


def _kept_sets(names: Iterable[str]) -> int:
    """How many eigenvectors are kept of a task-level: those of searches, those of one measure."""
    return len({spec_of(name).vectors for name in searches(names)})


def _drawn(job: Job, name: str) -> int:
    """Random vectors of a measure of the Hessian that are held, as many as weights in float32."""
    spec, own = spec_of(name), settings_of(job.settings, name)
    if spec.products is None:
        return 1
    # Starts, or signs of one byte for all but the third of a trace's probes that is a basis.
    return own.probes if hasattr(own, "iterations") else math.ceil(own.probes * 2 / 3 / 4)


def memory_bytes(job: Job, measured: Iterable[set[str]]) -> int:
    """Peak bytes of the device in training and measuring.

    Args:
        job: the run.
        measured: names of measures, of every checkpoint.
    """
    scale, n, longest = job.spec.model, job.settings.samples, max(lengths(job))
    names = set().union(*measured)
    weights = 4 * scale.parameters

    def kept(tokens: float) -> float:
        return 4 * _KEPT * scale.d_model * scale.layers * tokens

    peaks = [weights + kept(batch_tokens(job))]
    if needing(names, *OF_ACTIVATIONS, *OF_ANSWERS):
        vectors = (scale.layers + 1) * len(job.spec.task_levels) * n
        peaks.append(vectors * scale.d_model * 12)  # as they are and in float64
    if needing(names, Need.GRADIENTS):
        peaks.append(kept(n * longest) + weights)
    if searched := needing(names, Need.CURVATURE):
        twice = _KEPT_TWICE * scale.d_model + 3 * scale.heads * longest
        most = max(products(job.settings, name) for name in searched)
        basis = min(BASIS_BYTES, weights * (most + 2))
        # Vectors to start from, those found and random ones wait on the CPU.
        waiting = 0
        if not job.device.startswith("cuda"):
            held = weights * sum(_drawn(job, name) for name in searched)
            sets = max(1, _kept_sets(searched))
            waiting = 2 * sets * eigenvector_bytes(job) + min(HELD_BYTES, held)
        peaks.append(4 * scale.layers * n * longest * twice + basis + waiting)
    for name in needing(names, Need.CHAINS):
        own = settings_of(job.settings, name)
        peaks.append(weights * (1 + 3 * own.chains) + own.chains * kept(own.batch_size * longest))
    # Weights and moments stay; so do the libraries.
    return round(PROCESS_BYTES + state_bytes(job) + max(peaks))


def group_bytes(group: StackedJob, member: int) -> int:
    """Peak bytes of the device for a group of runs.

    Args:
        group: which.
        member: what one of them takes alone. While members are measured one by one, the states of
            all stay where they are.
    """
    first = group.members[0]
    scale, tokens = first.spec.model, round(batch_tokens(first))
    program = group.members_per_program * member_bytes(scale, tokens)
    return member + len(group.members) * state_bytes(first) + program


def footprint(work: Job | StackedJob) -> int:
    """Bytes of a GPU that a run, or a group of runs, takes until it is done; 0 if it is done."""
    members = [(job, missing(job)) for job in work.members]
    left = [memory_bytes(job, lacking.values()) for job, lacking in members if lacking]
    if not left:
        return 0
    return max(left) if isinstance(work, Job) else group_bytes(work, max(left))


def disk_bytes(job: Job, measured: Iterable[set[str]], states: int) -> int:
    """Bytes of checkpoints and records in OUT during the run.

    Args:
        job: the run.
        measured: names of measures, of every checkpoint.
        states: that there have been when it is done.
    """
    parts = list(measured)
    levels = len(job.spec.task_levels)
    layers = (job.spec.model.layers + 1) * levels
    by_layer = [name for name in measures() if spec_of(name).per_layer]
    values = {name: layers + (len(spec_of(name).columns) - 1) * levels for name in by_layer}
    rows = sum(values.get(name, 6 * levels) for names in parts for name in names)
    searched = _kept_sets(set().union(*parts))
    weights = state_bytes(job) // 3 * len(parts) if job.keep == "all" else 0
    # One more of each than are kept stands there while it is written.
    states_kept = min(KEPT_STATES + 1, states) * state_bytes(job)
    return (
        states_kept
        + 3 * eigenvector_bytes(job) * searched
        + weights
        + (len(parts) * PART_BYTES + rows * RECORD_BYTES)
    )

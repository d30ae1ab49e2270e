"""All measures of a group at one checkpoint: one forward pass a length, one batch of spectra."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from geomfast.estimators.behaviour import judge
from geomfast.estimators.spectra import backend, rankme
from geomfast.files import fingerprint
from geomfast.models.stacked import StackedGPT
from geomfast.sweep.population.plan import (
    BEHAVIOUR,
    RANKME,
    PopulationSettings,
    diagnostic_settings,
    measure_settings,
    run_name,
)
from geomfast.sweep.rows import Row, layers
from geomfast.tasks.lengths import diagnostic_examples

#: Bytes of what a forward pass makes of all members, at about which samples are taken in parts.
_BYTES = 128 << 20


@dataclass(frozen=True)
class LengthProbe:
    """The fixed samples of one length.

    Attributes:
        length: of each.
        tokens: (N, T) ids of whole examples, on the device.
        starts: (N,) their first positions.
        answer_start: index of the first answer token.
        data: hash of the samples.
    """

    length: int
    tokens: Tensor
    starts: Tensor
    answer_start: int
    data: str


def length_probes(settings: PopulationSettings, device: torch.device) -> list[LengthProbe]:
    """The samples of every length that members are tested on."""
    made = []
    for length in settings.lengths:
        task, longest = settings.length_task, settings.longest
        drawn = diagnostic_examples(task, length, settings.samples, longest)
        tokens, starts = (torch.from_numpy(x).to(device) for x in (drawn.tokens, drawn.starts))
        data, _ = diagnostic_settings(settings, length)
        made.append(LengthProbe(length, tokens, starts, drawn.answer_start, data))
    return made


def observe(model: StackedGPT, probe: LengthProbe) -> tuple[Tensor, Tensor, Tensor]:
    """What the members do with the samples of a length.

    Returns:
        Activations (C, layers, N, d) at the position that predicts the first answer token; exact
        match (C, N), 0 or 1; and nats per answer token (C, N), float64 both.
    """
    scale, (samples, width) = model.scale, probe.tokens.shape
    # Numbers of 4 bytes made of a sample: states of every layer and a block's own; logits, judged
    # in float64.
    each = width * ((scale.layers + 14) * scale.d_model + 5 * scale.vocabulary)
    count = max(1, _BYTES // (4 * each * model.members))
    parts = [_observe(model, probe, slice(i, i + count)) for i in range(0, samples, count)]
    states, exact, nats = zip(*parts, strict=True)
    return torch.cat(states, 2), torch.cat(exact, 1), torch.cat(nats, 1)


@torch.no_grad()
def _observe(model: StackedGPT, probe: LengthProbe, which: slice) -> tuple[Tensor, Tensor, Tensor]:
    """The same of some of the samples."""
    tokens, starts = probe.tokens[which], probe.starts[which]
    shape = (len(tokens), tokens.shape[1] - 1)
    first = probe.answer_start - 1
    at = torch.arange(shape[0] * shape[1], device=tokens.device).view(shape)
    collected: list[Tensor] = []
    logits = model.forward_buckets(
        [tokens[:, :-1].expand(model.members, -1, -1)],
        [starts.expand(model.members, -1)],
        collected,
        at[:, first:].flatten(),
    )
    blocks = [x.unflatten(1, shape)[:, :, first] for x in collected[:-1]]
    final = collected[-1].unflatten(1, (shape[0], -1))[:, :, 0]  # normed only where it is read
    answers = tokens[:, probe.answer_start :].expand(model.members, -1, -1)
    exact, logprob = judge(logits.unflatten(1, (shape[0], -1)), answers)
    return torch.stack([*blocks, final], 1), exact, -logprob


def measure(
    model: StackedGPT,
    seeds: Sequence[int],
    probes: Sequence[LengthProbe],
    settings: PopulationSettings,
    left_out: Mapping[int, int],
) -> list[Row]:
    """Take all measures of the members of a program.

    Args:
        model: the members.
        seeds: of the members, in order.
        probes: of every length.
        settings: the population's.
        left_out: seeds of members that have failed.

    Returns:
        Rows of the records, but for step and tokens, of every member that has not failed.
    """
    begin = time.perf_counter()
    seen = [observe(model, probe) for probe in probes]
    kept = [i for i, seed in enumerate(seeds) if seed not in left_out]
    judged = time.perf_counter() - begin
    states = torch.stack([activations[kept] for activations, _, _ in seen])  # (lengths, C, ...)
    ranks = rankme(states).tolist() if kept else []
    spectra = time.perf_counter() - begin - judged
    hashes = [_weights_hash(row) for row in model.weights.detach().cpu()]
    behaviour, shape = (fingerprint(measure_settings(settings, m)) for m in (BEHAVIOUR, RANKME))
    names = layers(model.scale.layers + 1)
    count = max(1, len(kept) * len(probes))
    rows: list[Row] = []
    for at, (probe, (_, exact, nats)) in enumerate(zip(probes, seen, strict=True)):
        values = {
            name: (x.mean(1).tolist(), (x.std(1) / x.shape[1] ** 0.5).tolist())
            for name, x in (("accuracy", exact), ("answer_nats", nats))
        }
        for j, i in enumerate(kept):
            shared: dict[str, Any] = {
                "run": run_name(settings, model.scale.name, seeds[i]),
                "scale": model.scale.name,
                "seed": seeds[i],
                "task": settings.length_task.name,
                "level": probe.length,
                "n": len(probe.tokens),
                "weights": hashes[i],
                "data": probe.data,
                "device": str(probe.tokens.device),
            }
            for name, (means, errors) in values.items():
                rows.append(
                    {
                        **shared,
                        "layer": "",
                        "measure": name,
                        "value": means[i],
                        "stderr": errors[i],
                        "settings": behaviour,
                        "backend": "torch",
                        "seconds": judged / (2 * count),
                    }
                )
            for layer, value in zip(names, ranks[at][j], strict=True):
                rows.append(
                    {
                        **shared,
                        "layer": layer,
                        "measure": RANKME,
                        "value": value,
                        "stderr": float("nan"),
                        "settings": shape,
                        "backend": backend(states),
                        "seconds": spectra / (len(names) * count),
                    }
                )
    return rows


def _weights_hash(row: Tensor) -> str:
    """16 hexadecimal digits that name a member's weights."""
    return hashlib.sha256(row.numpy().tobytes()).hexdigest()[:16]

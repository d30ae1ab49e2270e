"""All measures of a group at one checkpoint: one forward pass a length, through the engine."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from geomfast.estimators.behaviour import judge
from geomfast.files import fingerprint
from geomfast.labels import layers
from geomfast.measures import engine, spec_of
from geomfast.measures.spec import BEHAVIOUR
from geomfast.measures.subject import Samples, Seen, Subject, Value
from geomfast.population.plan import (
    PopulationSettings,
    diagnostic_settings,
    measure_settings,
    run_name,
)
from geomfast.testbed.models.stacked import StackedGPT
from geomfast.testbed.tasks.lengths import diagnostic_examples

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
    """Activations and behaviour of the members on the samples of a length.

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
    """Activations and behaviour of the members on some of the samples."""
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


class Group(Subject):
    """Members of a program, and the samples of every length.

    Args:
        model: the members.
        kept: numbers of those that are measured.
        probes: of every length.
    """

    def __init__(self, model: StackedGPT, kept: Sequence[int], probes: Sequence[LengthProbe]):
        self.model, self.members = model, len(kept)
        self._kept, self._probes = list(kept), probes
        self.sets = [
            Samples({"level": probe.length, "n": len(probe.tokens), "data": probe.data})
            for probe in probes
        ]

    def observe(self) -> list[Seen]:
        """Activations, exact match and nats per answer token."""
        return [self._observe(probe) for probe in self._probes]

    def _observe(self, probe: LengthProbe) -> Seen:
        states, exact, nats = (x[self._kept] for x in observe(self.model, probe))
        behaviour = [
            Value(name, x.mean(1).tolist(), (x.std(1) / x.shape[1] ** 0.5).tolist())
            for name, x in (("accuracy", exact), ("answer_nats", nats))
        ]
        return Seen([(layers(states.shape[1]), states)], behaviour)


def measure(
    model: StackedGPT,
    seeds: Sequence[int],
    probes: Sequence[LengthProbe],
    settings: PopulationSettings,
    left_out: Mapping[int, int],
    names: Collection[str] | None = None,
) -> list[dict[str, Any]]:
    """Take measures of the members of a program.

    Args:
        model: the members.
        seeds: of the members, in order.
        probes: of every length.
        settings: the population's.
        left_out: seeds of members that have failed.
        names: of the measures, behaviour among them or not; all of the settings' without.

    Returns:
        Rows of the records, but for step and tokens, of every member that has not failed.
    """
    kept = [i for i, seed in enumerate(seeds) if seed not in left_out]
    if not kept:
        return []
    hashes = [_weights_hash(row) for row in model.weights.detach().cpu()]
    named = {of: fingerprint(measure_settings(settings, of)) for of in settings.taken}
    shared = {
        "scale": model.scale.name,
        "task": settings.length_task.name,
        "device": str(probes[0].tokens.device),
    }
    names = settings.taken if names is None else names
    wanted = {name: spec_of(name).settings() for name in settings.measures if name in names}
    rows: list[dict[str, Any]] = []
    for made in engine.measure(Group(model, kept, probes), wanted, behaviour=BEHAVIOUR in names):
        member = kept[made.pop("member")]
        del made["verdict"]
        of_member = {
            "run": run_name(settings, model.scale.name, seeds[member]),
            "seed": seeds[member],
            "weights": hashes[member],
            "settings": named[made.pop("of")],
        }
        rows.append(shared | made | of_member)
    return rows


def _weights_hash(row: Tensor) -> str:
    """16 hexadecimal digits that name a member's weights."""
    return hashlib.sha256(row.numpy().tobytes()).hexdigest()[:16]

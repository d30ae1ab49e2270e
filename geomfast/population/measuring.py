"""All measures of a group at one checkpoint: one forward pass a test set, through the engine."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geomfast.estimators.behaviour import judge
from geomfast.files import fingerprint
from geomfast.labels import layers
from geomfast.measures import engine, spec_of, subject
from geomfast.measures.spec import BEHAVIOUR
from geomfast.measures.subject import Samples, Subject, Value
from geomfast.population.plan import PopulationSettings, measure_settings, run_name
from geomfast.testbed.models.stacked import StackedGPT

#: Bytes of what a forward pass makes of all members, at about which samples are taken in parts.
_BYTES = 128 << 20


@dataclass(frozen=True)
class Part:
    """Samples of one shape, on the device.

    Attributes:
        tokens: (N, T) ids of whole examples.
        answer_start: index of the first answer token.
        starts: (N,) their first positions; None where all are 0.
    """

    tokens: Tensor
    answer_start: int
    starts: Tensor | None


@dataclass(frozen=True)
class Judged:
    """An outcome, see :class:`geomfast.population.test_sets.Outcome`.

    Attributes:
        named: what names it in a row.
        words: of every part places (N,) in the answers and ids (N,) that should stand there; None
            where whole answers are judged.
        states: whether activations are recorded with it.
    """

    named: Mapping[str, Any]
    words: Sequence[tuple[Tensor, Tensor]] | None
    states: bool


@dataclass(frozen=True)
class Probe:
    """The fixed samples of a test set, and what of them is judged."""

    parts: Sequence[Part]
    judged: Sequence[Judged]


class Seen(NamedTuple):
    """What a forward pass of C members over a probe shows.

    Attributes:
        states: activations (C, layers, N, d) where the first answer token is predicted.
        exact: of each outcome (C, N), 0 or 1, float64.
        nats: of each outcome (C, N) nats per token judged, float64.
    """

    states: Tensor
    exact: list[Tensor]
    nats: list[Tensor]


def probes_of(settings: PopulationSettings, device: torch.device) -> list[Probe]:
    """The samples of every test set."""

    def there(array: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(array).to(device)

    return [
        Probe(
            [
                Part(
                    there(part.tokens),
                    part.answer_start,
                    None if part.starts is None else there(part.starts),
                )
                for part in of.parts
            ],
            [
                Judged(
                    {
                        "task": outcome.task,
                        "level": outcome.level,
                        "n": sum(len(part.tokens) for part in of.parts),
                        "data": of.data(outcome),
                    },
                    None
                    if outcome.words is None
                    else [(there(word.places), there(word.ids)) for word in outcome.words],
                    outcome.states,
                )
                for outcome in of.outcomes
            ],
        )
        for of in settings.test_sets
    ]


def observe(model: StackedGPT, probe: Probe) -> Seen:
    """Activations and behaviour of the members on the samples of a test set."""
    found = []
    for number, part in enumerate(probe.parts):
        scale, (samples, width) = model.scale, part.tokens.shape
        # Numbers of 4 bytes made of a sample: states of every layer and a block's own; logits,
        # judged in float64.
        each = width * ((scale.layers + 14) * scale.d_model + 5 * scale.vocabulary)
        count = max(1, _BYTES // (4 * each * model.members))
        words = [None if one.words is None else one.words[number] for one in probe.judged]
        found += [
            _observe(model, part, words, slice(i, i + count)) for i in range(0, samples, count)
        ]
    states, exact, nats = zip(*found, strict=True)
    judged = [[torch.cat(of, 1) for of in zip(*each, strict=True)] for each in (exact, nats)]
    return Seen(torch.cat(states, 2), *judged)


@torch.no_grad()
def _observe(
    model: StackedGPT, part: Part, words: Sequence[tuple[Tensor, Tensor] | None], which: slice
) -> Seen:
    """Activations and behaviour of the members on some of the samples."""
    tokens = part.tokens[which]
    shape = (len(tokens), tokens.shape[1] - 1)
    first = part.answer_start - 1
    at = torch.arange(shape[0] * shape[1], device=tokens.device).view(shape)
    collected: list[Tensor] = []
    logits = model.forward_buckets(
        [tokens[:, :-1].expand(model.members, -1, -1)],
        None if part.starts is None else [part.starts[which].expand(model.members, -1)],
        collected,
        at[:, first:].flatten(),
    ).unflatten(1, (shape[0], -1))
    blocks = [x.unflatten(1, shape)[:, :, first] for x in collected[:-1]]
    final = collected[-1].unflatten(1, (shape[0], -1))[:, :, 0]  # normed only where it is read
    answers = tokens[:, part.answer_start :].expand(model.members, -1, -1)
    rows = torch.arange(shape[0], device=tokens.device)
    exact, nats = [], []
    for word in words:
        of, should = logits, answers
        if word is not None:
            places, ids = (x[which] for x in word)
            of, should = logits[:, rows, places, None], ids.expand(model.members, -1)[..., None]
        right, logprob = judge(of, should)
        exact.append(right)
        nats.append(-logprob)
    return Seen(torch.stack([*blocks, final], 1), exact, nats)


class Group(Subject):
    """Members of a program, and the samples of every test set.

    Args:
        model: the members.
        kept: numbers of those that are measured.
        probes: of every test set.
    """

    def __init__(self, model: StackedGPT, kept: Sequence[int], probes: Sequence[Probe]):
        self.model, self.members = model, len(kept)
        self._kept, self._probes = list(kept), probes
        self.sets = [Samples(judged.named) for probe in probes for judged in probe.judged]

    def observe(self) -> list[subject.Seen]:
        """Activations, and of every outcome exact match and nats per token judged."""
        return [one for probe in self._probes for one in self._observe(probe)]

    def _observe(self, probe: Probe) -> Iterator[subject.Seen]:
        seen = observe(self.model, probe)
        states = seen.states[self._kept]
        for judged, exact, nats in zip(probe.judged, seen.exact, seen.nats, strict=True):
            behaviour = [
                Value(name, x.mean(1).tolist(), (x.std(1) / x.shape[1] ** 0.5).tolist())
                for name, x in (("accuracy", exact[self._kept]), ("answer_nats", nats[self._kept]))
            ]
            shown = [(layers(states.shape[1]), states)] if judged.states else []
            yield subject.Seen(shown, behaviour)


def measure(
    model: StackedGPT,
    seeds: Sequence[int],
    probes: Sequence[Probe],
    settings: PopulationSettings,
    left_out: Mapping[int, int],
    names: Collection[str] | None = None,
) -> list[dict[str, Any]]:
    """Take measures of the members of a program.

    Args:
        model: the members.
        seeds: of the members, in order.
        probes: of every test set.
        settings: the point's.
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
        "device": str(model.weights.device),
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

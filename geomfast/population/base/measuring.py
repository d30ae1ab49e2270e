"""All measures of a program of members at one checkpoint, through the engine."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from geomfast.estimators.stopping import check_stop
from geomfast.files import fingerprint
from geomfast.labels import FINAL, block
from geomfast.measures import engine, spec_of
from geomfast.measures.spec import BEHAVIOUR
from geomfast.measures.subject import Samples, Seen, Subject, Value
from geomfast.population.base.plan import CHOICE_NATS, measure_settings, run_name
from geomfast.population.base.programs import Program

#: Bytes of what a pass makes of all members, at about which test rows are taken in parts.
_BYTES = 256 << 20


@dataclass(frozen=True)
class Observed:
    """What the members make of N test examples.

    Attributes:
        states: (C or 1, 2, N, d) output of the last block and normed state, at the position that
            predicts the first token of the right answer; 1 for members that have the same.
        right: (C, N) float64, 1 where the right choice has the largest log-likelihood.
        answer_nats: (C, N) float64, nats per token of the right answer.
        choice_nats: (C, N) float64, minus the log of its probability among the choices.
    """

    states: Tensor
    right: Tensor
    answer_nats: Tensor
    choice_nats: Tensor


def observe(program: Program) -> Observed:
    """One pass of all members over the test examples.

    A choice's log-likelihood is the sum over its tokens; of equal ones the first counts as chosen.
    """
    prepared, on = program.prepared, program.losses.device
    test, members = prepared.test, program.model.members
    logprobs = torch.zeros(members, sum(test.sizes), dtype=torch.float64, device=on)
    states: list[Tensor] = []
    for rows in _chunks(program):
        check_stop()
        last, final, logits = program.read(rows)
        row, place, token, number = _within(test.cells, rows).to(on).unbind(1)
        row = row - rows.start
        whole = logits.float().logsumexp(-1)  # once a place, whichever choices share it
        found = logits[:, row, place, token].double() - whole[:, row, place]
        logprobs.index_add_(1, number, found)
        row, place, _ = _within(test.firsts, rows).to(on).unbind(1)
        pair = [x[:, row - rows.start, place].float() for x in (last, final)]
        pair = [x.expand(max(map(len, pair)), -1, -1) for x in pair]
        states.append(torch.stack(pair, 1))
    # Back from the order of the rows to that of the examples.
    order = test.firsts[:, 2].argsort().to(on)
    right = torch.zeros(members, len(test.sizes), dtype=torch.float64, device="cpu")
    choice_nats, answer_nats = torch.zeros_like(right), torch.zeros_like(right)
    logprobs, sizes = logprobs.cpu(), torch.tensor(test.sizes, device="cpu")
    answers, counts = (torch.tensor(x, device="cpu") for x in (test.answers, test.counts))
    begins = sizes.cumsum(0) - sizes
    for size in set(test.sizes):  # those of as many choices together
        which = (sizes == size).nonzero()[:, 0]
        own = logprobs[:, begins[which, None] + torch.arange(size, device="cpu")]
        answer = answers[which].expand(members, -1)
        chosen = own.gather(2, answer[..., None])[..., 0]
        right[:, which] = (own.argmax(2) == answer).double()
        choice_nats[:, which] = own.logsumexp(2) - chosen
        answer_nats[:, which] = -chosen / counts[which]
    return Observed(torch.cat(states, 2)[:, :, order], right, answer_nats, choice_nats)


def _chunks(program: Program) -> Iterator[slice]:
    """Consecutive test rows whose pass takes about :data:`_BYTES`."""
    base, test = program.prepared.base, program.prepared.test
    places, lengths = test.at.shape[1], test.lengths.tolist()

    def count(longest: int) -> int:
        """Rows of so many tokens: logits at every place, states at every token."""
        numbers = places * 3 * base.vocabulary + base.tail * 40 * base.width * longest
        return max(1, _BYTES // (4 * numbers * program.model.members))

    first = 0
    while first < len(test):
        last = min(first + count(lengths[first]), len(test))
        last = min(first + count(lengths[last - 1]), last)  # filled up to the longest of them
        yield slice(first, last)
        first = last


def _within(table: Tensor, rows: slice) -> Tensor:
    """The entries of a table, by row, that belong to some rows."""
    first, last = (int((table[:, 0] < end).sum()) for end in (rows.start, rows.stop))
    return table[first:last]


@dataclass
class Tested(Subject):
    """Members of a program on the test examples, those of them that have not failed.

    Attributes:
        model: the program.
        kept: indices of the members.
        shared: whether the members' states are the same, so that one stands for all.
        seen: what :func:`observe` has found, once it has.
    """

    model: Program
    kept: Sequence[int]
    shared: bool = False
    seen: Observed | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        test = self.model.prepared.test
        named = {"level": 0, "n": len(test.answers), "data": test.data}
        self.sets = [Samples(named)]
        self.members = 1 if self.shared else len(self.kept)

    def observe(self) -> list[Seen]:
        """States of the last block and the final norm, accuracy and losses."""
        self.seen = self.seen or observe(self.model)
        seen, kept = self.seen, list(self.kept)
        alone = len(seen.states) == 1
        states = seen.states.expand(self.members, -1, -1, -1) if alone else seen.states[kept]
        labels = [block(self.model.prepared.base.layers), FINAL]
        named = {"accuracy": seen.right, "answer_nats": seen.answer_nats}
        named |= {CHOICE_NATS: seen.choice_nats}
        behaviour = [
            Value(name, x.mean(1).tolist(), (x.std(1) / x.shape[1] ** 0.5).tolist())
            for name, x in ((name, values[kept]) for name, values in named.items())
        ]
        return [Seen([(labels, states)], behaviour)]


def measure(
    program: Program, left_out: Mapping[int, int], names: Collection[str]
) -> list[dict[str, Any]]:
    """Take measures of the members of a program.

    Args:
        program: the members.
        left_out: seeds of members that have failed.
        names: of the measures, behaviour among them or not.

    Returns:
        Rows of the records, but for step and tokens, of every member that has not failed.
    """
    kept = [i for i, seed in enumerate(program.seeds) if seed not in left_out]
    if not kept:
        return []
    prepared = program.prepared
    settings, base = prepared.settings, prepared.base
    hashes = [_weights_hash(base.weights, row) for row in program.model.weights.detach().cpu()]
    shared = {"scale": base.name, "task": settings.task, "device": str(program.losses.device)}
    wanted = {name: spec_of(name).settings() for name in settings.measures if name in names}
    rows: list[dict[str, Any]] = []
    for made in _taken(program, kept, wanted, behaviour=BEHAVIOUR in names):
        member = kept[made.pop("member")]
        del made["verdict"]
        of_member = {
            "run": run_name(settings, base.name, program.seeds[member]),
            "seed": program.seeds[member],
            "weights": hashes[member],
            "settings": fingerprint(measure_settings(settings, made.pop("of"))),
        }
        rows.append(shared | made | of_member)
    return rows


def _taken(
    program: Program, kept: Sequence[int], wanted: Mapping[str, Any], *, behaviour: bool
) -> Iterator[dict[str, Any]]:
    """Rows of the engine; of states that all members share each measure is taken once."""
    group = Tested(program, kept)
    if behaviour:
        yield from engine.measure(group, {}, behaviour=True)
    if not wanted:
        return
    seen = group.seen or observe(program)
    if len(kept) == 1 or len(seen.states) > 1:
        yield from engine.measure(Tested(program, kept, seen=seen), wanted)
        return
    for made in engine.measure(Tested(program, kept, shared=True, seen=seen), wanted):
        for member in range(len(kept)):
            yield made | {"member": member, "seconds": made["seconds"] / len(kept)}


def _weights_hash(base: str, row: Tensor) -> str:
    """16 hexadecimal digits that name a member's weights: the base's and its own."""
    return hashlib.sha256(base.encode() + row.numpy().tobytes()).hexdigest()[:16]
